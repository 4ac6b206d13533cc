"""One input is run by every session of a level and by the oracle; the tally of each tensor takes the results in.

Among the sessions are copies of the original whose constants are moved by one unit of their last place: how far its
tensors move then, its conditioning, is what rounding does to a result. That is a property of the function and of the
unit, not of the kernels. So it is measured on the CPU with graph optimization off, for every provider and level:
constants move there by one unit of the provider's arithmetic (2^-10 for TF32), and each tensor of the provider's own
run is taken to move as far as the CPU's does. What this leaves out is how the provider rounds on the way, TF32
activations above all. That is in the original's own error, which is measured on the provider, and which the folded
model may have as well: of the two, the larger counts. So the limits get hardly wider, and a provider that is wrong, or
differs from run to run, cannot widen them. With TF32 emulated (16 networks, faults of 5 kinds) every verdict was the
same as with copies run on the provider, ratios 0.97 to 1.06 times as large. Only where the CPU does not run the
original are the copies run on the provider.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ..process.child import stage
from ..runtime import sessions
from ..runtime.inputs import Case
from .float64.floating import is_floating
from .float64.windows import Array
from .level_sessions import FOLDED, MOVED, LevelSessions
from .measure import Tally, is_unsteady
from .quantized.steps import Quantizer, either_neighbour, is_quantized, replace_codes
from .trial import Pairs, Trial, truth

Values = dict[str, Any]  # by the names of tensors


@dataclass(frozen=True)
class Runs:
    """What one input gives, each by the names of tensors.

    `moved` are the jittered copies, as far from `original` as they are from it on the CPU; `noise` is what other
    sessions of the original give, `on_cpu` what it gives there, to decide which run is wrong: None where that is not
    known, or is `original` itself.
    """

    true: Values
    original: Values
    folded: Values
    moved: list[Values]
    noise: list[Values]
    on_cpu: Values

    def replace_codes(self, quantizers: Mapping[str, tuple[Quantizer, Quantizer]]) -> None:
        """Instead of the codes of quantizers that the fold changed, the numbers that these round."""
        for name, (ours, theirs) in quantizers.items():
            for run in (self.true, self.original, *self.moved, *self.noise, self.on_cpu):
                run[name] = ours.of(run.get(ours.reads))
            self.folded[name] = theirs.of(self.folded[theirs.reads])

    def add_to(self, tally: Tally) -> None:
        """Add a tensor to its tally, if it is one in both models."""
        true, ours, theirs = (run.get(tally.name) for run in (self.true, self.original, self.folded))
        if isinstance(ours, np.ndarray) and isinstance(theirs, np.ndarray):
            known = true if isinstance(true, np.ndarray) and true.shape == ours.shape else None
            moved, noise = ([run[tally.name] for run in runs] for runs in (self.moved, self.noise))
            tally.add(known, ours, theirs, moved, noise, self.on_cpu[tally.name])


def run_original(running: LevelSessions, case: Case, values: Mapping[str, Array]) -> Values:
    """The tensors that the original computes of an input. Raises `CannotRun`."""
    stage(f"onnxruntime, running the original ({case})")
    ours = running.read(0)
    return dict(zip(ours, sessions.outputs(running.original, ours, values), strict=True))


def run_others(trial: Trial, running: LevelSessions, case: Case, values: Mapping[str, Array], original: Values) -> Runs:
    """All runs of an input of which the original has computed the tensors `original`."""
    codes = {name: value for name, value in original.items() if name in running.fed}
    fed = {**values, **codes}
    true = truth(trial, case, values, list(original), replace_codes(codes) if codes else None)
    folded = running.outputs(running.folded, running.read(1), fed, FOLDED)
    noise = [running.outputs(each, original, fed, "the original, loaded again") for each in running.again]
    pairs = _pairs(trial, running, case, fed, original)
    on_cpu = {name: pairs[name][0][0] if pairs.get(name) else None for name in original}
    on_cpu = {name: None if still is original[name] else still for name, still in on_cpu.items()}
    runs = Runs(true, original, folded, _transferred(pairs, original), noise, on_cpu)
    if running.level == "default" and trial.oracle and is_quantized(trial.original.graph):
        drawn = truth(trial, case, values, list(original), either_neighbour(trial.seed))
        runs.noise.append(_rounded_otherwise(runs, drawn))
    return runs


def _pairs(trial: Trial, running: LevelSessions, case: Case, values: Mapping[str, Array], original: Values) -> Pairs:
    """Each tensor in the original and in each jittered copy, where its conditioning is measured.

    Those of outputs are kept: they hold at every level.
    """
    if not running.jittered:
        return trial.moved.get(case, {})
    still = original
    if running.still is not running.original:
        still = running.outputs(running.still, original, values, "the original on the CPU")
    moved = [running.outputs(each, original, values, MOVED) for each in running.jittered]
    pairs = {name: [(still[name], run[name]) for run in moved] for name in original}
    trial.moved[case] = {name: pairs[name] for name in original if name in trial.outputs}
    return pairs


def _transferred(pairs: Pairs, original: Values) -> list[Values]:
    """The jittered copies, as far from `original` as the tensors of `pairs` are from each other.

    An output that no node makes does not move.
    """
    copies = max(map(len, pairs.values()), default=0)
    return [
        {name: _moved_alike(value, *pairs[name][i]) if name in pairs else value for name, value in original.items()}
        for i in range(copies)
    ]


def _moved_alike(value: Any, still: Any, moved: Any) -> Any:
    """`value + (moved - still)`; of integers and booleans the `moved` ones where they moved, else `value`."""
    if value is still or not isinstance(value, np.ndarray) or value.shape != still.shape:
        return moved
    if not is_floating(value):
        return np.where(moved == still, value, moved)
    with np.errstate(all="ignore"):
        return value + (moved.astype(np.float64) - still)


def _rounded_otherwise(runs: Runs, drawn: Values) -> Values:
    """The original, moved as the oracle moves when quantizers choose either neighbour: integer kernels may do so."""
    known = {name: value for name, value in runs.original.items() if isinstance(runs.true.get(name), np.ndarray)}
    moved = {name: _moved_alike(value, runs.true[name], drawn[name]) for name, value in known.items()}
    return {**runs.original, **moved}


def steady(trial: Trial, case: Case, names: Sequence[str], runs: Runs) -> int:
    """How many of `names`, in the order of the graph, come before the first that rounding alone moves too much."""
    for i, name in enumerate(names):
        value, moved = runs.original[name], [run[name] for run in runs.moved]
        if isinstance(value, np.ndarray) and is_unsteady(value, moved, trial.way.dropped_bits):
            trial.notes.append(f"{case}: rounding alone moves tensor {name!r} far: from there on other inputs count")
            return i
    return len(names)
