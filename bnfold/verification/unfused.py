"""Operators that onnxruntime fuses when it writes an optimized file, as the standard ones that they stand for.

FusedConv is Conv, then the sum with a fourth input, then an activation; FusedGemm is Gemm, then an activation.
"""

from __future__ import annotations

from collections.abc import Iterator

import onnx
from onnx import helper

from ..runtime.protos import attributes, called

STANDARD = {"com.microsoft::FusedConv": "Conv", "com.microsoft::FusedGemm": "Gemm"}
PARAMETERS = {"LeakyRelu": ("alpha",), "HardSigmoid": ("alpha", "beta"), "Relu": (), "Tanh": (), "Sigmoid": ()}


def unfused(model: onnx.ModelProto) -> onnx.ModelProto:
    """The model, or a copy of which no node of the main graph is fused, except with an activation of another kind."""
    nodes = [part for node in model.graph.node for part in _parts(node)]
    if len(nodes) == len(model.graph.node):
        return model
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    del copy.graph.node[:]
    copy.graph.node.extend(nodes)
    return copy


def _parts(node: onnx.NodeProto) -> Iterator[onnx.NodeProto]:
    values = attributes(node)
    activation = values.get("activation", b"").decode()
    if called(node) not in STANDARD or activation not in PARAMETERS:
        yield node
        return
    operator, output, summed = STANDARD[called(node)], node.output[0], node.input[3:4] if "Conv" in node.op_type else []
    own = {name: value for name, value in values.items() if not name.startswith("activation")}
    made = f"{output}/{operator}"
    yield helper.make_node(operator, node.input[:3], [made], f"{node.name}/{operator}", **own)
    if any(summed):
        yield helper.make_node("Add", [made, *summed], [f"{output}/Add"])
        made = f"{output}/Add"
    listed = values.get("activation_params", [values.get(f"activation_{name}") for name in PARAMETERS[activation]])
    stated = {n: value for n, value in zip(PARAMETERS[activation], listed, strict=False) if value is not None}
    yield helper.make_node(activation, [made], [output], node.name, **stated)
