"""Coefficients of a tensor that is reshaped: which axes stay in place for certain, and what is rearranged between.

Row-major order keeps groups of axes apart that have as many elements before as after, from either end. An axis of 4*N
elements counts as two, of N and of 4: what varies along the second alone repeats every 4 elements.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import onnx_graphsurgeon as gs

from ...algebra.affine import Affine, Array, Refused, compress, require, require_room
from ...graph.products import Dim, Product, may_become, product
from ...graph.queries import dims, label

Group = tuple[range, range]  # axes before, and axes after


def reflow(affine: Affine, node: gs.Node, source: tuple[Dim, ...], target: tuple[Dim, ...]) -> Affine:
    """Carry coefficients from a tensor of shape `source` to its reshape to `target`."""
    before, after = in_two(source), in_two(target)
    groups = paired_axes(before, after)
    apart, together = len(before) > len(source), len(after) > len(target)

    def carry(c: Array) -> Array:
        c = taken_apart(node, c, source) if apart else c
        c = onto_axes(node, c, groups, before, after)
        return put_together(node, c, target) if together else c

    return affine.map(carry)


def onto_axes(node: gs.Node, c: Array, groups: Sequence[Group], before: Sequence[Dim], after: Sequence[Dim]) -> Array:
    """Coefficients over the axes `before` as those over the axes `after`, group by group."""
    full, made = list(c.shape), [1] * len(after)
    changed = False
    for old, new in groups:
        if all(c.shape[i] == 1 for i in old):
            continue
        if len(old) == len(new) == 1:
            made[new[0]] = c.shape[old[0]]
            continue
        changed = True
        full[old.start : old.stop] = lengths(node, before[old.start : old.stop])
        made[new.start : new.stop] = lengths(node, after[new.start : new.stop])
    if not changed:
        return c.reshape(made)
    require_room(*full)
    return compress(np.broadcast_to(c, full).reshape(made))


def lengths(node: gs.Node, axes: Sequence[Dim]) -> list[int]:
    """The lengths of axes between which coefficients are rearranged."""
    known = [n for n in axes if isinstance(n, int)]
    if len(known) < len(axes):
        turned = f"{label(node)} turns {spelled(node.inputs[0])} into {spelled(node.outputs[0])}"
        raise Refused("SHAPE_UNKNOWN", f"{turned}, not all known before run time")
    return known


def spelled(tensor: gs.Tensor) -> str:
    """[N, 4, ?]"""
    return f"[{', '.join(map(str, dims(tensor)))}]"


def in_two(shape: Sequence[Dim]) -> list[Dim]:
    """The axes, where one of 4*N elements counts as two: N and 4."""
    return [part for n in shape for part in halves(n)]


def halves(length: Dim) -> tuple[Dim, ...]:
    if isinstance(length, Product) and length.factor > 1:
        return Product(1, length.symbols), length.factor
    return (length,)


def taken_apart(node: gs.Node, coefficients: Array, shape: Sequence[Dim]) -> Array:
    """Coefficients over a shape as those over the axes of `in_two`."""
    extents: list[int] = []
    copies: list[int] = []
    for n, length in zip(coefficients.shape, shape, strict=True):
        *first, last = halves(length)
        times = last // n if first and n > 1 and isinstance(last, int) else 1
        require_even(node, not first or n == 1 or n * times == last, length)
        extents += [*[1] * len(first), n]
        copies += [*[1] * len(first), times]
    apart = coefficients.reshape(extents)
    return np.tile(apart, copies) if max(copies) > 1 else apart


def require_even(node: gs.Node, repeats: bool, length: Dim) -> None:
    words = f"it does not repeat along an axis of {length} elements that {label(node)} reads or makes"
    require(repeats, "VARIES", words)


def put_together(node: gs.Node, coefficients: Array, shape: Sequence[Dim]) -> Array:
    """The reverse of `taken_apart`."""
    rest = iter(coefficients.shape)
    extents: list[int] = []
    for length in shape:
        *outer, inner = (next(rest) for _ in halves(length))
        require_even(node, outer in ([], [1]), length)
        extents.append(inner)
    return coefficients.reshape(extents)


def paired_axes(before: Sequence[Dim], after: Sequence[Dim]) -> list[Group]:
    """The groups, from the front, from the back, and what is left in between, which has as many elements, too."""
    front = matched(before, after)
    i, j = front[-1]
    back = [(len(before) - n, len(after) - m) for n, m in matched(before[i:][::-1], after[j:][::-1])][::-1]
    ends = sorted({*front, *back, (len(before), len(after))})
    return [(range(a, c), range(b, d)) for (a, b), (c, d) in zip(ends, ends[1:], strict=False)]


def matched(before: Sequence[Dim], after: Sequence[Dim]) -> list[tuple[int, int]]:
    """Pairs (i, j): the first i axes of one shape have as many elements as the first j of the other, in every run.

    If a symbol among them is 0, neither tensor has any element.
    """
    pairs: list[tuple[int, int]] = []
    i = j = 0
    left: Dim = 1
    right: Dim = 1
    while left and right:
        if left == right:
            pairs.append((i, j))
            if i == len(before) or j == len(after):
                break
            left, right, i, j = before[i], after[j], i + 1, j + 1
        elif i < len(before) and may_become(left, right):
            left, i = product([left, before[i]]), i + 1
        elif j < len(after) and may_become(right, left):
            right, j = product([right, after[j]]), j + 1
        else:
            break
    return pairs
