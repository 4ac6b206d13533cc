"""How wrong a tensor is: errors of the original and of the folded model against float64, and what they may be.

The measure is a ratio: the folded model's error over the error that a faultless fold may have. That is the largest of

    the original's own error against the oracle,
    how far the original moves when its constants move by one unit of their last place (`jitter`), and
    the unit roundoff times the tensor's values.

The second counts where the original is exact by luck (small integers, powers of two), and where a large mean cancels:
it is the conditioning of the whole network up to this tensor. All are root mean squares over a tensor or one channel,
summed over all inputs, each input weighted by the inverse mean square of the tensor's values. The first is of the
provider that is compared, the second of the CPU (see `level_runs`). Where sessions of one and the same model may
differ (a GPU's default arithmetic), that noise is added to what the folded model's error may be.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from enum import IntEnum
from math import prod
from typing import Any

import numpy as np

from .float64.floating import is_floating, quantum, roundoff
from .float64.windows import Array

OUTPUT_LIMIT = 4.0  # clean folds were measured at 0.9 or less, planted faults at 8 or more
TRUST = 64.0  # the oracle is in doubt where the original is this much further from it than rounding explains
BLUR = 2.0**-7  # relative error up to which a tensor that has other values by design is seen to have them
FLIPS = 1e-4  # share of the elements of an integer tensor that may tip over: near ties of thresholds
TIES = 1 / 16  # share of wrong integers that no near ties make


class Row(IntEnum):
    """Rows of `Tally.sums`: squared errors of both models, squared distances from the original to jittered copies
    (their mean), to the folded model and to further runs of it (the largest); squared true values and their number."""

    ORIGINAL, FOLDED, JITTER, DRIFT, TRUTH, ONES, NOISE = range(7)


def is_unsteady(original: Array, jittered: Sequence[Array], dropped: int = 0) -> bool:
    """Whether rounding alone moves the tensor by more than the square root of the unit roundoff.

    Then the squares of errors, too, are larger than a roundoff: errors no longer grow in proportion, a Sigmoid may
    flip, and one run says nothing about another.
    """
    if not jittered or not is_floating(original):
        return False
    values = _plain(original).astype(np.float64)
    with np.errstate(all="ignore"):
        moved = [np.square(_plain(run) - values).sum() for run in jittered]
        return bool(np.mean(moved) > roundoff(original.dtype, dropped) * np.square(values).sum())


@dataclass
class Tally:
    """Squared errors of one tensor, summed over inputs; along `axes` also of each channel."""

    name: str
    axes: Sequence[int] = ()
    bounded: bool = False  # made by Sigmoid or the like: accurate to a roundoff of 1, not of its own value
    step: bool = False  # moves in steps, and both models have the node: what enters it is compared, see `steps`
    whole_steps: bool = False  # its noise is that of whole steps, and the largest element of that is a limit, too
    dropped: int = 0  # low bits of a float32 number that the arithmetic leaves out: TF32 works with 13 less
    roundoff: float = 2.0**-24
    quantum: float = 0.0
    sums: dict[int | None, Array] = field(default_factory=dict)
    largest: list[float] = field(default_factory=lambda: [0.0] * 3)  # absolute error: original, folded; and noise
    runs: int = 0
    elements: int = 0
    excluded: int = 0  # not finite in the original either: nothing can be learned there
    broken: int = 0  # not finite, or of another kind of not finite, only in the folded model
    flips: list[int] = field(default_factory=lambda: [0] * 4)  # integers that are wrong, or for DRIFT differ, by `Row`
    misshapen: str = ""
    span: list[float] = field(default_factory=lambda: [np.inf, -np.inf])  # smallest and largest true value
    firsts: Array | None = None  # of each channel of the last of `axes`, one true value
    live: Array = field(default_factory=lambda: np.zeros(0, bool))  # channels with more than one
    on_cpu: float | None = 0.0  # squared errors, or wrong integers, of the original on the CPU; None: not known

    def add(
        self,
        truth: Array | None,
        original: Array,
        folded: Array,
        jittered: Sequence[Array],
        again: Sequence[Array] = (),
        on_cpu: Array | None = None,
    ) -> None:
        """Add one run. Without an oracle `truth` is None and only the drift between the models is measured.

        `again` is what further sessions of the original computed, `on_cpu` one on the CPU, graph optimization off.
        """
        shapes = [len(run.shape) if self.step else run.shape for run in (original, folded)]  # a TopK may choose more
        if shapes[0] != shapes[1] or original.dtype != folded.dtype:
            self.misshapen = f"{original.dtype}{list(original.shape)} became {folded.dtype}{list(folded.shape)}"
            return
        self.runs += 1
        self.elements += original.size
        if self.step:
            return
        if not is_floating(original) and original.dtype.kind != "V":
            self._count_flips(original if truth is None else truth, original, folded, (*jittered, *again))
            self._confirm(truth, on_cpu, lambda run, true: float(np.count_nonzero(run != true)))
            return
        self.roundoff, self.quantum = roundoff(original.dtype, self.dropped), quantum(original.dtype)
        runs = [_plain(run) for run in (original, folded, *jittered, *again)]
        weight = self._add_floats(runs[0].astype(np.float64) if truth is None else truth, runs, len(jittered))
        self._confirm(truth, on_cpu, lambda run, true: weight * _squared_error(run, true, runs[0]))

    def _confirm(self, truth: Array | None, on_cpu: Array | None, error: Callable[[Array, Array], float]) -> None:
        if truth is None or on_cpu is None or on_cpu.shape != truth.shape or self.on_cpu is None:
            self.on_cpu = None
            return
        self.on_cpu += error(on_cpu, truth)

    def _add_floats(self, truth: Array, runs: Sequence[Array], jittered: int) -> float:
        """Add runs of the original, the folded model, `jittered` copies, the original again; return their weight."""
        original, folded = runs[:2]
        with np.errstate(all="ignore"):
            errors = [np.subtract(run, truth, dtype=np.float64) for run in runs]
            errors[2:] = [errors[1] - errors[0], *(e - errors[0] for e in errors[2:])]
            if not all(np.isfinite(np.vdot(e, e)) for e in errors):
                truth, errors = self._finite(truth, original, folded, errors)
        for place, those in enumerate((errors[:1], errors[1:2], errors[3 + jittered :])):
            ends = (end for e in those for end in (float(e.max(initial=0.0)), -float(e.min(initial=0.0))))
            self.largest[place] = max(self.largest[place], *ends, 0.0)
        low, high = float(truth.min(initial=np.inf)), float(truth.max(initial=-np.inf))
        self.span = [min(self.span[0], low), max(self.span[1], high)]
        self._note_live_channels(truth)
        weight = 1.0 / (float(np.vdot(truth, truth)) / max(1, truth.size) or 1.0)
        for axis in (None, *self.axes):
            if axis is None or truth.ndim > axis:
                self._accumulate(axis, truth, errors, weight, 3 + jittered)
        return weight

    def _note_live_channels(self, truth: Array) -> None:
        axis = max((axis for axis in self.axes if axis < truth.ndim), default=0)
        if not axis or not truth.size:
            return
        rows = np.moveaxis(truth, axis, 0).reshape(truth.shape[axis], -1)
        if self.firsts is None:
            self.firsts, self.live = rows[:, :1].copy(), np.zeros(len(rows), bool)
        if len(rows) == len(self.firsts):
            self.live |= (rows != self.firsts).any(axis=1)

    def _finite(self, truth: Array, original: Array, folded: Array, errors: list[Array]) -> tuple[Array, list[Array]]:
        """The same, zero where something is not finite, after counting where only the folded model is not."""
        sure, ours, theirs = np.isfinite(truth), np.isfinite(original), np.isfinite(folded)
        kinds = (
            np.nan_to_num(original, nan=7.0, posinf=8.0, neginf=9.0),
            np.nan_to_num(folded, nan=7.0, posinf=8.0, neginf=9.0),
        )
        odd = ~sure & (ours != theirs) | ~sure & ~ours & ~theirs & (kinds[0] != kinds[1])
        self.broken += int(np.count_nonzero((sure & ours & ~theirs) | odd))
        usable = sure & ours & theirs & np.logical_and.reduce([np.isfinite(e) for e in errors])
        self.excluded += int(usable.size - np.count_nonzero(usable))
        return np.where(usable, truth, 0.0), [np.where(usable, e, 0.0) for e in errors]

    def _accumulate(self, axis: int | None, truth: Array, errors: list[Array], weight: float, again: int) -> None:
        """Add errors: of the two models, the drift between them, of jittered copies and, from `again` on, noise."""
        squares = [_squares(e, axis) for e in errors]
        none = np.zeros_like(squares[0])
        jitter = np.mean(squares[3:again], axis=0) if squares[3:again] else none
        noise = np.max([none, *squares[again:]], axis=0)
        ones = np.full_like(none, truth.size / max(1, len(none)))
        rows = [squares[0], squares[1], jitter, squares[2], _squares(truth, axis), ones, noise]
        total = np.stack(rows) * weight
        if axis in self.sums and self.sums[axis].shape != total.shape:
            return  # another size of a dynamic dimension: this axis has no fixed channels
        self.sums[axis] = self.sums[axis] + total if axis in self.sums else total

    def _count_flips(self, truth: Any, original: Array, folded: Array, jittered: Sequence[Array]) -> None:
        """Count integers that are wrong in each model, differ in jittered copies, at most, or between the models."""
        pairs = ((truth, [original]), (truth, [folded]), (original, jittered), (original, [folded]))
        for i, (value, runs) in enumerate(pairs):
            self.flips[i] += max((int(np.count_nonzero(run != value)) for run in runs), default=0)

    @property
    def usable(self) -> bool:
        """Whether there was something to compare."""
        return self.elements > self.excluded and not self.misshapen

    @property
    def constant(self) -> bool:
        """Whether the tensor has one and the same value whatever the input."""
        return bool(self.span[0] == self.span[1])

    def _allowed(self, axis: int | None) -> Array:
        """Squared errors that rounding explains without the original's own error."""
        sums = self.sums[axis]
        absolute = max(self.roundoff if self.bounded else 0.0, self.quantum)
        floor = np.maximum(self.roundoff**2 * sums[Row.TRUTH], absolute**2 * sums[Row.ONES])
        allowed: Array = np.maximum(sums[Row.JITTER], floor) + sums[Row.NOISE]
        return allowed

    @property
    def disputed(self) -> bool:
        """Whether the original is further from the oracle than rounding explains: one of the two is mistaken."""
        if None not in self.sums:
            return self.flips[Row.ORIGINAL] > self._tied
        return bool((self.sums[None][Row.ORIGINAL] > TRUST**2 * self._allowed(None)).any())

    @property
    def miscomputed(self) -> str:
        """`original` or `both`: which models run wrong, where the original's run on the CPU confirms the oracle."""
        floats = None in self.sums
        explained = TRUST**2 * self._allowed(None)[0] if floats else self._tied
        if not self.disputed or self.on_cpu is None or not self.on_cpu <= explained:
            return ""
        errors = self.sums[None][:, 0] if floats else self.flips
        return "original" if errors[Row.FOLDED] < errors[Row.DRIFT] else "both"

    @property
    def _tied(self) -> float:
        """How many integers of an original may be wrong before it is doubted."""
        return max(OUTPUT_LIMIT * self.flips[Row.JITTER], TIES * self.elements)

    def ratios(self, axis: int | None) -> Array:
        """Error of the folded model over the error it may have: one number, or one per channel of `axis`.

        Where the oracle is disputed the error is the distance to the original instead, unless that alone is wrong.
        """
        if axis not in self.sums:
            return np.zeros(1)
        sums = self.sums[axis]
        error, allowed = sums[Row.FOLDED], np.maximum(self._allowed(axis), sums[Row.ORIGINAL] + sums[Row.NOISE])
        allowed = np.maximum.reduce([allowed, self._usual() * sums[Row.TRUTH], self._expected(axis)])
        if self.disputed:
            error, allowed = sums[Row.FOLDED if self.miscomputed == "original" else Row.DRIFT], self._allowed(axis)
        with np.errstate(divide="ignore", invalid="ignore"):
            ratios: Array = np.where(error > 0, np.sqrt(error / allowed), 0.0)
        return ratios

    def _expected(self, axis: int | None) -> Array:
        """Squared errors that the original's channels would have if error over jitter were as in the whole tensor.

        Those that were measured of a channel of few elements may be small by chance.
        """
        own, moved = self.sums[None][[Row.ORIGINAL, Row.JITTER], 0]
        errors: Array = self.sums[axis][Row.JITTER] * (own / moved if moved > 0 and not self.miscomputed else 0.0)
        return errors

    @property
    def clear(self) -> bool:
        """Whether rounding blurs the tensor so little that another affine on its values would show."""
        return not self.sums or self._usual() <= BLUR**2

    def _usual(self) -> float:
        """Squared relative error of the whole tensor, which every channel may have: it may have few elements."""
        sums = self.sums[None][:, 0]
        own = 0.0 if self.miscomputed == "original" else sums[Row.ORIGINAL] + sums[Row.NOISE]
        whole = max(own, self._allowed(None)[0])
        return float(whole / sums[Row.TRUTH]) if sums[Row.TRUTH] > 0 else 0.0

    @property
    def outlying(self) -> bool:
        """Whether some element is further off than whole steps explain: a few that saturate do not show in a mean."""
        original, folded, noise = self.largest
        return self.whole_steps and folded > OUTPUT_LIMIT * max(
            original, noise, self.roundoff * max(map(abs, self.span))
        )

    @property
    def tipped(self) -> bool:
        """Whether more integers are wrong in the folded model than near ties explain."""
        original = 0 if self.miscomputed == "original" else self.flips[Row.ORIGINAL]
        return self.flips[Row.FOLDED] > max(OUTPUT_LIMIT * max(original, self.flips[Row.JITTER]), FLIPS * self.elements)

    def worst(self) -> tuple[float, int | None, int | None]:
        """The largest ratio, and the axis and channel it is at (None: the whole tensor)."""
        worst = [(float(r.max()), axis, int(r.argmax())) for axis in self.sums if (r := self.ratios(axis)).size]
        ratio, axis, channel = max(worst, key=lambda entry: entry[0], default=(0.0, None, 0))
        return ratio, axis, None if axis is None else channel


def _squared_error(run: Array, truth: Array, original: Array) -> float:
    """The sum where truth and original are finite; NaN or infinite if the run is not finite there."""
    known = np.isfinite(truth) & np.isfinite(original)
    run, truth = run[known], truth[known]
    with np.errstate(all="ignore"):
        error = np.subtract(_plain(run), truth, dtype=np.float64)
        return float(np.vdot(error, error))


def _plain(run: Array) -> Array:
    """The run in a type with which NumPy calculates: float64 instead of bfloat16 and float8."""
    return run if run.dtype.kind == "f" else run.astype(np.float64)


def _squares(values: Array, axis: int | None) -> Array:
    """Sum of squares over everything, or over all axes but one."""
    if axis is None:
        return np.array([np.vdot(values, values)])
    before, after = prod(values.shape[:axis]), prod(values.shape[axis + 1 :])
    laid = values.reshape(before, values.shape[axis], after)
    sums: Array = np.square(laid).sum(axis=2).sum(axis=0)
    return sums
