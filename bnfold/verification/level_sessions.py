"""The sessions of one level: of both models, of jittered copies and, where runs may differ, the original once more."""

from __future__ import annotations

import hashlib
import itertools
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import onnx
from onnx import TensorProto, helper

from ..process.child import stage
from ..runtime import providers, sessions
from ..runtime.copies import exposed, jittered
from ..runtime.detached import Skeleton
from ..runtime.inputs import shapes
from ..runtime.loading import for_onnxruntime
from ..runtime.placement import Placement, assigned, idle, placement, ran
from ..runtime.providers import QUICK, Way
from ..runtime.sessions import CannotRun
from .float64.windows import Array
from .isolate import cut_at, uncut
from .quantized.steps import Quantizer, changed_steps, quantizers
from .trial import JITTERS, LARGE_INPUT, Trial, trial_session

_numbers = itertools.count()  # sessions that start within a second would name their profiles alike
QUICK_KERNELS = "sessions took cuDNN's default kernels; with effort full it tries all out, as onnxruntime serves"
AS_SERVED = ": here in the two of optimization default"
FOLDED = "the folded model"
FEEDABLE = ("cpu", "cuda")  # of others, an engine is made for the shapes of inputs that are known
_FED_TYPES = [TensorProto.FLOAT, TensorProto.FLOAT16, TensorProto.DOUBLE, TensorProto.BOOL]
_FED_TYPES += [getattr(TensorProto, f"{sign}INT{bits}") for sign in ("", "U") for bits in (8, 16, 32, 64)]
ONNX_TYPES = {
    f"tensor({TensorProto.DataType.Name(kind).lower()})": kind for kind in _FED_TYPES
}  # of onnxruntime's names
MOVED = "the original with its constants moved by one unit of rounding"


@dataclass(frozen=True)
class LevelSessions:
    """Sessions that return the tensors `names`; all but `original` get the tensors `fed` from it, as inputs."""

    names: Sequence[str]
    original: Any
    folded: Any
    again: list[Any]
    still: Any  # the original where its conditioning is measured: on the CPU, or `original` itself
    jittered: list[Any]  # copies of it with constants moved
    level: str
    fed: frozenset[str] = frozenset()
    same: frozenset[str] = frozenset()  # those of `fed` that the fold did not change
    quantizers: Mapping[str, tuple[Quantizer, Quantizer]] = field(default_factory=dict)  # of the others

    def read(self, which: int) -> list[str]:
        """`names`, and what the quantizers that the fold changed read in the original (0) or the folded model (1)."""
        return list(dict.fromkeys([*self.names, *(pair[which].reads for pair in self.quantizers.values())]))

    def outputs(self, running: Any, names: Collection[str], values: Mapping[str, Array], label: str) -> dict[str, Any]:
        """The tensors `names` in one run of a session other than `original`, called `label`. Raises `CannotRun`."""
        stage(f"onnxruntime, running {label}")
        try:
            results = sessions.outputs(running, [uncut(name) if name in self.fed else name for name in names], values)
        except CannotRun as why:
            raise CannotRun(f"{label} does not run: {why}") from why
        return dict(zip(names, results, strict=True))


def open_sessions(trial: Trial, level: str, names: Sequence[str]) -> LevelSessions:
    """Sessions at a graph optimization `level` that return `names`; those of the two models record where nodes run.

    With effort `full` the two models run at the default level as they are served; every other session only measures
    errors, without cuDNN's search for the fastest kernels. The original is loaded once more where two sessions of it
    may differ, that is, where kernels are not deterministic.

    Raises `CannotRun` naming the model that does not load.
    """
    steps = [step for step in trial.steps if step in names] if level == "off" and trial.way.provider in FEEDABLE else []
    edited = changed_steps(trial.folded.graph, steps, trial.edits)
    changed = quantizers(trial.original.graph, trial.folded.graph, edited)
    ours, theirs = ([*names, *(pair[which].reads for pair in changed.values())] for which in (0, 1))
    original = exposed(trial.original, ours)
    if trial.way == Way("cuda") and level == "default":
        trial.notes.append(f"{QUICK_KERNELS}{AS_SERVED if trial.effort == 'full' else ''}")
    first = _load(trial, level, "the original", original, proved=True)
    inputs = _as_inputs(first, steps)
    again, folded = _fed(original, ours, inputs), _fed(exposed(trial.folded, theirs), theirs, inputs)
    return LevelSessions(
        names,
        first,
        _load(trial, level, FOLDED, folded, proved=True),
        [] if trial.way.careful else [_load(trial, level, "the original, loaded again,", again)],
        *_conditioning(trial, level, again, first, _copies(trial, names)),
        level,
        frozenset(inputs),
        frozenset(inputs.keys() - edited),
        changed,
    )


def _as_inputs(running: Any, steps: Sequence[str]) -> dict[str, onnx.ValueInfoProto]:
    """The outputs `steps` of a session as inputs of a model; those that are no tensors of numbers are left out."""
    kinds = {value.name: (ONNX_TYPES.get(value.type), len(value.shape)) for value in running.get_outputs()}
    known = ((step, *kinds[step]) for step in steps)
    return {
        step: helper.make_tensor_value_info(step, kind, [None] * rank if rank else None)
        for step, kind, rank in known
        if kind is not None
    }


def _fed(model: onnx.ModelProto, names: Sequence[str], inputs: Mapping[str, onnx.ValueInfoProto]) -> onnx.ModelProto:
    """The model, in which the tensors of `inputs` are inputs of the graph for the nodes that read them."""
    return cut_at(model, inputs, [uncut(name) if name in inputs else name for name in names]) if inputs else model


def _conditioning(
    trial: Trial, level: str, original: onnx.ModelProto, first: Any, copies: int
) -> tuple[Any, list[Any]]:
    """Sessions of the original and of jittered copies, on the CPU where it runs them: see `level_runs`."""
    here = not trial.on_cpu or (trial.way, level) == (Way(), "off")
    where, level = (trial, level) if here else (replace(trial, way=Way()), "off")
    still = first if here or not copies else _load(where, level, "the original", original)
    moved = (jittered(original, trial.seed + copy, trial.way.dropped_bits) for copy in range(copies))
    return still, [_load(where, level, MOVED, each) for each in moved]


def _copies(trial: Trial, names: Sequence[str]) -> int:
    """How many jittered copies to run: none where it is known how far they move the outputs.

    Few with TF32, where the original's own error is as large as what they show.
    """
    if trial.copies:
        return trial.copies
    if trial.moved and {*names} <= {*trial.outputs} and not trial.steps:
        return 0
    few = trial.elements >= LARGE_INPUT or not trial.way.careful
    return JITTERS[few]


def _load(trial: Trial, level: str, label: str, model: onnx.ModelProto, *, proved: bool = False) -> Any:
    """A session; one whose placement has to be `proved` writes a profile and keeps its engine for a later session.

    With effort `full` these are loaded at the default level as they are served, and search for the fastest kernels.
    """
    stage(f"onnxruntime, loading {label} with graph optimization {level}")
    loadable, search, profile = for_onnxruntime(model, trial.folder), QUICK, ""
    runs = [shapes(trial.original.graph, case, trial.sizes) for case in trial.planned]
    engine = providers.profile(trial.way, runs)
    if proved:
        search = "" if level == "default" and trial.effort == "full" else QUICK
        profile = f"{trial.folder}/ran{next(_numbers)}"
        engine |= providers.cached(trial.way, trial.folder, f"{digest(loadable)[:16]}-{level}")
    try:
        return trial_session(trial, loadable, level, providers.chain(trial.way, engine, search), profile)
    except CannotRun as why:
        raise CannotRun(f"{label} does not load with graph optimization {level}: {why}") from why


def digest(loadable: bytes | str | Skeleton) -> str:
    """The sha256 of a model as onnxruntime takes it; of a file without its external data."""
    if isinstance(loadable, Skeleton):
        return hashlib.sha256(loadable.model).hexdigest()
    return hashlib.sha256(loadable if isinstance(loadable, bytes) else Path(loadable).read_bytes()).hexdigest()


def placements(trial: Trial, runs: LevelSessions) -> list[Placement]:
    """Where the nodes of both models ran. Ends the profiles of their sessions."""
    return [
        placement_of(trial, "the original", trial.original, runs.original),
        placement_of(trial, FOLDED, trial.folded, runs.folded),
    ]


def placement_of(trial: Trial, label: str, model: onnx.ModelProto, running: Any) -> Placement:
    """Where the nodes of a model ran. Ends the profile of its session."""
    took = assigned(running), ran(sessions.finish(running))
    return placement(label, trial.way.name, trial.policy, *took, idle(model.graph))
