"""Shapes that follow from what nodes compute of constants alone, of which onnx's own inference sees little."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from dataclasses import replace
from typing import Any

import onnx_graphsurgeon as gs
from onnx import ModelProto, NodeProto, helper

from ..algebra.affine import Array
from ..algebra.computing import element_type, narrowed
from ..model.messages import inner_graphs
from ..model.tensors import to_tensor
from ..system.limits import current, within
from .constants import is_evaluable, value_of
from .products import MADE_UP

STUB_ABOVE = 1024  # elements above which a tensor comes without values to shape inference


def unseen(view: gs.Graph) -> dict[str, Array]:
    """The values, by name, of computed constants that are read by nodes whose output shapes are not known."""
    unsure = (n for n in nodes_at_any_depth(view) if not all(is_stated(x.shape) for x in n.outputs))
    read = (x for n in unsure for x in n.inputs if x.inputs and x.inputs[0].op != "Constant")
    values = {}
    with within(replace(current(), elements=STUB_ABOVE)):
        for tensor in filter(is_evaluable, read):
            with suppress(Exception):  # what is large, or computed of such, has no values here; others may be damaged
                values[tensor.name] = narrowed(value_of(tensor), element_type(tensor.dtype))
    return values


def is_stated(shape: Any) -> bool:
    """Whether a shape has a length for each axis, or a name that the file gives it: inference makes up unk__0, .."""
    return shape is not None and all(isinstance(n, int) or (n and not n.startswith(MADE_UP)) for n in shape)


def nodes_at_any_depth(graph: gs.Graph) -> Iterator[Any]:
    """Every node of a graph, after those of its bodies."""
    for node in graph.nodes:
        for body in node.subgraphs():
            yield from nodes_at_any_depth(body)
        yield node


def stating(bare: ModelProto, values: dict[str, Array]) -> ModelProto:
    """A copy of a model with Constants in the place of the nodes that compute these values."""
    copy = ModelProto()
    copy.CopyFrom(bare)
    for graph in (copy.graph, *inner_graphs(copy.graph.node)):
        for node in (node for node in graph.node if node.output and node.output[0] in values):
            node.CopyFrom(constant_node(node, values[node.output[0]]))
    return copy


def constant_node(node: NodeProto, value: Array) -> NodeProto:
    return helper.make_node("Constant", [], list(node.output), value=to_tensor(value, ""))


def adopt_shapes(bare: ModelProto, inferred: ModelProto) -> None:
    """Take over the types and shapes that a copy with the same graphs states."""
    mine, others = ((model.graph, *inner_graphs(model.graph.node)) for model in (bare, inferred))
    for graph, other in zip(mine, others, strict=True):
        for field in ("value_info", "output"):
            getattr(graph, field).clear()
            getattr(graph, field).extend(getattr(other, field))
