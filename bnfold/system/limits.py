"""Limits on what a model, which may come from a stranger, may cost in time and memory; real networks stay far below.

The limits in force are a property of the context, as numpy's `errstate` is: `within` sets them for a block, `current`
returns them, and the processes that we start get them, too. The command line says `--limit nodes=1000 --limit
memory=8GB`.
"""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from contextvars import ContextVar
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

from ..errors import FOREVER, EnvironmentProblem, UsageProblem, require_within
from . import sizes

MEMORY_SHARE = 0.8  # of the machine's memory that one process may have by default
HIGHEST_LIMIT = {"nodes": 1 << 53, "elements": 1 << 53, "seconds": FOREVER, "memory": 1 << 62}
PLANNING = 600.0  # seconds in which a fold is planned
UNCAPPED = -1
UNKNOWN = 8 << 30  # bytes, where the system does not say how much it has
SOON = 1e-6  # seconds; a timer of 0 would never ring
PR_SET_PDEATHSIG = 1  # https://man7.org/linux/man-pages/man2/PR_SET_PDEATHSIG.2const.html
CONTAINER = "/sys/fs/cgroup/memory.max"  # https://docs.kernel.org/admin-guide/cgroup-v2.html


@dataclass(frozen=True)
class Limits:
    """`nodes` of a model, its functions expanded at every call; `elements` of a tensor that is computed; `seconds` that
    a process may work (0: what is usual for its task, minutes for most); `memory` in bytes that a process may hold (0:
    0.8 of the machine's). Raises UsageProblem for what is none."""

    nodes: int = 2_000_000
    elements: int = 1 << 28
    seconds: float = 0
    memory: int = 0

    def __post_init__(self) -> None:
        for each in fields(self):
            require_within(f"the limit of {each.name}", getattr(self, each.name), 0, HIGHEST_LIMIT[each.name])

    def time(self, usual: float) -> float:
        """The seconds for a task that usually has `usual`."""
        return self.seconds or usual

    def bytes(self) -> int:
        """The memory for one process."""
        return self.memory or most_memory()


DEFAULTS = Limits()
_in_force: ContextVar[Limits] = ContextVar("limits", default=DEFAULTS)


def current() -> Limits:
    """The limits in force."""
    return _in_force.get()


@contextmanager
def within(limits: Limits) -> Iterator[None]:
    """Other limits for a block."""
    token = _in_force.set(limits)
    try:
        yield
    finally:
        _in_force.reset(token)


@contextmanager
def limited(texts: Sequence[str]) -> Iterator[None]:
    """The limits of a command line in force for a block, that on memory for this process, too. See `parse_limits`."""
    with within(parse_limits(texts)), capped():
        yield


def parse_limits(texts: Sequence[str]) -> Limits:
    """`nodes=1000`, `seconds=60`, `memory=8GB`, .. as limits. Raises UsageProblem for what is none."""
    return Limits(**dict(map(_parsed, texts)))


def _parsed(text: str) -> tuple[str, Any]:
    name, _, value = text.partition("=")
    number, known = sizes.parse(value), [each.name for each in fields(Limits)]
    if name not in known or not number:
        raise UsageProblem(
            f"--limit {text} is not a limit",
            f"Write NAME=NUMBER, as memory=8GB; the names are {', '.join(known)}. {sizes.UNITS}",
        )
    return name, number if name == "seconds" else int(number)


def most_memory() -> int:
    """The default limit of memory, in bytes: a share of what the machine has, or of what its container may have."""
    sizes = []
    with suppress(AttributeError, ValueError, OSError):
        sizes.append(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"))
    with suppress(ValueError, OSError):  # "max" where there is no limit
        sizes.append(int(Path(CONTAINER).read_text(encoding="ascii")))
    return int(MEMORY_SHARE * min(sizes, default=UNKNOWN))


def cap(most: int) -> int:
    """Cap the private memory this process may ask for (not on Windows); beyond it allocations fail.

    UNCAPPED leaves only the system's own limit. Returns the former cap.
    """
    if sys.platform == "win32":
        return UNCAPPED
    import resource

    soft, hard = resource.getrlimit(resource.RLIMIT_DATA)
    with suppress(ValueError, OSError):  # the system's own limit may be lower
        resource.setrlimit(resource.RLIMIT_DATA, (hard if most == UNCAPPED else most, hard))
    return soft


@contextmanager
def capped() -> Iterator[None]:
    """Cap this process's memory for a block. Raises EnvironmentProblem where that is too little."""
    former = cap(current().bytes())
    try:
        yield
    except MemoryError as why:
        raise EnvironmentProblem(f"more than {sizes.words(current().bytes())} of memory would be needed", MORE) from why
    finally:
        cap(former)


MORE = "If the file is to be trusted, --limit allows more: seconds=3600, memory=32GB."


class _Late(BaseException):
    """The time is over; not an Exception, so that nobody on the way takes it for a fault of the model."""


@contextmanager
def timed(doing: str, usual: float) -> Iterator[None]:
    """Stop a block of Python code after its time. Raises EnvironmentProblem.

    Only where signals come, in the main thread of a POSIX system; and native code must return first.
    """
    if not hasattr(signal, "setitimer") or threading.current_thread() is not threading.main_thread():
        yield
        return
    seconds = current().time(usual)
    try:
        with alarm(seconds, _Late()):
            yield
    except _Late as why:
        raise EnvironmentProblem(f"{doing} took longer than {seconds:g} s and was stopped", MORE) from why


@contextmanager
def alarm(seconds: float, late: BaseException) -> Iterator[None]:
    """Raise `late` in the middle of a block that takes longer; in the main thread of a POSIX system only.

    Within another one, the alarm that is due first rings; the other one goes on after the block.
    """
    outer = signal.getitimer(signal.ITIMER_REAL)[0]
    if 0 < outer <= seconds:
        yield
        return

    def ring(number: int, frame: object) -> None:
        raise late

    former, started = signal.signal(signal.SIGALRM, ring), time.monotonic()
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, former)
        if outer:
            signal.setitimer(signal.ITIMER_REAL, max(outer - (time.monotonic() - started), SOON))


def end_with_parent(parent: int) -> None:
    """Let the system kill this process as soon as `parent`, the process that started it, is gone (on Linux)."""
    if sys.platform != "linux":
        return
    import ctypes

    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    if os.getppid() != parent:  # it was gone before
        os._exit(1)


@dataclass
class ProcessWatch:
    """Looks at a process that was just started, whether it stays within `seconds` and within `memory` bytes."""

    process: int
    seconds: float
    memory: int
    started: float = field(default_factory=time.monotonic)

    def broken(self) -> str:
        """The limit it exceeded, as the end of a sentence that begins with what it does; "" where it exceeds none."""
        if time.monotonic() - self.started > self.seconds:
            return f"took longer than {self.seconds:g} s and was stopped"
        if memory_of(self.process) > self.memory:
            return f"used more than {sizes.words(self.memory)} of memory and was stopped"
        return ""


def memory_of(process: int) -> int:
    """The bytes of memory that a process holds, files that are mapped left out; 0 where the system does not say."""
    with suppress(OSError, ValueError, IndexError), open(f"/proc/{process}/statm") as statm:
        _, resident, shared, *_ = map(int, statm.read().split())
        return (resident - shared) * os.sysconf("SC_PAGE_SIZE")
    return 0
