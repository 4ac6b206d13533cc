"""What each tensor of a model means: the operators, attributes and constants that make it of the inputs, without names.

Two tensors of one meaning hold the same values for every input. So nodes that were renamed, sorted anew or written with
their defaults, constants in other encodings, and opset versions that leave an operator as it was, are no changes.
"""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field

import numpy as np
import onnx
from onnx import numpy_helper

from ...model.messages import attribute_graphs
from ...runtime import detached
from ...runtime.copies import without_data
from ...runtime.protos import Array, constant_value, domain, is_constant_node, overridable
from ..plain_nodes import PlainNodes

COMMUTE = frozenset(["Add", "Mul", "And", "Or", "Xor", "Equal"])  # to the last bit, in whatever order they read
ByName = dict[str, bytes]  # of each name its meaning


@dataclass(frozen=True)
class NodeMeaning:
    """A node of a model, where it stands, and what its outputs mean."""

    node: onnx.NodeProto
    where: str  # `then_branch of If 'a'`, nothing in the main graph
    means: tuple[bytes, ...]
    acts: bytes = b""  # what it does, whatever tensors it reads: its operator, attributes and constants


@dataclass
class Meanings:
    """Every node of a model, in the order of `every_node`, and what every name of the main graph means.

    `same` are tensors of the main graph that are known to hold what those of another model mean, each if the tensors
    that it names do; `values` are numbers of tensors that are known. Functions have to be inlined.
    """

    model: onnx.ModelProto
    other: Meanings | None = None
    same: Mapping[str, Collection[str]] = field(default_factory=dict)
    values: Mapping[str, Array] = field(default_factory=dict)
    places: list[NodeMeaning] = field(default_factory=list)
    scope: ByName = field(default_factory=dict)

    def __post_init__(self) -> None:
        free = overridable((self.other or self).model)  # what callers of the other model may not override is constant
        self.plain, self._fixed = PlainNodes(self.model, free), without_data(self.model.graph, free)
        self._numbers = set[bytes]()  # what constants of bodies mean
        self.scope.update((value.name, _hash("input", value.name)) for value in self.model.graph.input)
        stored = (tensor for tensor in self.model.graph.initializer if tensor.name not in free)
        self.scope.update((tensor.name, of_tensor(tensor)) for tensor in stored)
        self._graph(self.model.graph, self.scope, "")

    def outputs(self) -> list[bytes]:
        return [self.scope.get(output.name, b"") for output in self.model.graph.output]

    def _graph(self, graph: onnx.GraphProto, scope: ByName, where: str) -> list[bytes]:
        for sparse in graph.sparse_initializer:
            scope[sparse.values.name] = _hash("sparse", sparse.SerializeToString(deterministic=True))
        for node in graph.node:
            self._node(node, scope, where)
        return [scope.get(output.name, b"") for output in graph.output]

    def _node(self, node: onnx.NodeProto, scope: ByName, where: str) -> None:
        version, plain = self.plain.of(node)
        known = [scope.get(name, _hash("unknown", name)) if name else b"" for name in plain.input]
        kind = domain(node), plain.op_type, version
        in_any_order = domain(node) == "" and node.op_type in COMMUTE
        head = _hash(*kind, *(sorted(known) if in_any_order else known))
        at = len(self.places)
        self.places.append(NodeMeaning(node, where, ()))
        stated = sorted(self._attributes(plain, scope, head))
        whole = _hash(head, *stated)
        constants = (
            meaning if name in self._fixed or meaning in self._numbers else b"data"
            for name, meaning in zip(plain.input, known, strict=True)
        )
        acts = _hash(*kind, *stated, "constants", *(sorted(constants) if in_any_order else constants))
        value = constant_value(node) if is_constant_node(node) else None
        first = of_tensor(value) if value is not None else scope.get(self.plain.handed_on(node), b"")
        self._numbers |= {first} if value is not None else set()
        means = (first or _hash(whole, 0), *(_hash(whole, i) for i in range(1, len(node.output))))
        self.places[at] = NodeMeaning(node, where, means, acts)
        for name, meaning in zip(node.output, means, strict=True):
            scope[name] = meaning if where else self._known(name) or meaning

    def _known(self, name: str) -> bytes | None:
        """What the numbers of a tensor mean or what it means in the other model, where it is known to be the same."""
        if name in self.values:
            return of_tensor(numpy_helper.from_array(self.values[name]))
        if self.other is None or name not in self.same:
            return None
        theirs = self.other.scope
        known = all(each in theirs and self.scope.get(each) == theirs[each] for each in self.same[name])
        return theirs.get(name) if known else None

    def _attributes(self, node: onnx.NodeProto, scope: ByName, head: bytes) -> Iterator[bytes]:
        for attribute in node.attribute:
            bodies = [self._body(node, attribute.name, body, scope, head) for body in attribute_graphs(attribute)]
            yield _hash(attribute.name, *bodies) if bodies else _of_attribute(attribute)

    def _body(self, node: onnx.NodeProto, name: str, body: onnx.GraphProto, outer: ByName, head: bytes) -> bytes:
        """A body hands out what it makes of its inputs and of the tensors around it."""
        where = f"{name} of {node.op_type} {node.name or node.output[0]!r}"
        inner = {**outer, **{value.name: _hash(head, name, i) for i, value in enumerate(body.input)}}
        inner.update((tensor.name, of_tensor(tensor)) for tensor in body.initializer)
        self._numbers.update(inner[tensor.name] for tensor in body.initializer)
        return _hash(head, name, *self._graph(body, inner, where))


def _hash(*parts: object) -> bytes:
    plain = (part if isinstance(part, bytes) else repr(part).encode(errors="surrogatepass") for part in parts)
    return hashlib.sha256(b"".join(len(part).to_bytes(8) + part for part in plain)).digest()


def of_tensor(tensor: onnx.TensorProto) -> bytes:
    """The meaning of stored numbers, however they are encoded."""
    if tensor.data_type == onnx.TensorProto.STRING:
        return _hash("strings", list(tensor.dims), *tensor.string_data)
    values = np.ascontiguousarray(detached.values(tensor))
    return _hash("stored", tensor.data_type, list(tensor.dims), values.tobytes())


def _of_attribute(attribute: onnx.AttributeProto) -> bytes:
    if attribute.type == onnx.AttributeProto.TENSOR:
        return _hash(attribute.name, of_tensor(attribute.t))
    bare = onnx.AttributeProto()
    bare.CopyFrom(attribute)
    bare.ClearField("doc_string")
    bare.type = attribute.type
    return _hash(attribute.name, bare.SerializeToString(deterministic=True))
