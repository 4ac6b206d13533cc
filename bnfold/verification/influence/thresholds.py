"""Operators whose results jump: two that agree on some inputs may differ on others.

One that compares with another constant differs for what lies between the constants; one that breaks ties, rounds or
wraps in another way differs at numbers that are rarely drawn.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping

import numpy as np
import onnx
from onnx import helper, numpy_helper

from ...model.messages import inner_graphs
from ...runtime.protos import Array, domain, stored
from .meaning import Meanings, NodeMeaning

SIBLINGS = (frozenset(["Greater", "Less", "GreaterOrEqual", "LessOrEqual"]), frozenset(["Round", "Floor", "Ceil"]))
JUMPS = frozenset().union(*SIBLINGS) | {"Clip", "Max", "Min", "Equal", "ThresholdedRelu", "Shrink", "Mod", "Cast"}
JUMPS |= {"ArgMax", "ArgMin", "TopK", "NonMaxSuppression"}
CLOSE = 2.0**-20  # relative difference of constants that rounding makes


def moved_thresholds(original: Meanings, folded: Meanings, agreeing: Collection[str]) -> Iterator[str]:
    """In words, nodes of the folded model that jump elsewhere than the original's node that makes the same tensor.

    `agreeing` are tensors of the main graph that agree: no input lies where the two differ.
    """
    before = {_key(place): place for place in original.places if _jumps(place.node)}
    constants = [_constants(meanings) for meanings in (original, folded)]
    for place in folded.places:
        first = before.get(_key(place)) if _jumps(place.node) else None
        if first is None or first.acts == place.acts or not (place.where or place.node.output[0] in agreeing):
            continue
        kinds = {first.node.op_type, place.node.op_type}
        if len(kinds) > 1:
            if any(kinds <= siblings for siblings in SIBLINGS):
                yield f"no input shows where {node_in_words(first)} of A differs from {node_in_words(place)} of B"
        elif not _close(*([*_numbers(p.node, known)] for p, known in zip((first, place), constants, strict=True))):
            yield f"no input lies between what {node_in_words(place)} compares with in A and in B"
        elif _choices(first.node) != _choices(place.node):
            yield f"no input shows what the attributes of {node_in_words(place)} do that are others in B"


def node_in_words(place: NodeMeaning) -> str:
    where = f" in {place.where}" if place.where else ""
    return f"node {place.node.name or next(filter(None, place.node.output), '')!r} ({place.node.op_type}){where}"


def _key(place: NodeMeaning) -> tuple[str, str]:
    return place.where, place.node.output[0]


def _jumps(node: onnx.NodeProto) -> bool:
    return node.op_type in JUMPS and domain(node) == ""


def _choices(node: onnx.NodeProto) -> dict[str, int]:
    """The attributes that are whole numbers, other than their defaults; without those that are inputs by now."""
    known = onnx.defs.get_schema(node.op_type).attributes
    stated = {a.name: a.i for a in node.attribute if a.type == onnx.AttributeProto.INT}
    return {name: i for name, i in stated.items() if name in known and i != known[name].default_value.i}


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
