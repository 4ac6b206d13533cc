"""How results are shown: a line where Python prints them, a small table where a notebook does.

The table is HTML of our own, in 20 lines: in a notebook Rich draws text in a fixed width, which no browser wraps.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from ..errors import printable

MOST_ROWS = 12  # rows of a table in a notebook
COLOURS = {  # of a verdict; each stands out on white and on black
    "good": "#1f9d55",
    "bad": "#e0483e",
    "open": "#c98a00",
    "": "#808080",
}
CELL_STYLE = "padding:2px 14px 2px 0;text-align:left;vertical-align:top;border:0;background:none;white-space:pre-wrap"
RULE_STYLE = "border-bottom:1px solid rgba(128,128,128,.5)"


@dataclass(frozen=True)
class Table:
    """A part of a result, in rows."""

    title: str
    columns: Sequence[str]
    rows: Sequence[Sequence[object]]  # a cell of several lines is a tuple


class Shown:
    """A result that can be looked at. What it says is escaped: names in models are anybody's."""

    def in_a_line(self) -> str:
        """The facts, in a line."""
        raise NotImplementedError

    @property
    def tone(self) -> str:
        """`good`, `bad` or `open` where there is a verdict."""
        return ""

    def tables(self) -> Sequence[Table]:
        """More of it, for a notebook."""
        return ()

    def __repr__(self) -> str:
        return f"<{type(self).__name__}: {printable(self.in_a_line())}>"

    def _repr_html_(self) -> str:
        """Self-contained, without colours of its own but the verdict's: for light notebooks and dark ones."""
        mark = f"border-left:4px solid {COLOURS[self.tone]};padding-left:10px"
        head = f"<b>{type(self).__name__}</b>: {_safe(self.in_a_line())}"
        return f'<div style="{mark}"><div>{head}</div>{"".join(map(_html, self.tables()))}</div>'


def _html(table: Table) -> str:
    if not table.rows:
        return ""
    head = _row("th", table.columns, f"{CELL_STYLE};{RULE_STYLE};font-weight:600")
    rows = "".join(_row("td", row, CELL_STYLE) for row in table.rows[:MOST_ROWS])
    more = f"<div>and {len(table.rows) - MOST_ROWS} more</div>" if table.rows[MOST_ROWS:] else ""
    title = f'<div style="margin-top:8px">{_safe(table.title)}</div>'
    return f'{title}<table style="border-collapse:collapse;border:0">{head}{rows}</table>{more}'


def _row(kind: str, cells: Sequence[object], style: str) -> str:
    text = "".join(f'<{kind} style="{style}">{_safe(cell)}</{kind}>' for cell in cells)
    return f'<tr style="background:none">{text}</tr>'


def cell_text(cell: object) -> str:
    """The text of a cell: a `printable` line, or one for each part of a tuple."""
    return "\n".join(printable(str(line)) for line in (cell if isinstance(cell, tuple) else (cell,)))


def _safe(cell: object) -> str:
    from html import escape  # whose table of names is large, and seldom needed

    return escape(cell_text(cell))


def counted(number: int, one: str, many: str = "") -> str:
    """`1 node`, `2 nodes`; where the plural is no -s, it is given."""
    return f"{number} {one if number == 1 else many or one + 's'}"
