"""Conditions under which a benchmark counts as failed, for CI: `slower:2%`, `speedup<1.05`."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass

from ..errors import UsageProblem
from .results import Benchmark
from .statistics import UNTRUSTED, Interval

_NUMBER = r"(\d+(?:\.\d+)?|\.\d+)"


@dataclass(frozen=True)
class Gate:
    """Fails where the whole interval of the speed-up is below `least`: beyond doubt, not on average."""

    text: str
    least: float

    def fails(self, interval: Interval) -> bool:
        return math.isfinite(interval.high) and interval.high < self.least

    def open(self, interval: Interval) -> bool:
        """The interval cannot decide: the truth may lie on either side."""
        return not self.fails(interval) and interval.low < self.least


def gate(text: str) -> Gate:
    """`slower:2%` fails if B surely takes over 1.02 times as long as A, `speedup<1.05` if it is surely below that."""
    slower, below = re.fullmatch(rf"slower:{_NUMBER}%", text), re.fullmatch(rf"speedup<{_NUMBER}", text)
    if slower:
        return Gate(text, 1 / (1 + float(slower[1]) / 100))
    if below and float(below[1]) > 0:
        return Gate(text, float(below[1]))
    raise UsageProblem(f"--fail-if {text!r} is not a condition", "For example: --fail-if slower:2%, or 'speedup<1.05'.")


def failures(benchmark: Benchmark, gates: Sequence[Gate]) -> list[str]:
    """In words, each condition that holds in a cell at the level that users serve with and can be trusted."""
    cells = [cell for cell in benchmark.headlines if cell.verdict != UNTRUSTED]
    return [
        f"{one.text}: {cell.setting.words()} is at {cell.speedup.estimate:.3f}x, {cell.speedup.high:.3f}x at best"
        for one in gates
        for cell in cells
        if one.fails(cell.speedup)
    ]


def undecided(benchmark: Benchmark, gates: Sequence[Gate]) -> list[str]:
    """In words, each condition that no interval decides in a cell at the level that users serve with."""
    return [
        f"{one.text} is not decided: {cell.setting.words()} is between {cell.speedup.low:.3f}x and "
        f"{cell.speedup.high:.3f}x; give it more time (--budget, --launches), and do nothing else meanwhile"
        for one in gates
        for cell in benchmark.headlines
        if cell.verdict != UNTRUSTED and one.open(cell.speedup)
    ]


def percent(text: str) -> float:
    """`1%` or `0.01` as 0.01. Raises UsageProblem."""
    match = re.fullmatch(rf"{_NUMBER}(%?)", text)
    value = float(match[1]) / (100 if match[2] else 1) if match else 0.0
    if not 0 < value < 1:
        raise UsageProblem(f"--margin {text!r} is not between 0 and 100 %", "For example: --margin 1%.")
    return value
