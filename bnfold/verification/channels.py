"""Errors of fold sites channel by channel, to be looked at; what is judged is in `measure`."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from .measure import FOLDED, ONES, ORIGINAL, TRUTH, Tally
from .windows import Array

MOST = 16_384  # channels of all sites of a level, up to which each has its own number
QUANTILES = 65  # of a site, where there are more


def by_channel(sites: Sequence[Tally]) -> dict[str, dict[str, Any]]:
    """The fields of `ChannelErrors` for each site whose channels were told apart, by the name of its tensor."""
    found = {tally.name: axis for tally in sites if (axis := _axis(tally))}
    tallies = {tally.name: tally for tally in sites if tally.name in found}
    every = sum(tally.sums[found[name]].shape[1] for name, tally in tallies.items()) <= MOST
    return {name: _errors(tally, found[name], every) for name, tally in tallies.items()}


def _axis(tally: Tally) -> int | None:
    """The last axis that was looked at channel by channel."""
    axes = [axis for axis in tally.sums if axis is not None]
    return max(axes) if axes and tally.sums[None][TRUTH, 0] > 0 else None


def _errors(tally: Tally, axis: int, every: bool) -> dict[str, Any]:
    sums, whole = tally.sums[axis], tally.sums[None][:, 0]
    size = math.sqrt(whole[TRUTH] / whole[ONES])
    rows = {"original": ORIGINAL, "folded": FOLDED}
    told = {name: _told(np.sqrt(sums[row] / sums[ONES]) / size, every) for name, row in rows.items()}
    return {"axis": axis, "channels": sums.shape[1], "every": every, **told}


def _told(errors: Array, every: bool) -> list[float]:
    """Three digits of each number, or of as many quantiles as there may be."""
    shown = errors if every else np.quantile(errors, np.linspace(0, 1, QUANTILES))
    return [float(f"{value:.2e}") for value in np.nan_to_num(shown).tolist()]
