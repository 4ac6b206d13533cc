"""Mean and variance of every channel, exactly, from batches of any size in any order; float64, numpy alone.

Batches are merged as Chan, Golub and LeVeque do (1983). E[x^2] - E[x]^2 would lose every digit where the mean is large.
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
    """`count` values in each channel, their `mean`, and `m2`, the sum of squares about it: float64, shape (C,)."""

    count: int
    mean: Array
    m2: Array

    @staticmethod
    def of(values: npt.ArrayLike, axis: int = 1) -> Moments:
        """The moments of one batch along its channel axis: first the mean, then the squares about it.

        What rounding left in the mean is put right at the end, and so are the squares.
        """
        wide = np.asarray(values).astype(np.float64)
        rows = np.moveaxis(wide, axis, -1).reshape(-1, wide.shape[axis])
        if not len(rows):
            return Moments.none(rows.shape[1])
        mean = rows.mean(axis=0)
        away = rows - mean
        left = away.mean(axis=0)
        squares = np.square(away).sum(axis=0) - len(rows) * np.square(left)
        return Moments(len(rows), mean + left, np.maximum(squares, 0))

    @staticmethod
    def none(channels: int) -> Moments:
        """Of no values at all; adding it changes nothing."""
        return Moments(0, np.zeros(channels), np.zeros(channels))

    @staticmethod
    def merged(parts: Iterable[Moments]) -> Moments:
        """The moments of all the values together; there is at least one part."""
        return reduce(add, parts)

    def __add__(self, other: Moments) -> Moments:
        """M2 = M2_a + M2_b + d^2 * n_a*n_b/n and mean = mean_a + d * n_b/n, where d = mean_b - mean_a."""
        if not self.count or not other.count:
            return self if self.count else other
        count, apart = self.count + other.count, other.mean - self.mean
        between = np.square(apart) * (self.count / count * other.count)
        return Moments(count, self.mean + apart * (other.count / count), self.m2 + other.m2 + between)

    @property
    def variance(self) -> Array:
        """Unbiased, as Algorithm 2 has it: M2 / (n-1). One value has none: not a number."""
        return self.m2 / (self.count - 1) if self.count > 1 else np.full_like(self.m2, np.nan)

    @property
    def biased_variance(self) -> Array:
        """M2 / n, as a batch is normalized in training."""
        return self.m2 / self.count if self.count else np.full_like(self.m2, np.nan)
