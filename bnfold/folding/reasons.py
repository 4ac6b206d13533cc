"""What becomes of affine nodes: they are folded, or kept for a reason."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from .plan import Law

NORM = "BatchNormalization"


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


@dataclass(frozen=True)
class AffineCounts:
    """How many affine nodes there were before a fold and are after it: BatchNormalization, and others apart.

    Nodes of functions count once each, those of bodies as well. What else merges with parallel branches is not affine.
    """

    batch_normalizations: tuple[int, int]
    others: tuple[int, int]

    @property
    def words(self) -> str:
        """`BatchNormalization: 121 before, 62 after; other affine nodes: 2 before, 0 after`"""
        others = "; other affine nodes: {} before, {} after".format(*self.others) if any(self.others) else ""
        return "BatchNormalization: {} before, {} after".format(*self.batch_normalizations) + others


def affine_counts(folded: Sequence[Folded], kept: Sequence[Kept]) -> AffineCounts:
    """The counts of a fold."""
    norms = [sum(each.operator == NORM for each in nodes) for nodes in (folded, kept)]
    others = [sum(f.operator != NORM and f.direction != "merge" for f in folded), len(kept) - norms[1]]
    return AffineCounts((sum(norms), norms[1]), (sum(others), others[1]))
