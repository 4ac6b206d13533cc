"""Operators that join, cut or repeat tensors: each coefficient goes where its data goes."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import partial
from itertools import accumulate, chain

import numpy as np
import onnx_graphsurgeon as gs

from ...algebra.affine import Affine, Array, require, require_room
from ...algebra.computing import slice_positions
from ...graph.queries import argument, attribute, bounded, constant, label, number, onto, opset, rank, size
from . import OUT, Shares, hoist, sink
from .guards import inverse, setting, unmoved
from .pointwise import at_output

Moves = dict[int, Callable[[Array], Array]]  # for each axis: from the positions in the input to those in the output


def taken(affine: Affine, axis: int, positions: Array) -> Affine:
    """The coefficients of what is taken along one axis, as in x.take(positions, axis)."""

    def take(c: Array) -> Array:
        if c.shape[axis] == 1:
            return c
        require_room(*c.shape[:axis], len(positions), *c.shape[axis + 1 :])
        return c.take(positions, axis)

    return affine.map(take)


def put_back(node: gs.Node, affine: Affine, axis: int, positions: Array, length: int) -> Affine:
    """Coefficients for an axis of this `length`: those of an affine at `positions`, and 1 and 0 at all others."""

    def spread(c: Array, neutral: float) -> Array:
        require_room(*c.shape[:axis], length, *c.shape[axis + 1 :])
        whole = np.full((*c.shape[:axis], length, *c.shape[axis + 1 :]), neutral)
        whole[(slice(None),) * axis + (positions,)] = c
        same = np.array_equal(whole.take(positions, axis), np.broadcast_to(c, whole.take(positions, axis).shape))
        require(same, "VARIES", f"it varies over what {label(node)} repeats")
        return whole

    return Affine(spread(affine.scale, 1.0), spread(affine.shift, 0.0))


def on(affine: Affine, moves: Moves) -> Affine:
    """From the axes of the input to those of the output."""
    for axis, move in moves.items():
        affine = taken(affine, axis, move(np.arange(affine.extent[axis])))
    return affine


def back(node: gs.Node, affine: Affine, moves: Moves) -> Affine:
    """From the axes of the output to those of the input."""
    for axis, move in moves.items():
        length = size(node.inputs[0], axis)
        affine = put_back(node, affine, axis, move(np.arange(length)), length)
    return affine


@hoist("Concat")
def hoist_concat(node: gs.Node, port: int, affine: Affine) -> Shares:
    """s * concat(a, b) + t == concat(s_a * a + t_a, s_b * b + t_b), with s, t split as the inputs are"""
    axis = attribute(node, "axis", 1) % affine.rank
    if affine.extent[axis] == 1:
        return dict.fromkeys(range(len(node.inputs)), affine)
    return shared_out(affine, axis, joined(node, axis))


@sink("Concat")
def sink_concat(node: gs.Node, port: int, affine: Affine) -> Shares:
    """concat(s * a + t, b) == concat(s, 1) * concat(a, b) + concat(t, 0)"""
    axis = attribute(node, "axis", 1) % affine.rank
    ends = joined(node, axis)
    return {OUT: put_back(node, affine, axis, np.arange(ends[port], ends[port + 1]), ends[-1])}


def joined(node: gs.Node, axis: int) -> list[int]:
    """0, then where each input of a Concat ends along its axis. Kept on the node, since folding changes no length."""
    if not hasattr(node, "ends"):
        node.ends = ends_of(size(x, axis) for x in node.inputs)
    ends: list[int] = node.ends
    return ends


def ends_of(sizes: Iterable[int]) -> list[int]:
    return [*map(bounded, accumulate(sizes, initial=0))]


def shared_out(affine: Affine, axis: int, ends: list[int]) -> Shares:
    """The coefficients of consecutive parts of an axis, by the number of the part; identities are left out."""
    if affine.extent[axis] == 1:
        return dict.fromkeys(range(len(ends) - 1), affine)
    acts = np.moveaxis((affine.scale != 1) | (affine.shift != 0), axis, 0)
    if len(acts) != ends[-1]:
        raise ValueError("the parts are not all of it")
    positions = np.flatnonzero(acts.any(tuple(range(1, acts.ndim))))
    parts = dict.fromkeys((np.searchsorted(ends, positions, "right") - 1).tolist())
    return {k: part(affine, axis, slice(ends[k], ends[k + 1])) for k in parts}


def part(affine: Affine, axis: int, where: slice) -> Affine:
    """The coefficients of a part of an axis along which the affine varies."""
    return affine.map(lambda c: c if c.shape[axis] == 1 else c[(slice(None),) * axis + (where,)])


@hoist("Split")
def hoist_split(node: gs.Node, port: int, affine: Affine) -> Shares:
    """split(x) with s * split(x)[k] + t in place of output k == split(s' * x + t'), with 1 and 0 at other parts"""
    axis, ends = parts_of(node)
    return {0: put_back(node, affine, axis, np.arange(ends[port], ends[port + 1]), ends[-1])}


@sink("Split")
def sink_split(node: gs.Node, port: int, affine: Affine) -> Shares:
    """split(s * x + t)[k] == s_k * split(x)[k] + t_k, with s, t split as x is"""
    shares = shared_out(affine, *parts_of(node))
    return {OUT - k: share for k, share in shares.items() if not node.outputs[k].is_empty()}


def parts_of(node: gs.Node) -> tuple[int, list[int]]:
    """The axis of a Split; 0, then where each part ends. Without sizes all are equal, but for the last.

    Kept on the node, since folding changes no length.
    """
    if not hasattr(node, "parts"):
        axis = attribute(node, "axis", 0) % rank(node.inputs[0])
        stated = argument(node, "split", 1)
        node.parts = axis, ends_of(equal(node, axis) if stated is None else stated)
    answer: tuple[int, list[int]] = node.parts
    return answer


def equal(node: gs.Node, axis: int) -> list[int]:
    length, count = size(node.inputs[0], axis), len(node.outputs)
    step = -(-length // count)
    return [min(step, length - i * step) for i in range(count)]


@hoist("Slice")
def hoist_slice(node: gs.Node, port: int, affine: Affine) -> Shares:
    """s * slice(x) + t == slice(s' * x + t'), with 1 and 0 where x is cut away"""
    return {0: back(node, affine, cuts(node, affine))}


@sink("Slice")
def sink_slice(node: gs.Node, port: int, affine: Affine) -> Shares:
    """slice(s * x + t) == slice(s) * slice(x) + slice(t)"""
    return {OUT: on(affine, cuts(node, affine))}


def cuts(node: gs.Node, affine: Affine) -> Moves:
    """What a Slice does along the axes on which the affine varies."""
    axes = argument(node, "axes", 3)
    axes = range(len(argument(node, "starts", 1))) if axes is None else [a % affine.rank for a in axes]
    if all(affine.extent[a] == 1 for a in axes):
        return {}
    starts, ends = argument(node, "starts", 1), argument(node, "ends", 2)
    steps = argument(node, "steps", 4) or [1] * len(starts)
    cuts = zip(axes, starts, ends, steps, strict=True)
    return {axis: partial(_cut, start=a, end=b, step=c) for axis, a, b, c in cuts if affine.extent[axis] != 1}


def _cut(x: Array, start: int, end: int, step: int) -> Array:
    return x[slice_positions(len(x), start, end, step)]


@hoist("Tile")
def hoist_tile(node: gs.Node, port: int, affine: Affine) -> Shares:
    """s * tile(x) + t == tile(s' * x + t'), for s, t that repeat as x does"""
    return {0: back(node, affine, tiling(node, affine))}


@sink("Tile")
def sink_tile(node: gs.Node, port: int, affine: Affine) -> Shares:
    """tile(s * x + t) == tile(s) * tile(x) + tile(t)"""
    return {OUT: on(affine, tiling(node, affine))}


def tiling(node: gs.Node, affine: Affine) -> Moves:
    """What a Tile does along the axes on which the affine varies."""
    require(opset(node) >= 6, "OLD_OPSET", f"{label(node)} is of opset {opset(node)}, which repeats one axis only")
    varied = [axis for axis in range(affine.rank) if affine.extent[axis] != 1]
    counts = constant(node, 1).tolist() if varied else []
    for axis in varied:
        bounded(affine.extent[axis] * counts[axis])
    return {axis: partial(np.tile, reps=counts[axis]) for axis in varied}


@hoist("Pad")
def hoist_pad(node: gs.Node, port: int, affine: Affine) -> Shares:
    """s * pad(x, v) + t == pad(s' * x + t', s * v + t)"""
    return {0: back(node, affine, padding(node, affine)), **filling(node, affine, lambda: affine)}


@sink("Pad")
def sink_pad(node: gs.Node, port: int, affine: Affine) -> Shares:
    """pad(s * x + t, v) == pad(s) * pad(x, (v - t) / s) + pad(t)"""
    shares = filling(node, affine, lambda: inverse(node, affine))
    return {OUT: on(affine, padding(node, affine)), **shares}


def padding(node: gs.Node, affine: Affine) -> Moves:
    """What a Pad does along the axes on which the affine varies; there it must repeat what x holds."""
    pads = {axis: amounts for axis, amounts in pads_of(node).items() if any(amounts) and affine.extent[axis] != 1}
    mode = attribute(node, "mode", "constant")
    repeats = mode != "constant" and min([0, *chain(*pads.values())]) == 0
    require(repeats or not pads, "VARIES", f"it varies along an axis that {label(node)} pads with one number, or cuts")
    for axis, amounts in pads.items():
        bounded(affine.extent[axis] + sum(amounts))
    return {axis: partial(np.pad, pad_width=amounts, mode=mode) for axis, amounts in pads.items()}


def pads_of(node: gs.Node) -> dict[int, tuple[int, int]]:
    """How many elements a Pad adds before and after each axis."""
    pads = argument(node, "pads" if opset(node) > 1 else "paddings", 1)
    axes = argument(node, "axes", 3)
    axes = range(len(pads) // 2) if axes is None else [a % rank(node.inputs[0]) for a in axes]
    return dict(zip(axes, zip(pads[: len(axes)], pads[len(axes) :], strict=True), strict=True))


def filling(node: gs.Node, affine: Affine, move: Callable[[], Affine]) -> Shares:
    """What the number that a Pad fills in receives; nothing where there is none, or it stays what it is."""
    value = number(node, argument(node, "value", 2, 0.0))
    fills = attribute(node, "mode", "constant") == "constant" and max([0, *chain(*pads_of(node).values())]) > 0
    return {2: setting(node, 2, value, move(), "PADDING")} if fills and not unmoved(node, value, affine) else {}


@hoist("Expand")
def hoist_expand(node: gs.Node, port: int, affine: Affine) -> Shares:
    """s * expand(x) + t == expand(s * x + t), where s and t do not vary over the copies"""
    return {0: onto(affine, node.inputs[0])}


@sink("Expand")
def sink_expand(node: gs.Node, port: int, affine: Affine) -> Shares:
    """expand(s * x + t) == s * expand(x) + t"""
    return {OUT: at_output(node, affine)}


@hoist("Gather")
def hoist_gather(node: gs.Node, port: int, affine: Affine) -> Shares:
    """s * x[i] + t == (s' * x + t')[i], with s', t' put where i takes them from, and 1 and 0 elsewhere"""
    axis, end = axis_of_gather(node)
    if all(n == 1 for n in affine.extent[axis:end]):
        return {0: affine.map(lambda c: c.reshape(*c.shape[:axis], 1, *c.shape[end:]))}
    taken_from, length = constant(node, 1), size(node.inputs[0], axis)

    def flat(c: Array) -> Array:
        require_room(*c.shape[:axis], taken_from.size, *c.shape[end:])
        whole = np.broadcast_to(c, (*c.shape[:axis], *taken_from.shape, *c.shape[end:]))
        return whole.reshape(*c.shape[:axis], -1, *c.shape[end:])

    return {0: put_back(node, affine.map(flat), axis, taken_from.ravel() % length, length)}


@sink("Gather")
def sink_gather(node: gs.Node, port: int, affine: Affine) -> Shares:
    """(s * x + t)[i] == s[i] * x[i] + t[i]"""
    axis, end = axis_of_gather(node)
    indices = constant(node, 1) if affine.extent[axis] != 1 else np.zeros((1,) * (end - axis), int)
    require_room(*affine.extent[:axis], indices.size, *affine.extent[axis + 1 :])
    return {OUT: affine.map(lambda c: c.take(indices if c.shape[axis] != 1 else np.zeros_like(indices), axis))}


def axis_of_gather(node: gs.Node) -> tuple[int, int]:
    """Start and stop, among the axes of the output of a Gather, of those that its indices have."""
    axis = attribute(node, "axis", 0) % rank(node.inputs[0])
    return axis, axis + rank(node.inputs[1])
