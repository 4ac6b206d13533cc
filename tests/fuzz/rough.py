"""Rough changes: any field of any message, set to anything that protobuf can write."""

from __future__ import annotations

from collections.abc import Sequence
from random import Random
from typing import Any

from google.protobuf.descriptor import FieldDescriptor
from onnx import AttributeProto, ModelProto, TensorProto

from tests.fuzz.pick import ATTRIBUTES, NAMES, OPERATORS, REAL, WHOLE, Mutation, graph_of, message_of, names, tensors
from tests.fuzz.seeds import every


def clear(draw: Random, model: ModelProto, donor: ModelProto) -> None:
    message = message_of(draw, model)
    message.ClearField(draw.choice([field.name for field, _ in message.ListFields()]))


def repeated(draw: Random, model: ModelProto) -> Any:
    """A repeated field with something in it."""
    found = [(m, f) for m in every(model) for f, value in m.ListFields() if f.is_repeated and len(value)]
    message, field = draw.choice(found)
    return getattr(message, field.name)


def remove(draw: Random, model: ModelProto, donor: ModelProto) -> None:
    held = repeated(draw, model)
    del held[draw.randrange(len(held))]


def double(draw: Random, model: ModelProto, donor: ModelProto) -> None:
    held = repeated(draw, model)
    held.append(draw.choice(held))


def shuffle(draw: Random, model: ModelProto, donor: ModelProto) -> None:
    held = repeated(draw, model)
    copies = list(held)
    draw.shuffle(copies)
    made = [type(c).FromString(c.SerializeToString()) if hasattr(c, "DESCRIPTOR") else c for c in copies]
    del held[:]
    held.extend(made)


def put(draw: Random, model: ModelProto, donor: ModelProto) -> None:
    """Any field of any message, set or not, to anything."""
    message = message_of(draw, model)
    field = draw.choice(message.DESCRIPTOR.fields)
    if field.message_type:
        graft_into(draw, message, field, donor)
    elif field.is_repeated:
        held = getattr(message, field.name)
        value = scalar(draw, field, model)
        if held and draw.random() < 0.7:
            held[draw.randrange(len(held))] = value
        else:
            held.extend([value] * draw.choice((1, 2, 4, 70)))
    else:
        setattr(message, field.name, scalar(draw, field, model))


def scalar(draw: Random, field: Any, model: ModelProto) -> Any:
    if field.enum_type:
        return draw.choice(field.enum_type.values).number
    if field.cpp_type == FieldDescriptor.CPPTYPE_STRING:
        if field.type == FieldDescriptor.TYPE_BYTES:
            return draw.randbytes(draw.choice((0, 1, 3, 4, 16, 432)))
        return draw.choice(
            (draw.choice(NAMES), draw.choice(names(model)), draw.choice(OPERATORS), draw.choice(ATTRIBUTES))
        )
    return draw.choice(
        REAL if field.cpp_type in (FieldDescriptor.CPPTYPE_FLOAT, FieldDescriptor.CPPTYPE_DOUBLE) else WHOLE
    )


def graft_into(draw: Random, message: Any, field: Any, donor: ModelProto) -> None:
    """A message of the right kind, taken from another model."""
    found = [m for m in every(donor) if m.DESCRIPTOR.name == field.message_type.name]
    made = draw.choice(found) if found else field.message_type._concrete_class()
    held = getattr(message, field.name)
    held.append(made) if field.is_repeated else held.CopyFrom(made)


def graft(draw: Random, model: ModelProto, donor: ModelProto) -> None:
    """One message in the place of another of its kind."""
    message = message_of(draw, model)
    message.CopyFrom(draw.choice([m for m in every(donor) if m.DESCRIPTOR.name == message.DESCRIPTOR.name]))


def cut_data(draw: Random, model: ModelProto, donor: ModelProto) -> None:
    tensor = draw.choice(tensors(model))
    tensor.raw_data = draw.choice((tensor.raw_data[:-1], tensor.raw_data * 2, tensor.raw_data[:4], b""))


def refer(draw: Random, model: ModelProto, donor: ModelProto) -> None:
    """Data in a file: none, the model itself, one above."""
    tensor = draw.choice(tensors(model))
    tensor.data_location = TensorProto.EXTERNAL
    keys = ("location", "offset", "length", "checksum", "message", "stamp", "promise")
    for key in draw.sample(keys, draw.randint(0, 4)):
        value = draw.choice(
            ("m.onnx", "../m.onnx", "/dev/zero", "no.data", "0", "4", "-4", "99999999999999999999", "\0:m")
        )
        tensor.external_data.add(key=key, value=value)


def opset(draw: Random, model: ModelProto, donor: ModelProto) -> None:
    draw.choice(model.opset_import).version = draw.randint(1, 27)


def format_version(draw: Random, model: ModelProto, donor: ModelProto) -> None:
    model.ir_version = draw.randint(1, 14)


def nest(draw: Random, model: ModelProto, donor: ModelProto) -> None:
    """The graph of another model as the body of a node."""
    node = draw.choice(graph_of(draw, model).node)
    name = draw.choice(("then_branch", "else_branch", "body", "value"))
    node.attribute.append(AttributeProto(name=name, type=AttributeProto.GRAPH, g=donor.graph))


ROUGH: Sequence[Mutation] = (
    *(clear, remove, double, shuffle, put, put, put, graft, graft),
    *(cut_data, refer, opset, format_version, nest),
)
