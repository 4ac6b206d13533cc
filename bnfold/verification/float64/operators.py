"""Operators that onnx's reference evaluates wrongly, as another opset defines them, or not at all; in float64.

Known errors of onnx 1.23's reference, each replaced here or in windows.py: BatchNormalization-9 mixes batch statistics
in, BatchNormalization-7 trains; Softmax and its kin before opset 13 normalize one axis instead of all trailing ones;
LRN loops over the batch instead of the channels; Upsample-7 and Resize-10 are read with the arguments of later
versions; DequantizeLinear rounds int32 to float32; Slice does not clamp a start below the axis; Flatten raises for a
tensor without elements; ConvTranspose is wrong with groups.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from onnx.reference.op_run import OpRun
from onnx.reference.ops.op_non_max_suppression import NonMaxSuppression as Selection

from .windows import Array, AveragePool, Conv, ConvTranspose, MaxPool

EPSILON = float(np.float32(1e-5))  # of a BatchNormalization that states none: attributes are float32


class Standard(OpRun):
    """An operator of the standard domain, with the opset of its model."""

    op_domain = ""

    @property
    def opset(self) -> int:
        opsets = self.run_params["opsets"]
        return int(opsets.get("", opsets.get("ai.onnx", 1)))

    def setting(self, name: str, default: Any) -> Any:
        """An attribute as the node states it, or `default`: not the default of a later version of the operator."""
        stated = {attribute.name for attribute in self.onnx_node.attribute}
        return getattr(self, name) if name in stated else default


class BatchNormalization(Standard):
    """scale * (x - mean) / sqrt(var + epsilon) + shift: inference of every opset, `spatial=0` included."""

    def _run(self, x, scale, shift, mean, var, **attributes):  # type: ignore[no-untyped-def]
        if self._trains:
            raise NotImplementedError("BatchNormalization in training mode")
        one_per_channel = (-1, *(1,) * (x.ndim - 2))
        laid = x.shape[1:] if not self.setting("spatial", 1) else one_per_channel
        scale, shift, mean, var = (p.reshape(laid) for p in (scale, shift, mean, var))
        return (scale * (x - mean) / np.sqrt(var + self.setting("epsilon", EPSILON)) + shift,)

    @property
    def _trains(self) -> bool:
        if self.opset >= 14:
            return bool(self.setting("training_mode", 0))
        return len([name for name in self.onnx_node.output if name]) > 1 or (
            self.opset < 7 and not self.setting("is_test", 0)
        )


def _normalized(x: Array, axes: tuple[int, ...]) -> Array:
    grown = np.exp(x - x.max(axis=axes, keepdims=True))
    return grown / grown.sum(axis=axes, keepdims=True)  # type: ignore[no-any-return]


class Softmax(Standard):
    """exp(x) / sum(exp(x)) over one axis; before opset 13 over that axis and all after it."""

    def _axes(self, x: Array) -> tuple[int, ...]:
        if self.opset >= 13:
            return (self.setting("axis", -1),)
        axis = self.setting("axis", 1)
        return tuple(range(axis + x.ndim if axis < 0 else axis, x.ndim))

    def _run(self, x, **attributes):  # type: ignore[no-untyped-def]
        return (_normalized(x, self._axes(x)) if x.size else x,)


class LogSoftmax(Softmax):
    """log(Softmax(x)), by subtraction: the logarithm of a rounded quotient is less exact."""

    def _run(self, x, **attributes):  # type: ignore[no-untyped-def]
        axes = self._axes(x)
        low = x - x.max(axis=axes, keepdims=True)
        return (low - np.log(np.exp(low).sum(axis=axes, keepdims=True)),)


class LRN(Standard):
    """x / (bias + alpha/size * sum of squares over `size` neighbouring channels) ** beta."""

    def _run(self, x, alpha=None, beta=None, bias=None, size=None):  # type: ignore[no-untyped-def]
        before = (size - 1) // 2
        widths = [(0, 0), (before, size - 1 - before), *[(0, 0)] * (x.ndim - 2)]
        squares = np.lib.stride_tricks.sliding_window_view(np.pad(x**2, widths), size, axis=1).sum(axis=-1)
        return (x / (bias + alpha / size * squares) ** beta,)


class Pad(Standard):
    """Pad of every opset, negative widths included, which cut: attributes before opset 11, inputs from then on."""

    def _run(self, x, pads=None, value=None, axes=None, mode=None, **attributes):  # type: ignore[no-untyped-def]
        mode, pads = self.setting("mode", "constant"), self.setting("pads", self.setting("paddings", pads))
        value = self.setting("value", 0.0) if value is None else value
        axes = range(x.ndim) if axes is None else [int(axis) % x.ndim for axis in axes]
        widths = np.zeros((x.ndim, 2), dtype=int)
        widths[list(axes)] = np.reshape(pads, (2, -1)).T
        x = x[tuple(slice(max(0, -a), n - max(0, -b)) for (a, b), n in zip(widths.tolist(), x.shape, strict=True))]
        more = {"constant_values": np.asarray(value).reshape(())} if mode == "constant" else {}
        return (np.pad(x, np.maximum(widths, 0), mode=mode, **more),)


class Flatten(Standard):
    """All axes before `axis` become one, and all others one, also of a tensor without elements."""

    def _run(self, x, axis=None):  # type: ignore[no-untyped-def]
        axis = self.setting("axis", 1)
        return (x.reshape(math.prod(x.shape[:axis]), math.prod(x.shape[axis:])),)


class Slice(Standard):
    """Slice of every opset: starts and ends are clamped to the axis, also below its beginning where steps go back."""

    def _run(self, x, starts=None, ends=None, axes=None, steps=None, **attributes):  # type: ignore[no-untyped-def]
        starts, ends, axes = self.setting("starts", starts), self.setting("ends", ends), self.setting("axes", axes)
        axes = range(len(starts)) if axes is None else axes
        for start, end, axis, step in zip(
            starts, ends, axes, [1] * len(starts) if steps is None else steps, strict=True
        ):
            places = _walk(x.shape[axis], int(start), int(end), int(step))
            x = np.take(x, np.asarray(places, np.intp), axis=axis)
        return (x,)


def _walk(n: int, start: int, end: int, step: int) -> range:
    """The positions from start to end on an axis of n elements, both counted from the end where they are negative."""
    first, last = (at + n if at < 0 else at for at in (start, end))
    if step > 0:
        return range(min(max(first, 0), n), min(max(last, 0), n), step)
    return range(min(max(first, 0), n - 1), min(max(last, -1), n - 1), step)


class DequantizeLinear(Standard):
    """(x - zero_point) * scale: per tensor, per axis, or in blocks along an axis."""

    def _run(self, x, scale, zero_point=None, **attributes):  # type: ignore[no-untyped-def]
        axis, block = self.setting("axis", 1), self.setting("block_size", 0)
        scale = laid(scale, x.shape, axis, block)
        zero = 0.0 if zero_point is None else laid(zero_point.astype(np.float64), x.shape, axis, block)
        return ((x.astype(np.float64) - zero) * scale,)


def laid(values: Array, shape: tuple[int, ...], axis: int, block: int) -> Array:
    """Quantization parameters laid out so that they broadcast against data of `shape`."""
    if block:
        return np.repeat(values, block, axis=axis).take(range(shape[axis]), axis=axis)
    if values.size == 1:
        return values.reshape(())
    return values.reshape([-1 if i == axis % len(shape) else 1 for i in range(len(shape))])


def _stretched(x: Array, axis: int, scale: float, mode: str) -> Array:
    """One axis resized by `scale` with coordinates i / scale, as Upsample and Resize-10 do."""
    size, count = x.shape[axis], int(np.floor(x.shape[axis] * scale))
    if scale == 1 or count == 0:
        return x
    at = np.arange(count) / scale
    if mode == "nearest":
        index = np.ceil(at) if scale < 1 else np.floor(at)
        return x.take(np.clip(index, 0, size - 1).astype(np.intp), axis=axis)
    low = np.clip(np.floor(at), 0, size - 1).astype(np.intp)
    weight = np.clip(at - low, 0, 1).reshape([-1 if i == axis else 1 for i in range(x.ndim)])
    stretched: Array = x.take(low, axis=axis) * (1 - weight) + x.take(np.minimum(low + 1, size - 1), axis=axis) * weight
    return stretched


class Upsample(Standard):
    """Upsample-7 (scales are an attribute) and Upsample-9 (scales are an input)."""

    def _run(self, x, scales=None, mode=None, **attributes):  # type: ignore[no-untyped-def]
        mode = self.setting("mode", "nearest")
        for axis, scale in enumerate(self.setting("scales", scales)):
            x = _stretched(x, axis, float(scale), mode)
        return (x,)


class Resize10(Upsample):
    """Resize-10: Upsample that may also shrink."""


class ImageScaler(Standard):
    """scale * x + bias[channel]: an experimental operator of opset 1 that onnxmltools wrote for years."""

    def _run(self, x, bias=None, scale=None):  # type: ignore[no-untyped-def]
        return (x * self.setting("scale", 1.0) + np.reshape(self.setting("bias", [0.0]), (-1, 1, 1)),)


class ZipMap(OpRun):
    """The last operator of classifiers that were trained elsewhere: a dictionary of scores per row. No arithmetic."""

    op_domain = "ai.onnx.ml"

    def _run(self, x, **attributes):  # type: ignore[no-untyped-def]
        return ([dict(enumerate(row)) for row in np.atleast_2d(x)],)


class NonMaxSuppression(Selection):
    """Its limits may be absent, numbers, or rows of one number."""

    op_domain = ""

    def _run(self, boxes, scores, *limits, **attributes):  # type: ignore[no-untyped-def]
        stated = [None if limit is None else np.reshape(limit, -1) for limit in (*limits, None, None, None)[:3]]
        absent = np.zeros(1, np.int64), np.zeros(1), None
        known = [default if limit is None else limit for limit, default in zip(stated, absent, strict=True)]
        return super()._run(boxes, scores, *known, **attributes)  # type: ignore[no-untyped-call]


REPLACED: tuple[type[OpRun], ...] = (
    Conv,
    ConvTranspose,
    MaxPool,
    AveragePool,
    BatchNormalization,
    Softmax,
    LogSoftmax,
    LRN,
    Pad,
    Flatten,
    Slice,
    DequantizeLinear,
    Upsample,
    ImageScaler,
    NonMaxSuppression,
    ZipMap,
)
