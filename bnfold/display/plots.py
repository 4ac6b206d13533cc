"""Pictures of results, by matplotlib, which is imported when one is drawn: light ground, colours for every eye."""

from __future__ import annotations

import io
import math
from pathlib import Path
from typing import Any
from warnings import catch_warnings, simplefilter

from ..errors import UsageProblem
from ..system import staging
from ..system.installed import need

FORMATS = (".png", ".svg", ".pdf")
# Okabe and Ito's colours, which differ for the colour-blind, too (https://jfly.uni-koeln.de/color/)
BLUE, ORANGE, GREEN, GREY, INK = "#0072B2", "#D55E00", "#009E73", "#999999", "#222222"
DOTS = 150  # per inch of a PNG


def require_plot(path: Path) -> None:
    """Before anything is computed: a format that can be drawn, and matplotlib. Raises."""
    if path.suffix.lower() not in FORMATS:
        raise UsageProblem(f"--plot {path}: {path.suffix!r} is not a format of pictures", f"Use {', '.join(FORMATS)}.")
    figure(1, 1)


def figure(width: float, height: float) -> Any:
    """An empty figure, in inches, which needs no display. Raises EnvironmentProblem where matplotlib is missing."""
    need("matplotlib", extra="plot", what="a picture")
    from matplotlib.figure import Figure

    return Figure(figsize=(width, height), layout="constrained", facecolor="white")


def bare(axes: Any, grid: str) -> None:
    """Show only what helps to read: two edges, and a grid."""
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(axis=grid, color="0.9", linewidth=0.8)
    axes.set_axisbelow(True)


def ratios(axes: Any, low: float, high: float) -> None:
    """A logarithmic axis of ratios, from `low` to `high` and around 1, whose marks are plain numbers."""
    first, last = math.floor(min(-1, math.log2(low))), math.ceil(max(1, math.log2(high)))
    step = max(1, (last - first) // 6)
    axes.set_xscale("log")
    marks = [2.0**power for power in range(-step * (-first // step + 1), last + step, step)]
    axes.set_xticks(marks, [f"{mark:g}" if mark >= 1 else f"1/{1 / mark:g}" for mark in marks])
    axes.minorticks_off()
    axes.set_xlim(2.0**first / 1.1, 2.0**last * 1.1)


def write_figure(drawn: Any, path: Path) -> None:
    """Write a figure whole or not at all, in the format of its name, with the same bytes each time."""
    from matplotlib import rc_context

    suffix, picture = path.suffix[1:].lower(), io.BytesIO()
    metadata = {"svg": {"Date": None}, "pdf": {"CreationDate": None}}.get(suffix, {})
    with rc_context({"svg.hashsalt": "bnfold"}), catch_warnings():
        simplefilter("ignore")  # a name may have letters that the font lacks
        drawn.savefig(picture, format=suffix, dpi=DOTS, metadata=metadata)
    staging.write_file(path, picture.getvalue())
