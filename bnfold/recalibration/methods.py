"""Three ways to compute population statistics, and how well those that are stored fit.

sequential  level by level in inference mode: every normalization sees what it will see when the model is used
alg2        Algorithm 2 of the paper to the letter: each mini-batch normalizes itself on its way through the whole
            model; the mean of its means, and of its unbiased variances
pooled      the same passes, their moments merged over all mini-batches
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field

import numpy as np

from ..algebra.moments import Array, Moments
from ..algebra.rounding import rounded
from ..display.display import counted
from ..errors import ModelProblem, UsageProblem
from .layout import Layout
from .norms import Norm, Statistics
from .segments import Env, Stage
from .store import Budget, Store

LevelWatch = Callable[[int, int], None]  # of the level, and of how many chunks of it are done


@dataclass(eq=False)
class Measured:
    """The new statistics of every norm by its output, as they are stored, and of how many values per channel."""

    statistics: dict[str, Statistics] = field(default_factory=dict)
    counts: dict[str, int] = field(default_factory=dict)

    def take(self, norm: Norm, mean: Array, var: Array, count: int) -> None:
        self.statistics[norm.output] = as_stored(norm, mean, var)
        self.counts[norm.output] = count


def sequential(stages: list[Stage], chunks: Iterable[Env], limit: int, watch: LevelWatch) -> Measured:
    """Each segment runs once over everything; what the next ones need of it is kept in between."""
    measured, budget = Measured(), Budget(limit)
    for level, stage in enumerate(stages):
        store = Store(budget)
        try:
            moments = _measured(stage, chunks, measured, store, lambda done, level=level: watch(level, done))  # type: ignore[misc]
        except BaseException:
            store.close()
            raise
        stage.close()
        for norm in stage.norms:
            sums = moments[norm.output]
            _require_variance(norm, sums.count)
            measured.take(norm, sums.mean, sums.variance, sums.count)
        chunks = store.drained()
    return measured


def _measured(
    stage: Stage, chunks: Iterable[Env], measured: Measured, store: Store, watch: Callable[[int], None]
) -> dict[str, Moments]:
    moments = {norm.output: Moments.none(norm.stored.mean.size) for norm in stage.norms}
    for done, chunk in enumerate(chunks, 1):
        env = stage.run(chunk, measured.statistics)
        for norm in stage.norms:
            moments[norm.output] += norm.moments(env[norm.source])
        store.put(stage.left(env))
        watch(done)
    return moments


@dataclass(eq=False)
class _Batches:
    """The sums over the mini-batches of one norm."""

    whole: Moments
    number: int = 0
    mean: Array = field(default_factory=lambda: np.zeros(()))
    var: Array = field(default_factory=lambda: np.zeros(()))

    def see(self, moments: Moments) -> None:
        self.whole += moments
        self.number += 1
        self.mean, self.var = self.mean + moments.mean, self.var + moments.variance

    def statistics(self, pool: bool) -> tuple[Array, Array]:
        if pool:
            return self.whole.mean, self.whole.variance
        return self.mean / self.number, self.var / self.number


def by_batches(stages: list[Stage], chunks: Iterable[Env], pool: bool, watch: LevelWatch) -> Measured:
    """`alg2` or, if moments are to be pooled, `pooled`: every chunk is one mini-batch."""
    norms = {norm.output: norm for stage in stages for norm in stage.norms}
    batches = {name: _Batches(Moments.none(norm.stored.mean.size)) for name, norm in norms.items()}
    for done, chunk in enumerate(chunks, 1):
        for norm, moments in through(stages, chunk, None):
            _require_variance(norm, moments.count)
            batches[norm.output].see(moments)
        watch(0, done)
    measured = Measured()
    for name, seen in batches.items():
        measured.take(norms[name], *seen.statistics(pool), seen.whole.count)
    return measured


def through(stages: list[Stage], env: Env, fixed: dict[str, Statistics] | None) -> Iterable[tuple[Norm, Moments]]:
    """The moments at every norm as one chunk passes the whole model, normalized by `fixed` or else by itself."""
    statistics: dict[str, Statistics] = {}
    for stage in stages:
        env = stage.run(env, fixed if fixed is not None else statistics)
        for norm in stage.norms:
            moments = norm.moments(env[norm.source])
            yield norm, moments
            statistics[norm.output] = Statistics(moments.mean, moments.biased_variance)
        env = stage.left(env)


def agreeing(chunks: Iterable[Env], native: Layout, freed: Layout, batch: int) -> Iterator[Env]:
    """The chunks; with the first one it is made sure that a copy for any batch computes what the model does.

    Raises ModelProblem where two batches of the model's own size, run together, give something else.
    """
    for number, chunk in enumerate(chunks):
        parts = [{name: value[at : at + batch] for name, value in chunk.items()} for at in (0, batch)]
        halves = [part for part in parts if _rows(part) == batch] if not number else []
        if halves:
            both = {name: value[: batch * len(halves)] for name, value in chunk.items()}
            apart = zip(*(_seen(native, half) for half in halves), strict=True)
            for norm, wanted, together in zip(freed.norms, apart, _seen(freed, both), strict=True):
                _require_agreement(norm, Moments.merged(wanted), together, batch)
        yield chunk


def _rows(env: Env) -> int:
    return max((len(value) for value in env.values() if value.ndim), default=0)


def _seen(layout: Layout, env: Env) -> list[Moments]:
    """The moments at every norm, in the model as it is stored."""
    stored = {norm.output: norm.stored for norm in layout.norms}
    moments = {norm.output: moments for norm, moments in through(layout.stages, env, stored)}
    return [moments[norm.output] for norm in layout.norms]


def _require_agreement(norm: Norm, wanted: Moments, together: Moments, batch: int) -> None:
    spread = np.sqrt(wanted.biased_variance) + np.abs(wanted.mean) + norm.epsilon
    if wanted.count != together.count or (np.abs(wanted.mean - together.mean) > AGREEMENT * spread).any():
        raise ModelProblem(
            f"{norm.name} sees other values where the model, made for batches of {batch}, runs with another size",
            "Use --method sequential, which runs the model as it is; or export it with a dynamic batch.",
        )


AGREEMENT = 1e-3  # of the spread of a channel


def as_stored(norm: Norm, mean: Array, var: Array) -> Statistics:
    """Rounded once to the type of the statistics. Raises ModelProblem for what that cannot hold."""
    for name, value in (("mean", mean), ("variance", var)):
        result = rounded(value, norm.kind)[0]
        bad = int((~np.isfinite(result.astype(np.float64))).sum())
        if bad and not np.isfinite(value).all():
            raise ModelProblem(f"the {name} of {norm.name} is not a number in {bad} channels", FINITE_HINT)
        if bad:
            raise ModelProblem(
                f"the {name} of {norm.name} reaches {np.abs(value).max():.3g}, more than {norm.kind} can hold",
                "Export the model with float32 statistics.",
            )
    return Statistics(*(rounded(value, norm.kind)[0].astype(np.float64) for value in (mean, var)))


FINITE_HINT = "Does the data hold NaN or infinity, or values far from those the model was trained on?"


def _require_variance(norm: Norm, count: int) -> None:
    if count < 2:
        raise UsageProblem(
            f"{norm.name} sees {counted(count, 'value')} per channel, which has no variance",
            "Give more samples, or --batch-size.",
        )
