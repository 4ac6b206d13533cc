"""Unit impulses that show every weight of a linear operator alone, each in an output of its own."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import product
from math import prod

import numpy as np
import onnx

from ...runtime.protos import attributes
from ..float64.windows import Array, Window

WIDEST = 4096  # elements, from the first tap of a window to the last, or from one window to the next


class NotDerived(Exception):
    """A site is not linear, or in pieces that cannot be fed on their own; the text says so."""


@dataclass(frozen=True)
class Impulses:
    """`count` inputs of one shape, each zero but for ones at `places`: (inputs, ones of each, axes of the shape)."""

    shape: tuple[int, ...]  # of one input, without the batch axis
    places: Array

    @property
    def count(self) -> int:
        return len(self.places)

    def batch(self, which: Array) -> Array:
        """The chosen inputs, along the batch axis (float64)."""
        made = np.zeros((len(which), *self.shape))
        for row, ones in zip(made, self.places[which], strict=True):
            row[tuple(ones.T)] = 1.0
        return made


def impulses(reader: onnx.NodeProto, port: int, weight: tuple[int, ...], example: tuple[int, ...]) -> Impulses:
    """What to feed `reader`'s input `port` so that every weight is seen, and no two of them meet in an output.

    `weight` is the shape of its weight, `example` that of the tensor in a run of the network.
    """
    stated = attributes(reader)
    if reader.op_type in ("Conv", "ConvTranspose") and port == 0:
        return _images(reader.op_type, stated, weight, example)
    if reader.op_type == "Gemm" and port == 0 and not stated.get("transA"):
        return _rows(example[1:], len(example) - 2)
    if reader.op_type == "MatMul" and len(weight) == 2 and len(example) > 1 + port:
        return _rows(example[1:], len(example) - 2 - port)
    return elements(example)


def elements(example: tuple[int, ...]) -> Impulses:
    """One input per element: whatever linear operators follow, weights meet in no output."""
    return Impulses(example[1:], _positions(example[1:])[:, None])


def everything(example: tuple[int, ...]) -> Impulses:
    """Ones everywhere, for operators that sum over nothing, or over elements that they treat alike."""
    return Impulses(example[1:], _positions(example[1:])[None])


def _positions(shape: tuple[int, ...]) -> Array:
    return np.stack(np.unravel_index(np.arange(prod(shape)), shape or (1,)), axis=-1)


def _rows(shape: tuple[int, ...], axis: int) -> Impulses:
    """One row or column of a matrix per element along `axis`, as many in one input as there is room for."""
    free = [n for i, n in enumerate(shape) if i != axis]
    room = prod(free)
    slots = _positions(tuple(free)) if free else np.zeros((1, 0), int)
    batches = [range(start, min(start + room, shape[axis])) for start in range(0, shape[axis], room)]
    full = [_filled(batch, slots, axis) for batch in batches]
    width = max(map(len, full))
    return Impulses(shape, np.array([ones + [ones[-1]] * (width - len(ones)) for ones in full]))


def _filled(batch: range, slots: Array, axis: int) -> list[list[int]]:
    return [[*slot[:axis], element, *slot[axis:]] for element, slot in zip(batch, slots.tolist(), strict=False)]


def _images(operator: str, stated: dict[str, object], weight: tuple[int, ...], example: tuple[int, ...]) -> Impulses:
    """One image per channel of a group and position; all groups share an image, since their outputs are apart."""
    group = int(stated.get("group", 1))  # type: ignore[call-overload]
    channels = example[1] // group
    geometry = [stated.get(name) for name in ("strides", "dilations", "pads", "auto_pad")]
    if isinstance(geometry[3], bytes):
        geometry[3] = geometry[3].decode()
    window = Window.of(example[2:], weight[2:], *geometry)  # type: ignore[arg-type]
    if max(*window.extents, *window.strides) > WIDEST:
        raise NotDerived(f"its windows of {window.extents}, {window.strides} apart, are too wide")
    axes = [_line(operator, window, axis) for axis in range(len(example) - 2)]
    sizes = tuple(size for size, _ in axes)
    places = [
        [[g * channels + channel, *position] for g in range(group)]
        for channel in range(channels)
        for position in product(*(positions for _, positions in axes))
    ]
    return Impulses((example[1], *sizes), np.array(places))


def _line(operator: str, window: Window, axis: int) -> tuple[int, list[int]]:
    """How long an axis has to be, and at which positions an impulse has to stand, for every tap to be seen."""
    extent, step = window.extents[axis], window.strides[axis]
    if operator == "ConvTranspose":  # it makes `extent` elements of each; pads, which may be implied, cut some off
        before, after = (-(-max(extent - step, pads[axis]) // step) for pads in (window.before, window.after))
        return before + 1 + after, [before]
    size = max(extent + step - 1, 2 * extent - 1 - window.before[axis] - window.after[axis])
    seen = {position: set(_taps(window, axis, size, position)) for position in range(size)}
    return size, list(_cover(seen))


def _taps(window: Window, axis: int, size: int, position: int) -> Iterator[int]:
    """The taps that fall on a position, in whichever output."""
    count = (size + window.before[axis] + window.after[axis] - window.extents[axis]) // window.strides[axis] + 1
    for tap in range(window.kernel[axis]):
        start = position + window.before[axis] - tap * window.dilations[axis]
        if start % window.strides[axis] == 0 and 0 <= start // window.strides[axis] < count:
            yield tap


def _cover(seen: dict[int, set[int]]) -> Iterator[int]:
    """Few positions that together see every tap, those that see most first."""
    left: set[int] = set().union(*seen.values())
    while left:
        best = max(seen, key=lambda position: len(seen[position] & left))
        left -= seen[best]
        yield best
