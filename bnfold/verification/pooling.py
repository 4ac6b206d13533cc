"""MaxPool and AveragePool in float64: whole-array operations per kernel tap instead of a Python loop per window."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from onnx.reference.op_run import OpRun

from .windows import Array, Window


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

    def _run(self, x: Array, **given: Any) -> tuple[Array, ...]:
        window, ceil = _window(x, given), bool(given.get("ceil_mode"))
        largest = max_pool(x, window, ceil)
        if len([name for name in self.onnx_node.output if name]) == 1:
            return (largest,)
        return largest, largest_at(x, window, ceil, bool(given.get("storage_order")))


class AveragePool(OpRun):
    """https://onnx.ai/onnx/operators/onnx__AveragePool.html"""

    op_domain = ""

    def _run(self, x: Array, **given: Any) -> tuple[Array]:
        return (average_pool(x, _window(x, given), bool(given.get("ceil_mode")), bool(given.get("count_include_pad"))),)


def _window(x: Array, given: dict[str, Any]) -> Window:
    names = ("kernel_shape", "strides", "dilations", "pads", "auto_pad")
    return Window.of(x.shape[2:], *(given.get(name) for name in names))
