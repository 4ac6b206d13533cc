"""Rows and columns as text: in the width of a terminal, where no word is broken that can be whole, or in any width.

Rich, which shows progress, has tables, too. Where the columns do not fit Rich cuts words and names anywhere; these
set each row as a paragraph (`pytest tests/test_terminal.py -k rich`); and elsewhere than at a terminal a table is
written without importing rich.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from itertools import zip_longest

GAP = 2  # blanks between two columns
NUMBER = r"[-+]?[\d.,]+(e[-+]?\d+)?( ?[%x])?"
# A line may end after a blank, and in names after these.
PIECE = r"\s+|\S{3,}?(?:[/_]|(?<=[a-z])[.:](?=[A-Za-z]))(?=\S)|\S+"
Cells = list[list[str]]  # of a row: the lines of each cell


def lines_of(cell: object) -> list[str]:
    return str(cell).splitlines() or [""]


def wrapped(text: str, width: int) -> list[str]:
    """Lines of at most `width` characters; only a word without a place to break is broken anywhere."""
    lines: list[str] = []
    for line in text.splitlines() or [""]:
        rest = ""
        for piece in re.findall(PIECE, line):
            if len(rest) + len(piece.rstrip()) > width and rest.strip():
                lines.append(rest.rstrip())
                rest = ""
            rest = (rest + piece).lstrip()
            while len(rest.rstrip()) > width:
                lines.append(rest[:width])
                rest = rest[width:]
        lines.append(rest.rstrip())
    return lines


def widths(rows: Sequence[Sequence[object]], room: int) -> list[int] | None:
    """A width for each column such that all fit into `room`; None where that would break words."""
    columns = list(zip(*rows, strict=True))
    chosen = [max(len(line) for cell in column for line in lines_of(cell)) for column in columns]
    least = [max(_longest(str(cell)) for cell in column) for column in columns]
    room -= GAP * (len(columns) - 1)
    if sum(least) > room:
        return None
    while (over := sum(chosen) - room) > 0:
        widest, second = _two_widest(chosen, least)
        chosen[widest] -= max(1, min(over, chosen[widest] - max(second, least[widest])))
    return chosen


def _two_widest(chosen: list[int], least: list[int]) -> tuple[int, int]:
    """The widest column that may become narrower, and the width of the next."""
    order = sorted((i for i in range(len(chosen)) if chosen[i] > least[i]), key=lambda i: -chosen[i])
    return order[0], chosen[order[1]] if order[1:] else 0


def _longest(text: str) -> int:
    return max((len(piece) for piece in re.findall(PIECE, text) if piece.strip()), default=0)


def aligned(rows: Sequence[Sequence[object]], width_of: Sequence[int] | None = None) -> Iterator[list[str]]:
    """The lines of each row, its columns two blanks apart and as wide as needed, or as `width_of` says; then cells are
    wrapped and numbers set to the right."""
    columns = list(zip(*rows, strict=True))
    wide = width_of or [max(len(line) for cell in column for line in lines_of(cell)) for column in columns]
    right = [bool(width_of) and _numeric(column[1:]) for column in columns]
    for row in rows:
        cells = [wrapped(str(cell), w) if width_of else lines_of(cell) for cell, w in zip(row, wide, strict=True)]
        yield [_line(line, wide, right) for line in zip_longest(*cells, fillvalue="")]


def _line(cells: Sequence[str], wide: Sequence[int], right: Sequence[bool]) -> str:
    set_ = (c.rjust(w) if r else c.ljust(w) for c, w, r in zip(cells, wide, right, strict=True))
    return (" " * GAP).join(set_).rstrip()


def _numeric(cells: Sequence[object]) -> bool:
    return any(map(str, cells)) and all(re.fullmatch(NUMBER, str(cell)) for cell in cells if str(cell))


def stacked(columns: Sequence[str], row: Sequence[object], room: int) -> Iterator[str]:
    """A row that is too wide for `room`, cell below cell: the first as it is, the others after their names."""
    yield from wrapped(str(row[0]), room)
    margin = 2 + max(map(len, columns[1:]), default=0) + GAP
    if margin > room // 2:
        margin = 4
    for name, cell in zip(columns[1:], row[1:], strict=True):
        if str(cell):
            head = f"  {name}" if margin == 4 else f"  {name}".ljust(margin)
            body = wrapped(str(cell), room - margin)
            yield from [head, *(" " * 4 + line for line in body)] if margin == 4 else _after_name(head, body)


def _after_name(head: str, body: Sequence[str]) -> Iterator[str]:
    yield head + body[0]
    yield from (" " * len(head) + line for line in body[1:])
