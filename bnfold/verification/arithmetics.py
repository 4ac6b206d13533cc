"""One trial for each arithmetic of a provider: what does not depend on the arithmetic is computed once."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace

from ..runtime.inputs import Case, shapes
from ..runtime.providers import Way
from .trial import WORK, Trial


def in_each(trial: Trial, maths: Sequence[str]) -> Iterator[Trial]:
    """The trial in each of `maths`: models, inputs and the float64 evaluation are shared, results are not."""
    inputs = min(len(trial.planned), max(1, WORK["fast"] // max(1, trial.elements)))
    small = trial.elements * inputs <= WORK["fast"]
    for number, math in enumerate(maths):
        own = replace(trial, way=Way(trial.way.provider, math), moved={}, seen={}, derived=[])
        own.notes, own.blocked = [*trial.notes], [*trial.blocked]
        own.keeps = small and number + 1 < len(maths)
        own.planned = _by_shape(own) if own.way.gpu else own.planned
        if number and trial.effort == "fast":
            own.planned = _of_one_shape(own)
        yield own


def _by_shape(trial: Trial) -> list[Case]:
    """The inputs of one shape after those of another: a GPU chooses its kernels anew whenever the shape changes."""
    by_case = {case: shapes(trial.original.graph, case, trial.sizes) for case in trial.planned}
    order = [*by_case.values()]
    return sorted(trial.planned, key=lambda case: order.index(by_case[case]))


def _of_one_shape(trial: Trial) -> list[Case]:
    """The inputs of the shapes of the first, and all that the options name; the first arithmetic has run the others."""
    graph, first = trial.original.graph, shapes(trial.original.graph, trial.planned[0], trial.sizes)
    kept = [c for c in trial.planned if c.path or c.sizes or shapes(graph, c, trial.sizes) == first]
    if len(kept) < len(trial.planned):
        trial.notes.append(f"{len(kept)} of {len(trial.planned)} inputs, those of one shape, were used, to save time")
    return kept
