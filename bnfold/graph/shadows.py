"""Names that mean several tensors: ONNX resolves them graph by graph, onnx-graphsurgeon over all graphs around a body.

A body may call a tensor of its own by a name that a graph around it has, too: that of an initializer, or of what is
made later. Before the view is made, such tensors of a skeleton get other names; in the view they get back theirs.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import onnx_graphsurgeon as gs
from onnx import FunctionProto, GraphProto, ModelProto, NodeProto, ValueInfoProto

from ..model.messages import bodies, inner_graphs

NameMap = dict[str, str]


def defined(graph: GraphProto | FunctionProto) -> Iterator[str]:
    """What a graph itself gives a name: its inputs, its initializers, and what its nodes make."""
    if isinstance(graph, FunctionProto):
        yield from graph.input
    else:
        yield from (value.name for value in [*graph.input, *graph.initializer])
        yield from (tensor.values.name for tensor in graph.sparse_initializer)
    yield from (name for node in graph.node for name in node.output if name)


def unshadowed(bare: ModelProto) -> NameMap:
    """Rename what shadows another tensor; returns the old names by the new ones."""
    parts = (bare.graph, *bare.functions)
    inner = [body for part in parts for body in inner_graphs(part.node)]
    renaming = _Renaming({name for graph in (*parts, *inner) for name in mentioned(graph)} if inner else set())
    for part in parts if inner else ():
        renaming.in_bodies(part.node, (frozenset(defined(part)),), {})
    return renaming.names


def mentioned(graph: GraphProto | FunctionProto) -> Iterator[str]:
    """Every name in a graph itself, also those that are of a graph around it."""
    yield from defined(graph)
    yield from (name for node in graph.node for name in node.input)


class FreshNames:
    """Names that are not taken: a stem where that is free, else the stem and a number."""

    def __init__(self, taken: Iterable[str]) -> None:
        self._taken = {*taken}
        self._last: dict[str, int] = {}  # number given to a name that was taken

    def name(self, stem: str) -> str:
        name, n = stem, self._last.get(stem, 0)
        while name in self._taken:
            n += 1
            name = f"{stem}_{n}"
        self._last[stem] = n
        self._taken.add(name)
        return name


class _Renaming:
    """New names, none of which is taken; `names` are the old ones by these."""

    def __init__(self, taken: Iterable[str]) -> None:
        self.fresh, self.names = FreshNames(taken), NameMap()

    def in_bodies(self, nodes: Iterable[NodeProto], around: tuple[frozenset[str], ...], changed: NameMap) -> None:
        """Rename in the bodies of some nodes; `changed` are the new names of the graphs around, by the old ones."""
        for body in (body for node in nodes for body in bodies(node)):
            own = frozenset(defined(body))
            new = {name: self.fresh.name(name) for name in sorted(own) if any(name in outer for outer in around)}
            self.names.update((name, old) for old, name in new.items())
            names = {**{old: name for old, name in changed.items() if old not in own}, **new}
            _rename(body, names)
            self.in_bodies(body.node, (*around, own), names)


def _rename(graph: GraphProto, names: NameMap) -> None:
    """Give tensors new names wherever a graph itself, without the bodies in it, mentions them."""
    if not names:
        return
    for node in graph.node:
        for listed in (node.input, node.output):
            listed[:] = [names.get(name, name) for name in listed]
    for value in [*graph.input, *graph.output, *graph.value_info, *graph.initializer]:
        value.name = names.get(value.name, value.name)
    for sparse in graph.sparse_initializer:
        sparse.values.name = names.get(sparse.values.name, sparse.values.name)


def declare(bare: ModelProto) -> None:
    """Let a graph with bodies list whatever its nodes make: bodies may read it, and the nodes may be in any order."""
    graphs = [bare.graph, *(body for part in (bare.graph, *bare.functions) for body in inner_graphs(part.node))]
    for graph in (graph for graph in graphs if any(any(bodies(node)) for node in graph.node)):
        known = {value.name for value in [*graph.value_info, *graph.output]}
        made = (name for node in graph.node for name in node.output if name and name not in known)
        graph.value_info.extend(ValueInfoProto(name=name) for name in made)


def restore(view: gs.Graph | gs.Function, names: NameMap) -> None:
    """Let every tensor of a view, and of the bodies in it, have the name that it has in the record."""
    for tensor in [*view.inputs, *view.outputs, *(x for n in view.nodes for x in (*n.inputs, *n.outputs))]:
        tensor.name = names.get(tensor.name, tensor.name)
    for node in view.nodes:
        for value in node.attrs.values():
            if isinstance(value, gs.Graph):
                restore(value, names)
