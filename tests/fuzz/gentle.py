"""Gentle changes, which leave most models valid, so that what they mean can be compared."""

from __future__ import annotations

import struct
from collections.abc import Sequence
from random import Random
from typing import Any

import ml_dtypes  # noqa: F401 (names its types to NumPy)
import numpy as np
import onnx
from google.protobuf.descriptor import FieldDescriptor
from onnx import ModelProto, NodeProto, TensorProto, helper, numpy_helper

from tests.fuzz.pick import ATTRIBUTES, NAMES, OPERATORS, REAL, WHOLE, Mutation, graph_of, names, tensors
from tests.fuzz.seeds import every

KINDS = ("float16", "float64", "bfloat16", "int8", "uint8", "int32", "int64", "bool", "float32")


def rewire(draw: Random, model: ModelProto, donor: ModelProto) -> None:
    """A node reads another tensor."""
    graph = graph_of(draw, model)
    node = draw.choice([n for n in graph.node if n.input])
    made = [name for n in graph.node for name in n.output] + [v.name if hasattr(v, "name") else v for v in graph.input]
    stored = [t.name for t in getattr(graph, "initializer", ())]
    node.input[draw.randrange(len(node.input))] = draw.choice(draw.choice([pool for pool in (made, stored) if pool]))


def return_more(draw: Random, model: ModelProto, donor: ModelProto) -> None:
    """What a node makes is an output as well."""
    node = draw.choice(model.graph.node)
    model.graph.output.append(helper.make_tensor_value_info(draw.choice(node.output), TensorProto.FLOAT, None))


def reoperate(draw: Random, model: ModelProto, donor: ModelProto) -> None:
    draw.choice(graph_of(draw, model).node).op_type = draw.choice(OPERATORS)


def insert(draw: Random, model: ModelProto, donor: ModelProto) -> None:
    """One more node between a node and a tensor that it reads."""
    graph = graph_of(draw, model)
    place = draw.randrange(len(graph.node))
    node = graph.node[place]
    index, made = draw.randrange(len(node.input)), f"made{draw.randrange(10**6)}"
    old = node.input[index]
    operands = draw.choice(([old], [old], [old, old], [old, draw.choice(node.input)]))
    new = helper.make_node(draw.choice(OPERATORS), operands, [made], made)
    node.input[index] = made
    graph.node.insert(place, new)


def normalize(draw: Random, model: ModelProto, donor: ModelProto) -> None:
    """One more BatchNormalization, Mul or Add, with constants of a node of its kind."""
    kinds = ("BatchNormalization", "Mul", "Add", "Sub", "Div")
    graph = graph_of(draw, model)
    like = draw.choice([n for n in graph.node if n.op_type in kinds])
    place = draw.randrange(len(graph.node))
    node = graph.node[place]
    index, made = draw.randrange(len(node.input)), f"made{draw.randrange(10**6)}"
    new = NodeProto()
    new.CopyFrom(like)
    new.input[0], new.output[0], new.name = node.input[index], made, made
    node.input[index] = made
    graph.node.insert(place, new)


def setting(draw: Random, model: ModelProto, donor: ModelProto) -> None:
    """An attribute that an operator has, or another one, with a value of its type."""
    node = draw.choice(graph_of(draw, model).node)
    known = onnx.defs.get_schema(node.op_type).attributes if onnx.defs.has(node.op_type) else {}
    name = draw.choice(sorted(known) or ATTRIBUTES) if draw.random() < 0.9 else draw.choice(ATTRIBUTES)
    kept = [a for a in node.attribute if a.name != name]
    del node.attribute[:]
    node.attribute.extend(kept)
    kind = known[name].type if name in known else onnx.defs.OpSchema.AttrType.INT
    node.attribute.append(helper.make_attribute(name, of_kind(draw, str(kind).rpartition(".")[2])))


def of_kind(draw: Random, kind: str) -> Any:
    small = (0, 1, -1, 2, 3, -2)
    if kind == "INTS":
        return [draw.choice(small) for _ in range(draw.randint(1, 5))]
    if kind == "FLOAT":
        return float(draw.choice(REAL))
    if kind == "FLOATS":
        return [float(draw.choice(REAL)) for _ in range(draw.randint(1, 5))]
    if kind == "STRING":
        return draw.choice(
            ("", "SAME_UPPER", "SAME_LOWER", "VALID", "NOTSET", "linear", "nearest", "reflect", "edge", "CRD")
        )
    if kind == "TENSOR":
        return numpy_helper.from_array(np.full(draw.choice(((), (1,), (4,), (4, 1, 1))), draw.choice(REAL), np.float32))
    return int(draw.choice(small if draw.random() < 0.8 else WHOLE))


def rescale(draw: Random, model: ModelProto, donor: ModelProto) -> None:
    """Some numbers of a constant become special ones."""
    tensor = draw.choice(tensors(model))
    value = numpy_helper.to_array(tensor).copy()
    flat = value.reshape(-1)
    flat[draw.randrange(flat.size) if draw.random() < 0.5 else slice(None)] = draw.choice(REAL)
    tensor.CopyFrom(numpy_helper.from_array(value, tensor.name))


def recast(draw: Random, model: ModelProto, donor: ModelProto) -> None:
    """Constants of another type; now and then everything of it, inputs and outputs as well."""
    kind = np.dtype(draw.choice(KINDS))
    whole = draw.random() < 0.5
    single = [t for t in tensors(model) if t.data_type == TensorProto.FLOAT]
    for tensor in single if whole else [draw.choice(tensors(model))]:
        tensor.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(tensor).astype(kind), tensor.name))
    for message in every(model) if whole else ():
        if isinstance(message, onnx.TypeProto.Tensor) and message.elem_type == TensorProto.FLOAT:
            message.elem_type = helper.np_dtype_to_tensor_dtype(kind)


def reshape(draw: Random, model: ModelProto, donor: ModelProto) -> None:
    """A constant with its axes in another order, or one more or less, or some rows of it."""
    tensor = draw.choice(tensors(model))
    value = numpy_helper.to_array(tensor)
    axes = draw.sample(range(value.ndim), value.ndim)
    ways = (
        value.transpose(axes),
        value[None],
        value[..., None],
        value.reshape(-1),
        value[:1],
        value.squeeze(),
        value[:0],
    )
    tensor.CopyFrom(numpy_helper.from_array(np.ascontiguousarray(draw.choice(ways)), tensor.name))


def resize(draw: Random, model: ModelProto, donor: ModelProto) -> None:
    """An input or output of another stated shape."""
    value = draw.choice([*model.graph.input, *model.graph.output])
    kind = value.type.tensor_type
    if draw.random() < 0.2:
        kind.ClearField("shape")
        return
    dim = draw.choice(kind.shape.dim)
    dim.Clear()
    if draw.random() < 0.8:
        dim.dim_value = draw.choice((0, 1, 2, 3, 4, 5, 8))


def offer(draw: Random, model: ModelProto, donor: ModelProto) -> None:
    """An initializer is an input as well, or an output."""
    tensor = draw.choice(model.graph.initializer)
    info = helper.make_tensor_value_info(tensor.name, tensor.data_type, tensor.dims)
    draw.choice((model.graph.input, model.graph.output)).append(info)


def unpack(draw: Random, model: ModelProto, donor: ModelProto) -> None:
    """The numbers of a constant in their typed field, not as raw bytes."""
    tensor = draw.choice([t for t in tensors(model) if t.data_type == TensorProto.FLOAT and t.HasField("raw_data")])
    tensor.float_data.extend(struct.unpack(f"<{len(tensor.raw_data) // 4}f", tensor.raw_data))
    tensor.ClearField("raw_data")


def literal(draw: Random, model: ModelProto, donor: ModelProto) -> None:
    """An initializer becomes a Constant node."""
    place = draw.randrange(len(model.graph.initializer))
    tensor = model.graph.initializer[place]
    model.graph.node.insert(0, helper.make_node("Constant", [], [tensor.name], value=tensor))
    del model.graph.initializer[place]


def sparse(draw: Random, model: ModelProto, donor: ModelProto) -> None:
    """An initializer becomes a sparse one, of some of its values."""
    place = draw.randrange(len(model.graph.initializer))
    tensor = model.graph.initializer[place]
    value = numpy_helper.to_array(tensor).reshape(-1)
    chosen = sorted(draw.sample(range(value.size), draw.randint(0, value.size)))
    kept, where = numpy_helper.from_array(value[chosen], tensor.name), np.array(chosen, np.int64)
    made = helper.make_sparse_tensor(kept, numpy_helper.from_array(where, "i"), list(tensor.dims))
    model.graph.sparse_initializer.append(made)
    del model.graph.initializer[place]


def omit(draw: Random, model: ModelProto, donor: ModelProto) -> None:
    """An input of a node is left out, or there is one more."""
    node = draw.choice(graph_of(draw, model).node)
    if draw.random() < 0.5:
        node.input[draw.randrange(len(node.input))] = ""
    else:
        node.input.append(draw.choice(names(model)))


def rename(draw: Random, model: ModelProto, donor: ModelProto) -> None:
    """One name, wherever it is, becomes another one."""
    old, new = draw.choice(names(model)), draw.choice(NAMES[:6] + ("made_1", "k1", "c0_1", ".bias"))
    for message in every(model):
        for field, value in message.ListFields():
            if field.cpp_type == FieldDescriptor.CPPTYPE_STRING and field.type != FieldDescriptor.TYPE_BYTES:
                changed = [new if each == old else each for each in (value if field.is_repeated else [value])]
                if field.is_repeated:
                    value[:] = changed
                else:
                    setattr(message, field.name, changed[0])


GENTLE: Sequence[Mutation] = (
    *(rewire, rewire, return_more, reoperate, insert, insert, normalize, normalize, setting, setting, setting),
    *(rescale, recast, reshape, reshape, resize, offer, unpack, literal, sparse, omit, rename),
)
