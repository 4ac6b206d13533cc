"""The statistics of a benchmark: few fresh processes, one number from each, a t interval over those numbers.

Runs within one process are not independent (drift, caches, layout of memory), so they are never pooled: pooled, a
"95 %" interval covered the truth 8 to 32 % of the time in a simulation with such effects.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean, median, stdev

MARGIN = 0.01  # a difference below 1 % is none
CONFIDENCE = 0.95
FASTER, EQUIVALENT, SLOWER, INCONCLUSIVE = "FASTER", "EQUIVALENT", "SLOWER", "INCONCLUSIVE"


def student_cdf(t: float, freedom: int) -> float:
    """P(T <= t) of Student's t with a whole number of degrees of freedom (Abramowitz and Stegun 26.7.3, 26.7.4)."""
    angle = math.atan(t / math.sqrt(freedom))
    cosine, odd = math.cos(angle), freedom % 2
    term = cosine if odd else 1.0
    total = term if freedom > 1 else 0.0
    for k in range(3 if odd else 2, freedom - 1, 2):
        term *= (k - 1) / k * cosine**2
        total += term
    inside = 2 / math.pi * (angle + math.sin(angle) * total) if odd else math.sin(angle) * total
    return 0.5 + inside / 2


def student_quantile(probability: float, freedom: int) -> float:
    """The t with P(T <= t) = probability, for probability > 0.5, by bisection."""
    low, high = 0.0, 1.0
    while student_cdf(high, freedom) < probability:
        high *= 2
    for _ in range(80):
        middle = (low + high) / 2
        low, high = (middle, high) if student_cdf(middle, freedom) < probability else (low, middle)
    return (low + high) / 2


@dataclass(frozen=True)
class Interval:
    """How many times faster, with the bounds of the confidence interval: 1.02 [1.01, 1.03]."""

    estimate: float
    low: float
    high: float

    @property
    def half_width(self) -> float:
        """Half the width on the logarithmic scale: about the relative uncertainty."""
        return math.log(self.high / self.low) / 2 if math.isfinite(self.high) else math.inf


def speedup(log_ratios: Sequence[float]) -> Interval:
    """exp of the mean of log(original / folded) over launches, with its t interval; one launch says nothing."""
    center = fmean(log_ratios)
    if len(log_ratios) < 2:
        return Interval(math.exp(center), 0.0, math.inf)
    half = student_quantile((1 + CONFIDENCE) / 2, len(log_ratios) - 1) * stdev(log_ratios) / math.sqrt(len(log_ratios))
    return Interval(math.exp(center), math.exp(center - half), math.exp(center + half))


def verdict(interval: Interval, margin: float = MARGIN) -> str:
    """EQUIVALENT if the whole interval is within the margin; FASTER or SLOWER if it excludes 1; else INCONCLUSIVE."""
    if 1 - margin <= interval.low and interval.high <= 1 + margin:
        return EQUIVALENT
    if interval.low > 1:
        return FASTER
    return SLOWER if interval.high < 1 else INCONCLUSIVE


def paired(original: Sequence[Sequence[float]], folded: Sequence[Sequence[float]]) -> float:
    """One launch's log(original / folded): the median over blocks of the log ratio of the blocks' median times."""
    return median(math.log(median(a) / median(b)) for a, b in zip(original, folded, strict=True))


def steady(times: Sequence[float], window: int = 5, tolerance: float = 0.01) -> bool:
    """The last three windows of `times` have medians within `tolerance`: warming up is over."""
    if len(times) < 3 * window:
        return False
    recent = [median(times[len(times) - (i + 1) * window : len(times) - i * window]) for i in range(3)]
    return max(recent) <= min(recent) * (1 + tolerance)
