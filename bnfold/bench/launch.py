"""One launch of a benchmark, in a fresh child: sessions of both models side by side, timed in interleaved blocks."""

from __future__ import annotations

import random
import sys
import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from statistics import median
from typing import Any

import onnx

from ..process.child import stage
from ..verification.inputs import Case, feeds
from ..verification.windows import Array
from .runner import COPY, FOLDED, MODELS, ORIGINAL, Runner, bytes_of, calls, placed, runner
from .settings import Setting
from .statistics import paired
from .survey import survey as survey

BLOCK_SECONDS, BLOCKS = 0.02, 20
FEWEST_BLOCKS = 3


def launch(request: Mapping[str, Any]) -> dict[str, Any]:
    """Time the models under each of `request["cells"]`, for about `request["seconds"]` in all; one answer per cell."""
    order = random.Random(request["seed"])
    numbers = list(range(len(request["cells"])))
    order.shuffle(numbers)
    share = request["seconds"] / len(numbers)
    found = {number: _timed(request, request["cells"][number], share, order) for number in numbers}
    return {"cells": [found[number] for number in sorted(found)]}


def alone(request: Mapping[str, Any]) -> dict[str, Any]:
    """What it costs to load and to run one model, in a process that does nothing else, nothing being cached."""
    cell = request["cells"][0]
    setting = Setting.of(cell["setting"])
    made = runner(request, request["alone"], setting, values_of(request, cell), cell["outputs"])
    return {
        "create_ms": made.create_ms,
        "first_run_ms": made.first_ms,
        "bytes": bytes_of(request[request["alone"]]),
        "peak_bytes": _peak(),
    }


def _peak() -> int | None:
    """The most memory this process has held, in bytes; None where the system does not tell.

    (Linux counts what the parent held before the child became this program, too, unless it is asked this way.)
    """
    with suppress(OSError, IndexError, ValueError):
        return 1024 * int(Path("/proc/self/status").read_text().split("VmHWM:")[1].split()[0])
    if sys.platform == "win32":
        return None
    import resource

    unit = 1 if sys.platform == "darwin" else 1024  # getrusage(2)
    return unit * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


def values_of(request: Mapping[str, Any], cell: Mapping[str, Any]) -> dict[str, Array]:
    """The inputs of a cell."""
    graph = onnx.load(request["original"], load_external_data=False).graph
    return feeds(graph, Case("normal", 0, 1), cell["sizes"])


def _timed(request: Mapping[str, Any], cell: Mapping[str, Any], seconds: float, order: random.Random) -> dict[str, Any]:
    deadline = time.perf_counter() + seconds
    setting, values = Setting.of(cell["setting"]), values_of(request, cell)
    names = [*MODELS, COPY]
    order.shuffle(names)
    runners = {name: runner(request, name, setting, values, cell["outputs"]) for name in names}
    stage(f"onnxruntime, timing the models: {setting.words()}")
    for each in runners.values():
        each.warm(time.perf_counter() + seconds / 8)
    blocks(list(runners.values()), deadline, order)
    pair = [runners[name] for name in MODELS]
    return {
        "log_ratio": paired(runners[ORIGINAL].blocks, runners[FOLDED].blocks),
        "log_control": paired(runners[ORIGINAL].blocks, runners[COPY].blocks),
        "blocks": {name: each.blocks for name, each in runners.items()},
        "create_ms": [each.create_ms for each in pair],
        "first_run_ms": [each.first_ms for each in pair],
        "enqueue_ms": [_enqueue_ms(each, setting, values, cell["outputs"]) for each in pair],
        "placed": [placed(each.session) for each in pair],
    }


def _enqueue_ms(
    made: Runner, setting: Setting, values: Mapping[str, Array], outputs: Mapping[str, Any]
) -> float | None:
    """Milliseconds of a submission alone, where it can be told from the run: on a GPU, outside of a CUDA graph."""
    if not setting.way.gpu or setting.mode != "device" or setting.cuda_graph:
        return None
    other = Runner(made.session, *calls(made.session, replace(setting, mode="enqueue"), values, outputs))
    other.block(20)
    return 1e3 * median(other.blocks[0])


def blocks(runners: list[Runner], deadline: float, order: random.Random) -> None:
    """Blocks in which all take a turn, in random order, each long enough that the clock does not matter."""
    longest = max(each.typical() for each in runners)
    count = max(1, round(BLOCK_SECONDS / max(longest, 1e-6)))
    done = 0
    while done < FEWEST_BLOCKS or (done < BLOCKS and time.perf_counter() < deadline):
        order.shuffle(runners)
        for each in runners:
            each.block(count)
        done += 1
