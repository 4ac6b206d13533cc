"""A child process for work that native code may not survive: checkers and runtimes can segfault on legal models.

The child is a fresh interpreter that imports only what the job needs; request and answer are JSON files. A crash, a
timeout or a lack of memory in the child comes back as the exception `Crashed`, whose text is a sentence that says what
was being done.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import asdict
from importlib import import_module
from pathlib import Path
from typing import Any

from ..errors import BnfoldError, EnvironmentProblem, ModelProblem, UsageProblem
from ..system import temporary
from ..system.limits import UNCAPPED, Limits, Watch, cap, current, tied, within
from ..system.progress import Listener, heard, tell

JOBS = {  # the only functions a child runs: name -> module, function
    "structure": ("bnfold.verification.structure", "check"),
    "numbers": ("bnfold.verification.numbers", "compare"),
    "probe": ("bnfold.runtime.probe", "probe"),
    "launch": ("bnfold.benchmarking.launch", "launch"),
    "survey": ("bnfold.benchmarking.launch", "survey"),
    "alone": ("bnfold.benchmarking.launch", "alone"),
    "captured": ("bnfold.benchmarking.launch", "captured"),
    "crash": ("bnfold.process.child", "_crash"),
}
_KINDS = {kind.__name__: kind for kind in (ModelProblem, UsageProblem, EnvironmentProblem)}
_START = "import sys; sys.path.append(sys.argv[1]); from bnfold.process.child import serve; serve(*sys.argv[2:])"
PAUSE = 0.25  # seconds between two looks at what a child holds, and at how far it is
PROGRESS = "progress"
# Many small matrix products: the threads of numpy's library would mostly wait for each other.
_CALM = {"OPENBLAS_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}
_stage_file: Path | None = None


class Crashed(Exception):
    """The child did not come back with an answer; the text says what it was doing and how it ended."""


def stage(doing: str) -> None:
    """Note what the child is about to do, so that a crash can be told from its last words."""
    if _stage_file:
        _stage_file.write_text(doing, encoding="utf-8")


def run(
    job: str,
    request: Mapping[str, Any],
    *,
    seconds: float,
    environment: Mapping[str, str] | None = None,
    reserves: bool = False,
) -> dict[str, Any]:
    """Run one of `JOBS` in a child, which usually has `seconds`, within the limits in force; returns its answer.

    `environment` is added to what the child sees of this process's own. A child that `reserves` memory, as CUDA does,
    far more of it than it uses, is only watched; any other is refused what exceeds the limit.

    Raises `Crashed` if it dies or exceeds a limit, and passes on the errors bnfold raises on purpose.
    """
    limits = current()
    told = json.dumps({**asdict(limits), "seconds": 0}), "" if reserves else "capped", str(os.getpid())
    with temporary.folder() as folder:
        names = ("ask.json", "answer.json", "stage", "noise", PROGRESS)
        asked, answer, doing, noise, progress = (Path(folder, name) for name in names)
        asked.write_text(json.dumps(dict(request)), encoding="utf-8")
        command = [sys.executable, "-P", "-c", _START, str(Path(__file__).parents[2]), job, folder, *told]
        with noise.open("wb") as stream:
            around = _CALM | os.environ | {**(environment or {}), "TMPDIR": folder}  # what it leaves goes with it
            status = _wait(command, stream, around, limits, seconds, progress)
        if os.path.exists(answer) and status == 0:
            return _answer(json.loads(answer.read_text(encoding="utf-8")))
        raise Crashed(_last_words(status, doing, noise))


def _wait(
    command: list[str], noise: Any, environment: dict[str, str], limits: Limits, usual: float, progress: Path
) -> int | str:
    """The exit status of `command`, or which limit it exceeded, so that it had to be stopped."""
    with subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=noise, stderr=noise, env=environment) as process:
        watch = Watch(process.pid, limits.time(usual), limits.bytes())
        try:
            while process.poll() is None:
                if why := watch.broken():
                    return why
                with suppress(subprocess.TimeoutExpired):
                    process.wait(PAUSE)
                _pass_on(progress)
        finally:
            process.kill()
            process.wait()
    return process.returncode


def _pass_on(progress: Path) -> None:
    """Say what the child has noted of how far it is."""
    with suppress(OSError, ValueError):  # nothing yet, or half of it
        tell(*json.loads(progress.read_text(encoding="utf-8")))


def _noted(progress: Path) -> Listener:
    """The child's listener, which notes what it is told in a file, a few times a second."""
    next_time = 0.0

    def note(*told: str | float) -> None:
        nonlocal next_time
        if time.monotonic() >= next_time:
            progress.write_text(json.dumps(told), encoding="utf-8")
            next_time = time.monotonic() + PAUSE

    return note


def _answer(answer: dict[str, Any]) -> dict[str, Any]:
    if "defect" in answer:
        raise RuntimeError(answer["defect"])
    if "error" in answer:
        raise _KINDS[answer["error"]](answer["message"], answer["hint"])
    return answer


def _last_words(status: int | str, doing: Path, noise: Path) -> str:
    what = doing.read_text(encoding="utf-8") if os.path.exists(doing) else "the start of a child process"
    if isinstance(status, str):
        return f"{what} {status}"
    if status < 0:
        return f"{what} crashed ({signal.Signals(-status).name})"
    lines = noise.read_text(encoding="utf-8", errors="replace").strip().splitlines()
    return f"{what} failed: {lines[-1] if lines else f'exit status {status}'}"


def serve(job: str, folder: str, limits: str, capped: str, parent: str) -> None:
    """The child's side: read the request, do the job, write the answer."""
    global _stage_file
    tied(int(parent))
    _stage_file = Path(folder, "stage")
    held_to = Limits(**json.loads(limits))
    cap(held_to.bytes() if capped else UNCAPPED)
    module, function = JOBS[job]
    try:
        with within(held_to), heard(_noted(Path(folder, PROGRESS))):
            answer = getattr(import_module(module), function)(
                json.loads(Path(folder, "ask.json").read_text(encoding="utf-8"))
            )
    except BnfoldError as problem:
        answer = {"error": type(problem).__name__, "message": str(problem), "hint": problem.hint}
    except Exception as defect:
        if _is_memory(defect):
            raise SystemExit("out of memory") from defect
        answer = {"defect": f"{type(defect).__name__}: {defect}"}
    Path(folder, "answer.json").write_text(json.dumps(answer), encoding="utf-8")
    sys.stderr.flush()
    os._exit(0)  # nothing is left to do: native clean-up of a broken model may still crash


def _is_memory(defect: BaseException) -> bool:
    return isinstance(defect, MemoryError) or "bad_alloc" in str(defect)


def _crash(request: dict[str, Any]) -> dict[str, Any]:
    """Die on purpose, for the tests of this file: by a signal, by memory, by time, or by an error."""
    stage("a crash on purpose")
    if "signal" in request:
        os.kill(os.getpid(), request["signal"])
    if "bytes" in request:
        return {"length": len(bytearray(request["bytes"]))}
    if "seconds" in request:
        signal.pause()
    raise ModelProblem("a problem on purpose", "Nothing to do.")
