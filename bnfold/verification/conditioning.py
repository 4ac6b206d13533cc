"""How far the original's tensors move when its constants move by one unit of their last place: its conditioning.

That is a property of the function and of the unit, not of the kernels. So it is measured on the CPU with graph
optimization off, for every provider and level: constants move there by one unit of the provider's arithmetic (2^-10 for
TF32), and each tensor of the provider's own run is taken to move as far as the CPU's does. What this leaves out is how
the provider rounds on the way, TF32 activations above all. That is in the original's own error, which is measured on
the provider, and which the folded model may have as well: of the two, the larger counts. So the limits get hardly wider
and a provider that is wrong, or differs from run to run, cannot widen them. With TF32 emulated (16 networks,
faults of 5 kinds) every verdict was the same as with copies run on the provider, ratios 0.97 to 1.06 times as large.
Only where the CPU does not run the original are the copies run on the provider.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from ..runtime.inputs import Case
from .float64.floating import is_floating
from .float64.windows import Array
from .level_sessions import MOVED, LevelSessions
from .measure import is_unsteady
from .trial import Pairs, Trial


def measured(
    trial: Trial,
    running: LevelSessions,
    case: Case,
    values: Mapping[str, Array],
    names: Sequence[str],
    first: Sequence[Any],
) -> Pairs:
    """Each tensor of `names` in the original and in each jittered copy, on one input; those of outputs are kept.

    `first` is what the original computed on the provider.
    """
    if not running.jittered:
        return trial.moved.get(case, {})
    here = running.still is running.original
    still = first if here else running.outputs(running.still, names, values, "the original on the CPU")
    moved = [running.outputs(each, names, values, MOVED) for each in running.jittered]
    pairs = {name: [(still[i], run[i]) for run in moved] for i, name in enumerate(names)}
    trial.moved[case] = {name: pairs[name] for name in names if name in trial.outputs}
    return pairs


def transferred(pairs: Pairs, names: Sequence[str], original: Sequence[Any]) -> list[list[Any]]:
    """The tensors of each jittered copy, as far from `original` as those of `pairs` are from each other.

    An output that no node makes does not move.
    """
    copies = max(map(len, pairs.values()), default=0)
    still = zip(names, original, strict=True)
    moved = (
        [moved_alike(value, *pair) for pair in pairs.get(name, [(value, value)] * copies)] for name, value in still
    )
    return [list(run) for run in zip(*moved, strict=True)]


def moved_alike(value: Any, still: Any, moved: Any) -> Any:
    """`value + (moved - still)`; of integers and booleans the `moved` ones where they moved, else `value`."""
    if value is still or not isinstance(value, np.ndarray) or value.shape != still.shape:
        return moved
    if not is_floating(value):
        return np.where(moved == still, value, moved)
    with np.errstate(all="ignore"):
        return value + (moved.astype(np.float64) - still)


def arbiters(pairs: Pairs, names: Sequence[str], original: Sequence[Any]) -> list[Any]:
    """The original's tensors on the CPU, to decide which run is wrong; None where unknown, or `original` itself."""
    on_cpu = (pairs[name][0][0] if pairs.get(name) else None for name in names)
    return [None if still is value else still for still, value in zip(on_cpu, original, strict=True)]


def steady(
    trial: Trial, case: Case, names: Sequence[str], original: Sequence[Any], jittered: Sequence[Sequence[Any]]
) -> int:
    """How many of `names`, in the order of the graph, come before the first that rounding alone moves too much."""
    for i, name in enumerate(names):
        moved = [run[i] for run in jittered]
        if isinstance(original[i], np.ndarray) and is_unsteady(original[i], moved, trial.way.dropped_bits):
            trial.notes.append(f"{case}: rounding alone moves tensor {name!r} far: from there on other inputs count")
            return i
    return len(names)
