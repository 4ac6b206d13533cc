"""The graphs of a model: the main one, the bodies of If, Loop and Scan, and the bodies of functions."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import onnx
import onnx_graphsurgeon as gs
from onnx import AttributeProto, FunctionProto, GraphProto, NodeProto, SparseTensorProto, TensorProto, ValueInfoProto

from ..algebra.affine import require
from ..model.messages import PLAIN_ATTRIBUTES, arrange, bodies, drop_named, set_shape
from ..model.order import topological
from ..model.storage import Storage
from ..model.tensors import dense
from .shadows import defined, mentioned
from .stored import StoredConstant


@dataclass(eq=False)
class Scope:
    """One graph: its message, the nodes of the view, in topological order, and the graph around it.

    `places` are those of the view's nodes in the message. New nodes are appended to both, and take their places when
    the graph is cleared.
    """

    message: GraphProto | FunctionProto
    view: gs.Graph | gs.Function
    parent: Scope | None
    nodes: list[gs.Node] = field(default_factory=list)
    added: dict[int | None, list[gs.Node]] = field(default_factory=dict)  # new nodes, by id() of the one before them
    gone: set[str] = field(default_factory=set)  # names that nothing in this graph uses any more
    stored: dict[str, TensorProto] = field(default_factory=dict)
    sparse: dict[str, SparseTensorProto] = field(default_factory=dict)
    own: frozenset[str] = frozenset()  # the names that it defines, as it was read
    places: Sequence[int] = ()

    def __post_init__(self) -> None:
        self.places = topological(self.message.node)
        self.nodes, self.own = list(self.view.nodes), frozenset(defined(self.message))
        if isinstance(self.message, GraphProto):
            self.stored = {t.name: t for t in self.message.initializer}
            self.sparse = {t.values.name: t for t in self.message.sparse_initializer}

    @property
    def pairs(self) -> list[tuple[gs.Node, NodeProto]]:
        """The nodes as they were read, each with its message."""
        return [(n, self.message.node[i]) for n, i in zip(self.view.nodes, self.places, strict=True)]

    @property
    def is_function(self) -> bool:
        return isinstance(self.message, FunctionProto)

    @property
    def root(self) -> Scope:
        """The outermost graph around this one: the main graph, or that of a function."""
        return self.parent.root if self.parent else self

    def meaning(self, name: str) -> Scope | None:
        """The graph, this one or the nearest around it, that defines the tensor which a name means here."""
        if name in self.own:
            return self
        return self.parent.meaning(name) if self.parent else None

    def storing(self, name: str) -> Scope | None:
        """The graph, this one or one around it, that stores an initializer of this name."""
        if name in self.stored or name in self.sparse:
            return self
        return self.parent.storing(name) if self.parent else None

    def give_values(self, constant: StoredConstant, storage: Storage) -> None:
        """Let a constant take its values from the initializer of its name; a sparse one is made dense."""
        if constant.name in self.stored:
            constant.store_in(self.stored[constant.name], storage)
        else:
            values = dense(self.sparse[constant.name], storage)
            constant.home, constant.storage = None, storage
            constant.replace(values.dtype, values)

    def names(self) -> Iterator[str]:
        """Every name that is taken in this graph."""
        yield from mentioned(self.message)
        yield from (x if isinstance(x, str) else x.name for x in self.message.output)
        yield from (value.name for value in self.message.value_info)

    def stated(self) -> Iterator[ValueInfoProto]:
        """The types that the message states, of inputs and of tensors inside."""
        yield from self.message.value_info
        if isinstance(self.message, GraphProto):
            yield from self.message.input

    def widen(self, tensor: gs.Tensor, shape: tuple[int, ...]) -> None:
        """State the shape of a tensor that has become larger, by what is of `shape`."""
        tensor.shape = np.broadcast_shapes(tuple(tensor.shape or ()), shape)
        for value in (value for value in self.stated() if value.name == tensor.name):
            set_shape(value, tensor.shape)

    def insert(self, before: gs.Node | None, node: gs.Node, message: NodeProto) -> NodeProto:
        """Put a new node right after another one, or at the front; returns its message in the record."""
        self.added.setdefault(before and id(before), []).append(node)
        self.nodes.append(node)
        stored: NodeProto = self.message.node.add()
        stored.CopyFrom(message)
        return stored

    def in_order(self, as_read: bool = False) -> Iterator[gs.Node]:
        """The nodes, new ones at their places; of those at one place the newest comes first.

        They are in topological order, or `as_read`: in the order of the message.
        """
        nodes = self.nodes[: len(self.view.nodes)]
        yield from reversed(self.added.get(None, []))
        for node in self.as_read(nodes) if as_read else nodes:
            yield node
            yield from reversed(self.added.get(id(node), []))

    def as_read(self, nodes: Iterable[gs.Node]) -> list[gs.Node]:
        """Nodes of the view in the order of the message."""
        return [node for _, node in sorted(zip(self.places, nodes, strict=True), key=lambda pair: pair[0])]

    def clear(self, is_alive: Callable[[gs.Node], bool]) -> None:
        """Take the dead nodes, and every message about names that are gone, out of the record."""
        places = {id(n): i for i, n in enumerate(n for n in self.in_order(as_read=True) if is_alive(n))}
        read = len(self.places)
        stored = [*self.as_read(self.nodes[:read]), *self.nodes[read:]]
        arrange(self.message.node, [places.get(id(n), len(places)) for n in stored])
        del self.message.node[len(places) :]
        for kind in ("initializer", "value_info"):
            drop_named(self.message, kind, lambda t: t.name in self.gone)
        drop_named(self.message, "sparse_initializer", lambda t: t.values.name in self.gone)
        drop_named(self.message, "quantization_annotation", lambda q: q.tensor_name in self.gone)


def scopes_of(view: gs.Graph, record: onnx.ModelProto) -> list[Scope]:
    """Every graph of a model, the main one first, each after the one around it."""
    functions = zip(view.functions, record.functions, strict=True)
    return [*_scopes(view, record.graph), *(s for pair in functions for s in _scopes(*pair))]


def _scopes(
    view: gs.Graph | gs.Function, message: GraphProto | FunctionProto, parent: Scope | None = None
) -> Iterator[Scope]:
    scope = Scope(message, view, parent)
    yield scope
    for node, proto in scope.pairs:
        for attribute in proto.attribute:
            if attribute.type == AttributeProto.GRAPH and isinstance(node.attrs.get(attribute.name), gs.Graph):
                yield from _scopes(node.attrs[attribute.name], attribute.g, scope)


def homes(scopes: list[Scope], storage: Storage) -> dict[int, Scope]:
    """Let constants of the view take their values from the record; returns the graph of each tensor, by its id()."""
    owners = {id(x): s for s in scopes for n in s.nodes for x in n.outputs}
    for scope in scopes:
        for tensor in (x for n in scope.nodes for x in n.inputs if isinstance(x, StoredConstant)):
            home = scope.storing(tensor.name) if id(tensor) not in owners else None
            if home is not None:
                owners[id(tensor)] = home
                home.give_values(tensor, storage)
        for node, message in (pair for pair in scope.pairs if pair[0].op == "Constant"):
            literal = next((a.t for a in message.attribute if a.name == "value" and a.HasField("t")), None)
            if literal is not None and isinstance(node.attrs.get("value"), gs.Constant):
                made = StoredConstant.of(literal, storage, node.attrs["value"].name, node)
                node.attrs["value"] = made
                owners[id(made)] = scope
    return owners


def visibility(scopes: list[Scope]) -> Visible:
    """What not only its consumers can see: outputs, and names that are returned from inside another graph.

    onnx-graphsurgeon does not read attributes that hold several graphs: whatever those name is visible, too.
    """
    outputs = [x for scope in scopes for x in scope.view.outputs]
    captured = {x.name for scope in scopes[1:] for x in scope.view.outputs if x.name not in scope.own}
    holding = (a for s in scopes for n in s.message.node for a in n.attribute if a.type not in PLAIN_ATTRIBUTES)
    unread = (g for a in holding for g in a.graphs)
    captured |= {x for graph in unread for x in every_name(graph.node)}
    return Visible(Counter(map(id, outputs)), frozenset(captured))


def every_name(nodes: Iterable[NodeProto]) -> Iterator[str]:
    """The names that nodes, and the bodies in them, mention."""
    for node in nodes:
        yield from [*node.input, *node.output]
        for graph in bodies(node):
            yield from every_name(graph.node)
            yield from (x.name for x in graph.output)


@dataclass(frozen=True)
class Visible:
    """Tensors that more than their consumers can see: how often graphs return each, by id(), and names in other graphs.

    `captured` are the names that a body returns but does not define, or that lie in graphs that nobody reads.
    """

    outputs: Mapping[int, int]
    captured: frozenset[str]

    def __contains__(self, tensor: gs.Tensor) -> bool:
        return id(tensor) in self.outputs or tensor.name in self.captured

    def is_read_once(self, tensor: gs.Tensor) -> bool:
        """Whether one node reads a tensor, once, and nothing else can see it."""
        return len(tensor.outputs) == 1 and tensor not in self

    def require_private(self, tensor: gs.Tensor) -> None:
        name = tensor.name
        require(id(tensor) not in self.outputs, "GRAPH_OUTPUT", f"'{name}' is an output of the graph")
        require(name not in self.captured, "SUBGRAPH", f"'{name}' is returned from the subgraph of another node")

    def require_returned_once(self, tensor: gs.Tensor) -> None:
        """Refuse what a body returns, if anything but the node of that body sees it."""
        name, seen = tensor.name, tensor.outputs or tensor.name in self.captured
        require(not seen and self.outputs[id(tensor)] == 1, "SHARED", f"'{name}', which a body returns, is read in it")
