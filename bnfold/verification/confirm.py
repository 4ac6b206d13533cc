"""The short answer to whether two models compute the same: a proof of all fold sites, and runs that confirm it.

The proof is about the files. What it cannot see is whether onnxruntime does with the folded model what its file says.
So the original runs once as it is written, and the folded model as written and as it is served, on one input. The
outputs have to agree to the square root of the unit roundoff: further apart, errors do not grow in proportion any more
(see `measure.is_unsteady`). Where anything is open, or disagrees, there is no short answer: only a comparison of the
whole networks gives a verdict (`comparison`).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np
import onnx
from onnx.inliner import inline_local_functions

from ..process.child import stage
from ..runtime import detached, providers, sessions
from ..runtime.copies import exposed
from ..runtime.inputs import CannotFeed, Case, feeds, shapes
from ..runtime.placement import Placement
from ..runtime.protos import produced
from ..runtime.providers import QUICK, Way
from ..runtime.sessions import CannotRun
from .choosing import cases_to_try
from .float64.windows import Array
from .interface import declared_otherwise
from .level_results import ORIGINAL
from .level_sessions import FOLDED, placement_of
from .measure import Row, Tally
from .proof.algebra import Pair
from .proof.examples import examples
from .proof.induction import Induction
from .regions import edited
from .results import Derived, Influence
from .tensor_records import record
from .trial import Trial, trial_session


@dataclass(frozen=True)
class Run:
    """The outputs of one model on the inputs `values` of a case, and where its nodes ran."""

    case: Case
    values: Mapping[str, Array]
    outputs: list[Any]
    placed: Placement


def confirmed(trial: Trial, levels: Sequence[str], maths: Sequence[str]) -> list[dict[str, Any]] | None:
    """An answer for each of `maths`, as `comparison.compare` gives them; None where there is no short answer."""
    if (
        detached.length(trial.original) > detached.WHOLE_UP_TO
    ):  # onnxruntime's default level takes several times its memory
        return None
    if trial.effort != "fast" or trial.late or any(case.path or case.sizes for case in trial.planned):
        return None
    first = _first_run(replace(trial, way=Way()))
    derived = _proof(trial, first.values) if first else None
    if first is None or derived is None:
        return None
    outputs = dict(zip(trial.outputs, first.outputs, strict=True))
    if any(declared_otherwise(trial.original.graph, trial.folded.graph, outputs)):
        return None
    answers = []
    for math_ in maths:
        own = replace(trial, way=Way(trial.way.provider, math_), notes=[*trial.notes])
        reports = _reports(own, levels, first)
        if reports is None:
            return None
        answer = {"levels": reports, "derived": [*map(asdict, derived)], "blocked": [], "notes": own.notes}
        whole = Influence(proved=all(site.proved for site in derived))
        answers.append({**answer, "influence": [asdict(whole)]})
    return answers


def _proof(trial: Trial, values: Mapping[str, Array]) -> list[Derived] | None:
    """Every fold site, derived for all inputs; None if one of them is not."""
    stage("the algebra of the fold sites")
    original, folded = trial.original, trial.folded
    if original.functions or folded.functions:
        original, folded = inline_local_functions(original), inline_local_functions(folded)
    edits = edited(original, folded)
    pair = Pair(original, folded, _examples(trial, original, values, edits))
    known = Induction(pair, edits, lambda name: False).run()
    return None if known.open_tensors() else [site for site in known.derived if site.name in known.same]


def _examples(trial: Trial, model: onnx.ModelProto, values: Mapping[str, Array], edits: set[str]) -> dict[str, Array]:
    """An example of each tensor that inference knows, and of those about the edited ones as onnxruntime makes them."""
    known, makers = examples(model, values), produced(model.graph)
    about = edits.union(*(makers[name].input for name in edits if name in makers)) & makers.keys()
    missing = sorted(about - known.keys())
    if missing:
        with suppress(CannotRun):
            running = trial_session(replace(trial, way=Way()), exposed(model, missing), "off", providers.chain(Way()))
            tensors = zip(missing, sessions.outputs(running, missing, values), strict=True)
            known.update((name, value) for name, value in tensors if isinstance(value, np.ndarray))
    return known


def _first_run(trial: Trial) -> Run | None:
    """The original as it is written, on the CPU, with the first sizes that it takes; None if it takes none."""
    model, label = trial.original, "the original"
    try:
        running = _open(trial, model, label, "off")
    except CannotRun:
        return None
    for case, sizes in cases_to_try(trial):
        try:
            values = feeds(model.graph, case, sizes)
            outputs = sessions.outputs(running, trial.outputs, values)
            return Run(case, values, outputs, placement_of(trial, label, model, running))
        except (CannotRun, CannotFeed):
            continue
    return None


def _reports(trial: Trial, levels: Sequence[str], first: Run) -> list[dict[str, Any]] | None:
    """What every level shows; None if one shows a difference, or outputs that could show none."""
    try:
        original = _run(trial, trial.original, "the original", "off", first) if trial.way.gpu else first
        reports = [_report(trial, level, original, _run(trial, trial.folded, FOLDED, level, first)) for level in levels]
    except CannotRun:
        return None
    tensors = [tensor for report in reports for tensor in report["tensors"]]
    agree = all(tensor["ok"] for tensor in tensors) and not all(tensor["constant"] for tensor in tensors)
    return reports if agree else None


def _report(trial: Trial, level: str, original: Run, folded: Run) -> dict[str, Any]:
    return {
        "level": level,
        "ran": True,
        "why": "",
        "broken": False,
        "same_graph": False,
        "reference": ORIGINAL,
        "provider": trial.way.provider,
        "math": trial.way.math,
        "cases": [str(original.case)],
        "tensors": _compared(trial, original, folded),
        "placements": [asdict(run.placed) for run in (original, folded)],
    }


def _run(trial: Trial, model: onnx.ModelProto, label: str, level: str, like: Run) -> Run:
    """One run on the inputs of another. Raises CannotRun."""
    running = _open(trial, model, label, level, like.case)
    outputs = sessions.outputs(running, trial.outputs, like.values)
    return Run(like.case, like.values, outputs, placement_of(trial, label, model, running))


def _open(trial: Trial, model: onnx.ModelProto, label: str, level: str, *cases: Case) -> Any:
    """A session that notes where it runs; an engine is made for the shapes of `cases`. Raises CannotRun."""
    stage(f"onnxruntime, running {label} with graph optimization {level}")
    engine = providers.profile(trial.way, [shapes(trial.original.graph, case, trial.sizes) for case in cases])
    chain = providers.chain(trial.way, engine, QUICK)
    return trial_session(trial, model, level, chain, f"{trial.folder}/{label.split()[1]}-{level}-{trial.way.math}")


def _compared(trial: Trial, original: Run, folded: Run) -> list[dict[str, Any]]:
    """A record of every output: its error is the distance between the models, in unit roundoffs.

    Raises CannotRun for an output that is not a tensor.
    """
    makers, records = produced(trial.original.graph), []
    for name, ours, theirs in zip(trial.outputs, original.outputs, folded.outputs, strict=True):
        if not isinstance(ours, np.ndarray) or not isinstance(theirs, np.ndarray):
            raise CannotRun(f"output {name!r} is no tensor")
        tally = Tally(name, dropped=trial.way.dropped_bits)
        tally.add(None, ours, theirs, [])
        entry = record(tally, makers[name].op_type if name in makers else "", True, False)
        limit = 1 / math.sqrt(tally.roundoff)
        sound = tally.usable and not (tally.broken or tally.flips[Row.DRIFT]) and entry["ratio"] <= limit
        records.append({**entry, "moved": False, "by_channel": None, "limit": limit, "ok": sound})
    return records
