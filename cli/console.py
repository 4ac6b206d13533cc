"""Data goes to stdout, words go to stderr."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import zip_longest
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bnfold.errors import UsageProblem, require_no_model

if TYPE_CHECKING:
    from rich.console import Console

    from bnfold.junit import Check


class Stream:
    """stdout or stderr: rich text for a person at a terminal, plain text, without wrapping, for everybody else."""

    def __init__(self, name: str) -> None:
        self.name, self.quiet = name, False

    @property
    def is_terminal(self) -> bool:
        return bool(getattr(sys, self.name).isatty() or os.environ.get("FORCE_COLOR"))

    @property
    def rich(self) -> Console:
        """For what only a terminal can show."""
        from rich.console import Console

        to_stderr = self.name == "stderr"
        return Console(stderr=to_stderr, highlight=False, emoji=False, soft_wrap=to_stderr, quiet=self.quiet)

    def write(self, text: str) -> None:
        """Text as it is, and at once. Where the reader has gone, nothing is said any more, and the work goes on."""
        file = getattr(sys, self.name)
        try:
            print(text, end="", file=file, flush=True)
        except BrokenPipeError:
            os.dup2(os.open(os.devnull, os.O_WRONLY), file.fileno())

    def line(self, text: object, label: str = "", style: str = "") -> None:
        """One line or more, behind a label."""
        if self.quiet:
            return
        if self.is_terminal:
            from rich.text import Text

            self.rich.print(Text.assemble((label, style), " " if label else "", str(text)))
        else:
            self.write(f"{label} {text}\n" if label else f"{text}\n")


data, words = Stream("stdout"), Stream("stderr")


def speak_as_one() -> None:
    """Of the processes that torchrun started, only the first one speaks: they all have the same to say."""
    data.quiet = words.quiet = os.environ.get("RANK", "0") != "0"


def say(text: str) -> None:
    """A line for the person at the terminal."""
    words.line(text)


def complain(message: object, hint: str) -> None:
    """`error: ...` then `hint: ...`, readable without colour."""
    words.line(message, "error:", "bold red")
    words.line(hint, "hint:", "bold cyan")


def table(title: str, columns: Sequence[str], rows: Sequence[Sequence[object]]) -> None:
    """One table on stdout: drawn on a terminal, elsewhere a line for each row, its columns two blanks apart."""
    if data.quiet:
        return
    if data.is_terminal:
        _draw(title, columns, rows)
    else:
        data.write("".join(f"{line}\n" for line in [title, *_aligned([columns, *rows])]))


def _draw(title: str, columns: Sequence[str], rows: Sequence[Sequence[object]]) -> None:
    """Numbers are set to the right."""
    from rich.markup import escape
    from rich.table import Table

    grid = Table(title=escape(title), title_justify="left", title_style="bold", header_style="bold")
    for i, name in enumerate(columns):
        numeric = bool(rows) and all(isinstance(row[i], int | float) for row in rows)
        grid.add_column(escape(name), justify="right" if numeric else "left", overflow="fold")
    for row in rows:
        grid.add_row(*(escape(str(cell)) for cell in row))
    data.rich.print(grid)


def _aligned(rows: Sequence[Sequence[object]]) -> Iterator[str]:
    """Rows of equal columns; a cell of several lines takes as many."""
    cells = [[str(cell).splitlines() or [""] for cell in row] for row in rows]
    widths = [max(len(line) for cell in column for line in cell) for column in zip(*cells, strict=True)]
    for row in cells:
        for lines in zip_longest(*row, fillvalue=""):
            yield "  ".join(line.ljust(width) for line, width in zip(lines, widths, strict=True)).rstrip()


@contextmanager
def counted(what: str) -> Iterator[Callable[[int, int, int], None]]:
    """A bar over levels on a terminal, which tells the runs that are done of the present one; elsewhere nothing."""
    if not words.is_terminal:
        yield lambda level, levels, done: None
        return
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

    columns = TextColumn(what), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(), TextColumn("{task.description}")
    with Progress(*columns, console=words.rich, transient=True) as bar:
        task = bar.add_task("", total=None)
        yield lambda level, levels, done: bar.update(task, completed=level, total=levels, description=f"run {done}")


def require_one_on_stdout(*targets: str | None) -> None:
    """Raises UsageProblem where two reports would mingle on stdout, or one would take the place of a model."""
    if targets.count("-") > 1:
        raise UsageProblem("two reports cannot both go to stdout", "Give one of them a path.")
    for target in filter(None, targets):
        require_no_model(target)


def write_json(payload: Mapping[str, Any], target: str) -> None:
    """JSON to stdout (`-`) or, atomically, to a file."""
    write_text(json.dumps(payload, indent=2, allow_nan=False) + "\n", target)


def write_junit(suite: str, checks: Iterable[Check], seconds: float, target: str) -> None:
    """JUnit XML to stdout (`-`) or, atomically, to a file."""
    from bnfold.junit import to_xml

    write_text(to_xml(suite, checks, seconds), target)


def write_text(text: str, target: str) -> None:
    """Text to stdout (`-`) or, atomically, to a file, which is none of a model."""
    if target == "-":
        data.write(text)
        return
    require_no_model(target)
    from bnfold import staging

    staging.write(Path(target), text.encode())
