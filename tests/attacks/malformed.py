"""Files that a parser takes and that mean nothing sound. Each: how it is made, its exit code, its words."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from onnx import AttributeProto, ModelProto, TensorProto, TypeProto, ValueInfoProto, helper, numpy_helper

from tests.attacks.bombs import Row, followed_by, refused, survived
from tests.attacks.hostile import (  # fmt: skip
    WIDTH,
    Change,
    attribute,
    node,
    set_dims,
    set_values,
    sound,
    sparse,
    stored,
    written,
)

INF = float("inf")
UNKNOWN = b"\xba\x3e\x05hello"  # field 999 of any message


def opsets(*entries: tuple[str, int]) -> Change:
    def change(model: ModelProto) -> None:
        del model.opset_import[:]
        model.opset_import.extend(helper.make_opsetid(*entry) for entry in entries)

    return change


def entered_by(kind: TypeProto) -> Change:
    """One more input, which nobody reads."""
    return lambda model: model.graph.input.append(helper.make_value_info("z", kind))


def of_type(number: int) -> Change:
    return lambda model: setattr(model.graph.input[0].type.tensor_type, "elem_type", number)


def ill_typed(name: str, **fields: object) -> Change:
    """An attribute whose fields are not those of its type."""
    return lambda model: node(model, "conv").attribute.append(AttributeProto(name=name, **fields))


def data(name: str, **fields: object) -> Change:
    """An initializer with other fields for its data."""

    def change(model: ModelProto) -> None:
        tensor = stored(model, name)
        tensor.ClearField("raw_data")
        for key, value in fields.items():
            getattr(tensor, key).extend(value) if isinstance(value, list) else setattr(tensor, key, value)

    return change


def unread(**fields: object) -> Change:
    """One more initializer of 4 numbers, which nobody reads."""
    return lambda model: model.graph.initializer.append(TensorProto(name="z", data_type=1, dims=[4], **fields))


def shaped(name: str, *dims: int) -> Change:
    """An initializer of ones of another shape."""
    return lambda m: stored(m, name).CopyFrom(numpy_helper.from_array(np.ones(dims, np.float32), name))


def unknown_fields(folder: Path) -> Path:
    """Fields of tomorrow in every kind of message."""
    model = sound()
    for message in (
        model,
        model.graph,
        node(model, "conv"),
        node(model, "norm"),
        stored(model, "w"),
        stored(model, "g"),
    ):
        message.MergeFromString(UNKNOWN)
    return written(folder, model.SerializeToString())


def every(*changes: Change) -> Change:
    return lambda model: [change(model) for change in changes]


def statistics(variance: float, epsilon: float) -> Change:
    return every(set_values("v", [variance] * WIDTH), attribute("norm", "epsilon", f=epsilon, type=1))


def shadowed(model: ModelProto) -> None:
    """A function of the model's own called BatchNormalization, in the standard domain, that doubles its input."""
    double = helper.make_node("Add", ["x", "x"], ["o"])
    opset = [helper.make_opsetid("", 17)]
    model.functions.append(helper.make_function("", "BatchNormalization", ["x", *"gbmv"], ["o"], [double], opset))


def optional(kind: TypeProto) -> TypeProto:
    return helper.make_optional_type_proto(kind)


def both_ways(model: ModelProto) -> None:
    """The weight is an initializer and a sparse one."""
    other = sound()
    sparse([WIDTH, 3, 3, 3])(other)
    model.graph.sparse_initializer.extend(other.graph.sparse_initializer)


def varint(number: int, value: int) -> bytes:
    tag = number << 3
    return (bytes([tag & 127 | 128, tag >> 7]) if tag > 127 else bytes([tag])) + bytes([value])


def attribute_99(folder: Path) -> Path:
    """An attribute of a type that nobody knows."""
    model = sound()
    attribute("conv", "group", i=1)(model)
    node(model, "conv").attribute[0].MergeFromString(varint(20, 99))
    return written(folder, model.SerializeToString())


def location_99(folder: Path) -> Path:
    """Data at a place that nobody knows."""
    model = sound()
    stored(model, "w").MergeFromString(varint(14, 99))
    return written(folder, model.SerializeToString())


def rank_1() -> object:
    return helper.make_tensor_value_info("x", 1, [8]).type.tensor_type.shape


FLOATS = helper.make_tensor_type_proto(TensorProto.FLOAT, [1])
NO_ONNX = "is not valid ONNX"
ROWS: dict[str, Row] = {
    "two nodes of one name": survived(lambda m: setattr(node(m, "norm"), "name", "conv")),
    "no names": survived(lambda m: [n.ClearField("name") for n in m.graph.node]),
    "an initializer dense and sparse": refused(both_ways, "is not unique across initializers and sparse_initializers"),
    "an initializer that a node makes, too": refused(
        lambda m: m.graph.initializer.append(numpy_helper.from_array(np.ones(1, np.float32), "c")), "(SSA)"
    ),
    "an initializer without a name": refused(
        lambda m: m.graph.initializer.append(numpy_helper.from_array(np.ones(1, np.float32), "")),
        "Field 'name' of 'init'",
    ),
    "a value described twice": survived(
        lambda m: m.graph.value_info.extend([helper.make_tensor_value_info("c", t, ["a"]) for t in (1, 7)])
    ),
    "a value of another rank": survived(
        lambda m: m.graph.value_info.append(helper.make_tensor_value_info("c", 1, [1, 2]))
    ),
    "an output of another type": survived(lambda m: setattr(m.graph.output[0].type.tensor_type, "elem_type", 7)),
    "an output from nowhere": refused(
        lambda m: m.graph.output.append(helper.make_tensor_value_info("nowhere", 1, [1])),
        "is not an output of any node",
    ),
    "an attribute twice": refused(
        every(ill_typed("group", i=1, type=2), ill_typed("group", i=3, type=2)), "appeared multiple times"
    ),
    "an attribute nobody knows": refused(attribute("conv", "colour", i=1, type=2), "Unrecognized attribute: colour"),
    "an attribute of type 99": Row(attribute_99, 3, NO_ONNX),
    "an attribute with two values": refused(ill_typed("group", i=1, f=1.0, type=2), NO_ONNX),
    "an attribute with no value": refused(ill_typed("group", type=2), "is [0], not from 1 to"),
    "strings for strides": refused(ill_typed("strides", strings=[b"1", b"1"], type=8), "Mismatched attribute type"),
    "a tensor for a group": refused(
        ill_typed("group", t=numpy_helper.from_array(np.ones(1)), type=4), "Mismatched attribute type"
    ),
    "one stride for two axes": survived(attribute("conv", "strides", ints=[1], type=7)),
    "group 0": refused(attribute("conv", "group", i=0, type=2), "group of Conv 'conv' in"),
    "a negative group": refused(attribute("conv", "group", i=-1, type=2), "is [-1], not from 1 to"),
    "strides of 0": refused(attribute("conv", "strides", ints=[0, 0], type=7), "strides of Conv 'conv' in"),
    "a group that divides nothing": survived(attribute("conv", "group", i=3, type=2)),
    "another kernel than the weight's": survived(attribute("conv", "kernel_shape", ints=[5, 5], type=7)),
    "a Cast to nothing": refused(
        followed_by(helper.make_node("Cast", ["y"], ["q"])), "Required attribute 'to' is missing"
    ),
    "a Cast to type 99": survived(followed_by(helper.make_node("Cast", ["y"], ["q"], to=99))),
    "a Concat along nothing": refused(followed_by(helper.make_node("Concat", ["y"], ["q"])), "'axis' is missing"),
    "a Concat along axis 99": survived(followed_by(helper.make_node("Concat", ["y"], ["q"], axis=99))),
    "a Transpose of axes that are not there": survived(
        followed_by(helper.make_node("Transpose", ["y"], ["q"], perm=[7, 8]))
    ),
    "a Constant of nothing": survived(
        followed_by(helper.make_node("Constant", [], ["k"]), helper.make_node("Add", ["y", "k"], ["q"]))
    ),
    "an If of no branches": refused(followed_by(helper.make_node("If", ["b"], ["q"])), NO_ONNX),
    "statistics of rank 2": survived(every(*(shaped(name, WIDTH, 1) for name in "gbmv")), "nothing can be folded"),
    "statistics of rank 0": survived(every(*(shaped(name) for name in "gbmv")), "nothing can be folded"),
    "a weight of rank 1": survived(shaped("w", 4)),
    "a weight of rank 0": survived(shaped("w"), "nothing can be folded"),
    "an image of rank 1": survived(lambda m: m.graph.input[0].type.tensor_type.shape.CopyFrom(rank_1())),
    "statistics of 2 channels for 4": survived(every(*(set_values(name, [1, 2]) for name in "gbmv"))),
    "statistics of no channels": survived(every(*(set_values(name, []) for name in "gbmv"))),
    "a kernel of no taps": survived(set_dims("w", [WIDTH, 3, 0, 0], b"")),
    "a weight of no inputs": survived(set_dims("w", [WIDTH, 0, 3, 3], b"")),
    "an infinite epsilon": survived(attribute("norm", "epsilon", f=INF, type=1)),
    "variance and epsilon that cancel": survived(statistics(-0.5, 0.5)),
    "variance and epsilon below 0": survived(statistics(-1.0, 0.5)),
    "variance and epsilon of nothing": survived(statistics(0.0, 0.0)),
    "a variance that leaves the range": survived(statistics(1e-45, 0.0)),
    "values of another field": refused(data("g", int32_data=[1] * WIDTH), NO_ONNX),
    "values too few": refused(data("g", float_data=[1.0]), NO_ONNX),
    "values too many": refused(data("g", float_data=[1.0] * 9), "cannot reshape array of size 9 into shape (4,)"),
    "bytes too few": refused(data("g", raw_data=bytes(12)), NO_ONNX),
    "bytes too many, for nobody": refused(
        unread(raw_data=bytes(80)), "'z' holds 80 bytes of data; its type and shape need 16"
    ),
    "no values for a shape": refused(data("g"), NO_ONNX),
    "statistics of integers": survived(
        lambda m: stored(m, "v").CopyFrom(numpy_helper.from_array(np.ones(WIDTH, np.int64), "v"))
    ),
    "a weight of strings": survived(
        lambda m: stored(m, "w").CopyFrom(helper.make_tensor("w", TensorProto.STRING, [4, 3, 3, 3], [b"1"] * 108)),
        "nothing can be folded",
    ),
    "a weight of no type": refused(lambda m: setattr(stored(m, "w"), "data_type", 0), NO_ONNX),
    "data at a place of tomorrow": Row(location_99, 0),
    "an input of type 99": refused(of_type(99), "the graph cannot be read: KeyError: 99"),
    "an input of no element type": survived(of_type(0)),
    "fields of tomorrow": Row(unknown_fields, 0),
    "opset 0": refused(opsets(("", 0)), "uses opset 0"),
    "two opsets of one domain": refused(opsets(("", 17), ("", 9)), "of opsets 17 and 9: which is meant"),
    "one opset twice": survived(opsets(("", 17), ("", 17))),
    "two spellings of the domain": refused(opsets(("", 17), ("ai.onnx", 9)), "of opsets 17 and 9: which is meant"),
    "an opset of another domain alone": refused(opsets(("ai.onnx.ml", 3)), "No opset import for domain ''"),
    "a sequence for an input": survived(entered_by(helper.make_sequence_type_proto(FLOATS))),
    "an optional input": survived(entered_by(optional(FLOATS))),
    "an optional sequence": survived(entered_by(optional(helper.make_sequence_type_proto(FLOATS)))),
    "strings for an input": survived(entered_by(helper.make_tensor_type_proto(TensorProto.STRING, [1]))),
    "a map for an input": survived(entered_by(helper.make_map_type_proto(TensorProto.INT64, FLOATS))),
    "a sparse input": survived(entered_by(helper.make_sparse_tensor_type_proto(TensorProto.FLOAT, [1]))),
    "an input of no name": refused(
        lambda m: m.graph.input.append(ValueInfoProto(type=FLOATS)), "Field 'name' of 'value_info'"
    ),
    "a sequence where an image should be": survived(
        lambda m: m.graph.input[0].type.CopyFrom(helper.make_sequence_type_proto(FLOATS))
    ),
    "a negative axis length": survived(
        lambda m: m.graph.input[0].CopyFrom(helper.make_tensor_value_info("x", 1, [-5, 3, -8, 8]))
    ),
    "a function that stands in for BatchNormalization": survived(shadowed),
}
