"""Files of a benchmark: raw samples, one block a line, and a picture of the ratios. Never half of one."""

from __future__ import annotations

import io
import json
import math
from pathlib import Path
from typing import Any

from .. import staging
from ..errors import EnvironmentProblem, UsageProblem, require_no_model
from .results import Benchmark, Cell
from .statistics import Interval

FORMATS = (".png", ".svg", ".pdf")


def write_raw(found: Benchmark, path: Path) -> None:
    """Every block of runs as a line of JSON. Raises EnvironmentProblem."""
    lines = "".join(json.dumps(block.to_json()) + "\n" for block in found.blocks)
    staging.write(path, lines.encode())


def check_plot(path: Path) -> None:
    """Before anything is timed: a format that can be drawn, and matplotlib there. Raises."""
    if path.suffix.lower() not in FORMATS:
        raise UsageProblem(f"--plot {path}: no picture is written as {path.suffix!r}", f"Use {', '.join(FORMATS)}.")
    _pictures()


def check_place(path: Path) -> None:
    """Before anything is timed: a folder to write into, and no name of a model. Raises."""
    require_no_model(path)
    if not path.parent.is_dir():
        raise EnvironmentProblem(f"{path} cannot be written: no folder {path.parent}", "Make it, or name another.")


def _pictures() -> Any:
    """matplotlib's Figure, which needs no display. Raises EnvironmentProblem."""
    try:
        from matplotlib.figure import Figure
    except ImportError as why:
        raise EnvironmentProblem("--plot needs matplotlib", 'pip install "bnfold[plot]"') from why
    return Figure


def write_plot(found: Benchmark, path: Path) -> None:
    """Per setting the speed-up with its interval and a point for each launch, and the A/A control below it."""
    figure = _pictures()(figsize=(8, 1.6 + 0.8 * len(found.cells)), layout="constrained")
    axes = figure.subplots()
    for number, cell in enumerate(found.cells):
        _draw(axes, cell, number)
    axes.axvspan(1 - found.margin, 1 + found.margin, color="0.9", zorder=0, label="margin")
    axes.axvline(1, color="0.5", linewidth=1)
    axes.set_yticks(range(len(found.cells)), [cell.setting.words() for cell in found.cells])
    axes.invert_yaxis()
    axes.set_xlabel("original / folded: above 1 the folded model is faster")
    axes.set_title(found.verdict)
    figure.legend(*axes.get_legend_handles_labels(), loc="outside lower center", ncols=3)
    picture = io.BytesIO()
    figure.savefig(picture, format=path.suffix[1:].lower())
    staging.write(path, picture.getvalue())


def _draw(axes: Any, cell: Cell, number: int) -> None:
    """Speed-up and control of one setting; only the first has names for the legend."""
    shown = (("speed-up", cell.speedup, cell.log_ratios, "C0"), ("A/A", cell.control, cell.log_controls, "C7"))
    for place, (label, interval, logs, color) in enumerate(shown):
        at, name = number - 0.15 + 0.3 * place, "_" * bool(number) + label
        axes.plot([math.exp(log) for log in logs], [at] * len(logs), ".", color=color, alpha=0.5)
        axes.errorbar(interval.estimate, at, xerr=_arms(interval), fmt="D", color=color, capsize=4, label=name)


def _arms(interval: Interval) -> list[list[float]]:
    return [[interval.estimate - interval.low], [interval.high - interval.estimate]]
