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
from ..runtime.inputs import Case, shapes
from ..runtime.loading import for_onnxruntime
from ..runtime.placement import Placement, assigned, idle, placement, ran
from ..runtime.providers import QUICK, Shapes, Way
from ..runtime.sessions import CannotRun
from .trial import JITTERS, LARGE, Trial, session

_numbers = itertools.count()  # sessions that start within a second would name their profiles alike
QUICK_KERNELS = "sessions took cuDNN's default kernels; with effort full it tries all out, as onnxruntime serves"
AS_SERVED = ": here in the two of optimization default"
FOLDED = "the folded model"
MOVED = "the original with its constants moved by one unit of rounding"


@dataclass(frozen=True)
class Opened:
    """Sessions that return the same tensors."""

    original: Any
    folded: Any
    jittered: list[Any]
    again: list[Any]
    on_cpu: Any = None  # the original, graph optimization off, where it is to decide who is wrong

    def others(self) -> list[tuple[str, Any]]:
        """All but the original, with what each is called."""
        moved = [("the original with its constants moved", each) for each in self.jittered]
        return [(FOLDED, self.folded), *moved, *(("the original, loaded again", each) for each in self.again)]


def opened(trial: Trial, level: str, names: Sequence[str], planned: Sequence[Case]) -> Opened:
    """Sessions at a graph optimization `level` that return `names`; the two models note where they run.

    With effort `full` the two models run at the default level as they are served; every other session only measures
    errors, and leaves the search for the fastest kernels out. Jittered copies are not needed where it is known how they
    move the outputs.

    Raises `CannotRun` naming the one that does not load.
    """
    runs = [shapes(trial.original.graph, case, trial.sizes) for case in planned]
    original, folded = exposed(trial.original, names), exposed(trial.folded, names)
    served = "" if level == "default" and trial.effort == "full" else QUICK
    if trial.way == Way("cuda") and level == "default":
        trial.notes.append(f"{QUICK_KERNELS}{'' if served else AS_SERVED}")
    return Opened(
        _load(trial, level, "the original", original, runs, served, proved=True),
        _load(trial, level, FOLDED, folded, runs, served, proved=True),
        [
            _load(trial, level, MOVED, jittered(original, trial.seed + copy, trial.way.dropped_bits), runs, QUICK)
            for copy in range(_copies(trial, names))
        ],
        [_load(trial, level, "the original, loaded again,", original, runs, QUICK)] if trial.way.gpu else [],
    )


def on_cpu(trial: Trial, names: Sequence[str]) -> Any:
    """A session of the original on the CPU, graph optimization off, that returns `names`. Raises `CannotRun`."""
    stage("onnxruntime, loading the original on the CPU")
    return session(trial, exposed(trial.original, names), "off", providers.chain(Way()))


def _copies(trial: Trial, names: Sequence[str]) -> int:
    """How many jittered copies there are; with TF32, the original's own error is as large as what they show."""
    if trial.moved and {*names} <= {*trial.outputs}:
        return 0
    few = trial.elements >= LARGE or not trial.way.careful
    return JITTERS[few]


def _load(
    trial: Trial,
    level: str,
    label: str,
    model: onnx.ModelProto,
    runs: Sequence[Shapes],
    search: str,
    *,
    proved: bool = False,
) -> Any:
    """A session whose placement is `proved` keeps its engine as well; the others build theirs anew, as others would."""
    stage(f"onnxruntime, loading {label} with graph optimization {level}")
    held = for_onnxruntime(model, trial.folder)
    engine, profile = providers.profile(trial.way, runs), ""
    if proved:
        profile = f"{trial.folder}/ran{next(_numbers)}"
        engine |= providers.cached(trial.way, trial.folder, f"{digest(held)[:16]}-{level}")
    try:
        return session(trial, held, level, providers.chain(trial.way, engine, search), profile)
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
