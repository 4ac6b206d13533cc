"""A benchmark under way: a preflight, cold starts, then launches until intervals are narrow or the time is over."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextvars import copy_context
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from ..errors import EnvironmentProblem, Inconclusive, ModelProblem
from ..process import launcher, turns
from ..process.endings import Failed, Stopped
from ..process.jobs import Job
from ..runtime.doctor import require_providers
from ..runtime.nvml import states
from ..runtime.providers import Way
from ..system import temporary
from ..system.progress import report
from .environment import environment
from .launch import capture_graph, cold_start, launch
from .preflight import preflight
from .results import Cold
from .runner import MODELS
from .settings import Setting
from .statistics import speedup

NARROW_ENOUGH = 0.005  # half-width of the interval at which more launches would show nothing new
FEWEST = 3
LEAST_SECONDS = 0.2  # of timing in one launch
LEAST_START = 8.0  # seconds that a cold start with another search may take, whatever the budget
OTHER = {"exhaustive": "default", "heuristic": "exhaustive", "default": "exhaustive"}  # search of cuDNN to compare
CHILD_SECONDS = {"cpu": 60.0, "cuda": 300.0}  # seconds after which a child is stopped
COMPILING = 1800.0  # the same, of a provider that compiles graphs: engines take minutes
ONE_AFTER_ANOTHER = "launches got ready one after another: when they did so at the same time, one failed"

_VARIED = ("dims", "precision")

GRAPHS_NEED = (
    "A CUDA graph needs every node on CUDA, no control flow, and outputs whose shapes the inputs fix; "
    "`bnfold verify` says which nodes are on the CPU."
)


@dataclass
class Measurement:
    """A benchmark under way: what is to be measured, facts about it, the answers so far."""

    request: dict[str, Any]
    settings: Sequence[Setting]
    launches: int
    deadline: float
    starts_cold: bool = True
    models: dict[str, dict[str, Any]] = field(default_factory=dict)
    around: dict[str, Any] = field(default_factory=dict)
    facts: dict[str, Any] = field(default_factory=dict)
    cells: list[dict[str, Any]] = field(default_factory=list)
    cold: list[Cold] = field(default_factory=list)
    answers: list[list[dict[str, Any]]] = field(default_factory=list)  # per launch, per setting
    notes: list[str] = field(default_factory=list)
    longest: float = 0.0  # seconds of a child that timed nothing

    def run(self) -> None:
        """Preflight, cold starts, launches."""
        self.around = {**environment(), "threads": self.request["threads"], "gpus": states()}
        dims, precisions = (list(dict.fromkeys(getattr(each, of) for each in self.settings)) for of in _VARIED)
        gpu = next((plain for name in self.gpus if (plain := Way(name).plain) != "cpu"), "")
        self.facts = self._preflight({"dims": dims, "precisions": precisions, "gpu": gpu})
        self.cells = [
            {
                "setting": each.to_json(),
                "models": self.facts["precisions"][each.precision]["models"],
                **self.facts["sized"][dims.index(each.dims)],
            }
            for each in self.settings
        ]
        self._require_graphs()
        if self.starts_cold:
            self._start_cold()
        self._launch()

    def _preflight(self, request: Mapping[str, Any]) -> dict[str, Any]:
        """The facts, collected while the providers are tried: whether these run comes first."""
        started = time.perf_counter()
        with ThreadPoolExecutor(1) as pool:
            tried = pool.submit(copy_context().run, require_providers, self.gpus)
            try:
                return self.child(preflight, "cpu", request)
            finally:
                tried.result()
                self.longest = time.perf_counter() - started

    def _require_graphs(self) -> None:
        """Leave the cells with a CUDA graph out, with a note, where onnxruntime can capture none.

        That is tried in a process of its own: a capture that fails may leave CUDA in a state in which nothing works.
        Raises ModelProblem if no cells would be left.
        """
        graphs = [cell for cell in self.cells if cell["setting"]["cuda_graph"]]
        try:
            for precision in dict.fromkeys(cell["setting"]["precision"] for cell in graphs):
                first = next(cell for cell in graphs if cell["setting"]["precision"] == precision)
                self.child(capture_graph, first["setting"]["provider"], {"cells": [first]})
        except (ModelProblem, Inconclusive) as why:
            if len(graphs) == len(self.cells):
                raise ModelProblem(f"no CUDA graph: {why}", GRAPHS_NEED) from why
            self.notes += [f"no CUDA graph: {why}", GRAPHS_NEED]
            self.cells = [cell for cell in self.cells if not cell["setting"]["cuda_graph"]]
            self.settings = [each for each in self.settings if not each.cuda_graph]

    def _start_cold(self) -> None:
        """Both models on each provider, at its first setting of the level that users serve with.

        On CUDA also with another search, which is much of what a start costs, as long as that fits into the budget.
        """
        for provider in dict.fromkeys(each.provider for each in self.settings):
            mine = [cell for cell in self.cells if cell["setting"]["provider"] == provider]
            served = next((cell for cell in mine if cell["setting"]["level"] == "default"), mine[0])
            for name in MODELS:
                self._cold_start(served, name)
            if provider == "cuda":
                search = OTHER[served["setting"]["cudnn_search"]]
                self._start_other({**served, "setting": {**served["setting"], "cudnn_search": search}})

    def _start_other(self, cell: dict[str, Any]) -> None:
        for name in MODELS:
            try:
                self._cold_start(cell, name, max(LEAST_START, (self.deadline - time.perf_counter()) / 4))
            except Inconclusive as why:
                self.notes.append(f"cold start: {why}")

    def _cold_start(self, cell: dict[str, Any], name: str, patience: float | None = None) -> None:
        setting = Setting.of(cell["setting"])
        with temporary.folder() as engines:  # nothing built or timed before is of help
            more = {"model": name, "cells": [cell], "folder": engines}
            answer = self.child(cold_start, setting.provider, more, patience=patience)
        self.cold.append(Cold(setting.provider, name, **answer, cudnn_search=setting.cudnn_search))

    def _launch(self) -> None:
        """At least `FEWEST` (or all that were asked for), then more while intervals are wide and time is left."""
        size = FEWEST if self._may_get_ready_together else 1
        lasted, around = 0.0, self.longest  # seconds of the last launches: in all, and those that were not timing
        while (done := len(self.answers)) < self.launches:
            report("bench: launches", done, self.launches)
            left, count = self.deadline - time.perf_counter(), min(size, self.launches - done)
            if done >= min(FEWEST, self.launches) and (self._narrow() or left < lasted):
                break
            seconds = max(LEAST_SECONDS, left / (self.launches - done) - around / count)
            started = time.perf_counter()
            try:
                self._timed(range(done, done + count), seconds)
            except (ModelProblem, Inconclusive, EnvironmentProblem) as why:
                if count == 1:
                    raise
                size = 1
                self.notes.append(f"{ONE_AFTER_ANOTHER}: {why}")
            lasted = time.perf_counter() - started
            around = max(0.0, lasted - count * seconds)

    @property
    def _may_get_ready_together(self) -> bool:
        """On a GPU that takes turns, getting ready is what lasts; not where it compares kernels by timing them."""
        return all(each.provider == "cuda" and each.cudnn_search != "exhaustive" for each in self.settings)

    def _timed(self, numbers: Sequence[int], seconds: float) -> None:
        """A launch for each number; several get ready at the same time and are timed one after another."""
        patient = max((each.provider for each in self.settings), key=patience_of)
        seeds = [self.request["seed"] * 1000 + number for number in numbers]
        plain: list[dict[str, Any]] = [{"cells": self.cells, "seconds": seconds, "seed": seed} for seed in seeds]

        def start(request: dict[str, Any], **turn: Any) -> dict[str, Any]:
            return self.child(launch, patient, {**request, **turn}, seconds * len(plain))

        several = len(plain) > 1
        answers = turns.together([partial(start, each) for each in plain]) if several else [start(plain[0])]
        self.answers += [answer["cells"] for answer in answers]
        self.around |= {"loaded": answers[0]["loaded"], "gpus_timing": answers[0]["gpus"]}
        self.notes += [note for note in answers[0]["notes"] if note not in self.notes]

    def _narrow(self) -> bool:
        """Are the intervals of all settings, and of their controls, narrow?"""
        keys = ("log_ratio", "log_control")
        columns = ([one[key] for one in each] for each in zip(*self.answers, strict=True) for key in keys)
        return all(speedup(ratios).half_width <= NARROW_ENOUGH for ratios in columns)

    @property
    def gpus(self) -> list[str]:
        """The providers that are not the CPU."""
        return list(dict.fromkeys(each.provider for each in self.settings if each.way.gpu))

    def child(
        self, job: Job, provider: str, more: Mapping[str, Any], timing: float = 0.0, patience: float | None = None
    ) -> dict[str, Any]:
        """The answer of a child, which may take `patience` seconds, or what is usual if `timing` of them are for that.

        Raises EnvironmentProblem if it meets a limit of time or memory, Inconclusive if it does not survive.
        """
        started = time.perf_counter()
        usual = max(patience_of(provider), 4 * (timing or self.deadline - started))
        try:
            answer = launcher.run(job, {**self.request, **more}, seconds=patience or usual, reserves=bool(self.gpus))
        except Stopped as why:
            raise EnvironmentProblem(
                str(why), "Nothing was timed; `--limit seconds=...` or memory=... gives it more."
            ) from why
        except Failed as why:
            raise Inconclusive(str(why), "onnxruntime does not survive this model here; nothing was timed.") from why
        if not timing and not patience:
            self.longest = max(self.longest, time.perf_counter() - started)
        return answer


def patience_of(provider: str) -> float:
    """Seconds after which a child on this provider is usually stopped."""
    return CHILD_SECONDS.get(provider, COMPILING)
