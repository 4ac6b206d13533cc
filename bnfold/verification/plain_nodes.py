"""Nodes written in one way, so that those that do the same are equal.

Left out is what says nothing: an attribute with the value that its absence means, as the schema of the operator or the
weights next to it have it, and empty names after the last input. A CastLike is the Cast that it is in this model.
"""

from __future__ import annotations

from collections.abc import Collection
from functools import cached_property
from typing import Any

import onnx
from onnx import helper
from onnx.defs import OpSchema

from ..model.messages import every_node, inner_graphs
from ..runtime import detached
from ..runtime.protos import attributes, called, domain, opsets, stored
from .proof.examples import element_types

OF_EACH_AXIS = {"strides": 1, "dilations": 1, "pads": 0, "output_padding": 0}  # which the schemas say in prose only
OF_A_WEIGHT = {"kernel_shape": ("w", slice(2, None)), "hidden_size": ("r", slice(-1, None))}  # input, its dimensions
DEFAULT_ACTIVATIONS = {"GRU": ["Sigmoid", "Tanh"], "LSTM": ["Sigmoid", "Tanh", "Tanh"], "RNN": ["Tanh"]}

NEUTRAL = {  # which operand leaves the other one as it is, and its value
    "Add": ((0, 1), 0), "Sub": ((1,), 0), "Mul": ((0, 1), 1), "Div": ((1,), 1), "Pad": ((1,), 0)
}  # fmt: skip


class PlainNodes:
    """Copies of the nodes of one model, in its main graph or in bodies, as plain as they can be written."""

    def __init__(self, model: onnx.ModelProto, free: Collection[str] = ()) -> None:
        """`free` are initializers that callers may override."""
        self._model, graphs = model, (model.graph, *inner_graphs(model.graph.node))
        self._versions = opsets(model)
        self._stored = {n: tensor for graph in graphs for n, tensor in stored(graph).items() if n not in free}
        self._read = {name for node in every_node(model.graph.node) for name in node.input}
        self._read.update(output.name for graph in graphs for output in graph.output)

    @cached_property
    def _kinds(self) -> dict[str, int]:
        return element_types(self._model)

    def __call__(self, node: onnx.NodeProto) -> onnx.NodeProto:
        copy = onnx.NodeProto()
        copy.CopyFrom(node)
        if called(node) == "CastLike" and node.input[1] in self._kinds:
            copy.op_type = "Cast"
            copy.attribute.append(helper.make_attribute("to", self._kinds[copy.input.pop()]))
        while copy.input and not copy.input[-1]:
            del copy.input[-1]
        schema, values = self.schema(copy), attributes(copy)
        if schema is not None:
            kept = [a for a in copy.attribute if not self._says_nothing(node, schema, values, a.name)]
            del copy.attribute[:]
            copy.attribute.extend(kept)
        return copy

    def of(self, node: onnx.NodeProto) -> tuple[int, onnx.NodeProto]:
        """The version of the operator as well: what the same words mean."""
        plain = self(node)
        return self.version(plain), plain

    def schema(self, node: onnx.NodeProto) -> OpSchema | None:
        try:
            return onnx.defs.get_schema(node.op_type, self._versions.get(domain(node), 0), domain(node))
        except onnx.defs.SchemaError:
            return None

    def version(self, node: onnx.NodeProto) -> int:
        """Of the operator that a node means."""
        schema = self.schema(node)
        return schema.since_version if schema else self._versions.get(domain(node), 0)

    def _says_nothing(self, node: onnx.NodeProto, schema: OpSchema, values: dict[str, Any], name: str) -> bool:
        """Whether an attribute has the value that its absence means."""
        value, known = values[name], schema.attributes.get(name)
        if known is None or known.required:
            return False
        if known.default_value.name and value == helper.get_attribute_value(known.default_value):
            return True
        if name in OF_EACH_AXIS:
            return all(each == OF_EACH_AXIS[name] for each in value)
        if name in OF_A_WEIGHT:
            return bool(value == self._of_weight(node, schema, *OF_A_WEIGHT[name]))
        return _is_usual(node.op_type, values, name) or (
            name == "storage_order" and self._read.isdisjoint(node.output[1:])
        )

    def _of_weight(self, node: onnx.NodeProto, schema: OpSchema, formal: str, which: slice) -> Any:
        """Some dimensions of the stored input that the schema calls `formal`: a list, or the number of a single one."""
        names = dict(zip((each.name.lower() for each in schema.inputs), node.input, strict=False))
        weight = self._stored.get(names.get(formal, ""))
        dims = [*weight.dims][which] if weight else []
        return dims if which.start > 0 else dims[:1] and dims[0]

    def handed_on(self, node: onnx.NodeProto) -> str:
        """The tensor that a node hands on as it is: Identity, Dropout that is not in training, + 0, * 1."""
        if called(node) == "Identity" or (called(node) == "Dropout" and not any(node.input[2:])):
            return str(node.input[0])
        ports, value = NEUTRAL.get(called(node), ((), 0))
        data = [name for name in node.input if name not in self._stored]
        for port in ports if len(node.input) == 2 and len(data) == 1 else ():
            if node.input[port] in self._stored and _is_all(self._stored[node.input[port]], value):
                return str(data[0])
        return ""


def _is_all(tensor: onnx.TensorProto, value: float) -> bool:
    """Whether a constant is one number, on whichever axes: it gives the result no shape of its own."""
    return set(tensor.dims) <= {1} and len(tensor.dims) <= 1 and bool(detached.values(tensor).ravel()[0] == value)


def _is_usual(operator: str, values: dict[str, Any], name: str) -> bool:
    """Whether an attribute of one kind of operators has the value that the standard gives it in prose."""
    value = values[name]
    if name == "activations" and operator in DEFAULT_ACTIVATIONS:
        both = 1 + (values.get("direction") == b"bidirectional")
        return bool([each.decode() for each in value] == DEFAULT_ACTIVATIONS[operator] * both)
    if name == "perm":
        return bool(value == sorted(value, reverse=True))
    return name == "auto_pad" and value == b"VALID" and not any(values.get("pads", [])) and not values.get("ceil_mode")
