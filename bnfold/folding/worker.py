"""One model, folded in a process of its own: plain data in, plain data out, for whoever runs many of them."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from shlex import quote
from typing import Any

from ..display.junit import broken_off
from ..errors import BnfoldError, EnvironmentProblem
from ..system import staging
from ..system.interrupts import interruptible
from ..system.limits import MORE, Limits, Watch, capped, tied, within
from .pipeline import FoldReport, Options, failed_target, fold_file

SECONDS = 14_400.0  # for one model; more than what everything that it starts may usually take together
PAUSE = 0.02  # seconds between two looks at a process
GRACE = 10.0  # seconds in which a process that was told to stop may clean up
_START = "import sys; sys.path.append(sys.argv[1]); from bnfold.folding.worker import serve; serve(*sys.argv[2:])"

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
        self.place = tempfile.TemporaryDirectory(prefix="bnfold-")
        self.told, self.noise = (Path(self.place.name, name) for name in ("answer.json", "noise"))
        Path(self.place.name, "ask.json").write_text(json.dumps(dict(request)), encoding="utf-8")
        told = str(Path(__file__).parents[1]), self.place.name, str(os.getpid())
        environment = {**os.environ, "BNFOLD_THREADS": str(request["threads"]), "TMPDIR": self.place.name}
        with self.noise.open("wb") as noise:
            self.process = subprocess.Popen(
                [sys.executable, "-P", "-c", _START, *told],
                stdin=subprocess.DEVNULL,
                stdout=noise,
                stderr=noise,
                env=environment,
                start_new_session=True,
            )

        limits = Limits(**request["limits"])
        self.watch, self.exceeded = Watch(self.process.pid, limits.time(SECONDS), limits.bytes()), ""

    @property
    def ended(self) -> bool:
        """Whether it is over; one that exceeds its limits is ended now."""
        if self.process.poll() is None and (why := self.watch.broken()):
            self.exceeded = why
            self.send(getattr(signal, "SIGKILL", signal.SIGTERM))
            self.process.wait()
        return self.process.poll() is not None

    def answer(self) -> Plain:
        """What the process found; where it did not live to tell, how it ended."""
        sound = self.process.returncode == 0 and os.path.exists(self.told)
        answer = json.loads(self.told.read_text(encoding="utf-8")) if sound else failure(self._last_words())
        self.close(sound)
        return {**answer, "seconds": time.perf_counter() - self.started}

    def _last_words(self) -> BnfoldError:
        status, doing = self.process.returncode, f"the process that folds {self.request['source']}"
        if self.exceeded:
            return EnvironmentProblem(f"{doing} {self.exceeded}", MORE)
        if status == -signal.SIGKILL:
            return EnvironmentProblem(f"{doing} was killed", "Most often memory was short: try fewer --jobs.")
        if status < 0:
            return BnfoldError(f"{doing} crashed ({signal.Signals(-status).name})", "Please report it with the model.")
        lines = self.noise.read_text(encoding="utf-8", errors="replace").strip().splitlines()
        return BnfoldError(f"{doing} failed: {lines[-1] if lines else f'exit status {status}'}", "Please report it.")

    def send(self, number: int) -> None:
        """Send a signal to the process and to all that it started."""
        with suppress(ProcessLookupError):
            os.killpg(self.process.pid, number) if hasattr(os, "killpg") else self.process.terminate()

    def close(self, sound: bool) -> None:
        """Leave nothing of an ended process: no process that it started, no half-written file."""
        self.send(getattr(signal, "SIGKILL", signal.SIGTERM))
        if not sound:
            sweep(self.request)
        self.place.cleanup()


def sweep(request: Mapping[str, Any]) -> None:
    """Remove what a worker that did not live to do so has left half written."""
    target = Path(request["folder"], request["target"])
    for path in (target, failed_target(target)):
        with suppress(EnvironmentProblem):  # where the folder is locked, what is left goes with the next fold
            staging.sweep(path)


def stop(running: Sequence[Running]) -> None:
    """Stop processes: each may clean up, but not for long."""
    for each in running:
        each.send(signal.SIGTERM)
    deadline = time.monotonic() + GRACE
    for each in running:
        try:
            each.process.wait(max(0.0, deadline - time.monotonic()))
        except subprocess.TimeoutExpired:
            each.send(getattr(signal, "SIGKILL", signal.SIGTERM))
            each.process.wait()
        each.close(sound=False)


def serve(place: str, parent: str) -> None:
    """The side of the new process: read the request, fold, write the answer. It is interrupted as by Ctrl-C."""
    tied(int(parent))
    interruptible()
    request = json.loads(Path(place, "ask.json").read_text(encoding="utf-8"))
    Path(place, "answer.json").write_text(json.dumps(_answered(request)), encoding="utf-8")


def _answered(request: Mapping[str, Any]) -> Plain:
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
