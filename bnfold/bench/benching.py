"""`benchmark`: launches of fresh processes, one after another, until the answer is narrow or the time is spent."""

from __future__ import annotations

import os
import time
from collections.abc import Mapping, Sequence
from statistics import median
from typing import TYPE_CHECKING, Any

from ..errors import Inconclusive, UsageProblem
from ..verification import child, sessions
from ..verification.verifying import located
from .environment import environment
from .results import Benchmark, Cell
from .statistics import speedup, verdict

if TYPE_CHECKING:
    import onnx

LEVELS = ("off", "default")
NARROW = 0.005  # half-width of the interval at which more launches would tell nothing new
FEWEST = 3
BUSY = 0.5  # load per processor, before we start, above which a note is due
Model = str | os.PathLike[str]


def benchmark(
    original: Model | onnx.ModelProto,
    folded: Model | onnx.ModelProto,
    *,
    launches: int = 7,
    budget_s: float = 30.0,
    dims: Mapping[str, int] | None = None,
    levels: Sequence[str] = LEVELS,
    threads: int | None = None,
    seed: int = 0,
) -> Benchmark:
    """Compare the latency of two models on onnxruntime's CPU provider, its graph optimization off and at its default.

    Each of up to `launches` fresh processes times both models in interleaved blocks and gives one log ratio; the
    interval is over those. Stops early when every interval is narrow, never because a difference looks significant.
    `dims` sets dynamic dimensions (a symbolic name, or `input/axis`; a dynamic batch is 1 otherwise); `levels` are
    levels of onnxruntime's graph optimization; `threads` run an operator (default: one for each processor we may use).
    Raises ModelProblem where a model cannot be run, Inconclusive where onnxruntime does not survive it.
    """
    if launches < 2 or budget_s <= 0:
        raise UsageProblem("a benchmark needs at least 2 launches and some time", "Use --launches 2 or more.")
    threads = threads or sessions.threads()
    started = time.perf_counter()
    with located(original) as first, located(folded) as second:
        request: dict[str, Any] = {"original": str(first), "folded": str(second)}
        request.update(levels=list(levels), dims=dict(dims or {}), threads=threads)
        around = {**environment(), "threads": threads}
        facts = _child("survey", request, budget_s)
        request.update(sizes=facts["sizes"], seconds=_share(budget_s, launches, time.perf_counter() - started))
        answers = _launches(request, launches, seed, started + budget_s)
    return _report(facts, around, answers, time.perf_counter() - started)


def _report(
    facts: Mapping[str, Any], around: dict[str, Any], answers: Sequence[Mapping[str, Any]], seconds: float
) -> Benchmark:
    cells = tuple(_cell(level, [answer["levels"][level] for answer in answers]) for level in answers[0]["levels"])
    keys = ("shapes", "batch_normalization", "left_by_onnxruntime", "nodes", "same_graph")
    around = {**around, "onnxruntime_build": facts["build"]}
    notes = _notes(around, facts)
    kept = {key: facts[key] for key in keys}
    return Benchmark(cells, **kept, environment=around, launches=len(answers), notes=notes, seconds=seconds)


def _child(job: str, request: Mapping[str, Any], seconds: float) -> dict[str, Any]:
    try:
        return child.run(job, request, seconds=max(60.0, 4 * seconds))
    except child.Crashed as why:
        raise Inconclusive(str(why), "onnxruntime does not survive this model here; nothing was timed.") from why


def _share(budget: float, launches: int, spent: float) -> float:
    """Seconds of timing per launch, the start of a process (at most what the survey took) not counted."""
    return max(0.2, (budget - spent) / launches - min(spent, 1.0))


def _launches(request: Mapping[str, Any], launches: int, seed: int, deadline: float) -> list[dict[str, Any]]:
    """At least `FEWEST` (or all that were asked for), then more while intervals are wide and time is left."""
    answers: list[dict[str, Any]] = []
    for number in range(launches):
        enough = len(answers) >= min(FEWEST, launches)
        if enough and (_narrow(answers) or time.perf_counter() > deadline):
            break
        answers.append(_child("launch", {**request, "seed": seed * 1000 + number}, request["seconds"]))
    return answers


def _narrow(answers: Sequence[Mapping[str, Any]]) -> bool:
    levels = answers[0]["levels"]
    return all(speedup([a["levels"][level]["log_ratio"] for a in answers]).half_width <= NARROW for level in levels)


def _cell(level: str, found: Sequence[Mapping[str, Any]]) -> Cell:
    ratios = tuple(entry["log_ratio"] for entry in found)
    interval = speedup(ratios)
    pairs = {key: _medians([entry[key] for entry in found]) for key in ("ms", "create_ms", "first_run_ms")}
    return Cell(
        level,
        speedup=interval,
        verdict=verdict(interval),
        log_ratios=ratios,
        runs=sum(e["runs"] for e in found),
        **pairs,
    )


def _medians(pairs: Sequence[Sequence[float]]) -> tuple[float, float]:
    return median(pair[0] for pair in pairs), median(pair[1] for pair in pairs)


def _notes(around: Mapping[str, Any], facts: Mapping[str, Any]) -> tuple[str, ...]:
    notes = []
    load = around["load_average"]
    if load and load[0] / around["processors_usable"] > BUSY:
        notes.append(f"the machine was busy before the timing began (load {load[0]:.1f}): expect a wide interval")
    if facts["same_graph"]:
        notes.append("after onnxruntime's own level-1 rewrites both models are the same graph: expect 1.00x by default")
    return tuple(notes)


def size(text: str) -> tuple[str, int]:
    """`N=8` as a dimension and its size. Raises UsageProblem."""
    name, _, value = text.partition("=")
    if not name or not value.isdecimal() or int(value) < 1:
        raise UsageProblem(f"--dim {text!r} is not NAME=SIZE", "For example: --dim N=8.")
    return name, int(value)
