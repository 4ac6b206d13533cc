"""Quantization: the scale changes, and stays positive; integers at most change their sign."""

from __future__ import annotations

from contextlib import suppress

import ml_dtypes
import numpy as np
import onnx_graphsurgeon as gs

from ...algebra.affine import IDENTITY, Affine, Array, Refused, compress, require
from ...algebra.casting import WIDE, is_unsigned, quantize_in
from ...algebra.computing import element_type
from ...algebra.rounding import TINY, keeps_codes, rounded
from ...graph.constants import value_of
from ...graph.dequantized import CODES, SCALE, ZERO, is_dequantized, parameter
from ...graph.queries import (
    attribute,
    constant,
    dims,
    dtype,
    has,
    is_constant,
    label,
    operator,
    opset,
    size,
)
from . import HOIST, Relaid, Shares, hoist
from .guards import no_shift
from .linear import B

BIASED = ("Conv", "ConvTranspose", "Gemm")
PER_CHANNEL_SINCE = 13  # opset


@hoist("DequantizeLinear")
def hoist_dequantize(node: gs.Node, port: int, affine: Affine) -> Shares:
    """s * ((q - z) * scale) == ((z + sign(s) * (q - z)) - z) * (|s| * scale), where |s| counts as 1 if s is 0"""
    require_stored_or_uniform(node, affine)
    no_shift(node, affine)
    magnitude = Affine.of(np.where(affine.scale == 0, 1.0, np.abs(affine.scale)))
    codes, zero = turned(node, np.sign(affine.scale))
    shares = on_parameters(node, {SCALE: magnitude, **zero})
    shares.of_producer = None if zero else of_quantizer(node, affine, magnitude, codes.get(CODES, IDENTITY))
    return shares if shares.of_producer else Relaid({**shares, **codes}, shares.settings)


def require_stored_or_uniform(node: gs.Node, affine: Affine) -> None:
    """Refuse what integers that are computed at run time, with one scale for all of them, have no place for."""
    codes = node.inputs[CODES]
    if is_stored(codes):
        return
    if dims(node.inputs[SCALE]) in ((), (1,)):
        require_per_tensor(node, affine)
    maker = f" that {label(codes.inputs[0])} makes" if codes.inputs else ""
    words = f"{label(node)} reads integers{maker} at run time, among which a shift has no exact place"
    require(not affine.has_shift, "INTEGERS", words)


def require_per_tensor(node: gs.Node, affine: Affine) -> None:
    """Refuse what varies where the activations of a whole tensor have one scale."""
    same = affine.map(compress).extent == (1,) * affine.rank
    words = f"the activation scale of {label(node)} is per tensor, and the affine varies over channels"
    require(same, "INTEGERS", words)


def of_quantizer(node: gs.Node, affine: Affine, magnitude: Affine, turn: Affine) -> Shares | None:
    """s * dequantize(quantize(W, scale)) == dequantize(quantize(s * W, |s| * scale)), where codes at most turn

    What a quantizer of constants receives before the DequantizeLinear: s and |s|; or, where a rounding would make
    another code of that, the sign of s alone; or nothing.
    """
    codes = node.inputs[CODES]
    quantizer = codes.inputs[0] if codes.inputs else node
    if operator(quantizer) != "QuantizeLinear" or len(codes.outputs) > 1:
        return None
    with suppress(Refused):
        if quantizes_to(quantizer, affine, magnitude, turn):
            shares = on_parameters(quantizer, {SCALE: magnitude})
            return Relaid({**shares, CODES: affine}, shares.settings)
    sign = Affine.of(np.sign(affine.scale))
    with suppress(Refused):
        if sign.has_scale and quantizes_to(quantizer, sign, IDENTITY, turn):
            return {CODES: sign}
    return None


def quantizes_to(quantizer: gs.Node, affine: Affine, magnitude: Affine, turn: Affine) -> bool:
    """Whether quantize(affine(W), magnitude(scale)) == turn(quantize(W, scale)), in any precision of the quotient."""
    kinds = dtype(quantizer.inputs[CODES]), dtype(quantizer.inputs[SCALE])
    if not {*kinds} <= {*TINY}:
        return False
    weight, scale = constant(quantizer, CODES), parameter(quantizer, SCALE, affine.rank)
    zero = parameter(quantizer, ZERO, affine.rank).astype(dtype(quantizer.outputs[0]))
    old = rounded(weight, kinds[0])[0], rounded(scale, kinds[1])[0]
    new = rounded(affine(weight), kinds[0])[0], rounded(magnitude(scale), kinds[1])[0]
    stated, saturate = attribute(quantizer, "precision", 0) or kinds[1], bool(attribute(quantizer, "saturate", 1))
    for each in {element_type(stated), *WIDE}:
        codes, others = (quantize_in(each, *pair, zero, saturate).astype(np.float64) for pair in (old, new))
        if not np.array_equal(turn(codes), others):
            return False
    return True


def turned(node: gs.Node, sign: Array) -> tuple[Shares, Shares]:
    """q -> z + sign * (q - z); of unsigned integers, where one has no opposite, q -> max - q and z -> max - z.

    What the codes receive, and what the zero point would, were it of their rank.
    """
    if np.all(sign == 1):
        return {}, {}
    require(is_stored(node.inputs[CODES]), "NEGATIVE_SCALE", f"the scale of {label(node)} has to stay positive")
    codes, zero = node.inputs[CODES], parameter(node, ZERO, sign.ndim)
    own, kind = Affine.of(sign, (1 - sign) * zero), dtype(codes)
    if not (is_unsigned(kind) and is_constant(codes) and has(node, ZERO)) or keeps_codes(own, value_of(codes), kind):
        return {CODES: own}, {}
    most, is_negative = float(ml_dtypes.iinfo(kind).max), sign < 0  # type: ignore[no-untyped-call]
    mirrored = Affine.of(np.where(is_negative, -1.0, 1.0), np.where(is_negative, most, 0.0))
    return {CODES: Affine.of(sign, np.where(sign == 0, zero, mirrored.shift))}, {ZERO: mirrored}


def is_mirrored(node: gs.Node, shares: Shares) -> bool:
    """Whether the zero point of a DequantizeLinear changes."""
    return operator(node) == "DequantizeLinear" and ZERO in shares and not shares[ZERO].is_identity


def is_quantized_bias(node: gs.Node, index: int) -> bool:
    """Whether an input is a bias that a DequantizeLinear makes of constants."""
    return index == B and operator(node) in BIASED and has(node, index) and is_dequantized(node.inputs[index])


def is_stored(codes: gs.Tensor) -> bool:
    """Whether codes are stored, or rows of stored ones that the data choose."""
    while not is_constant(codes) and codes.inputs and operator(codes.inputs[0]) in HOIST:
        codes = codes.inputs[0].inputs[0]
    return is_constant(codes)


def on_parameters(node: gs.Node, affines: Shares) -> Relaid:
    """Affines of scale and zero point in their shape. Of stored codes one number becomes one per channel."""
    affines = {index: affine.map(compress) for index, affine in affines.items()}
    varied = {axis for affine in affines.values() for axis, n in enumerate(affine.extent) if n != 1}
    whole = dims(node.inputs[SCALE]) in ((), (1,)) and not attribute(node, "block_size", 0)
    if not (varied and whole and is_stored(node.inputs[CODES])):
        return Relaid({index: on_parameter(node, affine) for index, affine in affines.items()}, {})
    require(
        len(varied) == 1, "VARIES", f"it varies along several axes, and {label(node)} has one scale for each channel"
    )
    old = f"{label(node)} of opset {opset(node)} has one scale for all channels"
    require(opset(node) >= PER_CHANNEL_SINCE, "OLD_OPSET", old)
    (axis,) = varied
    if has(node, ZERO):
        affines.setdefault(ZERO, Affine.of(np.ones((1,) * affines[SCALE].rank)))
    length = max(affine.extent[axis] for affine in affines.values())
    return Relaid({index: affine.along(axis, length) for index, affine in affines.items()}, {"axis": axis})


def on_parameter(node: gs.Node, affine: Affine) -> Affine:
    """The affine in the shape of scale and zero point: one number, one per channel, or one per block."""
    axis, block, own = attribute(node, "axis", 1), attribute(node, "block_size", 0), dims(node.inputs[SCALE])
    if len(own) == 1:
        return affine.along(axis, size(node.inputs[SCALE], 0))
    if block and own:
        return affine.map(lambda c: per_block(node, c, axis % affine.rank, block))
    return affine.map(lambda c: c.reshape(()))


def per_block(node: gs.Node, coefficients: Array, axis: int, block: int) -> Array:
    """One coefficient for each block. Refuses those that vary in a block."""
    length = coefficients.shape[axis]
    firsts = coefficients.take(range(0, length, block), axis)
    same = np.array_equal(np.repeat(firsts, block, axis).take(range(length), axis), coefficients)
    require(same, "VARIES", f"it varies along axis {axis}, on which {label(node)} has one scale for {block} elements")
    return firsts
