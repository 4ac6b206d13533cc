"""Operators that only move data: with negative indices, ends beyond the tensor, axes of length 0, and all modes."""

from __future__ import annotations

from typing import Any

import numpy as np

from .constants import const
from .net import BOOL, F32, F64, I64, Scope, Value, need
from .stores import cast, ints, known, plain, unsqueeze


def any_axis(g: Scope, x: Value, since: int = 11) -> int:
    need(x.rank)
    axis = g.file.number(0, x.rank - 1)
    return axis - x.rank if g.file.opset >= since and g.file.chance(0.4) else axis


def transpose(g: Scope, x: Value) -> Value:
    need(x.rank)
    order = [int(i) for i in g.file.rng.permutation(x.rank)]
    return g.emit("Transpose", [x], perm=order if g.file.chance(0.85) else None)[0]


def reshape(g: Scope, x: Value) -> Value:
    f = g.file
    n = int(np.prod(x.shape))
    options = [[-1], [n], [0, -1] if x.rank else [-1], [1, *x.shape], [*x.shape, 1]]
    if x.rank >= 2:
        options += [
            [0, 0, -1],
            [x.shape[0], x.shape[1], -1],
            [x.shape[0] * x.shape[1], *x.shape[2:]],
            [-1, *x.shape[1:]],
        ]
        options += [[x.shape[0], -1, 2], [*x.shape[:-1], 2, -1], [x.shape[0], x.shape[1], 1, -1]]
    wanted = f.pick(options)
    need(n or -1 not in wanted)
    said = {"allowzero": 1} if f.opset >= 14 and (0 not in wanted or n == 0) and f.chance(0.1) else {}
    need(not (0 in wanted and -1 in wanted and said))
    return g.emit("Reshape", [x, ints(g, wanted)], **said)[0]


def heads(g: Scope, x: Value) -> Value:
    """Channels that join the batch, as the heads of an attention do, at times past products of matrices, and back."""
    f = g.file
    need(x.rank >= 3 and min(x.shape) > 0)
    n, channels, *rest = x.shape
    k = f.pick([k for k in range(1, channels + 1) if channels % k == 0])
    apart = g.emit("Reshape", [x, sizes(g, x, [n * k, channels // k, *rest])])[0]
    if f.chance(0.5):
        last = [*range(apart.rank - 2), apart.rank - 1, apart.rank - 2]
        other = g.emit("Transpose", [apart], perm=last)[0]
        products = g.emit("MatMul", [apart, other])[0]
        apart = g.emit("MatMul", [products, apart])[0]
    if f.chance(0.3):
        g.live.append(apart)
    return g.emit("Reshape", [apart, sizes(g, x, [n, channels, *rest])])[0]


def sizes(g: Scope, x: Value, wanted: list[int]) -> Value:
    """Lengths of which the first is some times the batch of x: stored as -1, or computed."""
    if g.file.chance(0.5):
        return ints(g, [-1, *wanted[1:]])
    batch = g.emit("Gather", [g.emit("Shape", [x])[0], plain(g, [0], I64)])[0]
    many = g.emit("Mul", [batch, plain(g, [wanted[0] // x.shape[0]], I64)])[0]
    return known(g.emit("Concat", [many, plain(g, wanted[1:], I64)], axis=0)[0], np.asarray(wanted, np.int64))


def flatten(g: Scope, x: Value) -> Value:
    low = -x.rank if g.file.opset >= 11 else 0
    return g.emit("Flatten", [x], axis=g.file.number(low, x.rank) if g.file.chance(0.6) else None)[0]


def squeezed(g: Scope, x: Value) -> Value:
    f = g.file
    ones = [i for i, n in enumerate(x.shape) if n == 1]
    need(ones)
    chosen = [i - x.rank if f.opset >= 11 and f.chance(0.3) else i for i in ones if f.chance(0.7)]
    if f.opset < 13:
        return g.emit("Squeeze", [x], axes=chosen or None)[0]
    return g.emit("Squeeze", [x, *([ints(g, chosen)] if chosen else [])])[0]


def unsqueezed(g: Scope, x: Value) -> Value:
    f = g.file
    need(x.rank < 5)
    axis = f.number(0, x.rank)
    return unsqueeze(g, x, [axis - x.rank - 1 if f.opset >= 11 and f.chance(0.3) else axis])


def concat(g: Scope, x: Value) -> Value:
    """With itself, another tensor, constants, or a constant without elements."""
    f, axis = g.file, any_axis(g, x)
    parts = [x]
    for _ in range(f.number(1, 2)):
        shape = list(x.shape)
        form = f.number(0, 9)
        if form < 4:
            parts.append(fitting(g, x, axis))
        elif form < 6:
            shape[axis] = 0
            parts.append(plain(g, np.zeros(shape), x.kind))
            f.features["constant without elements"] += 1
        else:
            shape[axis] = f.number(1, 2)
            parts.append(const(g, f.rng.standard_normal(shape), x.kind))
    return g.emit("Concat", [parts[i] for i in f.rng.permutation(len(parts))], axis=axis)[0]


def fitting(g: Scope, x: Value, axis: int) -> Value:
    def but(v: Value) -> list[int]:
        return [n for i, n in enumerate(v.shape) if i != axis % x.rank]

    return g.file.pick([v for v in g.visible if v.kind == x.kind and v.rank == x.rank and but(v) == but(x)] or [x])


def split(g: Scope, x: Value) -> Value:
    """Into two or three parts, perhaps an empty one; one part goes on, or all that were joined again."""
    f, axis = g.file, any_axis(g, x)
    n = x.shape[axis]
    need(n)
    at = sorted([f.number(0 if f.chance(0.15) else min(1, n), n) for _ in range(f.number(1, 2))])
    sizes = [int(v) for v in np.diff([0, *at, n])]
    said: dict[str, Any] = {"axis": axis}
    if f.opset >= 18 and f.chance(0.3):
        parts = g.emit("Split", [x], outputs=2, num_outputs=2, **said)
    elif f.opset >= 13:
        parts = g.emit("Split", [x, ints(g, sizes)], outputs=len(sizes), **said)
    else:
        parts = g.emit("Split", [x], outputs=len(sizes), split=sizes, **said)
    g.live.extend(parts)
    if f.chance(0.4):
        return g.emit("Concat", parts[:: f.pick([1, -1])], axis=axis)[0]
    return f.pick(parts)


FAR = [-(2**63), -(2**31), -1000, -10, -6, -4, -3, -2, -1, 0, 1, 2, 3, 4, 6, 10, 1000, 2**31, 2**63 - 1]


def slice_(g: Scope, x: Value) -> Value:
    """Any starts, ends and steps, beyond the tensor as well."""
    f = g.file
    need(x.rank)
    axes = [1] if x.rank > 1 and f.chance(0.4) else [int(a) for a in f.rng.permutation(x.rank)[: f.pick([1, 1, 2])]]
    starts, ends = ([f.pick(FAR) if f.chance(0.6) else f.pick([0, 1, -1, 100]) for _ in axes] for _ in range(2))
    if f.chance(0.25):
        starts, ends = ([f.pick(FAR[: 6 if low else -5]) for _ in axes] for low in (f.chance(0.5), True))
    if f.opset < 10:
        low = -1000
        need(all(v >= low for v in starts))
        return g.emit("Slice", [x], starts=starts, ends=ends, axes=axes if f.chance(0.8) else None)[0]
    steps = [f.pick([1, 1, -1, 2, -2, 3, -7, 100]) for _ in axes]
    given = [a - x.rank if f.chance(0.3) else a for a in axes]
    settings = [starts, ends]
    if f.chance(0.85) or axes != [*range(len(axes))]:
        settings.append(given)
        settings += [steps] if f.chance(0.8) else []
    made = g.emit("Slice", [x, *(ints(g, s) for s in settings)])[0]
    need(np.prod(made.shape) > 0 or f.chance(0.1))
    return made


def gather(g: Scope, x: Value) -> Value:
    f, axis = g.file, any_axis(g, x)
    n = x.shape[axis]
    need(n)
    shape = f.pick([(), (1,), (2,), (n,), (2, 2), (3,), *([(0,)] if f.chance(0.1) else [])])
    rows = f.rng.integers(-n if f.opset >= 11 else 0, n, shape)
    return g.emit("Gather", [x, plain(g, rows, I64)], axis=axis if axis or f.chance(0.5) else None)[0]


def expand(g: Scope, x: Value) -> Value:
    f = g.file
    need(f.opset >= 8)
    shape = [f.pick([1, n, 2 if n == 1 else 1]) for n in x.shape]
    return g.emit("Expand", [x, ints(g, ([f.pick([1, 2])] if f.chance(0.2) else []) + shape)])[0]


def tile(g: Scope, x: Value) -> Value:
    need(x.rank)
    return g.emit(
        "Tile", [x, ints(g, [g.file.pick([1, 1, 2, 3, *([0] if g.file.chance(0.05) else [])]) for _ in x.shape])]
    )[0]


def pad(g: Scope, x: Value) -> Value:
    """Every mode, negative pads, and numbers that fill."""
    f = g.file
    need(x.rank and min(x.shape) > 0)
    mode = f.pick(["constant", "constant", "reflect", "edge", *(["wrap"] if f.opset >= 19 else [])])
    low = -1 if f.chance(0.3) else 0
    pads = [f.number(low, min(2, n - 1)) if f.chance(0.5) else 0 for n in (*x.shape, *x.shape)]
    number = f.pick([0.0, 0.0, 1.5, -2.0, float("inf") if f.chance(0.1) else 3.0])
    if f.opset < 11:
        return g.emit("Pad", [x], mode=mode, pads=pads, value=number if f.chance(0.6) else None)[0]
    if f.opset >= 18 and f.chance(0.3):
        axis = any_axis(g, x)
        own = [pads[axis % x.rank], pads[x.rank + axis % x.rank]]
        filled = plain(g, number, x.kind) if f.chance(0.5) else None
        return g.emit("Pad", [x, ints(g, own), filled, ints(g, [axis])], mode=mode)[0]
    third = [plain(g, number, x.kind)] if f.chance(0.6) else []
    return g.emit("Pad", [x, ints(g, pads), *third], mode=mode if mode != "constant" or f.chance(0.5) else None)[0]


def depth_space(g: Scope, x: Value) -> Value:
    f = g.file
    need(x.rank == 4 and x.kind != F64)
    if x.shape[1] % 4 == 0 and f.chance(0.6):
        mode = f.pick([None, "CRD", "DCR"]) if f.opset >= 11 else None
        return g.emit("DepthToSpace", [x], blocksize=2, mode=mode)[0]
    need(x.shape[2] % 2 == x.shape[3] % 2 == 0)
    return g.emit("SpaceToDepth", [x], blocksize=2)[0]


def identity(g: Scope, x: Value) -> Value:
    return g.emit("Identity", [x])[0]


def dropout(g: Scope, x: Value) -> Value:
    f = g.file
    if f.opset < 12:
        return g.emit("Dropout", [x], ratio=f.pick([None, 0.3]))[0]
    ratio = [plain(g, 0.3, F32)] if f.chance(0.5) else []
    mode = [plain(g, False, BOOL)] if ratio and f.chance(0.5) else []
    return g.emit("Dropout", [x, *ratio, *mode], outputs=f.pick([1, 1, 2]))[0]


def there_and_back(g: Scope, x: Value) -> Value:
    return cast(g, cast(g, x, g.file.pick([1, 10, 11])), x.kind)


def like(g: Scope, x: Value) -> Value:
    need(g.file.opset >= 15)
    return g.emit("CastLike", [x, plain(g, np.zeros(1), g.file.pick([1, 10, 11]))])[0]


def where(g: Scope, x: Value) -> Value:
    from .affine_layers import operand, twin

    f = g.file
    need(f.opset >= 9)
    mask = plain(g, f.rng.random(f.pick([(), x.shape, x.shape[-1:]])) < 0.5, BOOL)
    if f.chance(0.3):
        mask = g.emit("Less", [x, plain(g, 0.1, x.kind)])[0]
    pair = [x, twin(g, x) if f.chance(0.4) else operand(g, x)]
    return g.emit("Where", [mask, *pair[:: f.pick([1, -1])]])[0]


def resize(g: Scope, x: Value) -> Value:
    f = g.file
    need(x.rank in (3, 4) and min(x.shape) > 0 and x.kind != F64)
    factors = [1.0, 1.0, *(f.pick([1.0, 2.0, 1.5, 0.5]) for _ in x.shape[2:])]
    mode = f.pick(["nearest", "nearest", "linear", *(["cubic"] if x.rank == 4 and f.opset >= 11 else [])])
    if f.opset == 7:
        return g.emit("Upsample", [x], scales=[max(1.0, v) for v in factors], mode=mode)[0]
    if f.opset < 11:
        scales = [max(1.0, v) for v in factors] if f.opset < 10 else factors
        return g.emit("Upsample" if f.opset < 10 else "Resize", [x, number(g, scales)], mode=mode)[0]
    said = {"coordinate_transformation_mode": f.pick([None, "asymmetric", "align_corners", "pytorch_half_pixel"])}
    said |= {"nearest_mode": f.pick([None, "floor", "ceil", "round_prefer_ceil"]) if mode == "nearest" else None}
    roi = None if f.opset >= 13 else plain(g, np.zeros(0), F32)
    if f.chance(0.5):
        return g.emit("Resize", [x, roi, number(g, factors)], mode=mode, **said)[0]
    sizes = [*x.shape[:2], *(max(1, int(n * v)) for n, v in zip(x.shape[2:], factors[2:], strict=True))]
    none = None if f.opset >= 13 else plain(g, np.zeros(0), F32)
    return g.emit("Resize", [x, roi, none, ints(g, sizes)], mode=mode, **said)[0]


def number(g: Scope, values: list[float]) -> Value:
    made = plain(g, np.array(values), F32)
    return Value(made.name, made.kind, made.shape, np.array(values, np.float32), constant=True)


LAYERS = {
    transpose: 6, reshape: 6, flatten: 3, squeezed: 2, unsqueezed: 2, concat: 5, split: 4, slice_: 7, gather: 4, expand: 2,
    tile: 2, pad: 5, depth_space: 1, identity: 1, dropout: 1, there_and_back: 2, like: 1, where: 2, resize: 3,
}  # fmt: skip
KEEP_SHAPE = {identity: 2, there_and_back: 2, dropout: 1, where: 2}
