"""What a training run is asked for and what it answers; nothing heavy is imported here."""

from __future__ import annotations

import difflib
import math
from collections.abc import Callable, Collection
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

from ..errors import BnfoldError, UsageProblem
from .recipe import CHOICES, Network, Recipe

RUNS = Path("runs")
EPOCHS = 30
DEVICES = ("auto", "cpu", "cuda")
METHODS = ("sequential", "alg2", "pooled", "ema")  # of taking population statistics
BY_BATCH = ("alg2", "pooled")  # those that normalize mini-batches as in training


@dataclass(frozen=True)
class Settings(Network, Recipe):
    """What decides the numbers of a run; stored with it."""

    data: str = "digits"
    data_dir: str | None = None
    steps: int | None = None
    epochs: int | None = None
    evaluate_every: int | None = None
    seed: int = 0
    statistics: str = "sequential"
    statistics_batch: int | None = None
    sync_bn: bool = False

    def __post_init__(self) -> None:
        _check_choices(self)
        _check_numbers(self)
        _check_together(self)
        _check_statistics(self)

    @property
    def mini_batch(self) -> int:
        """Images of a mini-batch that statistics are taken of."""
        return self.statistics_batch or self.batch_size

    @property
    def statistics_words(self) -> str:
        """How statistics are taken."""
        return (
            f"{self.statistics}, mini-batches of {self.mini_batch}" if self.statistics in BY_BATCH else self.statistics
        )

    def total_steps(self, train_images: int) -> int:
        """Steps to take; an epoch is every full batch of `train_images`, a short last batch is left out."""
        return self.steps or (self.epochs or EPOCHS) * (train_images // self.batch_size)


@dataclass(frozen=True)
class TrainOptions:
    """One call of `train`. None means "not said": the default of `Settings` or, on `resume`, what the run has."""

    data: str | None = None
    data_dir: str | None = None
    arch: str | None = None
    batch_norm: bool | None = None
    activation: str | None = None
    bn_position: str | None = None
    width: float | None = None
    dropout: float | None = None
    lrn: bool | None = None
    init_std: float | None = None
    steps: int | None = None
    epochs: int | None = None
    batch_size: int | None = None
    shuffle: str | None = None
    augment: str | None = None
    optimizer: str | None = None
    lr: float | None = None
    momentum: float | None = None
    weight_decay: float | None = None
    schedule: str | None = None
    decay: float | None = None
    decay_every: int | None = None
    clip_norm: float | None = None
    amp: str | None = None
    channels_last: bool | None = None
    compile: bool | None = None
    evaluate_every: int | None = None
    seed: int | None = None
    statistics: str | None = None
    statistics_batch: int | None = None
    sync_bn: bool | None = None
    device: str = "auto"
    out: Path | None = None
    resume: bool = False
    tensorboard: bool = False

    def said(self) -> dict[str, Any]:
        """The settings this call names."""
        asked = {setting.name: getattr(self, setting.name) for setting in fields(Settings)}
        return {name: value for name, value in asked.items() if value is not None}


@dataclass(frozen=True)
class TrainResult:
    """A finished run. Accuracies are shares of the held-out images; without BatchNorm the two are the same.

    `statistics` says how those were taken that `accuracy` was measured with.
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
    """Where a run is: after every step, and with the held-out accuracy after every evaluation.

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


def unknown(kind: str, name: str, known: Collection[str]) -> UsageProblem:
    """The error for a name nobody knows; its hint has the nearest ones."""
    near = difflib.get_close_matches(name, known, n=3, cutoff=0.5) or sorted(known)
    return UsageProblem(f"unknown {kind} {name!r}", f"Did you mean {' or '.join(near)}?")


COUNTS = ("steps", "epochs", "batch_size", "decay_every", "evaluate_every")
POSITIVE = {"lr": "a learning rate", "width": "a factor", "init_std": "a standard deviation", "clip_norm": "a norm"}
SHARES = ("momentum", "dropout")


def _check_choices(settings: Settings) -> None:
    for name, choices in CHOICES.items():
        value = getattr(settings, name)
        if value is not None and value not in choices:
            raise unknown(option(name), value, choices)


def _check_numbers(settings: Settings) -> None:
    def require(name: str, fits: Callable[[Any], bool], hint: str) -> None:
        value = getattr(settings, name)
        _require(value is None or fits(value), f"{option(name)} is {value}", hint)

    for name in COUNTS:
        require(name, lambda value: value >= 1, "Give a whole number of at least 1.")
    for name, what in POSITIVE.items():
        require(name, lambda value: math.isfinite(value) and value > 0, f"Give {what} above 0.")
    for name in SHARES:
        require(name, lambda value: 0 <= value < 1, "Give a number from 0 to below 1.")
    require("weight_decay", lambda value: math.isfinite(value) and value >= 0, "Give a number of at least 0.")
    require("decay", lambda value: 0 < value <= 1, "Give a factor above 0 and up to 1.")
    require("seed", lambda value: 0 <= value < 2**63, "Give a whole number from 0 to 2**63 - 1.")


def _check_together(settings: Settings) -> None:
    """No option that another one makes meaningless."""
    _require(settings.steps is None or settings.epochs is None, "steps and epochs were both given", "Give one of them.")
    decays = settings.schedule in ("exponential", "step")
    _require(
        decays == (settings.decay_every is not None),
        f"--schedule {settings.schedule} {'needs' if decays else 'has no'} --decay-every",
        "--schedule exponential and step multiply the learning rate by --decay every --decay-every steps.",
    )
    _require(
        decays or settings.decay == Recipe.decay,
        f"--schedule {settings.schedule} has no --decay",
        "--schedule exponential and step have one.",
    )
    _require(
        settings.batch_norm or settings.bn_position is None,
        "--no-bn leaves no BatchNorm for --bn-position",
        "Give one of them.",
    )
    _require(
        settings.optimizer == "sgd" or settings.momentum == 0, "AdamW has no --momentum", "Leave it out, or use sgd."
    )


def _check_statistics(settings: Settings) -> None:
    size = settings.statistics_batch
    if settings.statistics not in METHODS:
        raise unknown("method of statistics", settings.statistics, METHODS)
    _require(size is None or size >= 2, f"--statistics-batch is {size}", "Give a whole number of at least 2.")
    _require(
        size is None or settings.statistics in BY_BATCH,
        f"--statistics {settings.statistics} has no mini-batches",
        f"--statistics-batch goes with {' or '.join(BY_BATCH)}.",
    )


def option(name: str) -> str:
    """How the command line calls this setting."""
    return "--no-bn" if name == "batch_norm" else f"--{name.replace('_', '-')}"


def _require(condition: bool, message: str, hint: str) -> None:
    if not condition:
        raise UsageProblem(message, hint)
