"""One model, folded in a process of its own: plain data in, plain data out, for whoever runs many of them."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Mapping, Sequence
from contextlib import ExitStack, suppress
from dataclasses import asdict
from pathlib import Path
from shlex import quote
from typing import Any

from ..display.junit import broken_off
from ..errors import BnfoldError, EnvironmentProblem
from ..process import launcher
from ..process.endings import Failed, Stopped
from ..process.jobs import job
from ..system import staging
from ..system.interrupts import interruptible
from ..system.limits import MORE, Limits, capped, within
from .pipeline import FoldReport, Options, failed_target, fold_file

FOLD_SECONDS = 14_400.0  # for one model; more than what everything that it starts may usually take together
PAUSE = 0.02  # seconds between two looks at a process
GRACE = 10.0  # seconds in which a process that has to stop may clean up

Plain = dict[str, Any]


def fold_apart(request: Mapping[str, Any]) -> Plain:
    """Fold one model in a fresh interpreter: the worker of every engine.

    `request` is plain data, as `fleet.Task.request` makes it: `folder`, from where `source` and `target` are found,
    `options` (the fields of `pipeline.Options`), `strict`, `threads`, `limits` (those of `limits.Limits`). So is the
    answer: `exit_code` (as the command line has it), `error` and `hint` ("" if all is well), `report` (schema
    `bnfold.fold/1`, or None), `checks` (for JUnit) and `seconds`. What is wrong with a model, even a crash, is an
    answer and no exception. KeyboardInterrupt stops the process and all that it started, and leaves nothing half
    written.

    Any engine that maps a function over plain data can run a fleet with it (Ray does in `engines`; Dask, or an array
    of batch jobs, would): where it runs, bnfold is installed and the paths lead to the files.
    """
    running = Running(request)
    try:
        while not running.ended:
            time.sleep(PAUSE)
    except BaseException:
        stop([running])
        raise
    return running.answer()


class Running:
    """A process that folds one model, in a session of its own, so that all it starts can be stopped with it."""

    def __init__(self, request: Mapping[str, Any]) -> None:
        self.request, self.started = request, time.perf_counter()
        environment = {**os.environ, "BNFOLD_THREADS": str(request["threads"])}
        with within(Limits(**request["limits"])), ExitStack() as stack:
            child = launcher.started(
                fold_one, request, seconds=FOLD_SECONDS, environment=environment, capped=False, leads=True
            )
            self.child = stack.enter_context(child)
            self._leave = stack.pop_all()

    @property
    def ended(self) -> bool:
        """Whether it is over; one that exceeds its limits is ended now."""
        return self.child.ended

    def answer(self) -> Plain:
        """The answer of the process; where it gave none, an error that says how it ended."""
        doing, sound = f"the process that folds {self.request['source']}", True
        try:
            answer = self.child.answer(doing)
        except (Failed, RuntimeError) as why:
            answer, sound = failure(self._problem(doing, why)), False
        self.close(sound)
        return {**answer, "seconds": time.perf_counter() - self.started}

    def _problem(self, doing: str, why: Exception) -> BnfoldError:
        if self.child.exceeded:
            return EnvironmentProblem(str(why), MORE)
        if isinstance(why, Stopped):
            return EnvironmentProblem(f"{doing} was killed", "Most often memory was short: try fewer --jobs.")
        if isinstance(why, Failed):
            return BnfoldError(str(why), "Please report it with the model.")
        return BnfoldError(f"{doing} failed: {why}", "Please report it.")

    def close(self, sound: bool) -> None:
        """Leave nothing of an ended process: no process that it started, no half-written file."""
        self._leave.close()
        if not sound:
            sweep(self.request)


def sweep(request: Mapping[str, Any]) -> None:
    """Remove what a worker that did not live to do so has left half written.

    Where its own child has yet to end, which the system sees to, that is waited for.
    """
    target, deadline = Path(request["folder"], request["target"]), time.monotonic() + GRACE
    for path in (target, failed_target(target)):
        with suppress(EnvironmentProblem):  # where the folder is locked, what is left goes with the next fold
            while not staging.sweep(path) and time.monotonic() < deadline:
                time.sleep(PAUSE)


def stop(running: Sequence[Running]) -> None:
    """Stop processes: each may clean up, but not for long."""
    for each in running:
        each.child.send(signal.SIGTERM)
    deadline = time.monotonic() + GRACE
    for each in running:
        with suppress(subprocess.TimeoutExpired):
            each.child.process.wait(max(0.0, deadline - time.monotonic()))
        each.close(sound=False)


@job
def fold_one(request: Plain) -> Plain:
    """What the new process does. It is interrupted as by Ctrl-C, and its answer is never an exception."""
    interruptible()
    try:
        _enter(request["folder"])
        with within(Limits(**request["limits"])), capped():
            report = fold_file(Path(request["source"]), Path(request["target"]), Options(**request["options"]))
        return success(report, request["strict"])
    except BnfoldError as problem:
        return failure(problem)
    except Exception as defect:
        words = f"internal error: {type(defect).__name__}: {defect}".splitlines()[0]
        return failure(BnfoldError(words, "Fold this model alone with BNFOLD_DEBUG=1 to see where, and report it."))


def _enter(folder: str) -> None:
    try:
        os.chdir(folder)
    except OSError as problem:
        raise EnvironmentProblem(
            f"{folder} cannot be entered: {problem.strerror}", "The files must be where the worker runs, too."
        ) from problem


def success(report: FoldReport, strict: bool) -> Plain:
    """The answer about a model that was folded; with `strict`, one in which something was kept has failed."""
    kept = len(report.result.batch_norms_kept) if strict else 0
    why = f"`bnfold explain {quote(str(report.source))}` says why."
    error, hint = (f"{kept} BatchNormalization kept", why) if kept else ("", "")
    checks = [asdict(check) for check in report.checks(strict)]
    return {
        "exit_code": int(bool(kept)),
        "error": error,
        "hint": hint,
        "report": report.to_json(),
        "checks": checks,
    }


def failure(problem: BnfoldError) -> Plain:
    """The answer about a model that was not folded."""
    return {
        "exit_code": problem.exit_code,
        "error": str(problem),
        "hint": problem.hint,
        "report": None,
        "checks": [asdict(broken_off("fold", problem))],
    }
