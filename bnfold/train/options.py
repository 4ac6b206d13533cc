"""What `train` is called with, what it notifies of and what it returns; nothing heavy is imported here."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

from ..errors import BnfoldError
from .recipe import Settings, option

RUNS_FOLDER = Path("runs")
DEVICES = ("auto", "cpu", "cuda")


@dataclass(frozen=True)
class CallOptions:
    """The options of one call of `train` that are not settings of the run: they are not stored with it."""

    device: str = option("auto", "auto, cpu or cuda.")
    out: Path | None = option(None, "Folder of the run.", shown="runs/DATA-ARCH")
    resume: bool = option(False, "Go on, exactly where it stopped, with the run --out or the newest one.")
    tensorboard: bool = option(False, "Also write scalars for TensorBoard, in the run.")


@dataclass(frozen=True, init=False)
class TrainOptions(CallOptions):
    """All options of one call of `train`: TrainOptions(arch="mlp", steps=500, device="cpu").

    `settings` are those fields of Settings that are given, by their names or in a dictionary, and not None. The others
    are the defaults of Settings or, on `resume`, those that the run has. They are checked when `train` is called.
    """

    settings: dict[str, Any] = field(default_factory=dict)

    def __init__(self, settings: Mapping[str, Any] | None = None, **options: Any) -> None:
        named = {setting.name: options.pop(setting.name) for setting in fields(Settings) if setting.name in options}
        super().__init__(**options)
        every = {**(settings or {}), **named}
        object.__setattr__(self, "settings", {name: value for name, value in every.items() if value is not None})


@dataclass(frozen=True)
class TrainResult:
    """A finished run. Accuracies are shares of the held-out images; without BatchNorm the two are the same.

    `statistics` is the method by which those were taken that `accuracy` was measured with.
    """

    run: Path
    accuracy: float
    accuracy_moving_average: float
    statistics: str
    steps: int
    test_images: int
    batch_norms: int
    seconds: float


@dataclass(frozen=True)
class Event:
    """The progress of a run: after every step, and with the held-out accuracy after every evaluation.

    `network` is then the nn.Module itself, for a look inside; a copy of it may be run in training mode.
    """

    step: int
    steps: int
    loss: float | None = None
    accuracy: float | None = None
    lr: float | None = None
    network: Any = field(default=None, repr=False, compare=False)


Watch = Callable[[Event], None]


class Interrupted(BnfoldError):
    """Training was stopped by Ctrl-C; its last checkpoint is kept (exit code 130)."""

    exit_code = 130
