"""Constants that operators round on their way: Casts to every narrow type, and quantization in every form."""

from __future__ import annotations

import numpy as np
from onnx import TensorProto

from .net import F16, F32, File, Scope, Value, need
from .stores import cast, plain

NARROW = {  # element types that round: since which opset a Cast knows them, and the least IR version
    "INT8": (7, 3), "UINT8": (7, 3), "INT32": (7, 3), "FLOAT16": (7, 3), "BFLOAT16": (13, 4),
    "FLOAT8E4M3FN": (19, 9), "FLOAT8E4M3FNUZ": (19, 9), "FLOAT8E5M2": (19, 9), "FLOAT8E5M2FNUZ": (19, 9),
    "INT4": (21, 10), "UINT4": (21, 10),
}  # fmt: skip
INTEGERS = {"INT8": (-128, 127), "UINT8": (0, 255), "INT4": (-8, 7), "UINT4": (0, 15)}
EIGHT = ("FLOAT8E4M3FN", "FLOAT8E5M2")


def cast_through(g: Scope, value: np.ndarray, kind: int) -> Value:
    """To a narrower type and back; at times out of its range."""
    f = g.file
    name = f.pick([k for k, (opset, ir) in NARROW.items() if f.opset >= opset and f.ir >= ir])
    if name in INTEGERS or name == "INT32":
        low, high = INTEGERS.get(name, (-1000, 1000))
        value = np.clip(value * f.pick([1, 3, 40]), low, high)
    elif f.chance(0.2):
        value = value * f.pick([1e4, 1e-5])
    f.features[f"Cast through {name}"] += 1
    saturate = f.pick([None, 0, 1]) if name.startswith("FLOAT8") else None
    first = f.pick([kind, F32])
    narrow = cast(g, plain(g, value, first), getattr(TensorProto, name), saturate)
    if name in ("FLOAT16", "BFLOAT16", "INT32") and f.chance(0.3):
        narrow = g.emit("Identity", [narrow])[0]
    return cast(g, narrow, kind)


def cast_stored(g: Scope, value: np.ndarray, kind: int) -> Value:
    """Stored in another type, integers too, and cast."""
    f = g.file
    name = f.pick([k for k, (opset, ir) in NARROW.items() if f.opset >= opset and f.ir >= ir] + ["DOUBLE", "FLOAT"])
    low, high = INTEGERS.get(name, (-9, 9))
    value = np.clip(value * 3, low, high) if name in INTEGERS or name == "INT32" else value
    return cast(g, plain(g, value, getattr(TensorProto, name)), kind)


def cast_like(g: Scope, value: np.ndarray, kind: int) -> Value:
    f = g.file
    need(f.opset >= 15)
    name = f.pick([k for k, (opset, ir) in NARROW.items() if f.opset >= opset and f.ir >= ir])
    low, high = INTEGERS.get(name, (-9, 9))
    like = plain(g, np.ones(f.pick([(), (1,), (2, 0)])), getattr(TensorProto, name))
    value = np.clip(value * 3, low, high) if name in INTEGERS or name == "INT32" else value
    saturate = f.pick([0, 1]) if f.opset >= 19 and name.startswith("FLOAT8") else None
    return cast(g, g.emit("CastLike", [plain(g, value, kind), like], saturate=saturate)[0], kind)


def stored_kinds(f: File) -> list[str]:
    """The element types of quantized weights that the file may hold."""
    four = ["INT4", "UINT4"] if f.opset >= 21 and f.ir >= 10 else []
    return ["INT8", "UINT8", *four, *(EIGHT if f.opset >= 19 and f.ir >= 9 else [])]


def dequantized(g: Scope, value: np.ndarray, kind: int) -> Value:
    """Stored integers (or 8-bit floats) with one scale, one per row, or one per block."""
    f = g.file
    need(f.opset >= 10 and (kind == F32 or (f.opset >= 19 and kind == F16)))
    name = f.pick(stored_kinds(f))
    low, high = INTEGERS.get(name, (-8, 8))
    codes = np.clip(value * 40 if high > 20 else value * 4, low, high)
    rows, axis, block = scales(g, value)
    zero = plain(
        g, f.rng.integers(max(low, -3), 4, rows) if name in INTEGERS else np.zeros(rows), getattr(TensorProto, name)
    )
    scale = plain(g, f.rng.uniform(0.01, 0.3, rows), kind, "scale")
    f.features[f"DequantizeLinear of {name}"] += 1
    third = [zero] if f.chance(0.6) or name == "UINT4" else []
    codes_in = plain(g, np.round(codes), getattr(TensorProto, name))
    return g.emit("DequantizeLinear", [codes_in, scale, *third], axis=axis, block_size=block)[0]


def scales(g: Scope, value: np.ndarray) -> tuple[tuple[int, ...], int | None, int | None]:
    """The shape of a scale of a quantization, its axis, and its block."""
    f = g.file
    if value.ndim and value.size and f.opset >= 13 and f.chance(0.6):
        axis = f.number(0, value.ndim - 1)
        n = value.shape[axis]
        if f.opset >= 21 and n % 2 == 0 and f.chance(0.4):
            return (*value.shape[:axis], n // 2, *value.shape[axis + 1 :]), axis, 2
        return (n,), f.pick([axis, axis - value.ndim]), None
    return (), None, None


def requantized(g: Scope, value: np.ndarray, kind: int) -> Value:
    """A float weight through QuantizeLinear and DequantizeLinear."""
    f = g.file
    need(f.opset >= 10 and (kind == F32 or (f.opset >= 19 and kind == F16)))
    name = f.pick(stored_kinds(f))
    rows, axis, block = scales(g, value)
    size = {"INT4": 4, "UINT4": 4}.get(name, 40)
    scale = plain(g, f.rng.uniform(0.5, 2, rows) / size, kind, "scale")
    zero = plain(g, f.rng.integers(0, 4, rows) if name in INTEGERS else np.zeros(rows), getattr(TensorProto, name))
    f.features[f"QuantizeLinear of a weight to {name}"] += 1
    q = g.emit("QuantizeLinear", [plain(g, value, kind), scale, zero], axis=axis, block_size=block)[0]
    return g.emit("DequantizeLinear", [q, scale, zero], axis=axis, block_size=block)[0]
