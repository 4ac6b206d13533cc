"""The sessions of one level: of both models, of jittered copies and, on a GPU, of the original once more."""

from __future__ import annotations

import hashlib
import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import onnx

from ..process.child import stage
from ..runtime import providers, sessions
from ..runtime.copies import exposed, jittered
from ..runtime.placement import Placement, assigned, idle, placement, ran
from ..runtime.providers import Shapes
from ..runtime.sessions import CannotRun
from .inputs import Case, shapes
from .loading import placed
from .trial import JITTERS, Trial, session

_numbers = itertools.count()  # sessions that start within a second would name their profiles alike
AGAIN = 2  # further sessions of the original, where each may choose other kernels
FOLDED = "the folded model"
MOVED = "the original with its constants moved by one unit of rounding"


@dataclass(frozen=True)
class Opened:
    """Sessions that return the same tensors."""

    original: Any
    folded: Any
    jittered: list[Any]
    again: list[Any]

    def others(self) -> list[tuple[str, Any]]:
        """All but the original, with what each is called."""
        moved = [("the original with its constants moved", each) for each in self.jittered]
        return [(FOLDED, self.folded), *moved, *(("the original, loaded again", each) for each in self.again)]


def opened(trial: Trial, level: str, names: Sequence[str], planned: Sequence[Case]) -> Opened:
    """Sessions at a graph optimization `level` that return `names`; the two models note where they run.

    Jittered copies are not needed where it is known how they move the outputs.

    Raises `CannotRun` naming the one that does not load.
    """
    runs = [shapes(trial.original.graph, case, trial.sizes) for case in planned]
    original, folded = exposed(trial.original, names), exposed(trial.folded, names)
    copies = 0 if trial.moved else next(count for limit, count in JITTERS if trial.elements < limit)
    return Opened(
        _load(trial, level, "the original", original, runs, proved=True),
        _load(trial, level, FOLDED, folded, runs, proved=True),
        [
            _load(trial, level, MOVED, jittered(original, trial.seed + copy, trial.way.dropped_bits), runs)
            for copy in range(copies)
        ],
        [_load(trial, level, "the original, loaded again,", original, runs) for _ in range(AGAIN * trial.way.gpu)],
    )


def _load(
    trial: Trial, level: str, label: str, model: onnx.ModelProto, runs: Sequence[Shapes], *, proved: bool = False
) -> Any:
    """A session whose placement is `proved` keeps its engine as well; the others build theirs anew, as others would."""
    stage(f"onnxruntime, loading {label} with graph optimization {level}")
    held = placed(model, trial.folder)
    engine, profile = providers.profile(trial.way, runs), ""
    if proved:
        profile = f"{trial.folder}/ran{next(_numbers)}"
        engine |= providers.cached(trial.way, trial.folder, f"{digest(held)[:16]}-{level}")
    try:
        return session(trial, held, level, providers.chain(trial.way, engine), profile)
    except CannotRun as why:
        raise CannotRun(f"{label} does not load with graph optimization {level}: {why}") from why


def digest(held: bytes | str) -> str:
    """The sha256 of a model as onnxruntime takes it; of a file without its external data, whose name is its own."""
    return hashlib.sha256(held if isinstance(held, bytes) else Path(held).read_bytes()).hexdigest()


def placements(trial: Trial, runs: Opened) -> list[Placement]:
    """Where both models ran, once all is run: ends their profiles."""
    return [
        placement(
            label,
            trial.way.name,
            trial.policy,
            assigned(running),
            ran(sessions.finish(running)),
            idle(model.graph),
        )
        for label, model, running in (
            ("the original", trial.original, runs.original),
            (FOLDED, trial.folded, runs.folded),
        )
    ]
