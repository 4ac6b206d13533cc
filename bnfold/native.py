"""Native code on models that we did not make: a fork that may crash, hang or swallow memory, and we live on."""

from __future__ import annotations

import os
import pickle
import select
import signal
import sys
import threading
import time
from collections.abc import Callable
from typing import Any, NoReturn

from .limits import cap, current

SECONDS = 120.0


class Failed(Exception):
    """The call raised an error, or did not come back; the text says which, in one line."""


def guarded(doing: str, call: Callable[[], Any], seconds: float = SECONDS) -> Any:
    """What `call` returns, from a fork of this process, which takes milliseconds. Raises `Failed`.

    It usually has `seconds`; see `limits` for these and for its memory.

    The answer must be one that pickle takes. Where a process has several threads, or on macOS, a fork is not safe, and
    on Windows there is none: there the call is made in this process.
    """
    if not hasattr(os, "fork") or sys.platform == "darwin" or threading.active_count() > 1:
        return _answer(_outcome(call))
    seconds = current().time(seconds)
    ours, theirs = os.pipe()
    sys.stdout.flush()
    sys.stderr.flush()
    child = os.fork()
    if not child:
        _serve(call, theirs)
    os.close(theirs)
    with open(ours, "rb") as stream:
        told = _read(stream.fileno(), time.monotonic() + seconds)
    if told is None:
        os.kill(child, signal.SIGKILL)
    status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    if told is None:
        raise Failed(f"{doing} took longer than {seconds:g} s and was stopped")
    if status:
        raise Failed(f"{doing} crashed ({signal.Signals(-status).name})" if status < 0 else f"{doing} failed")
    return _answer(pickle.loads(told))


def _serve(call: Callable[[], Any], pipe: int) -> NoReturn:
    """The fork's side. It must not return: everything behind the call belongs to the process it came from."""
    try:
        cap(current().bytes())
        told = pickle.dumps(_outcome(call))
        while told:
            told = told[os.write(pipe, told) :]
        os._exit(0)
    finally:
        os._exit(1)


def _outcome(call: Callable[[], Any]) -> tuple[str, Any]:
    try:
        return "", call()
    except MemoryError:
        return "there is not enough memory", None
    except Exception as why:  # of onnx's checker and of protobuf, which have no class in common
        return next(iter(str(why).strip().splitlines()), type(why).__name__), None


def _answer(outcome: tuple[str, Any]) -> Any:
    why, answer = outcome
    if why:
        raise Failed(why)
    return answer


def _read(pipe: int, deadline: float) -> bytes | None:
    """Everything that is written into a pipe until it is closed; None if that takes too long."""
    blocks: list[bytes] = []
    while select.select([pipe], [], [], max(0.0, deadline - time.monotonic()))[0]:
        block = os.read(pipe, 1 << 20)
        if not block:
            return b"".join(blocks)
        blocks.append(block)
    return None
