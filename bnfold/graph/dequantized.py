"""What a DequantizeLinear makes of constants: codes, less a zero point, times a scale."""

from __future__ import annotations

import numpy as np
import onnx_graphsurgeon as gs

from ..algebra.affine import Array
from .queries import attribute, constant, has, is_constant, operator, size

CODES, SCALE, ZERO = 0, 1, 2  # inputs


def parameter(node: gs.Node, index: int, rank: int) -> Array:
    """The scale or zero point of a quantization, of the rank of what is quantized."""
    value = constant(node, index).astype(np.float64) if has(node, index) else np.zeros(())
    axis, block = attribute(node, "axis", 1) % rank, attribute(node, "block_size", 0)
    if block and value.ndim:
        return np.repeat(value, block, axis).take(range(size(node.inputs[CODES], axis)), axis)
    return value.reshape([-1 if i == axis else 1 for i in range(rank)] if value.size > 1 else (1,) * rank)


def is_dequantized(tensor: gs.Tensor) -> bool:
    """Whether a DequantizeLinear makes a tensor of constants."""
    maker = tensor.inputs[0] if tensor.inputs else None
    if maker is None or operator(maker) != "DequantizeLinear":
        return False
    return all(is_constant(x) for x in maker.inputs if not x.is_empty())


def dequantized(tensor: gs.Tensor) -> Array:
    """What a DequantizeLinear makes of constants, in float64."""
    node = tensor.inputs[0]
    codes = constant(node, CODES).astype(np.float64)
    zero, scale = (parameter(node, index, codes.ndim) for index in (ZERO, SCALE))
    return np.asarray((codes - zero) * scale)


def known_value(node: gs.Node, index: int) -> Array:
    """A constant input, or what a DequantizeLinear makes of constants. Refuses what a run computes."""
    return dequantized(node.inputs[index]) if is_dequantized(node.inputs[index]) else constant(node, index)
