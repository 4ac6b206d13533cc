"""What several laws require of an affine."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import onnx_graphsurgeon as gs

from ...algebra.affine import Affine, Array, require, require_room_to_broadcast
from ...graph.queries import constant, has, is_constant, label


def no_shift(node: gs.Node, affine: Affine) -> None:
    require(not affine.has_shift, "NO_BIAS", f"{label(node)} has nowhere to put a shift")


def only_scale(node: gs.Node, affine: Affine) -> None:
    """Refuse a shift, which would move the point where the slope of the operator changes."""
    require(not affine.has_shift, "NONLINEAR", f"{label(node)} is not linear: a scale may cross it, but no shift")


def no_negative_scale(node: gs.Node, affine: Affine) -> None:
    """Refuse a scale that changes the order of numbers, or their sign."""
    least = affine.scale.min(initial=0)
    require(least >= 0, "NEGATIVE_SCALE", f"{label(node)} goes by sign or order, and a scale is negative ({least:.3g})")


def uniform(node: gs.Node, affine: Affine, axes: Iterable[int]) -> None:
    """Refuse an affine that varies along an axis on which the operator mixes elements."""
    for axis in axes:
        require(affine.extent[axis] == 1, "VARIES", f"it varies along axis {axis}, whose elements {label(node)} mixes")


def inverse(node: gs.Node, affine: Affine) -> Affine:
    """x -> (x - t) / s"""
    require(np.all(affine.scale != 0), "ZERO_SCALE", f"a scale of 0 cannot be taken out of {label(node)}")
    return Affine.of(1 / affine.scale, -affine.shift / affine.scale)


def unmoved(node: gs.Node, value: Array | float, affine: Affine) -> bool:
    """Whether a number in a setting or constant stays what it is: 0 if there is no shift, an infinite one if s > 0."""
    require_room_to_broadcast(np.shape(value), affine.extent)
    with np.errstate(invalid="ignore"):
        same = bool(np.all(affine(value) == value))
    require(same or np.isfinite(value).all(), "NOT_FINITE", f"a number that {label(node)} fills in is infinite")
    return same


def unmoved_constant(node: gs.Node, index: int, affine: Affine) -> bool:
    return is_constant(node.inputs[index]) and unmoved(node, constant(node, index), affine)


def setting(node: gs.Node, index: int, value: float, affine: Affine, code: str) -> Affine:
    """The share on a setting, one number for the whole tensor, that the affine turns into another such number."""
    new = np.unique(affine(value))
    require(new.size == 1, code, f"{label(node)} has the same number {value:g} for all channels, which it would part")
    require(has(node, index), "NO_INPUT", f"{label(node)} has no input for the number that {value:g} would become")
    return Affine.of(0.0, new[0])
