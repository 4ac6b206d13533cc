"""Operators with weights: an affine ends here."""

from __future__ import annotations

import numpy as np
import onnx_graphsurgeon as gs

from ...algebra.affine import Affine, Array, Refused, at_rank, require
from ...graph.dequantized import known_value
from ...graph.queries import attribute, carries_data, dims, fits, is_constant, label, opset, rank, shape, size
from . import OUT, Shares, hoist, sink

W, B = 1, 2
LACKS = (-1, -2)  # the axis of A @ B that A, or B, has no part in


@hoist("Conv")
def hoist_conv(node: gs.Node, port: int, affine: Affine) -> Shares:
    """s * (W . x + b) + t == (s * W) . x + (s * b + t)"""
    weight = node.inputs[W]
    out = affine.along(1, size(weight, 0))
    return {W: out.scaling.on(0, rank(weight)), B: out}


@sink("Conv")
def sink_conv(node: gs.Node, port: int, affine: Affine) -> Shares:
    """W . (s * x + t) + b == (W * s) . x + (b + sum(W * t)), away from zero padding"""
    carries_data(port, node)
    weight = known_value(node, W)
    group = groups(node, len(weight))
    into = affine.along(1, weight.shape[1] * group)
    require(
        not (into.has_shift and pads_input(node)),
        "PADDING",
        f"{label(node)} pads its input with zeros, which a shift would have to cross",
    )
    rows = into.map(lambda c: c.reshape(group, -1).repeat(len(weight) // group, axis=0))
    rows = rows.map(lambda c: c.reshape(*c.shape, *[1] * (weight.ndim - 2)))
    return {W: rows.scaling, B: added((weight * rows.shift).sum(axis=tuple(range(1, weight.ndim))))}


def groups(node: gs.Node, rows: int) -> int:
    """How many groups a convolution has. Refuses where the rows of its weight cannot be parted into so many."""
    group = int(attribute(node, "group", 1))
    require(group > 0 and rows % group == 0, "MALFORMED", f"{label(node)} has {group} groups of {rows} channels")
    return group


def pads_input(node: gs.Node) -> bool:
    """Whether a window of the operator may reach beyond its input."""
    automatic = attribute(node, "auto_pad", "NOTSET")
    return any(attribute(node, "pads", [])) if automatic == "NOTSET" else automatic != "VALID"


def added(shift: np.ndarray) -> Affine:
    """x + shift"""
    return Affine.of(np.ones((1,) * shift.ndim), shift)


@hoist("ConvTranspose")
def hoist_conv_transpose(node: gs.Node, port: int, affine: Affine) -> Shares:
    """s * (W . x + b) + t == (s * W) . x + (s * b + t), with W of shape (C_in, C_out / group, *kernel)"""
    channels, per_group, *kernel = shape(node.inputs[W])
    group = groups(node, channels)
    out = affine.along(1, per_group * group)
    rows = out.scaling.map(lambda c: c.reshape(group, -1).repeat(channels // group, axis=0))
    return {W: rows.map(lambda c: c.reshape(*c.shape, *[1] * len(kernel))), B: out}


@sink("ConvTranspose")
def sink_conv_transpose(node: gs.Node, port: int, affine: Affine) -> Shares:
    """W . (s * x) + b == (W * s) . x + b"""
    carries_data(port, node)
    into = affine.along(1, size(node.inputs[W], 0))
    require(
        not into.has_shift,
        "BORDER",
        f"outputs of {label(node)} are reached by different taps of its kernel, so a shift is not constant over them",
    )
    return {W: into.on(0, rank(node.inputs[W]))}


@hoist("Gemm")
def hoist_gemm(node: gs.Node, port: int, affine: Affine) -> Shares:
    """s * (alpha * A @ B + beta * C) + t == alpha * A @ (B * s) + beta * (s * C + t / beta), or with (s * A) @ B"""
    beta = bias_factor(node, affine)
    factor = factor_for(affine, node)
    scaling = affine.scaling.map(np.transpose) if transposed(node, factor) else affine.scaling
    return {factor: scaling, 2: Affine.of(affine.scale, affine.shift / beta)}


@sink("Gemm")
def sink_gemm(node: gs.Node, port: int, affine: Affine) -> Shares:
    """alpha * (s * A + t) @ B + beta * C == alpha * A @ (s * B) + beta * (C + alpha / beta * t @ B), or from B to A"""
    require(port < 2, "NOT_LINEAR", f"it reaches {label(node)} as its bias")
    alpha, beta, other = attribute(node, "alpha", 1.0), bias_factor(node, affine), 1 - port
    weight, summed = known_value(node, other), summed_axis(node, other)
    into = affine.along(summed_axis(node, port), weight.shape[summed])
    shift = np.tensordot(into.shift, weight, axes=(0, summed)) * alpha / beta
    return {other: into.scaling.on(summed, 2), 2: added(shift.reshape((1, -1) if port == 0 else (-1, 1)))}


def bias_factor(node: gs.Node, affine: Affine) -> float:
    """beta of a Gemm, or 1 where it is 0 and there is nothing to add."""
    beta = float(attribute(node, "beta", 1.0))
    require(np.isfinite(beta), "NOT_FINITE", f"beta of {label(node)} is {beta}")
    require(beta != 0 or not affine.has_shift, "NO_BIAS", f"{label(node)} ignores its bias (beta=0)")
    return beta or 1.0


def transposed(node: gs.Node, factor: int) -> bool:
    return bool(attribute(node, ("transA", "transB")[factor], 0))


def summed_axis(node: gs.Node, factor: int) -> int:
    """The axis of A (1 unless transposed) or B (0 unless transposed) over which a Gemm sums."""
    return int((factor == 0) != transposed(node, factor))


def factor_for(affine: Affine, node: gs.Node) -> int:
    """The factor of a product that can take the scale: it has every axis on which the scale varies; constants first."""
    for i in sorted((1, 0), key=lambda i: not is_constant(node.inputs[i])):
        axes = list(reversed(dims(node.inputs[i])) if transposed(node, i) else dims(node.inputs[i]))
        axes[LACKS[i]] = None
        if fits(affine.scaling, tuple(axes)):
            return i
    raise Refused("VARIES", f"it varies along axes that no one factor of {label(node)} has")


@hoist("MatMul")
def hoist_matmul(node: gs.Node, port: int, affine: Affine) -> Shares:
    """s * (A @ B) + t == A @ (B * s) + t, or (s * A) @ B + t"""
    require_matrices(node)
    factor = factor_for(affine, node)
    own = affine.scaling.map(lambda c: c.reshape(c.shape[affine.rank - rank(node.inputs[factor]) :]))
    return {factor: own, **shifted(node, affine.shift)}


@sink("MatMul")
def sink_matmul(node: gs.Node, port: int, affine: Affine) -> Shares:
    """(s * A + t) @ B == A @ (s * B) + t @ B, where s and t vary along the summed axis alone; likewise from B to A"""
    require_matrices(node)
    weight = known_value(node, 1 - port)
    own, summed = (-1, -2) if port == 0 else (-2, -1)
    into = affine.along(own, weight.shape[summed])
    shift = np.expand_dims(np.tensordot(weight, into.shift, axes=(weight.ndim + summed, 0)), summed)
    return {1 - port: into.scaling.on(summed, weight.ndim), **shifted(node, shift)}


def require_matrices(node: gs.Node) -> None:
    ranks = [rank(x) for x in node.inputs[:2]]
    require(min(ranks) > 1, "VARIES", f"{label(node)} multiplies by a vector")


def shifted(node: gs.Node, shift: Array) -> Shares:
    """A shift after a MatMul: the bias of the Gemm that a product of matrices may become, or what is left over."""
    is_gemm = [rank(x) for x in node.inputs[:2]] == [2, 2] and opset(node) >= 7
    return {2 if is_gemm else OUT: added(at_rank(shift, rank(node.outputs[0])))}


@hoist("BatchNormalization")
def hoist_batch_normalization(node: gs.Node, port: int, affine: Affine) -> Shares:
    """s * (g * n(x) + b) + t == (s * g) * n(x) + (s * b + t); other outputs than y exist in training only"""
    r = rank(node.inputs[1])
    require(r == 1, "VARIES", f"the parameters of {label(node)} have rank {r}, not 1")
    out = affine.along(1, size(node.inputs[1], 0))
    return {1: out.scaling, 2: out}
