"""Data goes to stdout, words go to stderr."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from bnfold.errors import EnvironmentProblem, UsageProblem
from bnfold.junit import Check, to_xml

data = Console(highlight=False, emoji=False)  # a name may hold :x:
words = Console(stderr=True, highlight=False, emoji=False, soft_wrap=True)


def speak_as_one() -> None:
    """Of the processes that torchrun started, only the first one speaks: they all have the same to say."""
    data.quiet = words.quiet = os.environ.get("RANK", "0") != "0"


def say(text: str) -> None:
    """A line for the person at the terminal."""
    words.print(escape(text))


def complain(message: object, hint: str) -> None:
    """`error: ...` then `hint: ...`, readable without colour."""
    words.print(f"[bold red]error:[/] {escape(str(message))}")
    words.print(f"[bold cyan]hint:[/] {escape(hint)}")


def table(title: str, columns: Sequence[str], rows: Sequence[Sequence[object]]) -> None:
    """One table on stdout; numbers are set to the right."""
    grid = Table(title=escape(title), title_justify="left", title_style="bold", header_style="bold")
    for i, name in enumerate(columns):
        numeric = bool(rows) and all(isinstance(row[i], int | float) for row in rows)
        grid.add_column(escape(name), justify="right" if numeric else "left", overflow="fold")
    for row in rows:
        grid.add_row(*(escape(str(cell)) for cell in row))
    data.print(grid)


@contextmanager
def counted(what: str) -> Iterator[Callable[[int, int, int], None]]:
    """A bar over levels on a terminal, which tells the runs that are done of the present one; elsewhere nothing."""
    if not words.is_terminal:
        yield lambda level, levels, done: None
        return
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

    columns = TextColumn(what), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(), TextColumn("{task.description}")
    with Progress(*columns, console=words, transient=True) as bar:
        task = bar.add_task("", total=None)
        yield lambda level, levels, done: bar.update(task, completed=level, total=levels, description=f"run {done}")


def require_one_on_stdout(*targets: str | None) -> None:
    """Raises UsageProblem where two reports would mingle on stdout."""
    if targets.count("-") > 1:
        raise UsageProblem("two reports cannot both go to stdout", "Give one of them a path.")


def write_json(payload: Mapping[str, Any], target: str) -> None:
    """JSON to stdout (`-`) or, atomically, to a file."""
    write_text(json.dumps(payload, indent=2, allow_nan=False) + "\n", target)


def write_junit(suite: str, checks: Iterable[Check], seconds: float, target: str) -> None:
    """JUnit XML to stdout (`-`) or, atomically, to a file."""
    write_text(to_xml(suite, checks, seconds), target)


def write_text(text: str, target: str) -> None:
    if target == "-":
        sys.stdout.write(text)
        return
    path = Path(target)
    draft = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        draft.write_text(text, encoding="utf-8")
        os.replace(draft, path)
    except OSError as problem:
        draft.unlink(missing_ok=True)
        raise EnvironmentProblem(
            f"{path} cannot be written: {problem.strerror}", "Choose another place for it, or - for stdout."
        ) from problem
