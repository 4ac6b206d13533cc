"""One launch of a benchmark, in a fresh child: sessions of both models side by side, timed in interleaved blocks."""

from __future__ import annotations

import random
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from typing import Any

import onnx

from ..errors import ModelProblem, UsageProblem
from ..verification import sessions
from ..verification.child import stage
from ..verification.dimensions import candidates, dynamic
from ..verification.inputs import Case, feeds
from ..verification.loading import load
from ..verification.regions import shape_of_graph
from ..verification.sessions import CannotRun
from ..verification.windows import Array
from .statistics import paired, steady

MODELS = ("original", "folded")
SETTLE = 2  # runs at the start of each turn that are not counted: the other session's threads come to rest
WARM_RUNS, BLOCK_SECONDS, BLOCKS = 20, 0.02, 20


@dataclass
class Runner:
    """One session ready to be timed."""

    session: Any
    values: Mapping[str, Array]
    names: list[str]
    create_ms: float = 0.0
    first_ms: float = 0.0
    blocks: list[list[float]] = field(default_factory=list)

    def once(self) -> float:
        """Seconds of one run, numpy in and out."""
        started = time.perf_counter()
        self.session.run(self.names, self.values)
        return time.perf_counter() - started


def launch(request: Mapping[str, Any]) -> dict[str, Any]:
    """Time both models at each level of `request["levels"]` for about `request["seconds"]`; one log ratio per level."""
    order = random.Random(request["seed"])
    graph = onnx.load(request["original"], load_external_data=False).graph
    values = feeds(graph, Case("normal", 0, 1), request["sizes"])
    levels = list(request["levels"])
    order.shuffle(levels)
    share = request["seconds"] / len(levels)
    timed = {level: _timed_pair(request, level, values, share, order) for level in levels}
    return {"levels": {level: timed[level] for level in request["levels"]}}


def _timed_pair(
    request: Mapping[str, Any], level: str, values: Mapping[str, Array], seconds: float, order: random.Random
) -> dict[str, Any]:
    deadline = time.perf_counter() + seconds
    names = list(MODELS)
    order.shuffle(names)
    runners = {name: _runner(request, name, level, values) for name in names}
    stage(f"onnxruntime, timing both models with graph optimization {level}")
    for runner in runners.values():
        _warm(runner, time.perf_counter() + seconds / 6)
    _blocks(list(runners.values()), deadline, order)
    original, folded = (runners[name] for name in MODELS)
    return {
        "log_ratio": paired(original.blocks, folded.blocks),
        "blocks": len(original.blocks),
        "runs": sum(map(len, original.blocks)),
        "ms": [1e3 * median(t for block in r.blocks for t in block) for r in (original, folded)],
        "create_ms": [original.create_ms, folded.create_ms],
        "first_run_ms": [original.first_ms, folded.first_ms],
    }


def _runner(request: Mapping[str, Any], name: str, level: str, values: Mapping[str, Array]) -> Runner:
    stage(f"onnxruntime, loading the {name} model with graph optimization {level}")
    started = time.perf_counter()
    session = _session(request[name], level, request["threads"])
    created = time.perf_counter() - started
    runner = Runner(session, values, [output.name for output in session.get_outputs()], 1e3 * created)
    runner.first_ms = 1e3 * runner.once()
    return runner


def _session(path: str, level: str, threads: int) -> Any:
    try:
        return sessions.session(path, sessions.options(level, threads=threads))
    except CannotRun as why:
        hint = "`bnfold verify` says more about what differs; a model that onnxruntime cannot load cannot be timed."
        raise ModelProblem(f"onnxruntime cannot load {path}: {why}", hint) from why


def _warm(runner: Runner, deadline: float) -> None:
    """Run until times are steady, at least `WARM_RUNS` times, unless the time for it is over."""
    times = [runner.once() for _ in range(3)]
    while time.perf_counter() < deadline and not (len(times) >= WARM_RUNS and steady(times)):
        times.append(runner.once())


def _blocks(runners: list[Runner], deadline: float, order: random.Random) -> None:
    """Blocks in which both take a turn, in random order, each long enough that the clock does not matter."""
    longest = max(median(runner.once() for _ in range(3)) for runner in runners)
    count = max(1, round(BLOCK_SECONDS / max(longest, 1e-6)))
    done = 0
    while done < 3 or (done < BLOCKS and time.perf_counter() < deadline):
        order.shuffle(runners)
        for runner in runners:
            for _ in range(SETTLE):
                runner.once()
            runner.blocks.append([runner.once() for _ in range(count)])
        done += 1


def survey(request: Mapping[str, Any]) -> dict[str, Any]:
    """What is known before timing: sizes with which the original runs, and what onnxruntime folds by itself."""
    import onnxruntime as ort

    models = {name: load(request[name]) for name in MODELS}
    sizes = _sizes(models["original"].graph, request)
    with TemporaryDirectory(prefix="bnfold-") as folder:
        after = {name: _optimized(request[name], name, folder) for name in MODELS}
    shapes = {
        name: list(value.shape) for name, value in feeds(models["original"].graph, Case("normal", 0, 1), sizes).items()
    }
    return {
        "sizes": dict(sizes),
        "shapes": shapes,
        "batch_normalization": {name: _normalizations(model) for name, model in models.items()},
        "left_by_onnxruntime": {name: _normalizations(model) for name, model in after.items()},
        "nodes": {name: len(model.graph.node) for name, model in models.items()},
        "same_graph": shape_of_graph(after["original"]) == shape_of_graph(after["folded"]),
        "build": ort.get_build_info(),
    }


def _sizes(graph: onnx.GraphProto, request: Mapping[str, Any]) -> dict[str, int]:
    known = dynamic(graph)
    for name in request["dims"]:
        if name not in known:
            raise UsageProblem(f"the model has no dynamic dimension {name!r}", f"It has: {', '.join(known) or 'none'}.")
    stage("onnxruntime, running the original")
    session, why = _session(request["original"], "default", request["threads"]), ""
    for sizes in candidates(graph):
        merged = {**sizes, **request["dims"]}
        try:
            sessions.outputs(
                session, [o.name for o in session.get_outputs()], feeds(graph, Case("normal", 0, 1), merged)
            )
        except CannotRun as reason:
            why = why or str(reason)
            continue
        return merged
    raise ModelProblem(
        f"onnxruntime cannot run {request['original']}: {why}", "Give sizes it accepts with --dim NAME=SIZE."
    )


def _optimized(path: str, name: str, folder: str) -> onnx.ModelProto:
    """The graph after onnxruntime's level-1 rewrites: higher levels hide a BatchNormalization in a depthwise Conv."""
    stage(f"onnxruntime, optimizing the {name} model")
    return sessions.optimized(path, "basic", str(Path(folder, f"{name}.onnx")))


def _normalizations(model: onnx.ModelProto) -> int:
    return sum(node.op_type == "BatchNormalization" for node in model.graph.node)
