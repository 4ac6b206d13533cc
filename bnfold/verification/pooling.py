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
    images = np.moveaxis(taps, tuple(range(2 + spatial, taps.ndim)), tuple(range(spatial)))
    offsets = list(np.ndindex(kernel))
    result: Array = images[offsets[0]].copy()
    for offset in offsets[1:]:
        combine(result, images[offset], out=result)
    return result


class MaxPool(OpRun):
    """https://onnx.ai/onnx/operators/onnx__MaxPool.html, without the optional output Indices."""

    op_domain = ""

    def _run(self, x: Array, **given: Any) -> tuple[Array]:
        if len([name for name in self.onnx_node.output if name]) > 1:
            raise NotImplementedError("MaxPool with the output Indices")
        return (max_pool(x, _window(x, given), bool(given.get("ceil_mode"))),)


class AveragePool(OpRun):
    """https://onnx.ai/onnx/operators/onnx__AveragePool.html"""

    op_domain = ""

    def _run(self, x: Array, **given: Any) -> tuple[Array]:
        return (average_pool(x, _window(x, given), bool(given.get("ceil_mode")), bool(given.get("count_include_pad"))),)


def _window(x: Array, given: dict[str, Any]) -> Window:
    names = ("kernel_shape", "strides", "dilations", "pads", "auto_pad")
    return Window.of(x.shape[2:], *(given.get(name) for name in names))
