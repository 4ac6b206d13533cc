"""What was measured of one tensor; of fold sites also the errors of each channel."""

from __future__ import annotations

import math
import sys
from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np

from ..runtime.protos import produced
from .float64.windows import Array
from .level_results import ChannelErrors, Compared
from .measure import OUTPUT_LIMIT, Row, Tally
from .regions import undone
from .results import SITE_LIMIT
from .trial import Trial

COPIED = ("name", "miscomputed", "usable", "clear", "constant", "excluded", "elements")  # of a tally


def record(tally: Tally, operator: str, output: bool, site: bool) -> Compared:
    """What was measured of a tensor; `why` says in words what is wrong where it is not `ok`."""
    ratio, axis, channel = tally.worst()
    limit = OUTPUT_LIMIT if output and not site else SITE_LIMIT
    whole = float(tally.ratios(None).max())
    over = ratio > limit or (output and whole > OUTPUT_LIMIT)
    return Compared(
        **{name: getattr(tally, name) for name in COPIED},
        operator=operator,
        output=output,
        site=site,
        ok=not (tally.misshapen or tally.broken or tally.tipped or tally.outlying or over),
        why=_why(tally, ratio, limit),
        ratio=finite(ratio),
        tensor_ratio=finite(whole),
        limit=limit,
        axis=axis,
        channel=channel,
        max_abs_original=tally.largest[0],
        max_abs_folded=tally.largest[1],
        rms_original=_relative(tally, Row.ORIGINAL),
        rms_folded=_relative(tally, Row.FOLDED),
        rms_noise=_relative(tally, Row.NOISE),
        disputed=tally.disputed and tally.miscomputed != "original",
        channels=tally.live.size,
        live=int(tally.live.sum()),
    )


def _why(tally: Tally, ratio: float, limit: float) -> str:
    if tally.misshapen:
        return f"its type or shape changed: {tally.misshapen}"
    if tally.broken:
        return f"{tally.broken} values became NaN or Inf, or another of these"
    if tally.tipped:
        return f"{tally.flips[1]} of {tally.elements} integers are wrong (original: {tally.flips[0]})"
    if tally.outlying and ratio <= limit:
        return f"its largest error is {tally.largest[1]:.3g}, where whole steps explain {tally.largest[2]:.3g}"
    return f"its error is {ratio:.3g} times what rounding explains (limit {limit:g})"


def _relative(tally: Tally, row: Row) -> float:
    """The root mean square error in a row of the sums, relative to the root mean square of the true values."""
    sums = tally.sums.get(None)
    if sums is None or not sums[Row.TRUTH, 0] > 0:
        return 0.0
    return finite(math.sqrt(float(sums[row, 0] / sums[Row.TRUTH, 0])))


def finite(value: float) -> float:
    """JSON has no infinity: the largest float stands for it."""
    return min(float(value), sys.float_info.max)


CHANNELS_IN_FULL = 16_384  # of all sites of a level, up to which each has its own number
QUANTILES = 65  # of a site, where there are more


def by_channel(sites: Sequence[Tally]) -> dict[str, ChannelErrors]:
    """The errors of each site that was measured channel by channel, by the name of its tensor."""
    axes = {tally.name: axis for tally in sites if (axis := _axis(tally))}
    tallies = {tally.name: tally for tally in sites if tally.name in axes}
    every = sum(tally.sums[axes[name]].shape[1] for name, tally in tallies.items()) <= CHANNELS_IN_FULL
    return {name: _errors(tally, axes[name], every) for name, tally in tallies.items()}


def _axis(tally: Tally) -> int | None:
    """The last axis that was measured channel by channel."""
    axes = [axis for axis in tally.sums if axis is not None]
    return max(axes) if axes and tally.sums[None][Row.TRUTH, 0] > 0 else None


def _errors(tally: Tally, axis: int, every: bool) -> ChannelErrors:
    sums, whole = tally.sums[axis], tally.sums[None][:, 0]
    size = math.sqrt(whole[Row.TRUTH] / whole[Row.ONES])
    errors = [np.sqrt(sums[row] / sums[Row.ONES]) / size for row in (Row.ORIGINAL, Row.FOLDED)]
    return ChannelErrors(axis, sums.shape[1], every, *(_shortened(each, every) for each in errors))


def _shortened(errors: Array, every: bool) -> tuple[float, ...]:
    """Three digits of each number or, unless `every` one is wanted, of quantiles."""
    shown = errors if every else np.quantile(errors, np.linspace(0, 1, QUANTILES))
    return tuple(float(f"{value:.2e}") for value in np.nan_to_num(shown).tolist())


def records(trial: Trial, tallies: Mapping[str, Tally], outputs: Sequence[str]) -> tuple[Compared, ...]:
    """One record per tensor, in the order of the graph; one that has other values by design is `moved`, and `ok`."""
    nodes = produced(trial.original.graph)
    makers = {name: nodes[name].op_type if name in nodes else "" for name in tallies}
    shown = (n for n, t in tallies.items() if is_compared(t) or (t.runs and n in outputs))
    entries = [record(tallies[n], makers[n], n in outputs, n in trial.edits) for n in shown]
    empty = {name: True for name, tally in tallies.items() if tally.runs and not (tally.elements or tally.misshapen)}
    good = {**empty, **{entry.name: entry.ok for entry in entries}}
    excused = undone(trial.folded.graph, good, trial.edits)
    channels = by_channel([tallies[entry.name] for entry in entries if entry.site])
    return tuple(
        replace(entry, moved=moved, ok=entry.ok or moved, by_channel=channels.get(entry.name))
        for entry, moved in ((entry, entry.name in excused) for entry in entries)
    )


def is_compared(tally: Tally) -> bool:
    return tally.elements > 0 or bool(tally.misshapen)


def gaps(tensors: Sequence[Compared]) -> list[str]:
    """One note, where NaN and Inf of the original leave something uncompared."""
    holes = [entry for entry in tensors if entry.excluded]
    if not holes:
        return []
    count, first = sum(entry.excluded for entry in holes), holes[0].name
    return [f"{count} elements are NaN or Inf in the original as well and show nothing, the first in {first!r}"]
