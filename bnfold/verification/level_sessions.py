"""The sessions of one level: of both models, of jittered copies and, where runs may differ, of the original again."""

from __future__ import annotations

import hashlib
import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import onnx

from ..process.child import stage
from ..runtime import providers, sessions
from ..runtime.copies import exposed, jittered
from ..runtime.detached import Skeleton
from ..runtime.inputs import Case, shapes
from ..runtime.loading import for_onnxruntime
from ..runtime.placement import Placement, assigned, idle, placement, ran
from ..runtime.providers import QUICK, Shapes, Way
from ..runtime.sessions import CannotRun
from .trial import JITTERS, LARGE, Trial, session
from .windows import Array

_numbers = itertools.count()  # sessions that start within a second would name their profiles alike
QUICK_KERNELS = "sessions took cuDNN's default kernels; with effort full it tries all out, as onnxruntime serves"
AS_SERVED = ": here in the two of optimization default"
FOLDED = "the folded model"
MOVED = "the original with its constants moved by one unit of rounding"


@dataclass(frozen=True)
class LevelSessions:
    """Sessions that return the same tensors."""

    original: Any
    folded: Any
    again: list[Any]
    still: Any  # the original where its conditioning is measured: on the CPU, or `original` itself
    jittered: list[Any]  # copies of it with constants moved


def open_sessions(trial: Trial, level: str, names: Sequence[str], planned: Sequence[Case]) -> LevelSessions:
    """Sessions at a graph optimization `level` that return `names`; the two models note where they run.

    With effort `full` the two models run at the default level as they are served; every other session only measures
    errors, and leaves the search for the fastest kernels out. The original is loaded again where the next session may
    compute something else: not with deterministic kernels.

    Raises `CannotRun` naming the one that does not load.
    """
    runs = [shapes(trial.original.graph, case, trial.sizes) for case in planned]
    original, folded = exposed(trial.original, names), exposed(trial.folded, names)
    served = "" if level == "default" and trial.effort == "full" else QUICK
    if trial.way == Way("cuda") and level == "default":
        trial.notes.append(f"{QUICK_KERNELS}{'' if served else AS_SERVED}")
    first = _load(trial, level, "the original", original, runs, served, proved=True)
    return LevelSessions(
        first,
        _load(trial, level, FOLDED, folded, runs, served, proved=True),
        [] if trial.way.careful else [_load(trial, level, "the original, loaded again,", original, runs, QUICK)],
        *_conditioning(trial, level, original, first, runs, _copies(trial, names)),
    )


def _conditioning(
    trial: Trial, level: str, original: onnx.ModelProto, first: Any, runs: Sequence[Shapes], copies: int
) -> tuple[Any, list[Any]]:
    """Sessions of the original and of jittered copies, on the CPU where it runs them: see `conditioning`."""
    here = not trial.on_cpu or (trial.way, level) == (Way(), "off")
    where, level = (trial, level) if here else (replace(trial, way=Way()), "off")
    still = first if here or not copies else _load(where, level, "the original", original, runs, QUICK)
    moved = (jittered(original, trial.seed + copy, trial.way.dropped_bits) for copy in range(copies))
    return still, [_load(where, level, MOVED, each, runs, QUICK) for each in moved]


def outputs(running: Any, names: Sequence[str], values: Mapping[str, Array], label: str) -> list[Any]:
    """One run of the session that `label` names. Raises `CannotRun`."""
    stage(f"onnxruntime, running {label}")
    try:
        return sessions.outputs(running, names, values)
    except CannotRun as why:
        raise CannotRun(f"{label} does not run: {why}") from why


def _copies(trial: Trial, names: Sequence[str]) -> int:
    """How many jittered copies there are, none where it is known how they move the outputs.

    With TF32, the original's own error is as large as what they show.
    """
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


def digest(held: bytes | str | Skeleton) -> str:
    """The sha256 of a model as onnxruntime takes it; of a file without its external data, whose name is its own."""
    if isinstance(held, Skeleton):
        return hashlib.sha256(held.model).hexdigest()
    return hashlib.sha256(held if isinstance(held, bytes) else Path(held).read_bytes()).hexdigest()


def placements(trial: Trial, runs: LevelSessions) -> list[Placement]:
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
