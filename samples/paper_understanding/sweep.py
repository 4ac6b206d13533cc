"""Learning rates: how far networks with BatchNorm nowhere, at the last layer only, or everywhere learn in few steps."""

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import networks

from bnfold.errors import CheckFailed
from bnfold.train import TrainOptions, train

RATES = (1e-4, 3e-3, 1e-2, 3e-2, 1e-1, 3e-1)
FEW = (1e-4, 3e-3, 1e-1)  # those that the paper shows curves of
LEARNS = 3e-3
Point = tuple[int, str, float]  # depth, kind, learning rate
SHALLOW: list[Point] = [(networks.DEPTH, kind, lr) for kind in networks.KINDS for lr in RATES]
DEEP: list[Point] = [(networks.DEEP, kind, lr) for kind in ("none", "everywhere") for lr in FEW]
RECIPE: dict[str, Any] = {
    "batch_size": 32,
    "momentum": 0.9,
    "weight_decay": 5e-4,
    "augment": "crop-flip",
    "schedule": "step",  # the rate falls to a tenth once
    "statistics": "alg2",
    "channels_last": True,  # faster
    "device": "cpu",
}


def sweep(data: dict[str, Any], steps: int, points: Iterable[Point], runs: Path) -> list[dict[str, Any]]:
    """Train at every point; a row for each. The runs stay in the folder `runs`."""
    common = RECIPE | data | {"steps": steps, "decay_every": 3 * steps // 4, "evaluate_every": steps // 4}
    return [
        {"depth": depth, "kind": kind, "lr": lr} | _run(depth, kind, lr, common, runs) for depth, kind, lr in points
    ]


def run_of(runs: Path, depth: int, kind: str, lr: float) -> Path:
    """The folder of a run."""
    return runs / f"{depth}-{kind}-{lr:g}"


def _run(depth: int, kind: str, lr: float, common: dict[str, Any], runs: Path) -> dict[str, Any]:
    """The held-out accuracy, or how the run diverged; and steps, losses and accuracies on the way."""
    factory = kind if depth == networks.DEPTH else f"deep_{kind}"
    out, row = run_of(runs, depth, kind, lr), dict[str, Any]()
    try:
        result = train(TrainOptions(**common, arch=f"{networks.__file__}:{factory}", lr=lr, out=out))
        row = {"accuracy": result.accuracy, "seconds": round(result.seconds, 1)}
    except CheckFailed as error:
        row = {"diverged": str(error)}
    print(f"{out.name:>20}: {row.get('accuracy', row.get('diverged'))}", flush=True)
    log = out / "metrics.jsonl"
    logged = [json.loads(line) for line in log.read_text().splitlines()] if log.exists() else []
    curve = [[point["step"], point["loss"], point["accuracy_moving_average"]] for point in logged if "loss" in point]
    return row | {"curve": curve}
