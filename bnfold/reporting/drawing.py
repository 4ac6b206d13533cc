"""A model as a graph to be drawn: plain nodes and edges, bodies and functions laid open, constants left out."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from onnx import AttributeProto, FunctionProto, GraphProto, ModelProto, NodeProto, TensorProto, helper

from ..model.messages import bodies

ATTRIBUTE_LENGTH = 200  # characters of an attribute
SHOWN_ATTRIBUTES = {
    AttributeProto.INT,
    AttributeProto.INTS,
    AttributeProto.FLOAT,
    AttributeProto.FLOATS,
    AttributeProto.STRING,
}


@dataclass
class Drawing:
    """`nodes` in the order of the graph; `edges` (from, to, tensor) by their places in it; `constants` by name.

    A node has `kind` (node, input, output), `op`, `domain`, `name`, `inputs`, `outputs`, `attributes`, and is `inside`
    the node whose body it belongs to (its place), or a function (its name).
    """

    nodes: list[dict[str, Any]] = field(default_factory=list)
    edges: list[tuple[int, int, str]] = field(default_factory=list)
    constants: dict[str, str] = field(default_factory=dict)

    def add(self, kind: str, inside: int | str | None, **fields: Any) -> int:
        """A node; returns its place. What is empty is left out."""
        stated = {key: value for key, value in {**fields, "inside": inside}.items() if value or value == 0}
        self.nodes.append({"kind": kind, **stated})
        return len(self.nodes) - 1

    def read(self, names: Iterable[str], scope: Mapping[str, int], reader: int) -> None:
        """Edges from whoever makes these tensors."""
        self.edges += [(scope[name], reader, name) for name in dict.fromkeys(names) if name in scope]

    def add_graph(self, graph: GraphProto, around: Mapping[str, int], inside: int | None) -> None:
        """A graph, which may read what is made in the graphs `around` it; the result of a body goes to its node."""
        self.constants |= {tensor.name: _described(tensor) for tensor in graph.initializer}
        stored = {tensor.name for tensor in graph.initializer}
        free = [value.name for value in graph.input if value.name not in stored]
        inputs = {name: self.add("input", None, name=name, outputs=[name]) for name in free if inside is None}
        hidden = stored | set(free)
        scope = {name: place for name, place in around.items() if name not in hidden} | inputs
        self.add_nodes(graph.node, scope, inside)
        for value in graph.output:
            reader = self.add("output", None, name=value.name, inputs=[value.name]) if inside is None else inside
            self.read([value.name], scope, reader)

    def add_function(self, function: FunctionProto) -> None:
        """The body of a function stands apart: its callers are nodes of their own."""
        self.add_nodes(function.node, {}, f"{function.domain}::{function.name}")

    def add_nodes(self, nodes: Iterable[NodeProto], scope: dict[str, int], inside: int | str | None) -> None:
        """Nodes in order; `scope` comes to know what they make."""
        for node in nodes:
            if node.op_type == "Constant" and node.domain in ("", "ai.onnx"):
                self.constants |= dict.fromkeys(node.output, "Constant")
                continue
            place = self.add("node", inside, **_fields(node))
            self.read(node.input, scope, place)
            for body in bodies(node):
                self.add_graph(body, scope, place)
            scope |= {name: place for name in node.output if name}

    def plain(self) -> dict[str, Any]:
        """Plain data; of the constants those that some node reads."""
        used = {name for node in self.nodes for name in node.get("inputs", ())}
        known = {name: what for name, what in self.constants.items() if name in used}
        return {"nodes": self.nodes, "edges": [list(edge) for edge in self.edges], "constants": known}


def draw_graph(model: ModelProto) -> Drawing:
    """The graph of a model, and the bodies of its functions."""
    drawing = Drawing()
    drawing.add_graph(model.graph, {}, None)
    for function in model.functions:
        drawing.add_function(function)
    return drawing


def _fields(node: NodeProto) -> dict[str, Any]:
    stated = {attribute.name: _short(attribute) for attribute in node.attribute if attribute.type in SHOWN_ATTRIBUTES}
    names = {"op": node.op_type, "domain": node.domain, "name": node.name}
    return {**names, "inputs": [*node.input], "outputs": [*filter(None, node.output)], "attributes": stated}


def _short(attribute: AttributeProto) -> str:
    value = helper.get_attribute_value(attribute)
    if isinstance(value, bytes):
        value = value.decode("utf-8", "replace")
    elif isinstance(value, float):
        value = f"{value:.6g}"
    elif not isinstance(value, int):
        value = ", ".join(f"{each:.6g}" if isinstance(each, float) else str(each) for each in value[:ATTRIBUTE_LENGTH])
    return str(value)[:ATTRIBUTE_LENGTH]


def _described(tensor: TensorProto) -> str:
    """`float32 64×3×7×7`"""
    known = tensor.data_type in helper.get_all_tensor_dtypes()
    kind = TensorProto.DataType.Name(tensor.data_type).lower() if known else "unknown"
    kind = {"float": "float32", "double": "float64"}.get(kind, kind)
    return f"{kind} {'×'.join(map(str, tensor.dims)) or 'scalar'}"
