"""One launch of a benchmark, in a fresh child: sessions of both models, timed in interleaved blocks."""

from __future__ import annotations

import random
import sys
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import partial
from itertools import chain
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np

from ..process import turns
from ..process.child import stage
from ..process.jobs import job
from ..runtime.nvml import states
from ..runtime.probe import library_versions
from ..runtime.protos import Array
from ..runtime.providers import Way
from .runner import (
    COPY,
    FOLDED,
    MODELS,
    ORIGINAL,
    Runner,
    TimedCell,
    calls,
    memory,
    placement_counts,
    runners,
    size_on_disk,
    timed_cell,
)
from .settings import Setting
from .statistics import paired

BLOCK_SECONDS, BLOCKS = 0.02, 20
FEWEST_BLOCKS = 3
CAPTURED = 3  # runs after which a CUDA graph is replayed
Cells = Sequence[Mapping[str, Any]]


@job
def launch(request: Mapping[str, Any]) -> dict[str, Any]:
    """Time the models under each of `request["cells"]`, for about `request["seconds"]` in all; one answer per cell.

    With `request["turn"]` it gets ready first, while other launches do so, and is timed when it is its turn.
    """
    order = random.Random(request["seed"])
    groups = _groups(request["cells"])
    order.shuffle(groups)
    timed = partial(_timed, request["seconds"] / len(request["cells"]), order)
    if "turn" in request:
        ready = [_ready(request, numbers, order) for numbers in groups]
        turns.wait(*request["turn"])
        pairs = [pair for each in ready for pair in timed(each)]
    else:
        pairs = [pair for numbers in groups for pair in timed(_ready(request, numbers, order))]
    cells = [answer for _, answer in sorted(pairs, key=lambda pair: pair[0])]
    return {"cells": cells, "gpus": states(), **_served({Setting.of(each["setting"]) for each in request["cells"]})}


def _served(settings: set[Setting]) -> dict[str, Any]:
    """The libraries that the providers have loaded, and notes on where inputs and outputs are bound."""
    gpus = sorted({each.provider for each in settings if each.way.gpu})
    bound = sorted({each.provider for each in settings if each.way.gpu and each.mode != "e2e"})
    on_cpu = [name for name in bound if memory(Way(name)) == {"device_type": "cpu"}]
    return {
        "loaded": {name: version for provider in gpus for name, version in library_versions(provider).items()},
        "notes": [f"{name} offers no memory of its own: inputs and outputs are bound in the CPU's" for name in on_cpu],
    }


def _groups(cells: Cells) -> list[list[int]]:
    """The numbers of the cells that share sessions: those whose options are the same."""
    groups: dict[Setting, list[int]] = {}
    for number, cell in enumerate(cells):
        groups.setdefault(Setting.of(cell["setting"]).session, []).append(number)
    return list(groups.values())


@dataclass(frozen=True)
class Ready:
    """One cell with everything loaded, and run once."""

    task: TimedCell
    runners: dict[str, Runner]


def _ready(request: Mapping[str, Any], numbers: list[int], order: random.Random) -> Iterator[Ready]:
    """Cells that share sessions, of both models and of the original once more, in random order.

    The first one is ready on return, the others when it is their turn: on CUDA a session whose sizes change searches
    for algorithms again, also for sizes that it has seen. A launch that gets ready while others do loads its sessions
    at the same time, too, but for those that capture a CUDA graph: CUDA then allows nothing else.
    """
    order.shuffle(numbers)
    tasks = [timed_cell(request, number) for number in numbers]
    names = [*MODELS, COPY]
    order.shuffle(names)
    made = [runners(request, tasks, name) for name in names]
    if "turn" in request and not tasks[0].setting.cuda_graph:
        with ThreadPoolExecutor(len(made)) as pool:
            first = tuple(pool.map(next, made))
    else:
        first = tuple(map(next, made))
    rows = chain([first], zip(*made, strict=True))
    return (Ready(each, dict(zip(names, row, strict=True))) for each, row in zip(tasks, rows, strict=True))


def _timed(seconds: float, order: random.Random, cells: Iterable[Ready]) -> list[tuple[int, dict[str, Any]]]:
    """Each cell's number and figures, after `seconds` of timing."""
    return [(each.task.number, _figures(each, seconds, order)) for each in cells]


def _figures(ready: Ready, seconds: float, order: random.Random) -> dict[str, Any]:
    deadline = time.perf_counter() + seconds
    made = ready.runners
    stage(f"onnxruntime, timing the models: {ready.task.setting.words()}")
    for each in made.values():
        each.warm(time.perf_counter() + seconds / 8)
    time_blocks(list(made.values()), deadline, order)
    pair = [made[name] for name in MODELS]
    return {
        "log_ratio": paired(made[ORIGINAL].blocks, made[FOLDED].blocks),
        "log_control": paired(made[ORIGINAL].blocks, made[COPY].blocks),
        "blocks": {name: each.blocks for name, each in made.items()},
        "create_ms": [each.create_ms for each in pair],
        "first_run_ms": [each.first_ms for each in pair],
        "enqueue_ms": [_enqueue_ms(each, ready.task) for each in pair],
        "placed": [placement_counts(each.session) for each in pair],
        "difference": difference(*(each.fetch() for each in pair)),
    }


def difference(original: Mapping[str, Array], folded: Mapping[str, Array]) -> float | None:
    """How far outputs are apart at most, relative to the largest number of the same output of the original.

    None where they cannot be compared: they are not finite, or of other names or shapes.
    """
    worst = 0.0
    for name, value in original.items():
        if name not in folded or folded[name].shape != value.shape:
            return None
        first, second = (np.asarray(each, np.float64) for each in (value, folded[name]))
        if not (np.isfinite(first).all() and np.isfinite(second).all()):
            return None
        if value.size:
            worst = max(worst, float(np.abs(first - second).max() / (np.abs(first).max() or 1.0)))
    return worst


@job
def cold_start(request: Mapping[str, Any]) -> dict[str, Any]:
    """What it costs to load and to run one model, in a process that does nothing else, nothing being cached."""
    only = timed_cell(request, 0)
    made = next(runners(request, [only], request["model"]))
    return {
        "create_ms": made.create_ms,
        "first_run_ms": made.first_ms,
        "bytes": size_on_disk(only.models[request["model"]]),
        "peak_bytes": _peak(),
    }


@job
def capture_graph(request: Mapping[str, Any]) -> dict[str, Any]:
    """Run both models in the CUDA graph of the one cell, which onnxruntime captures first. Raises ModelProblem."""
    only = timed_cell(request, 0)
    for name in MODELS:
        made = next(runners(request, [only], name))
        for _ in range(CAPTURED):
            made.whole()
    return {}


def _peak() -> int | None:
    """The most memory this process has had, in bytes; None where the system does not say.

    (On Linux getrusage also counts memory of the parent, from before the child became this program; VmHWM does not.)
    """
    with suppress(OSError, IndexError, ValueError):
        return 1024 * int(Path("/proc/self/status").read_text().split("VmHWM:")[1].split()[0])
    if sys.platform == "win32":
        return None
    import resource

    unit = 1 if sys.platform == "darwin" else 1024  # getrusage(2)
    return unit * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


def _enqueue_ms(made: Runner, of: TimedCell) -> float | None:
    """Milliseconds of a submission alone, where it can be separated from the run: on a GPU, outside of a CUDA graph."""
    if not of.setting.way.gpu or of.setting.mode != "device" or of.setting.cuda_graph:
        return None
    other = Runner(made.session, *calls(made.session, replace(of.setting, mode="enqueue"), of.values, of.outputs))
    other.block(20)
    return 1e3 * median(other.blocks[0])


def time_blocks(runners: list[Runner], deadline: float, order: random.Random) -> None:
    """Blocks in which all take a turn, in random order, each long enough that the clock does not matter."""
    longest = max(each.typical() for each in runners)
    count = max(1, round(BLOCK_SECONDS / max(longest, 1e-6)))
    done = 0
    while done < FEWEST_BLOCKS or (done < BLOCKS and time.perf_counter() < deadline):
        order.shuffle(runners)
        for each in runners:
            each.block(count)
        done += 1
