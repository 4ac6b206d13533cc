"""How far two outputs are apart, and whether rounding explains it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np


def within(a: np.ndarray, b: np.ndarray, moved: Sequence[Any], floor: float, times: float) -> bool:
    """Whether b is as near to a as rounding explains; integers and what is not finite, as the moved ones are."""
    if a.dtype.kind not in "f":
        different = a != b
        return (
            bool(np.all(np.any([np.asarray(m) != a for m in moved], axis=0)[different]))
            if moved
            else not different.any()
        )
    x, y = a.astype(np.float64), b.astype(np.float64)
    near = [np.asarray(m, np.float64) for m in moved if np.shape(m) == a.shape]
    with np.errstate(all="ignore"):
        spread = np.nanmax([np.abs(m - x) for m in near], axis=0, initial=0.0) if near else np.zeros_like(x)
        spread = over_channels(np.where(np.isfinite(spread), spread, 0)) + 0 * x
        bar = times * spread + floor * over_channels(np.where(np.isfinite(x), np.abs(x), 0)) + 1e-37
        close = (np.abs(x - y) <= bar) | (x == y) | (np.isnan(x) & np.isnan(y))
    odd = np.any([~np.isfinite(m) for m in near], axis=0) if near else np.zeros(x.shape, bool)
    return bool(np.all(close | (odd & ~np.isfinite(y)) | (odd & ~np.isfinite(x))))


def over_channels(value: np.ndarray) -> np.ndarray:
    """The largest of each channel."""
    if value.ndim < 2 or not value.size:
        return value.max(initial=0.0) if value.size else value
    return value.max(axis=tuple(i for i in range(value.ndim) if i != 1), keepdims=True)


def largest(value: np.ndarray) -> float:
    numbers = np.abs(value.astype(np.float64))
    return float(np.where(np.isfinite(numbers), numbers, 0).max(initial=0.0))


def difference(a: np.ndarray, b: np.ndarray) -> float:
    with np.errstate(all="ignore"):
        apart = np.abs(a.astype(np.float64) - b.astype(np.float64))
    return float(
        np.where(
            np.isnan(apart) & ~(np.isnan(a) & np.isnan(b)) if a.dtype.kind == "f" else False,
            np.inf,
            np.nan_to_num(apart),
        ).max(initial=0)
    )


def distance(got: np.ndarray, want: np.ndarray) -> float:
    if got.shape != want.shape:
        return float("inf")
    x = got.astype(np.float64)
    with np.errstate(all="ignore"):
        apart = np.where((x == want) | (np.isnan(x) & np.isnan(want)), 0, np.abs(x - want))
    return float("inf") if np.isnan(apart).any() else float(apart.max(initial=0))
