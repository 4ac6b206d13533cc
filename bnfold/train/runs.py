"""A run is a folder: config.json (what it is), checkpoint.pt (where it is), metrics.jsonl (how it went)."""

from __future__ import annotations

import io
import json
import os
import zipfile
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..errors import ModelProblem, UsageProblem
from ..system.staging import append, write, writing
from .config import VERSION, Config, require_version, write_config
from .options import RUNS, Settings

CHECKPOINT, METRICS = "checkpoint.pt", "metrics.jsonl"


@dataclass(frozen=True, eq=False)
class Checkpoint:
    """Where a run is after `step` steps; `statistics`, how they were taken, and `scores` are there once it is finished.

    `rng` has one state of the CPU for each process of the run.
    """

    step: int
    model: dict[str, Tensor]
    optimizer: dict[str, Any]
    rng: dict[str, Tensor]
    seconds: float = 0.0
    scaler: dict[str, Any] = field(default_factory=dict)
    statistics: dict[str, Tensor] = field(default_factory=dict)
    taken: str = ""
    scores: dict[str, float] = field(default_factory=dict)


def create(run: Path, config: Config) -> None:
    """A new run folder; UsageProblem if it exists."""
    if os.path.exists(run):
        raise exists(run)
    with writing(run):
        run.mkdir(parents=True)
    write_config(run, config)


def exists(run: Path) -> UsageProblem:
    return UsageProblem(f"{run} exists", "--resume goes on with it; another --out starts a new run.")


def default_out(settings: Settings) -> Path:
    """runs/DATA-ARCH, and -no-bn without BatchNorm."""
    data = Path(settings.data.partition(":")[2] or settings.data).name
    arch = Path(settings.arch).name.replace(":", "-")
    return RUNS / f"{data}-{arch}{'' if settings.batch_norm else '-no-bn'}"


def newest() -> Path:
    """The run under runs/ whose checkpoint was written last; UsageProblem if there is none."""
    found = sorted(RUNS.glob(f"*/{CHECKPOINT}"), key=lambda path: path.stat().st_mtime_ns)
    if not found:
        raise UsageProblem(f"there is no run under {RUNS.absolute()}", "`bnfold train` makes one.")
    return found[-1].parent


def save(run: Path, checkpoint: Checkpoint) -> None:
    """Write `checkpoint` in place of the last one, whole or not at all."""
    buffer = io.BytesIO()
    torch.save({"version": VERSION, **vars(checkpoint)}, buffer)
    write(run / CHECKPOINT, buffer.getvalue())


def load(run: Path) -> Checkpoint:
    """The checkpoint of `run`, on the CPU; ModelProblem if it is missing, damaged or of another version."""
    path = run / CHECKPOINT
    if not os.path.isfile(path):
        raise ModelProblem(f"{run} has no {CHECKPOINT}", "`bnfold train` writes one; --checkpoint names a run.")
    stored = _stored(path)
    if not isinstance(stored, dict):
        raise _damaged(path)
    require_version(path, stored.pop("version", None))
    if stored.keys() != {entry.name for entry in fields(Checkpoint)}:
        raise _damaged(path)
    return Checkpoint(**stored)


def _stored(path: Path) -> Any:
    """What was saved; the checksums, which torch.load does not look at, are right."""
    try:
        with zipfile.ZipFile(path) as archive:
            intact = archive.testzip() is None
        stored = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch.load names no set of errors
        raise _damaged(path) from error
    if not intact:
        raise _damaged(path)
    return stored


def _damaged(path: Path) -> ModelProblem:
    return ModelProblem(f"{path} is damaged, or is not a checkpoint of bnfold", "Train again.")


def log(run: Path, row: dict[str, float]) -> None:
    """One more line of metrics."""
    append(run / METRICS, json.dumps(row) + "\n")


def metrics(run: Path) -> list[dict[str, float]]:
    """The lines of metrics so far, without one that was cut off while it was written."""
    path = run / METRICS
    lines = path.read_text(encoding="utf-8").splitlines(keepends=True) if os.path.isfile(path) else []
    return [json.loads(line) for line in lines if line.endswith("\n")]


def rewind(run: Path, step: int) -> None:
    """Forget metrics after `step`, and the result of a run that now goes on."""
    rows = [row for row in metrics(run) if row["step"] <= step and "loss" in row]
    write(run / METRICS, "".join(json.dumps(row) + "\n" for row in rows).encode())
