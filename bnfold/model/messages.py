"""What onnx's messages hold, and small edits of them that leave everything else as it was."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

import numpy as np
from onnx import (
    AttributeProto,
    GraphProto,
    ModelProto,
    NodeProto,
    SparseTensorProto,
    TensorProto,
    ValueInfoProto,
    helper,
)

# Attributes of these types hold no messages, and are not searched for any: onnx's checker refuses those that do.
PLAIN_ATTRIBUTES = frozenset(
    AttributeProto.AttributeType.Value(f"{kind}{s}") for kind in ("INT", "FLOAT", "STRING") for s in ("", "S")
)

SCALARS = {  # of the attributes of a Constant that hold numbers
    "value_float": np.float32, "value_floats": np.float32, "value_int": np.int64, "value_ints": np.int64
}  # fmt: skip

INFERENCE = (  # what to do about a BatchNormalization in training mode
    "Export the model in inference mode. In PyTorch: model.eval() before the export, and layers that have statistics: "
    "track_running_stats=True, which eval() does not change."
)


def bodies(node: NodeProto) -> Iterator[GraphProto]:
    """The graphs in the attributes of a node (If, Loop, Scan)."""
    for attribute in node.attribute:
        if attribute.type not in PLAIN_ATTRIBUTES:
            yield from attribute_graphs(attribute)


def attribute_graphs(attribute: AttributeProto) -> list[GraphProto]:
    """The graphs in one attribute."""
    if attribute.type in PLAIN_ATTRIBUTES:
        return []
    return [*([attribute.g] if attribute.HasField("g") else []), *attribute.graphs]


def every_node(nodes: Iterable[NodeProto]) -> Iterator[NodeProto]:
    """Nodes, and those of the graphs in their attributes."""
    for node in nodes:
        yield node
        for graph in bodies(node):
            yield from every_node(graph.node)


def inner_graphs(nodes: Iterable[NodeProto]) -> Iterator[GraphProto]:
    """The graphs in the attributes of nodes, and those in them, at any depth."""
    for node in nodes:
        graphs = [*bodies(node)]
        yield from graphs
        for graph in graphs:
            yield from inner_graphs(graph.node)


def reads(node: NodeProto, but: Mapping[str, int] | None = None) -> Iterator[str]:
    """Every name of its graph, or of one around it, that a node reads, itself or in its bodies.

    Of the standard operators in `but` one input is left out, the index of which that says.
    """
    left_out = but.get(node.op_type) if but and node.domain in ("", "ai.onnx") else None
    yield from (name for i, name in enumerate(node.input) if i != left_out)
    for body in bodies(node):
        own = {x.name for x in (*body.input, *body.initializer)}
        own.update(tensor.values.name for tensor in body.sparse_initializer)
        own.update(name for inner in body.node for name in inner.output)
        named = (name for inner in body.node for name in reads(inner, but))
        yield from (name for name in (*named, *(output.name for output in body.output)) if name not in own)


def all_tensors(model: ModelProto) -> Iterator[TensorProto]:
    """Every tensor that a model stores: initializers and tensor attributes, also inside subgraphs and functions."""
    yield from _in_graph(model.graph)
    for function in model.functions:
        yield from _in_nodes(function.node)


def _in_graph(graph: GraphProto) -> Iterator[TensorProto]:
    yield from graph.initializer
    yield from _in_sparse(graph.sparse_initializer)
    yield from _in_nodes(graph.node)


def _in_sparse(tensors: Iterable[SparseTensorProto]) -> Iterator[TensorProto]:
    for tensor in tensors:
        if tensor.HasField("values"):
            yield from (tensor.values, tensor.indices)


def _in_nodes(nodes: Iterable[NodeProto]) -> Iterator[TensorProto]:
    for node in nodes:
        for attribute in (a for a in node.attribute if a.type not in PLAIN_ATTRIBUTES):
            yield from [*([attribute.t] if attribute.HasField("t") else []), *attribute.tensors]
            yield from _in_sparse([attribute.sparse_tensor, *attribute.sparse_tensors])
            for graph in attribute_graphs(attribute):
                yield from _in_graph(graph)


def all_nodes(model: ModelProto) -> Iterator[NodeProto]:
    """Every node of a model, also inside subgraphs and functions."""
    for part in (model.graph, *model.functions):
        yield from every_node(part.node)


def is_batch_norm(node: NodeProto) -> bool:
    return node.op_type == "BatchNormalization" and node.domain in ("", "ai.onnx")


def counts(model: ModelProto) -> tuple[int, int]:
    """How many nodes a file holds, and how many are BatchNormalization: in bodies, too, and once in each function."""
    norms = [is_batch_norm(node) for node in all_nodes(model)]
    return len(norms), sum(norms)


def set_attributes(message: NodeProto, values: dict[str, int | list[int]]) -> None:
    """Set integer attributes, in place where a node has them; the automatic padding gives way to an explicit one."""
    drop(message.attribute, (i for i, a in enumerate(message.attribute) if a.name == "auto_pad" and "pads" in values))
    for name, value in values.items():
        present = next((a for a in message.attribute if a.name == name), None)
        if present is None:
            message.attribute.append(helper.make_attribute(name, value))
        elif isinstance(value, int):
            present.i = value
        else:
            present.ints[:] = value


def become_identity(message: NodeProto, source: str) -> None:
    """Make a node an Identity of `source`, under the name of its first output."""
    message.op_type = "Identity"
    message.input[:] = [source]
    del message.attribute[:]
    del message.output[1:]


def set_shape(value: ValueInfoProto, shape: tuple[int, ...]) -> None:
    """State another static shape, where it is another."""
    stated = value.type.tensor_type.shape
    if [d.dim_value for d in stated.dim] != list(shape):
        del stated.dim[:]
        for length in shape:
            stated.dim.add(dim_value=length)


def drop(messages: Any, indices: Iterable[int]) -> None:
    """Delete some messages of a repeated field, leaving the others untouched."""
    gone = set(indices)
    if gone:
        arrange(messages, [int(i in gone) for i in range(len(messages))])
        del messages[-len(gone) :]


def arrange(messages: Any, places: Iterable[int]) -> None:
    """Sort the messages of a repeated field by the place given for each."""
    following = iter(places)
    messages.sort(key=lambda _: next(following))


def drop_named(message: Any, field: str, is_gone: Callable[[Any], bool]) -> None:
    """Delete the messages of a repeated field, if this kind of message has it, that `is_gone` names."""
    messages = getattr(message, field, ())
    drop(messages, (i for i, entry in enumerate(messages) if is_gone(entry)))
