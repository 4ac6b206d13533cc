"""The results of a benchmark: frozen values, ready to print or to write as JSON."""

from __future__ import annotations

import math
from collections.abc import Collection, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, ClassVar

from ..display.display import Shown, Table
from .settings import Setting
from .statistics import BOUND, FASTER, INCONCLUSIVE, SLOWER, UNTRUSTED, Interval, Times

SCHEMA = "bnfold.bench/1"


@dataclass(frozen=True)
class Cell:
    """Both models under one setting. Pairs are (original, folded)."""

    setting: Setting
    ms: tuple[float, float]  # median over launches of the median time of a run
    speedup: Interval  # original / folded: above 1 the folded model is faster
    control: Interval  # original / the original once more: what differs from 1 is noise
    verdict: str
    log_ratios: tuple[float, ...]  # one per launch
    log_controls: tuple[float, ...]
    times: tuple[Times, Times]
    create_ms: tuple[float, float]
    first_run_ms: tuple[float, float]
    enqueue_ms: tuple[float, float] | None
    left: tuple[int, int]  # BatchNormalization in the graphs that onnxruntime runs
    placed: tuple[dict[str, int], dict[str, int]]  # nodes on each provider
    difference: float | None  # of the outputs, relative to the largest; None where that is unknown

    @property
    def level(self) -> str:
        return self.setting.level

    @property
    def flags(self) -> tuple[str, ...]:
        """UNSTABLE: there is no verdict, and single runs scatter widely, which may be why.

        LAUNCH_BOUND: the processor, not the device, sets the pace.
        """
        bound = self.enqueue_ms and any(e > BOUND * t for e, t in zip(self.enqueue_ms, self.ms, strict=True))
        unstable = self.verdict in (INCONCLUSIVE, UNTRUSTED) and any(t.unstable for t in self.times)
        return ("UNSTABLE",) * unstable + ("LAUNCH_BOUND",) * bool(bound)

    def row(self, differing: Collection[str]) -> tuple[str, ...]:
        """The row of a table: times in milliseconds, the speed-up and its interval, the noise, the verdict.

        Of the setting only what is `differing` between the cells of the table is named.
        """
        pair, noise = ([f"{value:.3f}" for value in self.ms], span(self.control))
        ratio = f"{self.speedup.estimate:.3f} {span(self.speedup)}"
        apart = "unknown" if self.difference is None else f"{self.difference:.1e}"
        return (self.setting.words(differing), *pair, ratio, noise, self.verdict, apart)

    def scatter(self, differing: Collection[str]) -> list[tuple[str, ...]]:
        """Per model, for a table: what is left to fold, and how single runs scatter."""
        flags, words = " ".join(self.flags), self.setting.words(differing)
        models = zip("AB", self.left, self.times, strict=True)
        return [(words, name, str(left), *_scatter(times), flags) for name, left, times in models]


def _scatter(times: Times) -> tuple[str, ...]:
    tails = ["" if value is None else f"{value:.3f}" for value in (times.p90, times.p99)]
    return (str(times.count), f"{times.p50:.3f}", *tails, f"{times.iqr:.3f}", f"{100 * times.cv:.1f} %")


def span(interval: Interval) -> str:
    """`[0.996, 1.008]`"""
    return f"[{interval.low:.3f}, {interval.high:.3f}]"


@dataclass(frozen=True)
class Cold:
    """A process that loads and runs one model once, on one provider at the default level; an engine is built anew."""

    provider: str
    model: str
    create_ms: float
    first_run_ms: float
    bytes: int
    peak_bytes: int | None
    cudnn_search: str = ""

    def row(self) -> tuple[str, ...]:
        """The row of a table."""
        peak = f"{self.peak_bytes / 1e6:.0f}" if self.peak_bytes else "unknown"
        costs = (f"{self.create_ms:.1f}", f"{self.first_run_ms:.1f}", f"{self.bytes / 1e6:.2f}", peak)
        search = f", {self.cudnn_search} cuDNN search" if self.cudnn_search else ""
        return (self.provider + search, "B" if self.model == "folded" else "A", *costs)


@dataclass(frozen=True)
class Block:
    """Runs of one model in a row: the raw material."""

    launch: int
    setting: Setting
    model: str
    times: tuple[float, ...]

    def to_json(self) -> dict[str, Any]:
        """One line of the file of raw samples."""
        total = {"seconds": sum(self.times), "iterations": len(self.times), "times": list(self.times)}
        return {"launch": self.launch, **self.setting.to_json(), "model": self.model, **total}


@dataclass(frozen=True, repr=False)
class Benchmark(Shown):
    """Latency of a folded model against its original; the headline is the level that users serve with, `default`."""

    cells: tuple[Cell, ...]
    cold: tuple[Cold, ...]
    shapes: dict[str, list[int]]
    batch_normalization: dict[str, int]
    left_by_onnxruntime: dict[str, int]
    nodes: dict[str, int]
    same_graph: bool
    environment: dict[str, Any]
    launches: int
    margin: float
    notes: tuple[str, ...]
    seconds: float
    blocks: tuple[Block, ...]
    models: dict[str, dict[str, Any]] = field(default_factory=dict)  # path, bytes and SHA-256 of each

    COLUMNS: ClassVar = ("setting", "A ms", "B ms", "speed-up [95 %]", "A/A [95 %]", "verdict", "outputs differ")
    SCATTER: ClassVar = ("setting", "model", "BN left", "runs", "p50", "p90", "p99", "IQR", "CV", "flags")
    COLD: ClassVar = ("provider", "model", "load ms", "first run ms", "MB", "peak MB")

    def rows(self) -> list[tuple[str, ...]]:
        """One line per setting for a table."""
        return [cell.row(self._differing) for cell in self.cells]

    def scatter(self) -> list[tuple[str, ...]]:
        """One line per setting and model for a table with `SCATTER`."""
        return [row for cell in self.cells for row in cell.scatter(self._differing)]

    @property
    def _differing(self) -> set[str]:
        """The parts of the settings that differ between cells; the level is always among them."""
        parts = [cell.setting.parts() for cell in self.cells]
        return {"level"} | {name for name in parts[0] if len({part[name] for part in parts}) > 1}

    @property
    def common(self) -> str:
        """The parts of the settings that are the same in all cells: `cpu, e2e`."""
        parts = self.cells[0].setting.parts()
        return self.cells[0].setting.words({*parts} - self._differing)

    @property
    def headlines(self) -> tuple[Cell, ...]:
        """The cells at the level that users serve with."""
        return tuple(cell for cell in self.cells if cell.level == "default") or self.cells

    @property
    def headline(self) -> Cell:
        return self.headlines[0]

    @property
    def verdict(self) -> str:
        """UNTRUSTED if any headline is, else the first one's."""
        return UNTRUSTED if any(c.verdict == UNTRUSTED for c in self.headlines) else self.headline.verdict

    def summary(self) -> str:
        """One sentence: the verdict, the interval, and how much of it onnxruntime would have done by itself."""
        cell, total = self.headline, self.batch_normalization["original"]
        own = total - self.left_by_onnxruntime["original"]
        where = "" if cell.setting.provider == "cpu" else f" on {cell.setting.provider}"
        return (
            f"{self.verdict}{where} at onnxruntime's {cell.level} optimization: {cell.speedup.estimate:.3f}x "
            f"{span(cell.speedup)}, A/A {span(cell.control)}; "
            f"onnxruntime folds {own} of {total} BatchNormalization by itself"
        )

    def in_a_line(self) -> str:
        return self.summary()

    @property
    def tone(self) -> str:
        return {FASTER: "good", SLOWER: "bad"}.get(self.verdict, "open")

    def tables(self) -> tuple[Table, ...]:
        return (
            Table(f"Median latency ({self.common}; A: original, B: folded)", self.COLUMNS, self.rows()),
            Table("Single runs, ms", self.SCATTER, self.scatter()),
            Table("Cold start", self.COLD, [cost.row() for cost in self.cold]),
            Table("Notes", ("",), [(note,) for note in self.notes]),
        )

    def to_json(self) -> dict[str, Any]:
        """Plain data, without the blocks; a bound that does not exist (one launch) is null."""
        plain = {key: value for key, value in asdict(self).items() if key != "blocks"}
        cells = [_cell(cell) for cell in self.cells]
        return {"schema": SCHEMA, "verdict": self.verdict, "summary": self.summary(), **plain, "cells": cells}


def _cell(cell: Cell) -> dict[str, Any]:
    plain = asdict(cell)
    bounds = {"speedup": _bounds(cell.speedup), "control": _bounds(cell.control)}
    return {**plain.pop("setting"), **plain, **bounds, "flags": list(cell.flags)}


def _bounds(interval: Interval) -> dict[str, float | None]:
    return {key: value if math.isfinite(value) else None for key, value in asdict(interval).items()}


def medians(pairs: Sequence[Sequence[float]]) -> tuple[float, float]:
    """The median of the firsts and of the seconds."""
    from statistics import median

    return median(pair[0] for pair in pairs), median(pair[1] for pair in pairs)
