"""A skeleton as an onnx-graphsurgeon graph: a name is looked up graph by graph, from the one that reads it outwards.

onnx-graphsurgeon's own importer copies the names of all graphs around a body, for each body: thousands of Ifs would
take minutes. Here a tensor is made when a node first names it.
"""

from __future__ import annotations

import onnx_graphsurgeon as gs
from onnx import AttributeProto, FunctionProto, GraphProto, ModelProto, NodeProto, ValueInfoProto
from onnx_graphsurgeon.importers.onnx_importer import OnnxImporter

from ..model.storage import Storage
from .links import adopt
from .shadows import defined
from .stored import StoredConstant

NOWHERE = Storage()  # of stubs


class TensorsByName:
    """The tensors of one graph, by name."""

    def __init__(self, graph: GraphProto | FunctionProto, around: TensorsByName | None = None) -> None:
        self.around = around
        self._made: dict[str, gs.Tensor] = {}
        self._defined = frozenset(defined(graph))
        whole = isinstance(graph, GraphProto)
        self._stored = {tensor.name: tensor for tensor in graph.initializer} if whole else {}
        self._stated = stated(graph) if whole else {}

    def own(self, name: str) -> gs.Tensor:
        """The tensor of this name in the graph itself; that of no name is an omitted one."""
        if not name:
            return gs.Variable.empty()
        if name not in self._made:
            self._made[name] = self._tensor(name)
        return self._made[name]

    def __getitem__(self, name: str) -> gs.Tensor:
        """What a node of the graph reads by this name."""
        at: TensorsByName | None = self
        while at is not None and name not in at._defined and name not in at._made:
            at = at.around
        return (at or self).own(name)

    def _tensor(self, name: str) -> gs.Tensor:
        if name in self._stored:
            return StoredConstant.of(self._stored[name], NOWHERE, name)
        return OnnxImporter.import_tensor(self._stated.get(name) or ValueInfoProto(name=name))


def stated(graph: GraphProto) -> dict[str, ValueInfoProto]:
    """The types that a graph states, by the names of tensors; of two for one name, the one with a shape counts."""
    infos: dict[str, ValueInfoProto] = {}
    for value in (*graph.value_info, *graph.input, *graph.output):
        if not infos.setdefault(value.name, value).type.tensor_type.HasField("shape"):
            infos[value.name] = value
    return infos


def graph_of(bare: ModelProto) -> gs.Graph:
    """The graph of a skeleton, whose names mean one tensor each; the values of its constants are stubs."""
    opset = OnnxImporter.get_opset(bare)
    functions = [function(each, opset) for each in bare.functions]
    return graph(bare.graph, None, opset, functions)


def graph(
    message: GraphProto, around: TensorsByName | None, opset: int, functions: list[gs.Function] | None = None
) -> gs.Graph:
    names = TensorsByName(message, around)
    stored = {tensor.name for tensor in message.initializer}
    inputs = [names.own(value.name) for value in message.input if value.name not in stored]
    outputs = [names.own(value.name) for value in message.output]
    nodes = [node(each, names, opset) for each in message.node]
    return gs.Graph(nodes, inputs, outputs, message.name, opset=opset, functions=functions)


def function(message: FunctionProto, opset: int) -> gs.Function:
    names, opset = TensorsByName(message), OnnxImporter.get_opset(message) or opset
    inputs, outputs = ([names.own(name) for name in listed] for listed in (message.input, message.output))
    nodes = [node(each, names, opset) for each in message.node]
    return gs.Function(message.name, message.domain, nodes, inputs, outputs, opset=opset)


def node(message: NodeProto, names: TensorsByName, opset: int) -> gs.Node:
    inner = [a for a in message.attribute if a.type == AttributeProto.GRAPH and not a.ref_attr_name]
    plain = [a for a in message.attribute if a not in inner] if inner else message.attribute
    attributes = dict(OnnxImporter.import_attributes(plain, {}, {}, opset, None)) if plain else {}
    attributes.update((a.name, graph(a.g, names, opset)) for a in inner)
    domain = message.domain if message.HasField("domain") else None
    made = gs.Node(message.op_type, message.name, attributes, [], [names.own(x) for x in message.output], domain)
    adopt(made, opset)
    made.inputs.extend([names[x] for x in message.input])
    return made
