"""Which messages of the folded model are byte for byte the original's, and which changed outside the fold sites."""

from __future__ import annotations

import hashlib
import itertools
from collections import defaultdict, deque
from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import onnx

from ..model.messages import all_nodes, bodies
from ..runtime.protos import called, called_as

Name = tuple[int, str]  # the number of the graph that defines it, and the name
Digests = dict[tuple[str, Name], list[bytes]]  # by kind of message and name, in the order of the file
Message = onnx.GraphProto | onnx.FunctionProto
FIELDS = {"initializer": "name", "value_info": "name", "quantization_annotation": "tensor_name"}
STORED = ("initializer", "sparse_initializer")


@dataclass(frozen=True)
class Graph:
    """The main graph, a body or a function, with a number that its counterpart in the other model has as well.

    `own` are the names that it defines in either model: one that the other model lost still means the same tensor.
    """

    number: int
    message: Message
    around: Graph | None = None
    own: frozenset[str] = frozenset()

    def name(self, name: str) -> Name:
        """The tensor that a name means here: the number of the graph that defines it, and the name."""
        if name in self.own or self.around is None:
            return self.number, name
        return self.around.name(name)


def corresponding_graphs(original: onnx.ModelProto, folded: onnx.ModelProto) -> tuple[list[Graph], list[Graph]]:
    """Every graph of both models, each after the one around it; those that correspond have one number."""
    every: tuple[list[Graph], list[Graph]] = ([], [])
    numbers = itertools.count()

    def add(messages: Sequence[Message | None], around: Sequence[Graph | None]) -> None:
        number, names = next(numbers), [_defined(message) for message in messages]
        defined = zip(messages, around, (names[0], names[0] | names[1]), strict=True)
        graphs = [Graph(number, message, outer, own) if message else None for message, outer, own in defined]
        for side, graph in zip(every, graphs, strict=True):
            side += [graph] if graph else []
        for nodes in _counterparts(*(message.node if message else () for message in messages)):
            for pair in itertools.zip_longest(*(bodies(node) if node else () for node in nodes)):
                add(pair, graphs)

    functions = [{called_as(function): function for function in model.functions} for model in (original, folded)]
    add((original.graph, folded.graph), (None, None))
    for name in dict.fromkeys([*functions[0], *functions[1]]):
        add([known.get(name) for known in functions], (None, None))
    return every


def _counterparts(ours: Iterable[onnx.NodeProto], theirs: Iterable[onnx.NodeProto]) -> list[Sequence[Any]]:
    """The nodes with bodies of two graphs in pairs, with None next to one that has no counterpart.

    A fold may remove such nodes, or let one have another output: then its bodies return the same names.
    """
    left = [[node for node in nodes if any(bodies(node))] for nodes in (ours, theirs)]
    pairs: list[Sequence[Any]] = []
    for key in (_first, _returned, called):
        waiting: dict[Any, deque[onnx.NodeProto]] = defaultdict(deque)
        for node in left[1]:
            waiting[key(node)].append(node)
        matches = [(node, same.popleft() if (same := waiting[key(node)]) else None) for node in left[0]]
        pairs += [pair for pair in matches if pair[1]]
        matched = {id(other) for _, other in matches}
        left = [[node for node, other in matches if not other], [node for node in left[1] if id(node) not in matched]]
    return [*pairs, *((node, None) for node in left[0]), *((None, node) for node in left[1])]


def _returned(node: onnx.NodeProto) -> Any:
    """The operator of a node, and the names that its bodies return."""
    return called(node), *(output.name for body in bodies(node) for output in body.output)


def _defined(graph: Message | None) -> frozenset[str]:
    if graph is None:
        return frozenset()
    made = {name for node in graph.node for name in node.output}
    if isinstance(graph, onnx.FunctionProto):
        return frozenset({*made, *graph.input})
    sparse = (tensor.values.name for tensor in graph.sparse_initializer)
    return frozenset({*made, *sparse, *(x.name for x in [*graph.initializer, *graph.input])})


def merged(graphs: Iterable[Graph]) -> list[Graph]:
    """The same graphs, all with one number: where functions are inlined, messages are compared by their names alone."""
    return [Graph(0, graph.message) for graph in graphs]


def differ(before: list[bytes], after: list[bytes], inlined: bool) -> bool:
    """Whether messages of one name are others; where functions are inlined, one may be there more or less often."""
    return not {*after} <= {*before} if inlined else after != before


class Messages:
    """The messages of two models by kind and name, and which of them differ."""

    def __init__(self, original: onnx.ModelProto, folded: onnx.ModelProto) -> None:
        self.original, self.folded = original, folded
        self.graphs = corresponding_graphs(original, folded)
        self.inlined = {*map(called_as, original.functions)} != {*map(called_as, folded.functions)}
        if self.inlined:
            self.graphs = merged(self.graphs[0]), merged(self.graphs[1])
        self.before, self.after = digests(original, self.graphs[0]), digests(folded, self.graphs[1])
        self.different = {
            key for key, after in self.after.items() if differ(self.before.get(key, []), after, self.inlined)
        }

    def undeclared(self, declared: Collection[str] | None) -> Iterator[tuple[str, str]]:
        """What changed outside the fold sites: the kind of message, and a sentence.

        `declared` are the sites, as the first outputs of their nodes; without it every node that differs, or reads a
        constant that does, is one.
        """
        allowed = {*_about(self.graphs[1], self.different, declared)}
        for kind, name in sorted(self.different):
            if name not in allowed:
                yield kind, f"{kind} {name[1]!r} {'changed' if (kind, name) in self.before else 'is new'}"
        yield from self._gone()
        yield from _labels(self.original, self.folded)

    def _gone(self) -> Iterator[tuple[str, str]]:
        """What is gone and was not used, or is still used; but for nodes, and bodies that are gone with their node."""
        used, left = map(_mentioned, self.graphs)
        numbers = {graph.number for graph in self.graphs[1]}
        for kind, name in sorted(self.before.keys() - self.after.keys()):
            stays = name in left and not (self.inlined and kind in STORED)
            if kind not in ("node", "graph") and name[0] in numbers and (stays or name not in used):
                yield kind, f"{kind} {name[1]!r} is gone"

    def count(self) -> tuple[int, int]:
        """How many messages of the folded model are the original's, and how many are not."""
        return len(self.after) - len(self.different), len(self.different)


def digests(model: onnx.ModelProto, graphs: Iterable[Graph]) -> Digests:
    """The sha256 of every message of a model that has a name; of nodes without the graphs that are nested in them."""
    by_name: Digests = {}
    for kind, name, message in _every(model, graphs):
        digest = hashlib.sha256(message.SerializeToString(deterministic=True)).digest()
        by_name.setdefault((kind, name), []).append(digest)
    return by_name


def _every(model: onnx.ModelProto, graphs: Iterable[Graph]) -> Iterator[tuple[str, Name, Any]]:
    for graph in graphs:
        for kind, name, message in _in_graph(graph.message):
            yield kind, (graph.number * (kind != "function"), name), message
    for number, training in enumerate(model.training_info):
        yield "training_info", (0, str(number)), training


def _in_graph(graph: Message) -> Iterator[tuple[str, str, Any]]:
    for node in graph.node:
        yield "node", _first(node), _without_graphs(node) if any(bodies(node)) else node
    if isinstance(graph, onnx.FunctionProto):
        yield "function", called_as(graph), _bare(graph, "node")
        return
    yield "graph", graph.name, onnx.GraphProto(doc_string=graph.doc_string, metadata_props=graph.metadata_props)
    for field, key in FIELDS.items():
        yield from ((field, getattr(message, key), message) for message in getattr(graph, field))
    yield from (("sparse_initializer", sparse.values.name, sparse) for sparse in graph.sparse_initializer)


def _first(node: onnx.NodeProto) -> str:
    return next((name for name in node.output if name), "")


def _without_graphs(node: onnx.NodeProto) -> Any:
    bare = _bare(node, "attribute")
    for attribute in node.attribute:
        bare.attribute.append(_bare(attribute, "g", "graphs"))
    return bare


def _bare(message: Any, *fields: str) -> Any:
    copy = type(message)()
    copy.CopyFrom(message)
    for field in fields:
        copy.ClearField(field)
    return copy


def _about(
    graphs: Iterable[Graph], different: Collection[tuple[str, Name]], declared: Collection[str] | None
) -> Iterator[Name]:
    """The names that fold sites may change: those of tensors that they make or read."""
    for graph, node in _nodes(graphs):
        names = [graph.name(name) for name in (*node.input, *node.output)]
        if declared is None:
            changed = any((kind, name) in different for kind in STORED for name in names)
            is_site = changed or ("node", graph.name(_first(node))) in different
        else:
            is_site = _first(node) in declared
        if is_site:
            yield from names


def _nodes(graphs: Iterable[Graph]) -> Iterator[tuple[Graph, onnx.NodeProto]]:
    return ((graph, node) for graph in graphs for node in graph.message.node)


def _mentioned(graphs: Iterable[Graph]) -> set[Name]:
    """Names that nodes make or read, and names of operators."""
    names: set[Name] = set()
    for graph, node in _nodes(graphs):
        names.update(graph.name(name) for name in (*node.input, *node.output))
        names.add((0, called(node)))
    return names


def _labels(original: onnx.ModelProto, folded: onnx.ModelProto) -> Iterator[tuple[str, str]]:
    """Changes of the documentation, the metadata and the order of nodes: even a fold site keeps them."""
    before, after = ({node.name: node for node in all_nodes(model) if node.name} for model in (original, folded))
    for name in sorted(before.keys() & after.keys()):
        old, new = (nodes[name] for nodes in (before, after))
        if (old.doc_string, *old.metadata_props) != (new.doc_string, *new.metadata_props):
            yield "documentation", f"node {name!r} has other documentation or metadata"
    if [name for name in before if name in after] != [name for name in after if name in before]:
        yield "order", "the order of the nodes changed"
