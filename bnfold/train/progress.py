"""What a person at the terminal sees of a run."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from .options import Event, Watch


@contextmanager
def shown(console: Console) -> Iterator[Watch]:
    """A progress bar on a terminal; a line for each evaluation anywhere else."""
    if not console.is_terminal:
        yield lambda event: _line(console, event)
        return
    columns = (
        TextColumn("training"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
        TextColumn("{task.description}"),
    )
    with Progress(*columns, console=console, transient=True) as bar:
        task = bar.add_task("", total=None)
        yield lambda event: bar.update(task, completed=event.step, total=event.steps, description=_words(event))


def _line(console: Console, event: Event) -> None:
    if event.accuracy is not None:
        console.print(f"step {event.step}/{event.steps}  {_words(event)}", highlight=False)


def _words(event: Event) -> str | None:
    """None, which leaves the last words standing, unless there was an evaluation."""
    if event.accuracy is None or event.loss is None:
        return None
    return f"loss {event.loss:.4f}  accuracy {event.accuracy:.4f}"
