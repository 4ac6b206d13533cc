"""Mean and variance of every channel, exactly, from batches of any size in any order; float64, numpy alone.

Sums keep what rounding takes from them (Knuth's TwoSum), so a mean far smaller than the values has all its digits too.
Squares are about the mean and are merged as Chan, Golub and LeVeque do (1983): E[x^2] - E[x]^2 would lose every digit
where the mean is large.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from functools import reduce
from operator import add
from typing import Any

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]


@dataclass(frozen=True, eq=False)
class Moments:
    """`count` values in each channel: their sum is `total` + `rest`, `m2` that of their squares about the mean.

    All are float64 of shape (C,).
    """

    count: int
    total: Array
    rest: Array
    m2: Array

    @staticmethod
    def of(values: npt.ArrayLike, axis: int = 1) -> Moments:
        """The moments of one batch along its channel axis: first the mean, then the squares about it."""
        array = np.moveaxis(np.asarray(values), axis, 1) if axis != 1 else np.asarray(values)
        samples, channels = array.shape[:2]
        wide = array.reshape(samples, channels, -1 if array.size else 0).astype(np.float64)
        if not wide.size:
            return Moments.none(channels)
        count = samples * wide.shape[2]
        with np.errstate(invalid="ignore", over="ignore"):  # of infinite values: their moments are not numbers
            total, rest = _summed(wide)
            wide -= (total / count)[:, None]
            np.square(wide, out=wide)
            return Moments(count, total, rest, wide.sum(axis=2).sum(axis=0))

    @staticmethod
    def none(channels: int) -> Moments:
        """Of no values at all; adding it changes nothing."""
        return Moments(0, *np.zeros((3, channels)))

    @staticmethod
    def merged(parts: Iterable[Moments]) -> Moments:
        """The moments of all the values together; there is at least one part."""
        return reduce(add, parts)

    def __add__(self, other: Moments) -> Moments:
        """M2 = M2_a + M2_b + d^2 * n_a*n_b/n, where d = mean_b - mean_a."""
        if not self.count or not other.count:
            return self if self.count else other
        count = self.count + other.count
        with np.errstate(invalid="ignore", over="ignore"):
            between = np.square(other.mean - self.mean) * (self.count / count * other.count)
            total, lost = _two_sum(self.total, other.total)
            return Moments(count, *_two_sum(total, lost + self.rest + other.rest), self.m2 + other.m2 + between)

    @property
    def mean(self) -> Array:
        """Of no values it is 0."""
        return self.total / max(1, self.count)

    @property
    def variance(self) -> Array:
        """Unbiased, as Algorithm 2 has it: M2 / (n-1). One value has none: not a number."""
        return self.m2 / (self.count - 1) if self.count > 1 else np.full_like(self.m2, np.nan)

    @property
    def biased_variance(self) -> Array:
        """M2 / n, as a batch is normalized in training."""
        return self.m2 / self.count if self.count else np.full_like(self.m2, np.nan)


def _two_sum(a: Array, b: Array) -> tuple[Array, Array]:
    """a + b, and exactly what rounding took from it."""
    total = a + b
    shown = total - a
    lost = a - (total - shown)
    lost += b - shown
    return total, lost


def _summed(values: Array) -> tuple[Array, Array]:
    """Over all but axis 1 of (N, C, L): the sum, and the rest that rounding took."""
    high, low = _along_first(values, np.zeros(()))
    high, low = _along_first(high.T, np.broadcast_to(low, high.shape).T)
    return _two_sum(high, low)


def _along_first(high: Array, low: Array) -> tuple[Array, Array]:
    """The sum along the first axis, by halves; `low` is what is to be added to `high`, or a plain 0."""
    while len(high) > 1:
        half, odd = len(high) // 2, len(high) % 2
        total, lost = _two_sum(high[:half], high[half : 2 * half])
        if low.ndim:
            lost += low[:half]
            lost += low[half : 2 * half]
        if odd:
            total = np.concatenate([total, high[-1:]])
            lost = np.concatenate([lost, low[-1:] if low.ndim else np.zeros_like(high[-1:])])
        high, low = total, lost
    return high[0], low[0] if low.ndim else low
