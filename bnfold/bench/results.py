"""What a benchmark found, as values: frozen, and ready to print or to write as JSON."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import Any, ClassVar

from .statistics import Interval

SCHEMA = "bnfold.bench/1"


@dataclass(frozen=True)
class Cell:
    """Both models at one level of onnxruntime's graph optimization. Pairs are (original, folded)."""

    level: str
    ms: tuple[float, float]  # median over launches of the median time of a run
    speedup: Interval  # original / folded: above 1 the folded model is faster
    verdict: str
    log_ratios: tuple[float, ...]  # one per launch
    runs: int
    create_ms: tuple[float, float]
    first_run_ms: tuple[float, float]

    def row(self) -> tuple[str, ...]:
        """For a table: times in milliseconds, the speed-up and its interval, what loading costs."""
        times, loads = ([f"{value:.3f}" for value in pair] for pair in (self.ms, self.create_ms))
        interval = f"[{self.speedup.low:.3f}, {self.speedup.high:.3f}]"
        return (self.level, *times, f"{self.speedup.estimate:.3f}x", interval, self.verdict, *loads)


@dataclass(frozen=True)
class Benchmark:
    """Latency of a folded model against its original; the headline is the level that users serve with, `default`."""

    cells: tuple[Cell, ...]
    shapes: dict[str, list[int]]
    batch_normalization: dict[str, int]
    left_by_onnxruntime: dict[str, int]
    nodes: dict[str, int]
    same_graph: bool
    environment: dict[str, Any]
    launches: int
    notes: tuple[str, ...]
    seconds: float

    COLUMNS: ClassVar = ("level", "A ms", "B ms", "speed-up", "95% interval", "verdict", "load A", "load B")

    def rows(self) -> list[tuple[str, ...]]:
        """One line per level for a table."""
        return [cell.row() for cell in self.cells]

    @property
    def headline(self) -> Cell:
        return next((cell for cell in self.cells if cell.level == "default"), self.cells[0])

    @property
    def verdict(self) -> str:
        return self.headline.verdict

    def summary(self) -> str:
        """One sentence: the verdict, the interval, and how much of it onnxruntime would have done by itself."""
        interval, total = self.headline.speedup, self.batch_normalization["original"]
        own = total - self.left_by_onnxruntime["original"]
        return (
            f"{self.verdict} at onnxruntime's {self.headline.level} optimization: {interval.estimate:.3f}x "
            f"[{interval.low:.3f}, {interval.high:.3f}]; "
            f"onnxruntime folds {own} of {total} BatchNormalization by itself"
        )

    def to_json(self) -> dict[str, Any]:
        """Plain data; a bound that does not exist (one launch) is null."""
        cells = [{**asdict(cell), "speedup": _bounds(cell.speedup)} for cell in self.cells]
        return {"schema": SCHEMA, "verdict": self.verdict, "summary": self.summary(), **asdict(self), "cells": cells}


def _bounds(interval: Interval) -> dict[str, float | None]:
    return {key: value if math.isfinite(value) else None for key, value in asdict(interval).items()}
