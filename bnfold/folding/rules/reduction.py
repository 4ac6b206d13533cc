"""Operators that reduce whole axes."""

from __future__ import annotations

import math

import numpy as np
import onnx_graphsurgeon as gs

from ...algebra.affine import Affine, compress, require
from ...graph.queries import argument, attribute, label, rank, size
from . import OUT, Shares, hoist, sink
from .guards import no_negative_scale, only_scale, uniform


@hoist("ReduceMean")
def hoist_reduce_mean(node: gs.Node, port: int, affine: Affine) -> Shares:
    """s * mean(x) + t == mean(s * x + t)"""
    return {0: with_axes(node, affine)}


@sink("ReduceMean")
def sink_reduce_mean(node: gs.Node, port: int, affine: Affine) -> Shares:
    """mean(s * x + t) == s * mean(x) + mean(t), where s does not vary over what is reduced"""
    return {OUT: without_axes(node, averaged(node, affine))}


@hoist("ReduceSum")
def hoist_reduce_sum(node: gs.Node, port: int, affine: Affine) -> Shares:
    """s * sum(x) + t == sum(s * x + t / n), for sums of n elements"""
    return {0: with_axes(node, Affine.of(affine.scale, affine.shift / summed(node, affine)))}


@sink("ReduceSum")
def sink_reduce_sum(node: gs.Node, port: int, affine: Affine) -> Shares:
    """sum(s * x + t) == s * sum(x) + n * mean(t), for sums of n elements over which s does not vary"""
    mean = averaged(node, affine)
    return {OUT: without_axes(node, Affine.of(mean.scale, mean.shift * summed(node, affine)))}


@hoist("ReduceMax", "ReduceMin")
def hoist_reduce_max(node: gs.Node, port: int, affine: Affine) -> Shares:
    """s * max(x) + t == max(s * x + t), for s >= 0"""
    no_negative_scale(node, affine)
    return {0: with_axes(node, affine)}


@sink("ReduceMax", "ReduceMin")
def sink_reduce_max(node: gs.Node, port: int, affine: Affine) -> Shares:
    """max(s * x + t) == s * max(x) + t, for s >= 0, where s and t do not vary over what is reduced"""
    no_negative_scale(node, affine)
    uniform(node, affine, reduced(node))
    return {OUT: without_axes(node, affine)}


@hoist("ReduceL1", "ReduceL2")
def hoist_reduce_norm(node: gs.Node, port: int, affine: Affine) -> Shares:
    """s * norm(x) == norm(s * x), for s >= 0"""
    only_scale(node, affine)
    no_negative_scale(node, affine)
    return {0: with_axes(node, affine)}


@sink("ReduceL1", "ReduceL2")
def sink_reduce_norm(node: gs.Node, port: int, affine: Affine) -> Shares:
    """norm(s * x) == abs(s) * norm(x), where s does not vary over what is reduced"""
    only_scale(node, affine)
    uniform(node, affine, reduced(node))
    return {OUT: without_axes(node, Affine.of(np.abs(affine.scale)))}


def reduced(node: gs.Node) -> tuple[int, ...]:
    """The axes that are reduced, counted from the front; if none are given, all, or on request none."""
    require_elements(node)
    axes, r = argument(node, "axes", 1), rank(node.inputs[0])
    if not axes:
        return () if attribute(node, "noop_with_empty_axes", 0) else tuple(range(r))
    return tuple(a % r for a in axes)


def require_elements(node: gs.Node) -> None:
    """Refuse a tensor without elements, of which the operator makes a number of its own."""
    not_empty = 0 not in (node.inputs[0].shape or ())
    require(not_empty, "PADDING", f"{label(node)} has a number of its own for a tensor without elements")


def with_axes(node: gs.Node, affine: Affine) -> Affine:
    """From the rank of the output to that of the input."""
    require_elements(node)
    axes = () if attribute(node, "keepdims", 1) else reduced(node)
    return affine.map(lambda c: np.expand_dims(c, axes))


def without_axes(node: gs.Node, affine: Affine) -> Affine:
    """From the rank of the input, with length 1 along the reduced axes, to that of the output."""
    axes = () if attribute(node, "keepdims", 1) else reduced(node)
    return affine.map(lambda c: np.squeeze(c, axes))


def averaged(node: gs.Node, affine: Affine) -> Affine:
    """The mean of the shift over what is reduced, and the scale, which must be uniform there."""
    scale, axes = compress(affine.scale), reduced(node)
    uniform(node, Affine.of(scale), axes)
    return Affine(scale, affine.shift.mean(axes, keepdims=True))


def summed(node: gs.Node, affine: Affine) -> int:
    """How many elements each sum has, if that matters."""
    return math.prod(size(node.inputs[0], a) for a in reduced(node)) if affine.has_shift else 1
