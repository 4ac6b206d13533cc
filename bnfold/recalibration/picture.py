"""`bnfold recalibrate --plot`: how far the statistics of each layer have moved."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ..display import plots
from ..errors import printable
from .drift import Drift

MOST_NAMES = 40  # layers whose names can be read
FARTHEST_DRAWN = 1e6  # a shift, or a ratio and its inverse, beyond which nothing is drawn


def draw_drifts(drifts: Sequence[Drift], title: str, path: Path, threshold: float | None = None) -> None:
    """Draw the largest shift of a mean and the range of variances for each BatchNormalization, in graph order.

    `threshold` is the drift, in standard deviations, from which --check says that a channel does not fit.
    """
    rows = max(3, len(drifts))  # so that a single bar is not as high as the picture
    figure = plots.figure(9.5, 2.0 + 0.24 * min(rows, MOST_NAMES))
    left, right = figure.subplots(1, 2, sharey=True)
    places = range(len(drifts))
    _means(left, drifts, places)
    _variances(right, drifts, places)
    if threshold is not None:
        for axes, low, high in ((left, 0, threshold), (right, (1 + threshold) ** -2, (1 + threshold) ** 2)):
            label = f"within the threshold, {threshold:g} standard deviations" if axes is left else None
            axes.axvspan(low, high, color="0.92", zorder=0, label=label)
        figure.legend(loc="outside lower center", frameon=False, fontsize=9)
    left.set_ylim(rows - 0.4, -0.6)
    _names(left, drifts, places)
    for axes in (left, right):
        plots.bare(axes, "x")
    figure.suptitle(title, x=0.01, ha="left", fontsize=11)
    plots.write_figure(figure, path)


def _means(axes: Any, drifts: Sequence[Drift], places: range) -> None:
    axes.barh(places, [min(drift.shift, FARTHEST_DRAWN) for drift in drifts], height=0.6, color=plots.BLUE)
    axes.set_xlabel("largest shift of a mean (standard deviations)", fontsize=9)


def _variances(axes: Any, drifts: Sequence[Drift], places: range) -> None:
    """A line for each layer from the smallest ratio of a channel to the largest."""
    low, high = ([*map(_drawable, ends)] for ends in _ends(drifts))
    axes.axvline(1, color=plots.GREY, linewidth=1)
    axes.hlines(places, low, high, color=plots.BLUE, linewidth=2)
    axes.plot(low, places, "o", color=plots.BLUE, markersize=4)
    axes.plot(high, places, "o", color=plots.BLUE, markersize=4)
    plots.ratios(axes, min(low, default=1.0), max(high, default=1.0))
    axes.set_xlabel("variance of the data / stored variance (from least to most)", fontsize=9)


def _ends(drifts: Sequence[Drift]) -> tuple[list[float], list[float]]:
    return [drift.ratio_low for drift in drifts], [drift.ratio_high for drift in drifts]


def _drawable(ratio: float) -> float:
    return min(max(ratio, 1 / FARTHEST_DRAWN), FARTHEST_DRAWN)


def _names(axes: Any, drifts: Sequence[Drift], places: range) -> None:
    if len(drifts) > MOST_NAMES:
        axes.set_ylabel("BatchNormalization, in the order of the graph")
        return
    axes.set_yticks(places, [_short(drift.node or drift.output) for drift in drifts], fontsize=8, parse_math=False)


def _short(name: str) -> str:
    """A name short enough for a label of an axis, without the ending that all of them share."""
    name = printable(name.removesuffix("/BatchNormalization"))
    return name if len(name) <= 36 else f"..{name[-34:]}"
