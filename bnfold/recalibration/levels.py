"""Topological levels: which BatchNormalization wait for the statistics of which others, and what to compute between.

A tensor is of level L if at most L normalizations lie one after the other on the way to it. So those of one level can
be measured together, once all before them have their statistics.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import onnx
from onnx import NodeProto

from ..model.messages import is_batch_norm
from ..runtime.protos import caller_inputs
from .norms import reads

RANDOM_OPERATORS = ("RandomNormal", "RandomUniform")


@dataclass(frozen=True)
class Segment:
    """The nodes of one level: they read tensors at the cut before them, and are measured at `taps`.

    `keep` names the tensors that later segments read.
    """

    nodes: list[NodeProto]
    sources: list[str]
    made: list[str]
    taps: list[str]
    keep: list[str]


@dataclass
class Levels:
    """The level of every tensor that depends on an input of the graph; what is not listed is constant."""

    graph: onnx.GraphProto
    norms: dict[str, int] = field(default_factory=dict)  # by first output
    of: dict[str, int] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.of = {value.name: 0 for value in caller_inputs(self.graph)}
        for node in self.graph.node:
            self._place(node)

    def _place(self, node: NodeProto) -> None:
        before = [self.of[x] for x in reads(node) if x in self.of]
        if not before and node.op_type not in RANDOM_OPERATORS:
            return
        level = max(before, default=0)
        if is_batch_norm(node) and self._is_stored(node):
            self.norms[node.output[0]] = level
            level += 1
        self.of.update((name, level) for name in node.output if name)

    def _is_stored(self, node: NodeProto) -> bool:
        """Whether it normalizes data, by statistics that do not depend on data."""
        return node.input[0] in self.of and not any(x in self.of for x in node.input[1:])

    def segments(self) -> list[Segment]:
        """A segment for each level that has a normalization, in order; nodes that none of these needs are left out."""
        norms = [n for n in self.graph.node if n.output and n.output[0] in self.norms]
        taps = {n.input[0] for n in norms}
        needed = self._needed(taps)
        last = max(self.norms.values(), default=-1)
        return [self._segment(level, needed, [n for n in norms if self._at(n) == level]) for level in range(last + 1)]

    def _at(self, norm: NodeProto) -> int:
        return self.norms[norm.output[0]]

    def _needed(self, wanted: set[str]) -> list[NodeProto]:
        """The nodes that compute what is wanted from data, in the order of the graph."""
        nodes, wanted = [], set(wanted)
        for node in reversed(self.graph.node):
            if wanted.intersection(node.output) and self._level(node) is not None:
                wanted.update(reads(node))
                nodes.append(node)
        return nodes[::-1]

    def _level(self, node: NodeProto) -> int | None:
        return next((self.of[x] for x in node.output if x in self.of), None)

    def _segment(self, level: int, needed: list[NodeProto], norms: list[NodeProto]) -> Segment:
        own = [n for n in needed if self._level(n) == level]
        later = [n for n in needed if (self._level(n) or 0) > level]
        made = {x for n in own for x in n.output if x}
        taps = list(dict.fromkeys(n.input[0] for n in norms))
        read = dict.fromkeys(x for n in own for x in reads(n) if x in self.of and x not in made)
        keep = dict.fromkeys(x for n in later for x in reads(n) if self.of.get(x, level + 1) <= level)
        wanted = dict.fromkeys(x for x in (*taps, *keep) if x in made)
        return Segment(own, list(read), list(wanted), taps, list(keep))

    def constants(self, nodes: list[NodeProto]) -> tuple[list[NodeProto], set[str]]:
        """The nodes that compute constants for these, in order, and the names of all that is read and not data."""
        wanted = {x for n in nodes for x in reads(n) if x not in self.of}
        needed = []
        for node in reversed(self.graph.node):
            if wanted.intersection(node.output) and self._level(node) is None:
                wanted.update(reads(node))
                needed.append(node)
        return needed[::-1], wanted
