"""Files that a benchmark writes: raw samples, one block a line, and a picture of the ratios. Each appears whole."""

from __future__ import annotations

import json
import math
from pathlib import Path
from textwrap import wrap
from typing import Any

from ..display import plots
from ..errors import printable
from ..system import staging
from .results import Benchmark, Cell
from .statistics import Interval


def write_raw(benchmark: Benchmark, path: Path) -> None:
    """Every block of runs as a line of JSON. Raises EnvironmentProblem."""
    lines = "".join(json.dumps(block.to_json()) + "\n" for block in benchmark.blocks)
    staging.write_file(path, lines.encode())


def write_plot(benchmark: Benchmark, path: Path) -> None:
    """Per setting the speed-up with its interval and a point for each launch, and the A/A control below it."""
    figure = plots.figure(8, 2.0 + 0.8 * len(benchmark.cells))
    axes = figure.subplots()
    axes.axvspan(
        1 - benchmark.margin,
        1 + benchmark.margin,
        color="0.92",
        zorder=0,
        label=f"no difference (within {benchmark.margin:.0%})",
    )
    axes.axvline(1, color=plots.GREY, linewidth=1)
    for number, cell in enumerate(benchmark.cells):
        _draw(axes, cell, number)
    axes.set_yticks(range(len(benchmark.cells)), [_name(cell) for cell in benchmark.cells], parse_math=False)
    axes.set_ylim(len(benchmark.cells) - 0.5, -0.5)
    axes.set_xlabel("how many times as fast as the original: above 1 the folded model is faster")
    axes.set_title("\n".join(wrap(benchmark.summary(), 80)), loc="left", fontsize=10, parse_math=False)
    plots.bare(axes, "x")
    figure.legend(*axes.get_legend_handles_labels(), loc="outside lower center", ncols=3, frameon=False)
    plots.write_figure(figure, path)


def _name(cell: Cell) -> str:
    level, *rest = cell.setting.parts().values()
    return f"optimization {level}\n{printable(', '.join(filter(None, rest)))}"


def _draw(axes: Any, cell: Cell, number: int) -> None:
    """Speed-up and control of one setting; only the first has names for the legend."""
    shown = (
        ("speed-up, 95 % interval", cell.speedup, cell.log_ratios, plots.BLUE, "D"),
        ("original against itself", cell.control, cell.log_controls, plots.ORANGE, "o"),
    )
    for place, (label, interval, logs, color, mark) in enumerate(shown):
        at, name = number - 0.15 + 0.3 * place, "_" * bool(number) + label
        axes.plot([math.exp(log) for log in logs], [at] * len(logs), ".", color=color, alpha=0.35, markersize=9)
        axes.errorbar(interval.estimate, at, xerr=_arms(interval), fmt=mark, color=color, capsize=4, label=name)


def _arms(interval: Interval) -> list[list[float]]:
    return [[interval.estimate - interval.low], [interval.high - interval.estimate]]
