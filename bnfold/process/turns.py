"""Launches that get ready at the same time and are timed one after another: files in a folder say how far each is."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from contextvars import copy_context
from pathlib import Path
from typing import Any

from ..system import temporary

LOOK = 0.01  # seconds between two looks at how far the others are
READY, OVER = "ready", "over"
Turn = tuple[str, int, int]  # the folder, the number of the launch, how many there are


def wait(folder: str, number: int, count: int) -> None:
    """Say that a launch is ready; returns when all `count` are, and those of a lower number are over.

    Ends the process where the folder is gone: nobody wants the result any more.
    """
    _mark(folder, READY, number)
    while not (_all(folder, READY, count) and _all(folder, OVER, number)):
        if not os.path.isdir(folder):
            raise SystemExit("the benchmark was given up")
        time.sleep(LOOK)


def together(launches: Sequence[Callable[..., Any]]) -> list[Any]:
    """The results of `launches`, all started at once, each given its `turn`; raises what the first failed with."""
    count = len(launches)
    with ThreadPoolExecutor(count) as pool, temporary.folder() as folder:
        running = [
            pool.submit(copy_context().run, _until_over, launch, (folder, number, count))
            for number, launch in enumerate(launches)
        ]
        return [each.result() for each in running]


def _until_over(launch: Callable[..., Any], turn: Turn) -> Any:
    """The result of a launch; however it ends, the others need not wait for it."""
    try:
        return launch(turn=turn)
    finally:
        for stage in (READY, OVER):
            _mark(turn[0], stage, turn[1])


def _mark(folder: str, stage: str, number: int) -> None:
    with suppress(FileNotFoundError):
        Path(folder, f"{stage}-{number}").touch()


def _all(folder: str, stage: str, count: int) -> bool:
    """Whether the first `count` launches have come to a stage."""
    return all(os.path.exists(Path(folder, f"{stage}-{number}")) for number in range(count))
