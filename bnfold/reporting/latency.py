"""Single runs of a benchmark, as `bench --raw` writes them, condensed to what a picture needs."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np

from ..errors import FOREVER, ModelProblem
from .records import BLOCK_FIELDS, SETTING, matches_kind

RUN_BINS = 60
FENCE = 0.99  # runs slower than this quantile of either model are counted, not drawn
RUN_QUANTILES = (0.05, 0.25, 0.5, 0.75, 0.95)
Plain = dict[str, Any]


def lines(text: str, path: object) -> list[Plain]:
    """The blocks of a raw file. Raises ModelProblem for what is none."""
    try:
        blocks = [json.loads(line) for line in text.splitlines() if line.strip()]
        for block in blocks:
            _require_block(block)
    except (ValueError, RecursionError) as why:
        raise ModelProblem(
            f"{path} is not a file of raw samples", "`bnfold bench A B --json bench.json --raw FILE` writes one."
        ) from why
    return blocks


def _require_block(block: Any) -> None:
    if (
        not matches_kind(block, BLOCK_FIELDS)
        or not block["times"]
        or not all(0 < each < FOREVER for each in block["times"])
    ):
        raise ValueError("no block")


def condense(blocks: Iterable[Mapping[str, Any]]) -> list[Plain]:
    """Per setting, for each model: a histogram of all runs in milliseconds on common bins, and quantiles per launch."""
    settings: dict[str, dict[str, list[tuple[int, Any]]]] = {}
    for block in blocks:
        models = settings.setdefault(_key(block), {})
        models.setdefault(str(block["model"]), []).append((int(block["launch"]), 1e3 * np.asarray(block["times"])))
    return [_setting(json.loads(key), models) for key, models in settings.items()]


def _key(block: Mapping[str, Any]) -> str:
    names = (name.removesuffix("?") for name in SETTING)
    return json.dumps({name: block[name] for name in names if name in block})


def _setting(setting: Plain, models: Mapping[str, list[tuple[int, Any]]]) -> Plain:
    runs = {name: np.concatenate([times for _, times in parts]) for name, parts in models.items()}
    low, high = min(t.min() for t in runs.values()), max(np.quantile(t, FENCE) for t in runs.values())
    edges = np.linspace(low, high if high > low else low * 1.01, RUN_BINS + 1)
    histograms = {name: _model(times, edges, models[name]) for name, times in runs.items()}
    return {**setting, "edges": [float(f"{edge:.5g}") for edge in edges], "models": histograms}


def _model(times: Any, edges: Any, parts: list[tuple[int, Any]]) -> Plain:
    inside = times[times <= edges[-1]]
    launches = sorted({launch for launch, _ in parts})
    each = [np.concatenate([t for launch, t in parts if launch == number]) for number in launches]
    quantiles = [[float(f"{q:.5g}") for q in np.quantile(t, RUN_QUANTILES)] for t in each]
    counts = {"runs": times.size, "beyond": times.size - inside.size, "counts": np.histogram(inside, edges)[0].tolist()}
    return {**counts, "launches": quantiles}
