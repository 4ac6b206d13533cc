"""Data of tensors that lies in data files next to the model: found, checked, and copied to one file."""

from __future__ import annotations

import errno
import math
import os
from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import replace
from functools import cache
from io import BufferedReader
from itertools import pairwise
from pathlib import Path

import onnx
from onnx import ModelProto, TensorProto, helper
from onnx.external_data_helper import uses_external_data

from ..errors import ModelProblem
from ..system.staging import Sink
from . import datafiles, deferred
from .messages import all_tensors
from .storage import Deferred, Place, Storage
from .wire import DETACHED_FROM

COPY_LENGTH = 1 << 24
BITS = {"UINT4": 4, "INT4": 4, "FLOAT4E2M1": 4, "UINT2": 2, "INT2": 2}  # types of less than a byte, in bits
OFFSET_DIGITS = 40  # of a place in a file, at most
ALIGNMENT = 4096  # bytes: at such places data can be mapped into memory
DATA_HINT = "Keep data files next to the model."
ALLOW = f"{DATA_HINT} If you trust it, `bnfold fold --allow-external-outside` makes a copy with all data next to it."


def place(tensor: TensorProto, storage: Storage, outside: bool = False) -> Place:
    """Where the data of an external tensor lies. Raises ModelProblem where they cannot be read whole.

    That is in the model's folder, in a file of one name, unless it may be `outside`. Without a length, the data go to
    the end of the file.
    """
    entry = storage.entry(tensor)
    at = entry if isinstance(entry, Place) else _named(tensor, storage.folder, outside)
    state = _state(tensor, at)
    if not at.length and data_length(tensor):
        at = replace(at, length=max(0, state.st_size - at.offset))
    if at.offset + at.length > state.st_size:
        raise ModelProblem(
            f"{at.file} ends before the data of '{tensor.name}' does", "The data file is cut off; make it again."
        )
    require_length(tensor, at.length)
    return replace(at, inode=(state.st_dev, state.st_ino))


def _named(tensor: TensorProto, folder: Path, outside: bool) -> Place:
    """The place that a message names."""
    entries = _entries(tensor)
    location = entries.get("location", "")
    offset, length = (_number(tensor, entries.get(key, "0")) for key in ("offset", "length"))
    return Place(folder / location, offset, length, None if outside else folder, location)


def _state(tensor: TensorProto, at: Place) -> os.stat_result:
    """The state of a data file. Raises ModelProblem where it cannot be read, or may not be."""
    try:
        with at.open() as file:
            return os.fstat(file.fileno())
    except datafiles.LocationError as why:
        raise ModelProblem(f"'{tensor.name}' refers to {at.location[:200]!r}, {why}", ALLOW) from why
    except (OSError, ValueError) as why:  # also a name that the system refuses
        raise ModelProblem(f"the data of '{tensor.name}' cannot be read from {str(at.file)[:200]}", DATA_HINT) from why


def require_length(tensor: TensorProto, length: int) -> None:
    """Raises ModelProblem unless the data of a tensor, of `length` bytes, are what its type and shape need."""
    if not _bits(tensor.data_type):
        raise ModelProblem(
            f"'{tensor.name}' is of type {tensor.data_type}, which onnx {onnx.__version__} does not know",
            "Upgrade the onnx package, or export for an older version.",
        )
    if length != (needed := data_length(tensor)):
        raise ModelProblem(
            f"'{tensor.name}' holds {length} bytes of data; its type and shape need {needed}",
            "The file is damaged; make it again.",
        )


def _entries(tensor: TensorProto) -> dict[str, str]:
    """The entries of a tensor about its data; each key once, or readers would not agree."""
    entries = {entry.key: entry.value for entry in tensor.external_data}
    if len(entries) < len(tensor.external_data):
        raise ModelProblem(f"'{tensor.name}' says twice where its data lies", "Export the model again.")
    return entries


def _number(tensor: TensorProto, text: str) -> int:
    if not (text.isascii() and text.isdecimal() and len(text) <= OFFSET_DIGITS):
        what = "not a number" if len(text) <= OFFSET_DIGITS else "no place in a file"
        raise ModelProblem(f"'{tensor.name}' refers to its data by {text[:60]!r}, which is {what}", DATA_HINT)
    return int(text)


def data_length(tensor: TensorProto) -> int:
    """Bytes that the data of a tensor take by its type and shape; 0 if its type is unknown."""
    return int(-(-math.prod(tensor.dims) * _bits(tensor.data_type) // 8))


@cache
def _bits(kind: int) -> int:
    """Bits of one number of a type; 0 if there is no such type."""
    try:
        return BITS.get(TensorProto.DataType.Name(kind)) or 8 * helper.tensor_dtype_to_np_dtype(kind).itemsize
    except (KeyError, ValueError):
        return 0


def require_data(model: ModelProto, storage: Storage, outside: bool = False) -> None:
    """Raises ModelProblem unless the data of every external tensor are at their place, all of them, and as stated.

    Tensors may share their data; but data that overlap only partly are a mistake, or there to make a file of many times
    the size. A data file whose checksum is stated is read for it. What was found `outside` is then read there.
    """
    places = [(place(tensor, storage, outside), tensor) for tensor in filter(uses_external_data, all_tensors(model))]
    outer = [(at, tensor) for at, tensor in places if at.message is None]
    _require_apart(outer)
    stated = {(at.file, _entries(tensor).get("checksum")): at for at, tensor in outer}
    for (_, digest), at in stated.items():
        if digest is not None:
            _require_digest(at, digest)
    for at, tensor in outer if outside else ():
        _trust(tensor, at, storage)


def _require_apart(places: Iterable[tuple[Place, TensorProto]]) -> None:
    """Raises ModelProblem where data of tensors overlap but are not the same."""
    order = sorted((at.inode, at.offset, at.length, tensor.name, at.file) for at, tensor in places if at.length)
    for (first, start, length, one, file), (second, begin, more, other, _) in pairwise(order):
        if first == second and (start, length) != (begin, more) and start + length > begin:
            raise ModelProblem(
                f"the data of '{one}' and '{other}' overlap in {file}",
                "Tensors share all of their data or none; export the model again.",
            )


def _require_digest(at: Place, digest: str) -> None:
    """Raises ModelProblem unless a file has this SHA-1, as the specification of ONNX has it for `checksum`."""
    import hashlib

    with at.open() as stream:
        digest_read = hashlib.file_digest(stream, "sha1").hexdigest()
    if digest_read != digest.strip().lower():
        raise ModelProblem(
            f"{at.file} has the checksum {digest_read}; the model states {digest[:60]!r}",
            "The data file is damaged, or is that of another model.",
        )


def _trust(tensor: TensorProto, at: Place, storage: Storage) -> None:
    """Let a tensor be read from where its data is, wherever that is."""
    if at.length:
        storage.detach(tensor, replace(at, file=at.file.resolve(), folder=None, stamp=datafiles.stamp(at.file)))
    else:
        tensor.ClearField("external_data")
        tensor.ClearField("data_location")
        tensor.raw_data = b""


def data_files(model: ModelProto, folder: Path) -> set[Path]:
    """The data files of a model that are there."""
    entries = (entry for t in filter(uses_external_data, all_tensors(model)) for entry in t.external_data)
    paths = {folder / entry.value for entry in entries if entry.key == "location"}
    return set(filter(os.path.isfile, paths))


def bring_in(model: ModelProto, storage: Storage) -> None:
    """Let all data of a model go into its own file."""
    for tensor in filter(storage.belongs_outside, all_tensors(model)):
        if not isinstance(storage.entry(tensor), Deferred):
            _trust(tensor, place(tensor, storage), storage)


def needs_file(model: ModelProto, storage: Storage) -> bool:
    """Whether some data of a model go to a data file, because they came in one or replace what did."""
    return any(storage.belongs_outside(t) or (t.name in storage.outer and t.raw_data) for t in all_tensors(model))


def in_one_file(model: ModelProto, storage: Storage, target: Path, spill: bool = False) -> tuple[ModelProto, int]:
    """A copy of a model whose data files became one, `target`, with their bytes and those that are computed now.

    With `spill` also with the data of all large initializers. Also how many of the computed numbers became zero.
    """
    result, flushed = ModelProto(), 0
    result.CopyFrom(model)
    written: dict[Place, tuple[int, int]] = {}
    with Sink(target) as sink:
        for tensor in [*_outside(result, storage, spill)]:
            source = _source(tensor, storage)
            if isinstance(source, Place) and source in written:
                start, length = written[source]
            else:
                start, length, small = _append(source, sink)
                flushed += small
            if isinstance(source, Place):
                written[source] = start, length
            point(tensor, location=target.name, offset=str(start), length=str(length))
    return result, flushed


def _outside(model: ModelProto, storage: Storage, spill: bool) -> Iterator[TensorProto]:
    """The tensors whose data go to the data file: those that came in one, what is new; by `spill` what is large."""
    yield from filter(storage.belongs_outside, all_tensors(model))
    for tensor in model.graph.initializer:
        entry, length = storage.entry(tensor), len(tensor.raw_data)
        new = isinstance(entry, Deferred) or (length and not entry and tensor.name in storage.outer)
        if not storage.belongs_outside(tensor) and (new or (spill and (entry or length >= DETACHED_FROM))):
            yield tensor


def _source(tensor: TensorProto, storage: Storage) -> Place | Deferred | bytes:
    entry = storage.entry(tensor)
    if isinstance(entry, Deferred):
        return entry
    return place(tensor, storage) if uses_external_data(tensor) else tensor.raw_data


def point(tensor: TensorProto, **entries: str) -> None:
    """Say, as ONNX does, where the data of a tensor lies."""
    del tensor.external_data[:]
    tensor.ClearField("raw_data")
    tensor.data_location = TensorProto.EXTERNAL
    for key, value in entries.items():
        tensor.external_data.add(key=key, value=value)


def _append(source: Place | Deferred | bytes, sink: Sink) -> tuple[int, int, int]:
    """Write data, or compute them, at the next page of a file: where, how long, and how many numbers became zero."""
    sink.seek(-(-sink.tell() // ALIGNMENT) * ALIGNMENT)
    start, flushed = sink.tell(), 0
    if isinstance(source, Place):
        copy_range(source, sink)
    elif isinstance(source, bytes):
        sink.write(source)
    else:
        flushed = deferred.write_constant(source.constant, sink)
    return start, sink.tell() - start, flushed


def copy_range(source: Place, sink: Sink) -> None:
    """Copy a range of a file to where another one is being written: what is a hole in the file stays one."""
    place, end = sink.tell(), source.offset + source.length
    with source.open() as file:
        whole = os.fstat(file.fileno()).st_size >= end
        for start, stop in _filled(file.fileno(), source.offset, end) if whole else ():
            sink.seek(place + start - source.offset)
            whole = whole and _copied(file, start, stop, sink)
    if not whole:
        raise ModelProblem(f"{source.file} became shorter while it was read", "Fold it again when nobody writes to it.")
    if sink.tell() < place + source.length:
        sink.truncate(place + source.length)
        sink.seek(place + source.length)


def _filled(file: int, at: int, end: int) -> Iterator[tuple[int, int]]:
    """The parts of a range of a file that are not holes, where the system shows them: a hole takes no room."""
    while at < end:
        try:
            start = os.lseek(file, at, os.SEEK_DATA)
            stop = os.lseek(file, start, os.SEEK_HOLE)
        except (AttributeError, OSError) as why:
            start, stop = (end if getattr(why, "errno", None) == errno.ENXIO else at), end
        if start < end:
            yield start, min(stop, end)
        at = stop


def _copied(file: BufferedReader, at: int, stop: int, sink: Sink) -> bool:
    """Copy a range of a file, by the system if it can; whether it was there."""
    place = sink.tell() - at
    if hasattr(os, "copy_file_range"):
        sink.flush()  # and so at its place, also where that is past the end of the file
        with suppress(OSError):  # between file systems, say: what is left is copied here
            while at < stop and (
                done := os.copy_file_range(file.fileno(), sink.fileno(), min(stop - at, COPY_LENGTH), at)
            ):
                at += done
                sink.start_writeback()
        sink.seek(place + at)
    file.seek(at)
    while at < stop and (block := file.read(min(stop - at, COPY_LENGTH))):
        sink.write(block)
        at += len(block)
    return at == stop
