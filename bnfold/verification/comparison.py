"""The numeric tier, run in a child: both models on onnxruntime against the float64 oracle, tensor by tensor."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, replace
from tempfile import TemporaryDirectory
from typing import Any

import onnx

from ..model import datafiles
from ..process.child import stage
from ..runtime import detached, libraries
from ..runtime.inputs import CannotFeed, Case, feeds, revealing
from ..runtime.protos import produced
from ..runtime.sessions import CannotRun
from ..system.sizes import words
from .choosing import find_sizes, folded_alone, in_each, require_drawn
from .confirm import confirmed
from .float64.oracle import CannotEvaluate
from .influence.influence import influence
from .interface import declared_otherwise
from .isolate import isolate_sites
from .level_runs import Tallies, add_run, run_original
from .level_sessions import LevelSessions, open_sessions, placements
from .measure import OUTPUT_LIMIT, Tally
from .proof.induction import derivations
from .quantized import kernels
from .quantized.steps import is_quantized
from .regions import REARRANGES
from .tensor_records import gaps, is_compared, records
from .trial import MORE_JITTERS, WORK, Trial, is_same_graph, make_oracle, prepare, read_models

MEASURED_AGAIN = 8.0  # times its limit, up to which few copies may have underestimated it; beyond, 1 time in 200000
BOUNDED = frozenset(["Sigmoid", "HardSigmoid", "Softmax", "Tanh", "Erf", "Softsign", "Sin", "Cos"])


@datafiles.unchanged()
def numbers_report(request: Mapping[str, Any], models: Sequence[onnx.ModelProto]) -> dict[str, Any]:
    """Compare the numbers of two models, read from the paths of the request and changed here; see `verify`.

    Plain data; under `ways` one dictionary for each of `request["maths"]`, the arithmetics of the provider.
    """
    libraries.preload(request["provider"])
    with TemporaryDirectory(prefix="bnfold-") as folder:
        trial = prepare(request, models, folder)
        ways = confirmed(trial, request["levels"], request["maths"])
        if ways is None:
            trial = prepare(request, read_models(request, whole=True), folder)
            make_oracle(trial)
            levels = request["levels"] if find_sizes(trial) else []
            ways = [_way(own, levels) for own in in_each(trial, request["maths"])]
    datafiles.require_unchanged()
    return {"ways": ways}


def _way(trial: Trial, levels: Sequence[str]) -> dict[str, Any]:
    reports = list(_levels(trial, levels))
    answer = {"levels": reports, "derived": [asdict(each) for each in trial.derived], "blocked": trial.blocked}
    known = _influence(trial, reports)
    if any(each["unseen"] for each in known) and trial.effort == "fast":
        known = _on_revealing_inputs(trial, reports) or known
    return {**answer, "influence": known, "notes": list(dict.fromkeys(trial.notes))}


def _on_revealing_inputs(trial: Trial, levels: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """What the nodes that changed do, on more inputs; a report in which something is wrong is added to `levels`."""
    first = next((level for level in levels if level["ran"] and level["level"] == "off"), None)
    if first is None or trial.late or any(case.path or case.sizes for case in trial.planned):
        return []
    more = replace(trial, planned=revealing(trial.seed), notes=[], moved={}, truths={}, keeps=False)
    report = _level(more, "off", trial.names)
    if report["broken"] or not all(entry["ok"] for entry in report["tensors"]):
        levels.append(report)
        return []
    if not report["ran"]:
        return []
    first["cases"] += report["cases"]
    return _influence(replace(trial, planned=[*trial.planned, *more.planned]), levels)


def _influence(trial: Trial, levels: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """What the nodes that changed do, where no tensor of the whole models is wrong."""
    ran = [level for level in levels if level["ran"] and level["level"] != "isolated"]
    if not ran or not trial.way.careful or not all(entry["ok"] for level in ran for entry in level["tensors"]):
        return []
    return [asdict(influence(trial, ran[0]["tensors"]))]


def _levels(trial: Trial, levels: Sequence[str]) -> Iterator[dict[str, Any]]:
    """A report for each level; after `off` the algebra of the fold sites and, if nothing was wrong, each on its own."""
    strict = ["off"] if trial.steps and "off" not in levels else []  # the default level is no judge of whole steps
    for level in [*strict, *levels]:
        if level == "default" and _takes_memory(trial):
            continue
        report = _level(trial, level, trial.names if level == "off" else trial.outputs)
        yield _in_other_arithmetic(trial, report) if level == "default" else report
        if level == "off" and trial.way.careful and report["ran"]:
            yield from _at_sites(trial, report["tensors"])


def _in_other_arithmetic(trial: Trial, report: dict[str, Any]) -> dict[str, Any]:
    """The report; of the default level run once more, where not the fold is wrong but the runtime's integer kernels."""
    if not is_quantized(trial.original.graph):
        return report
    entry = kernels.entry(report)
    again = _level(replace(trial, entries={entry: "1"}), "default", trial.outputs) if entry else report
    if not entry or kernels.entry(again):
        trial.notes += kernels.off_by_steps(trial.folded.graph, report)
        return report
    trial.notes.append(kernels.warning(trial.folded.graph, report, again, entry))
    return again


def _takes_memory(trial: Trial) -> bool:
    """Whether the default level is left out, since onnxruntime may need three times the size of a large model there.

    A note says so.
    """
    size = detached.length(trial.original)
    if trial.effort != "fast" or not size or not trial.seen:
        return False
    trial.notes.append(
        f"optimization default was not compared: onnxruntime may take three times {words(size)} of memory there; "
        "effort full compares it"
    )
    return True


def _on_no_input(trial: Trial, report: dict[str, Any]) -> None:
    """Nothing could be compared at a level: INCONCLUSIVE, unless another level of the same provider was compared."""
    words = f"onnxruntime runs the original on no input{folded_alone(trial)}"
    if trial.seen:
        trial.notes.append(f"optimization {report['level']}: {words}")
    else:
        report["why"] = words


def _at_sites(trial: Trial, tensors: Sequence[Mapping[str, Any]]) -> Iterator[dict[str, Any]]:
    """The algebra of the fold sites, and a report of each site run on its own; `tensors` are those of level `off`."""
    if trial.late:
        trial.notes.append("algebra and isolated fold sites were skipped: the time allowed is over")
        return
    stage("the algebra of the fold sites")
    trial.derived = derivations(trial, tensors)
    if all(entry["ok"] for entry in tensors):
        good = {entry["name"] for entry in tensors if entry["usable"] and entry["clear"] and not entry["moved"]}
        yield from _alone(trial, good)


def _alone(trial: Trial, good: set[str]) -> Iterator[dict[str, Any]]:
    stage("the fold sites, cut out")
    try:
        pieces = isolate_sites(trial, good)
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
    """As `_measured`; once more with many jittered copies where an error is close to its limit.

    Rounding moves an ill-conditioned network in one direction, further or less far. How far, four copies estimate as
    badly as four samples of a normal distribution do: one time in sixty the next is four times as large.
    """
    report = _measured(trial, level, names)
    if trial.late or trial.copies or not _is_close(report["tensors"]):
        return report
    return _measured(replace(trial, copies=MORE_JITTERS, moved={}), level, names)


def _is_close(tensors: Sequence[Mapping[str, Any]]) -> bool:
    """Whether a better measure of what rounding explains may show all wrong tensors to be right."""
    wrong = [t for t in tensors if not t["ok"]]
    return bool(wrong) and all(OUTPUT_LIMIT < t["ratio"] <= MEASURED_AGAIN * t["limit"] for t in wrong)


def _measured(trial: Trial, level: str, names: Sequence[str]) -> dict[str, Any]:
    """The fields of `Level` for one way of running both models, as plain data."""
    report: dict[str, Any] = {"level": level, "ran": False, "why": "", "broken": False, "cases": [], "tensors": []}
    report.update(provider=trial.way.provider, math=trial.way.math, placements=[], same_graph=False)
    if not names:  # for which onnxruntime would return all outputs
        report["why"] = "the two models have no tensor in common"
        return report
    report["same_graph"] = level == "default" and is_same_graph(trial)
    makers = {name: node.op_type for name, node in produced(trial.folded.graph).items()}
    try:
        running = open_sessions(trial, "default" if level == "default" else "off", names, trial.planned)
        tallies, spare = (
            {name: _tally(trial, running, name, makers.get(name, "")) for name in names} for _ in range(2)
        )
        report["cases"] = [str(case) for case in _run_cases(trial, running, (tallies, spare))]
        if not report["cases"]:
            _on_no_input(trial, report)
            return report
        report["placements"] = [asdict(each) for each in placements(trial, running)]
    except CannotRun as why:
        report["why"], report["broken"] = str(why), str(why).startswith("the folded model")
        if trial.seen and detached.length(trial.original) and not report["broken"]:
            trial.notes.append(f"optimization {level} was not compared: {why}")
            report["why"] = ""
        return report
    report["ran"] = True
    best = {name: spare[name] if not is_compared(t) and is_compared(spare[name]) else t for name, t in tallies.items()}
    report["tensors"] = records(trial, best, [] if level == "isolated" else trial.outputs)
    trial.notes += gaps(report["tensors"])
    return report


def _tally(trial: Trial, running: LevelSessions, name: str, operator: str) -> Tally:
    """At fold sites also channel by channel: along axis 1 and, unless the operator is spatial, along axis 2.

    What only rearranges may make as many channels as it has elements; they are judged before it.
    """
    spatial = operator in ("Conv", "ConvTranspose", "BatchNormalization")
    axes = () if name not in trial.edits or operator in REARRANGES else (1,) if spatial else (1, 2)
    steps = running.level == "default" and is_quantized(trial.original.graph)
    return Tally(name, axes, operator in BOUNDED, name in running.same, steps, trial.way.dropped_bits)


def _run_cases(trial: Trial, running: LevelSessions, tallies: Tallies) -> list[Case]:
    """Run one input after another, and return those that ran; of a large model fewer, but always those from files."""
    planned, own = trial.planned, sum(bool(case.path) for case in trial.planned)
    affordable = max(1, own, WORK[trial.effort] // max(1, trial.elements))
    if affordable < len(planned):
        trial.notes.append(f"{affordable} of {len(planned)} inputs were used, to save time")
    done: list[Case] = []
    for number, plan in enumerate(planned[:affordable]):
        if number and trial.late:
            trial.notes.append(f"{number} of {len(planned)} inputs were used: the time allowed is over")
            break
        case = _run_case(trial, running, tallies, plan)
        done += [case] if case else []
    return done


def _run_case(trial: Trial, running: LevelSessions, tallies: Tallies, case: Case) -> Case | None:
    """One input through every session and the oracle; returns the input that ran, with a batch of 1 if need be."""
    try:
        values = feeds(trial.original.graph, case, trial.sizes)
        first = run_original(running, list(tallies[0]), case, values)
    except (CannotRun, CannotFeed) as why:
        require_drawn(case, why)
        if case.larger or case.batch == 1:
            trial.notes.append(f"the original does not run on {case}: {why}")
            return None
        return _run_case(trial, running, tallies, replace(case, batch=1))
    for otherwise in declared_otherwise(trial.original.graph, trial.folded.graph, first):
        raise CannotRun(f"the folded model does not keep its word: {otherwise}")
    add_run(trial, running, tallies, case, values, first)
    return case
