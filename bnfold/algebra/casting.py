"""Cast and QuantizeLinear of stored values, between all element types.

What the specification leaves open, and what runtimes are known to do differently, is refused.
"""

from __future__ import annotations

from typing import Any

import ml_dtypes
import numpy as np

from .affine import Array, Refused, require
from .rounding import nearest

FLOAT8 = {np.dtype(getattr(ml_dtypes, f"float8_{name}")) for name in ("e4m3fn", "e4m3fnuz", "e5m2", "e5m2fnuz")}
E8M0 = np.dtype(ml_dtypes.float8_e8m0fnu)
FINITE = {np.dtype(getattr(ml_dtypes, f"float{name}")) for name in ("4_e2m1fn", "6_e2m3fn", "6_e3m2fn")}
SUBBYTE = {np.dtype(getattr(ml_dtypes, name)) for name in ("int2", "uint2", "int4", "uint4")}
WIDE = {np.dtype(name) for name in ("f4", "f8")}  # to which NumPy itself converts every integer correctly


def is_integer(kind: np.dtype[Any]) -> bool:
    return kind.kind in "iu" or kind in SUBBYTE


def is_unsigned(kind: np.dtype[Any]) -> bool:
    return is_integer(kind) and ml_dtypes.iinfo(kind).min == 0  # type: ignore[no-untyped-call]


def cast(value: Array, kind: np.dtype[Any], saturate: bool = True, round_mode: str = "up") -> Array:
    """Cast, of numbers or truth values of any element type. Refuses what ONNX leaves undefined."""
    require(
        value.dtype.kind not in "OSUc" and kind.kind not in "OSUc",
        "NOT_CONSTANT",
        "a Cast of strings or complex numbers",
    )
    if kind == value.dtype:
        return value
    if kind == np.bool_:
        return np.asarray(value.astype(np.float64) != 0)
    if is_integer(kind):
        return to_integer(value, kind)
    if kind in WIDE and value.dtype.kind in "iu":
        return value.astype(kind)
    return to_float(value.astype(np.float64), kind, saturate, round_mode)


def to_integer(value: Array, kind: np.dtype[Any]) -> Array:
    """Integers keep their low bits; other numbers lose their fraction."""
    if is_integer(value.dtype) or value.dtype.kind == "b":
        return value.astype(np.uint64 if value.dtype == np.uint64 else np.int64).astype(kind)
    wide, limits = value.astype(np.float64), ml_dtypes.iinfo(kind)  # type: ignore[no-untyped-call]
    whole = np.trunc(wide)
    fit = np.all((whole >= float(limits.min)) & (whole < float(limits.max) + 1))
    require(fit, "NOT_CONSTANT", f"a Cast to {kind} of what it cannot hold, which ONNX leaves undefined")
    same = kind not in SUBBYTE or np.array_equal(whole, wide)
    require(same, "NOT_CONSTANT", f"a Cast of fractions to {kind}, which some runtimes round and others cut off")
    return whole.astype(np.int64 if limits.min < 0 else np.uint64).astype(kind)


def to_float(wide: Array, kind: np.dtype[Any], saturate: bool = True, round_mode: str = "up") -> Array:
    """float64 rounded to nearest, ties to even; `saturate` keeps eight bits from overflowing."""
    if kind == E8M0:
        return to_power(wide, saturate, round_mode)
    most = float(ml_dtypes.finfo(kind).max)  # type: ignore[no-untyped-call]
    require(
        kind not in FINITE or np.all(np.abs(wide) <= most),
        "NOT_CONSTANT",
        f"a Cast to {kind} of what it cannot hold, which ONNX leaves undefined",
    )
    return nearest(np.clip(wide, -most, most) if saturate and kind in FLOAT8 else wide, kind)


def to_power(wide: Array, saturate: bool, round_mode: str) -> Array:
    """The power of two next to a positive number: at or above it, at or below it, or the nearest one, ties up."""
    part, exponent = np.frexp(wide)  # wide == part * 2^exponent, part in [0.5, 1)
    above = {"up": part > 0.5, "nearest": part >= 0.75, "down": part > 1}.get(round_mode)
    if above is None:
        raise Refused("NOT_CONSTANT", f"a Cast with round_mode {round_mode!r}, which ONNX does not know")
    power = np.ldexp(1.0, exponent - 1 + above)
    in_range = np.all((wide >= 2.0**-126) & (power <= 2.0**127))
    require(in_range, "NOT_CONSTANT", f"a Cast to {E8M0} of what it does not hold, on which runtimes differ")
    return np.asarray(power.astype(np.float32).astype(E8M0))


def quantize(value: Array, scale: Array, zero: Array, precision: np.dtype[Any], saturate: bool = True) -> Array:
    """QuantizeLinear, for a scale and zero point that broadcast against the values: round(value / scale) + zero.

    Runtimes do not agree on whether the quotient has its precision or that of float32: both must give the same.
    """
    results = [quantize_in(each, value, scale, zero, saturate) for each in {precision, np.dtype(np.float32)}]
    same = all(np.array_equal(each.astype(np.float64), results[0].astype(np.float64)) for each in results)
    require(
        same, "NOT_CONSTANT", f"a QuantizeLinear of quotients that {scale.dtype} rounds in another way than float32"
    )
    return results[0]


def quantize_in(precision: np.dtype[Any], value: Array, scale: Array, zero: Array, saturate: bool = True) -> Array:
    """QuantizeLinear of a runtime that computes the quotient in this precision."""
    wide = (to_float(each.astype(np.float64), precision) for each in (value, scale))
    with np.errstate(all="ignore"):
        quotient = np.divide(*wide).astype(precision)
    return _quantized(quotient.astype(np.float64), zero, zero.dtype, saturate)


def _quantized(quotient: Array, zero: Array, kind: np.dtype[Any], saturate: bool) -> Array:
    require(np.isfinite(quotient).all(), "NOT_CONSTANT", "a QuantizeLinear by zero, or of what is not a number")
    if is_integer(kind):
        limits = ml_dtypes.iinfo(kind)  # type: ignore[no-untyped-call]
        codes = np.clip(np.rint(quotient) + zero.astype(np.float64), limits.min, limits.max)
        return np.asarray(codes.astype(np.int64).astype(kind))
    require(not zero.astype(np.float64).any(), "NOT_CONSTANT", f"a QuantizeLinear to {kind} with a zero point")
    return to_float(quotient, kind, saturate)
