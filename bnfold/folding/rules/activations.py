"""Elementwise operators without weights: what keeps the sign, or the order, of numbers lets a scale by."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import onnx_graphsurgeon as gs

from ...algebra.affine import Affine, require, require_room_to_broadcast
from ...algebra.rounding import holds
from ...graph.constants import is_known
from ...graph.queries import argument, attribute, carries_data, constant, dtype, is_floating, label, number, opset
from . import OUT, READ_NO_VALUES, Shares, commutes, hoist, sink
from .guards import inverse, no_negative_scale, only_scale, setting, unmoved, unmoved_constant
from .pointwise import at_output

LOWEST, HIGHEST = 1, 2  # the bounds among the inputs of a Clip
BRANCHES = (1, 2)  # those of a Where


@commutes("Relu", "LeakyRelu")
def cross_relu(node: gs.Node, affine: Affine) -> None:
    """s * relu(x) == relu(s * x), for s >= 0"""
    only_scale(node, affine)
    no_negative_scale(node, affine)


@hoist("PRelu")
def hoist_prelu(node: gs.Node, port: int, affine: Affine) -> Shares:
    """s * prelu(x, a) == prelu(s * x, a) for s >= 0, and == prelu(s * a * x, 1 / a) for s < 0 and a > 0"""
    moved, slope = past_slope(node, affine)
    return {0: moved, 1: slope}


@sink("PRelu")
def sink_prelu(node: gs.Node, port: int, affine: Affine) -> Shares:
    """prelu(s * x, a) == s * prelu(x, a) for s >= 0, and == s * a * prelu(x, 1 / a) for s < 0 and a > 0"""
    carries_data(port, node)
    moved, slope = past_slope(node, affine)
    return {OUT: moved, 1: slope}


def past_slope(node: gs.Node, affine: Affine) -> tuple[Affine, Affine]:
    """The scale past a PRelu, and the share on its slope, which makes it its reciprocal where the scale is negative."""
    only_scale(node, affine)
    negative = affine.scale < 0
    if not negative.any():
        return affine, Affine.of(1.0)
    slope = constant(node, 1)
    require_room_to_broadcast(negative.shape, slope.shape)
    require(opset(node) >= 7, "OLD_OPSET", f"{label(node)} is of opset {opset(node)}, which aligns its slope otherwise")
    require(np.all((slope > 0) | ~negative), "NEGATIVE_SCALE", f"a scale and a slope of {label(node)} are negative")
    inverted = np.where(negative, slope, 1.0)
    return Affine.of(affine.scale * inverted), Affine.of(~negative, np.where(negative, 1 / inverted, 0.0))


@hoist("Abs")
def hoist_abs(node: gs.Node, port: int, affine: Affine) -> Shares:
    """s * abs(x) == abs(s * x), for s >= 0"""
    only_scale(node, affine)
    no_negative_scale(node, affine)
    return {0: affine}


@sink("Abs")
def sink_abs(node: gs.Node, port: int, affine: Affine) -> Shares:
    """abs(s * x) == abs(s) * abs(x)"""
    only_scale(node, affine)
    return {OUT: Affine.of(np.abs(affine.scale))}


@hoist("Clip")
def hoist_clip(node: gs.Node, port: int, affine: Affine) -> Shares:
    """s * clip(x, a, b) + t == clip(s * x + t, s * a + t, s * b + t), for s >= 0"""
    return {0: affine, **bounds(node, affine, lambda: affine)}


@sink("Clip")
def sink_clip(node: gs.Node, port: int, affine: Affine) -> Shares:
    """clip(s * x + t, a, b) == s * clip(x, (a - t) / s, (b - t) / s) + t, for s > 0"""
    return {OUT: affine, **bounds(node, affine, lambda: inverse(node, affine))}


def bounds(node: gs.Node, affine: Affine, move: Callable[[], Affine]) -> Shares:
    """What the bounds of a Clip receive; nothing where they are absent, or stay as they are."""
    no_negative_scale(node, affine)
    bounds = {LOWEST: bound(node, "min", LOWEST), HIGHEST: bound(node, "max", HIGHEST)}
    moved = {i: value for i, value in bounds.items() if value is not None and not unmoved(node, value, affine)}
    return {i: setting(node, i, value, move(), "NONLINEAR") for i, value in moved.items()}


def bound(node: gs.Node, name: str, index: int) -> float | None:
    """A bound of a Clip, if there is one and it is not the end of the range of numbers."""
    value = argument(node, name, index)
    end = (-1 if index == LOWEST else 1) * float(np.finfo(np.float32).max)
    stated = end if value is None else number(node, value)
    return None if stated in (end, end * np.inf) else stated


@hoist("Max", "Min")
def hoist_extremum(node: gs.Node, port: int, affine: Affine) -> Shares:
    """s * max(a, b) + t == max(s * a + t, s * b + t), for s >= 0"""
    no_negative_scale(node, affine)
    return {i: affine for i in range(len(node.inputs)) if not unmoved_constant(node, i, affine)}


@sink("Max", "Min")
def sink_extremum(node: gs.Node, port: int, affine: Affine) -> Shares:
    """max(s * a + t, b) == s * max(a, (b - t) / s) + t, for s > 0"""
    no_negative_scale(node, affine)
    return on_operands(node, range(len(node.inputs)), port, affine)


@hoist("Where")
def hoist_where(node: gs.Node, port: int, affine: Affine) -> Shares:
    """s * where(c, a, b) + t == where(c, s * a + t, s * b + t)"""
    return {i: affine for i in BRANCHES if not unmoved_constant(node, i, affine)}


@sink("Where")
def sink_where(node: gs.Node, port: int, affine: Affine) -> Shares:
    """where(c, s * a + t, b) == s * where(c, a, (b - t) / s) + t"""
    return on_operands(node, BRANCHES, port, affine)


def on_operands(node: gs.Node, operands: range | tuple[int, ...], port: int, affine: Affine) -> Shares:
    """The affine moves on from one operand, and the others receive its inverse, but for constants that it leaves."""
    others = [i for i in operands if i != port and not unmoved_constant(node, i, affine)]
    return {OUT: at_output(node, affine), **{i: inverse(node, affine) for i in others}}


@commutes("Identity")
def cross_identity(node: gs.Node, affine: Affine) -> None:
    """s * x + t == s * x + t"""


@commutes("Dropout")
def cross_dropout(node: gs.Node, affine: Affine) -> None:
    """As Identity, once the network is not being trained."""
    training = argument(node, "training_mode", 2, 0) if opset(node) >= 7 else not attribute(node, "is_test", 0)
    require(not training, "TRAINING", f"{label(node)} is in training mode")


@hoist("Cast", "CastLike")
def hoist_cast(node: gs.Node, port: int, affine: Affine) -> Shares:
    """s * cast(x) + t == cast(s * x + t), between floating point types"""
    require_same_numbers(node)
    return {0: affine}


@sink("Cast", "CastLike")
def sink_cast(node: gs.Node, port: int, affine: Affine) -> Shares:
    """cast(s * x + t) == s * cast(x) + t, to a type that holds every x; cast_like(x, s * y + t) == cast_like(x, y)"""
    if port == 1:
        return {}
    require_same_numbers(node)
    before, after = dtype(node.inputs[0]), dtype(node.outputs[0])
    require(
        holds(after, before),
        "DTYPE",
        f"{label(node)} goes to {after}, which may not hold what has not been scaled yet",
    )
    return {OUT: affine}


def require_same_numbers(node: gs.Node) -> None:
    """Refuse a Cast that is not between floating-point types, or is of a constant, whose rounding must stay."""
    source, target = node.inputs[0], node.outputs[0]
    require(
        is_floating(source) and is_floating(target),
        "DTYPE",
        f"{label(node)} does not convert between floating point types",
    )
    same = dtype(source) == dtype(target) or not is_known(source)
    require(same, "DTYPE", f"{label(node)} rounds what is known before run time, and would round it otherwise")


@sink(*READ_NO_VALUES)
def sink_shape(node: gs.Node, port: int, affine: Affine) -> Shares:
    """shape(s * x + t) == shape(x)"""
    return {}
