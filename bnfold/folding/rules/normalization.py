"""Operators that normalize by the statistics of their input, or by stored ones."""

from __future__ import annotations

import numpy as np
import onnx_graphsurgeon as gs

from ...algebra.affine import Affine, require
from ...graph.queries import attribute, carries_data, constant, label, opset, rank, size
from ..affine_nodes import EPSILON
from . import OUT, Shares, hoist, sink
from .guards import no_shift, uniform
from .linear import added

SCALE, BIAS, MEAN, VAR = 1, 2, 3, 4


@sink("BatchNormalization")
def sink_batch_normalization(node: gs.Node, port: int, affine: Affine) -> Shares:
    """g * (s * x + t - m) / d + b == (g * s) * (x - m) / d + (b + g * (s * m + t - m) / d)"""
    carries_data(port, node)
    scale, mean, var = (constant(node, i) for i in (SCALE, MEAN, VAR))
    require(scale.ndim == 1, "VARIES", f"the parameters of {label(node)} have rank {scale.ndim}, not 1")
    into = affine.along(1, scale.size)
    factor = scale / np.sqrt(var + attribute(node, "epsilon", EPSILON))
    return {SCALE: into.scaling, BIAS: added(factor * (into(mean) - mean))}


@hoist("InstanceNormalization")
def hoist_instance_normalization(node: gs.Node, port: int, affine: Affine) -> Shares:
    """s * (g * n(x) + b) + t == (s * g) * n(x) + (s * b + t)"""
    out = affine.along(1, size(node.inputs[SCALE], 0))
    return {SCALE: out.scaling, BIAS: out}


@sink("InstanceNormalization")
def sink_instance_normalization(node: gs.Node, port: int, affine: Affine) -> Shares:
    """n(x + t) == n(x), where t is the same at every place of a channel"""
    only_shift(node, port, affine)
    uniform(node, affine, range(2, affine.rank))
    return {}


def only_shift(node: gs.Node, port: int, affine: Affine) -> None:
    """Refuse a scale: epsilon keeps a normalization from undoing it exactly."""
    carries_data(port, node)
    require(
        not affine.has_scale,
        "NONLINEAR",
        f"{label(node)} divides by a deviation to which epsilon is added",
    )


@hoist("GroupNormalization")
def hoist_group_normalization(node: gs.Node, port: int, affine: Affine) -> Shares:
    """s * (g * n(x) + b) + t == (s * g) * n(x) + (s * b + t), with g, b of each group up to opset 20, then channel"""
    out = affine.along(1, size(node.inputs[0], 1))
    out = of_groups(node, out) if opset(node) < 21 else out
    return {SCALE: out.scaling, BIAS: out}


@sink("GroupNormalization")
def sink_group_normalization(node: gs.Node, port: int, affine: Affine) -> Shares:
    """n(x + t) == n(x), where t is the same all over a group"""
    only_shift(node, port, affine)
    of_groups(node, affine.along(1, size(node.inputs[0], 1)))
    return {}


def of_groups(node: gs.Node, affine: Affine) -> Affine:
    """The coefficients of each group, whose channels must have them in common."""
    grouped = affine.map(lambda c: c.reshape(attribute(node, "num_groups"), -1))
    same = all((c == c[:, :1]).all() for c in (grouped.scale, grouped.shift))
    require(same, "VARIES", f"it varies within the groups of {label(node)}")
    return grouped.map(lambda c: c[:, 0])


@hoist("LayerNormalization")
def hoist_layer_normalization(node: gs.Node, port: int, affine: Affine) -> Shares:
    """s * (g * n(x) + b) + t == (s * g) * n(x) + (s * b + t)"""
    out = over_normalized(node, port, affine)
    return {SCALE: out.scaling, BIAS: out}


@hoist("RMSNormalization")
def hoist_rms_normalization(node: gs.Node, port: int, affine: Affine) -> Shares:
    """s * (g * n(x)) == (s * g) * n(x)"""
    no_shift(node, affine)
    return {SCALE: over_normalized(node, port, affine)}


def over_normalized(node: gs.Node, port: int, affine: Affine) -> Affine:
    """The coefficients at the rank of the axes that are normalized, which must be the only ones they vary along."""
    carries_data(port, node)
    first = attribute(node, "axis", -1) % affine.rank
    uniform(node, affine, range(first))
    return affine.map(lambda c: c.reshape(c.shape[first:]))


@sink("LayerNormalization")
def sink_layer_normalization(node: gs.Node, port: int, affine: Affine) -> Shares:
    """n(x + t) == n(x), where t does not vary over what is normalized; the mean, if it is put out, is shifted by t"""
    only_shift(node, port, affine)
    uniform(node, affine, range(attribute(node, "axis", -1) % rank(node.inputs[0]), affine.rank))
    return {OUT - 1: affine} if len(node.outputs) > 1 else {}
