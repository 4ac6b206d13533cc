"""Data of tensors that lies outside their messages: in data files beside the model, or in the model file itself."""

from __future__ import annotations

import errno
import math
import os
from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import cache
from io import BufferedReader
from itertools import pairwise
from pathlib import Path

import onnx
from onnx import ModelProto, TensorProto, helper
from onnx.external_data_helper import uses_external_data

from ..errors import ModelProblem
from ..system.staging import Sink
from . import datafiles, wire
from .messages import all_tensors
from .promises import Promises

BLOCK = 1 << 24
NARROW = {"UINT4": 4, "INT4": 4, "FLOAT4E2M1": 4, "UINT2": 2, "INT2": 2}  # types of less than a byte, in bits
DIGITS = 40  # of a place in a file, at most
PAGE = 4096  # bytes: at such places data can be mapped into memory
TOGETHER = "Keep data files beside the model."
ALLOW = f"{TOGETHER} If you trust it, `bnfold fold --allow-external-outside` makes a copy with all data beside it."


@dataclass(frozen=True)
class Place:
    """Where the data of a tensor lies: in a file within a `folder`, at `location`, or in one that may be anywhere."""

    file: Path
    offset: int = 0
    length: int = 0
    folder: Path | None = None
    location: str = ""
    inode: tuple[int, int] = (0, 0)

    def opened(self) -> BufferedReader:
        """The file. See `datafiles`."""
        if self.folder is None:
            return datafiles.opened(self.file)
        return datafiles.inside(self.folder, self.location)


def place(tensor: TensorProto, folder: Path, outside: bool = False) -> Place:
    """Where the data of an external tensor lies. Raises ModelProblem where they cannot, or not all of them.

    That is in the model's folder, in a file of one name, unless it may be `outside`. Without a length, the data go to
    the end of the file.
    """
    entries = _entries(tensor)
    location = entries.get("location", "").removeprefix(wire.MARK)
    offset, length = (_number(tensor, entries.get(key, "0")) for key in ("offset", "length"))
    at = Place(folder / location, offset, length, None if outside or wire.reference(tensor) else folder, location)
    state = _state(tensor, at)
    if not length and size(tensor):
        at = replace(at, length=max(0, state.st_size - offset))
    if offset + at.length > state.st_size:
        raise ModelProblem(
            f"{at.file} ends before the data of '{tensor.name}' does", "The data file is cut off; make it again."
        )
    require_length(tensor, at.length)
    return replace(at, inode=(state.st_dev, state.st_ino))


def _state(tensor: TensorProto, at: Place) -> os.stat_result:
    """That of a data file. Raises ModelProblem where it cannot be read, or may not be."""
    try:
        with at.opened() as file:
            return os.fstat(file.fileno())
    except datafiles.Elsewhere as why:
        raise ModelProblem(f"'{tensor.name}' refers to {at.location[:200]!r}, {why}", ALLOW) from why
    except (OSError, ValueError) as why:  # also a name that the system refuses
        raise ModelProblem(f"the data of '{tensor.name}' cannot be read from {str(at.file)[:200]}", TOGETHER) from why


def require_length(tensor: TensorProto, length: int) -> None:
    """Raises ModelProblem unless the data of a tensor, of `length` bytes, are what its type and shape need."""
    if not _bits(tensor.data_type):
        raise ModelProblem(
            f"'{tensor.name}' is of type {tensor.data_type}, which onnx {onnx.__version__} does not know",
            "Upgrade the onnx package, or export for an older version.",
        )
    if length != (needed := size(tensor)):
        raise ModelProblem(
            f"'{tensor.name}' holds {length} bytes of data; its type and shape need {needed}",
            "The file is damaged; make it again.",
        )


def _entries(tensor: TensorProto) -> dict[str, str]:
    """What a tensor says about its data: each thing once, or readers would not agree."""
    entries = {entry.key: entry.value for entry in tensor.external_data}
    if len(entries) < len(tensor.external_data):
        raise ModelProblem(f"'{tensor.name}' says twice where its data lies", "Export the model again.")
    return entries


def _number(tensor: TensorProto, text: str) -> int:
    if not (text.isascii() and text.isdecimal() and len(text) <= DIGITS):
        what = "not a number" if len(text) <= DIGITS else "no place in a file"
        raise ModelProblem(f"'{tensor.name}' refers to its data by {text[:60]!r}, which is {what}", TOGETHER)
    return int(text)


def size(tensor: TensorProto) -> int:
    """Bytes that the data of a tensor take by its type and shape; 0 if its type is unknown."""
    return int(-(-math.prod(tensor.dims) * _bits(tensor.data_type) // 8))


@cache
def _bits(kind: int) -> int:
    """Of one number of a type; 0 if there is no such type."""
    try:
        return NARROW.get(TensorProto.DataType.Name(kind)) or 8 * helper.tensor_dtype_to_np_dtype(kind).itemsize
    except (KeyError, ValueError):
        return 0


def require_data(model: ModelProto, folder: Path, outside: bool = False) -> None:
    """Raises ModelProblem unless the data of every external tensor are at their place, all of them, and as stated.

    Tensors may share their data; but data that overlap only partly are a mistake, or there to make a file of many times
    the size. A data file whose checksum is stated is read for it. What was found `outside` is then read there.
    """
    places = [(place(tensor, folder, outside), tensor) for tensor in filter(uses_external_data, all_tensors(model))]
    outer = [(at, tensor) for at, tensor in places if not wire.reference(tensor)]
    _require_apart(outer)
    stated = {(at.file, _entries(tensor).get("checksum")): at for at, tensor in outer}
    for (_, digest), at in stated.items():
        if digest is not None:
            _require_digest(at, digest)
    for at, tensor in outer if outside else ():
        _vouch(tensor, at)


def _require_apart(places: Iterable[tuple[Place, TensorProto]]) -> None:
    """Raises ModelProblem where data of tensors overlap but are not the same."""
    order = sorted((at.inode, at.offset, at.length, tensor.name, at.file) for at, tensor in places if at.length)
    for (first, start, length, one, file), (second, behind, more, other, _) in pairwise(order):
        if first == second and (start, length) != (behind, more) and start + length > behind:
            raise ModelProblem(
                f"the data of '{one}' and '{other}' overlap in {file}",
                "Tensors share all of their data or none; export the model again.",
            )


def _require_digest(at: Place, digest: str) -> None:
    """Raises ModelProblem unless a file has this SHA-1, as the specification of ONNX has it for `checksum`."""
    import hashlib

    with at.opened() as stream:
        found = hashlib.file_digest(stream, "sha1").hexdigest()
    if found != digest.strip().lower():
        raise ModelProblem(
            f"{at.file} has the checksum {found}; the model states {digest[:60]!r}",
            "The data file is damaged, or is that of another model.",
        )


def _vouch(tensor: TensorProto, at: Place) -> None:
    """From now on a tensor is read where its data was found, wherever that is."""
    stamp = wire.stamp(at.file)
    where = {"location": f"{wire.MARK}{at.file.resolve()}", "offset": str(at.offset), "length": str(at.length)}
    if at.length:
        wire.point(tensor, **where, stamp=stamp, **{wire.OUTSIDE: ""})
    else:
        tensor.ClearField("external_data")
        tensor.ClearField("data_location")
        tensor.raw_data = b""


def data_files(model: ModelProto, folder: Path) -> set[Path]:
    """The data files of a model that are there."""
    entries = (entry for t in filter(uses_external_data, all_tensors(model)) for entry in t.external_data)
    found = {folder / entry.value for entry in entries if entry.key == "location"}
    return set(filter(os.path.isfile, found))


def gathered(model: ModelProto, folder: Path, target: Path, promises: Promises) -> ModelProto:
    """A copy of a model whose data files became one, `target`, with their bytes and those that were promised."""
    result = ModelProto()
    result.CopyFrom(model)
    written: dict[Place | None, tuple[int, int]] = {}
    with Sink(target) as sink:
        for tensor in filter(wire.belongs_outside, all_tensors(result)):
            number = wire.reference(tensor).get("promise")
            source = place(tensor, folder) if number is None else None
            if source is None or source not in written:
                written[source] = _appended(source or int(number or 0), sink, promises)
            start, length = written[source]
            wire.point(tensor, location=target.name, offset=str(start), length=str(length))
    return result


def _appended(source: Place | int, sink: Sink, promises: Promises) -> tuple[int, int]:
    """Write what lies somewhere, or was promised, at the next page of a file: where that is, and how long."""
    sink.seek(-(-sink.tell() // PAGE) * PAGE)
    start = sink.tell()
    if isinstance(source, Place):
        copy(source, sink)
    else:
        promises.keep(source, sink)
    return start, sink.tell() - start


def copy(source: Place, sink: Sink) -> None:
    """Copy a range of a file to where another one is being written: what is a hole in the file stays one."""
    place, end = sink.tell(), source.offset + source.length
    with source.opened() as file:
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
    """The parts of a range of a file that are not holes, where the system tells: a file of any length takes no room."""
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
            while at < stop and (done := os.copy_file_range(file.fileno(), sink.fileno(), min(stop - at, BLOCK), at)):
                at += done
                sink.tell_disk()
        sink.seek(place + at)
    file.seek(at)
    while at < stop and (block := file.read(min(stop - at, BLOCK))):
        sink.write(block)
        at += len(block)
    return at == stop


def require_unchanged(file: Path, stamp: str) -> None:
    """Raises ModelProblem if somebody wrote to a file since it had this stamp."""
    if stamp and not (os.path.exists(file) and wire.stamp(file) == stamp):
        raise datafiles.changed(file)
