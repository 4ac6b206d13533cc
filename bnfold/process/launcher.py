"""Where every child process is started: a fresh interpreter that imports only what its job needs.

For work that native code may not survive: checkers and runtimes can segfault on legal models. Request and answer are
JSON files in a temporary folder. A crash, a timeout or a lack of memory in the child comes back as the exception
`Failed` (or `Stopped`), whose text is a sentence that says what was being done.
"""

from __future__ import annotations

import json
import os
import select
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from contextvars import ContextVar
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from ..errors import EnvironmentProblem, ModelProblem, UsageProblem
from ..system import temporary
from ..system.limits import ProcessWatch, current
from ..system.progress import report
from . import jobs
from .child import ANSWER, GO, NOTE_PAUSE, PRINTED, PROGRESS, REQUEST, STAGE
from .endings import Stopped, ending

KILL = getattr(signal, "SIGKILL", signal.SIGTERM)
_KINDS = {kind.__name__: kind for kind in (ModelProblem, UsageProblem, EnvironmentProblem)}
_START = "import sys; sys.path.append(sys.argv[1]); from bnfold.process.child import serve; serve(*sys.argv[2:])"
# Many small matrix products: the threads of numpy's library would mostly wait for each other.
_CALM = {"OPENBLAS_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}


def run(
    job: jobs.Job,
    request: Mapping[str, Any],
    *,
    seconds: float,
    environment: Mapping[str, str] | None = None,
    reserves: bool = False,
) -> dict[str, Any]:
    """Do a registered job in a child, which usually has `seconds`, within the limits in force; returns its answer.

    `environment` is added to what the child sees of this process's own. A child that `reserves` memory, as CUDA does,
    far more of it than it uses, is only watched; any other is refused what exceeds the limit.

    Raises `Failed` if it dies or exceeds a limit, and passes on the errors bnfold raises on purpose.
    """
    around = _around(environment)
    spare = _spare.get()
    if spare and spare.order == _order(job, around, not reserves):
        _spare.set(None)
        spare.begin(request, seconds)
        return _answer(spare)
    with started(job, request, seconds=seconds, environment=around, capped=not reserves) as child:
        return _answer(child)


@contextmanager
def prepared(job: jobs.Job) -> Iterator[None]:
    """A block in which a child gets ready for `job`, for the first `run` of it there.

    To start an interpreter and to import onnx and onnxruntime takes 0.3 s, as long as a small model is verified:
    python -m tests.benchmarks.proof_cost mobilenetv3_small_100
    """
    with _waiting(job, _around(), capped=True, leads=False) as child:
        token = _spare.set(child)
        try:
            yield
        finally:
            _spare.reset(token)


_spare: ContextVar[Child | None] = ContextVar("spare", default=None)


def _around(environment: Mapping[str, str] | None = None) -> dict[str, str]:
    return _CALM | os.environ | dict(environment or {})


def _order(job: jobs.Job, environment: Mapping[str, str], capped: bool) -> tuple[object, ...]:
    """What a child has to be started with."""
    return jobs.name(job), environment, current(), capped


def _answer(child: Child) -> dict[str, Any]:
    while not child.ended:
        child.wait(NOTE_PAUSE)
        _pass_on(Path(child.folder, PROGRESS))
    return child.answer()


@contextmanager
def started(
    job: jobs.Job,
    request: Mapping[str, Any],
    *,
    seconds: float,
    environment: Mapping[str, str],
    capped: bool = True,
    leads: bool = False,
) -> Iterator[Child]:
    """A child that works at `job` while the block runs; after the block it is gone, and its folder with it.

    One that `leads` has a session of its own: signals go to it and to all that it started.
    """
    with _waiting(job, environment, capped, leads) as child:
        child.begin(request, seconds)
        yield child


@contextmanager
def _waiting(job: jobs.Job, environment: Mapping[str, str], capped: bool, leads: bool) -> Iterator[Child]:
    """A child that imports what it needs for `job`, and waits for its request."""
    words = json.dumps({**asdict(current()), "seconds": 0}), "capped" if capped else "", str(os.getpid())
    with temporary.folder() as folder:
        around = {**environment, "TMPDIR": folder}  # what it leaves goes with it
        with _interpreter([jobs.name(job), folder, *words], Path(folder, PRINTED), around, leads) as process:
            child = Child(process, folder, leads, _order(job, environment, capped))
            try:
                yield child
            finally:
                child.send(KILL)
                process.wait()


def _interpreter(
    arguments: list[str], noise: Path, environment: Mapping[str, str], leads: bool
) -> subprocess.Popen[bytes]:
    """A fresh interpreter that serves, by these arguments; what it prints goes into a file."""
    command = [sys.executable, "-P", "-c", _START, str(Path(__file__).parents[2]), *arguments]
    with noise.open("wb") as out:
        return subprocess.Popen(
            command, 0, stdin=subprocess.PIPE, stdout=out, stderr=out, env=environment, start_new_session=leads
        )


@dataclass
class Child:
    """A process that was started for a job."""

    process: subprocess.Popen[bytes]
    folder: str
    leads: bool
    order: tuple[object, ...]
    watch: ProcessWatch | None = None
    exceeded: str = ""

    def begin(self, request: Mapping[str, Any], seconds: float) -> None:
        """Let it do its job, for which it usually has `seconds`, within the limits in force."""
        Path(self.folder, REQUEST).write_text(json.dumps(dict(request)), encoding="utf-8")
        self.watch = ProcessWatch(self.process.pid, current().time(seconds), current().bytes())
        with suppress(BrokenPipeError):  # of one that did not live to read it
            assert self.process.stdin is not None
            self.process.stdin.write(GO)

    def wait(self, seconds: float) -> None:
        """Until it has ended, or for so long: its end breaks the pipe; `Popen.wait` looks now and then."""
        if self.process.stdin and hasattr(select, "poll"):
            looking = select.poll()
            looking.register(self.process.stdin, 0)
            if not looking.poll(1000 * seconds):
                return
        with suppress(subprocess.TimeoutExpired):
            self.process.wait(seconds)

    @property
    def ended(self) -> bool:
        """Whether the process has ended; one that exceeds its limits is killed now."""
        if self.process.poll() is None and self.watch and (why := self.watch.broken()):
            self.exceeded = why
            self.send(KILL)
            self.process.wait()
        return self.process.poll() is not None

    def send(self, number: int) -> None:
        """Send a signal, also to all that a leader started, which may still be there when it has ended."""
        if self.leads and hasattr(os, "killpg"):
            with suppress(ProcessLookupError):
                os.killpg(self.process.pid, number)
        else:
            self.process.send_signal(number)

    def answer(self, doing: str = "") -> dict[str, Any]:
        """What the job returned, of a child that has ended; raises what it raised, or `Failed`.

        `doing` begins the sentence of a failure; by default it is what the child said last.
        """
        path, status = Path(self.folder, ANSWER), self.process.returncode
        if status == 0 and os.path.exists(path):
            return _returned(json.loads(path.read_text(encoding="utf-8")))
        said = Path(self.folder, STAGE)
        last = said.read_text(encoding="utf-8") if os.path.exists(said) else "the start of a child process"
        if self.exceeded:
            raise Stopped(f"{doing or last} {self.exceeded}")
        raise ending(doing or last, status, Path(self.folder, PRINTED).read_text(encoding="utf-8", errors="replace"))


def _returned(answer: dict[str, Any]) -> dict[str, Any]:
    if "defect" in answer:
        raise RuntimeError(answer["defect"])
    if "raised" in answer:
        raise _KINDS[answer["raised"]](answer["message"], answer["hint"])
    return dict(answer["returned"])


def _pass_on(progress: Path) -> None:
    """Say what the child has noted of how far it is."""
    with suppress(OSError, ValueError):  # nothing yet, or half of it
        report(*json.loads(progress.read_text(encoding="utf-8")))
