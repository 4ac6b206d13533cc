"""Native code on models of strangers, in a fork that may crash, hang or take all memory: this process goes on."""

from __future__ import annotations

import gc
import os
import select
import signal
import sys
import threading
import time
from collections.abc import Callable
from functools import partial
from typing import NoReturn

from ..errors import first_line
from ..system.limits import cap, current, end_with_parent
from .endings import Failed as Failed
from .endings import Stopped as Stopped
from .endings import ending

FORK_SECONDS = 120.0
RETURNED, RAISED, SHORT_OF_MEMORY = b"+", b"-", b"!"  # the first byte of a fork's answer


def guarded(doing: str, call: Callable[[], bytes | None], seconds: float = FORK_SECONDS) -> bytes:
    """The bytes that `call` returns, from a fork of this process, which takes milliseconds. Raises `Failed`,
    `Stopped` where it met a limit.

    It usually has `seconds`; see `limits` for these and for its memory. Only bytes come back, which nobody
    unpickles: a model that takes over the fork can send no object. Where a process has several threads, or on macOS, a
    fork is not safe, and on Windows there is none: there the call is made in this process.
    """
    return start_guarded(doing, call, seconds)()


def start_guarded(doing: str, call: Callable[[], bytes | None], seconds: float = FORK_SECONDS) -> Callable[..., bytes]:
    """`guarded` in two steps: what is returned waits for the answer, and there is time for something else meanwhile.

    Called with `wanted=False` it stops the fork and returns nothing. Where there can be no fork, the call is made
    before anything else.
    """
    if not hasattr(os, "fork") or sys.platform == "darwin" or threading.active_count() > 1:
        outcome = _outcome(call)
        return lambda wanted=True: _answer(outcome) if wanted else b""
    seconds = current().time(seconds)
    ours, theirs = os.pipe()
    sys.stdout.flush()
    sys.stderr.flush()
    parent, collects = os.getpid(), gc.isenabled()
    gc.disable()  # garbage is not the fork's to collect: an onnxruntime session would wait for threads it does not have
    child = os.fork()
    if not child:
        _serve(call, theirs, parent)
    if collects:
        gc.enable()
    os.close(theirs)
    return partial(_awaited, doing, child, ours, time.monotonic() + seconds, seconds)


def _awaited(doing: str, child: int, pipe: int, deadline: float, seconds: float, wanted: bool = True) -> bytes:
    outcome = None
    try:
        with open(pipe, "rb") as stream:
            outcome = _read(stream.fileno(), deadline) if wanted else None
    finally:
        if outcome is None:
            os.kill(child, signal.SIGKILL)
        status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    if not wanted:
        return b""
    if outcome is None:
        raise Stopped(f"{doing} took longer than {seconds:g} s and was stopped")
    if status:
        raise ending(doing, status)
    return _answer(outcome)


def _serve(call: Callable[[], bytes | None], pipe: int, parent: int) -> NoReturn:
    """The fork's side. It must not return: what comes after the call belongs to the parent process."""
    try:
        end_with_parent(parent)
        cap(current().bytes())
        outcome = _outcome(call)
        while outcome:
            outcome = outcome[os.write(pipe, outcome) :]
        os._exit(0)
    finally:
        os._exit(1)


def _outcome(call: Callable[[], bytes | None]) -> bytes:
    """RETURNED and what the call returned, RAISED and the error, or SHORT_OF_MEMORY and the words for that."""
    try:
        return RETURNED + (call() or b"")
    except MemoryError:
        return SHORT_OF_MEMORY + b"there is not enough memory"
    except Exception as why:  # of onnx's checker and of protobuf, which have no class in common
        return RAISED + first_line(why).encode(errors="replace")


def _answer(outcome: bytes) -> bytes:
    if outcome.startswith(SHORT_OF_MEMORY):
        raise Stopped(outcome.removeprefix(SHORT_OF_MEMORY).decode())
    if not outcome.startswith(RETURNED):
        raise Failed(outcome.removeprefix(RAISED).decode(errors="replace"))
    return outcome.removeprefix(RETURNED)


def _read(pipe: int, deadline: float) -> bytes | None:
    """Everything that is written into a pipe until it is closed; None if that takes too long."""
    blocks: list[bytes] = []
    while select.select([pipe], [], [], max(0.0, deadline - time.monotonic()))[0]:
        block = os.read(pipe, 1 << 20)
        if not block:
            return b"".join(blocks)
        blocks.append(block)
    return None
