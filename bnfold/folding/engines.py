"""Who runs the worker processes of a fleet: this machine, or a Ray cluster. The worker is the same."""

from __future__ import annotations

import logging
import os
import signal
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any, Protocol

from ..errors import EnvironmentProblem, UsageProblem, first_line
from ..system.installed import need
from ..system.interrupts import ENDING
from .worker import GRACE, PAUSE, Plain, Running, failure, fold_apart, stop, sweep

ENGINES = ("local", "ray")
THREADS_PER_MODEL = 2  # processors of one model on a cluster


class Engine(Protocol):
    """Runs workers; a handle stands for one that was started."""

    def start(self, request: Mapping[str, Any]) -> Any: ...

    def ended(self, handles: Sequence[Any]) -> list[Any]:
        """Those that have ended; waits a moment if none has."""

    def answer(self, handle: Any) -> Plain: ...

    def stop(self, handles: Sequence[Any]) -> None:
        """Stop them all, and come back when they have cleaned up."""


def run_requests(
    engine: Engine, requests: Sequence[Mapping[str, Any]], jobs: int, on_answer: Callable[[int, Plain], None]
) -> list[Plain]:
    """The answer to every request, in their order; at most `jobs` at a time. `on_answer` gets each as it comes.

    A signal to end stops all workers before KeyboardInterrupt is raised.
    """
    answers: dict[int, Plain] = {}
    running: dict[Any, int] = {}
    with noted_signals() as signals:
        try:
            while len(answers) < len(requests) and not signals:
                while len(running) < min(jobs, len(requests) - len(answers)):
                    number = len(answers) + len(running)
                    running[engine.start(requests[number])] = number
                for handle in engine.ended(list(running)):
                    number = running.pop(handle)
                    answers[number] = engine.answer(handle)
                    on_answer(number, answers[number])
        finally:
            engine.stop(list(running))
        if signals:
            raise KeyboardInterrupt
    return [answers[number] for number in range(len(requests))]


@contextmanager
def noted_signals() -> Iterator[list[int]]:
    """Within the block, signals that end a process are put on a list, so that no step is left half done."""
    signals: list[int] = []
    try:
        former = {
            number: signal.signal(number, lambda number, _: signals.append(number))
            for number in ENDING
            if signal.getsignal(number) is not signal.SIG_IGN
        }
    except ValueError:  # not in the main thread, to which signals come
        former = {}
    try:
        yield signals
    finally:
        for number, handler in former.items():
            signal.signal(number, handler)


def open_engine(name: str) -> AbstractContextManager[Engine]:
    """The engine of that name. Raises UsageProblem if there is none, EnvironmentProblem if it cannot start."""
    if name not in ENGINES:
        raise UsageProblem(f"unknown choice {name!r} for --engine", f"Choose one of: {', '.join(ENGINES)}.")
    return _on_ray() if name == "ray" else nullcontext(Local())


class Local:
    """Processes of this machine."""

    def start(self, request: Mapping[str, Any]) -> Running:
        return Running(request)

    def ended(self, handles: Sequence[Running]) -> list[Running]:
        time.sleep(PAUSE)
        return [each for each in handles if each.ended]

    def answer(self, handle: Running) -> Plain:
        return handle.answer()

    def stop(self, handles: Sequence[Running]) -> None:
        stop(handles)


class OnRay:
    """Tasks of a Ray cluster, each of which asks for the processors that it uses."""

    def __init__(self, ray: Any) -> None:
        self.ray = ray
        most = max(node["Resources"].get("CPU", 1) for node in ray.nodes() if node["Alive"])
        self.threads = max(1, min(THREADS_PER_MODEL, int(most)))
        self.requests: dict[Any, Mapping[str, Any]] = {}
        self.task = ray.remote(num_cpus=self.threads, max_retries=0)(fold_apart)

    def start(self, request: Mapping[str, Any]) -> Any:
        handle = self.task.remote({**request, "threads": self.threads})
        self.requests[handle] = request
        return handle

    def ended(self, handles: Sequence[Any]) -> list[Any]:
        return list(self.ray.wait(handles, timeout=PAUSE)[0])

    def answer(self, handle: Any) -> Plain:
        try:
            return dict(self.ray.get(handle))
        except self.ray.exceptions.RayError as why:
            sweep(self.requests[handle])
            lines = str(why).strip().splitlines() or [type(why).__name__]
            hint = "bnfold and the files must be on every node, the files under the same paths."
            return {**failure(EnvironmentProblem(f"Ray could not run the worker: {lines[-1]}", hint)), "seconds": 0.0}

    def stop(self, handles: Sequence[Any]) -> None:
        for handle in handles:
            self.ray.cancel(handle)
        if handles:
            self.ray.wait(handles, num_returns=len(handles), timeout=2 * GRACE)


@contextmanager
def _on_ray() -> Iterator[OnRay]:
    """The cluster that Ray finds (RAY_ADDRESS), or one of this machine alone, which ends with us."""
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # of a cluster that we start: nothing is sent anywhere
    need("ray", extra="fleet", what="--engine ray")
    import ray

    try:
        ray.init(include_dashboard=False, log_to_driver=False, logging_level=logging.ERROR)
    except (ConnectionError, RuntimeError, OSError) as why:
        raise EnvironmentProblem(
            f"Ray does not start: {first_line(why)}", "Is RAY_ADDRESS right? `ray status` says more."
        ) from why
    try:
        yield OnRay(ray)
    finally:
        ray.shutdown()
