"""How far the statistics that a model stores are from those of data, and how sure that is."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np

from ..algebra.moments import Array, Moments
from .norms import Norm, Statistics

NO_DRIFT = 1e-3  # drift, as a share, that is no more than rounding on the way
DEAD = 1e-8  # variance below which a channel carries nothing
COLUMNS = ("BatchNormalization", "channels", "shift / sd", "variance ratio", "dead")
STANDARD_ERRORS = 4.0  # standard errors by which a drift must exceed the threshold to count


@dataclass(frozen=True)
class Drift:
    """One BatchNormalization: `values` per channel were seen.

    `shift` is the largest |mean of the data - stored mean| of a channel, in standard deviations of the data;
    `ratio_low` and `ratio_high` are the extremes of variance of the data / stored variance, both with the epsilon that
    the node adds. A `dead` channel has a variance below 1e-8, a `constant` one has none.
    """

    node: str
    output: str
    level: int
    channels: int
    values: int
    shift: float
    ratio_low: float
    ratio_high: float
    dead: int
    constant: int

    @staticmethod
    def of(norm: Norm, new: Statistics, count: int) -> Drift:
        shift, ratio = compared(norm, new)
        var = new.var.ravel()
        low, high = (ratio.min(), ratio.max()) if ratio.size else (1.0, 1.0)
        names = norm.name, norm.output, norm.level, var.size, count
        dead, constant = int((var < DEAD).sum()), int((var == 0).sum())
        return Drift(*names, float(shift.max(initial=0)), float(low), float(high), dead, constant)

    @property
    def none(self) -> bool:
        """The statistics are those of the data, up to rounding."""
        return self.shift <= NO_DRIFT and abs(self.ratio_low - 1) <= NO_DRIFT and abs(self.ratio_high - 1) <= NO_DRIFT

    def row(self) -> tuple[object, ...]:
        """The row of a table with `COLUMNS`."""
        ratio = f"{self.ratio_low:.3g} to {self.ratio_high:.3g}"
        return (self.node or self.output, self.channels, f"{self.shift:.3g}", ratio, self.dead)

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


def compared(norm: Norm, new: Statistics) -> tuple[Array, Array]:
    """For each channel the shift of the mean in standard deviations, and the ratio of the variances."""
    spread, stored = new.var.ravel() + norm.epsilon, norm.stored.var.ravel() + norm.epsilon
    with np.errstate(divide="ignore", invalid="ignore"):
        away = np.abs(new.mean.ravel() - norm.stored.mean.ravel())
        shift = np.where(away == 0, 0, away / np.sqrt(np.maximum(spread, 0)))
        ratio = np.where(spread == stored, 1, spread / stored)
    largest = np.finfo(np.float64).max
    return np.nan_to_num(shift, nan=largest, posinf=largest), np.nan_to_num(ratio, nan=largest, posinf=largest)


@dataclass(frozen=True)
class Fit:
    """Whether the stored statistics of one BatchNormalization fit: how many channels are off, by what was measured.

    `resolution` is the drift, in standard deviations, that so few samples may show by chance.
    """

    drift: Drift
    off: int
    resolution: float

    def to_json(self) -> dict[str, Any]:
        return {**self.drift.to_json(), "off": self.off, "resolution": self.resolution}


@dataclass(eq=False)
class Sample:
    """The input of one norm in the model as it is, sample by sample, so that the error of a mean can be estimated.

    The places of one image are anything but independent: what counts is how much images differ.
    """

    norm: Norm
    moments: Moments = field(init=False)
    means: Moments = field(init=False)  # of each sample
    squares: Moments = field(init=False)  # of each sample, about the stored mean

    def __post_init__(self) -> None:
        self.moments = self.means = self.squares = Moments.none(self.norm.stored.mean.size)

    def see(self, values: Array, samples: int) -> None:
        rows = self.norm.channels(values).astype(np.float64)
        self.moments += self.norm.moments(values)
        if samples and len(rows) % samples == 0:
            rows = rows.reshape(samples, -1, *rows.shape[1:]).swapaxes(1, 2).reshape(samples, rows.shape[1], -1)
        self.means += Moments.of(rows.mean(axis=2))
        away = rows - self.norm.stored.mean.reshape(1, -1, 1)
        self.squares += Moments.of(np.square(away).mean(axis=2))

    def fit(self, threshold: float) -> Fit:
        """A channel is off if it drifts by more than the threshold, even after what chance can do is taken away.

        Standard deviations that differ by a factor of 1 + threshold have drifted as much as a mean by threshold.
        """
        new = Statistics(self.moments.mean, self.moments.variance)
        shift, ratio = compared(self.norm, new)
        spread = new.var + self.norm.epsilon
        number = max(1, self.means.count)
        chance = STANDARD_ERRORS * np.sqrt(self.means.variance / number / spread)
        squares = STANDARD_ERRORS * np.sqrt(self.squares.variance / number) / spread
        stretch = np.abs(np.log(np.maximum(ratio, 1e-300))) / 2
        off = (shift - chance > threshold) | (stretch - squares / 2 > np.log1p(threshold))
        drift = Drift.of(self.norm, new, self.moments.count)
        return Fit(drift, int(off.sum()), float(np.nan_to_num(np.maximum(chance, squares / 2), nan=0).max(initial=0)))
