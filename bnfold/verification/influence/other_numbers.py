"""Nodes that do in both models the same with other numbers, though what they make agrees on all inputs.

Rounding hides what an epsilon does next to a large variance, or one weight of many. But a node that reads the same as
that of the other model, and has other floating-point numbers, beyond rounding, makes something else.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from typing import Any

import numpy as np
import onnx
from onnx import AttributeProto, helper

from ...model.messages import bodies
from ...runtime import detached
from ...runtime.copies import without_data
from ...runtime.protos import FLOATING, Array, called, stored
from .changed_nodes import ChangedModel
from .thresholds import CLOSE, node_in_words

FLOAT_ATTRIBUTES = (AttributeProto.FLOAT, AttributeProto.FLOATS)


def other_numbers(models: Sequence[ChangedModel], agreeing: Collection[str]) -> Iterator[str]:
    """A sentence for each changed node of B that has other numbers than A's, which reads and makes the same.

    `agreeing` are tensors that have one name in both models, and the same values on all inputs.
    """
    a, b = map(_Side, models)
    known = {value.name for value in models[1].proto.graph.input}.union(agreeing)
    makers = {name: place.node for place in models[0].places if not place.where for name in place.node.output}
    for place in (models[1].places[i] for i in models[1].changed):
        made = next(filter(None, place.node.output), "")
        if place.where or made not in agreeing or made not in makers or not known.issuperset(b.data(place.node)):
            continue
        if a.form(makers[made]) == b.form(place.node) and not _close(a.numbers(makers[made]), b.numbers(place.node)):
            yield f"no input shows what {node_in_words(place)} of B does with other numbers than in A"


class _Side:
    """One of the models, and the form of its nodes: all that they do, but for the floating-point numbers in it."""

    def __init__(self, model: ChangedModel) -> None:
        self.fixed, self.stored = without_data(model.proto.graph), stored(model.proto.graph)
        self.plain, self.scope = model.meanings.plain, model.meanings.scope

    def data(self, node: onnx.NodeProto) -> list[str]:
        return [name for name in node.input if name and name not in self.fixed]

    def form(self, node: onnx.NodeProto) -> tuple[Any, ...]:
        """With the tensors that it reads; nodes with bodies have none in common."""
        version, plain = self.plain.of(node)
        stated = sorted(
            a.SerializeToString(deterministic=True) for a in plain.attribute if a.type not in FLOAT_ATTRIBUTES
        )
        read = (*map(self._read, plain.input), *[id(node)] * any(bodies(node)))
        return called(plain), version, tuple(node.output), tuple(stated), read

    def _read(self, name: str) -> Any:
        tensor = self.stored.get(name)
        if tensor and tensor.data_type in FLOATING:
            return tensor.data_type, *tensor.dims
        return self.scope.get(name) if name in self.fixed else name

    def numbers(self, node: onnx.NodeProto) -> list[Array]:
        """The floating-point constants of a node, and its attributes that are such, in the order of their names."""
        schema = self.plain.schema(node)
        usual = {name: known.default_value for name, known in schema.attributes.items()} if schema else {}
        stated = {a.name: a for a in (*usual.values(), *node.attribute) if a.name and a.type in FLOAT_ATTRIBUTES}
        constants = (self.stored[name] for name in node.input if name in self.stored)
        return [
            *(detached.values(tensor) for tensor in constants if tensor.data_type in FLOATING),
            *(np.asarray(helper.get_attribute_value(stated[name])) for name in sorted(stated)),
        ]


def _close(ours: Sequence[Array], theirs: Sequence[Array]) -> bool:
    """Whether all numbers are the same but for rounding."""
    if [values.shape for values in ours] != [values.shape for values in theirs]:
        return False
    pairs = ((a.astype(np.float64), b.astype(np.float64)) for a, b in zip(ours, theirs, strict=True))
    return all(np.allclose(b, a, rtol=CLOSE, atol=0.0, equal_nan=True) for a, b in pairs)
