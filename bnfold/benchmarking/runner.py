"""One session ready to be timed: what a run is in each mode, warming up, blocks of runs."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

import onnx

from ..errors import ModelProblem
from ..process.child import stage
from ..runtime import libraries, placement, providers, sessions
from ..runtime.inputs import Case, feeds
from ..runtime.plugins import PLUGINS, device_memory
from ..runtime.protos import Array
from ..runtime.providers import Way
from ..runtime.sessions import CannotRun
from ..system.installed import runtime
from .settings import Setting
from .statistics import is_steady

MODELS = ORIGINAL, FOLDED = "original", "folded"
COPY = "copy"  # the original once more, in a session of its own: what differs between these two is noise
REST_RUNS = 2  # runs at the start of each turn that are not counted: the other session's threads come to rest
WARM_RUNS, WARM_SECONDS = 20, 0.2
Outputs = Mapping[str, tuple[Sequence[int], str]]  # shape and dtype of those that are tensors


@dataclass
class Runner:
    """`submit` starts a run, `finish` waits until all that was started is done; in most modes `submit` waits itself.

    `fetch` gives the outputs that are tensors of numbers.
    """

    session: Any
    submit: Callable[[], Any]
    finish: Callable[[], Any]
    fetch: Callable[[], dict[str, Array]] = dict
    create_ms: float = 0.0
    first_ms: float = 0.0
    blocks: list[list[float]] = field(default_factory=list)

    def once(self) -> float:
        """Seconds of one submission."""
        started = time.perf_counter()
        self.submit()
        return time.perf_counter() - started

    def whole(self) -> float:
        """Seconds until the result of one run is there."""
        started = time.perf_counter()
        self.submit()
        self.finish()
        return time.perf_counter() - started

    def warm(self, deadline: float) -> None:
        """Run until times are steady, `WARM_RUNS` times and `WARM_SECONDS` at least, unless the time for it is over."""
        times = [self.whole() for _ in range(3)]
        while time.perf_counter() < deadline and not self._is_warm(times):
            times.append(self.whole())

    def _is_warm(self, times: Sequence[float]) -> bool:
        return len(times) >= WARM_RUNS and sum(times) >= WARM_SECONDS and is_steady(times)

    def block(self, count: int) -> None:
        """Time one more block of `count` runs."""
        for _ in range(REST_RUNS):
            self.submit()
        self.finish()
        self.blocks.append([self.once() for _ in range(count)])
        self.finish()

    def typical(self) -> float:
        """Seconds of a run, roughly."""
        return median(self.whole() for _ in range(3))


@dataclass(frozen=True)
class TimedCell:
    """One cell of a benchmark: its number, the setting, the models, the inputs, and shape and dtype of the outputs."""

    number: int
    setting: Setting
    models: dict[str, str]
    values: dict[str, Array]
    outputs: Outputs


def timed_cell(request: Mapping[str, Any], number: int) -> TimedCell:
    """The cell of this number in `request["cells"]`."""
    cell = request["cells"][number]
    graph = onnx.load(request["original"], load_external_data=False).graph
    values = feeds(graph, Case("normal", 0, 1), cell["sizes"])
    return TimedCell(number, Setting.of(cell["setting"]), cell["models"], values, cell["outputs"])


def runners(request: Mapping[str, Any], tasks: Sequence[TimedCell], name: str) -> Iterator[Runner]:
    """One session of the model `name` for all `tasks`, after its first run of each, one by one. Raises ModelProblem."""
    setting = tasks[0].setting
    stage(f"onnxruntime, loading the {name} model: {setting.words()}")
    libraries.preload(setting.provider)
    started = time.perf_counter()
    session = open_session({**request, **tasks[0].models}, name, setting, tasks[0].values)
    created = time.perf_counter() - started
    for each in tasks:
        yield _runner(session, name, each, 1e3 * created)


def _runner(session: Any, name: str, of: TimedCell, create_ms: float) -> Runner:
    made = Runner(session, *calls(session, of.setting, of.values, of.outputs), create_ms)
    try:
        made.first_ms = 1e3 * made.whole()
    except Exception as why:  # onnxruntime's exceptions have no common base
        raise ModelProblem(
            f"onnxruntime cannot run the {name} model ({of.setting.words()}): {sessions.one_line(why)}", _SAYS_MORE
        ) from why
    return made


_SAYS_MORE = "`bnfold verify` says more about what differs; a model that onnxruntime cannot run cannot be timed."


def open_session(
    request: Mapping[str, Any], name: str, setting: Setting, values: Mapping[str, Array] | None = None
) -> Any:
    """A session of `request[name]`. Raises ModelProblem."""
    path = request["original" if name == COPY else name]
    options = sessions.options(setting.level, threads=request["threads"], entries=_ENTRIES)
    try:
        return sessions.session(path, options, setting.chain(_engine(request, name, setting, values or {})))
    except CannotRun as why:
        raise cannot_load(path, why) from why


def cannot_load(path: str, why: CannotRun) -> ModelProblem:
    """The error for a model that onnxruntime does not load."""
    return ModelProblem(f"onnxruntime cannot load {path}: {why}", _SAYS_MORE)


_ENTRIES = {"session.record_ep_graph_assignment_info": "1"}


def _engine(request: Mapping[str, Any], name: str, setting: Setting, values: Mapping[str, Array]) -> dict[str, str]:
    """Options of a provider that compiles: engines are kept under names of their own, timings in one file."""
    key = hashlib.sha256(f"{name} {setting.words()}".encode()).hexdigest()[:16]
    shapes = {name: x.shape for name, x in values.items()}
    return providers.profile(setting.way, [shapes]) | providers.cached(setting.way, request["folder"], key)


def calls(
    session: Any, setting: Setting, values: Mapping[str, Array], outputs: Outputs
) -> tuple[Callable[[], Any], Callable[[], Any], Callable[[], dict[str, Array]]]:
    """Three functions: one starts a run in the mode of `setting`, one waits for its end, one gives its outputs."""
    names = [output.name for output in session.get_outputs()]

    def numbers(made: Sequence[Any]) -> dict[str, Array]:
        return {name: value for name, value in zip(names, made, strict=True) if name in outputs}

    if setting.mode == "e2e":
        run = partial(session.run, names, dict(values))
        return run, _nothing, lambda: numbers(run())
    binding = _bound(session, memory(setting.way), names, values, outputs)
    run = partial(session.run_with_iobinding, binding, run_options(setting.mode))
    return run, binding.synchronize_outputs, lambda: numbers(binding.copy_outputs_to_cpu())


def _nothing() -> None:
    """A `finish` that has nothing to wait for."""


def run_options(mode: str) -> Any:
    """The options of a run: in mode enqueue it returns before the device is done."""
    made = runtime().RunOptions()
    if mode == "enqueue":
        made.add_run_config_entry("disable_synchronize_execution_providers", "1")
    return made


def _bound(
    session: Any, where: Mapping[str, Any], names: Sequence[str], values: Mapping[str, Array], outputs: Outputs
) -> Any:
    """Inputs, and outputs of known shape, at fixed places in the memory `where`: a CUDA graph needs that."""
    room = runtime().OrtValue.ortvalue_from_shape_and_type
    binding = session.io_binding()
    for name, value in values.items():
        binding.bind_ortvalue_input(name, _put(value, where))
    for name in names:
        if name in outputs:
            shape, dtype = outputs[name]
            binding.bind_ortvalue_output(name, room(list(shape), _dtype(dtype), **where))
        else:
            binding.bind_output(name, where.get("device_type") or room([1], float, **where).device_name())
    return binding


def _put(value: Array, where: Mapping[str, Any]) -> Any:
    """An OrtValue that holds `value`."""
    values = runtime().OrtValue
    if "device_type" in where:
        return values.ortvalue_from_numpy(value, **where)
    made = values.ortvalue_from_shape_and_type(list(value.shape), value.dtype.type, **where)
    made.update_inplace(value)
    return made


def memory(way: Way) -> dict[str, Any]:
    """Where tensors are kept for a provider, in onnxruntime's words; the CPU's memory if a plug-in offers none."""
    if plugin := PLUGINS.get(way.provider):
        own = device_memory(plugin)
        return {"device_type": "cpu"} if own is None else {"memory_info": own}
    return {"device_type": "cuda" if way.gpu else "cpu"}


def _dtype(name: str) -> Any:
    import numpy as np

    return np.dtype(name).type


def placement_counts(session: Any) -> dict[str, int]:
    """How many nodes each provider got, where this onnxruntime says so."""
    counts: dict[str, int] = {}
    for node in placement.assigned(session):
        counts[node.provider] = counts.get(node.provider, 0) + 1
    return counts


def size_on_disk(path: str) -> int:
    """Size of a model, external data included."""
    tensors = onnx.load(path, load_external_data=False).graph.initializer
    places = {entry.value for t in tensors for entry in t.external_data if entry.key == "location"}
    files = [Path(path), *(Path(path).parent / place for place in sorted(places))]
    return sum(file.stat().st_size for file in files)
