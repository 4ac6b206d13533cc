"""Cut feeds into runs of one size, whatever pieces they come in."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

import numpy as np

from ...errors import ModelProblem, UsageProblem
from .calibration import Feed
from .card import Array, Card


@dataclass
class Chunks:
    """Runs of `size` samples. A model whose inputs state how many rows they take gets these: one sample is one run.

    All runs have exactly this `size` if `exact`, and the short rest is left out; otherwise it makes the last run, but a
    rest of 1 joins the run before it: a product with one row takes another path in onnxruntime, and rounds differently.
    """

    card: Card
    size: int
    exact: bool = False
    samples: int = 0  # that were handed out
    rest: int = 0  # samples, or rows of one, that were left out
    rows: dict[str, int] = field(init=False)

    def __post_init__(self) -> None:
        self.rows = {value.name: value.rows or 1 for value in self.card.inputs if value.dims != ()}
        if any(value.rows for value in self.card.inputs):
            self.size = 1

    def of(self, feeds: Iterable[Feed]) -> Iterator[Feed]:
        """The runs. Raises ModelProblem for inputs with different numbers of samples, or none."""
        kept: list[Feed] = []
        for feed in feeds:
            kept.append(feed)
            while self._count(kept) >= 2 * self.size:
                run, kept = self._cut(kept, self.size)
                yield self._counted(run, self.size)
        while self._count(kept):
            left = self._count(kept)
            take = left if left <= self.size or (left == self.size + 1 and not self.exact) else self.size
            run, kept = self._cut(kept, take)
            if take >= self.size or not self.exact:
                yield self._counted(run, take)
            else:
                self.rest += take
        self._account(kept)

    def _counted(self, run: Feed, size: int) -> Feed:
        self.samples += size
        return run

    def _count(self, kept: list[Feed]) -> int:
        """How many whole samples there are of every input."""
        return min((_rows(kept, name) // n for name, n in self.rows.items()), default=0)

    def _cut(self, kept: list[Feed], size: int) -> tuple[Feed, list[Feed]]:
        whole = {name: _joined(kept, name) for name in self.rows}
        scalars = {name: value for feed in kept for name, value in feed.items() if name not in self.rows}
        run = {name: value[: size * self.rows[name]] for name, value in whole.items()}
        return run | scalars, [{name: value[size * self.rows[name] :] for name, value in whole.items()} | scalars]

    def _account(self, kept: list[Feed]) -> None:
        """Count the rest. Raises ModelProblem if it has a whole sample of an input, or if there were no samples."""
        left = {name: _rows(kept, name) for name in self.rows}
        if any(left[name] >= n for name, n in self.rows.items()):
            counts = ", ".join(f"{left[name] // n} more of {name}" for name, n in self.rows.items())
            raise ModelProblem(f"the inputs have different numbers of samples: {counts}", "Give as many of each.")
        if not self.samples + self.rest:
            raise ModelProblem("the data hold no samples", "Give at least two.")
        if not self.samples:
            raise UsageProblem(
                f"{self.rest} samples are less than one mini-batch of {self.size}",
                "Give more, or a smaller --batch-size.",
            )
        self.rest += any(left.values())


def _rows(kept: list[Feed], name: str) -> int:
    return sum(len(feed[name]) for feed in kept if name in feed)


def _joined(kept: list[Feed], name: str) -> Array:
    parts = [feed[name] for feed in kept if name in feed]
    return parts[0] if len(parts) == 1 else np.concatenate(parts)
