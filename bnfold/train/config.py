"""config.json of a run: what it is. With it a network can be built, and resumed, without asking again."""

from __future__ import annotations

import json
import os
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from ..errors import ModelProblem, UsageProblem
from ..system.staging import write
from .data import Dataset
from .normalization import Normalization
from .options import Settings, TrainOptions

CONFIG = "config.json"
VERSION = 2  # of config.json and checkpoint.pt together
FREE = {"steps", "epochs", "data_dir", "statistics", "statistics_batch"}  # settings that may change when a run goes on


@dataclass(frozen=True)
class Config:
    """What a run is: enough to build its network, and to tell whether the data are still the same."""

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
        """Reads back `asdict`; raises ValueError, KeyError or TypeError for anything else."""
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
    """Whole or not at all."""
    write(run / CONFIG, f"{json.dumps({'version': VERSION, **asdict(config)}, indent=2)}\n".encode())


def read_config(run: Path) -> Config:
    """ModelProblem if `run` is no run, is damaged, or was written by another version of bnfold."""
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


def resumed(settings: Settings, options: TrainOptions) -> Settings:
    """What a run goes on with: only its length and the place of its data may differ from what it has."""
    said, stored = options.said(), asdict(settings)
    free = FREE - ({"steps", "epochs"} if settings.schedule == "cosine" else set())  # it ends where the run ends
    for name, value in said.items():
        if name not in free and stored[name] != value:
            raise UsageProblem(
                f"the run has {name} {stored[name]}, not {value}",
                "Leave that option out, or start another run with --out.",
            )
    if said.keys() & {"steps", "epochs"} & free:
        stored |= {"steps": None, "epochs": None}
    if "statistics" in said:
        stored |= {"statistics_batch": None}
    return Settings(**stored | said)
