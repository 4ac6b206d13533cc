"""Operators with weights: convolutions, products of every rank, embeddings, recurrent ones."""

from __future__ import annotations

from typing import Any

import numpy as np

from .constants import const
from .net import F32, F64, I64, Scope, Value, need
from .stores import cast, plain


def weight(g: Scope, *shape: int) -> np.ndarray:
    return g.file.rng.standard_normal(shape) * (1.4 / np.sqrt(max(1, np.prod(shape[1:]))))


def bias(g: Scope, n: int, kind: int) -> list[Value | None]:
    """None, an empty one, or one."""
    form = g.file.number(0, 9)
    return [] if form < 4 else [None] if form < 5 else [const(g, g.file.rng.standard_normal(n), kind, hint="b")]


def conv(g: Scope, x: Value) -> Value:
    f = g.file
    need(3 <= x.rank <= 5 and x.kind != F64 and x.shape[1])
    group = f.pick([1, 1, 1, x.shape[1], *(d for d in (2, 3) if x.shape[1] % d == 0)])
    kernel = [f.number(1, min(3, max(1, n))) for n in x.shape[2:]]
    out = group * f.number(1, max(1, 5 // group))
    w = const(g, weight(g, out, x.shape[1] // group, *kernel), x.kind, hint="W")
    said: dict[str, Any] = {
        "group": group if group > 1 or f.chance(0.2) else None,
        "kernel_shape": kernel if f.chance(0.5) else None,
    }
    made = g.emit("Conv", [x, w, *bias(g, out, x.kind)], **said, **window(g, len(kernel)))[0]
    need(min(made.shape[2:]) > 0)
    return made


def window(g: Scope, axes: int) -> dict[str, Any]:
    """Padding, strides and dilations."""
    f = g.file
    found: dict[str, Any] = {}
    if f.chance(0.3):
        found["pads"] = [f.number(0, 2) for _ in range(2 * axes)] if f.chance(0.6) else [1] * 2 * axes
    elif f.chance(0.15):
        found["auto_pad"] = f.pick(["SAME_UPPER", "SAME_LOWER", "VALID"])
    if f.chance(0.2):
        found["strides"] = [f.number(1, 2) for _ in range(axes)]
    if f.chance(0.15) and found.get("auto_pad", "VALID") == "VALID":
        found["dilations"] = [f.number(1, 2) for _ in range(axes)]
    return found


def conv_transpose(g: Scope, x: Value) -> Value:
    f = g.file
    need(3 <= x.rank <= 4 and x.kind != F64 and x.shape[1] and min(x.shape[2:]) > 0 and max(x.shape[2:]) < 7)
    group = f.pick([1, 1, x.shape[1], *(d for d in (2, 3) if x.shape[1] % d == 0)])
    per, axes = f.number(1, 2), x.rank - 2
    w = const(g, weight(g, x.shape[1], per, *(f.number(1, 3) for _ in range(axes))), x.kind, hint="W")
    said: dict[str, Any] = {"group": group if group > 1 else None}
    if f.chance(0.5):
        said |= {
            "strides": [2] * axes,
            "output_padding": [f.number(0, 1) for _ in range(axes)] if f.chance(0.5) else None,
        }
    if f.chance(0.3):
        said["pads"] = [f.number(0, 1) for _ in range(2 * axes)]
    elif f.chance(0.1) and "strides" not in said:
        said["auto_pad"] = f.pick(["SAME_UPPER", "SAME_LOWER"])
    made = g.emit("ConvTranspose", [x, w, *bias(g, group * per, x.kind)], **said)[0]
    need(min(made.shape) > 0)
    return made


def gemm(g: Scope, x: Value) -> Value:
    """x on the left or on the right, transposed or not, with any C."""
    f = g.file
    need(x.rank == 2 and min(x.shape) > 0)
    left, out = f.chance(0.75), f.number(1, 4)
    flip_x, flip_w = int(f.chance(0.25)), int(f.chance(0.4))
    inner = x.shape[0 if left == bool(flip_x) else 1]
    rows = (inner, out) if left else (out, inner)
    w = const(g, weight(g, *rows[:: -1 if flip_w else 1]), x.kind, hint="W")
    said: dict[str, Any] = {
        "transA" if left else "transB": flip_x or None,
        "transB" if left else "transA": flip_w or None,
    }
    said |= {"alpha": f.pick([None, None, 0.5, -2.0]), "beta": f.pick([None, None, 0.5, -1.0, 0.0])}
    other = x.shape[1 if left == bool(flip_x) else 0]
    result = (other, out) if left else (out, other)
    shapes = [(), (1,), result[1:], result, (1, result[1]), (result[0], 1)]
    third = [const(g, f.rng.standard_normal(f.pick(shapes)), x.kind)] if f.opset < 11 or f.chance(0.6) else []
    return g.emit("Gemm", [*([x, w] if left else [w, x]), *third], **said)[0]


def matmul(g: Scope, x: Value) -> Value:
    """A constant of rank 1 to 4 on either side."""
    f = g.file
    need(x.rank and 0 not in x.shape[-2:])
    out, batch = f.number(1, 4), [f.pick([1, n]) for n in x.shape[:-2]]
    if f.chance(0.7):
        inner = x.shape[-1]
        shape = f.pick([[inner, out], [inner, out], [inner], [1, inner, out], [*batch, inner, out]])
        return g.emit("MatMul", [x, const(g, weight(g, *shape[::-1]).transpose(), x.kind, hint="W")])[0]
    inner = x.shape[-2 if x.rank > 1 else -1]
    shape = f.pick([[out, inner], [out, inner], [inner], [2, out, inner], [*batch, out, inner]])
    return g.emit("MatMul", [const(g, weight(g, *shape), x.kind, hint="W"), x])[0]


def square(g: Scope, x: Value) -> Value:
    """As many channels as before."""
    need(x.rank >= 2 and min(x.shape) > 0)
    if x.rank == 2 or x.kind == F64 or x.rank > 5:
        return g.emit("MatMul", [x, const(g, weight(g, x.shape[-1], x.shape[-1]), x.kind, hint="W")])[0]
    c = x.shape[1]
    w = const(g, weight(g, c, c, *[1] * (x.rank - 2)), x.kind, hint="W")
    return g.emit("Conv", [x, w, *bias(g, c, x.kind)])[0]


def matmul_of_tensors(g: Scope, x: Value) -> Value:
    need(x.rank >= 2 and 0 not in x.shape[-2:])
    order = [*range(x.rank - 2), x.rank - 1, x.rank - 2]
    return g.emit("MatMul", [x, g.emit("Transpose", [x], perm=order)[0]])[0]


def einsum(g: Scope, x: Value) -> Value:
    f = g.file
    need(f.opset >= 12 and 1 <= x.rank <= 4 and min(x.shape) > 0)
    letters = "abcd"[: x.rank]
    gone = f.pick(letters)
    w = const(g, weight(g, 3, x.shape[letters.index(gone)]), x.kind, hint="W")
    return g.emit("Einsum", [x, w], equation=f"{letters},z{gone}->{letters.replace(gone, 'z')}")[0]


def recurrent(g: Scope, x: Value) -> Value:
    f = g.file
    need(x.rank == 3 and min(x.shape) > 0 and x.kind == F32)
    op, hidden, ways = f.pick(["LSTM", "GRU", "RNN"]), 2, f.pick([1, 2])
    rows = hidden * {"LSTM": 4, "GRU": 3, "RNN": 1}[op]
    parts: list[Value | None] = [const(g, weight(g, ways, rows, n), x.kind) for n in (x.shape[2], hidden)]
    if f.chance(0.6):
        parts.append(const(g, f.rng.standard_normal((ways, 2 * rows)), x.kind))
    direction = "bidirectional" if ways == 2 else f.pick([None, "reverse"])
    made = g.emit(op, [x, *parts], hidden_size=hidden, direction=direction)[0]
    return made


def embedding(g: Scope, x: Value) -> Value:
    """Rows of a stored table, by indices that come from x."""
    f = g.file
    need(x.rank and f.opset >= 11)
    table = const(g, f.rng.standard_normal((4, f.number(1, 4))), x.kind, hint="table")
    rows = g.emit("ArgMax", [x], axis=f.number(-x.rank, x.rank - 1), keepdims=f.pick([0, 1]))[0]
    four = plain(g, 4, I64)
    return g.emit("Gather", [table, g.emit("Mod", [rows, four])[0]], axis=0)[0]


def branches(g: Scope, x: Value) -> Value:
    """Parallel convolutions over one tensor, as RepVGG has them."""
    f = g.file
    need(x.rank == 4 and x.kind != F64 and min(x.shape) > 0)
    c = x.shape[1]
    one = g.emit("Conv", [x, const(g, weight(g, c, c, 3, 3), x.kind), *bias(g, c, x.kind)], pads=[1] * 4)[0]
    other = g.emit("Conv", [x, const(g, weight(g, c, c, 1, 1), x.kind), *bias(g, c, x.kind)])[0] if f.chance(0.6) else x
    from .affine_layers import bn

    parts = [bn(g, v) if f.chance(0.6) else v for v in (one, other)]
    made = g.emit(f.pick(["Add", "Add", "Sub"]), parts)[0]
    return g.emit("Add", [made, x])[0] if f.chance(0.3) else made


def narrowed(g: Scope, x: Value) -> Value:
    """On in another floating-point type."""
    return cast(g, x, g.file.pick([1, 10, 11]))


LAYERS = {conv: 14, conv_transpose: 4, gemm: 6, matmul: 7, matmul_of_tensors: 1, einsum: 1, recurrent: 1, embedding: 1, branches: 2, narrowed: 2}  # fmt: skip
