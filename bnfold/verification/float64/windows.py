"""Convolutions and pools in float64, by their sliding windows, for any number of spatial axes and any group.

onnx's own reference is slow for all of them (a Python loop per window), and wrong for ConvTranspose with group > 1
(onnx 1.23 slices W along the wrong axis).
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from math import prod
from typing import Any

import numpy as np
from onnx.reference.op_run import OpRun

from ...runtime.protos import Array as Array

Ints = Sequence[int] | None


@dataclass(frozen=True)
class Window:
    """A kernel of `kernel` taps per spatial axis, `dilations` apart, moved by `strides` over an image padded by
    `before` and `after`."""

    kernel: tuple[int, ...]
    strides: tuple[int, ...]
    dilations: tuple[int, ...]
    before: tuple[int, ...]
    after: tuple[int, ...]

    @classmethod
    def of(cls, sizes: Sequence[int], kernel: Any, strides: Ints, dilations: Ints, pads: Ints, auto_pad: Any) -> Window:
        """The window ONNX attributes describe over an image of `sizes` (absent: strides 1, dilations 1, pads 0)."""
        rank = len(sizes)
        steps, gaps = tuple(strides or (1,) * rank), tuple(dilations or (1,) * rank)
        stated = tuple(pads or (0,) * (2 * rank))
        plain = cls(tuple(kernel), steps, gaps, stated[:rank], stated[rank:])
        return plain._same(sizes, auto_pad) if auto_pad in ("SAME_UPPER", "SAME_LOWER", "VALID") else plain

    def _same(self, sizes: Sequence[int], auto_pad: str) -> Window:
        """Pads for ceil(size / stride) windows; an odd one goes to the end (UPPER) or the start (LOWER)."""
        if auto_pad == "VALID":
            return Window(self.kernel, self.strides, self.dilations, (0,) * len(sizes), (0,) * len(sizes))
        axes = zip(sizes, self.strides, self.extents, strict=True)
        total = [max(0, ((size - 1) // step) * step + extent - size) for size, step, extent in axes]
        small, large = tuple(t // 2 for t in total), tuple(t - t // 2 for t in total)
        before, after = (small, large) if auto_pad == "SAME_UPPER" else (large, small)
        return Window(self.kernel, self.strides, self.dilations, before, after)

    @property
    def extents(self) -> tuple[int, ...]:
        """How many positions the dilated kernel covers along each axis."""
        return tuple((k - 1) * d + 1 for k, d in zip(self.kernel, self.dilations, strict=True))

    def counts(self, sizes: Sequence[int], ceil: bool = False) -> tuple[int, ...]:
        """How many windows fit along each axis; with `ceil` a partial one too, unless it starts in the end pad."""
        return tuple(self._count(axis, size, ceil) for axis, size in enumerate(sizes))

    def _count(self, axis: int, size: int, ceil: bool) -> int:
        step, before = self.strides[axis], self.before[axis]
        room = size + before + self.after[axis] - self.extents[axis]
        count = max(0, (-(-room // step) if ceil else room // step) + 1)
        return count - 1 if ceil and count and (count - 1) * step >= size + before else count

    def pad(self, x: Array, fill: float, counts: Sequence[int]) -> Array:
        """`x` padded with `fill`, far enough that `counts` windows fit along every spatial axis."""
        widths = [(0, 0), (0, 0)]
        for axis, count in enumerate(counts):
            size = x.shape[axis + 2] + self.before[axis]
            last = (count - 1) * self.strides[axis] + self.extents[axis]
            widths.append((self.before[axis], max(self.after[axis], last - size)))
        return np.pad(x, widths, constant_values=fill) if any(map(any, widths)) else x

    def taps(self, padded: Array, counts: Sequence[int]) -> Array:
        """All windows as one view: (N, C, *counts, *kernel)."""
        if 0 in counts:
            return np.empty((*padded.shape[:2], *counts, *self.kernel), padded.dtype)
        axes = tuple(range(2, padded.ndim))
        view = np.lib.stride_tricks.sliding_window_view(padded, self.extents, axes)
        moves = tuple(slice(0, (n - 1) * s + 1, s) for n, s in zip(counts, self.strides, strict=True))
        return view[(slice(None), slice(None), *moves, *(slice(None, None, d) for d in self.dilations))]


UNROLLED = 1 << 22  # elements of one unrolled block: 32 MiB of float64


def conv(x: Array, w: Array, b: Array | None, window: Window, group: int) -> Array:
    """Cross-correlation of x (N, C, *sizes) with w (M, C/group, *kernel), plus b (M); returns (N, M, *counts)."""
    counts = window.counts(x.shape[2:])
    x, weights = _at_work(x, w.reshape(group, w.shape[0] // group, w.shape[1], prod(window.kernel)))
    taps = window.taps(window.pad(x, 0.0, counts), counts)
    out = np.empty((x.shape[0], group, weights.shape[2], *counts), dtype=x.dtype)
    rows = max(1, UNROLLED * counts[0] // max(1, x.shape[0] * x.shape[1] * prod(counts) * prod(window.kernel)))
    for start in range(0, counts[0], rows):
        block = taps[:, :, start : start + rows]
        out[:, :, :, start : start + rows] = _products(block, weights, len(counts))
    result = out.reshape(x.shape[0], w.shape[0], *counts)
    return result if b is None else result + b.reshape(-1, *(1,) * len(counts))


def _at_work(x: Array, weights: Array) -> tuple[Array, Array]:
    """Images and, for each (or all) of them, what every group multiplies them by: (N or 1, group, M/group, K).

    Where each image has at most one channel in a group that is not zero, as impulses have, it is the only one left.
    """
    group, rows, channels, taps = weights.shape
    grouped = x.reshape(len(x), group, channels, *x.shape[2:])
    busy = grouped.any(axis=tuple(range(3, grouped.ndim)))
    if channels < 2 or busy.sum(axis=2).max(initial=0) > 1:
        return x, weights.reshape(1, group, rows, channels * taps)
    which, groups = busy.argmax(axis=2), np.arange(group)
    return grouped[np.arange(len(x))[:, None], groups, which], weights[groups, :, which]


def _products(taps: Array, weights: Array, spatial: int) -> Array:
    """One block of windows unrolled to columns (K, L) per image and group, multiplied: (N, group, M/group, *counts)."""
    images, channels, *rest = taps.shape
    counts, group = rest[:spatial], weights.shape[1]
    order = (0, 1, *range(2 + spatial, taps.ndim), *range(2, 2 + spatial))
    columns = taps.transpose(order).reshape(images, group, weights.shape[3], prod(counts))
    product: Array = weights @ columns
    return product.reshape(images, group, weights.shape[2], *counts)


def conv_transpose(x: Array, w: Array, b: Array | None, window: Window, group: int, sizes: Sequence[int]) -> Array:
    """Every input element adds its copy of the kernel to a canvas, from which an image of `sizes` is cut.

    x (N, C, *in), w (C, M/group, *kernel), b (M); the cut starts at `window.before`; returns (N, M, *sizes).
    """
    images, inner = x.shape[0], x.shape[2:]
    full = [(n - 1) * s + e for n, s, e in zip(inner, window.strides, window.extents, strict=True)]
    canvas_sizes = [max(f, p + n) for f, p, n in zip(full, window.before, sizes, strict=True)]
    channels = group * w.shape[1]
    canvas = np.zeros((images, channels, *canvas_sizes), dtype=x.dtype)
    own = x.shape[1] // group
    pixels = x.reshape(images, group, own, prod(inner))
    weights = w.reshape(group, own, w.shape[1], prod(window.kernel)).transpose(3, 0, 2, 1)
    for tap, offset in enumerate(np.ndindex(window.kernel)):
        axes = zip(offset, window.dilations, inner, window.strides, strict=True)
        place = tuple(slice(o * d, o * d + (n - 1) * s + 1, s) for o, d, n, s in axes)
        canvas[(slice(None), slice(None), *place)] += (weights[tap] @ pixels).reshape(images, channels, *inner)
    cut = canvas[(slice(None), slice(None), *(slice(p, p + n) for p, n in zip(window.before, sizes, strict=True)))]
    return cut if b is None else cut + b.reshape(-1, *(1,) * len(sizes))


def transpose_geometry(
    inner: Sequence[int], window: Window, output_padding: Sequence[int], output_shape: Ints, auto_pad: Any
) -> tuple[Window, Sequence[int]]:
    """Where to cut and how much, by the ONNX specification of ConvTranspose (`output_shape` and SAME set the pads)."""
    axes = zip(inner, window.strides, window.extents, output_padding, strict=True)
    full = [(n - 1) * s + e + more for n, s, e, more in axes]
    if output_shape is None and auto_pad not in ("SAME_UPPER", "SAME_LOWER"):
        return window, [f - p - q for f, p, q in zip(full, window.before, window.after, strict=True)]
    wanted = output_shape or [n * s for n, s in zip(inner, window.strides, strict=True)]
    sizes = list(wanted)[-len(full) :]
    total = [max(0, f - n) for f, n in zip(full, sizes, strict=True)]
    before = tuple(t // 2 if auto_pad == "SAME_UPPER" else t - t // 2 for t in total)
    return Window(window.kernel, window.strides, window.dilations, before, window.after), sizes


class Conv(OpRun):
    """https://onnx.ai/onnx/operators/onnx__Conv.html"""

    op_domain = ""

    def _run(self, x: Array, w: Array, b: Array | None = None, **settings: Any) -> tuple[Array]:
        geometry = (settings.get(name) for name in ("strides", "dilations", "pads", "auto_pad"))
        return (conv(x, w, b, Window.of(x.shape[2:], w.shape[2:], *geometry), settings.get("group") or 1),)


class ConvTranspose(OpRun):
    """https://onnx.ai/onnx/operators/onnx__ConvTranspose.html"""

    op_domain = ""

    def _run(self, x: Array, w: Array, b: Array | None = None, **settings: Any) -> tuple[Array]:
        window = Window.of(
            x.shape[2:], w.shape[2:], settings.get("strides"), settings.get("dilations"), settings.get("pads"), None
        )
        more = settings.get("output_padding") or [0] * (x.ndim - 2)
        cut = transpose_geometry(x.shape[2:], window, more, settings.get("output_shape"), settings.get("auto_pad"))
        return (conv_transpose(x, w, b, cut[0], settings.get("group") or 1, cut[1]),)


def max_pool(x: Array, window: Window, ceil: bool) -> Array:
    """The largest value in each window of x (N, C, *sizes); padding never wins."""
    counts = window.counts(x.shape[2:], ceil)
    return _over_taps(np.maximum, _each_tap(x, _lowest(x), window, counts))


def _over_taps(combine: Any, taps: Iterator[Array]) -> Array:
    """Reduce the windows to one value each."""
    result: Array = next(taps).copy()
    for tap in taps:
        combine(result, tap, out=result)
    return result


def largest_at(x: Array, window: Window, ceil: bool, by_columns: bool) -> Array:
    """Where in x, laid in a row, the largest value of each window stands; of equals the first.

    `by_columns` counts within each image along its first axis first (storage_order 1).
    """
    sizes, counts = x.shape[2:], window.counts(x.shape[2:], ceil)
    within = np.arange(math.prod(sizes)).reshape(sizes, order="F" if by_columns else "C")
    first = np.arange(math.prod(x.shape[:2])).reshape(*x.shape[:2], *[1] * len(sizes)) * within.size
    values, places = _each_tap(x, _lowest(x), window, counts), _each_tap(first + within, 0, window, counts)
    best, at = next(values).copy(), next(places).copy()
    for value, place in zip(values, places, strict=True):
        better = value > best
        best[better], at[better] = value[better], place[better]
    return at


def _lowest(x: Array) -> float:
    return -np.inf if x.dtype.kind == "f" else int(np.iinfo(x.dtype).min)


def _each_tap(x: Array, fill: float, window: Window, counts: Sequence[int]) -> Iterator[Array]:
    """One tap of all windows at a time, in the order of the kernel."""
    taps = window.taps(window.pad(x, fill, counts), counts)
    for offset in np.ndindex(taps.shape[2 + len(counts) :]):
        yield taps[(..., *offset)]


def average_pool(x: Array, window: Window, ceil: bool, include_pad: bool) -> Array:
    """The mean over each window: over its elements inside the image or, with `include_pad`, inside image and pads."""
    counts = window.counts(x.shape[2:], ceil)
    total = _over_taps(np.add, _each_tap(x, 0.0, window, counts))
    inside = np.ones((1, 1, *x.shape[2:]), dtype=x.dtype)
    if include_pad:
        inside = np.pad(inside, [(0, 0), (0, 0), *zip(window.before, window.after, strict=True)], constant_values=1.0)
    unpadded = Window(window.kernel, window.strides, window.dilations, (0,) * len(counts), (0,) * len(counts))
    shifted = unpadded if include_pad else window
    return total / _over_taps(np.add, _each_tap(inside, 0.0, shifted, counts))


class MaxPool(OpRun):
    """https://onnx.ai/onnx/operators/onnx__MaxPool.html"""

    op_domain = ""

    def _run(self, x: Array, **settings: Any) -> tuple[Array, ...]:
        window, ceil = _window(x, settings), bool(settings.get("ceil_mode"))
        largest = max_pool(x, window, ceil)
        if len([name for name in self.onnx_node.output if name]) == 1:
            return (largest,)
        return largest, largest_at(x, window, ceil, bool(settings.get("storage_order")))


class AveragePool(OpRun):
    """https://onnx.ai/onnx/operators/onnx__AveragePool.html"""

    op_domain = ""

    def _run(self, x: Array, **settings: Any) -> tuple[Array]:
        return (
            average_pool(
                x, _window(x, settings), bool(settings.get("ceil_mode")), bool(settings.get("count_include_pad"))
            ),
        )


def _window(x: Array, settings: dict[str, Any]) -> Window:
    names = ("kernel_shape", "strides", "dilations", "pads", "auto_pad")
    return Window.of(x.shape[2:], *(settings.get(name) for name in names))
