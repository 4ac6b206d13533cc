"""The float64 oracle of the tests: onnx's ReferenceEvaluator, with the operators it gets wrong replaced.

It shares no code with bnfold: neither with the rules under test nor with `bnfold.verification`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import onnx
from onnx import helper
from onnx.reference import ReferenceEvaluator
from onnx.reference.op_run import OpRun
from onnx.reference.ops.op_conv_transpose import ConvTranspose as _ConvTranspose
from onnx.reference.ops.op_grid_sample import GridSample as _GridSample
from onnx.reference.ops.op_max_pool import MaxPool as _MaxPool
from onnx.reference.ops.op_resize import Resize as _Resize


class ConvTranspose(OpRun):
    """onnx 1.23 slices W along the wrong axis when group > 1."""

    op_domain = ""

    def _run(self, X, W, B=None, group=None, **attrs):
        group = group or 1
        parts = [
            np.split(X, group, axis=1),
            np.split(W, group, axis=0),
            [None] * group if B is None else np.split(B, group),
        ]
        made = [_ConvTranspose._run(self, x, w, b, group=1, **attrs)[0] for x, w, b in zip(*parts, strict=True)]
        return (np.concatenate(made, axis=1),)


class BatchNormalization(OpRun):
    """onnx 1.23 mixes the statistics of the batch in at opset 9. Inference only, of any opset."""

    op_domain = ""

    def _run(self, x, scale, bias, mean, var, epsilon=None, spatial=1, **attrs):
        over = (-1, *[1] * (x.ndim - 2)) if spatial is None or spatial else x.shape[1:]
        scale, bias, mean, var = (p.reshape(over) for p in (scale, bias, mean, var))
        return (scale * (x - mean) / np.sqrt(var + (epsilon or 1e-5)) + bias,)


class GroupNormalization(OpRun):
    """onnx 1.23 computes the statistics in float32. One scale per group up to opset 20, per channel from 21."""

    op_domain = ""

    def _run(self, x, scale, bias, num_groups=None, epsilon=None, **attrs):
        grouped = x.reshape(len(x), num_groups, -1)
        spread = np.sqrt(grouped.var(axis=2, keepdims=True) + (epsilon or 1e-5))
        normal = ((grouped - grouped.mean(axis=2, keepdims=True)) / spread).reshape(x.shape)
        scale, bias = (np.repeat(p, x.shape[1] // len(p)).reshape(-1, *[1] * (x.ndim - 2)) for p in (scale, bias))
        return (scale * normal + bias,)


class GlobalLpPool(OpRun):
    """onnx 1.23 has none."""

    op_domain = ""

    def _run(self, x, p=None):
        axes = tuple(range(2, x.ndim))
        return ((np.abs(x) ** (p or 2)).sum(axis=axes, keepdims=True) ** (1 / (p or 2)),)


class MaxPool(_MaxPool):
    """onnx 1.23 miscounts where the output Indices is named, and loses the pads of MaxPool-1 on small images."""

    def _run(self, x, kernel_shape=None, pads=None, **attrs):
        plain = all(n == 1 for name in ("strides", "dilations") for n in attrs.get(name) or ())
        if attrs.get("ceil_mode") or attrs.get("auto_pad", "NOTSET") != "NOTSET" or not plain:
            return super()._run(x, kernel_shape=kernel_shape, pads=pads, **attrs)
        half = len(kernel_shape)
        around = zip((pads or [0] * 2 * half)[:half], (pads or [0] * 2 * half)[half:], strict=True)
        padded = np.pad(x, [(0, 0), (0, 0), *around], constant_values=-np.inf)
        windows = np.lib.stride_tricks.sliding_window_view(padded, kernel_shape, axis=tuple(range(2, x.ndim)))
        return (windows.max(axis=tuple(range(x.ndim, windows.ndim))),)


class LpPool(OpRun):
    """onnx 1.23 divides by how many elements are not padding, but multiplies by how many the kernel has."""

    op_domain = ""

    def _run(self, x, kernel_shape=None, p=None, **attrs):
        if any(attrs.get("pads") or []) or any(n != 1 for n in attrs.get("strides") or []):
            raise NotImplementedError("LpPool with pads or strides")
        axes = tuple(range(2, x.ndim))
        windows = np.lib.stride_tricks.sliding_window_view(np.abs(x) ** (p or 2), kernel_shape, axis=axes)
        return (windows.sum(axis=tuple(range(x.ndim, windows.ndim))) ** (1 / (p or 2)),)


class Resize(OpRun):
    """onnx 1.23 computes cubic weights in float32, miscounts negative axes, and has no Resize-10."""

    op_domain = ""

    def _run(self, x, roi=None, scales=None, sizes=None, axes=None, cubic_coeff_a=None, **attrs):
        given = {"cubic_coeff_a": float(-0.75 if cubic_coeff_a is None else cubic_coeff_a), **attrs}
        if scales is None and sizes is None:
            roi, scales = None, roi
            given |= {"coordinate_transformation_mode": "asymmetric", "nearest_mode": "floor", "exclude_outside": 0}
        given["axes"] = None if axes is None else [a % x.ndim for a in axes]
        return _Resize._run(self, x, roi, scales, sizes, **given)


class Upsample(OpRun):
    """onnx 1.23 has no Upsample-7. Nearest, by whole numbers."""

    op_domain = ""

    def _run(self, x, scales=None, mode=None, **attrs):
        for axis, scale in enumerate(attrs.get("scales", scales)):
            x = np.repeat(x, int(scale), axis=axis)
        return (x,)


class GridSample(_GridSample):
    """onnx 1.23 computes the weights in float32."""

    op_domain = ""

    def _gs_denormalize_coordinates(self, n, dims, align_corners):
        return np.array([self._gs_denormalize(v, d, align_corners) for v, d in zip(n, dims, strict=True)])


class Slice(OpRun):
    """onnx 1.23 clamps as Python does: a start below the axis, from which steps go back, yields nothing."""

    op_domain = ""

    def _run(self, x, starts=None, ends=None, axes=None, steps=None):
        for i, axis in enumerate(range(len(starts)) if axes is None else axes):
            n, step = x.shape[axis], 1 if steps is None else int(steps[i])
            at, end = (int(p) + n if p < 0 else int(p) for p in (starts[i], ends[i]))
            at, end = (min(max(at, 0), n), min(end, n)) if step > 0 else (min(max(at, 0), n - 1), max(end, -1))
            places = []
            while (at < end) if step > 0 else (at > end):
                places.append(at)
                at += step
            x = np.take(x, np.array(places, int), axis)
        return (x,)


class DequantizeLinear(OpRun):
    """onnx 1.23 has none up to opset 18."""

    op_domain = ""

    def _run(self, x, scale, zero_point=0, axis=1, block_size=0, **attrs):
        axis = 1 if axis is None else axis
        shape = [n if i == axis % x.ndim else 1 for i, n in enumerate(x.shape)]

        def laid(p):
            if p.size == 1:  # in a list of one as well, as onnxruntime has it
                return p.reshape(())
            return np.repeat(p, block_size, axis) if block_size else p.reshape(shape)

        return ((x.astype(np.float64) - laid(np.asarray(zero_point))) * laid(scale),)


REPLACED: list[type[OpRun]] = [
    *(ConvTranspose, BatchNormalization, GroupNormalization, GlobalLpPool, LpPool, MaxPool),
    *(Resize, Upsample, GridSample, DequantizeLinear, Slice),
]


def evaluate(model: onnx.ModelProto, feeds: Mapping[str, Any]) -> list[Any]:
    """The outputs of a model whose tensors are float64."""
    return list(ReferenceEvaluator(model, new_ops=REPLACED).run(None, dict(feeds)))


def evaluate_node(
    operator: str, inputs: Sequence[Any], attributes: Mapping[str, Any], opset: int = 19, outputs: int = 1
) -> list[Any]:
    """The outputs of one node; None stands for an omitted input."""
    names = ["" if x is None else f"x{i}" for i, x in enumerate(inputs)]
    feeds = {name: np.asarray(x) for name, x in zip(names, inputs, strict=True) if x is not None}
    infos = [
        helper.make_tensor_value_info(k, helper.np_dtype_to_tensor_dtype(v.dtype), v.shape) for k, v in feeds.items()
    ]
    made = [f"y{i}" for i in range(outputs)]
    node = helper.make_node(operator, names, made, **attributes)
    graph = helper.make_graph([node], "g", infos, [onnx.ValueInfoProto(name=name) for name in made])
    return evaluate(helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=9), feeds)
