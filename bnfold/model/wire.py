"""The wire format of ONNX files, by which large tensors are neither read nor written: they stay where they are.

`detach` gives a model's bytes without the data of its large tensors, `attach` puts them back. In between each of them
has a handle in the place of its data, a number after a mark that no file can know. See `storage`, and
https://protobuf.dev/programming-guides/encoding.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import BinaryIO, Protocol, overload

import onnx
from google.protobuf.descriptor import Descriptor
from onnx import TensorProto

DETACHED_FROM = 1 << 14  # bytes of data from which a tensor stays in the file
MARK = b"\0bnfold:%b:" % os.urandom(16)  # starts a handle; no file can know it
VARINT, FIXED64, BYTES, START, END, FIXED32 = range(6)  # wire types
DEEPEST_MESSAGE = 100  # messages within messages, as protobuf's own parser has it
WIDTH = {FIXED64: 8, FIXED32: 4}
SEEN = 1 << 15  # bytes of a file that are read at a time, to look at some
LONGEST_VARINT = 5  # bytes of a key or a length, as protobuf's own parser has it


class Unreadable(Exception):
    """Not the wire format as it is commonly written; protobuf's own parser may still read it, or say what is wrong."""


class FileBytes:
    """A file as bytes, of which a range is read when it is used, together with bytes around it.

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
        data = self.file.read(length)
        if len(data) < length:
            raise Unreadable("the file became shorter while it was read")
        return data


Buffer = bytes | FileBytes


@dataclass(frozen=True)
class Span:
    """Where in a file a large tensor is: its whole message, and its data in it."""

    message: tuple[int, int]
    data: tuple[int, int]


class Sized(Protocol):
    """Anything that is written in the place of bytes."""

    @property
    def length(self) -> int:
        """How many bytes it takes."""


Part = bytes | Sized
Rewrite = Callable[[Buffer, int, int], "list[Part] | None"]  # of the message at this place; None leaves it as it is


def _holders() -> dict[str, dict[int, tuple[str, bool]]]:
    """For each kind of message that may hold a tensor: keys of the fields that do, their kind, whether they repeat."""
    kinds = ("ModelProto", "GraphProto", "NodeProto", "AttributeProto", "FunctionProto", "TensorProto")
    holders = {}
    for kind in kinds[:-1]:
        described: Descriptor = getattr(onnx, kind).DESCRIPTOR
        fields = ((field, field.message_type) for field in described.fields if field.message_type)
        holders[kind] = {
            f.number << 3 | BYTES: (inner.name, f.is_repeated) for f, inner in fields if inner.name in kinds
        }
    return holders


HOLDERS = _holders()
_NUMBER = {field.name: field.number for field in TensorProto.DESCRIPTOR.fields}
_RAW = _NUMBER["raw_data"] << 3 | BYTES
_OTHER = {number for name, number in _NUMBER.items() if name.endswith(("_data", "_location"))} - {_NUMBER["raw_data"]}


def detach(file: Buffer) -> tuple[bytes, list[Span]]:
    """A model's bytes with handles in the place of its large data, and where each of them was."""
    spans: list[Span] = []
    pieces = rewritten(
        file, 0, len(file), "ModelProto", lambda start, stop: stop - start >= DETACHED_FROM, _detaching(spans)
    )
    return file[: len(file)] if pieces is None else b"".join(p for p in pieces if isinstance(p, bytes)), spans


def attach(model: bytes, entry: Callable[[int], tuple[Sized, bool]]) -> list[Part]:
    """The bytes of a model in which tensors have handles.

    `entry` says for the number of each what belongs in its place, and whether that is a whole message or data only.
    """
    change = _attaching(entry)
    pieces = rewritten(model, 0, len(model), "ModelProto", lambda *span: model.find(MARK, *span) >= 0, change)
    return [model] if pieces is None else pieces


def part_length(piece: Part) -> int:
    """Bytes of a piece."""
    return len(piece) if isinstance(piece, bytes) else piece.length


def set_handle(tensor: TensorProto, number: int) -> None:
    """Let a tensor have a handle, and so no data."""
    tensor.data_location, tensor.raw_data = TensorProto.EXTERNAL, MARK + b"%d" % number


def handle_of(data: bytes) -> int | None:
    """The number in a handle; None for any other data."""
    return int(data.removeprefix(MARK)) if data.startswith(MARK) else None


def rewritten(
    buffer: Buffer,
    start: int,
    stop: int,
    kind: str,
    worth: Callable[[int, int], bool],
    change: Rewrite,
    depth: int = 0,
) -> list[Part] | None:
    """The message between two places with its tensors changed, also nested ones; None if that changes nothing.

    Only where it is `worth` the time. Raises Unreadable.
    """
    if depth > DEEPEST_MESSAGE:
        raise Unreadable("messages are nested too deeply")
    pieces: list[Part] = []
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
            pieces += [buffer[kept:tag], head(key >> 3, sum(map(part_length, new))), *new]
            kept = end
    return [*pieces, buffer[kept:stop]] if pieces else None


def fields(buffer: Buffer, start: int, stop: int) -> Iterator[tuple[int, int, int, int]]:
    """Key (number and wire type), place, and begin and end of the content of every field of a message."""
    at = start
    while at < stop:
        tag = at
        key, at = varint(buffer, at, stop, LONGEST_VARINT)
        body, at = _content(buffer, at, stop, key)
        yield key, tag, body, at


def _content(buffer: Buffer, at: int, stop: int, key: int, depth: int = 0) -> tuple[int, int]:
    """Begin and end of the content of the field whose key ends at `at`; a group includes the key that ends it."""
    wire, end = key & 7, stop + 1
    if wire == VARINT:
        _, end = varint(buffer, at, stop)
    elif wire == BYTES:
        length, at = varint(buffer, at, stop, LONGEST_VARINT)
        end = at + length
    elif wire in WIDTH:
        end = at + WIDTH[wire]
    elif wire == START and depth < DEEPEST_MESSAGE:
        end = _after_group(buffer, at, stop, key - START + END, depth + 1)
    if end > stop:
        raise Unreadable("a field is cut off, or of no wire type")
    return at, end


def _after_group(buffer: Buffer, at: int, stop: int, closing: int, depth: int) -> int:
    """The place after the key that ends a group of fields."""
    while True:
        key, at = varint(buffer, at, stop, LONGEST_VARINT)
        if key == closing:
            return at
        _, at = _content(buffer, at, stop, key, depth)


def varint(buffer: Buffer, at: int, stop: int, longest: int = 10) -> tuple[int, int]:
    """A number in groups of seven bits, and the place after it."""
    value = shift = 0
    while at < stop and shift < 7 * longest:
        byte = buffer[at]
        value |= (byte & 0x7F) << shift
        at, shift = at + 1, shift + 7
        if byte < 0x80:
            return value, at
    raise Unreadable("a number is cut off, or too long")


def head(number: int, length: int) -> bytes:
    """Key and length, which come before the content of a field of bytes."""
    return _varint(number << 3 | BYTES) + _varint(length)


def _varint(value: int) -> bytes:
    groups = bytearray()
    while value > 0x7F:
        groups.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes([*groups, value])


def _detaching(spans: list[Span]) -> Rewrite:
    """Put a handle in the place of a tensor's data, if these are large and all that it has; note where they were."""

    def change(buffer: Buffer, start: int, stop: int) -> list[Part] | None:
        entries = list(fields(buffer, start, stop))
        data = [entry for entry in entries if entry[0] == _RAW]
        is_plain = len(data) == 1 and not any(entry[0] >> 3 in _OTHER for entry in entries)
        if not is_plain or data[0][3] - data[0][2] < DETACHED_FROM:
            return None
        _, tag, body, end = data[0]
        made = TensorProto()
        set_handle(made, len(spans))
        spans.append(Span((start, stop), (body, end)))
        return [buffer[start:tag], buffer[end:stop], made.SerializeToString()]

    return change


def _attaching(entry: Callable[[int], tuple[Sized, bool]]) -> Rewrite:
    """Put a whole message, or data, in the place of a handle."""

    def change(buffer: Buffer, start: int, stop: int) -> list[Part] | None:
        tensor = TensorProto.FromString(buffer[start:stop])
        number = handle_of(tensor.raw_data)
        if number is None:
            return None
        stored, is_message = entry(number)
        if is_message:
            return [stored]
        tensor.ClearField("data_location")
        tensor.raw_data = b""
        around = tensor.SerializeToString(deterministic=True)
        _, tag, _, end = next(field for field in fields(around, 0, len(around)) if field[0] == _RAW)
        return [around[:tag], head(_NUMBER["raw_data"], stored.length), stored, around[end:]]

    return change
