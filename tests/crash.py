"""A job that dies on purpose: by a signal, by memory, by time, or by an error."""

from __future__ import annotations

import os
import signal
from typing import Any

from bnfold.errors import ModelProblem
from bnfold.process.child import stage
from bnfold.process.jobs import job


@job
def crash(request: dict[str, Any]) -> dict[str, Any]:
    stage("a crash on purpose")
    if "signal" in request:
        os.kill(os.getpid(), request["signal"])
    if "bytes" in request:
        return {"length": len(bytearray(request["bytes"]))}
    if "seconds" in request:
        signal.pause()
    raise ModelProblem("a problem on purpose", "Nothing to do.")
