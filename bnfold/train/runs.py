"""A run is a folder: config.json (settings), checkpoint.pt (state), metrics.jsonl (losses and accuracies)."""

from __future__ import annotations

import io
import json
import os
import zipfile
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from shlex import quote
from typing import Any

import torch
from torch import Tensor

from ..errors import ModelProblem, UsageProblem
from ..system.staging import append_text, write_file, writing
from .data import Dataset
from .options import RUNS_FOLDER, TrainOptions
from .pixels import Normalization
from .recipe import Settings

CONFIG, CHECKPOINT, METRICS = "config.json", "checkpoint.pt", "metrics.jsonl"
VERSION = 2  # of config.json and checkpoint.pt together
FREE = {"steps", "epochs", "data_dir", "statistics", "statistics_batch"}  # settings that may change when a run goes on


@dataclass(frozen=True)
class Config:
    """The settings and the data of a run: enough to build its network, and to check that the data are the same."""

    settings: Settings
    classes: tuple[str, ...]
    shape: tuple[int, int, int]
    normalization: Normalization
    train_images: int
    test_images: int

    @staticmethod
    def of(settings: Settings, data: Dataset) -> Config:
        return Config(settings, data.classes, data.shape, data.normalization, len(data.train), len(data.test))

    @staticmethod
    def from_stored(stored: dict[str, Any]) -> Config:
        """The inverse of `asdict`; raises ValueError, KeyError or TypeError for anything else."""
        channels, height, width = (int(size) for size in stored["shape"])
        return Config(
            Settings(**stored["settings"]),
            tuple(str(name) for name in stored["classes"]),
            (channels, height, width),
            Normalization.from_stored(stored["normalization"]),
            int(stored["train_images"]),
            int(stored["test_images"]),
        )


def write_config(run: Path, config: Config) -> None:
    """Write config.json, whole or not at all."""
    write_file(run / CONFIG, f"{json.dumps({'version': VERSION, **asdict(config)}, indent=2)}\n".encode())


def read_config(run: Path) -> Config:
    """ModelProblem if `run` is not a run, is damaged, or was written by another version of bnfold."""
    path = run / CONFIG
    if not os.path.isfile(path):
        raise ModelProblem(f"{run} is not a run: it has no {CONFIG}", "`bnfold train` makes runs.")
    try:
        stored = json.loads(path.read_text(encoding="utf-8"))
        require_version(path, stored["version"])
        return Config.from_stored(stored)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ModelProblem(f"{path} is damaged", "Train again.") from error


def require_version(path: Path, version: object) -> None:
    """ModelProblem unless this bnfold reads what was written as `version`."""
    if version != VERSION:
        raise ModelProblem(
            f"{path} has version {version}; this bnfold reads version {VERSION}", "Use the bnfold that wrote it."
        )


def resumed_settings(settings: Settings, options: TrainOptions) -> Settings:
    """The settings of a run that goes on: those that it has, of which `options` may change only FREE ones."""
    changed, stored = options.settings, asdict(settings)
    free = FREE - ({"steps", "epochs"} if settings.schedule == "cosine" else set())  # its rate ends where the run ends
    for name, value in changed.items():
        if name not in free and stored[name] != value:
            raise UsageProblem(
                f"the run has {name} {stored[name]}, not {value}",
                "Leave that option out, or start another run with --out.",
            )
    if changed.keys() & {"steps", "epochs"} & free:
        stored |= {"steps": None, "epochs": None}
    if "statistics" in changed:
        stored |= {"statistics_batch": None}
    return Settings(**stored | changed)


@dataclass(frozen=True, eq=False)
class Checkpoint:
    """A run after `step` steps. Once it is finished it has `statistics`, `taken` by this method, and `scores`.

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
    if os.path.isfile(run / CONFIG) and not os.path.exists(run / CHECKPOINT):
        return UsageProblem(f"{run} is a run that has no {CHECKPOINT} yet", _not_begun(run))
    return UsageProblem(f"{run} exists", "--resume goes on with it; another --out starts a new run.")


def default_out(settings: Settings) -> Path:
    """runs/DATA-ARCH, and -no-bn without BatchNorm."""
    data = Path(settings.data.partition(":")[2] or settings.data).name
    arch = Path(settings.arch).name.replace(":", "-")
    return RUNS_FOLDER / f"{data}-{arch}{'' if settings.batch_norm else '-no-bn'}"


def newest() -> Path:
    """The run under runs/ whose checkpoint was written last; UsageProblem if there is none."""
    written = sorted(RUNS_FOLDER.glob(f"*/{CHECKPOINT}"), key=lambda path: path.stat().st_mtime_ns)
    if not written:
        raise UsageProblem(f"there is no run under {RUNS_FOLDER.absolute()}", "`bnfold train` makes one.")
    return written[-1].parent


def save_checkpoint(run: Path, checkpoint: Checkpoint) -> None:
    """Write `checkpoint` in place of the last one, whole or not at all."""
    buffer = io.BytesIO()
    torch.save({"version": VERSION, **vars(checkpoint)}, buffer)
    write_file(run / CHECKPOINT, buffer.getvalue())


def _not_begun(run: Path) -> str:
    """What can be done about a run that was stopped before there was anything to go on with."""
    return f"If nothing trains there, `rm -r {quote(str(run))}` removes it, and the same command starts again."


def load_checkpoint(run: Path) -> Checkpoint:
    """The checkpoint of `run`, on the CPU; ModelProblem if it is missing, damaged or of another version."""
    path = run / CHECKPOINT
    if not os.path.isfile(path):
        begun = "`bnfold train` writes one; --checkpoint names a run."
        raise ModelProblem(f"{run} has no {CHECKPOINT}", _not_begun(run) if os.path.isfile(run / CONFIG) else begun)
    stored = _stored(path)
    if not isinstance(stored, dict):
        raise _damaged(path)
    require_version(path, stored.pop("version", None))
    if stored.keys() != {entry.name for entry in fields(Checkpoint)}:
        raise _damaged(path)
    return Checkpoint(**stored)


def _stored(path: Path) -> Any:
    """The saved objects; checksums, which torch.load does not check, are right."""
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
    """Add a line to the metrics."""
    append_text(run / METRICS, json.dumps(row) + "\n")


def metrics(run: Path) -> list[dict[str, float]]:
    """The lines of metrics so far, without one that was cut off while it was written."""
    path = run / METRICS
    lines = path.read_text(encoding="utf-8").splitlines(keepends=True) if os.path.isfile(path) else []
    return [json.loads(line) for line in lines if line.endswith("\n")]


def rewind(run: Path, step: int) -> None:
    """Forget metrics after `step`, and the result of a run that now goes on."""
    rows = [row for row in metrics(run) if row["step"] <= step and "loss" in row]
    write_file(run / METRICS, "".join(json.dumps(row) + "\n" for row in rows).encode())
