"""ONNX files: read with a clear word for everything that can be wrong, write whole or not at all."""

from __future__ import annotations

import os
from collections.abc import Iterator
from os import PathLike
from pathlib import Path
from shlex import quote
from typing import BinaryIO

from google.protobuf.message import EncodeError
from onnx import ModelProto

from ..errors import ModelProblem
from ..system.staging import Sink, data_name, staged
from . import datafiles, external, wire
from .bounds import require_bounded
from .messages import all_tensors
from .models import Model, given, parsed
from .promises import Promises

LIMIT = 1 << 31  # bytes, of a protobuf message


def load(model: Model, *, whole: bool = True) -> ModelProto:
    """Read a model, from a path or bytes, or convert one of onnx_ir or torch; a ModelProto is returned as it is.

    Large tensors in external files stay there. Unless the `whole` of it is wanted, large tensors stay in the model
    file, too: see `wire`. Raises ModelProblem if it is no sound ONNX model, TypeError if it is no model at all.
    """
    where = given(model)
    return parsed(_read(where, whole), where) if isinstance(where, Path) else where


def consumable(model: Model, *, whole: bool = True) -> tuple[ModelProto, Path | None]:
    """A model that may be changed, read from its file or copied, and the folder of its data. See `load`."""
    where = given(model)
    if isinstance(where, Path):
        return load(where, whole=whole), where.parent
    require_bounded(where, "the model")
    return (where if where is not model else copied(where)), None


def copied(model: ModelProto) -> ModelProto:
    """A message of its own."""
    copy = ModelProto()
    copy.CopyFrom(model)
    return copy


def _read(where: Path, whole: bool) -> bytes:
    try:
        with datafiles.opened(where) as stream:
            return stream.read() if whole or not where.stat().st_size else _thin(stream, where.name)
    except FileNotFoundError as problem:
        raise ModelProblem(f"no model at {where}", "Paths are relative to the current directory.") from problem
    except IsADirectoryError as problem:
        hint = f"Name the .onnx file in it; `bnfold fold {quote(str(where))} --out-dir folded` folds all of them."
        raise ModelProblem(f"{where} is a folder, not a model", hint) from problem
    except OSError as problem:
        raise ModelProblem(
            f"{where} cannot be read: {problem.strerror}", "Give a regular file that you may read."
        ) from problem


def _thin(stream: BinaryIO, name: str) -> bytes:
    """The bytes of a model without its large tensors; all of them where the file is of an unusual make."""
    try:
        return wire.thin(wire.Window(stream), name, wire.stamp(stream.fileno()))
    except wire.Unreadable:
        stream.seek(0)
        return stream.read()


def save(
    model: Model,
    path: str | PathLike[str],
    source_folder: str | PathLike[str] | None = None,
    promises: Promises | None = None,
) -> None:
    """Write a model whole or not at all: to a temporary file beside `path`, then renamed.

    `model` is what `load` takes. Tensors in external files, which are looked for in `source_folder` (default: the
    folder of a model that is a path, else that of `path`), are copied to `NAME.data` beside the model, so that the
    result stands on its own. Raises EnvironmentProblem if the place cannot be written.
    """
    beside = Path(model if isinstance(model, str | PathLike) else path).parent
    record = model if isinstance(model, ModelProto) else load(model, whole=False)
    with staged(Path(path)) as draft:
        write(record, draft, beside if source_folder is None else Path(source_folder), promises)


def write(
    model: ModelProto,
    draft: Path,
    source_folder: Path,
    promises: Promises | None = None,
    keep_external: bool = False,
) -> None:
    """Write a model, and beside it the external data that it refers to.

    Constants that it only promises are computed now. With `keep_external` the result refers to the data files of the
    source, and holds what is new itself.
    """
    promises = promises or Promises()
    if not keep_external and any(map(wire.belongs_outside, all_tensors(model))):
        model = external.gathered(model, source_folder, draft.with_name(data_name(draft)), promises)
    try:
        pieces = wire.fat(model.SerializeToString(deterministic=True))
    except (ValueError, EncodeError):
        pieces = []
    if not 0 < sum(map(len, pieces)) < LIMIT:
        raise ModelProblem(
            f"{draft.name} would exceed the 2 GiB that one ONNX file may hold", "Export the model with external data."
        )
    with Sink(draft) as stream:
        stream.reserve(sum(map(len, pieces)))
        promised = [*_laid_out(pieces, stream, source_folder)]
        stream.flush()
        promises.keep_all(draft, promised)
        copied = {(piece.file, piece.stamp) for piece in pieces if isinstance(piece, wire.Range)}
        for file, stamp in copied | promises.read_from:
            external.require_unchanged(source_folder / file, stamp)
        datafiles.require_unchanged()


def _laid_out(pieces: list[wire.Piece], stream: Sink, source_folder: Path) -> Iterator[tuple[int, int]]:
    """Write what there is already, and leave room for what is promised: which promise, and where."""
    for piece in pieces:
        if isinstance(piece, bytes):
            stream.write(piece)
        elif isinstance(piece, wire.Range):
            external.copy(external.Place(source_folder / piece.file, piece.start, len(piece)), stream)
        else:
            yield piece.number, stream.tell()
            stream.seek(len(piece), os.SEEK_CUR)


def copy(source: Path, draft: Path, keep_external: bool = False, outside: bool = False) -> None:
    """Copy a model byte for byte; one with external data is written anew, since its data must come along."""
    model = load(source, whole=False)
    external.require_data(model, source.parent, outside)
    if keep_external or not any(map(wire.belongs_outside, all_tensors(model))):
        with Sink(draft) as sink:
            external.copy(external.Place(source, 0, source.stat().st_size), sink)
        datafiles.require_unchanged()
    else:
        write(model, draft, source.parent)
