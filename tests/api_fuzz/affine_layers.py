"""Layers that are affine maps: BatchNormalization in all its forms, and arithmetic with constants of every shape."""

from __future__ import annotations

from typing import Any

import numpy as np

from .constants import const
from .net import F16, F32, Scope, Value, need
from .stores import plain

LARGE = {F16: 6e4, F32: 3e38}


def bn(g: Scope, x: Value) -> Value:
    """Without omitted outputs, which onnxruntime 1.31 dies of."""
    f = g.file
    need(x.rank >= 2 or (x.rank == 1 and f.opset >= 9))
    channels = x.shape[1] if x.rank > 1 else 1
    shape: tuple[int, ...] = (channels,)
    attributes: dict[str, Any] = {"epsilon": f.pick([None, None, 1e-3, 1e-7, 0.0, 1e-5, 0.1])}
    if f.opset < 9 and f.chance(0.15):
        attributes["spatial"] = f.pick([0, 1])
        shape = tuple(x.shape[1:]) if attributes["spatial"] == 0 else shape
    if f.chance(0.2):
        attributes["momentum"] = f.pick([0.5, 0.99])
    if f.opset >= 14 and f.chance(0.2):
        attributes["training_mode"] = int(f.chance(0.03))
    names = statistics(g, x, shape, attributes["epsilon"] == 0.0)
    need(x.kind == names[0].kind == names[1].kind and names[2].kind == names[3].kind)
    f.features[
        "BatchNormalization in a body" if g.depth or g.is_function else "BatchNormalization in the main graph"
    ] += 1
    made = g.emit("BatchNormalization", [x, *names], outputs=3 if attributes.get("training_mode") else 1, **attributes)
    return made[0]


def statistics(g: Scope, x: Value, shape: tuple[int, ...], no_epsilon: bool) -> list[Value]:
    """scale, bias, mean and variance, with what training leaves there: dead, negative, tiny, broken ones."""
    f, r = g.file, g.file.rng
    scale = r.uniform(0.5, 2, shape) * np.where(r.random(shape) < f.pick([0, 0, 0.5]), -1, 1)
    bias, mean, var = r.standard_normal(shape), r.standard_normal(shape), r.uniform(0.3, 2, shape)
    if f.chance(0.12):
        scale = np.where(r.random(shape) < 0.5, 0, scale)
        f.features["dead channels"] += 1
    if f.chance(0.25 if x.kind == F16 else 0.1):
        var = np.where(r.random(shape) < 0.5, 0 if not no_epsilon else 1e-6, var)
        f.features["tiny variances"] += 1
    if f.chance(0.12):
        bias, mean = bias * 0, mean * 0
    if f.chance(0.012):
        which = f.pick([scale, bias, mean, var])
        which[...] = np.where(r.random(shape) < 0.7, f.pick([np.nan, np.inf, -np.inf]), which)
        f.features["statistics that are no numbers"] += 1
    if f.chance(0.15 if x.kind == F16 else 0.03):
        mean = mean * f.pick([100, 300, 6e4 if x.kind == F16 else 1e30])
        f.features["huge means"] += 1
    one = plain(g, r.uniform(0.5, 2, shape), x.kind) if f.chance(0.03) else None
    if one is not None:
        return [one] * 4
    wide = F32 if x.kind == F16 and f.opset >= 15 and f.chance(0.3) else x.kind
    first = [const(g, v, x.kind, hint="bn") for v in (scale, bias)]
    return [*first, const(g, mean, wide, hint="bn"), const(g, var, wide, lossy=False, hint="bn")]


def operand(g: Scope, x: Value, nonzero: bool = False) -> Value:
    """A constant that broadcasts with x, at times beyond its shape."""
    f, r = g.file, g.file.rng
    shape = operand_shape(g, x)
    value = r.uniform(0.5, 2, shape) * np.where(r.random(shape) < f.pick([0, 0.5]), -1, 1)
    if not nonzero and f.chance(0.04):
        value = np.where(r.random(shape) < 0.5, 0, value)
    if f.chance(0.12 if x.kind == F16 else 0.03):
        value = value * f.pick([1e-3, 100, LARGE.get(x.kind, 1e300) / 3, 1 / LARGE.get(x.kind, 1e300), 1e-7])
        f.features["numbers near the range of their type"] += 1
    return const(g, value, x.kind, lossy=not nonzero, hint="k")


def operand_shape(g: Scope, x: Value) -> tuple[int, ...]:
    f, shape = g.file, list(x.shape)
    form = f.number(0, 9)
    if form < 2 or not shape:
        return f.pick([(), (1,), (1,) * x.rank])
    if form < 6 and x.rank > 1:
        channels = [n if i == 1 else 1 for i, n in enumerate(shape)]
        return tuple(channels[f.pick([0, 1]) :])
    if form < 7:
        return tuple(shape)
    if form < 8:
        return (shape[-1],)
    kept = [n if f.chance(0.5) else 1 for n in shape]
    if f.chance(0.25):
        f.features["operand without elements"] += 1
        return tuple(0 if n == 1 else k for n, k in zip(shape, kept, strict=True))
    if f.chance(0.3):
        kept = [f.pick([2, 3]) if n == 1 and f.chance(0.3) else k for n, k in zip(shape, kept, strict=True)]
    return tuple(([f.pick([1, 2])] if f.chance(0.1) else []) + kept)


def mul(g: Scope, x: Value) -> Value:
    return with_constant(g, "Mul", x)


def add(g: Scope, x: Value) -> Value:
    return with_constant(g, "Add", x)


def sub(g: Scope, x: Value) -> Value:
    return with_constant(g, "Sub", x)


def div(g: Scope, x: Value) -> Value:
    return g.emit("Div", [x, operand(g, x, nonzero=True)])[0]


def with_constant(g: Scope, op: str, x: Value) -> Value:
    operands = [x, operand(g, x)]
    return g.emit(op, operands[:: g.file.pick([1, -1])])[0]


def neg(g: Scope, x: Value) -> Value:
    return g.emit("Neg", [x])[0]


def variadic(g: Scope, x: Value) -> Value:
    """Sum, Mean, Max or Min of one to three operands, some of them constant."""
    f = g.file
    need(f.opset >= 8)
    op = f.pick(["Sum", "Mean", "Max", "Min"])
    need(x.kind == F32 or op in ("Max", "Min") or (op == "Sum" and x.kind == F16))
    others = [operand(g, x) if f.chance(0.7) else twin(g, x) for _ in range(f.number(0, 2))]
    operands = [x, *others]
    return g.emit(op, [operands[i] for i in f.rng.permutation(len(operands))])[0]


def twin(g: Scope, x: Value) -> Value:
    """Another tensor that fits next to x, or x itself."""
    fitting = [v for v in g.visible if v.kind == x.kind and v.shape == x.shape]
    return g.file.pick(fitting) if fitting else x


def residual(g: Scope, x: Value) -> Value:
    return g.emit(g.file.pick(["Add", "Add", "Sub", "Mul"]), [x, twin(g, x)][:: g.file.pick([1, -1])])[0]


def several_bns(g: Scope, x: Value) -> Value:
    for _ in range(g.file.number(2, 3)):
        x = bn(g, x)
    return x


AFFINE = {bn: 10, mul: 5, add: 4, sub: 2, div: 2, neg: 1}
KEEP_SHAPE = {bn: 14, mul: 6, add: 5, sub: 3, div: 3, neg: 2, variadic: 3, residual: 3, several_bns: 2}
