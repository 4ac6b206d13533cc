"""The wire format of ONNX files, by which large tensors are neither read nor written: they stay where they are.

`thin` gives a model's bytes without the data of its large tensors, `fat` puts them back by copying ranges of the file.
In between each of them is an external tensor whose data lies in the model file itself: `offset` and `length` of its
data and, in `message`, where the whole message is; or, in `promise`, the number of one that is computed in the end. Its
`location` starts with what no file name does, and no file can know. See https://protobuf.dev/programming-guides/encoding.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from io import BufferedReader
from pathlib import Path
from typing import BinaryIO, overload

import onnx
from google.protobuf.descriptor import Descriptor
from onnx import TensorProto
from onnx.external_data_helper import uses_external_data

from . import datafiles

LARGE = 1 << 14  # bytes of data from which a tensor stays in the file
MARK = f"\0{os.urandom(8).hex()}:"  # starts what is found in no file
OUTSIDE = "outside"  # notes that the data of a new tensor belongs into the data file, as those of the old one did
VARINT, FIXED64, BYTES, START, END, FIXED32 = range(6)  # wire types
DEEPEST = 100  # messages within messages, as protobuf's own parser has it
WIDTH = {FIXED64: 8, FIXED32: 4}
SEEN = 1 << 15  # bytes of a file that are read at a time, to look at some
LONGEST = 5  # bytes of a key or a length, as protobuf's own parser has it


class Unreadable(Exception):
    """Not the wire format as it is commonly written; protobuf's own parser may still read it, or say what is wrong."""


class Window:
    """A file as bytes, which are read where they are asked for, and around there.

    Of a mapped file Linux counts whole megabytes around every byte as memory of the process.
    """

    def __init__(self, file: BinaryIO) -> None:
        self.file, self.length = file, os.fstat(file.fileno()).st_size
        self.start, self.seen = 0, b""

    def __len__(self) -> int:
        return self.length

    @overload
    def __getitem__(self, at: int) -> int: ...
    @overload
    def __getitem__(self, at: slice) -> bytes: ...
    def __getitem__(self, at: int | slice) -> int | bytes:
        if isinstance(at, slice):
            start, stop, _ = at.indices(self.length)
            return self._read(start, stop - start)
        if not 0 <= at - self.start < len(self.seen):
            self.start, self.seen = at, self._read(at, min(SEEN, self.length - at))
        return self.seen[at - self.start]

    def _read(self, start: int, length: int) -> bytes:
        self.file.seek(start)
        found = self.file.read(length)
        if len(found) < length:
            raise Unreadable("the file became shorter while it was read")
        return found


Buffer = bytes | Window


@dataclass(frozen=True)
class Range:
    """Bytes of a file, which is called so; `stamp` is what `stamp` said of it when it was read."""

    file: str
    start: int
    stop: int
    stamp: str = ""

    def __len__(self) -> int:
        return self.stop - self.start


@dataclass(frozen=True)
class Promise:
    """Bytes that are computed when they are written."""

    number: int
    length: int

    def __len__(self) -> int:
        return self.length


Piece = bytes | Range | Promise
Change = Callable[[Buffer, int, int], "list[Piece] | None"]  # of the message at this place; None leaves it as it is


def _holders() -> dict[str, dict[int, tuple[str, bool]]]:
    """For each kind of message that may hold a tensor: keys of the fields that do, their kind, whether they repeat."""
    kinds = ("ModelProto", "GraphProto", "NodeProto", "AttributeProto", "FunctionProto", "TensorProto")
    found = {}
    for kind in kinds[:-1]:
        described: Descriptor = getattr(onnx, kind).DESCRIPTOR
        fields = ((field, field.message_type) for field in described.fields if field.message_type)
        found[kind] = {f.number << 3 | BYTES: (inner.name, f.is_repeated) for f, inner in fields if inner.name in kinds}
    return found


HOLDERS = _holders()
_NUMBER = {field.name: field.number for field in TensorProto.DESCRIPTOR.fields}
_RAW = _NUMBER["raw_data"] << 3 | BYTES
_OTHER = {number for name, number in _NUMBER.items() if name.endswith(("_data", "_location"))} - {_NUMBER["raw_data"]}


def stamp(file: int | Path) -> str:
    """What is another once somebody has written to a file."""
    state = os.stat(file)
    return f"{state.st_size}:{state.st_mtime_ns}"


def thin(file: Buffer, name: str, stamp: str = "") -> bytes:
    """A model's bytes, its large tensors replaced by references to the file, which is called `name`."""
    change = _referring(name, stamp)
    pieces = rewritten(file, 0, len(file), "ModelProto", lambda start, stop: stop - start >= LARGE, change)
    return file[: len(file)] if pieces is None else b"".join(piece for piece in pieces if isinstance(piece, bytes))


def fat(model: bytes) -> list[Piece]:
    """The bytes of a model that was `thin`; what it refers to, as ranges of the file that it came from."""
    mark = MARK.encode()
    pieces = rewritten(model, 0, len(model), "ModelProto", lambda *span: model.find(mark, *span) >= 0, _restored)
    return [model] if pieces is None else pieces


def rewritten(
    buffer: Buffer,
    start: int,
    stop: int,
    kind: str,
    worth: Callable[[int, int], bool],
    change: Change,
    depth: int = 0,
) -> list[Piece] | None:
    """The message between two places with its tensors changed, also nested ones; None if that changes nothing.

    Only where it is `worth` the time. Raises Unreadable.
    """
    if depth > DEEPEST:
        raise Unreadable("messages are nested too deeply")
    pieces: list[Piece] = []
    kept, seen = start, set()
    for key, tag, body, end in fields(buffer, start, stop):
        inner, repeated = HOLDERS[kind].get(key, ("", False))
        if not inner:
            continue
        if key in seen and not repeated:
            raise Unreadable("a message is there in two parts")
        seen.add(key)
        if not worth(body, end):
            continue
        is_tensor = inner == "TensorProto"
        new = change(buffer, body, end) if is_tensor else rewritten(buffer, body, end, inner, worth, change, depth + 1)
        if new is not None:
            pieces += [buffer[kept:tag], head(key >> 3, sum(map(len, new))), *new]
            kept = end
    return [*pieces, buffer[kept:stop]] if pieces else None


def fields(buffer: Buffer, start: int, stop: int) -> Iterator[tuple[int, int, int, int]]:
    """Key (number and wire type), place, and begin and end of the content of every field of a message."""
    at = start
    while at < stop:
        tag = at
        key, at = varint(buffer, at, stop, LONGEST)
        body, at = _content(buffer, at, stop, key)
        yield key, tag, body, at


def _content(buffer: Buffer, at: int, stop: int, key: int, depth: int = 0) -> tuple[int, int]:
    """Begin and end of the content of the field whose key stands before `at`; the end of a group belongs to it."""
    wire, end = key & 7, stop + 1
    if wire == VARINT:
        _, end = varint(buffer, at, stop)
    elif wire == BYTES:
        length, at = varint(buffer, at, stop, LONGEST)
        end = at + length
    elif wire in WIDTH:
        end = at + WIDTH[wire]
    elif wire == START and depth < DEEPEST:
        end = _behind_group(buffer, at, stop, key - START + END, depth + 1)
    if end > stop:
        raise Unreadable("a field is cut off, or of no wire type")
    return at, end


def _behind_group(buffer: Buffer, at: int, stop: int, closing: int, depth: int) -> int:
    """The place behind the key that ends a group of fields."""
    while True:
        key, at = varint(buffer, at, stop, LONGEST)
        if key == closing:
            return at
        _, at = _content(buffer, at, stop, key, depth)


def varint(buffer: Buffer, at: int, stop: int, longest: int = 10) -> tuple[int, int]:
    """A number in groups of seven bits, and the place behind it."""
    value = shift = 0
    while at < stop and shift < 7 * longest:
        byte = buffer[at]
        value |= (byte & 0x7F) << shift
        at, shift = at + 1, shift + 7
        if byte < 0x80:
            return value, at
    raise Unreadable("a number is cut off, or too long")


def head(number: int, length: int) -> bytes:
    """What stands before the content of a field of bytes."""
    return _varint(number << 3 | BYTES) + _varint(length)


def _varint(value: int) -> bytes:
    found = bytearray()
    while value > 0x7F:
        found.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes([*found, value])


def _referring(name: str, stamp: str) -> Change:
    """Put a reference in the place of a tensor's data, if these are large and all that it has."""

    def change(buffer: Buffer, start: int, stop: int) -> list[Piece] | None:
        found = list(fields(buffer, start, stop))
        data = [entry for entry in found if entry[0] == _RAW]
        if len(data) != 1 or data[0][3] - data[0][2] < LARGE or any(entry[0] >> 3 in _OTHER for entry in found):
            return None
        _, tag, body, end = data[0]
        made, message = TensorProto(), f"{start}:{stop}"
        point(made, location=MARK + name, offset=str(body), length=str(end - body), message=message, stamp=stamp)
        return [buffer[start:tag], buffer[end:stop], made.SerializeToString()]

    return change


def _restored(buffer: Buffer, start: int, stop: int) -> list[Piece] | None:
    """A whole message of the file or, for a new one, the message around its promised data."""
    tensor = TensorProto.FromString(buffer[start:stop])
    entries = reference(tensor)
    if not entries:
        return None
    if "message" in entries:
        begin, behind = map(int, entries["message"].split(":"))
        return [Range(entries["location"].removeprefix(MARK), begin, behind, entries["stamp"])]
    tensor.ClearField("external_data")
    tensor.ClearField("data_location")
    tensor.raw_data = b""
    around = tensor.SerializeToString(deterministic=True)
    _, tag, _, end = next(entry for entry in fields(around, 0, len(around)) if entry[0] == _RAW)
    found = Promise(int(entries["promise"]), int(entries["length"]))
    return [around[:tag], head(_NUMBER["raw_data"], len(found)), found, around[end:]]


def promise(tensor: TensorProto, number: int, length: int, **more: str) -> None:
    """Let the data of a tensor be a promise, which `fat` finds again."""
    point(tensor, location=MARK, promise=str(number), length=str(length), **more)


def point(tensor: TensorProto, **entries: str) -> None:
    """Say where the data of a tensor lies."""
    del tensor.external_data[:]
    tensor.data_location = TensorProto.EXTERNAL
    for key, value in entries.items():
        tensor.external_data.add(key=key, value=value)


def reference(tensor: TensorProto) -> dict[str, str]:
    """Where in the model file the data of a tensor lies, if that is where it lies."""
    entries = {entry.key: entry.value for entry in tensor.external_data}
    return entries if entries.get("location", "").startswith(MARK) else {}


def belongs_outside(tensor: TensorProto) -> bool:
    """Its data lies in a data file of the model; or is new, and that of the tensor before it did."""
    return uses_external_data(tensor) and (not reference(tensor) or OUTSIDE in reference(tensor))


def opened(tensor: TensorProto, folder: Path) -> BufferedReader:
    """The model file, at the data of a tensor that lies there."""
    entries = reference(tensor)
    file = datafiles.opened(folder / entries["location"].removeprefix(MARK))
    file.seek(int(entries["offset"]))
    return file
