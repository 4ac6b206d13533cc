"""What becomes of affine nodes: folded, or kept for a reason; and the results of `fold` and `explain`."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import chain

import onnx

from ..display.display import Shown, Table, counted
from .plan import Law


@dataclass(frozen=True)
class Reason:
    """Why an affine could not move one way: `words` finish "kept because ...", `code` is stable for machines."""

    code: str
    words: str


@dataclass(frozen=True)
class Folded:
    """A node that is gone: which way its affine went, past which nodes, and into whose constants.

    Where parallel branches merged into one convolution, all nodes that it replaces are listed, affine or not.
    """

    node: str
    operator: str
    output: str
    direction: Law
    through: tuple[str, ...]
    into: tuple[str, ...]


@dataclass(frozen=True)
class Kept:
    """An affine node that is still there, and why neither direction was open."""

    node: str
    operator: str
    output: str
    not_hoisted: Reason
    not_sunk: Reason
    not_merged: Reason | None = None  # where it feeds a sum of parallel branches

    @property
    def reasons(self) -> tuple[str, str]:
        """In words: why its affine is not in what is before it, and why not in what is after it."""
        aside = f"; and {self.not_merged.words}" if self.not_merged else ""
        return self.not_hoisted.words, self.not_sunk.words + aside

    @property
    def coded(self) -> tuple[str, str]:
        """The reasons after their codes: `NONLINEAR: Relu 'r' is not linear ...`."""
        aside = f"; and {self.not_merged.code}: {self.not_merged.words}" if self.not_merged else ""
        one, other = (f"{reason.code}: {reason.words}" for reason in (self.not_hoisted, self.not_sunk))
        return one, other + aside


FOLDED = ("node", "operator", "folds into", "through")
KEPT = ("node", "operator", "why not towards the inputs", "why not towards the outputs")
LAW_WORDS = {"hoist": "to the inputs", "sink": "to the outputs", "merge": "branches merged"}


def folded_table(folded: Iterable[Folded], detailed: bool = False) -> Table:
    """Each node that folds: into whose constants, through which nodes on the way, and, if `detailed`, which way."""
    rows = [(f.node or f.output, f.operator, f.into, f.through, *[LAW_WORDS[f.direction]] * detailed) for f in folded]
    return _by_operator("Folds", (*FOLDED, *["direction"] * detailed), rows)


def kept_table(kept: Iterable[Kept], detailed: bool = False) -> Table:
    """Each node that is kept, and why; if `detailed` with the codes of the reasons."""
    rows = [(k.node or k.output, k.operator, *(k.coded if detailed else k.reasons)) for k in kept]
    return _by_operator("Kept", KEPT, rows)


def _by_operator(title: str, columns: Sequence[str], rows: Sequence[Sequence[object]]) -> Table:
    """Where all nodes are of one operator, it is the name of their column."""
    operators = {row[1] for row in rows}
    if len(operators) != 1:
        return Table(title, columns, rows)
    return Table(title, (*map(str, operators), *columns[2:]), [(row[0], *row[2:]) for row in rows])


@dataclass(frozen=True, repr=False)
class Explanation(Shown):
    """What `explain` returns: what `fold` would do with every affine node. Iterating gives those that fold first."""

    folded: tuple[Folded, ...]
    kept: tuple[Kept, ...]

    def __iter__(self) -> Iterator[Folded | Kept]:
        return chain(self.folded, self.kept)

    def __len__(self) -> int:
        return len(self.folded) + len(self.kept)

    def in_a_line(self) -> str:
        folds = "folds" if len(self.folded) == 1 else "fold"
        return f"{counted(len(self.folded), 'affine node')} {folds}, {len(self.kept)} kept"

    def tables(self) -> tuple[Table, ...]:
        return folded_table(self.folded), kept_table(self.kept)


@dataclass(frozen=True, repr=False)
class FoldResult(Shown):
    """What `fold` returns.

    `model` is the folded model; `folded` and `kept` list every affine node of the original in the order of its graph;
    `flushed` counts the numbers too small for their type, which became zero; `notes` say what else a careful reader
    wants to know. `sites` declares every node that was made or edited, or reads a constant that was, by its first
    output: all others are as they were read. It is None where functions were inlined.
    """

    model: onnx.ModelProto
    folded: tuple[Folded, ...]
    kept: tuple[Kept, ...]
    notes: tuple[str, ...]
    flushed: int
    sites: tuple[str, ...] | None = None

    @property
    def batch_norms_kept(self) -> tuple[Kept, ...]:
        return tuple(k for k in self.kept if k.operator == "BatchNormalization")

    @property
    def batch_norms_folded(self) -> tuple[Folded, ...]:
        return tuple(f for f in self.folded if f.operator == "BatchNormalization")

    def in_a_line(self) -> str:
        folded, kept = len(self.batch_norms_folded), len(self.batch_norms_kept)
        others = len(self.folded) - folded
        more = f"; {counted(others, 'other node')} folded" if others else ""
        return f"{folded} of {folded + kept} BatchNormalization folded, {kept} kept{more}"

    def tables(self) -> tuple[Table, ...]:
        notes = Table("Notes", ("",), [(note,) for note in self.notes])
        return kept_table(self.kept), folded_table(self.folded), notes
