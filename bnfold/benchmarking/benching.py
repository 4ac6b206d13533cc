"""`bench`: launches of fresh processes, one after another, until the answer is narrow or the time is spent."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence

from ..errors import FOREVER, require_within
from ..model.models import Model
from ..runtime.input_options import require_dims
from ..runtime.nvml import states
from ..system import processors, temporary
from ..system.installed import require_runtime
from ..verification.verifying import describe, locate
from .answers import all_blocks, cell, notes
from .measurement import LEAST_SECONDS, Measurement
from .results import Benchmark
from .settings import LEVELS, Dims, settings
from .statistics import MARGIN


def bench(
    original: Model,
    folded: Model,
    *,
    launches: int = 7,
    budget_s: float = 30.0,
    dims: Dims | None = None,
    shapes: Mapping[str, Sequence[int]] | None = None,
    levels: Sequence[str] = LEVELS,
    providers: Sequence[str] = ("cpu",),
    mode: str | None = None,
    cuda_graph: str = "off",
    cudnn_search: str | None = None,
    precisions: Sequence[str] = ("",),
    cold: bool = True,
    margin: float = MARGIN,
    threads: int | None = None,
    seed: int = 0,
) -> Benchmark:
    """Compare the latency of two models on onnxruntime, its graph optimization off and at its default.

    Each of up to `launches` fresh processes, in about `budget_s` seconds altogether, times both models, and the
    original once more, in interleaved blocks and gives one log ratio; the interval is over those. Stops early when
    every interval is narrow, never because a difference looks significant. `dims` sets dynamic dimensions (a symbolic
    name, or `input/axis`; a dynamic batch is 1 otherwise), each to a size or to several; `shapes` sets whole inputs;
    `levels` are those of onnxruntime's graph optimization; `providers` are cpu, cuda, tensorrt, tensorrt-rtx; `mode` is
    e2e (numpy in and out; usual on the CPU), device (I/O binding; usual on a GPU) or enqueue (submission alone);
    `cuda_graph` is off, on or both; `cudnn_search`, of all sessions on CUDA, is exhaustive (onnxruntime's default, so
    what a deployment that sets nothing will see), heuristic or default (one algorithm, no search: ready sooner);
    `precisions` are float32 and float16, to which both models are converted, their inputs and outputs staying as they
    are (default: as the models are); `cold` also measures what the start of a process costs; a difference below
    `margin` is none; `threads` run an operator (default: one for each processor we may use). Raises ModelProblem where
    a model cannot be run, EnvironmentProblem where a provider cannot or a limit of time or memory is met, Inconclusive
    where onnxruntime does not survive it.
    """
    _require(launches, budget_s, threads, margin)
    options = settings(levels, providers, mode, dims or {}, cuda_graph, cudnn_search, precisions)
    started = time.perf_counter()
    with locate(original) as first, locate(folded) as second, temporary.folder() as folder:
        request = {"original": str(first), "folded": str(second), "folder": folder, "seed": seed}
        request |= {"threads": threads or processors.threads(), "input_shapes": require_dims(shapes or {})}
        session = Measurement(request, options, launches, started + budget_s, cold)
        session.models = {"original": describe(first), "folded": describe(second)}
        session.run()
    return _report(session, margin, time.perf_counter() - started)


def _require(launches: int, budget_s: float, threads: int | None, margin: float) -> None:
    """Raises UsageProblem for numbers out of range, EnvironmentProblem without onnxruntime."""
    require_within("--launches", launches, 2, 1000)
    require_within("--budget", budget_s, LEAST_SECONDS, FOREVER)
    require_within("--threads", 1 if threads is None else threads, 1, processors.MOST_THREADS)
    require_within("--margin", margin, 0, 1)
    require_runtime("a benchmark")


def _report(session: Measurement, margin: float, seconds: float) -> Benchmark:
    precisions = session.facts["precisions"]
    facts = precisions[session.settings[0].precision]
    columns = zip(session.settings, zip(*session.answers, strict=True), strict=True)
    cells = tuple(cell(setting, launches, precisions[setting.precision], margin) for setting, launches in columns)
    around = {
        **session.around,
        "onnxruntime_build": session.facts["build"],
        "gpus_after": states(),
    }
    keys = ("batch_normalization", "left_by_onnxruntime", "nodes", "same_graph")
    return Benchmark(
        cells,
        tuple(session.cold),
        session.cells[0]["shapes"],
        **{key: facts[key] for key in keys},
        environment=around,
        launches=len(session.answers),
        margin=margin,
        notes=(*notes(around, precisions, cells), *session.notes),
        seconds=seconds,
        blocks=all_blocks(session.settings, session.answers),
        models=session.models,
    )
