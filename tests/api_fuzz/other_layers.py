"""Pools, reductions, activations, normalizations, quantization of activations, and outputs that are integers."""

from __future__ import annotations

from typing import Any

import numpy as np
from onnx import TensorProto

from .constants import const
from .net import F16, F32, F64, I64, Scope, Value, need
from .roundings import scales
from .stores import cast, ints, plain

SINCE = {"MaxPool": 10, "AveragePool": 19, "LpPool": 18}  # the operator set that brought them dilations


def pool(g: Scope, x: Value) -> Value:
    f = g.file
    need(3 <= x.rank <= 5 and min(x.shape) > 0)
    op = f.pick(["MaxPool", "MaxPool", "AveragePool", "AveragePool", "LpPool"])
    need(x.kind != F64 or op == "MaxPool")
    said = in_padding(g, x) if f.opset >= SINCE[op] and f.chance(0.15) else windows(g, op, x.rank - 2)
    if f.chance(0.4):
        said["strides"] = [f.number(1, 3) for _ in x.shape[2:]]
    if f.opset >= 10 and op != "LpPool" and f.chance(0.3):
        said["ceil_mode"] = 1
    if op == "AveragePool" and f.chance(0.4):
        said["count_include_pad"] = 1
    indices = op == "MaxPool" and f.opset >= 8 and f.chance(0.15)
    made = g.emit(op, [x], outputs=2 if indices else 1, **said)
    need(min(made[0].shape) > 0)
    if indices:
        g.live.append(made[1])
    return made[0]


def windows(g: Scope, op: str, axes: int) -> dict[str, Any]:
    f = g.file
    said: dict[str, Any] = {"kernel_shape": [f.number(1, 3) for _ in range(axes)]}
    if f.chance(0.4):
        said["pads"] = [f.number(0, max(0, k - 1)) for k in said["kernel_shape"] * 2]
    elif f.chance(0.2):
        said["auto_pad"] = f.pick(["SAME_UPPER", "SAME_LOWER", "VALID"])
    if f.chance(0.3) and f.opset >= SINCE[op]:
        said["dilations"] = [f.number(1, 4) for _ in range(axes)]
    return said


def in_padding(g: Scope, x: Value) -> dict[str, Any]:
    """Taps so far from each other that a window may lie in the padding alone."""
    g.file.features["window that may lie in the padding"] += 1
    gaps = [n + 1 - g.file.number(0, 1) for n in x.shape[2:]]
    return {"kernel_shape": [2] * len(gaps), "pads": [1] * 2 * len(gaps), "dilations": gaps}


def global_pool(g: Scope, x: Value) -> Value:
    need(x.rank >= 3 and min(x.shape) > 0 and x.kind != F64)
    return g.emit(
        g.file.pick(["GlobalAveragePool", "GlobalMaxPool", *(["GlobalLpPool"] if g.file.opset < 22 else [])]), [x]
    )[0]


def reduce(g: Scope, x: Value) -> Value:
    f = g.file
    need(x.rank)
    op = f.pick(
        [
            "ReduceMean",
            "ReduceMean",
            "ReduceSum",
            "ReduceSum",
            "ReduceMax",
            "ReduceMin",
            "ReduceL1",
            "ReduceL2",
            "ReduceProd",
        ]
    )
    need(0 not in x.shape or op in ("ReduceSum", "ReduceL1"))
    axes = [int(a) for a in f.rng.permutation(x.rank)[: f.number(0, min(2, x.rank))]]
    axes = [a - x.rank if f.opset >= 11 and f.chance(0.4) else a for a in axes]
    said: dict[str, Any] = {"keepdims": f.pick([None, 0, 1])}
    as_input = f.opset >= (13 if op == "ReduceSum" else 18)
    if not as_input:
        return g.emit(op, [x], axes=axes or None, **said)[0]
    said["noop_with_empty_axes"] = f.pick([None, None, 1])
    return g.emit(op, [x, *([ints(g, axes)] if axes or f.chance(0.3) else [])], **said)[0]


def activation(g: Scope, x: Value) -> Value:
    f = g.file
    op = f.pick(
        [
            "Relu",
            "Relu",
            "Relu",
            "LeakyRelu",
            "Abs",
            "Sigmoid",
            "Tanh",
            "Elu",
            "Softplus",
            "Softsign",
            "HardSigmoid",
            "HardSwish",
            "Selu",
            "Exp",
            "Floor",
            "Sign",
        ]
    )
    need(x.kind == F32 or op not in ("Elu", "Softplus", "Softsign", "HardSigmoid", "HardSwish", "Selu", "LeakyRelu"))
    alpha = f.pick([None, 0.3, -0.2]) if op == "LeakyRelu" else None
    if op in ("Exp",):
        x = g.emit("Tanh", [x])[0]
    return g.emit(op, [x], alpha=alpha)[0]


def prelu(g: Scope, x: Value) -> Value:
    f = g.file
    need(x.kind == F32)
    shape = f.pick([(), (1,), x.shape, tuple(n if i == 1 else 1 for i, n in enumerate(x.shape))[1:]])
    slope = f.rng.uniform(0.1, 2, shape) * (1 if f.chance(0.6) else -1)
    return g.emit("PRelu", [x, const(g, slope, x.kind, hint="slope")])[0]


def clip(g: Scope, x: Value) -> Value:
    f = g.file
    need(x.kind == F32 or f.opset >= 12)
    low, high = f.pick([None, 0.0, -1.0, 0.3]), f.pick([None, 0.5, 6.0, 0.3])
    if f.opset < 11:
        return g.emit("Clip", [x], min=low, max=high)[0]
    return g.emit("Clip", [x, *(None if v is None else plain(g, v, x.kind) for v in (low, high))])[0]


def softmax(g: Scope, x: Value) -> Value:
    need(x.rank and min(x.shape) > 0)
    return g.emit(g.file.pick(["Softmax", "LogSoftmax"]), [x], axis=g.file.number(0, x.rank - 1))[0]


def normalized(g: Scope, x: Value) -> Value:
    f, r = g.file, g.file.rng
    need(x.rank >= 2 and min(x.shape) > 0 and x.kind == F32)
    form = f.pick(["instance", "layer", "group", "rms", "lp", "lrn"])
    c = x.shape[1]
    if form == "instance":
        need(x.rank >= 3)
        return g.emit("InstanceNormalization", [x, *(const(g, r.uniform(0.5, 2, c), x.kind) for _ in "sb")])[0]
    if form in ("layer", "rms"):
        need(f.opset >= (17 if form == "layer" else 23))
        axis = f.number(1, x.rank - 1)
        parts = [
            const(g, r.uniform(0.5, 2, x.shape[axis:]), x.kind) for _ in range(1 if form == "rms" else f.number(1, 2))
        ]
        return g.emit({"layer": "LayerNormalization", "rms": "RMSNormalization"}[form], [x, *parts], axis=axis)[0]
    if form == "group":
        need(f.opset >= 21 and x.rank >= 3)
        parts = [const(g, r.uniform(0.5, 2, c), x.kind) for _ in "sb"]
        return g.emit("GroupNormalization", [x, *parts], num_groups=2 if c % 2 == 0 else 1)[0]
    if form == "lp":
        return g.emit("LpNormalization", [x], axis=f.number(0, x.rank - 1))[0]
    need(x.rank == 4)
    return g.emit("LRN", [x], size=3)[0]


def quantized(g: Scope, x: Value) -> Value:
    """An activation through QuantizeLinear and DequantizeLinear: per tensor, per channel, or in blocks."""
    f = g.file
    need(f.opset >= 10 and (x.kind == F32 or (x.kind == F16 and f.opset >= 19)) and x.rank and min(x.shape) > 0)
    rows, axis, block = scales(g, np.zeros(x.shape))
    scale = const(g, f.rng.uniform(0.02, 0.2, rows), x.kind, lossy=False, hint="scale")
    kind = f.pick([TensorProto.INT8, TensorProto.UINT8])
    zero = plain(g, f.rng.integers(0, 9, rows), kind)
    third = [] if kind == TensorProto.UINT8 and f.chance(0.2) else [zero]
    q = g.emit("QuantizeLinear", [x, scale, *third], axis=axis, block_size=block)[0]
    if f.chance(0.15):
        g.live.append(q)
    return g.emit("DequantizeLinear", [q, scale, *third], axis=axis, block_size=block)[0]


def discrete(g: Scope, x: Value) -> Value:
    """An integer or boolean next to the graph, or a number made of one."""
    f = g.file
    need(x.rank and min(x.shape) > 0)
    form = f.pick(["ArgMax", "Cast", "Greater", "Shape", "Size"])
    if form == "ArgMax":
        made = g.emit("ArgMax", [x], axis=f.number(0, x.rank - 1), keepdims=f.pick([0, 1]))[0]
    elif form == "Cast":
        made = cast(g, x, f.pick([TensorProto.INT32, I64]))
    elif form == "Greater":
        need(f.opset >= 9)
        made = g.emit("Greater", [x, plain(g, 0.25, x.kind)])[0]
    else:
        made = g.emit(form, [x])[0]
    g.live.append(made)
    return cast(g, made, x.kind) if f.chance(0.5) else x


def mask(g: Scope, x: Value) -> Value:
    need(g.file.opset >= 14 and x.rank >= 2)
    return g.emit("Trilu", [x], upper=g.file.pick([0, 1]))[0]


LAYERS = {pool: 7, global_pool: 2, reduce: 5, activation: 6, prelu: 2, clip: 2, softmax: 1, normalized: 3, quantized: 3, discrete: 2, mask: 1}  # fmt: skip
KEEP_SHAPE = {activation: 5, prelu: 2, clip: 2, quantized: 2, mask: 1}
