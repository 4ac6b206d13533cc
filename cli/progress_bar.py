"""A bar on the terminal for every step that takes more than a second, with the time that is left; elsewhere nothing."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from bnfold.system.progress import reporting_to
from bnfold_cli import console

if TYPE_CHECKING:
    from rich.progress import Progress, TaskID

PATIENCE = 1.0  # seconds that a step may take without a bar


def is_wanted() -> bool:
    """stderr is a terminal that can erase a line, and words are welcome there."""
    return not console.words.quiet and sys.stderr.isatty() and os.environ.get("TERM") not in ("dumb", "unknown")


@contextmanager
def shown() -> Iterator[None]:
    """Within the block steps that report how far they are have a bar, which vanishes when the block ends."""
    if not is_wanted():
        yield
        return
    bar = Bar()
    console.erase = bar.close
    try:
        with reporting_to(bar.update):
            yield
    finally:
        bar.close()
        console.erase = console.nothing


class Bar:
    """The bar of the step that was reported last."""

    def __init__(self) -> None:
        self.step, self.began, self.done = "", 0.0, 0.0
        self.drawn: Progress | None = None
        self.task: TaskID | None = None

    def update(self, step: str, done: float, total: float, words: str) -> None:
        """A listener, see `bnfold.system.progress`."""
        if step != self.step or done < self.done:
            self.step, self.began = step, time.monotonic()
            self._forget()
        self.done = done
        if self.drawn is None and time.monotonic() - self.began < PATIENCE:
            return
        self.drawn = self.drawn or _drawn()
        if self.task is None:
            self.task = self.drawn.add_task(step, total=total, words="")
        self.drawn.update(self.task, completed=done, total=total)
        if words:
            self.drawn.update(self.task, words=words)

    def _forget(self) -> None:
        if self.drawn is not None and self.task is not None:
            self.drawn.remove_task(self.task)
        self.task = None

    def close(self) -> None:
        """Take the bar away, until the step says how far it is again."""
        if self.drawn is not None:
            self._forget()
            self.drawn.stop()
            self.drawn = None


def _drawn() -> Progress:
    from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn

    columns = (
        TextColumn("{task.description}", markup=False),
        BarColumn(bar_width=24),
        TaskProgressColumn(),
        TimeRemainingColumn(),
        TextColumn("left"),
        TextColumn("{task.fields[words]}", markup=False),
    )
    bar = Progress(*columns, console=console.words.rich, transient=True, redirect_stdout=False, redirect_stderr=False)
    bar.start()
    return bar
