"""ONNX files: read with a clear word for everything that can be wrong, write whole or not at all."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from os import PathLike
from pathlib import Path

import onnx
from google.protobuf.message import DecodeError, EncodeError
from onnx import ModelProto, TensorProto
from onnx.external_data_helper import ExternalDataInfo, uses_external_data

from .errors import EnvironmentProblem, ModelProblem
from .tensors import all_tensors

NOT_ONNX = "Give a binary ONNX file (.onnx), as torch.onnx.export or `bnfold export` writes it."


def load(path: str | PathLike[str]) -> ModelProto:
    """Read a model; large tensors in external files stay there. Raises ModelProblem if it is no sound ONNX file."""
    where = Path(path)
    data = _read(where)
    if not data:
        raise ModelProblem(f"{where} is empty", "Was the export or download interrupted? Make the file again.")
    model = ModelProto()
    try:
        model.ParseFromString(data)
    except DecodeError as problem:
        raise ModelProblem(f"{where} is not an ONNX model, or is cut off", NOT_ONNX) from problem
    _require_known(model, where)
    return model


def _read(where: Path) -> bytes:
    try:
        return where.read_bytes()
    except FileNotFoundError as problem:
        raise ModelProblem(f"no model at {where}", "Paths are relative to the current directory.") from problem
    except IsADirectoryError as problem:
        raise ModelProblem(f"{where} is a directory, not a model", NOT_ONNX) from problem
    except OSError as problem:
        raise ModelProblem(
            f"{where} cannot be read: {problem.strerror}", "Check the permissions of the file."
        ) from problem


def _require_known(model: ModelProto, where: Path) -> None:
    """Refuse what is no model, or is of a format or operator set that the installed onnx package does not know."""
    if not model.HasField("graph") or not model.opset_import or model.ir_version < 1:
        raise ModelProblem(f"{where} is not an ONNX model", NOT_ONNX)
    if model.ir_version > onnx.IR_VERSION:
        raise ModelProblem(
            f"{where} has IR version {model.ir_version}; onnx {onnx.__version__} knows those up to {onnx.IR_VERSION}",
            "Upgrade the onnx package, or export for an older version.",
        )
    newest = onnx.defs.onnx_opset_version()
    version = next((o.version for o in model.opset_import if o.domain in ("", "ai.onnx")), 1)
    if not 1 <= version <= newest:
        raise ModelProblem(
            f"{where} uses opset {version}; onnx {onnx.__version__} knows opsets 1 to {newest}",
            "Upgrade the onnx package, or export for an older opset.",
        )


def save(model: ModelProto, path: str | PathLike[str], source_folder: str | PathLike[str] | None = None) -> None:
    """Write a model whole or not at all: to a temporary file beside `path`, then renamed.

    Tensors in external files, which are looked for in `source_folder`, are copied to `NAME.data` beside the model, so
    that the result stands on its own. Raises EnvironmentProblem if the place cannot be written.
    """
    with staged(Path(path)) as draft:
        write(model, draft, Path(source_folder) if source_folder is not None else Path(path).parent)


@contextmanager
def staged(target: Path, keep: bool = True) -> Iterator[Path]:
    """A path in a new folder beside `target`; when the block ends well, what was written there takes its place.

    The data file goes first, so that a model never stands without its data. Without `keep` nothing is left.
    """
    try:
        folder = Path(tempfile.mkdtemp(dir=target.parent, prefix=f".{target.name}."))
    except OSError as problem:
        raise _unwritable(target, problem) from problem
    try:
        yield folder / target.name
        for name in (data_name(target), target.name):
            if keep and (folder / name).exists():
                os.replace(folder / name, target.parent / name)
    except OSError as problem:
        raise _unwritable(target, problem) from problem
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _unwritable(target: Path, problem: OSError) -> EnvironmentProblem:
    return EnvironmentProblem(
        f"{target} cannot be written: {problem.strerror or problem}",
        "Choose another place, or check permissions and free space.",
    )


def data_name(target: Path) -> str:
    """The file that holds the external data of a model that we write."""
    return f"{target.name}.data"


def write(model: ModelProto, draft: Path, source_folder: Path) -> None:
    """Write a model, and beside it the external data that it refers to, flushed to the disk."""
    if any(uses_external_data(t) for t in all_tensors(model)):
        model = _with_copied_data(model, draft, source_folder)
    try:
        data = model.SerializeToString(deterministic=True)
    except (ValueError, EncodeError) as problem:
        raise ModelProblem(
            f"{draft.name} would exceed the 2 GiB that one ONNX file may hold", "Export the model with external data."
        ) from problem
    with draft.open("wb") as stream:
        stream.write(data)
        stream.flush()
        os.fsync(stream.fileno())


def copy(source: Path, draft: Path) -> None:
    """Copy a model byte for byte; one with external data is written anew, since its data must come along."""
    model = load(source)
    if any(uses_external_data(t) for t in all_tensors(model)):
        write(model, draft, source.parent)
    else:
        shutil.copyfile(source, draft)


def _with_copied_data(model: ModelProto, draft: Path, source_folder: Path) -> ModelProto:
    """A copy of the model whose external tensors point into one new data file, to which their bytes were copied."""
    result = ModelProto()
    result.CopyFrom(model)
    location = data_name(draft)
    with (draft.parent / location).open("wb") as sink:
        for tensor in all_tensors(result):
            if uses_external_data(tensor):
                _copy_range(tensor, source_folder, sink, location)
        sink.flush()
        os.fsync(sink.fileno())
    return result


def _copy_range(tensor: TensorProto, source_folder: Path, sink, location: str) -> None:  # type: ignore[no-untyped-def]
    info = ExternalDataInfo(tensor)
    source = source_folder / info.location
    if not source.resolve().is_relative_to(source_folder.resolve()):
        raise ModelProblem(
            f"'{tensor.name}' refers to {info.location}, outside the model's folder",
            "Keep data files beside the model.",
        )
    try:
        with source.open("rb") as stream:
            stream.seek(info.offset or 0)
            length = info.length or source.stat().st_size - (info.offset or 0)
            offset = sink.tell()
            remaining = length
            while remaining and (block := stream.read(min(remaining, 1 << 24))):
                sink.write(block)
                remaining -= len(block)
    except OSError as problem:
        raise ModelProblem(
            f"the data of '{tensor.name}' cannot be read from {source}", "Keep data files beside the model."
        ) from problem
    if remaining:
        raise ModelProblem(
            f"{source} ends before the data of '{tensor.name}' does", "The data file is cut off; make it again."
        )
    del tensor.external_data[:]
    for key, value in (("location", location), ("offset", str(offset)), ("length", str(length))):
        tensor.external_data.add(key=key, value=value)
