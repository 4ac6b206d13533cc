"""The numeric tier, run in a child: both models on onnxruntime against the float64 oracle, tensor by tensor."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import onnx

from . import sessions
from .child import stage
from .copies import exposed, jittered, tamed
from .inputs import Case, Sizes, candidates, cases, feeds
from .loading import load, placed
from .measure import Tally
from .oracle import CannotEvaluate, Oracle
from .protos import produced
from .records import record
from .regions import edited, shape_of_graph, shared, undone
from .sessions import CannotRun
from .windows import Array

# Work is bounded by counting elements, not by the clock: the same models get the same verdict on a busy machine.
WORK = {"fast": 40_000_000, "full": 4_000_000_000}  # elements of all inputs together; one input is always run
ELEMENTS = {"fast": 12_000_000, "full": 200_000_000}  # of tensors between the sites that are compared, per input
SMALL = 1_000_000  # elements of one input: below, several jittered copies cost nothing
BOUNDED = frozenset("Sigmoid HardSigmoid Softmax Tanh Erf Softsign Sin Cos".split())


@dataclass
class Trial:
    """Two models, what is to be compared in them, and what was found out on the way."""

    original: onnx.ModelProto
    folded: onnx.ModelProto
    effort: str
    seed: int
    folder: str
    oracle: Oracle | None = None
    sizes: Sizes = field(default_factory=dict)
    names: list[str] = field(default_factory=list)
    elements: int = 0  # of all shared tensors, for one input
    notes: list[str] = field(default_factory=list)
    blocked: list[str] = field(default_factory=list)  # why something could not be compared
    edits: set[str] = field(default_factory=set)
    truths: dict[Case, dict[str, Any]] = field(default_factory=dict)  # what the oracle said, kept while it may be asked again

    @property
    def outputs(self) -> list[str]:
        return [output.name for output in self.original.graph.output]


def compare(request: Mapping[str, Any]) -> dict[str, Any]:
    """Compare `request["original"]` with `request["folded"]` (paths) at `request["levels"]`; see `verify`."""
    with TemporaryDirectory(prefix="bnfold-") as folder:
        trial = _prepared(request, folder)
        found = [_level(trial, level) for level in request["levels"]] if _sized(trial) else []
    return {"levels": found, "blocked": trial.blocked, "notes": list(dict.fromkeys(trial.notes))}


def _prepared(request: Mapping[str, Any], folder: str) -> Trial:
    stage("reading the models")
    original, notes = tamed(load(request["original"]))
    folded, _ = tamed(load(request["folded"]))
    trial = Trial(original, folded, request["effort"], request["seed"], folder, notes=notes)
    trial.edits = edited(original.graph, folded.graph)
    stage("the float64 evaluation of the original")
    try:
        trial.oracle = Oracle(original)
    except CannotEvaluate as why:
        trial.blocked.append(f"the float64 oracle cannot evaluate {why}")
    return trial


def _sized(trial: Trial) -> bool:
    """Find sizes for the dynamic dimensions with which the original runs, and choose the tensors to compare."""
    stage("onnxruntime, running the original")
    why = None
    for level in ("off", "default"):
        try:
            session = _session(trial, trial.original, level)
        except CannotRun as reason:
            why = reason
            continue
        for case, sizes in _trials(trial):
            try:
                values = feeds(trial.original.graph, case, sizes)
                sessions.outputs(session, trial.outputs, values)
            except CannotRun as reason:
                why = why or reason
                continue
            trial.sizes = sizes
            _choose(trial, case, values)
            return True
    trial.blocked.append(f"onnxruntime cannot run the original: {why}")
    return False


def _trials(trial: Trial) -> Iterator[tuple[Case, Sizes]]:
    """The first planned case with one set of sizes after another; then the same with a batch of 1."""
    first = cases(trial.effort, trial.seed)[0]
    for case in dict.fromkeys((first, replace(first, batch=1))):
        yield from ((case, sizes) for sizes in candidates(trial.original.graph))


def _choose(trial: Trial, case: Case, values: Mapping[str, Array]) -> None:
    """Outputs and fold sites always; other shared tensors, evenly spread, until there are too many elements."""
    names = shared(trial.original.graph, trial.folded.graph)
    counts = {name: np.size(value) for name, value in _truth(trial, case, values, names).items()}
    needed = {*trial.edits, *trial.outputs, *_behind_outputs(trial)}
    others = [n for n in names if n not in needed]
    every = max(1, -(-sum(counts.get(n, 0) for n in others) // ELEMENTS[trial.effort]))
    chosen = needed | set(others[::every])
    trial.names = [n for n in names if n in chosen]
    trial.elements = sum(counts.values())
    if every > 1:
        trial.notes.append(f"of {len(others)} tensors between the sites one in {every} was compared, to save time")


def _behind_outputs(trial: Trial) -> set[str]:
    """What the makers of the outputs read: it stands for outputs that are not tensors, the dictionaries of ZipMap."""
    nodes = produced(trial.original.graph)
    return {name for output in trial.outputs if output in nodes for name in nodes[output].input}


def _session(trial: Trial, model: onnx.ModelProto, level: str) -> Any:
    options = sessions.options(
        level, deterministic=True, threads=sessions.threads(), entries={"session.intra_op.allow_spinning": "0"}
    )
    return sessions.session(placed(model, trial.folder), options)


def _level(trial: Trial, level: str) -> dict[str, Any]:
    """Everything about one level of onnxruntime's graph optimization: ran or why not, the inputs, the tensors."""
    names = trial.names if level == "off" else trial.outputs
    report: dict[str, Any] = {"level": level, "ran": False, "why": "", "broken": False, "cases": [], "tensors": []}
    report["same_graph"] = level != "off" and _same_graph(trial, level)
    makers = {name: node.op_type for name, node in produced(trial.folded.graph).items()}
    tallies = {name: _tally(name, makers.get(name, ""), name in trial.edits) for name in names}
    try:
        running = _running(trial, level, names)
        report["cases"] = [str(case) for case in _run_cases(trial, running, tallies)]
    except CannotRun as why:
        report["why"], report["broken"] = str(why), str(why).startswith("the folded model")
        return report
    report["ran"] = bool(report["cases"])
    report["tensors"] = _records(trial, tallies)
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
            found.append(_session(trial, exposed(model, names), level))
        except CannotRun as why:
            raise CannotRun(f"{label} does not load with graph optimization {level}: {why}") from why
    return found


def _models(trial: Trial, level: str) -> Iterator[tuple[str, onnx.ModelProto]]:
    yield "the original", trial.original
    yield "the folded model", trial.folded
    for copy in range(4 if trial.elements < SMALL else 1):
        yield "the original with its constants moved by one unit of rounding", jittered(trial.original, trial.seed + copy)


def _run_cases(trial: Trial, running: Sequence[Any], tallies: Mapping[str, Tally]) -> list[Case]:
    """Run one input after another; of a large model fewer, the first always."""
    planned = cases(trial.effort, trial.seed)
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
    truth = _truth(trial, case, values, names)
    rest = [_outputs(session, names, values, i) for i, session in enumerate(running[1:])]
    for i, name in enumerate(names):
        if isinstance(first[i], np.ndarray) and isinstance(rest[0][i], np.ndarray):
            true = truth.get(name) if trial.oracle else None
            known = isinstance(true, np.ndarray) and true.shape == first[i].shape
            tallies[name].add(true if known else None, first[i], rest[0][i], [run[i] for run in rest[1:]])
    return case


def _outputs(session: Any, names: Sequence[str], values: Mapping[str, Array], which: int) -> list[Any]:
    label = "the original with its constants moved" if which else "the folded model"
    stage(f"onnxruntime, running {label}")
    try:
        return sessions.outputs(session, names, values)
    except CannotRun as why:
        raise CannotRun(f"{label} does not run: {why}") from why


def _truth(trial: Trial, case: Case, values: Mapping[str, Array], names: Sequence[str]) -> dict[str, Any]:
    """What the oracle says. An oracle that fails is given up, in words; what it said about outputs is remembered."""
    if trial.oracle is None:
        return {}
    if case in trial.truths and all(name in trial.truths[case] for name in names):
        answer = trial.truths.pop(case)
    else:
        stage("the float64 evaluation of the original")
        try:
            answer = trial.oracle.evaluate(values, {*names, *trial.outputs})
        except CannotEvaluate as why:
            trial.blocked.append(f"the float64 oracle cannot evaluate {why}")
            trial.oracle = None
            return {}
    trial.truths[case] = answer if not trial.names else {n: answer[n] for n in trial.outputs if n in answer}
    return answer


def _records(trial: Trial, tallies: Mapping[str, Tally]) -> list[dict[str, Any]]:
    """One record per tensor, in the order of the graph, those excused that hold other values by design."""
    nodes = produced(trial.original.graph)
    makers = {name: nodes[name].op_type if name in nodes else "" for name in tallies}
    found = [record(t, makers[n], n in trial.outputs, n in trial.edits) for n, t in tallies.items() if _compared(t)]
    good = {entry["name"]: bool(entry["ok"]) for entry in found}
    excused = undone(trial.folded.graph, good, trial.edits)
    return [{**entry, "moved": entry["name"] in excused, "ok": entry["ok"] or entry["name"] in excused} for entry in found]


def _compared(tally: Tally) -> bool:
    return tally.elements > 0 or bool(tally.misshapen)


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
