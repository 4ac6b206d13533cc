"""ONNX files: read with a clear word for everything that can be wrong, write whole or not at all."""

from __future__ import annotations

import mmap
import os
import re
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from os import PathLike
from pathlib import Path
from typing import BinaryIO

import onnx
from google.protobuf.message import DecodeError, EncodeError
from onnx import ModelProto

from . import external, wire
from .bounds import require_bounded
from .errors import EnvironmentProblem, ModelProblem
from .messages import all_tensors
from .promises import Promises

LIMIT = 1 << 31  # bytes, of a protobuf message
NOT_ONNX = "Give a binary ONNX file (.onnx), as torch.onnx.export or `bnfold export` writes it."


def load(path: str | PathLike[str], *, whole: bool = True) -> ModelProto:
    """Read a model; large tensors in external files stay there. Raises ModelProblem if it is no sound ONNX file.

    Unless the `whole` of it is wanted, large tensors stay in the model file, too: see `wire`.
    """
    where = Path(path)
    data = _read(where, whole)
    if not data:
        raise ModelProblem(f"{where} is empty", "Was the export or download interrupted? Make the file again.")
    model = ModelProto()
    try:
        model.ParseFromString(data)
    except DecodeError as problem:
        raise ModelProblem(f"{where} is not an ONNX model, or is cut off", NOT_ONNX) from problem
    _require_known(model, where)
    require_bounded(model, where)
    return model


def consumable(model: ModelProto | str | PathLike[str]) -> tuple[ModelProto, Path | None]:
    """A model that may be changed, read from its file or copied, and the folder of its data. Raises ModelProblem."""
    if not isinstance(model, ModelProto):
        return load(model), Path(model).parent
    require_bounded(model, "the model")
    copy = ModelProto()
    copy.CopyFrom(model)
    return copy, None


def _read(where: Path, whole: bool) -> bytes:
    try:
        with where.open("rb") as stream:
            return stream.read() if whole or not where.stat().st_size else _thin(stream, where.name)
    except FileNotFoundError as problem:
        raise ModelProblem(f"no model at {where}", "Paths are relative to the current directory.") from problem
    except IsADirectoryError as problem:
        raise ModelProblem(f"{where} is a directory, not a model", NOT_ONNX) from problem
    except OSError as problem:
        raise ModelProblem(
            f"{where} cannot be read: {problem.strerror}", "Check the permissions of the file."
        ) from problem


def _thin(stream: BinaryIO, name: str) -> bytes:
    """The bytes of a model without its large tensors; all of them where the file is of an unusual make."""
    with mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ) as held:
        try:
            return wire.thin(held, name, wire.stamp(stream.fileno()))
        except wire.Unreadable:
            return held[:]


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
    version, *others = {o.version: None for o in model.opset_import if o.domain in ("", "ai.onnx")} or {1: None}
    if others:
        raise ModelProblem(
            f"{where} imports ONNX's operators of opsets {version} and {others[0]}: which is meant is not said",
            "Repair the model or export it again.",
        )
    if not 1 <= version <= newest:
        raise ModelProblem(
            f"{where} uses opset {version}; onnx {onnx.__version__} knows opsets 1 to {newest}",
            "Upgrade the onnx package, or export for an older opset.",
        )


def save(
    model: ModelProto,
    path: str | PathLike[str],
    source_folder: str | PathLike[str] | None = None,
    promises: Promises | None = None,
) -> None:
    """Write a model whole or not at all: to a temporary file beside `path`, then renamed.

    Tensors in external files, which are looked for in `source_folder`, are copied to `NAME.data` beside the model, so
    that the result stands on its own. Raises EnvironmentProblem if the place cannot be written.
    """
    with staged(Path(path)) as draft:
        write(model, draft, Path(source_folder) if source_folder is not None else Path(path).parent, promises)


@contextmanager
def staged(target: Path, keep: bool = True, beside: bool = False) -> Iterator[Path]:
    """A place in a new folder beside `target`; when the block ends well, what was written there takes its place.

    The data file goes first, so that a model never stands without its data. Without `keep` nothing is left. A draft
    that refers to the data files of `target`'s own folder must itself be in it: `beside`.
    """
    try:
        folder = Path(tempfile.mkdtemp(dir=target.parent, prefix=f".{target.name}."))
    except OSError as problem:
        raise _unwritable(target, problem) from problem
    draft = folder.with_name(f"{folder.name}.onnx") if beside else folder / target.name
    try:
        yield draft
        for made, place in ((draft.with_name(data_name(draft)), target.with_name(data_name(target))), (draft, target)):
            if keep and made.exists():
                os.replace(made, place)
    except OSError as problem:
        raise _unwritable(target, problem) from problem
    finally:
        draft.unlink(missing_ok=True)
        shutil.rmtree(folder, ignore_errors=True)


def sweep(target: Path) -> None:
    """Remove what a process that was killed has left of `staged`."""
    ours = re.compile(rf"\.{re.escape(target.name)}\.[a-z0-9_]{{8}}(\.onnx)?")  # as tempfile names folders
    for left in target.parent.iterdir() if target.parent.is_dir() else ():
        if ours.fullmatch(left.name):
            shutil.rmtree(left, ignore_errors=True) if left.is_dir() else left.unlink(missing_ok=True)


def _unwritable(target: Path, problem: OSError) -> EnvironmentProblem:
    return EnvironmentProblem(
        f"{target} cannot be written: {problem.strerror or problem}",
        "Choose another place, or check permissions and free space.",
    )


def data_name(target: Path) -> str:
    """The file that holds the external data of a model that we write."""
    return f"{target.name}.data"


def write(
    model: ModelProto,
    draft: Path,
    source_folder: Path,
    promises: Promises | None = None,
    keep_external: bool = False,
) -> None:
    """Write a model, and beside it the external data that it refers to, flushed to the disk.

    Constants that it only promises are computed now. With `keep_external` the result refers to the data files of the
    source, and holds what is new itself.
    """
    promises = promises or Promises()
    if not keep_external and any(map(external.belongs_outside, all_tensors(model))):
        model = external.gathered(model, source_folder, draft.with_name(data_name(draft)), promises)
    try:
        pieces = wire.fat(model.SerializeToString(deterministic=True))
    except (ValueError, EncodeError):
        pieces = []
    if not 0 < sum(map(len, pieces)) < LIMIT:
        raise ModelProblem(
            f"{draft.name} would exceed the 2 GiB that one ONNX file may hold", "Export the model with external data."
        )
    with draft.open("wb") as stream:
        promised = [*_laid_out(pieces, stream, source_folder)]
        stream.flush()
        promises.keep_all(draft, promised)
        copied = {(piece.file, piece.stamp) for piece in pieces if isinstance(piece, wire.Range)}
        for file, stamp in copied | promises.read_from:
            external.require_unchanged(source_folder / file, stamp)
        external.flush(stream)


def _laid_out(pieces: list[wire.Piece], stream: BinaryIO, source_folder: Path) -> Iterator[tuple[int, int]]:
    """Write what there is already, and leave room for what is promised: which promise, and where."""
    for piece in pieces:
        if isinstance(piece, bytes):
            stream.write(piece)
        elif isinstance(piece, wire.Range):
            external.copy(external.Place(source_folder / piece.file, piece.start, len(piece)), stream)
        else:
            yield piece.number, stream.tell()
            stream.seek(len(piece), os.SEEK_CUR)


def copy(source: Path, draft: Path, keep_external: bool = False) -> None:
    """Copy a model byte for byte; one with external data is written anew, since its data must come along."""
    model = load(source, whole=False)
    if keep_external or not any(map(external.belongs_outside, all_tensors(model))):
        shutil.copyfile(source, draft)
    else:
        write(model, draft, source.parent)
