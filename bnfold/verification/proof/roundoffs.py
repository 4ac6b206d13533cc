"""How far a site of the folded model is from the original's, in unit roundoffs."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from ..float64.floating import quantum, roundoff
from ..float64.windows import Array
from .impulses import NotDerived
from .scale_and_shift import Relation

EXPONENT = np.uint64(0x7FF << 52)  # its bits in float64
COMPARED_AT_ONCE = 1 << 16  # numbers that stay in the cache of a processor
FLOAT64_NOISE = 2.0**-46  # of float64, in what both models are evaluated to


class Comparison(NamedTuple):
    """How far a site of the folded model is from the original's."""

    responses: int  # numbers that were compared
    share: float  # of all there are
    ratio: float  # the largest difference of what data is multiplied by, in unit roundoffs
    at_rest: float  # likewise, of what is left where all that enters is zero
    effect: float  # the largest difference in unit roundoffs of what the original's numbers are the sum of
    relation: Relation | None = None  # of the folded model's tensor to the original's, where they are far from the same
    for_any_size: bool = False  # it says the same for tensors of other sizes


def roundoffs(expected: Array, got: Array, summed: Array, sizes: Array, kind: Any, alone: bool) -> float:
    """The largest difference, in unit roundoffs of `kind`, of numbers that are made of others as large as `sizes`.

    Float64's own noise in `summed` is taken off. With `alone`, `sizes` are stored numbers: the right one is no further
    than half the distance to its neighbour. Infinite if something is not finite; raises NotDerived if that is so in the
    original.
    """
    flat = [array.ravel() for array in np.broadcast_arrays(expected, got, summed, sizes)]
    starts = range(0, flat[0].size, COMPARED_AT_ONCE)
    parts = ([array[start : start + COMPARED_AT_ONCE] for array in flat] for start in starts)
    return max((_roundoffs(part, kind, alone) for part in parts), default=0.0)


def _roundoffs(part: Sequence[Array], kind: Any, alone: bool) -> float:
    expected, got, summed, sizes = part
    with np.errstate(all="ignore"):
        off = np.abs(got - expected) - FLOAT64_NOISE * (summed + np.abs(expected)) - quantum(kind)
        if not np.isfinite(expected).all():
            raise NotDerived("a number of the original is not finite")
        if not np.isfinite(got).all():
            return np.inf
        off, units = np.maximum(off, 0.0), roundoff(kind) * (power_below(sizes) if alone else sizes)
        if np.isfinite(worst := (off / units).max(initial=0.0)):
            return float(worst)
        ratio = np.where(off > 0, off / units, 0.0)  # where nothing is off, of nothing either
    return float(np.nan_to_num(ratio, nan=np.inf).max(initial=0.0))


def power_below(values: Array) -> Array:
    """The power of two at or below each magnitude, 0 for 0: times the unit roundoff, half the distance to the next
    number."""
    return (np.asarray(values, np.float64).view(np.uint64) & EXPONENT).view(np.float64)
