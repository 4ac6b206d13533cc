"""One input is run by every session of a level and by the oracle; the tally of each tensor takes the results in."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from ..process.child import stage
from ..runtime import sessions
from ..runtime.inputs import Case
from .conditioning import arbiters, measured, moved_alike, steady, transferred
from .float64.windows import Array
from .level_sessions import FOLDED, LevelSessions
from .measure import Tally
from .quantized.steps import either_neighbour, is_quantized, replace_codes
from .trial import Trial, truth

Tallies = tuple[Mapping[str, Tally], Mapping[str, Tally]]  # of steady inputs; of others, used where none is steady
Values = dict[str, Any]  # by the names of tensors


def run_original(running: LevelSessions, names: Sequence[str], case: Case, values: Mapping[str, Array]) -> Values:
    """The tensors that the original computes of an input. Raises `CannotRun`."""
    stage(f"onnxruntime, running the original ({case})")
    ours = running.read(names, 0)
    return dict(zip(ours, sessions.outputs(running.original, ours, values), strict=True))


def add_run(
    trial: Trial, running: LevelSessions, tallies: Tallies, case: Case, values: Mapping[str, Array], first: Values
) -> None:
    """Run everything else on the input of which the original has computed `first`, and add it to the tallies."""
    names = list(tallies[0])
    ours, theirs = list(first), running.read(names, 1)
    codes = {name: first[name] for name in ours if name in running.fed}
    true, fed = truth(trial, case, values, ours, replace_codes(codes) if codes else None), {**values, **codes}
    folded = dict(zip(theirs, running.outputs(running.folded, theirs, fed, FOLDED), strict=True))
    again = [running.outputs(each, ours, fed, "the original, loaded again") for each in running.again]
    pairs = measured(trial, running, case, fed, ours, list(first.values()))
    moved, on_cpu = (make(pairs, ours, list(first.values())) for make in (transferred, arbiters))
    until = steady(trial, case, names, list(first.values()), moved)
    noise = [dict(zip(ours, run, strict=True)) for run in again] + _neighbours(
        trial, running, case, values, first, true
    )
    others = [dict(zip(ours, run, strict=True)) for run in moved], noise
    runs = _rounded(running, true, first, folded, *others, dict(zip(ours, on_cpu, strict=True)))
    for i, name in enumerate(names):
        _add(tallies[i >= until][name], name, *runs)
    trial.seen = trial.seen or {n: first[n] for n in names if isinstance(first[n], np.ndarray)}


def _add(
    tally: Tally,
    name: str,
    true: Values,
    first: Values,
    folded: Values,
    moved: Sequence[Values],
    noise: Sequence[Values],
    on_cpu: Values,
) -> None:
    ours, value = first[name], true.get(name)
    if isinstance(ours, np.ndarray) and isinstance(folded[name], np.ndarray):
        known = isinstance(value, np.ndarray) and value.shape == ours.shape
        spread, differing = ([run[name] for run in runs] for runs in (moved, noise))
        tally.add(value if known else None, ours, folded[name], spread, differing, on_cpu[name])


def _rounded(running: LevelSessions, true: Values, first: Values, folded: Values, *others: Any) -> tuple[Any, ...]:
    """The same runs, in which codes of quantizers that the fold changed are replaced by the numbers that these round.

    `others`: the jittered runs, those of noise, and the one on the CPU.
    """
    *lists, on_cpu = others
    for name, (ours, theirs) in running.quantizers.items():
        for run in (true, first, *(run for runs in lists for run in runs), on_cpu):
            run[name] = ours.of(run.get(ours.reads))
        folded[name] = theirs.of(folded[theirs.reads])
    return true, first, folded, *lists, on_cpu


def _neighbours(
    trial: Trial, running: LevelSessions, case: Case, values: Mapping[str, Array], first: Values, true: Values
) -> list[Values]:
    """At the default level onnxruntime may round to either neighbouring step: one such run of the oracle, as noise."""
    if running.level == "off" or not trial.oracle or not is_quantized(trial.original.graph):
        return []
    drawn = truth(trial, case, values, list(first), either_neighbour(trial.seed))
    known = {name: value for name, value in first.items() if isinstance(true.get(name), np.ndarray)}
    return [{**first, **{name: moved_alike(value, true[name], drawn[name]) for name, value in known.items()}}]
