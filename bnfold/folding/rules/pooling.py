"""Pooling and interpolation: an affine that is the same at every place of a channel crosses them."""

from __future__ import annotations

import onnx_graphsurgeon as gs

from ...algebra.affine import Affine, require
from ...graph.queries import argument, attribute, dims, label, opset, rank
from . import commutes
from .guards import no_negative_scale, only_scale, uniform
from .linear import pads_input
from .windows import SPATIAL, require_filled_windows


def same_at_every_place(node: gs.Node, affine: Affine) -> None:
    uniform(node, affine, range(SPATIAL, affine.rank))


@commutes("AveragePool")
def cross_average_pool(node: gs.Node, affine: Affine) -> None:
    """s * mean(x) + t == mean(s * x + t), where no zero of the padding counts for t"""
    same_at_every_place(node, affine)
    counts = attribute(node, "count_include_pad", 0) and (pads_input(node) or attribute(node, "ceil_mode", 0))
    require(
        not (affine.has_shift and counts),
        "PADDING",
        f"{label(node)} averages the zeros of its padding, which a shift would have to cross",
    )
    if affine.has_shift:
        require_filled_windows(node)


@commutes("GlobalAveragePool")
def cross_global_average_pool(node: gs.Node, affine: Affine) -> None:
    """s * mean(x) + t == mean(s * x + t)"""
    same_at_every_place(node, affine)
    if affine.has_shift:
        require_filled_windows(node)


@commutes("MaxPool", "GlobalMaxPool")
def cross_max_pool(node: gs.Node, affine: Affine) -> None:
    """s * max(x) + t == max(s * x + t) for s >= 0, at the same indices for s > 0; what pads is less than any number"""
    same_at_every_place(node, affine)
    no_negative_scale(node, affine)
    require_filled_windows(node)
    require(
        affine.is_positive or len(node.outputs) == 1,
        "ZERO_SCALE",
        f"a scale of 0 would make the indices arbitrary that {label(node)} puts out",
    )


@commutes("LpPool", "GlobalLpPool")
def cross_lp_pool(node: gs.Node, affine: Affine) -> None:
    """s * norm(x) == norm(s * x), for s >= 0"""
    same_at_every_place(node, affine)
    only_scale(node, affine)
    no_negative_scale(node, affine)


@commutes("Resize", "Upsample")
def cross_resize(node: gs.Node, affine: Affine) -> None:
    """s * resize(x) + t == resize(s * x + t), as the weights of an interpolation sum to 1"""
    beyond = attribute(node, "coordinate_transformation_mode") == "tf_crop_and_resize"
    require(not beyond, "PADDING", f"{label(node)} fills in a number of its own outside its input")
    uniform(node, affine, resized_axes(node))


def resized_axes(node: gs.Node) -> list[int]:
    """The axes along which a Resize may do more than copy."""
    axes = [a % rank(node.inputs[0]) for a in attribute(node, "axes") or range(rank(node.inputs[0]))]
    scales = argument(node, "scales", 2 if node.op == "Resize" and opset(node) >= 11 else 1)
    if shifts_copies(node):
        return axes
    if scales:
        return [a for a, scale in zip(axes, scales, strict=True) if scale != 1]
    before, after = dims(node.inputs[0]), dims(node.outputs[0])
    return [a for a in axes if not isinstance(before[a], int) or before[a] != after[a]]


def shifts_copies(node: gs.Node) -> bool:
    """Whether a Resize may change even an axis that keeps its length."""
    upwards = attribute(node, "nearest_mode") == "ceil"
    half = attribute(node, "coordinate_transformation_mode") == "tf_half_pixel_for_nn"
    return bool((upwards and half) or attribute(node, "keep_aspect_ratio_policy", "stretch") != "stretch")


@commutes("GridSample")
def cross_grid_sample(node: gs.Node, affine: Affine) -> None:
    """s * sample(x) + t == sample(s * x + t), where no zero from beyond the border counts for t"""
    same_at_every_place(node, affine)
    zeros = attribute(node, "padding_mode", "zeros") == "zeros"
    require(not (affine.has_shift and zeros), "PADDING", f"{label(node)} takes zeros from beyond the border")
