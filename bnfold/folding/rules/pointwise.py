"""Arithmetic of tensors: Add, Sub, Mul, Div, Sum, Mean, Neg."""

from __future__ import annotations

import numpy as np
import onnx_graphsurgeon as gs

from ...algebra.affine import Affine, Refused, at_rank, require, require_room_to_broadcast
from ...graph.queries import (
    carries_data,
    constant,
    dims,
    fits,
    is_constant,
    label,
    operator,
    opset,
    rank,
    scales_a_number,
)
from . import OUT, Shares, hoist, sink
from .guards import inverse, no_shift

TAKES_SHIFT = {"Conv", "ConvTranspose", "Gemm", "BatchNormalization", "Add", "Sub", "Sum"}
LETS_SHIFT_BY = {
    *("AveragePool", "Cast", "Concat", "Flatten", "GlobalAveragePool", "GlobalMaxPool", "Identity", "MaxPool", "Neg"),
    *("ReduceMean", "Reshape", "Resize", "Slice", "Split", "Squeeze", "Transpose", "Unsqueeze", "Upsample"),
}


@hoist("Add", "Sum")
def hoist_add(node: gs.Node, port: int, affine: Affine) -> Shares:
    """s * (a + b) + t == (s * a + t) + (s * b)"""
    broadcasts(node)
    taker = by_prospect(node)[0]
    return {i: affine if i == taker else affine.scaling for i in range(len(node.inputs))}


@hoist("Mean")
def hoist_mean(node: gs.Node, port: int, affine: Affine) -> Shares:
    """s * mean(a, b) + t == mean(s * a + 2 * t, s * b)"""
    return hoist_add(node, port, Affine(affine.scale, affine.shift * len(node.inputs)))


@hoist("Sub")
def hoist_sub(node: gs.Node, port: int, affine: Affine) -> Shares:
    """s * (a - b) + t == (s * a + t) - (s * b) == (s * a) - (s * b - t)"""
    broadcasts(node)
    if by_prospect(node)[0] == 0:
        return {0: affine, 1: affine.scaling}
    return {0: affine.scaling, 1: Affine(affine.scale, -affine.shift)}


def by_prospect(node: gs.Node) -> list[int]:
    """The operands, those first in which an affine is most likely to find a home: constants, then what may take it."""
    return sorted(range(len(node.inputs)), key=lambda i: (not is_constant(x := node.inputs[i]), not may_take_shift(x)))


def may_take_shift(tensor: gs.Tensor) -> bool:
    """Whether only one node reads a tensor, and an operator with a bias makes it, or what it only rearranges."""
    if len(tensor.outputs) != 1 or not tensor.inputs:
        return False
    maker = tensor.inputs[0]
    return operator(maker) in TAKES_SHIFT or (operator(maker) in LETS_SHIFT_BY and may_take_shift(maker.inputs[0]))


def broadcasts(node: gs.Node) -> None:
    """Refuse the pre-7 operators, which align the second operand by attributes instead of broadcasting."""
    require(
        opset(node) >= 7,
        "OLD_OPSET",
        f"{label(node)} is of opset {opset(node)}, which does not broadcast as later ones do",
    )


def no_shift_of_computed(node: gs.Node, affine: Affine) -> None:
    """Refuse a shift: a product of computed tensors, as that of a SiLU or a gate, is not linear."""
    words = f"{label(node)} of computed tensors is not linear: a scale may cross it, but no shift"
    require(not affine.has_shift or any(map(is_constant, node.inputs)), "NONLINEAR", words)
    no_shift(node, affine)


@hoist("Mul")
def hoist_mul(node: gs.Node, port: int, affine: Affine) -> Shares:
    """s * (a * b) + t == a * (s * b) + t, where b may be one number that becomes one for each channel"""
    broadcasts(node)
    left = {OUT: Affine.of(1.0, affine.shift)} if affine.has_shift else {}
    operands = by_prospect(node)
    takers = [i for i in operands if is_constant(x := node.inputs[i]) or scales_a_number(x)]
    for i in takers or [i for i in operands if fits(affine.scaling, dims(node.inputs[i]))]:
        return {i: affine.scaling, **left}
    raise Refused("VARIES", f"it varies along axes that no one operand of {label(node)} has")


@hoist("Div")
def hoist_div(node: gs.Node, port: int, affine: Affine) -> Shares:
    """s * (a / b) == (s * a) / b == a / (b / s), the last for s != 0"""
    broadcasts(node)
    no_shift_of_computed(node, affine)
    if is_constant(node.inputs[1]) and np.all(affine.scale != 0):
        return {1: Affine.of(1 / affine.scale)}
    return {0: affine}


@sink("Add", "Sum")
def sink_add(node: gs.Node, port: int, affine: Affine) -> Shares:
    """(s * x + t) + b == s * (x + (b + t) / s); where s is 1, (x + t) + b == (x + b) + t"""
    return sink_sum(node, port, affine, inverse(node, Affine(affine.scale, -affine.shift)), affine.shift)


@sink("Mean")
def sink_mean(node: gs.Node, port: int, affine: Affine) -> Shares:
    """As Sum, but mean(x + t, b) == mean(x, b) + t / 2"""
    share = inverse(node, Affine(affine.scale, -affine.shift))
    return sink_sum(node, port, affine, share, affine.shift / len(node.inputs))


@sink("Sub")
def sink_sub(node: gs.Node, port: int, affine: Affine) -> Shares:
    """(s * x + t) - b == s * (x - (b - t) / s) and b - (s * x + t) == s * ((b - t) / s - x); s may be 1 as for Add"""
    return sink_sum(node, port, affine, inverse(node, affine), affine.shift if port == 0 else -affine.shift)


def sink_sum(node: gs.Node, port: int, affine: Affine, share: Affine, shift: np.ndarray) -> Shares:
    """One constant takes the share, others are divided by the scale, which moves on; past a variable only t moves."""
    broadcasts(node)
    if len(node.inputs) > 1 and all(is_constant(x) for i, x in enumerate(node.inputs) if i != port):
        others = [i for i in range(len(node.inputs)) if i != port]
        return {**dict.fromkeys(others, share.scaling), others[0]: share, OUT: at_output(node, affine.scaling)}
    require(not affine.has_scale, "MIXES", f"{label(node)} adds a tensor to which the scale does not apply")
    return {OUT: at_output(node, Affine.of(1.0, shift))}


def at_output(node: gs.Node, affine: Affine) -> Affine:
    """The affine at the rank of the output, to which an operand may have been broadcast."""
    return affine.map(lambda c: at_rank(c, rank(node.outputs[0])))


@sink("Mul")
def sink_mul(node: gs.Node, port: int, affine: Affine) -> Shares:
    """(s * x + t) * b == x * (s * b) + t * b; where b is not constant, (s * x) * b == s * (x * b)"""
    broadcasts(node)
    if is_constant(node.inputs[1 - port]):
        factor = constant(node, 1 - port)
        require_room_to_broadcast(affine.shift.shape, factor.shape)
        return {1 - port: affine.scaling, OUT: at_output(node, Affine.of(1.0, affine.shift * factor))}
    require(not affine.has_shift, "MIXES", f"{label(node)} multiplies the shift by a tensor that is not constant")
    return {OUT: at_output(node, affine)}


@sink("Div")
def sink_div(node: gs.Node, port: int, affine: Affine) -> Shares:
    """(s * x + t) / b == s * (x / b) + t / b"""
    broadcasts(node)
    carries_data(port, node)
    if not affine.has_shift:
        return {OUT: at_output(node, affine)}
    divisor = constant(node, 1)
    require_room_to_broadcast(affine.shift.shape, divisor.shape)
    return {OUT: at_output(node, Affine.of(affine.scale, affine.shift / divisor))}


@hoist("Neg")
def hoist_neg(node: gs.Node, port: int, affine: Affine) -> Shares:
    """s * (-x) + t == -(s * x - t)"""
    return {0: Affine(affine.scale, -affine.shift)}


@sink("Neg")
def sink_neg(node: gs.Node, port: int, affine: Affine) -> Shares:
    """-(s * x + t) == s * (-x) - t"""
    return {OUT: Affine(affine.scale, -affine.shift)}
