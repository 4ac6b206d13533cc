"""The merge law: parallel branches over one tensor become one convolution, or one product of matrices.

merge:  conv_a(x) + conv_b(x) == conv_ab(x);  affine(x) and x itself are convolutions with a diagonal 1x1 kernel
        x @ A + x @ B == x @ (A + B);         affine(x) and x itself are products with a diagonal matrix

Kernels are aligned by padding; what cannot be aligned, or would cost more multiplications than its parts, is refused.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import chain, product

import numpy as np
import onnx_graphsurgeon as gs

from ..algebra.affine import Array, Refused, require, require_room
from ..graph.dequantized import known_value
from ..graph.edits import Replace, SetAttributes
from ..graph.queries import algebra, attribute, has, label, operator, size
from ..graph.scopes import Visible
from .affine_nodes import affine_of
from .merged_codes import weight_edits
from .plan import FLOAT_BIAS, Plan
from .rules.linear import groups
from .rules.quantization import is_quantized_bias

SIGNS = {"Add": (1, 1), "Sub": (1, -1)}


@dataclass(frozen=True, eq=False)
class Branch:
    """One operand of a sum as a convolution of `source`; a product of matrices is one without spatial axes.

    `weight` is (C_out, C_in / group, *kernel), `bias` (C_out,); begin and end are the distances of first and last
    tap from the position of the output, per spatial axis; `surplus` is how far the padding goes beyond the last tap.
    """

    source: gs.Tensor
    node: gs.Node | None  # the node that computes it; None for the source itself
    weight: Array
    bias: Array
    group: int
    strides: tuple[int, ...]
    dilations: tuple[int, ...]
    begin: tuple[int, ...]
    surplus: tuple[int, ...]
    multiplies: int  # per output position
    channels: int = 1  # their axis

    @property
    def has_weight(self) -> bool:
        return self.node is not None and operator(self.node) in BRANCH_READERS

    @property
    def kernel(self) -> tuple[int, ...]:
        return self.weight.shape[2:]

    @property
    def end(self) -> tuple[int, ...]:
        return tuple((k - 1) * d - b for k, d, b in zip(self.kernel, self.dilations, self.begin, strict=True))


def may_merge(node: gs.Node) -> bool:
    """Whether a node is a sum whose operands can be branches over one tensor: known without reading a weight."""
    return operator(node) in SIGNS and not origins(node.inputs[0]).isdisjoint(origins(node.inputs[1]))


def make_merge(visible: Visible, node: gs.Node) -> tuple[Plan, gs.Node, list[gs.Node]]:
    """The edits after which one convolution computes the whole of a sum, that convolution, and the nodes it replaces.

    The node is one that `may_merge`. Raises Refused where the operands are no branches over one tensor, or cannot be
    one convolution.
    """
    with algebra(node):
        branches = parallel(visible, node)
        merged = merge(node, branches, SIGNS[operator(node)])
    keeper = max((b for b in branches if b.has_weight), key=lambda b: math.prod(b.kernel)).node
    others = [b.node for b in branches if b.node is not None and b.node is not keeper]
    weighted = [other for other in others if operator(other) in BRANCH_READERS]
    by_rows = operator(keeper) == "Conv" or attribute(keeper, "transB", 0)
    weight = merged.weight if by_rows else merged.weight.T
    plan = Plan()
    for edit in chain(weight_edits(visible, node, keeper, weighted, weight), edits(keeper, merged)):
        plan.add(edit)
    plan.notes += [FLOAT_BIAS] * any(is_quantized_bias(b.node, 2) for b in branches if b.has_weight)
    return plan, keeper, others


def edits(node: gs.Node, merged: Branch) -> Iterator[Replace | SetAttributes]:
    """The edits, but for the weight, that turn one of the branches, which stays, into the merged one."""
    if has(node, 2) or merged.bias.any():
        require(operator(node) != "MatMul", "NO_BIAS", f"{label(node)} has no bias to take the shift")
        yield Replace(node, 2, merged.bias)
    if operator(node) != "Conv":
        return
    ends = [e + s for e, s in zip(merged.end, merged.surplus, strict=True)]
    windows = {"kernel_shape": [*merged.kernel], "pads": [*merged.begin, *ends], "dilations": [*merged.dilations]}
    yield SetAttributes(node, {**windows, "group": merged.group})


def parallel(visible: Visible, node: gs.Node) -> tuple[Branch, ...]:
    """Both operands as branches over the same tensor, at least one of them a convolution or a product."""
    convs = [weighted_branch(visible, x) for x in node.inputs]
    model = next((c for c in convs if c is not None), None)
    require(
        model is not None,
        "NO_BRANCHES",
        f"no operand of {label(node)} is a convolution or product that nothing else reads",
    )
    assert model is not None
    forms = [
        [conv, *diagonal_branches(visible, x, like=other or model)]
        for x, conv, other in zip(node.inputs, convs, reversed(convs), strict=True)
    ]
    for a, b in product(*forms):
        if a and b and a.source is b.source and (a.has_weight or b.has_weight) and a.channels == b.channels:
            return a, b
    raise Refused("NO_BRANCHES", f"the operands of {label(node)} are not branches over one tensor")


def origins(tensor: gs.Tensor) -> set[int]:
    """What a tensor can be a branch over: itself, or what its maker reads."""
    return {id(tensor), *(id(x) for maker in tensor.inputs for x in maker.inputs)}


def weighted_branch(visible: Visible, tensor: gs.Tensor) -> Branch | None:
    """A tensor as the output of a convolution or product, of which the sum is the only consumer."""
    made_by = tensor.inputs[0] if tensor.inputs and visible.is_read_once(tensor) else None
    if made_by is None or operator(made_by) not in BRANCH_READERS:
        return None
    return BRANCH_READERS[operator(made_by)](made_by)


def conv_branch(made_by: gs.Node) -> Branch | None:
    weight = known_value(made_by, 1)
    spatial, group = weight.ndim - 2, groups(made_by, len(weight))
    pads = attribute(made_by, "pads") or [0] * (2 * spatial)
    if attribute(made_by, "auto_pad", "NOTSET") not in ("NOTSET", "VALID") or min(pads, default=0) < 0:
        return None
    dilations = tuple(attribute(made_by, "dilations") or [1] * spatial)
    ends = [(k - 1) * d - b for k, d, b in zip(weight.shape[2:], dilations, pads, strict=False)]
    return Branch(
        source=made_by.inputs[0],
        node=made_by,
        weight=weight,
        bias=known_value(made_by, 2) if has(made_by, 2) else np.zeros(len(weight)),
        group=group,
        strides=tuple(attribute(made_by, "strides") or [1] * spatial),
        dilations=dilations,
        begin=tuple(pads[:spatial]),
        surplus=tuple(p - e for p, e in zip(pads[spatial:], ends, strict=True)),
        multiplies=weight.size,
    )


def product_branch(made_by: gs.Node) -> Branch | None:
    """A MatMul or Gemm of the tensor and a matrix; a Gemm with no factors of its own, and one bias per column."""
    weight = known_value(made_by, 1)
    bias = known_value(made_by, 2) if has(made_by, 2) else np.zeros(1)
    factors = attribute(made_by, "alpha", 1.0), attribute(made_by, "beta", 1.0), attribute(made_by, "transA", 0)
    if weight.ndim != 2 or factors != (1, 1, 0) or bias.size not in (1, bias.shape[-1] if bias.ndim else 1):
        return None
    rows = weight if attribute(made_by, "transB", 0) else weight.T
    bias = np.broadcast_to(bias.ravel(), (len(rows),))
    return Branch(made_by.inputs[0], made_by, rows, bias, 1, (), (), (), (), weight.size, channels=-1)


BRANCH_READERS = {"Conv": conv_branch, "MatMul": product_branch, "Gemm": product_branch}


def diagonal_branches(visible: Visible, tensor: gs.Tensor, like: Branch) -> Iterator[Branch]:
    """A tensor as an affine of another, and as itself: depthwise 1x1 convolutions of the kind of `like`."""
    made_by = tensor.inputs[0] if tensor.inputs and visible.is_read_once(tensor) else None
    try:
        read = affine_of(made_by) if made_by is not None else None
        if read is not None:
            channels = size(read[0], like.channels)
            affine = read[1].along(like.channels, channels)
            yield diagonal(read[0], made_by, affine.scale, affine.shift, like)
    except Refused:
        pass
    channels = like.weight.shape[1] * like.group
    require_room(channels)
    yield diagonal(tensor, None, np.ones(channels), np.zeros(channels), like)


def diagonal(source: gs.Tensor, node: gs.Node | None, scale: Array, shift: Array, like: Branch) -> Branch:
    spatial = len(like.kernel)
    ones, zeros = (1,) * spatial, (0,) * spatial
    weight = scale.reshape(-1, 1, *ones)
    cost = int((scale != 1).sum())
    return Branch(source, node, weight, shift, len(scale), ones, ones, zeros, zeros, cost, like.channels)


def merge(node: gs.Node, branches: Sequence[Branch], signs: Sequence[int]) -> Branch:
    """a(x) + b(x) as one convolution of x"""
    first = branches[0]
    outputs = {len(b.weight) for b in branches}
    require(len(outputs) == 1, "ALIGNMENT", f"the branches into {label(node)} differ in their channels")
    same = all(b.strides == first.strides and b.surplus == first.surplus for b in branches)
    require(same, "ALIGNMENT", f"the branches into {label(node)} differ in their strides or padding")
    dilations = tuple(common_dilation(node, branches, axis) for axis in range(len(first.kernel)))
    begin = tuple(map(max, *(b.begin for b in branches)))
    end = tuple(map(max, *(b.end for b in branches)))
    kernel = tuple((b + e) // d + 1 for b, e, d in zip(begin, end, dilations, strict=True))
    group = math.gcd(*(b.group for b in branches))
    inputs = first.weight.shape[1] * first.group
    shape = len(first.weight), inputs // group, *kernel
    require_cheap(node, math.prod(shape), sum(b.multiplies for b in branches))
    weight = np.zeros(shape)
    for branch, sign in zip(branches, signs, strict=True):
        places = tuple(tap_slices(node, branch, begin, dilations))
        weight[(slice(None), slice(None), *places)] += sign * regrouped(branch, inputs, group)
    bias = sum(sign * b.bias for b, sign in zip(branches, signs, strict=True))
    return replace(first, weight=weight, bias=np.asarray(bias), group=group, dilations=dilations, begin=begin)


def require_cheap(node: gs.Node, cost: int, parts: int) -> None:
    """Refuse a weight of more numbers than those of the branches together: before there is memory for it."""
    require(
        cost <= parts,
        "COST",
        f"one convolution for the branches into {label(node)} would multiply {cost / max(1, parts):.2g} times as much",
    )


def common_dilation(node: gs.Node, branches: Sequence[Branch], axis: int) -> int:
    """The dilation of every branch with more than one tap along an axis."""
    dilations = {b.dilations[axis] for b in branches if b.kernel[axis] > 1}
    require(len(dilations) <= 1, "ALIGNMENT", f"the branches into {label(node)} differ in their dilations")
    return dilations.pop() if dilations else 1


def tap_slices(node: gs.Node, branch: Branch, begin: Sequence[int], dilations: Sequence[int]) -> Iterator[slice]:
    """Where the taps of a branch lie among those of the merged kernel, per spatial axis."""
    for own, whole, dilation, taps in zip(branch.begin, begin, dilations, branch.kernel, strict=True):
        require(
            not (whole - own) % dilation, "ALIGNMENT", f"the taps of the branches into {label(node)} do not coincide"
        )
        start = (whole - own) // dilation
        yield slice(start, start + taps)


def regrouped(branch: Branch, inputs: int, group: int) -> Array:
    """The weight of a convolution of `branch.group` groups, as one of `group`, which divides it: blocks amid zeros."""
    outputs, own, wide = len(branch.weight), branch.weight.shape[1], inputs // group
    result = np.zeros((outputs, wide, *branch.kernel))
    for i, rows in enumerate(np.split(np.arange(outputs), branch.group)):
        start = (i * own) % wide
        result[rows[0] : rows[-1] + 1, start : start + own] = branch.weight[rows]
    return result
