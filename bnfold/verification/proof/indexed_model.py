"""A model with an index of its tensors: what makes each one and where, what is stored, which are the same."""

from __future__ import annotations

from collections.abc import Iterable, Sequence, Set
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import onnx

from ...model.messages import bodies
from ...runtime.copies import without_data
from ...runtime.protos import called, caller_inputs, stored
from ..plain_nodes import PlainNodes
from ..regions import MIXING


@dataclass(frozen=True)
class IndexedModel:
    """One of two models that are compared; each index of its tensors is made once."""

    model: onnx.ModelProto
    free: Set[str] = frozenset()  # initializers that callers of the original may override

    @cached_property
    def plain(self) -> PlainNodes:
        return PlainNodes(self.model, self.free)

    @cached_property
    def nodes(self) -> list[onnx.NodeProto]:
        """The nodes, as plain as they can be written."""
        return [*map(self.plain, self.model.graph.node)]

    @cached_property
    def makers(self) -> dict[str, onnx.NodeProto]:
        return {name: node for node in self.nodes for name in node.output if name}

    @cached_property
    def places(self) -> dict[str, int]:
        """The place of each tensor's maker in the order of the graph."""
        return {name: place for place, node in enumerate(self.nodes) for name in node.output if name}

    @cached_property
    def initializers(self) -> dict[str, onnx.TensorProto]:
        return {tensor.name: tensor for tensor in self.model.graph.initializer if tensor.name not in self.free}

    @cached_property
    def stored(self) -> dict[str, onnx.TensorProto]:
        """Initializers, and the values of Constant nodes."""
        return {name: tensor for name, tensor in stored(self.model.graph).items() if name not in self.free}

    @cached_property
    def inputs(self) -> set[str]:
        """What callers feed, or may feed in place of a default."""
        return {value.name for value in caller_inputs(self.model.graph)} | self.free

    @cached_property
    def fixed(self) -> set[str]:
        """Tensors that depend on no data, only on constants and sizes."""
        return without_data(self.model.graph, self.free)

    @cached_property
    def names(self) -> dict[str, str]:
        """For each tensor that a node makes without computing anything, the one that it hands on."""
        firsts: dict[str, str] = {}
        for node in self.nodes:
            source = self.plain.handed_on(node)
            if source and source not in self.fixed:
                firsts[node.output[0]] = firsts.get(source, source)
        return firsts

    def name(self, name: str) -> str:
        """The first of all names of a tensor."""
        return self.names.get(name, name)

    def all_names(self, tensors: Iterable[str]) -> dict[str, str]:
        """All names of `tensors`, which are first names, each with the first one."""
        return {name: first for first in tensors for name in self.others.get(first, [first])}

    @cached_property
    def others(self) -> dict[str, list[str]]:
        """All names of each tensor that has several, by the first."""
        names: dict[str, list[str]] = {}
        for name, first in self.names.items():
            names.setdefault(first, [first]).append(name)
        return names

    @cached_property
    def made_by(self) -> dict[tuple[str, str], list[str]]:
        """What each linear operator makes of a tensor, which has its first name here."""
        made: dict[tuple[str, str], list[str]] = {}
        for node in self.nodes:
            if called(node) in MIXING:
                made.setdefault((node.op_type, self.name(node.input[0])), []).append(node.output[0])
        return made

    @cached_property
    def computations(self) -> dict[tuple[Any, ...], onnx.NodeProto]:
        """The nodes by what they compute; the first of several that compute the same."""
        nodes = (node for node in reversed(self.nodes) if node.input and not any(bodies(node)))
        return {self.computation(node): node for node in nodes}

    def computation(self, node: onnx.NodeProto) -> tuple[Any, ...]:
        """What a node computes of tensors, which have their first names."""
        return computation(node, [self.name(name) for name in node.input])


def computation(node: onnx.NodeProto, names: Sequence[str | None]) -> tuple[Any, ...]:
    """What a node computes of the tensors `names`: equal for nodes that make the same of the same."""
    serialized = sorted(a.SerializeToString(deterministic=True) for a in node.attribute)
    return (called(node), node.overload, tuple(serialized), tuple(names), len(node.output))
