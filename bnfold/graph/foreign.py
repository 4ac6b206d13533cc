"""Quantization that other tools than ONNX define: rounding by rules of their own, which nothing here changes."""

from __future__ import annotations

import onnx_graphsurgeon as gs

QUANT_OPERATORS = {"Quant", "IntQuant", "FloatQuant", "BipolarQuant", "Trunc"}  # of QONNX, Brevitas and FINN
DOMAINS = ("qonnx.", "onnx.brevitas", "finn.")
KEEP_SHAPES = {*QUANT_OPERATORS, "QuantizeLinear", "DequantizeLinear"}
OF_ONNXRUNTIME = ("Q", "Dequantize", "DynamicQuantize", "MatMulInteger")  # how the names of its operators begin


def is_foreign_quantizer(node: gs.Node) -> bool:
    """Whether a node rounds to integers, or computes with them, by rules of QONNX, Brevitas, FINN or onnxruntime."""
    domain = node.domain or ""
    if domain == "com.microsoft":
        return str(node.op).startswith(OF_ONNXRUNTIME)
    return node.op in QUANT_OPERATORS and domain.startswith(DOMAINS)


def keeps_type(node: gs.Node) -> bool:
    """Whether a node makes numbers of the type that it reads, rounded."""
    return node.op in QUANT_OPERATORS and is_foreign_quantizer(node)


def alike_operator(node: gs.Node) -> str:
    """The ONNX operator whose output has the shape of that of a node; '' if none is known."""
    if node.domain in (None, "", "ai.onnx"):
        return str(node.op)
    return "Identity" if node.op in KEEP_SHAPES and is_foreign_quantizer(node) else ""
