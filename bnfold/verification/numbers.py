"""The numeric tier, run in a child: both models on onnxruntime against the float64 oracle, tensor by tensor."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import onnx

from . import sessions
from .child import stage
from .copies import exposed, jittered
from .inputs import Case, cases, feeds
from .isolate import isolated
from .loading import placed
from .measure import Tally, is_unsteady
from .oracle import CannotEvaluate
from .protos import produced
from .records import record
from .regions import shape_of_graph, undone
from .sessions import CannotRun
from .trial import JITTERS, SMALL, WORK, Trial, prepared, session, sized, truth
from .windows import Array

BOUNDED = frozenset(["Sigmoid", "HardSigmoid", "Softmax", "Tanh", "Erf", "Softsign", "Sin", "Cos"])


def compare(request: Mapping[str, Any]) -> dict[str, Any]:
    """Compare `request["original"]` with `request["folded"]` (paths) at `request["levels"]`; see `verify`."""
    with TemporaryDirectory(prefix="bnfold-") as folder:
        trial = prepared(request, folder)
        found = list(_levels(trial, request["levels"])) if sized(trial) else []
    return {"levels": found, "blocked": trial.blocked, "notes": list(dict.fromkeys(trial.notes))}


def _levels(trial: Trial, levels: Sequence[str]) -> Iterator[dict[str, Any]]:
    """The levels asked for; after `off`, if it found nothing wrong, the fold sites once more on their own."""
    for level in levels:
        report = _level(trial, level, trial.names if level == "off" else trial.outputs)
        yield report
        if level == "off" and report["ran"] and all(entry["ok"] for entry in report["tensors"]):
            yield from _alone(trial, {entry["name"] for entry in report["tensors"] if not entry["moved"]})


def _alone(trial: Trial, good: set[str]) -> Iterator[dict[str, Any]]:
    stage("the fold sites, cut out")
    try:
        pieces = isolated(trial, good)
    except CannotEvaluate as why:
        trial.notes.append(f"the fold sites were not compared on their own: {why}")
        return
    if pieces:
        report = _level(pieces, "isolated", pieces.names)
        if report["broken"] or not report["ran"]:
            trial.notes.append(f"the fold sites were not compared on their own: {report['why']}")
        else:
            yield report


def _level(trial: Trial, level: str, names: Sequence[str]) -> dict[str, Any]:
    """Everything about one way of running both models: ran or why not, the inputs, the tensors."""
    report: dict[str, Any] = {"level": level, "ran": False, "why": "", "broken": False, "cases": [], "tensors": []}
    report["same_graph"] = level == "default" and _same_graph(trial, level)
    makers = {name: node.op_type for name, node in produced(trial.folded.graph).items()}
    tallies = {name: _tally(name, makers.get(name, ""), name in trial.edits) for name in names}
    planned = cases(trial.effort, trial.seed)
    if level == "isolated" and trial.elements > SMALL:
        planned = planned[:1]
    try:
        running = _running(trial, "default" if level == "default" else "off", names)
        report["cases"] = [str(case) for case in _run_cases(trial, running, tallies, planned)]
    except CannotRun as why:
        report["why"], report["broken"] = str(why), str(why).startswith("the folded model")
        return report
    report["ran"] = bool(report["cases"])
    report["tensors"] = _records(trial, tallies, [] if level == "isolated" else trial.outputs)
    return report


def _tally(name: str, operator: str, site: bool) -> Tally:
    """Channel by channel at fold sites: along axis 1 and, where a matrix product may be meant, along axis 2."""
    spatial = operator in ("Conv", "ConvTranspose", "BatchNormalization")
    axes = () if not site else (1,) if spatial else (1, 2)
    return Tally(name, axes, bounded=operator in BOUNDED)


def _running(trial: Trial, level: str, names: Sequence[str]) -> list[Any]:
    """Sessions of the original, the folded model, and jittered copies of the original, each returning `names`."""
    found = []
    for label, model in _models(trial, level):
        stage(f"onnxruntime, loading {label} with graph optimization {level}")
        try:
            found.append(session(trial, exposed(model, names), level))
        except CannotRun as why:
            raise CannotRun(f"{label} does not load with graph optimization {level}: {why}") from why
    return found


def _models(trial: Trial, level: str) -> Iterator[tuple[str, onnx.ModelProto]]:
    yield "the original", trial.original
    yield "the folded model", trial.folded
    for copy in range(next(count for limit, count in JITTERS if trial.elements < limit)):
        yield (
            "the original with its constants moved by one unit of rounding",
            jittered(trial.original, trial.seed + copy),
        )


def _run_cases(
    trial: Trial, running: Sequence[Any], tallies: Mapping[str, Tally], planned: Sequence[Case]
) -> list[Case]:
    """Run one input after another; of a large model fewer, the first always."""
    affordable = max(1, WORK[trial.effort] // max(1, trial.elements))
    if affordable < len(planned):
        trial.notes.append(f"{affordable} of {len(planned)} inputs were used, to save time")
    return [case for plan in planned[:affordable] if (case := _run_case(trial, running, tallies, plan))]


def _run_case(trial: Trial, running: Sequence[Any], tallies: Mapping[str, Tally], case: Case) -> Case | None:
    """One input through every session and the oracle. A batch the model does not take is replaced by a batch of 1."""
    names = list(tallies)
    values = feeds(trial.original.graph, case, trial.sizes)
    stage(f"onnxruntime, running the original ({case})")
    try:
        first = sessions.outputs(running[0], names, values)
    except CannotRun as why:
        if case.larger or case.batch == 1:
            trial.notes.append(f"the original does not run on {case}: {why}")
            return None
        return _run_case(trial, running, tallies, replace(case, batch=1))
    true = truth(trial, case, values, names)
    rest = [_outputs(each, names, values, i) for i, each in enumerate(running[1:])]
    steady = _steady(trial, case, names, first, rest[1:])
    for i, name in enumerate(names):
        if isinstance(first[i], np.ndarray) and isinstance(rest[0][i], np.ndarray):
            value = true.get(name)
            known = isinstance(value, np.ndarray) and value.shape == first[i].shape
            if i < steady:
                tallies[name].add(value if known else None, first[i], rest[0][i], [run[i] for run in rest[1:]])
            else:
                tallies[name].unsteady += 1
    trial.seen = trial.seen or {n: v for n, v in zip(names, first, strict=True) if isinstance(v, np.ndarray)}
    return case


def _steady(
    trial: Trial, case: Case, names: Sequence[str], original: Sequence[Any], jittered: Sequence[Sequence[Any]]
) -> int:
    """How many of `names`, in the order of the graph, come before the first that rounding alone moves too much."""
    for i, name in enumerate(names):
        if isinstance(original[i], np.ndarray) and is_unsteady(original[i], [run[i] for run in jittered]):
            trial.notes.append(f"{case}: not used from tensor {name!r} on, which rounding alone moves too far to judge")
            return i
    return len(names)


def _outputs(running: Any, names: Sequence[str], values: Mapping[str, Array], which: int) -> list[Any]:
    label = "the original with its constants moved" if which else "the folded model"
    stage(f"onnxruntime, running {label}")
    try:
        return sessions.outputs(running, names, values)
    except CannotRun as why:
        raise CannotRun(f"{label} does not run: {why}") from why


def _records(trial: Trial, tallies: Mapping[str, Tally], outputs: Sequence[str]) -> list[dict[str, Any]]:
    """One record per tensor, in the order of the graph, those excused that hold other values by design."""
    nodes = produced(trial.original.graph)
    makers = {name: nodes[name].op_type if name in nodes else "" for name in tallies}
    found = [record(t, makers[n], n in outputs, n in trial.edits) for n, t in tallies.items() if _compared(t)]
    good = {entry["name"]: bool(entry["ok"]) for entry in found}
    excused = undone(trial.folded.graph, good, trial.edits)
    return [
        {**entry, "moved": entry["name"] in excused, "ok": entry["ok"] or entry["name"] in excused} for entry in found
    ]


def _compared(tally: Tally) -> bool:
    return tally.elements > 0 or tally.unsteady > 0 or bool(tally.misshapen)


def _same_graph(trial: Trial, level: str) -> bool:
    """onnxruntime makes the two models the same graph at this level, so that comparing them there shows nothing."""
    stage(f"onnxruntime, optimizing the models with graph optimization {level}")
    try:
        original, folded = (
            sessions.optimized(placed(model, trial.folder), level, str(Path(trial.folder, "optimized.onnx")))
            for model in (trial.original, trial.folded)
        )
    except CannotRun:
        return False
    return shape_of_graph(original) == shape_of_graph(folded)
