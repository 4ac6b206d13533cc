"""MaxPool and AveragePool in float64: whole-array operations per kernel tap instead of a Python loop per window."""

from __future__ import annotations

from typing import Any

import numpy as np
from onnx.reference.op_run import OpRun

from .windows import Array, Window


def max_pool(x: Array, window: Window, ceil: bool) -> Array:
    """The largest value in each window of x (N, C, *sizes); padding never wins."""
    counts = window.counts(x.shape[2:], ceil)
    lowest = -np.inf if x.dtype.kind == "f" else np.iinfo(x.dtype).min
    taps = window.taps(window.pad(x, lowest, counts), counts)
    return _over_taps(np.maximum, taps, len(counts))


def average_pool(x: Array, window: Window, ceil: bool, include_pad: bool) -> Array:
    """The mean over each window: over its elements inside the image or, with `include_pad`, inside image and pads."""
    counts = window.counts(x.shape[2:], ceil)
    total = _over_taps(np.add, window.taps(window.pad(x, 0.0, counts), counts), len(counts))
    inside = np.ones((1, 1, *x.shape[2:]), dtype=x.dtype)
    if include_pad:
        inside = np.pad(inside, [(0, 0), (0, 0), *zip(window.before, window.after, strict=True)], constant_values=1.0)
    unpadded = Window(window.kernel, window.strides, window.dilations, (0,) * len(counts), (0,) * len(counts))
    shifted = unpadded if include_pad else window
    return total / _over_taps(np.add, shifted.taps(shifted.pad(inside, 0.0, counts), counts), len(counts))


def _over_taps(combine: Any, taps: Array, spatial: int) -> Array:
    """Reduce the kernel axes of (N, C, *counts, *kernel), one tap of all windows at a time."""
    kernel = taps.shape[2 + spatial :]
    result = taps[(..., *(0,) * spatial)].copy()
    for offset in list(np.ndindex(kernel))[1:]:
        combine(result, taps[(..., *offset)], out=result)
    return result


class MaxPool(OpRun):
    """https://onnx.ai/onnx/operators/onnx__MaxPool.html, without the optional output Indices."""

    op_domain = ""

    def _run(self, x, auto_pad=None, ceil_mode=None, dilations=None, kernel_shape=None, pads=None, storage_order=None, strides=None):  # type: ignore[no-untyped-def]
        if len([name for name in self.onnx_node.output if name]) > 1:
            raise NotImplementedError("MaxPool with the output Indices")
        return (max_pool(x, Window.of(x.shape[2:], kernel_shape, strides, dilations, pads, auto_pad), bool(ceil_mode)),)


class AveragePool(OpRun):
    """https://onnx.ai/onnx/operators/onnx__AveragePool.html"""

    op_domain = ""

    def _run(self, x, auto_pad=None, ceil_mode=None, count_include_pad=None, dilations=None, kernel_shape=None, pads=None, strides=None):  # type: ignore[no-untyped-def]
        window = Window.of(x.shape[2:], kernel_shape, strides, dilations, pads, auto_pad)
        return (average_pool(x, window, bool(ceil_mode), bool(count_include_pad)),)
