"""The short answer to whether two models compute the same: a proof of all fold sites, and runs that confirm it.

The proof is about the files. What it cannot see is whether onnxruntime does with the folded model what its file says.
So the original runs once as it is written, and the folded model as written and as it is served, on one input of each
size that was asked for. The outputs have to agree to the square root of the unit roundoff: further apart, errors do not
grow in proportion any more (see `measure.is_unsteady`). Unless the original moves as far where its constants move by
one unit of their last place: then rounding explains it. Where anything is open, or disagrees, there is no short answer:
only a comparison of the whole networks gives a verdict (`comparison`).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np
import onnx
from onnx.inliner import inline_local_functions

from ..process.child import stage
from ..runtime import providers, sessions
from ..runtime.copies import exposed, jittered
from ..runtime.dimensions import dynamic
from ..runtime.inputs import CannotFeed, Case, feeds, shapes
from ..runtime.loading import with_constants
from ..runtime.placement import Placement
from ..runtime.protos import produced
from ..runtime.providers import QUICK, Way
from ..runtime.sessions import CannotRun
from .choosing import cases_to_try
from .float64.floating import is_floating, roundoff
from .float64.windows import Array
from .influence.least_sizes import suspects
from .interface import declared_otherwise
from .level_results import ORIGINAL, Compared, Level
from .level_sessions import FOLDED, MOVED, placement_of
from .measure import OUTPUT_LIMIT, Row, Tally
from .proof.algebra import Pair
from .proof.examples import examples
from .proof.induction import Induction
from .regions import BOUNDED, edited
from .results import Derived, Influence, Numbers
from .tensor_records import record
from .trial import Trial, trial_session

COPIES = 2  # of the original, whose constants are moved, where a distance has to be explained


@dataclass(frozen=True)
class Fed:
    """The inputs of a case: values of the sizes that the original runs with."""

    case: Case
    values: Mapping[str, Array]


@dataclass(frozen=True)
class Run:
    """The outputs of one model for each of several inputs, and where its nodes ran."""

    outputs: list[list[Any]]
    placed: Placement


def confirmed(trial: Trial, levels: Sequence[str], maths: Sequence[str]) -> list[Numbers] | None:
    """The result for each of `maths`; None where there is no short answer."""
    if trial.effort != "fast" or trial.late or any(case.path for case in trial.planned):
        return None
    inputs = _inputs(replace(trial, way=Way()))
    if inputs is None:
        return None
    fed, original = inputs
    if any(suspects(trial.original, trial.folded, fed[0].values)):
        return None
    derived = _proof(trial, fed[0].values)
    if derived is None or any(map(partial(_is_declared_otherwise, trial), original.outputs)):
        return None
    answers = []
    for math_ in maths:
        own = replace(trial, way=Way(trial.way.provider, math_), notes=[*trial.notes])
        reports = _reports(own, levels, fed, original)
        if reports is None:
            return None
        whole = Influence(proved=all(site.proved for site in derived))
        answers.append(Numbers(tuple(reports), (), tuple(own.notes), tuple(derived), (whole,)))
    return answers


def _is_declared_otherwise(trial: Trial, outputs: Sequence[Any]) -> bool:
    made = dict(zip(trial.outputs, outputs, strict=True))
    return any(declared_otherwise(trial.original.graph, trial.folded.graph, made))


def _proof(trial: Trial, values: Mapping[str, Array]) -> list[Derived] | None:
    """Every fold site, derived for all inputs; None if one of them is not."""
    stage("the algebra of the fold sites")
    original, folded, edits = trial.original, trial.folded, trial.edits
    if original.functions or folded.functions:
        original, folded = inline_local_functions(original), inline_local_functions(folded)
        edits = edited(original, folded)
    pair = Pair(original, folded, _examples(trial, (original, folded), values, edits))
    known = Induction(pair, edits, lambda name: False).run()
    return None if known.open_tensors() else [site for site in known.derived if site.name in known.same]


def _examples(
    trial: Trial, models: Sequence[onnx.ModelProto], values: Mapping[str, Array], edits: set[str]
) -> dict[str, Array]:
    """Of the original an example of each tensor that inference knows; of those about edits as it makes them."""
    model, makers = models[0], [produced(each.graph) for each in models]
    known = examples(model, values)
    about = edits.union(*(each[name].input for each in makers for name in edits if name in each))
    if missing := sorted(about & makers[0].keys() - known.keys()):
        with suppress(CannotRun):
            running = trial_session(replace(trial, way=Way()), exposed(model, missing), "off", providers.chain(Way()))
            tensors = zip(missing, sessions.outputs(running, missing, values), strict=True)
            known.update((name, value) for name, value in tensors if isinstance(value, np.ndarray))
    return known


def _inputs(trial: Trial) -> tuple[list[Fed], Run] | None:
    """Inputs for each choice of sizes, and the outputs of the original for them: as it is written, on the CPU.

    One input that makes outputs in which something can be seen or, without such, all that are planned. None where the
    original does not run.
    """
    try:
        running = _open(trial, trial.original, "the original", "off")
    except CannotRun:
        return None
    planned: dict[object, list[Case]] = {}
    for case in trial.planned:
        planned.setdefault(case.sizes, []).append(case)
    runs = [run for cases in planned.values() for run in _runs_that_vary(trial, running, cases)]
    if len({fed.case.sizes for fed, _ in runs}) < len(planned):
        return None
    placed = placement_of(trial, "the original", trial.original, running)
    return [fed for fed, _ in runs], Run([outputs for _, outputs in runs], placed)


def _runs_that_vary(trial: Trial, running: Any, planned: Sequence[Case]) -> list[tuple[Fed, list[Any]]]:
    """The first run whose outputs vary by more than errors may; else all, of which each may have other outputs."""
    runs, makers = [], produced(trial.original.graph)
    bounded = [name in makers and makers[name].op_type in BOUNDED for name in trial.outputs]
    for case in planned:
        if run := _first_run(replace(trial, planned=[case]), running):
            runs.append(run)
            if any(map(_varies, run[1], bounded)):
                return [run]
    return runs


def _varies(output: Any, bounded: bool) -> bool:
    """Whether it varies by more than the square root of the unit roundoff, of its values or of its bound."""
    if not isinstance(output, np.ndarray) or output.size < 2:
        return False
    if not is_floating(output):
        return bool((output != output.flat[0]).any())
    low, high = float(output.min()), float(output.max())
    return high - low > math.sqrt(roundoff(output.dtype)) * max(abs(low), abs(high), float(bounded))


def _first_run(trial: Trial, running: Any) -> tuple[Fed, list[Any]] | None:
    """The first case, with the first sizes that the original takes; None if it takes none."""
    for case, sizes in cases_to_try(trial):
        with suppress(CannotRun, CannotFeed):
            values = feeds(trial.original.graph, case, sizes)
            return Fed(case, values), sessions.outputs(running, trial.outputs, values)
    return None


def _reports(trial: Trial, levels: Sequence[str], fed: Sequence[Fed], first: Run) -> list[Level] | None:
    """What every level shows; None if one shows a difference, or outputs that might show one with other sizes."""
    try:
        original = _run(trial, trial.original, "the original", "off", fed) if trial.way.gpu else first
        reports = [_report(trial, level, fed, original) for level in levels]
    except CannotRun:
        return None
    tensors = [tensor for report in reports for tensor in report.tensors]
    may_vary = dynamic(trial.original.graph) and all(tensor.constant for tensor in tensors)
    return reports if all(tensor.ok for tensor in tensors) and not may_vary else None


def _report(trial: Trial, level: str, fed: Sequence[Fed], original: Run) -> Level:
    folded = _run(trial, trial.folded, FOLDED, level, fed)
    return Level(
        level,
        ran=True,
        cases=tuple(str(each.case) for each in fed),
        tensors=_compared(trial, fed, original, folded),
        provider=trial.way.provider,
        math=trial.way.math,
        reference=ORIGINAL,
        placements=(original.placed, folded.placed),
    )


def _run(trial: Trial, model: onnx.ModelProto, label: str, level: str, fed: Sequence[Fed]) -> Run:
    """A model, run on several inputs. Raises CannotRun."""
    running = _open(trial, model, label, level, *(each.case for each in fed))
    outputs = [sessions.outputs(running, trial.outputs, each.values) for each in fed]
    return Run(outputs, placement_of(trial, label, model, running))


def _open(trial: Trial, model: onnx.ModelProto, label: str, level: str, *cases: Case) -> Any:
    """A session that notes where it runs; an engine is made for the shapes of `cases`. Raises CannotRun."""
    stage(f"onnxruntime, running {label} with graph optimization {level}")
    engine = providers.profile(trial.way, [shapes(trial.original.graph, case, trial.sizes) for case in cases])
    chain = providers.chain(trial.way, engine, QUICK)
    if level == "off":  # constants are read where they lie, and not laid out anew for many runs
        trial = replace(trial, files={})
    elif id(model) not in trial.files:
        whole = onnx.ModelProto()
        whole.CopyFrom(model)
        model = with_constants(whole)
    return trial_session(trial, model, level, chain, f"{trial.folder}/{label.split()[1]}-{level}-{trial.way.math}")


def _compared(trial: Trial, fed: Sequence[Fed], original: Run, folded: Run) -> tuple[Compared, ...]:
    """A record of every output: its error is the distance between the models, in unit roundoffs.

    Where that is too large, in the distance that rounding moves the original. Raises CannotRun for an output that is
    not a tensor.
    """
    records = [_record(trial, i, [original, folded]) for i in range(len(trial.outputs))]
    if trial.way.gpu or all(entry.ok for entry in records):
        return tuple(records)
    moved = [_jittered(trial, fed, copy) for copy in range(COPIES)]
    runs = [original, folded, *moved]
    return tuple(entry if entry.ok else _record(trial, i, runs) for i, entry in enumerate(records))


def _jittered(trial: Trial, fed: Sequence[Fed], copy: int) -> Run:
    """The original as it is written, but for constants that are moved by one unit of their last place."""
    return _run(trial, jittered(trial.original, trial.seed + copy), MOVED, "off", fed)


def _record(trial: Trial, place: int, runs: Sequence[Run]) -> Compared:
    """Of the output at a `place`; `runs` are of the original, of the folded model, of jittered copies of the former."""
    name, makers = trial.outputs[place], produced(trial.original.graph)
    tally = Tally(name, dropped=trial.way.dropped_bits)
    for ours, theirs, *moved in zip(*([outputs[place] for outputs in run.outputs] for run in runs), strict=True):
        if not isinstance(ours, np.ndarray) or not isinstance(theirs, np.ndarray):
            raise CannotRun(f"output {name!r} is no tensor")
        tally.add(None, ours, theirs, moved)
    entry = record(tally, makers[name].op_type if name in makers else "", True, False)
    limit = OUTPUT_LIMIT if runs[2:] else 1 / math.sqrt(tally.roundoff)
    broken = tally.broken or tally.flips[Row.DRIFT] or not tally.clear
    sound = tally.usable and not broken and entry.ratio <= limit
    return replace(entry, moved=False, by_channel=None, limit=limit, ok=sound)
