"""Which nodes are affine: BatchNormalization of every opset, and Mul, Add, Sub, Div, Sum with constants, and Neg."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import onnx_graphsurgeon as gs

from ..algebra.affine import Affine, Array, Refused, at_rank, require, require_room_to_broadcast
from ..algebra.computing import HALF
from ..algebra.rounding import rounded
from ..errors import ModelProblem
from ..graph.constants import is_known
from ..graph.dequantized import known_value
from ..graph.queries import (
    algebra,
    attribute,
    constant,
    dims,
    dtype,
    is_constant,
    is_floating,
    label,
    operator,
    opset,
    rank,
)
from ..model.messages import INFERENCE

BATCH_NORMALIZATION = "BatchNormalization"
NEVER_ROUNDED_FROM = 2**-7  # no number farther from 0 or 1 is rounded to it, in any type
EPSILON = float(np.float32(1e-5))  # the default of the ONNX specification, a float32 like every attribute


def is_batch_normalization(node: gs.Node) -> bool:
    return operator(node) == BATCH_NORMALIZATION


def affine_of(node: gs.Node) -> tuple[gs.Tensor, Affine] | None:
    """The tensor a node transforms and the affine it applies; None if it is no affine node.

    Arithmetic in 16 bits on what is the same in every run is none: runtimes differ in whether they round it.
    Raises Refused for a BatchNormalization whose parameters are not constant, ModelProblem for one in training mode or
    with parameters that are not numbers.
    """
    if is_batch_normalization(node):
        return node.inputs[0], batch_normalization(node)
    read = AFFINE_READERS.get(operator(node))
    if read is None or not all(is_floating(x) for x in node.inputs):
        return None
    try:
        with algebra(node):
            result = read(node)
            return None if result and is_known(result[0]) and dtype(result[0]) in HALF else result
    except Refused:
        return None


def batch_normalization(node: gs.Node) -> Affine:
    """scale / sqrt(var + epsilon) * x + (B - scale / sqrt(var + epsilon) * mean), as in Algorithm 2, line 11"""
    refuse_training(node)
    scale, bias, mean, var = (known_value(node, i) for i in range(1, 5))
    require_numbers(node, scale, bias, mean, var)
    require_one_per_channel(node, scale, bias, mean, var)
    spread = var + attribute(node, "epsilon", EPSILON)
    require((spread > 0).all(), "NOT_FINITE", f"var + epsilon of {label(node)} is not positive")
    with algebra(node):
        factor = scale / np.sqrt(spread)
        return over_channels(node, Affine.of(factor, bias - factor * mean))


def over_channels(node: gs.Node, affine: Affine) -> Affine:
    """(C,) coefficients at axis 1; (C, D1, .., Dn) ones, which opsets up to 8 allow with spatial=0, after the batch."""
    r = rank(node.inputs[0])
    per_activation = opset(node) < 9 and not attribute(node, "spatial", 1)
    if per_activation:
        return affine.map(lambda c: at_rank(c, r))
    require(affine.rank == 1, "VARIES", f"the parameters of {label(node)} have rank {affine.rank}, not 1")
    return affine.on(min(1, r - 1), r)


def refuse_training(node: gs.Node) -> None:
    outputs = sum(not x.is_empty() for x in node.outputs)
    by_default = opset(node) < 7 and not attribute(node, "is_test", 0)
    if attribute(node, "training_mode", 0) or outputs > 1 or by_default:
        raise ModelProblem(
            f"{label(node)} is in training mode: it normalizes with the statistics of each batch",
            INFERENCE,
        )


def require_one_per_channel(node: gs.Node, *parameters: Array) -> None:
    lengths = [value.size for value in parameters]
    if len(set(lengths)) > 1:
        raise ModelProblem(
            f"scale, B, mean and var of {label(node)} have {', '.join(map(str, lengths))} values",
            "They must have one for each channel: the file is damaged; export the model again.",
        )


def require_numbers(node: gs.Node, *parameters: Array) -> None:
    names = ("scale", "B", "mean", "var")
    for name, value in zip(names, parameters, strict=True):
        if not np.isfinite(value).all():
            bad = np.count_nonzero(~np.isfinite(value))
            raise ModelProblem(
                f"{name} of {label(node)} holds NaN or infinity ({bad} of {value.size} values)",
                "The training diverged or the file is damaged; export a sound checkpoint.",
            )


def _mul(node: gs.Node) -> tuple[gs.Tensor, Affine] | None:
    """x * c; the product of a measured scale and that of a weight stays, for runtimes look for it before a Mul"""
    if any(operator(maker) == "DynamicQuantizeLinear" for x in node.inputs for maker in x.inputs):
        return None
    return _with_constant(node, 1.0, lambda c, i: Affine.of(c))


def _add(node: gs.Node) -> tuple[gs.Tensor, Affine] | None:
    return _with_constant(node, 0.0, lambda c, i: Affine.of(1.0, c))


def _sub(node: gs.Node) -> tuple[gs.Tensor, Affine] | None:
    """x - c, or c - x == -x + c"""
    return _with_constant(node, 0.0, lambda c, i: Affine.of(1.0, -c) if i else Affine.of(-1.0, c))


def _div(node: gs.Node) -> tuple[gs.Tensor, Affine] | None:
    """x / c == (1 / c) * x; c / x is not affine"""
    if is_constant(node.inputs[0]) or not np.all(constant(node, 1)):
        return None
    return _with_constant(node, 1.0, lambda c, i: Affine.of(1 / c))


def _neg(node: gs.Node) -> tuple[gs.Tensor, Affine] | None:
    return node.inputs[0], Affine.of(np.full((1,) * rank(node.inputs[0]), -1.0))


def _sum(node: gs.Node) -> tuple[gs.Tensor, Affine] | None:
    """x + c + d + .."""
    stored = [i for i, x in enumerate(node.inputs) if is_constant(x)]
    if not stored or len(stored) != len(node.inputs) - 1:
        return None
    x = next(x for x in node.inputs if not is_constant(x))
    terms = [_as_stored(node, i, 0.0) for i in stored]
    require_room_to_broadcast(*(term.shape for term in terms))
    return _over(x, Affine.of(1.0, sum(terms)))


AFFINE_READERS = {"Mul": _mul, "Add": _add, "Sub": _sub, "Div": _div, "Neg": _neg, "Sum": _sum}


def _with_constant(
    node: gs.Node, neutral: float, read: Callable[[Array, int], Affine]
) -> tuple[gs.Tensor, Affine] | None:
    """The affine of a node with two operands, exactly one of them constant, which is `neutral` if nothing changes."""
    stored = [is_constant(x) for x in node.inputs]
    if sum(stored) != 1:
        return None
    index = stored.index(True)
    x = node.inputs[1 - index]
    value = _as_stored(node, index, neutral)
    return _over(x, read(_aligned(node, value, rank(x)), index))


def _as_stored(node: gs.Node, index: int, neutral: float) -> Array:
    """The constant of a node, in float64; all `neutral` if rounding will make it so: then the node can go now."""
    value = constant(node, index)
    near = value.size and abs(value.flat[0] - neutral) < NEVER_ROUNDED_FROM
    settled = near and np.all(rounded(value, dtype(node.inputs[index]))[0] == neutral)
    return np.full_like(value, neutral) if settled else value


def _aligned(node: gs.Node, value: Array, to: int) -> Array:
    """A constant operand as broadcasting aligns it; up to opset 6 it stands at `axis`, if `broadcast` is set."""
    axis = attribute(node, "axis")
    if opset(node) >= 7 or axis is None or not attribute(node, "broadcast", 0):
        return value
    return value.reshape(value.shape + (1,) * (to - axis % to - value.ndim))


def _over(x: gs.Tensor, affine: Affine) -> tuple[gs.Tensor, Affine] | None:
    """The affine at the rank of `x`, unless it would enlarge `x` or holds what is no number."""
    affine = affine.map(lambda c: at_rank(c, rank(x)))
    enlarges = affine.rank > rank(x) or any(n not in (1, m) for n, m in zip(affine.extent, dims(x), strict=True))
    if enlarges or not (np.isfinite(affine.scale).all() and np.isfinite(affine.shift).all()):
        return None
    return x, affine
