"""float64 values as another type holds them: rounded once, some rows at a time."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import ml_dtypes
import numpy as np

from .affine import Affine, Array, at_rank

CACHED = 1 << 16  # numbers, as float64 half a megabyte
BFLOAT16 = np.dtype(ml_dtypes.bfloat16)
PLAIN = {np.dtype(f"f{n}") for n in (2, 4, 8)}  # to which NumPy itself rounds once
TINY = {BFLOAT16: 2.0**-126, **{np.dtype(f"f{n}"): tiny for n, tiny in ((2, 0.0), (4, 2.0**-126), (8, 2.0**-1022))}}


def widened(value: Array) -> Array:
    """Floating point of any width as float64; everything else as it is."""
    return value if value.dtype.kind in "iubSUO" else value.astype(np.float64, copy=False)


def nearest(value: Array, kind: np.dtype[Any]) -> Array:
    """float64 rounded once to a type, ties to even; what overflows becomes infinite, or no number."""
    with np.errstate(over="ignore", invalid="ignore"):
        return (value if kind in PLAIN else to_odd(value)).astype(kind)


def holds(kind: np.dtype[Any], other: np.dtype[Any]) -> bool:
    """Whether every number of the floating-point type `other`, but for the tiniest, is one of `kind`."""
    mine, others = (ml_dtypes.finfo(each) for each in (kind, other))  # type: ignore[no-untyped-call]
    return bool(mine.eps <= others.eps and mine.max >= others.max)


def rounded(
    value: Array, kind: np.dtype[Any], near: Array | None = None, sizes: Array | None = None
) -> tuple[Array, int]:
    """float64 values rounded once to `kind`, and how many numbers too small for it, below TINY, became zero.

    Subnormals count as too small, since they slow inference down; but float16 keeps its own, which carry weights of
    ordinary size and which hardware runs at full speed. What overflows becomes infinite. The result is `near`, if that
    is given; it and `sizes` are overwritten. Codes of quantized tensors are exact, see `keeps_codes`.
    """
    if kind not in TINY:
        return exact(np.asarray(value), kind), 0
    wide, near = np.asarray(value), np.empty(np.shape(value), kind) if near is None else near
    with np.errstate(over="ignore", invalid="ignore"):
        np.copyto(near, to_odd(wide) if kind == BFLOAT16 else wide, casting="unsafe")
    sizes, tiny = np.abs(near, out=sizes), kind.type(TINY[kind])
    if not sizes.size or sizes.min() >= tiny:
        return near, 0
    small = (sizes < tiny) & (wide != 0)
    near[small] = 0
    return near, int(small.sum())


def to_odd(value: Array) -> Array:
    """float64 as float32, inexact ones to the neighbour with an odd last bit.

    ml_dtypes goes from float64 to its types by way of float32; so prepared, the second rounding gives what one would.
    """
    near = value.astype(np.float32)
    beyond = np.abs(near.astype(np.float64)) > np.abs(value)
    low = np.where(beyond, np.nextafter(near, np.float32(0)), near)
    inexact = low.astype(np.float64) != value
    return np.where(inexact & np.isfinite(value), (low.view(np.uint32) | 1).view(np.float32), near)


def exact(value: Array, kind: np.dtype[Any]) -> Array:
    """float64 that a type of codes is known to hold: an integer one, or floating point of few bits."""
    return value.astype(np.int64).astype(kind) if kind.kind in "iu" else value.astype(np.float32).astype(kind)


def keeps_codes(affine: Affine, codes: Array, kind: np.dtype[Any]) -> bool:
    """Whether an affine makes codes of a type of codes, of the shape of the affine or larger."""
    codes = np.broadcast_to(codes, np.broadcast_shapes(codes.shape, affine.extent, (1,)))
    affine = affine.map(lambda c: at_rank(c, codes.ndim))
    limits = (ml_dtypes.iinfo if "int" in kind.name else ml_dtypes.finfo)(kind)
    for rows in spans(codes.shape):
        new = affine.rows(rows)(codes[rows].astype(np.float64))
        in_range = np.all((new >= float(limits.min)) & (new <= float(limits.max)))
        if not (in_range and np.array_equal(exact(new, kind).astype(np.float64), new)):
            return False
    return True


def flattened(affine: Affine, shape: tuple[int, ...]) -> tuple[Affine, tuple[int, ...]]:
    """Both with the axes after the last one along which the affine varies merged into one: fewer axes are faster."""
    affine = affine.map(lambda c: at_rank(c, len(shape)))
    varied = max((i for i, n in enumerate(affine.extent, 1) if n != 1), default=1)
    return affine.map(lambda c: c.reshape(*c.shape[:varied], 1)), (*shape[:varied], math.prod(shape[varied:]))


def rows_at_once(shape: tuple[int, ...]) -> int:
    """How many rows of an array fit into the processor's cache as float64: at least 1, at most all."""
    return min(shape[0], max(1, shape[0] * CACHED // max(1, math.prod(shape))))


def spans(shape: tuple[int, ...]) -> Iterator[slice]:
    """All rows of an array, as many at a time as the processor's cache holds."""
    step = max(1, rows_at_once(shape))
    return (slice(start, min(start + step, shape[0])) for start in range(0, shape[0], step))


class Room:
    """Memory for parts of an array that are computed one after the other: to allocate it anew would take longer than
    the arithmetic."""

    def __init__(self, shape: tuple[int, ...], kind: np.dtype[Any]) -> None:
        longest = rows_at_once(shape) * math.prod(shape[1:])
        self.wide, self.near, self.sizes = (np.empty(longest, each) for each in (np.float64, kind, kind))

    def rounded(self, affine: Affine, part: Array) -> tuple[Array, int]:
        """`rounded` of the affine of a part, which the next one overwrites."""
        wide, near, sizes = (each[: part.size].reshape(part.shape) for each in (self.wide, self.near, self.sizes))
        return rounded(affine(part, wide), near.dtype, near, sizes)
