"""Which nodes two models do not share: no node of the other means the same or does the same; fold sites left out.

A node that reads what agrees with the other model's tensor of that name is the same node if it does the same.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence, Set
from math import prod
from typing import NamedTuple

import onnx
from onnx import numpy_helper

from ...model.messages import every_node, inner_graphs
from ...runtime.copies import without_data
from ...runtime.protos import Array, domain, produced, stored
from ..plain_nodes import NEUTRAL
from ..regions import reached
from .bypass import HANDS_ON
from .meaning import Meanings, NodeMeaning

TABLE_ELEMENTS = 16  # elements of constants that more than shapes are computed of
MOST_MOVES = 8  # nodes in a row that only move, which are looked past


class ChangedModel(NamedTuple):
    """One of the models, its constant parts computed and its functions inlined, and the nodes it does not share."""

    name: str
    meanings: Meanings
    changed: list[int]  # places in `places`
    moved: int = 0  # nodes that have changed, too, but as many do the same in the other model
    bent: Set[str] = frozenset()  # tensors that are made of sizes, and may be something else for others

    @property
    def proto(self) -> onnx.ModelProto:
        return self.meanings.model

    @property
    def acts(self) -> dict[str, bytes]:
        """What the maker of each tensor of the main graph does, whatever it reads."""
        return {name: place.acts for place in self.places if not place.where for name in place.node.output}

    def without(self, names: set[str]) -> ChangedModel:
        """The same, the nodes left out that make some tensors of the main graph, and nothing else that is read."""
        read = alive_names(self.proto.graph)
        known = [
            i
            for i in self.changed
            if not self.places[i].where and read.intersection(self.places[i].node.output) <= names
        ]
        return self._replace(changed=[i for i in self.changed if i not in {*known}])

    @property
    def places(self) -> list[NodeMeaning]:
        return self.meanings.places


def changed_models(
    models: Sequence[onnx.ModelProto],
    values: Sequence[Mapping[str, Array]],
    bent: Sequence[Set[str]],
    agreeing: Collection[str],
    covered: Collection[str],
) -> list[ChangedModel]:
    """Both models, given what sizes make in each, which tensors agree, and which fold sites the algebra covers.

    `bent` are tensors of each that may be something else for other sizes than those of the values.
    """
    a = Meanings(models[0], values=values[0])
    same = {*agreeing} - of_tables(models[1].graph) - bent[1]
    b = Meanings(models[1], a, dict.fromkeys(same, ()), values[1])
    own = _changed_model("A", a, b, agreeing, covered, bent[0]), _changed_model("B", b, a, agreeing, covered, bent[1])
    return _without_moved([*own])


def _changed_model(
    name: str,
    own: Meanings,
    other: Meanings,
    agreeing: Collection[str],
    covered: Collection[str],
    bent: Set[str],
) -> ChangedModel:
    """The nodes of one model that an output depends on, the other has not, and no derived fold site covers.

    What constants and sizes alone make shows in the nodes that read it; a node that does the same in the other model,
    for a tensor that agrees, has changed by what it reads only.
    """
    graph = own.model.graph
    constants = Neutral(own)
    alike = {place.node.output[0]: place.acts for place in other.places if not place.where}
    shared = {meaning for place in other.places for meaning in place.means}
    relevant = alive_names(graph) - reached(produced(graph), covered, agreeing)[0] - without_data(graph)
    changed = [
        i
        for i, place in enumerate(own.places)
        if not shared.issuperset(place.means)
        and (place.where or not bent.isdisjoint(place.node.input) or not _does_the_same(place, alike, agreeing))
        and not constants.leave_alone(place.node)
        and (place.node.op_type != "Constant" if place.where else not relevant.isdisjoint(place.node.output))
    ]
    return ChangedModel(name, own, changed, bent=bent)


def _does_the_same(place: NodeMeaning, alike: Mapping[str, bytes], agreeing: Collection[str]) -> bool:
    made = place.node.output[0]
    return made in agreeing and alike.get(made) == place.acts


def alive_names(graph: onnx.GraphProto) -> set[str]:
    """Every name that an output depends on."""
    needed = {output.name for output in graph.output}
    for node in reversed(graph.node):
        if not needed.isdisjoint(node.output):
            needed.update(node.input, (name for inner in every_node([node]) for name in inner.input))
            needed.update(output.name for body in inner_graphs([node]) for output in body.output)
    return needed


def of_tables(graph: onnx.GraphProto) -> set[str]:
    """What is made, for some sizes, of constants of many elements."""
    fixed = without_data(graph)
    names = {name for name, tensor in stored(graph).items() if prod(tensor.dims) > TABLE_ELEMENTS}
    for node in graph.node:
        if not fixed.isdisjoint(node.output) and not names.isdisjoint(node.input):
            names.update(node.output)
    return names


class Neutral:
    """Constants that leave what they are added to, or multiplied with, as it is."""

    def __init__(self, meanings: Meanings) -> None:
        self._values, self._stored = meanings.values, stored(meanings.model.graph)

    def leave_alone(self, node: onnx.NodeProto) -> bool:
        """Whether a node does nothing, whatever it reads."""
        ports, value = NEUTRAL.get(node.op_type, ((), 0)) if domain(node) == "" else ((), 0)
        if node.op_type == "Pad" and any(a.name == "pads" and not any(a.ints) for a in node.attribute):
            return True  # as before opset 11
        return any(self._all(name, value) for port in ports for name in node.input[port : port + 1])

    def _all(self, name: str, value: int) -> bool:
        tensor = self._stored.get(name)
        numbers = numpy_helper.to_array(tensor) if tensor else self._values.get(name)
        return numbers is not None and bool((numbers == value).all())


def _without_moved(models: list[ChangedModel]) -> list[ChangedModel]:
    """Leave out the nodes of which each model has as many, that do the same between nodes that do the same."""
    neighbours = [_neighbours(model) for model in models]
    counts = [Counter(each.values()) for each in neighbours]
    left = [
        [i for i in model.changed if i not in own or counts[0][own[i]] != counts[1][own[i]]]
        for model, own in zip(models, neighbours, strict=True)
    ]
    return [m._replace(changed=some, moved=len(m.changed) - len(some)) for m, some in zip(models, left, strict=True)]


def _neighbours(model: ChangedModel) -> dict[int, tuple[bytes, ...]]:
    """What each changed node of the main graph does, and those before it and after it; what only moves left out."""
    makers = {name: place for place in model.places if not place.where for name in place.node.output if name}
    readers: dict[str, list[NodeMeaning]] = {}
    for place in model.places:
        for name in place.node.input:
            readers.setdefault(name, []).append(place)

    def before(name: str, most: int = MOST_MOVES) -> bytes:
        place = makers.get(name)
        if place and most and _moves(place.node):
            return before(place.node.input[0], most - 1)
        return place.acts if place else name.encode()

    def after(name: str, most: int = MOST_MOVES) -> Iterator[bytes]:
        for place in readers.get(name, ()):
            if most and _moves(place.node):
                yield from after(place.node.output[0], most - 1)
            else:
                yield place.acts

    fixed = without_data(model.proto.graph)
    return {
        i: (
            place.acts,
            *sorted(before(name) for name in place.node.input if name not in fixed),
            *sorted(acts for name in place.node.output for acts in after(name)),
        )
        for i in model.changed
        if not (place := model.places[i]).where
    }


def _moves(node: onnx.NodeProto) -> bool:
    return node.op_type in HANDS_ON and domain(node) == ""
