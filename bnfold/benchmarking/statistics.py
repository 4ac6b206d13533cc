"""The statistics of a benchmark: few fresh processes, one number from each, a t interval over those numbers.

Runs within one process are not independent (drift, caches, layout of memory), so no interval pools them: pooled, a
"95 %" interval covered the truth 8 to 32 % of the time in a simulation with such effects.

Student's t is here, in 25 lines, since SciPy, which has it, would be 113 MB more to install, and a third of a second
more at each start (`python -X importtime -c "import scipy.special"`). Both say the same to 12 digits (`pytest
tests/test_bench.py -k scipy`).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean, median, stdev

MARGIN = 0.01  # a difference below 1 % is none
CONFIDENCE = 0.95
CAUTION = 0.99  # confidence of the control: at 95 % one sound run in twenty would be called untrustworthy
FASTER, EQUIVALENT, SLOWER, INCONCLUSIVE = "FASTER", "EQUIVALENT", "SLOWER", "INCONCLUSIVE"
UNTRUSTED = "UNTRUSTED"
FLOORS = {"p50": 1, "p90": 64, "p99": 662}  # samples below which a percentile says nothing (MLPerf's early stopping)
UNSTABLE_CV, UNSTABLE_IQR = 0.025, 0.1
BOUND = 0.8  # share of a run that its submission may take before the device waits for the processor


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
    """A speed-up with the bounds of its confidence interval: 1.02 [1.01, 1.03]."""

    estimate: float
    low: float
    high: float

    @property
    def half_width(self) -> float:
        """Half the width on the logarithmic scale: about the relative uncertainty."""
        return math.log(self.high / self.low) / 2 if math.isfinite(self.high) else math.inf


def speedup(log_ratios: Sequence[float], confidence: float = CONFIDENCE) -> Interval:
    """exp of the mean of log(original / folded) over launches, with its t interval; one launch says nothing."""
    center = fmean(log_ratios)
    if len(log_ratios) < 2:
        return Interval(math.exp(center), 0.0, math.inf)
    count = len(log_ratios)
    half = student_quantile((1 + confidence) / 2, count - 1) * stdev(log_ratios) / math.sqrt(count)
    return Interval(math.exp(center), math.exp(center - half), math.exp(center + half))


def verdict(interval: Interval, margin: float = MARGIN) -> str:
    """EQUIVALENT if the whole interval is within the margin; FASTER or SLOWER if it excludes 1; else INCONCLUSIVE."""
    if 1 - margin <= interval.low and interval.high <= 1 + margin:
        return EQUIVALENT
    if interval.low > 1:
        return FASTER
    return SLOWER if interval.high < 1 else INCONCLUSIVE


def trusted(log_controls: Sequence[float], margin: float = MARGIN) -> bool:
    """Does the original measure like itself? Not if the control excludes 1 by what would count as a difference."""
    return verdict(speedup(log_controls, CAUTION), margin) in (EQUIVALENT, INCONCLUSIVE)


def judged(log_ratios: Sequence[float], log_controls: Sequence[float], margin: float = MARGIN) -> str:
    """The verdict of a benchmark: a difference counts only beyond the interval of the control, the noise floor."""
    if not trusted(log_controls, margin):
        return UNTRUSTED
    interval, noise = speedup(log_ratios), speedup(log_controls)
    answer = verdict(interval, margin)
    drowned = (answer == FASTER and interval.low <= noise.high) or (answer == SLOWER and interval.high >= noise.low)
    return INCONCLUSIVE if drowned else answer


@dataclass(frozen=True)
class Times:
    """How single runs scatter, in milliseconds, to be looked at; a percentile of too few samples is None."""

    count: int
    p50: float
    p90: float | None
    p99: float | None
    iqr: float
    cv: float

    @property
    def unstable(self) -> bool:
        return self.cv > UNSTABLE_CV or self.iqr > UNSTABLE_IQR * self.p50


def times(seconds: Sequence[float]) -> Times:
    """The times of the runs of all launches together."""
    ordered = sorted(1e3 * each for each in seconds)
    at = {name: nearest_rank(ordered, int(name[1:]) / 100) if len(ordered) >= n else None for name, n in FLOORS.items()}
    spread = nearest_rank(ordered, 0.75) - nearest_rank(ordered, 0.25)
    scatter = stdev(ordered) / fmean(ordered) if len(ordered) > 1 else 0.0
    return Times(len(ordered), nearest_rank(ordered, 0.5), at["p90"], at["p99"], spread, scatter)


def nearest_rank(ordered: Sequence[float], share: float) -> float:
    """The nearest-rank percentile: the least value that `share` of the values do not exceed."""
    return ordered[max(0, math.ceil(share * len(ordered)) - 1)]


def paired(original: Sequence[Sequence[float]], folded: Sequence[Sequence[float]]) -> float:
    """One launch's log(original / folded): the median over blocks of the log ratio of the blocks' median times."""
    return median(math.log(median(a) / median(b)) for a, b in zip(original, folded, strict=True))


def is_steady(times: Sequence[float], window: int = 5, tolerance: float = 0.01) -> bool:
    """The last three windows of `times` have medians within `tolerance`: warming up is over."""
    if len(times) < 3 * window:
        return False
    recent = [median(times[len(times) - (i + 1) * window : len(times) - i * window]) for i in range(3)]
    return max(recent) <= min(recent) * (1 + tolerance)
