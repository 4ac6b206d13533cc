"""Data goes to stdout, words go to stderr: both as a person at a terminal reads them, or plain for everybody else."""

from __future__ import annotations

import json
import os
import re
import sys
import textwrap
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bnfold.display.display import cell_text
from bnfold.errors import printable
from bnfold_cli import tables

if TYPE_CHECKING:
    from rich.console import Console
    from rich.text import Text

    from bnfold.display.junit import JUnitCase

TONES = {
    **dict.fromkeys(("PASS", "FASTER"), "bold green"),
    **dict.fromkeys(("FAIL", "SLOWER"), "bold red"),
    **dict.fromkeys(("VACUOUS", "INCONCLUSIVE", "UNTRUSTED"), "bold yellow"),
}
COMMAND, ESCAPED = re.compile(r"^(\s*):(?=:)"), r"\1\\x3a"


QUOTED, GLUE = re.compile("`[^`]*`"), "\0"


def _in_one_piece(command: re.Match[str]) -> str:
    """A command that is wrapped could not be pasted: only the terminal itself may break it."""
    return command[0].replace(" ", GLUE)


class Stream:
    """stdout or stderr: rich text for a person at a terminal, plain text, without wrapping, for everybody else."""

    def __init__(self, name: str) -> None:
        self.name, self.quiet = name, False

    @property
    def is_terminal(self) -> bool:
        return bool(getattr(sys, self.name).isatty() or os.environ.get("FORCE_COLOR"))

    @property
    def rich(self) -> Console:
        """The rich console, for what only a terminal can show."""
        from rich.console import Console

        return Console(stderr=self.name == "stderr", highlight=False, emoji=False, soft_wrap=True, quiet=self.quiet)

    def write(self, text: str) -> None:
        """Text as it is, and at once."""
        erase()
        print(text, end="", file=getattr(sys, self.name), flush=True)

    def lines(self, lines: Iterable[str]) -> None:
        """Lines as they are, but that none begins with what a pipeline takes for a command (`::error::`)."""
        self.write("".join(f"{COMMAND.sub(ESCAPED, line)}\n" for line in lines))

    def line(self, text: object, label: str = "", style: str = "") -> None:
        """One line, after a label, with its names made printable; on a terminal it is broken between words."""
        if self.quiet:
            return
        whole = " ".join(filter(None, (label, printable(str(text)))))
        if self.is_terminal:
            self._shown(whole, label, style)
        else:
            self.lines([whole])

    def _shown(self, text: str, label: str, style: str) -> None:
        from rich.text import Text

        wrap = textwrap.TextWrapper(
            self.rich.width, subsequent_indent="  ", break_long_words=False, break_on_hyphens=False
        )
        wrapped = wrap.wrap(QUOTED.sub(_in_one_piece, text))
        styled = Text("\n".join(wrapped).replace(GLUE, " "))
        styled.stylize(style, 0, len(label) if label else len(styled))
        self.draw(styled)

    def draw(self, *texts: Text) -> None:
        """Styled text, each piece on lines of its own."""
        screen = self.rich
        with screen.capture() as drawn:
            for text in texts:
                screen.print(text)
        self.lines(drawn.get().splitlines())


def nothing() -> None:
    """The default of `erase`, while there is no progress bar to erase before something is written."""


data, words = Stream("stdout"), Stream("stderr")
erase: Callable[[], None] = nothing
detailed = False  # more is said than usual: -v


def speak_as_one() -> None:
    """Let only the first of the processes that torchrun started write: all of them would write the same."""
    if os.environ.get("RANK", "0") != "0":
        data.quiet = words.quiet = True


def say(text: str) -> None:
    """A line for the person at the terminal."""
    words.line(text)


def note(text: str) -> None:
    """Something that a careful reader wants to know; where it begins with `warning: `, everybody."""
    plain = text.removeprefix("warning: ")
    words.line(plain, "note:" if plain == text else "warning:", "bold")


def fail(text: str) -> None:
    """Say why the exit code is not 0 although there is a result: also with --quiet."""
    _insist(text, "failed:", "bold red")


def complain(message: object, hint: str) -> None:
    """`error: ...` then `hint: ...`, readable without colour."""
    _insist(message, "error:", "bold red")
    _insist(hint, "hint:", "bold cyan")


def _insist(text: object, label: str, style: str) -> None:
    loud = Stream(words.name)
    loud.quiet = words.quiet and data.quiet  # another process speaks for this one
    loud.line(text, label, style)


def verdict(name: str, rest: str = "") -> None:
    """The last line on stdout: a verdict, and what it means."""
    data.line(rest, f"{name}," if rest else name, TONES.get(name, ""))


def table(title: str, columns: Sequence[str], rows: Sequence[Sequence[object]]) -> None:
    """One table on stdout: in the width of a terminal; elsewhere a line for each row, its columns two blanks apart.

    Columns that have no names have no line for them.
    """
    if data.quiet:
        return
    cells = [[cell_text(cell) for cell in row] for row in rows]
    if data.is_terminal:
        _draw(cell_text(title), columns, cells)
    else:
        head = [columns] if any(columns) else []
        lines = (line for row in tables.aligned([*head, *cells]) for line in row)
        data.lines([cell_text(title), *lines])


def _draw(title: str, columns: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Bold names above a rule; where the columns do not fit, each row is a paragraph."""
    from rich.text import Text

    width = data.rich.width
    used = [i for i in range(len(columns)) if not rows or any(row[i] for row in rows)]
    columns, rows = [columns[i] for i in used], [[row[i] for i in used] for row in rows]
    widths = tables.widths([columns, *rows], width)
    above = Text("\n".join(tables.wrapped(title, width)), style="bold")
    if widths is None:
        paragraphs = ("\n".join(tables.stacked(columns, row, width)) for row in rows)
        data.draw(above, Text("\n".join(paragraphs) + "\n"))
        return
    head, *body = tables.aligned([columns, *rows], widths)
    names = Text("\n".join(head), style="bold")
    rule = Text("─" * min(width, sum(widths) + tables.GAP * (len(widths) - 1)), style="dim")
    below = Text("\n".join(line for row in body for line in row) + "\n")
    data.draw(above, *([names, rule] if any(columns) else []), below)


def write_json(payload: Mapping[str, Any], target: str) -> None:
    """JSON to stdout (`-`) or, atomically, to a file."""
    write_text(json.dumps(payload, indent=2, allow_nan=False) + "\n", target)


def write_junit(suite: str, checks: Iterable[JUnitCase], seconds: float, target: str) -> None:
    """JUnit XML to stdout (`-`) or, atomically, to a file."""
    from bnfold.display.junit import to_xml

    write_text(to_xml(suite, checks, seconds), target)


def write_text(text: str, target: str) -> None:
    """Text to stdout (`-`) or, atomically, to a file."""
    if target == "-":
        data.write(text)
        return
    from bnfold.system import staging

    staging.write_file(Path(target), text.encode(errors="backslashreplace"))
