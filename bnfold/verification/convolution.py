"""Conv and ConvTranspose in float64: any number of spatial axes, any group, at the speed of matrix products.

onnx's own reference is slow for Conv, and wrong for ConvTranspose with group > 1 (onnx 1.23 slices W along the wrong
axis).
"""

from __future__ import annotations

from collections.abc import Sequence
from math import prod
from typing import Any

import numpy as np
from onnx.reference.op_run import OpRun

from .windows import Array, Ints, Window

BLOCK = 1 << 22  # elements of one unrolled block: 32 MiB of float64


def conv(x: Array, w: Array, b: Array | None, window: Window, group: int) -> Array:
    """Cross-correlation of x (N, C, *sizes) with w (M, C/group, *kernel), plus b (M); returns (N, M, *counts)."""
    counts = window.counts(x.shape[2:])
    x, weights = _at_work(x, w.reshape(group, w.shape[0] // group, w.shape[1], prod(window.kernel)))
    taps = window.taps(window.pad(x, 0.0, counts), counts)
    out = np.empty((x.shape[0], group, weights.shape[2], *counts), dtype=x.dtype)
    rows = max(1, BLOCK * counts[0] // max(1, x.shape[0] * x.shape[1] * prod(counts) * prod(window.kernel)))
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

    def _run(self, x: Array, w: Array, b: Array | None = None, **given: Any) -> tuple[Array]:
        geometry = (given.get(name) for name in ("strides", "dilations", "pads", "auto_pad"))
        return (conv(x, w, b, Window.of(x.shape[2:], w.shape[2:], *geometry), given.get("group") or 1),)


class ConvTranspose(OpRun):
    """https://onnx.ai/onnx/operators/onnx__ConvTranspose.html"""

    op_domain = ""

    def _run(self, x: Array, w: Array, b: Array | None = None, **given: Any) -> tuple[Array]:
        window = Window.of(
            x.shape[2:], w.shape[2:], given.get("strides"), given.get("dilations"), given.get("pads"), None
        )
        more = given.get("output_padding") or [0] * (x.ndim - 2)
        cut = transpose_geometry(x.shape[2:], window, more, given.get("output_shape"), given.get("auto_pad"))
        return (conv_transpose(x, w, b, cut[0], given.get("group") or 1, cut[1]),)
