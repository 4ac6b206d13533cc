"""The results of `fold` and `explain`."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import chain
from typing import TYPE_CHECKING

import onnx

from ..display.display import Shown, Table
from .reasons import NORM, AffineCounts, Folded, Kept, affine_counts
from .summary import folded_table, kept_table

if TYPE_CHECKING:
    from ..verification import Verification


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
        return affine_counts(self.folded, self.kept).words

    def tables(self) -> tuple[Table, ...]:
        return folded_table(self.folded), kept_table(self.kept)


@dataclass(frozen=True, repr=False)
class FoldResult(Shown):
    """What `fold` returns.

    `model` is the folded model; `folded` and `kept` list every affine node of the original in the order of its graph;
    `flushed` counts the numbers too small for their type, which became zero; `notes` say what else a careful reader
    wants to know. `sites` declares every node that was made or edited, or reads a constant that was, by its first
    output: all others are as they were read. It is None where functions were inlined. `verification` is the proof that
    nothing else changed, where there was one.
    """

    model: onnx.ModelProto
    folded: tuple[Folded, ...]
    kept: tuple[Kept, ...]
    notes: tuple[str, ...]
    flushed: int
    sites: tuple[str, ...] | None = None
    verification: Verification | None = None

    @property
    def counts(self) -> AffineCounts:
        return affine_counts(self.folded, self.kept)

    @property
    def batch_norms_kept(self) -> tuple[Kept, ...]:
        return tuple(k for k in self.kept if k.operator == NORM)

    @property
    def batch_norms_folded(self) -> tuple[Folded, ...]:
        return tuple(f for f in self.folded if f.operator == NORM)

    def in_a_line(self) -> str:
        proof = f"; {self.verification.said}" if self.verification else ""
        return f"{self.counts.words}{proof}"

    def tables(self) -> tuple[Table, ...]:
        notes = Table("Notes", ("",), [(note,) for note in self.notes])
        return kept_table(self.kept), folded_table(self.folded), notes
