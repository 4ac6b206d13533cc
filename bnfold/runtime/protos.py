"""What is needed of a ModelProto that is to be run: its tensors, what makes them, what a caller feeds."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import onnx

from ..model.messages import SCALARS

Array = npt.NDArray[Any]
FLOATS = frozenset({onnx.TensorProto.FLOAT, onnx.TensorProto.FLOAT16, onnx.TensorProto.BFLOAT16})
FLOATING = FLOATS | {onnx.TensorProto.DOUBLE}


def opset(model: onnx.ModelProto) -> int:
    """The version of the standard operator set the model imports (0: none)."""
    return max((entry.version for entry in model.opset_import if entry.domain in ("", "ai.onnx")), default=0)


def opsets(model: onnx.ModelProto) -> dict[str, int]:
    """The version of each operator set that the model imports; `domain` says how they are called."""
    return {"" if entry.domain == "ai.onnx" else entry.domain: entry.version for entry in model.opset_import}


def stored(graph: onnx.GraphProto) -> dict[str, onnx.TensorProto]:
    """Every tensor the graph stores by name: initializers, and Constant nodes whose value is numbers."""
    tensors = {tensor.name: tensor for tensor in graph.initializer}
    made = ((node, constant_value(node)) for node in graph.node if is_constant_node(node))
    tensors.update((node.output[0], value) for node, value in made if value is not None)
    return tensors


def attributes(node: onnx.NodeProto) -> dict[str, Any]:
    """The values of the attributes that a node states, by their names."""
    return {attribute.name: onnx.helper.get_attribute_value(attribute) for attribute in node.attribute}


def constant_value(node: onnx.NodeProto) -> onnx.TensorProto | None:
    """What a Constant node makes: the tensor in it, or one made of the numbers in it; None of another kind of value."""
    for attribute in node.attribute:
        if attribute.name == "value":
            tensor: onnx.TensorProto = attribute.t
            return tensor
        if attribute.name in SCALARS:
            value = np.array(onnx.helper.get_attribute_value(attribute), SCALARS[attribute.name])
            return onnx.numpy_helper.from_array(value)
    return None


def is_constant_node(node: onnx.NodeProto) -> bool:
    return node.op_type == "Constant" and node.domain in ("", "ai.onnx")


def caller_inputs(graph: onnx.GraphProto) -> list[onnx.ValueInfoProto]:
    """The inputs a caller has to feed: an input that is also an initializer has a value already."""
    initial = {tensor.name for tensor in graph.initializer}
    return [value for value in graph.input if value.name not in initial]


def overridable(model: onnx.ModelProto) -> dict[str, onnx.TensorProto]:
    """The initializers that a caller may replace, because they are inputs as well.

    Not up to IR version 3, which forces every initializer into the inputs; nor where all of them are listed, a habit of
    exporters that says nothing about callers.
    """
    names = {value.name for value in model.graph.input}
    defaults = {tensor.name: tensor for tensor in model.graph.initializer if tensor.name in names}
    return defaults if model.ir_version >= 4 and len(defaults) < len(model.graph.initializer) else {}


def produced(graph: onnx.GraphProto) -> dict[str, onnx.NodeProto]:
    """Which node makes each tensor of the graph itself, in topological order."""
    return {name: node for node in graph.node for name in node.output if name}


def shape(value: onnx.ValueInfoProto) -> list[int | str | None] | None:
    """Dimensions of a value: a number, a symbolic name, or None each; None alone where the rank is unknown."""
    tensor = value.type.tensor_type
    if not tensor.HasField("shape"):
        return None
    return [
        d.dim_value if d.HasField("dim_value") and d.dim_value >= 0 else d.dim_param or None for d in tensor.shape.dim
    ]


def domain(node: onnx.NodeProto) -> str:
    """The operator's domain, the two spellings of the standard one made one."""
    return "" if node.domain == "ai.onnx" else node.domain


def called(node: onnx.NodeProto) -> str:
    """The operator of a node as a person writes it: `Conv`, or `custom.domain::Op`."""
    return f"{domain(node)}::{node.op_type}" if domain(node) else node.op_type


def called_as(function: onnx.FunctionProto) -> str:
    """The operator of nodes that call a function."""
    return called(onnx.NodeProto(domain=function.domain, op_type=function.name))
