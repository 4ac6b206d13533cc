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
import tempfile
from collections.abc import Mapping
from importlib import import_module
from pathlib import Path
from typing import Any

from ..errors import BnfoldError, EnvironmentProblem, ModelProblem, UsageProblem

JOBS = {  # the only functions a child runs: name -> module, function
    "structure": ("bnfold.verification.structure", "check"),
    "numbers": ("bnfold.verification.numbers", "compare"),
    "probe": ("bnfold.verification.probe", "probe"),
    "launch": ("bnfold.bench.launch", "launch"),
    "survey": ("bnfold.bench.launch", "survey"),
    "alone": ("bnfold.bench.launch", "alone"),
    "crash": ("bnfold.verification.child", "_crash"),
}
_KINDS = {kind.__name__: kind for kind in (ModelProblem, UsageProblem, EnvironmentProblem)}
_START = "import sys; sys.path.append(sys.argv[1]); from bnfold.verification.child import serve; serve(*sys.argv[2:])"
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
    memory: int | None = None,
    environment: Mapping[str, str] | None = None,
) -> dict[str, Any]:
    """Run one of `JOBS` in a child with at most `seconds` of time and `memory` bytes; returns its answer.

    `environment` is added to what the child sees of this process's own.

    Raises `Crashed` if it dies or exceeds a limit, and passes on the errors bnfold raises on purpose.
    """
    with tempfile.TemporaryDirectory(prefix="bnfold-") as folder:
        asked, answer, doing, noise = (Path(folder, name) for name in ("ask.json", "answer.json", "stage", "noise"))
        asked.write_text(json.dumps(dict(request)), encoding="utf-8")
        command = [sys.executable, "-P", "-c", _START, str(Path(__file__).parents[2]), job, folder, str(memory or 0)]
        with noise.open("wb") as stream:
            status = _wait(command, stream, seconds, _CALM | os.environ | dict(environment or {}))
        if answer.exists() and status == 0:
            return _answer(json.loads(answer.read_text(encoding="utf-8")))
        raise Crashed(_last_words(status, doing, noise, seconds))


def most_memory() -> int:
    """A limit that keeps a child from taking the machine down: most of its memory (0: the system does not tell)."""
    try:
        return int(0.8 * os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"))
    except (AttributeError, ValueError, OSError):
        return 0


def _wait(command: list[str], noise: Any, seconds: float, environment: dict[str, str]) -> int | None:
    """The exit status of `command`, or None if it had to be stopped after `seconds`."""
    try:
        return subprocess.run(
            command, stdin=subprocess.DEVNULL, stdout=noise, stderr=noise, timeout=seconds, env=environment
        ).returncode
    except subprocess.TimeoutExpired:
        return None


def _answer(answer: dict[str, Any]) -> dict[str, Any]:
    if "defect" in answer:
        raise RuntimeError(answer["defect"])
    if "error" in answer:
        raise _KINDS[answer["error"]](answer["message"], answer["hint"])
    return answer


def _last_words(status: int | None, doing: Path, noise: Path, seconds: float) -> str:
    what = doing.read_text(encoding="utf-8") if doing.exists() else "the start of a child process"
    if status is None:
        return f"{what} took longer than {seconds:g} s and was stopped"
    if status < 0:
        return f"{what} crashed ({signal.Signals(-status).name})"
    lines = noise.read_text(encoding="utf-8", errors="replace").strip().splitlines()
    return f"{what} failed: {lines[-1] if lines else f'exit status {status}'}"


def serve(job: str, folder: str, memory: str) -> None:
    """The child's side: read the request, do the job, write the answer."""
    global _stage_file
    _stage_file = Path(folder, "stage")
    _limit(int(memory))
    module, function = JOBS[job]
    try:
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


def _limit(memory: int) -> None:
    """Cap the memory this process may ask for, where the system can (not on Windows)."""
    if memory and sys.platform != "win32":
        import resource

        hard = resource.getrlimit(resource.RLIMIT_DATA)[1]
        resource.setrlimit(resource.RLIMIT_DATA, (memory, hard))


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
