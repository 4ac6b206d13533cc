"""Operators that compare with constants: two that agree on some inputs may differ on those between their constants."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping

import numpy as np
import onnx
from onnx import helper, numpy_helper

from ...model.messages import inner_graphs
from ...runtime.protos import Array, domain, stored
from .meaning import Meanings, NodeMeaning

COMPARES = frozenset(
    ["Clip", "Max", "Min", "Greater", "Less", "GreaterOrEqual", "LessOrEqual", "Equal", "ThresholdedRelu", "Shrink"]
)
CLOSE = 2.0**-20  # relative difference of constants that rounding makes


def moved_thresholds(original: Meanings, folded: Meanings, good: Collection[str]) -> Iterator[NodeMeaning]:
    """Nodes of the folded model that compare with another constant than the original's node of that name.

    `good` are tensors of the main graph that agree: no input lies between the constants.
    """
    before = {_key(place): place for place in original.places if _compares(place.node)}
    constants = [_constants(meanings) for meanings in (original, folded)]
    for place in folded.places:
        first = before.get(_key(place)) if _compares(place.node) else None
        if first and first.acts != place.acts and (place.where or place.node.output[0] in good):
            pair = [[*_numbers(p.node, known)] for p, known in zip((first, place), constants, strict=True)]
            if first.node.op_type == place.node.op_type and not _close(*pair):
                yield place


def _key(place: NodeMeaning) -> tuple[str, str]:
    return place.where, place.node.output[0]


def _compares(node: onnx.NodeProto) -> bool:
    return node.op_type in COMPARES and domain(node) == ""


def _constants(meanings: Meanings) -> Mapping[str, Array]:
    graph = meanings.model.graph
    tensors = [stored(each) for each in (graph, *inner_graphs(graph.node))]
    small = ((n, t) for each in tensors for n, t in each.items() if len(t.dims) < 2)
    return {**meanings.values, **{name: numpy_helper.to_array(tensor) for name, tensor in small}}


def _numbers(node: onnx.NodeProto, known: Mapping[str, Array]) -> Iterator[Array]:
    yield from (known[name] for name in node.input if name in known)
    yield from (
        np.asarray(helper.get_attribute_value(a)) for a in node.attribute if a.type == onnx.AttributeProto.FLOAT
    )


def _close(before: list[Array], after: list[Array]) -> bool:
    """Whether both compare with as many numbers, equal but for rounding."""
    pairs = zip(before, after, strict=False)
    return len(before) == len(after) and all(a.shape == b.shape and np.allclose(a, b, CLOSE, 0.0) for a, b in pairs)
