"""The child's side of a job: read the request, say what is being done and how far it is, write the answer."""

from __future__ import annotations

import json
import os
import sys
import time
from pathlib import Path
from typing import Any

from ..errors import BnfoldError
from ..system.limits import UNCAPPED, Limits, cap, end_with_parent, within
from ..system.progress import Listener, reporting_to
from . import jobs

NOTE_PAUSE = 0.25  # seconds between two notes of how far it is
REQUEST, ANSWER, STAGE, PRINTED, PROGRESS = "request.json", "answer.json", "stage", "noise", "progress"  # in its folder
GO = b"\n"  # into its standard input, once the request is there
_stage_file: Path | None = None


def stage(doing: str) -> None:
    """Note what the child is about to do, for the message should it crash."""
    if _stage_file:
        _stage_file.write_text(doing, encoding="utf-8")


def serve(name: str, folder: str, limits: str, capped: str, parent: str) -> None:
    """Do the job of that name. An error that bnfold raises on purpose is an answer, too, and so is a defect."""
    global _stage_file
    end_with_parent(int(parent))
    _stage_file = Path(folder, STAGE)
    in_force = Limits(**json.loads(limits))
    cap(in_force.bytes() if capped else UNCAPPED)
    answer: dict[str, Any]
    try:
        job = jobs.find(name)
        sys.stdin.buffer.read(len(GO))
        request = json.loads(Path(folder, REQUEST).read_text(encoding="utf-8"))
        with within(in_force), reporting_to(_noted(Path(folder, PROGRESS))):
            answer = {"returned": job(request)}
    except BnfoldError as problem:
        answer = {"raised": type(problem).__name__, "message": str(problem), "hint": problem.hint}
    except Exception as defect:
        if _is_memory(defect):
            raise SystemExit("out of memory") from defect
        answer = {"defect": f"{type(defect).__name__}: {defect}"}
    Path(folder, ANSWER).write_text(json.dumps(answer), encoding="utf-8")
    sys.stderr.flush()
    os._exit(0)  # nothing is left to do: native clean-up of a broken model may still crash


def _noted(progress: Path) -> Listener:
    """The child's listener, which notes how far the job is in a file, a few times a second."""
    next_time = 0.0

    def note(*progressed: str | float) -> None:
        nonlocal next_time
        if time.monotonic() >= next_time:
            progress.write_text(json.dumps(progressed), encoding="utf-8")
            next_time = time.monotonic() + NOTE_PAUSE

    return note


def _is_memory(defect: BaseException) -> bool:
    return isinstance(defect, MemoryError) or "bad_alloc" in str(defect)
