"""Where the windows of a pooling lie: one that holds nothing but padding yields a number of the operator's own."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx_graphsurgeon as gs

from ...algebra.affine import require
from ...graph.queries import Dim, attribute, bounded, label

SPATIAL = 2  # the first axis after batch and channels
FARTHEST = 1024  # dilations up to which axes of unknown length are looked at


def require_filled_windows(node: gs.Node) -> None:
    """Refuse a pooling of which a window may hold no element of its input."""
    kernel = attribute(node, "kernel_shape")
    whole = kernel is None  # a global pooling
    never_empty = (
        all(n != 0 for n in sizes(node)) if whole else all(map(all_hold_elements, *geometry(node, list(kernel))))
    )
    require(
        never_empty,
        "PADDING",
        f"a window of {label(node)} may hold nothing but padding, for which it has its own number",
    )


def sizes(node: gs.Node) -> list[Dim]:
    """The lengths of the spatial axes, as far as they are known; none where not even the rank is."""
    return list(node.inputs[0].shape or ())[SPATIAL:]


def geometry(node: gs.Node, kernel: list[int]) -> list[list[Any]]:
    """Of each spatial axis: its length, the taps of the kernel, their distance, the stride, and the padding."""
    rank = len(kernel)
    lengths = sizes(node) or [None] * rank
    strides, dilations = (attribute(node, name) or [1] * rank for name in ("strides", "dilations"))
    automatic = attribute(node, "auto_pad", "NOTSET")
    pads = attribute(node, "pads") if automatic == "NOTSET" else None
    pads = pads or [0] * (2 * rank)
    modes = [automatic if automatic.startswith("SAME") else "CEIL" if attribute(node, "ceil_mode", 0) else ""] * rank
    return [lengths, kernel, dilations, strides, pads[:rank], pads[rank:], modes]


def all_hold_elements(length: Dim, taps: int, gap: int, step: int, before: int, after: int, mode: str) -> bool:
    """Whether every window along an axis holds one of its elements; of an axis of unknown length, whatever that is.

    Windows that begin after the last element are none in ceil_mode, as ONNX has it.
    """
    span, same = (taps - 1) * gap, mode.startswith("SAME")
    if not isinstance(length, int):  # one that is longer than the distance of two taps is not missed
        near = same or (before <= span and after <= span + bool(mode))
        return (
            near
            and gap <= FARTHEST
            and all(all_hold_elements(n, taps, gap, step, before, after, mode) for n in range(1, gap + 1))
        )
    if same:
        count = -(-length // step)
        total = max(0, (count - 1) * step + span + 1 - length)
        before = total // 2  # as SAME_UPPER; the windows of SAME_LOWER are these from the other end
    else:
        room = length + before + after - span - 1
        count = (-(-room // step) if mode else room // step) + 1
        count -= bool(mode) and (count - 1) * step >= length + before
    starts = np.arange(-bounded(before), 0, step)[: max(0, count)]
    skipped = -(starts // gap)  # taps that lie before the axis
    on_it = np.all((skipped < taps) & (starts + skipped * gap < length))
    return bool(on_it) and (count - 1) * step - before < length
