"""A benchmark under way: a survey, cold starts, then launches until intervals are narrow or the time is over."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextvars import copy_context
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from .. import temporary
from ..errors import Inconclusive, ModelProblem
from ..process import child
from ..progress import tell
from ..runtime.doctor import require
from . import turns
from .environment import environment
from .nvml import gpus
from .results import Cold
from .runner import MODELS
from .settings import Setting
from .statistics import speedup

NARROW = 0.005  # half-width of the interval at which more launches would tell nothing new
FEWEST = 3
LEAST_SECONDS = 0.2  # of timing in one launch
PATIENCE = {"cpu": 60.0, "cuda": 300.0, "tensorrt": 1800.0}  # after which a child is stopped; engines take minutes
APART = "launches got ready one after another: when they did so at the same time, one failed"

_SURVEYED = ("dims", "precision")


@dataclass
class Session:
    """What is to be measured, what is known, the answers so far."""

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
    loaded: dict[str, str] = field(default_factory=dict)  # versions of a GPU's libraries
    notes: list[str] = field(default_factory=list)
    longest: float = 0.0  # seconds of a child that timed nothing

    def run(self) -> None:
        """Survey, cold costs, launches."""
        self.around = {**environment(), "threads": self.request["threads"], "gpus": gpus()}
        dims, precisions = (list(dict.fromkeys(getattr(each, of) for each in self.settings)) for of in _SURVEYED)
        self.facts = self._surveyed({"dims": dims, "precisions": precisions, "gpu": bool(self.gpus)})
        self.cells = [
            {
                "setting": each.to_json(),
                "models": self.facts["precisions"][each.precision]["models"],
                **self.facts["sized"][dims.index(each.dims)],
            }
            for each in self.settings
        ]
        self.cold = [Cold(*key, **answer) for key, answer in self._alone()] if self.starts_cold else []
        self._launch()

    def _surveyed(self, request: Mapping[str, Any]) -> dict[str, Any]:
        """The facts, found while the providers are tried: whether these run comes first."""
        with ThreadPoolExecutor(1) as pool:
            tried = pool.submit(copy_context().run, require, self.gpus)
            try:
                return self.child("survey", "cpu", request)
            finally:
                tried.result()

    def _alone(self) -> Iterator[tuple[tuple[str, str], dict[str, Any]]]:
        """Both models on each provider, at its first setting of the level that users serve with."""
        for provider in dict.fromkeys(each.provider for each in self.settings):
            mine = [cell for cell in self.cells if cell["setting"]["provider"] == provider]
            served = next((cell for cell in mine if cell["setting"]["level"] == "default"), mine[0])
            for name in MODELS:
                with temporary.folder() as engines:  # nothing built or timed before is of help
                    more = {"alone": name, "cells": [served], "folder": engines}
                    yield (provider, name), self.child("alone", provider, more)

    def _launch(self) -> None:
        """At least `FEWEST` (or all that were asked for), then more while intervals are wide and time is left."""
        size = FEWEST if self._may_get_ready_together else 1
        lasted, around = 0.0, self.longest  # of the last launches: all of it, and what of it was not timing
        while (done := len(self.answers)) < self.launches:
            tell("bench: launches", done, self.launches)
            left, count = self.deadline - time.perf_counter(), min(size, self.launches - done)
            if done >= min(FEWEST, self.launches) and (self._narrow() or left < lasted):
                break
            seconds = max(LEAST_SECONDS, left / (self.launches - done) - around / count)
            started = time.perf_counter()
            try:
                self._timed(range(done, done + count), seconds)
            except (ModelProblem, Inconclusive):
                if count == 1:
                    raise
                size = 1
                self.notes.append(APART)
            lasted = time.perf_counter() - started
            around = max(0.0, lasted - count * seconds)

    @property
    def _may_get_ready_together(self) -> bool:
        """On a GPU that takes turns, getting ready is what lasts; not where it compares kernels by timing them."""
        return all(each.provider == "cuda" and each.cudnn_search != "exhaustive" for each in self.settings)

    def _timed(self, numbers: Sequence[int], seconds: float) -> None:
        """One launch each, got ready at the same time if there are several, and timed one after another."""
        patient = max((each.provider for each in self.settings), key=lambda provider: PATIENCE[provider])
        seeds = [self.request["seed"] * 1000 + number for number in numbers]
        plain: list[dict[str, Any]] = [{"cells": self.cells, "seconds": seconds, "seed": seed} for seed in seeds]

        def start(request: dict[str, Any], **turn: Any) -> dict[str, Any]:
            return self.child("launch", patient, {**request, **turn}, seconds * len(plain))

        several = len(plain) > 1
        found = turns.together([partial(start, each) for each in plain]) if several else [start(plain[0])]
        self.answers += [answer["cells"] for answer in found]
        self.loaded = found[0]["loaded"]

    def _narrow(self) -> bool:
        """Are the intervals of all settings, and of their controls, narrow?"""
        keys = ("log_ratio", "log_control")
        columns = ([one[key] for one in each] for each in zip(*self.answers, strict=True) for key in keys)
        return all(speedup(ratios).half_width <= NARROW for ratios in columns)

    @property
    def gpus(self) -> list[str]:
        """The providers that are not the CPU."""
        return list(dict.fromkeys(each.provider for each in self.settings if each.way.gpu))

    def child(self, job: str, provider: str, more: Mapping[str, Any], seconds: float | None = None) -> dict[str, Any]:
        """The answer of a child, `seconds` of whose time are for timing. Raises Inconclusive if it does not survive."""
        started, timing = time.perf_counter(), seconds or max(LEAST_SECONDS, self.deadline - time.perf_counter())
        try:
            answer = child.run(
                job,
                {**self.request, **more},
                seconds=max(PATIENCE[provider], 4 * timing),
                reserves=bool(self.gpus),
            )
        except child.Crashed as why:
            raise Inconclusive(str(why), "onnxruntime does not survive this model here; nothing was timed.") from why
        if seconds is None:
            self.longest = max(self.longest, time.perf_counter() - started)
        return answer
