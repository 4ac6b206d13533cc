"""How far the outputs of a model move where its constants and inputs do, by about one unit roundoff."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
from onnx import AttributeProto, GraphProto, ModelProto, NodeProto, TensorProto, helper, numpy_helper

ROUNDOFF = {
    TensorProto.FLOAT: 2**-24,
    TensorProto.FLOAT16: 2**-11,
    TensorProto.DOUBLE: 2**-53,
    TensorProto.BFLOAT16: 2**-9,
}
EXACT = ("Cast", "CastLike", "QuantizeLinear", "Resize", "Upsample", "Range", "DequantizeLinear")
LEAST = {
    TensorProto.FLOAT: 2.0**-149,
    TensorProto.FLOAT16: 2.0**-24,
    TensorProto.DOUBLE: 0.0,
    TensorProto.BFLOAT16: 2.0**-133,
}
TINY = {
    TensorProto.FLOAT: 2.0**-126,
    TensorProto.FLOAT16: 2.0**-14,
    TensorProto.DOUBLE: 2.0**-1022,
    TensorProto.BFLOAT16: 2.0**-126,
}


def every_node(graph: Any) -> Iterator[NodeProto]:
    for node in graph.node:
        yield node
        for attribute in node.attribute:
            if attribute.type == AttributeProto.GRAPH:
                yield from every_node(attribute.g)


def every_graph(graph: GraphProto) -> Iterator[GraphProto]:
    yield graph
    for node in graph.node:
        for attribute in node.attribute:
            if attribute.type == AttributeProto.GRAPH:
                yield from every_graph(attribute.g)


def nodes_of(model: ModelProto) -> list[NodeProto]:
    return [*every_node(model.graph), *(n for f in model.functions for n in every_node(f))]


def rounded(model: ModelProto) -> set[str]:
    """The names of what an operator rounds, or takes as a setting: there one roundoff may make a step."""
    nodes = nodes_of(model)
    found = {
        n
        for node in nodes
        if node.op_type in EXACT
        for n in (node.input[:1] if node.op_type == "DequantizeLinear" else node.input)
    }
    moved = {
        "Identity",
        "Transpose",
        "Reshape",
        "Squeeze",
        "Unsqueeze",
        "Concat",
        "Slice",
        "Gather",
        "Expand",
        "Neg",
        "Where",
    }
    for _ in range(4):
        found |= {n for node in nodes if node.op_type in moved and set(node.output) & found for n in node.input}
    return found


def moved(model: ModelProto, rng: np.random.Generator, times: float, flushed: bool) -> ModelProto:
    """A copy with other constants."""
    copy = ModelProto()
    copy.CopyFrom(model)
    held = rounded(model)
    for graph in every_graph(copy.graph):
        for tensor in (*graph.initializer, *(s.values for s in graph.sparse_initializer)):
            if tensor.name not in held:
                shift(tensor, rng, times, flushed)
    for node in nodes_of(copy):
        if node.op_type == "Constant" and node.output[0] not in held:
            shift_literal(node.attribute[0], rng, times, flushed)
    return copy


def shift_literal(attribute: AttributeProto, rng: np.random.Generator, times: float, flushed: bool) -> None:
    if attribute.type == AttributeProto.TENSOR:
        shift(attribute.t, rng, times, flushed)
    elif attribute.type == AttributeProto.SPARSE_TENSOR:
        shift(attribute.sparse_tensor.values, rng, times, flushed)
    elif attribute.name in ("value_float", "value_floats"):
        one = attribute.name == "value_float"
        value = np.array([attribute.f] if one else attribute.floats, np.float32)
        made = jittered(value, rng, times, (TINY if flushed else LEAST)[TensorProto.FLOAT]).tolist()
        if one:
            attribute.f = made[0]
        else:
            attribute.floats[:] = made


def shift(tensor: TensorProto, rng: np.random.Generator, times: float, flushed: bool) -> None:
    kind = tensor.data_type
    if kind not in ROUNDOFF:
        return
    value = numpy_helper.to_array(tensor)
    made = jittered(value, rng, times, TINY[kind] if flushed else LEAST[kind])
    tensor.CopyFrom(numpy_helper.from_array(made, tensor.name))


def jittered(value: np.ndarray, rng: np.random.Generator, times: float, tiny: float = 0.0) -> np.ndarray:
    """Every number up or down by `times` units in the last place, or so."""
    unit = 2 * ROUNDOFF[helper.np_dtype_to_tensor_dtype(value.dtype)]
    side = rng.choice([-1.0, 1.0], value.shape)
    with np.errstate(all="ignore"):
        return np.asarray(value.astype(np.float64) * (1 + side * times * unit) + side * tiny, value.dtype)


def feeds_moved(feeds: dict[str, np.ndarray], rng: np.random.Generator, times: float) -> dict[str, np.ndarray]:
    return {k: np.asarray(jittered(v, rng, times)) if v.dtype.kind == "f" else v for k, v in feeds.items()}
