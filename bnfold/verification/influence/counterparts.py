"""What A computes for a tensor that a changed node of B makes, to be put in that node's place.

Where every output stays as it was to the last bit, on all inputs, none of them shows what A and B do differently there.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence

import onnx
from onnx import helper

from ...model.messages import bodies, inner_graphs
from ...runtime.copies import without_data
from ...runtime.protos import called, is_constant_node, produced
from ..regions import REARRANGES, reached
from .bypass import SWITCH, Bypass, Types
from .changed_nodes import ChangedModel
from .meaning import NodeMeaning

MOST_NODES = 64  # nodes of A that stand in for one of B
BypassesAt = dict[int, list[Bypass]]  # by the place in B where they are taken


class Counterparts:
    """For each changed node of B what does its work in A, where it is known."""

    def __init__(self, a: ChangedModel, b: ChangedModel, types: Sequence[Types], agreeing: Collection[str]) -> None:
        self.a, self.b, self.types = a, b, types
        graph, other = a.proto.graph, b.proto.graph
        self.makers, self.constants = produced(graph), _constants(graph)
        self.fixed = without_data(graph), without_data(other)
        self.cuts = {value.name for value in other.input}.union(agreeing) - self.fixed[0]
        self.partners = dict(self._pairs())
        self.count = 0

    def bypasses(self) -> dict[int, BypassesAt]:
        """For each changed node of B that has a counterpart, what to put where."""
        known = ((i, self._bypasses(i)) for i in self.partners)
        return {i: bypasses for i, bypasses in known if bypasses}

    def _pairs(self) -> Iterator[tuple[int, NodeMeaning]]:
        """Nodes of one name; else of one operator, the only ones that read the same, or as many in the same order."""
        named = {(place.where, place.node.output[0]): place for place in self.a.places if place.node.output}
        both = [{(p.where, name): p for p in model.places for name in p.node.output} for model in (self.a, self.b)]
        known = {i: named.get((p.where, p.node.output[0])) for i in self.b.changed for p in [self.b.places[i]]}
        yield from ((i, place) for i, place in known.items() if place)
        left = [self.a.places[j] for j in self.a.changed]
        left = [place for place in left if (place.where, place.node.output[0]) not in both[1]]
        alone = [i for i, place in known.items() if place is None]
        for reads in (True, False):
            groups = [
                _groups(self.a, left, reads),
                _groups(self.b, map(self.b.places.__getitem__, alone), reads),
            ]
            for key, theirs in groups[1].items():
                ours = groups[0].get(key, [])
                if len(ours) == len(theirs):
                    yield from ((self._index(b), a) for a, b in zip(ours, theirs, strict=True))

    def _index(self, place: NodeMeaning) -> int:
        return next(i for i in self.b.changed if self.b.places[i] is place)

    def _bypasses(self, i: int) -> BypassesAt:
        """One for each output that is read; where that has another type in A, for what its readers make of it."""
        place, partner = self.b.places[i], self.partners[i]
        bypasses: BypassesAt = {}
        pairs = zip(place.node.output, partner.node.output, strict=False)
        for name, theirs in ((a, b) for a, b in pairs if a and b):
            if self.types[0].get(theirs, kind := self.types[1].get(name)) == kind:
                self._add(bypasses, i, name, self._instead(place, partner, theirs))
            elif not place.where:
                for j in self._readers(name):
                    made = self.b.places[j].node.output[0]
                    self._add(bypasses, j, made, self._region(made, {name}))
        return bypasses

    def _readers(self, name: str) -> list[int]:
        return [j for j, p in enumerate(self.b.places) if name in p.node.input and p.node.output[0] in self.makers]

    def _add(self, bypasses: BypassesAt, at: int, output: str, nodes: Sequence[onnx.NodeProto]) -> None:
        if nodes and self.types[1].get(output):
            self.count += 1
            bypasses.setdefault(at, []).append(Bypass(self.count, output, nodes=tuple(nodes)))

    def _instead(self, place: NodeMeaning, partner: NodeMeaning, output: str) -> list[onnx.NodeProto]:
        """The nodes of A that take the place of a node of B, to make its output; nothing where none are known.

        All that makes this output in A, where A's node or B's reads tensors that both models have; else A's node alone,
        on what B's node reads, if both are of one operator. Nothing for a node that only rearranges elements: the nodes
        that read them show what A has there.
        """
        data = [
            _data(p.node, fixed | self.constants.keys()) for p, fixed in zip((partner, place), self.fixed, strict=True)
        ]
        same = place.acts == partner.acts
        if called(place.node) in REARRANGES or any(bodies(partner.node)) or (same and data[0] == data[1]):
            return []
        if not place.where and output in place.node.output and self.cuts.issuperset(data[0]):
            return self._region(output, ())
        if partner.node.op_type == place.node.op_type and len(data[0]) == len(data[1]):
            names = dict(zip(data[0], data[1], strict=True))
            return [] if same else self._embedded([partner.node], output, names, ())
        alone = self.cuts.issuperset(data[1]) and output in place.node.output
        return self._region(output, ()) if alone and not place.where else []

    def _region(self, output: str, without: Collection[str]) -> list[onnx.NodeProto]:
        """What A computes for a tensor from those that B has as well."""
        computed, _ = reached(self.makers, [output], self.cuts.difference(without, [output]))
        nodes = [node for node in self.a.proto.graph.node if not computed.isdisjoint(node.output)]
        if len(nodes) > MOST_NODES or any(any(bodies(node)) for node in nodes):
            return []
        return self._embedded(nodes, output, {}, without)

    def _embedded(
        self, nodes: Sequence[onnx.NodeProto], output: str, names: Mapping[str, str], without: Collection[str]
    ) -> list[onnx.NodeProto]:
        """Copies of nodes of A, with constants of their own, that read tensors of B; nothing where B lacks one."""
        stem = f"{SWITCH}/A/{self.count + 1}"
        made = {name: f"{stem}/{name}" for node in nodes for name in node.output if name}
        read = dict.fromkeys(name for node in nodes for name in node.input if name and name not in made)
        own = {name: f"{stem}/{name}" for name in read if name in self.constants and name not in self.cuts}
        scope = {**{name: names.get(name, name) for name in read}, **own, **made}
        if any(scope[name] == name and name in self.makers and name not in self.cuts for name in read):
            return []
        if any(self.a.meanings.plain.version(node) != self.b.meanings.plain.version(node) for node in nodes):
            return []
        copies = []
        for node in (*(self.constants[name] for name in own), *nodes):
            copies.append(onnx.NodeProto())
            copies[-1].CopyFrom(node)
            copies[-1].input[:] = [scope.get(name, "") for name in node.input]
            copies[-1].output[:] = [scope.get(name, "") for name in node.output]
        return [*copies, helper.make_node("Identity", [made[output]], [f"{stem}/instead"])]


def _data(node: onnx.NodeProto, fixed: Collection[str]) -> list[str]:
    return [name for name in node.input if name and name not in fixed]


def _groups(
    model: ChangedModel, places: Sequence[NodeMeaning] | Iterator[NodeMeaning], reads: bool
) -> dict[tuple[object, ...], list[NodeMeaning]]:
    """Nodes of one operator; with `reads` those that read the same."""
    scope, groups = model.meanings.scope, dict[tuple[object, ...], list[NodeMeaning]]()
    fixed = without_data(model.proto.graph)
    for place in places:
        data = tuple(scope.get(name, b"") for name in _data(place.node, fixed)) if reads else ()
        groups.setdefault((place.node.domain, place.node.op_type, bool(place.where), *data), []).append(place)
    return groups


def _constants(graph: onnx.GraphProto) -> dict[str, onnx.NodeProto]:
    """Nodes that make what is stored, in bodies too, by name; where there are several of a name, none."""
    nodes: dict[str, onnx.NodeProto] = {}
    twice = set[str]()
    for each in (graph, *inner_graphs(graph.node)):
        made = [helper.make_node("Constant", [], [tensor.name], value=tensor) for tensor in each.initializer]
        for node in (*made, *filter(is_constant_node, each.node)):
            twice.update(nodes.keys() & set(node.output))
            nodes[node.output[0]] = node
    return {name: node for name, node in nodes.items() if name not in twice}
