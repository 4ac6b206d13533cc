"""`benchmark`: launches of fresh processes, one after another, until the answer is narrow or the time is spent."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from .. import processors, temporary
from ..errors import FOREVER, Inconclusive, require_within
from ..installed import require_runtime
from ..models import Model
from ..process import child
from ..progress import tell
from ..runtime.doctor import require
from ..verification.verifying import described, located
from .answers import blocks, cell, notes
from .environment import environment
from .nvml import gpus
from .results import Benchmark, Cold
from .runner import MODELS
from .settings import LEVELS, Dims, Setting, settings
from .statistics import MARGIN, speedup

NARROW = 0.005  # half-width of the interval at which more launches would tell nothing new
FEWEST = 3
LEAST_SECONDS = 0.2  # of timing in one launch
PATIENCE = {"cpu": 60.0, "cuda": 300.0}  # after which a child is stopped
COMPILING = 1800.0  # the same, of a provider that compiles graphs: engines take minutes


def benchmark(
    original: Model,
    folded: Model,
    *,
    launches: int = 7,
    budget_s: float = 30.0,
    dims: Dims | None = None,
    levels: Sequence[str] = LEVELS,
    providers: Sequence[str] = ("cpu",),
    mode: str | None = None,
    cuda_graph: str = "off",
    margin: float = MARGIN,
    threads: int | None = None,
    seed: int = 0,
) -> Benchmark:
    """Compare the latency of two models on onnxruntime, its graph optimization off and at its default.

    Each of up to `launches` fresh processes, in about `budget_s` seconds altogether, times both models, and the
    original once more, in interleaved blocks and gives one log ratio; the interval is over those. Stops early when
    every interval is narrow, never because a difference looks significant. `dims` sets dynamic dimensions (a symbolic
    name, or `input/axis`; a dynamic batch is 1 otherwise), each to a size or to several; `levels` are levels of
    onnxruntime's graph optimization; `providers` are cpu, cuda, tensorrt, tensorrt-rtx; `mode` is e2e (numpy in and
    out; usual on the CPU), device (I/O binding; usual on a GPU) or enqueue (submission alone); `cuda_graph` is off, on
    or both; a difference below `margin` is none; `threads` run an operator (default: one for each processor we may
    use). Raises ModelProblem where a model cannot be run, EnvironmentProblem where a provider cannot, Inconclusive
    where onnxruntime does not survive it.
    """
    require_within("--launches", launches, 2, 1000)
    require_within("--budget", budget_s, LEAST_SECONDS, FOREVER)
    require_within("--threads", 1 if threads is None else threads, 1, processors.MOST)
    require_within("--margin", margin, 0, 1)
    require_runtime("a benchmark")
    asked = settings(levels, providers, mode, dims or {}, cuda_graph)
    started = time.perf_counter()
    with located(original) as first, located(folded) as second, temporary.folder() as engines:
        require(name for name in providers if name != "cpu")
        request = {"original": str(first), "folded": str(second), "threads": threads or processors.threads()}
        session = Session({**request, "engines": engines, "seed": seed}, asked, launches, started + budget_s)
        session.models = {"original": described(first), "folded": described(second)}
        session.run()
    return _report(session, margin, time.perf_counter() - started)


@dataclass
class Session:
    """A benchmark under way: what is asked, what is known, the answers so far."""

    request: dict[str, Any]
    asked: Sequence[Setting]
    launches: int
    deadline: float
    models: dict[str, dict[str, Any]] = field(default_factory=dict)
    around: dict[str, Any] = field(default_factory=dict)
    facts: dict[str, dict[str, Any]] = field(default_factory=dict)  # of each provider
    cells: list[dict[str, Any]] = field(default_factory=list)
    cold: list[Cold] = field(default_factory=list)
    answers: list[list[dict[str, Any]]] = field(default_factory=list)  # per launch, per setting

    def run(self) -> None:
        """Survey, cold costs, launches."""
        self.around = {**environment(), "threads": self.request["threads"], "gpus": gpus()}
        for provider in dict.fromkeys(each.provider for each in self.asked):
            self.facts[provider] = self.child("survey", provider, {"dims": self._dims()}, self._left())
        self.cells = [self._cell(each) for each in self.asked]
        self.cold = [Cold(*key, **answer) for key, answer in self._alone()]
        self._launch()

    def _left(self) -> float:
        return max(LEAST_SECONDS, self.deadline - time.perf_counter())

    def _dims(self) -> list[tuple[tuple[str, int], ...]]:
        return list(dict.fromkeys(each.dims for each in self.asked))

    def _cell(self, setting: Setting) -> dict[str, Any]:
        sized = self.facts[setting.provider]["sized"][self._dims().index(setting.dims)]
        return {"setting": setting.to_json(), **sized}

    def _alone(self) -> Iterator[tuple[tuple[str, str], dict[str, Any]]]:
        """Both models on each provider, at its first setting of the level that users serve with."""
        for provider in self.facts:
            mine = [cell for cell in self.cells if cell["setting"]["provider"] == provider]
            served = next((cell for cell in mine if cell["setting"]["level"] == "default"), mine[0])
            for name in MODELS:
                with temporary.folder() as engines:  # nothing built or timed before is of help
                    asked = {"alone": name, "cells": [served], "engines": engines}
                    yield (provider, name), self.child("alone", provider, asked, self._left())

    def _launch(self) -> None:
        """At least `FEWEST` (or all that were asked for), then more while intervals are wide and time is left."""
        patient = max(self.facts, key=lambda provider: PATIENCE.get(provider, COMPILING))
        lasted = around = 0.0  # of the last launch: all of it, and what of it was not timing
        for number in range(self.launches):
            tell("bench: launches", number, self.launches)
            left = self.deadline - time.perf_counter()
            if number >= min(FEWEST, self.launches) and (self._narrow() or left < lasted):
                break
            seconds = max(LEAST_SECONDS, left / (self.launches - number) - around)
            started = time.perf_counter()
            asked = {"cells": self.cells, "seconds": seconds, "seed": self.request["seed"] * 1000 + number}
            self.answers.append(self.child("launch", patient, asked, seconds)["cells"])
            lasted = time.perf_counter() - started
            around = max(0.0, lasted - seconds)

    def _narrow(self) -> bool:
        """Are the intervals of all settings, and of their controls, narrow?"""
        keys = ("log_ratio", "log_control")
        columns = ([one[key] for one in each] for each in zip(*self.answers, strict=True) for key in keys)
        return all(speedup(ratios).half_width <= NARROW for ratios in columns)

    @property
    def gpu(self) -> bool:
        return any(each.provider != "cpu" for each in self.asked)

    def child(self, job: str, provider: str, more: Mapping[str, Any], seconds: float) -> dict[str, Any]:
        """The answer of a child. Raises Inconclusive if it does not survive."""
        asked = {**self.request, "provider": provider, **more}
        try:
            patience = PATIENCE.get(provider, COMPILING)
            return child.run(job, asked, seconds=max(patience, 4 * seconds), reserves=self.gpu)
        except child.Crashed as why:
            raise Inconclusive(str(why), "onnxruntime does not survive this model here; nothing was timed.") from why


def _report(session: Session, margin: float, seconds: float) -> Benchmark:
    facts = next(iter(session.facts.values()))
    columns = zip(session.asked, zip(*session.answers, strict=True), strict=True)
    cells = tuple(cell(setting, found, session.facts[setting.provider], margin) for setting, found in columns)
    loaded = {name: version for each in session.facts.values() for name, version in each["loaded"].items()}
    around = {**session.around, "onnxruntime_build": facts["build"], "loaded": loaded, "gpus_after": gpus()}
    keys = ("batch_normalization", "left_by_onnxruntime", "nodes", "same_graph")
    return Benchmark(
        cells,
        tuple(session.cold),
        session.cells[0]["shapes"],
        **{key: facts[key] for key in keys},
        environment=around,
        launches=len(session.answers),
        margin=margin,
        notes=notes(around, session.facts, cells),
        seconds=seconds,
        blocks=blocks(session.asked, session.answers),
        models=session.models,
    )
