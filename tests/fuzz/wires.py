"""Bytes that are nearly a model: the wire format written as no library writes it, or not at all.

A message is taken apart into its fields, on any level; some of them are changed; and what is around it is written anew
with the new lengths, so that a change deep inside is reached.
"""

from __future__ import annotations

from random import Random

import onnx

VARINT, FIXED64, BYTES, START, END, FIXED32 = range(6)
Field = tuple[int, int, bytes]  # number, wire type, content without its length
KINDS = {
    kind: {f.number: f.message_type.name for f in getattr(onnx, kind).DESCRIPTOR.fields if f.message_type}
    for kind in ("ModelProto", "GraphProto", "NodeProto", "AttributeProto", "FunctionProto", "TensorProto")
}


def varint(value: int, length: int = 0) -> bytes:
    """A number of at least `length` bytes; more than it needs are overlong."""
    made = bytearray()
    while value > 0x7F or len(made) + 1 < length:
        made.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes([*made, value])


def taken_apart(data: bytes) -> list[Field]:
    """The fields of a message that a library wrote."""
    found, at = [], 0
    while at < len(data):
        key, at = number(data, at)
        if key & 7 == VARINT:
            _, end = number(data, at)
        elif key & 7 == BYTES:
            length, at = number(data, at)
            end = at + length
        else:
            end = at + (8 if key & 7 == FIXED64 else 4)
        found.append((key >> 3, key & 7, data[at:end]))
        at = end
    return found


def number(data: bytes, at: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        value |= (data[at] & 0x7F) << shift
        at, shift = at + 1, shift + 7
        if data[at - 1] < 0x80:
            return value, at


def written(field: Field, tag: int = 0, head: int = 0, off: int = 0) -> bytes:
    """A field whose tag and length take at least so many bytes; its stated length may be `off`."""
    key, wire, content = field[0] << 3 | field[1], field[1], field[2]
    length = varint(max(0, len(content) + off), head) if wire == BYTES else b""
    return varint(key, tag) + length + content


def scrambled(draw: Random, data: bytes) -> bytes:
    """A serialized model with one to three changes of its bytes."""
    for _ in range(draw.choice((1, 1, 2, 3))):
        try:
            data = inside(draw, data, "ModelProto") if draw.random() < 0.85 else damaged(draw, data)
        except IndexError:  # no longer what a library wrote
            data = damaged(draw, data)
    return data


def damaged(draw: Random, data: bytes) -> bytes:
    """Bytes changed, cut off, or added, wherever."""
    at = draw.randrange(len(data) + 1)
    way = draw.randrange(5)
    if way == 0:
        return data[:at]
    if way == 1:
        return data + draw.randbytes(draw.randint(1, 12))
    if way == 2:
        return data[:at] + bytes([draw.choice((0, 1, 0x7F, 0x80, 0xFF, draw.randrange(256)))]) + data[at + 1 :]
    if way == 3:
        return data[:at] + data[at + draw.randint(1, 9) :]
    return data[:at] + draw.randbytes(draw.randint(1, 4)) + data[at:]


def inside(draw: Random, data: bytes, kind: str) -> bytes:
    """One message, this one or one that it holds, with a change among its fields."""
    fields = taken_apart(data)
    inner = [i for i, (n, wire, _) in enumerate(fields) if wire == BYTES and KINDS[kind].get(n) in KINDS]
    if inner and draw.random() < 0.75:
        place = draw.choice(inner)
        name, wire, content = fields[place]
        fields[place] = name, wire, inside(draw, content, KINDS[kind][name])
        return b"".join(map(written, fields))
    return changed(draw, fields, kind)


def changed(draw: Random, fields: list[Field], kind: str) -> bytes:
    parts = [written(field) for field in fields]
    place = draw.randrange(len(parts) + 1)
    way = draw.randrange(9)
    if way < 3 and fields:
        place = draw.randrange(len(parts))
        parts[place] = odd(draw, fields[place])
    elif way == 3 and fields:
        parts[place:place] = [draw.choice(parts)] * draw.choice((1, 1, 2))
    elif way == 4:
        draw.shuffle(parts)
    elif way == 5 and fields:
        del parts[draw.randrange(len(parts))]
    elif way == 6:
        parts.insert(place, stranger(draw, kind))
    elif way == 7 and fields:
        place = draw.randrange(len(parts))
        parts[place] = split(draw, fields[place])
    else:
        parts.insert(place, draw.choice(GARBAGE))
    return b"".join(parts)


def odd(draw: Random, field: Field) -> bytes:
    """A field with an overlong tag or length, a wrong length, another number or another wire type."""
    name, wire, content = field
    way = draw.randrange(6)
    if way == 0:
        return written(field, tag=draw.randint(2, 11))
    if way == 1:
        return written(field, head=draw.randint(2, 11))
    if way == 2:
        return written(field, off=draw.choice((-1, 1, 7, 2**31, 2**32, 2**63, 2**64)))
    if way == 3:
        return written((draw.choice((0, name + 1, 99, 2**29 - 1, 2**29, name + 2**29)), wire, content))
    if way == 4:
        return written((name, draw.choice((VARINT, FIXED64, START, END, FIXED32, 6, 7)), content))
    return b"".join(written((name, VARINT, content[i : i + 1])) for i in range(min(len(content), 9)))


def split(draw: Random, field: Field) -> bytes:
    """A message in two parts, which protobuf merges; or in none, some, or all of its parts twice."""
    name, wire, content = field
    if wire != BYTES:
        return written(field)
    try:
        parts = [written(each) for each in taken_apart(content)]
    except IndexError:
        parts = [content]
    cut = draw.randint(0, len(parts))
    halves = draw.choice(([parts[:cut], parts[cut:]], [parts, parts[cut:]], [parts[cut:], parts], [[], parts]))
    return b"".join(written((name, wire, b"".join(half))) for half in halves)


def stranger(draw: Random, kind: str) -> bytes:
    """A field that this kind of message does not have, or a group."""
    name = draw.choice((99, 2**29 - 1, *range(1, 26)))
    content = draw.randbytes(draw.choice((0, 1, 4, 20, 60)))
    field = draw.choice(
        ((name, BYTES, content), (name, VARINT, varint(draw.getrandbits(64))), (name, FIXED32, b"abcd"))
    )
    if draw.random() < 0.5:
        return written(field, tag=draw.choice((0, 0, 5)))
    inner = b"".join(written((draw.randint(1, 30), VARINT, b"\1")) for _ in range(draw.randint(0, 2)))
    closing = draw.choice((name, name, name, name + 1))
    return written((name, START, inner + draw.choice((b"", written(field))) + varint(closing << 3 | END)))


GARBAGE = (
    b"\0",
    b"\xff" * 10,
    b"\x0f",
    bytes(8),
    varint(2**32 | 0x3A, 6),
    varint(7 << 3 | BYTES) + varint(2**63),
    b"\x3b\x3c",
)
