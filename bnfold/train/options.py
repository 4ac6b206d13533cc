"""What a training run is asked for and what it answers; nothing heavy is imported here."""

from __future__ import annotations

import difflib
import math
from collections.abc import Callable, Collection
from dataclasses import dataclass, fields
from importlib import import_module
from pathlib import Path
from typing import Any

from ..errors import BnfoldError, EnvironmentProblem, UsageProblem

RUNS = Path("runs")
EPOCHS = 30
DEVICES = ("auto", "cpu", "cuda")
METHODS = ("sequential", "alg2", "pooled", "ema")  # of taking population statistics
BY_BATCH = ("alg2", "pooled")  # those that normalize mini-batches as in training


@dataclass(frozen=True)
class Settings:
    """What decides the numbers of a run; stored with it. The defaults are those of section 4.1 of the paper
    where it names one (batches of 60) and plain SGD at 0.1 where it does not."""

    data: str = "digits"
    data_dir: str | None = None
    arch: str = "convnet"
    batch_norm: bool = True
    steps: int | None = None
    epochs: int | None = None
    batch_size: int = 60
    lr: float = 0.1
    seed: int = 0
    statistics: str = "sequential"
    statistics_batch: int | None = None
    sync_bn: bool = False

    def __post_init__(self) -> None:
        _require(self.steps is None or self.epochs is None, "steps and epochs were both given", "Give one of them.")
        for name, value in (("steps", self.steps), ("epochs", self.epochs), ("batch-size", self.batch_size)):
            _require(value is None or value >= 1, f"--{name} is {value}", "Give a whole number of at least 1.")
        _require(math.isfinite(self.lr) and self.lr > 0, f"--lr is {self.lr}", "Give a learning rate above 0.")
        _require(0 <= self.seed < 2**63, f"--seed is {self.seed}", "Give a whole number from 0 to 2**63 - 1.")
        self._check_statistics()

    def _check_statistics(self) -> None:
        size = self.statistics_batch
        if self.statistics not in METHODS:
            raise unknown("method of statistics", self.statistics, METHODS)
        _require(size is None or size >= 2, f"--statistics-batch is {size}", "Give a whole number of at least 2.")
        _require(
            size is None or self.statistics in BY_BATCH,
            f"--statistics {self.statistics} has no mini-batches",
            f"--statistics-batch goes with {' or '.join(BY_BATCH)}.",
        )

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
    steps: int | None = None
    epochs: int | None = None
    batch_size: int | None = None
    lr: float | None = None
    seed: int | None = None
    device: str = "auto"
    out: Path | None = None
    resume: bool = False
    statistics: str | None = None
    statistics_batch: int | None = None
    sync_bn: bool | None = None

    def said(self) -> dict[str, Any]:
        """The settings this call names."""
        asked = {field.name: getattr(self, field.name) for field in fields(Settings)}
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
    """Where a run is: after every step, and with the held-out accuracy after every evaluation."""

    step: int
    steps: int
    loss: float | None = None
    accuracy: float | None = None


Watch = Callable[[Event], None]


class Interrupted(BnfoldError):
    """Training was stopped by Ctrl-C; its last checkpoint is kept (exit code 130)."""

    exit_code = 130


def need(*packages: str) -> None:
    """Raise EnvironmentProblem unless every one of these packages can be imported."""
    for package in packages:
        try:
            import_module(package)
        except ImportError as error:
            raise EnvironmentProblem(
                f"This needs the package {package}, which cannot be imported here ({error}).",
                'pip install "bnfold[train]"',
            ) from error


def unknown(kind: str, name: str, known: Collection[str]) -> UsageProblem:
    """The error for a name nobody knows; its hint has the nearest ones."""
    near = difflib.get_close_matches(name, known, n=3, cutoff=0.5) or sorted(known)
    return UsageProblem(f"Unknown {kind}: {name!r}.", f"Did you mean {' or '.join(near)}?")


def _require(condition: bool, message: str, hint: str) -> None:
    if not condition:
        raise UsageProblem(f"{message[0].upper()}{message[1:]}.", hint)
