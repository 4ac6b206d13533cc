"""ONNX files: read with a clear word for everything that can be wrong, write whole or not at all."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from os import PathLike
from pathlib import Path
from shlex import quote
from typing import BinaryIO

from google.protobuf.message import EncodeError
from onnx import ModelProto

from ..errors import ModelProblem, UsageProblem
from ..system import files
from ..system.staging import Sink, data_name, staged, sweep
from . import datafiles, deferred, external, wire
from .bounds import require_bounded
from .messages import all_tensors
from .models import Model, parsed, path_or_proto
from .storage import Computed, Deferred, Place, Storage

LAYOUTS = SINGLE, KEEP, INLINE = "single", "keep", "inline"  # where the data of a model with data files go
LIMIT = 1 << 31  # bytes, of a protobuf message


def load(model: Model) -> ModelProto:
    """Read a model, from a path or bytes, or convert one of onnx_ir or torch; a ModelProto is returned as it is.

    Large tensors in external files stay there. Raises ModelProblem if it is no sound ONNX model, TypeError if it is no
    model at all.
    """
    where = path_or_proto(model)
    return parsed(_read(where, _all), where) if isinstance(where, Path) else where


def detached(path: Path) -> tuple[ModelProto, Storage]:
    """A model whose large tensors stay in its file, and where they lie. Raises as `load` does."""
    storage = Storage(path.parent)
    model = parsed(_read(path, partial(_small, storage=storage, path=path)), path)
    storage.outer = {tensor.name for tensor in filter(storage.belongs_outside, all_tensors(model))}
    return model, storage


def consumable(model: Model, *, detach: bool = False) -> tuple[ModelProto, Storage]:
    """A model that may be changed, read from its file or copied, and where its data lies. See `load`."""
    where = path_or_proto(model)
    if isinstance(where, Path):
        return detached(where) if detach else (load(where), Storage(where.parent))
    require_bounded(where, "the model")
    return (where if where is not model else copied_model(where)), Storage()


def copied_model(model: ModelProto) -> ModelProto:
    """A copy of the message."""
    copy = ModelProto()
    copy.CopyFrom(model)
    return copy


def _read(where: Path, bytes_of: Callable[[BinaryIO], bytes]) -> bytes:
    try:
        with datafiles.open_regular(where) as stream:
            return bytes_of(stream)
    except FileNotFoundError as problem:
        raise ModelProblem(f"no model at {where}", "Paths are relative to the current directory.") from problem
    except IsADirectoryError as problem:
        hint = f"Name the .onnx file in it; `bnfold fold {quote(str(where))} --out-dir folded` folds all of them."
        raise ModelProblem(f"{where} is a folder, not a model", hint) from problem
    except OSError as problem:
        raise ModelProblem(
            f"{where} cannot be read: {problem.strerror}", "Give a regular file that you may read."
        ) from problem


def _all(stream: BinaryIO) -> bytes:
    return stream.read()


def _small(stream: BinaryIO, storage: Storage, path: Path) -> bytes:
    """The bytes of a model without the data of large tensors; all bytes where `wire` cannot read the file."""
    stamp = datafiles.stamp(stream.fileno())
    try:
        skeleton, spans = wire.detach(wire.FileBytes(stream))
    except wire.Unreadable:
        stream.seek(0)
        return stream.read()
    for span in spans:
        (start, stop), message = span.data, span.message
        storage.add(Place(path, start, stop - start, stamp=stamp, message=message))
    return skeleton


def save(model: Model, path: str | PathLike[str], source_folder: str | PathLike[str] | None = None) -> None:
    """Write a model whole or not at all: to a temporary file next to `path`, then renamed.

    `model` is what `load` takes. Tensors in external files, which are looked for in `source_folder` (default: the
    folder of a model that is a path, else that of `path`), are copied to `NAME.data` next to the model, so that the
    result stands on its own. Raises EnvironmentProblem if the place cannot be written.
    """
    if isinstance(model, str | PathLike):
        record, storage = detached(Path(model))
    else:
        record = model if isinstance(model, ModelProto) else load(model)
        storage = Storage(Path(path).parent)
    if source_folder is not None:
        storage.folder = Path(source_folder)
    save_record(record, storage, Path(path))


def save_record(record: ModelProto, storage: Storage, path: Path) -> None:
    """`save` of a record whose data lies where `storage` says."""
    with staged(path) as draft:
        write(record, storage, draft)


def require_free(record: ModelProto, source: Path, target: Path, force: bool, *read: Path) -> None:
    """Raises UsageProblem where no file can be written to `target`: it is a folder or a device, one of the files that
    are read, or there already and not to be replaced.

    What a killed process has left there is removed first.
    """
    files.require_target(target)
    sweep(target)
    inputs = {source: "the input itself"} | dict.fromkeys(read, "a file that is read")
    inputs = dict.fromkeys(external.data_files(record, source.parent), "a data file of the input") | inputs
    for path in (target, target.parent / data_name(target)):
        if os.path.isdir(path) or files.is_special(path):
            raise UsageProblem(
                f"{path} is {'a folder' if os.path.isdir(path) else 'not a regular file'}", "Name the file to write."
            )
        for file in filter(path.samefile, inputs) if os.path.exists(path) else ():
            raise UsageProblem(
                f"{path} is {inputs[file]}", "Choose another name for the output; inputs are never changed."
            )
        if os.path.lexists(path) and not force:
            raise UsageProblem(f"{path} exists", "--force replaces it.")


def write(model: ModelProto, storage: Storage, draft: Path, layout: str = SINGLE) -> int:
    """Write a model, and next to it the external data that it refers to; how many computed numbers became zero.

    By the `layout` single, the data files of a model become one, with what is new and large; likewise all large
    initializers of a model that one file could not hold. By keep, the result refers to the data files of the source,
    and holds what is new itself; by inline it holds everything.
    """
    if layout == INLINE:
        external.bring_in(model, storage)
    pieces, flushed = _pieces(model, storage), 0
    for spill in (False, True) if layout == SINGLE else ():
        if external.needs_file(model, storage) if not spill else not _fits(pieces):
            made, flushed = external.in_one_file(model, storage, draft.with_name(data_name(draft)), spill)
            pieces = _pieces(made, storage)
    if not _fits(pieces):
        raise ModelProblem(
            f"{draft.name} would exceed the 2 GiB that one ONNX file may hold",
            "Export the model with external data." if layout != INLINE else "Leave out --external inline.",
        )
    with Sink(draft) as stream:
        stream.reserve(sum(map(wire.part_length, pieces)))
        computed = [*_laid_out(pieces, stream)]
        stream.flush()
        flushed += deferred.write_all(draft, computed)
        for file, stamp in storage.files():
            datafiles.require_stamp(file, stamp)
        datafiles.require_unchanged()
    return flushed


def _fits(pieces: list[wire.Part]) -> bool:
    """Whether one file may hold them."""
    return 0 < sum(map(wire.part_length, pieces)) < LIMIT


def _pieces(model: ModelProto, storage: Storage) -> list[wire.Part]:
    """The parts of the file of a model; none if it is too large for protobuf."""

    def entry(number: int) -> tuple[Place | Deferred, bool]:
        place = storage[number]
        if isinstance(place, Deferred) or place.message is None:
            return place, False
        start, stop = place.message
        return replace(place, offset=start, length=stop - start), True

    try:
        return wire.attach(model.SerializeToString(deterministic=True), entry)
    except (ValueError, EncodeError):
        return []


def _laid_out(pieces: list[wire.Part], stream: Sink) -> Iterator[tuple[Computed, int]]:
    """Write what there is already, and leave room for what is computed: which constant, and where."""
    for piece in pieces:
        if isinstance(piece, bytes):
            stream.write(piece)
        elif isinstance(piece, Place):
            external.copy_range(piece, stream)
        elif isinstance(piece, Deferred):
            yield piece.constant, stream.tell()
            stream.seek(piece.length, os.SEEK_CUR)


def copy(source: Path, draft: Path, layout: str = SINGLE, outside: bool = False) -> None:
    """Copy a model byte for byte; one with external data is written anew, since its data must come along."""
    model, storage = detached(source)
    external.require_data(model, storage, outside)
    if layout == KEEP or not any(map(storage.belongs_outside, all_tensors(model))):
        with Sink(draft) as sink:
            external.copy_range(Place(source, 0, source.stat().st_size), sink)
        datafiles.require_unchanged()
    else:
        write(model, storage, draft, layout)
