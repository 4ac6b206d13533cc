"""Quantization: the scale changes, and stays positive; integers at most change their sign."""

from __future__ import annotations

import ml_dtypes
import numpy as np
import onnx_graphsurgeon as gs

from ...algebra.affine import Affine, Array, compress, require
from ...algebra.casting import is_unsigned
from ...algebra.rounding import keeps_codes
from ...graph.constants import is_known, value_of
from ...graph.queries import attribute, carries_data, constant, dims, dtype, has, is_constant, label, operator, size
from . import HOIST, Shares, hoist, sink
from .guards import inverse, no_shift, uniform

CODES, SCALE, ZERO = 0, 1, 2


@hoist("DequantizeLinear")
def hoist_dequantize(node: gs.Node, port: int, affine: Affine) -> Shares:
    """s * ((q - z) * scale) == ((z + sign(s) * (q - z)) - z) * (|s| * scale), where |s| counts as 1 if s is 0"""
    no_shift(node, affine)
    magnitude = np.where(affine.scale == 0, 1.0, np.abs(affine.scale))
    return {SCALE: on_parameter(node, Affine.of(magnitude)), **turned(node, np.sign(affine.scale))}


def turned(node: gs.Node, sign: Array) -> Shares:
    """q -> z + sign * (q - z); of unsigned integers, where one has no opposite, q -> max - q and z -> max - z."""
    if np.all(sign == 1):
        return {}
    codes, zero = node.inputs[CODES], zero_point(node, sign.ndim)
    stored = is_constant(codes) or (codes.inputs and operator(codes.inputs[0]) in HOIST)
    require(stored, "NEGATIVE_SCALE", f"the scale of {label(node)} has to stay positive")
    own, kind = Affine.of(sign, (1 - sign) * zero), dtype(codes)
    if not (is_unsigned(kind) and is_constant(codes) and has(node, ZERO)) or keeps_codes(own, value_of(codes), kind):
        return {CODES: own}
    most = float(ml_dtypes.iinfo(kind).max)  # type: ignore[no-untyped-call]
    is_negative = sign < 0
    mirrored = Affine.of(np.where(is_negative, -1.0, 1.0), np.where(is_negative, most, 0.0))
    return {CODES: Affine.of(sign, np.where(sign == 0, zero, mirrored.shift)), ZERO: on_parameter(node, mirrored)}


def zero_point(node: gs.Node, rank: int) -> Array:
    """The zero point of a DequantizeLinear, of the rank of its codes."""
    zero = constant(node, ZERO).astype(np.float64) if has(node, ZERO) else np.zeros(())
    axis, block = attribute(node, "axis", 1) % rank, attribute(node, "block_size", 0)
    if block and zero.ndim:
        return np.repeat(zero, block, axis).take(range(size(node.inputs[CODES], axis)), axis)
    return zero.reshape([-1 if i == axis else 1 for i in range(rank)] if zero.size > 1 else (1,) * rank)


@sink("QuantizeLinear")
def sink_quantize(node: gs.Node, port: int, affine: Affine) -> Shares:
    """round(s * x / scale) + z == round(x / (scale / s)) + z, for s > 0"""
    carries_data(port, node)
    require(not is_known(node.inputs[0]), "DTYPE", f"{label(node)} rounds what is known before run time to integers")
    return {SCALE: inverse(node, on_scale(node, affine))}


def on_scale(node: gs.Node, affine: Affine) -> Affine:
    """A positive scale in the shape of that of the quantization."""
    no_shift(node, affine)
    require(affine.is_positive, "NEGATIVE_SCALE", f"the scale of {label(node)} has to stay positive")
    return on_parameter(node, affine)


def on_parameter(node: gs.Node, affine: Affine) -> Affine:
    """The affine in the shape of scale and zero point: one number, one per channel, or one per block."""
    affine = affine.map(compress)
    axis, own = attribute(node, "axis", 1), dims(node.inputs[SCALE])
    if len(own) == 1:
        return affine.along(axis, size(node.inputs[SCALE], 0))
    uniform(node, affine, [axis] if attribute(node, "block_size", 0) else range(affine.rank))
    return affine.map(lambda c: c.reshape(c.shape if own else ()))
