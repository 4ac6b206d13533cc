"""The numeric tier, run in a child: both models on onnxruntime against the float64 oracle, tensor by tensor."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, replace
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
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
from .influence.least_sizes import at_least_sizes
from .interface import declared_otherwise
from .isolate import isolate_sites
from .level_results import Compared, Level
from .level_runs import run_original, run_others, steady
from .level_sessions import LevelSessions, open_sessions, placements
from .measure import OUTPUT_LIMIT, Tally
from .proof.induction import derivations
from .quantized import kernels
from .quantized.steps import is_quantized
from .regions import BOUNDED, REARRANGES
from .results import Influence, Numbers
from .tensor_records import gaps, is_compared, records
from .trial import MORE_JITTERS, WORK, Trial, is_same_graph, make_oracle, prepare, read_models

MEASURED_AGAIN = 8.0  # times its limit, up to which few copies may have underestimated it; beyond, 1 time in 200000


Tallies = tuple[Mapping[str, Tally], Mapping[str, Tally]]  # of steady inputs; of others, used where none is steady


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
    return {"ways": [*map(asdict, ways)]}


def _way(trial: Trial, levels: Sequence[str]) -> Numbers:
    reports = [*_levels(trial, levels), *(at_least_sizes(trial) if levels and trial.on_cpu else ())]
    known = _influence(trial, reports)
    if any(each.unseen for each in known) and trial.effort == "fast":
        known = _on_revealing_inputs(trial, reports) or known
    notes = tuple(dict.fromkeys(trial.notes))
    return Numbers(tuple(reports), tuple(trial.blocked), notes, tuple(trial.derived), tuple(known))


def _on_revealing_inputs(trial: Trial, levels: list[Level]) -> list[Influence]:
    """What the nodes that changed do, on more inputs; a report in which something is wrong is added to `levels`."""
    first = next((i for i, level in enumerate(levels) if level.ran and level.level == "off"), None)
    if first is None or trial.late or any(case.path or case.sizes for case in trial.planned):
        return []
    more = replace(trial, planned=revealing(trial.seed), notes=[], moved={}, truths={}, keeps=False)
    report = _level(more, "off", trial.names)
    if report.broken or report.bad:
        levels.append(report)
        return []
    if not report.ran:
        return []
    levels[first] = replace(levels[first], cases=levels[first].cases + report.cases)
    return _influence(replace(trial, planned=[*trial.planned, *more.planned]), levels)


def _influence(trial: Trial, levels: Sequence[Level]) -> list[Influence]:
    """What the nodes that changed do, where no tensor of the whole models is wrong."""
    ran = [level for level in levels if level.ran and level.level != "isolated"]
    if not ran or not trial.way.careful or any(level.bad for level in ran):
        return []
    return [influence(trial, ran[0].tensors)]


def _levels(trial: Trial, levels: Sequence[str]) -> Iterator[Level]:
    """A report for each level; after `off` the algebra of the fold sites and, if nothing was wrong, each on its own."""
    strict = ["off"] if trial.steps and "off" not in levels else []  # the default level is no judge of whole steps
    for level in [*strict, *levels]:
        if level == "default" and _takes_memory(trial):
            continue
        report = _level(trial, level, trial.names if level == "off" else trial.outputs)
        yield _in_other_arithmetic(trial, report) if level == "default" else report
        if level == "off" and trial.way.careful and report.ran:
            yield from _at_sites(trial, report.tensors)


def _in_other_arithmetic(trial: Trial, report: Level) -> Level:
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


def _on_no_input(trial: Trial, level: str) -> str:
    """Why a level did not run, where the original runs on no input; a note, where another level was compared."""
    words = f"onnxruntime runs the original on no input{folded_alone(trial)}"
    if not trial.seen:
        return words
    trial.notes.append(f"optimization {level}: {words}")
    return ""


def _at_sites(trial: Trial, tensors: Sequence[Compared]) -> Iterator[Level]:
    """The algebra of the fold sites, and a report of each site run on its own; `tensors` are those of level `off`."""
    if trial.late:
        trial.notes.append("algebra and isolated fold sites were skipped: the time allowed is over")
        return
    stage("the algebra of the fold sites")
    trial.derived = derivations(trial, tensors)
    if all(entry.ok for entry in tensors):
        good = {entry.name for entry in tensors if entry.usable and entry.clear and not entry.moved}
        yield from _alone(trial, good)


def _alone(trial: Trial, good: set[str]) -> Iterator[Level]:
    stage("the fold sites, cut out")
    try:
        pieces = isolate_sites(trial, good)
    except CannotEvaluate as why:
        trial.notes.append(f"the fold sites were not compared on their own: {why}")
        return
    if pieces:
        report = _level(pieces, "isolated", pieces.names)
        if report.broken or not report.ran:
            trial.notes.append(f"the fold sites were not compared on their own: {report.why}")
        else:
            yield report


def _level(trial: Trial, level: str, names: Sequence[str]) -> Level:
    """As `_measured`; once more with many jittered copies where an error is close to its limit.

    Rounding moves an ill-conditioned network in one direction, further or less far. How far, four copies estimate as
    badly as four samples of a normal distribution do: one time in sixty the next is four times as large.
    """
    report = _measured(trial, level, names)
    if trial.late or trial.copies or not _is_close(report.bad):
        return report
    return _measured(replace(trial, copies=MORE_JITTERS, moved={}), level, names)


def _is_close(bad: Sequence[Compared]) -> bool:
    """Whether a better measure of what rounding explains may show that all bad tensors are right."""
    return bool(bad) and all(OUTPUT_LIMIT < t.ratio <= MEASURED_AGAIN * t.limit for t in bad)


def _measured(trial: Trial, level: str, names: Sequence[str]) -> Level:
    """One way of running both models: what was measured, or why they were not run."""
    report = Level(level, provider=trial.way.provider, math=trial.way.math)
    if not names:  # for which onnxruntime would return all outputs
        return replace(report, why="the two models have no tensor in common")
    report = replace(report, same_graph=level == "default" and is_same_graph(trial))
    try:
        running = open_sessions(trial, "default" if level == "default" else "off", names)
        tallies = _tallies(trial, running), _tallies(trial, running)
        cases = tuple(map(str, _run_cases(trial, running, tallies)))
        if not cases:
            return replace(report, why=_on_no_input(trial, level))
        placed = tuple(placements(trial, running))
    except CannotRun as why:
        broken = str(why).startswith("the folded model")
        if trial.seen and detached.length(trial.original) and not broken:
            trial.notes.append(f"optimization {level} was not compared: {why}")
            return report
        return replace(report, why=str(why), broken=broken)
    best = {name: max(t, tallies[1][name], key=is_compared) for name, t in tallies[0].items()}
    tensors = records(trial, best, [] if level == "isolated" else trial.outputs)
    trial.notes += gaps(tensors)
    return replace(report, ran=True, cases=cases, tensors=tensors, placements=placed)


def _tallies(trial: Trial, running: LevelSessions) -> dict[str, Tally]:
    """An empty tally for each tensor of a level."""
    makers = {name: node.op_type for name, node in produced(trial.folded.graph).items()}
    return {name: _tally(trial, running, name, makers.get(name, "")) for name in running.names}


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
        original = run_original(running, case, values)
    except (CannotRun, CannotFeed) as why:
        require_drawn(case, why)
        if case.larger or case.batch == 1:
            trial.notes.append(f"the original does not run on {case}: {why}")
            return None
        return _run_case(trial, running, tallies, replace(case, batch=1))
    for otherwise in declared_otherwise(trial.original.graph, trial.folded.graph, original):
        raise CannotRun(f"the folded model does not keep its word: {otherwise}")
    runs = run_others(trial, running, case, values, original)
    until = steady(trial, case, running.names, runs)
    runs.replace_codes(running.quantizers)
    for i, name in enumerate(running.names):
        runs.add_to(tallies[i >= until][name])
    trial.seen = trial.seen or {n: original[n] for n in running.names if isinstance(original[n], np.ndarray)}
    return case
