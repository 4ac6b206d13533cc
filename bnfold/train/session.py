"""A run in progress: how it starts, and how it goes on from a checkpoint."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import count, islice
from pathlib import Path
from shlex import quote

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from ..display.display import counted
from ..errors import EnvironmentProblem, ModelProblem, UsageProblem
from . import runs
from .architectures import build
from .augmentation import augmented, draws
from .data import Dataset, Labels, Split, batches, load_dataset
from .descent import Descent, layout, learning_rate, optimizer, try_a_step
from .options import DEVICES, TrainOptions
from .pixels import Pixels
from .ranks import Ranks, local_rank
from .recipe import BY_BATCH, Settings, unknown
from .runs import CONFIG, Checkpoint, Config, read_config, resumed_settings, write_config
from .sequential import CHUNK
from .sync import Synced

EVALUATIONS = 20  # of a run, at least
SHORT = 100  # steps of a run that is evaluated once, at its end
STATISTICS_EPOCH = 2**31  # seeds the order of images for statistics by mini-batches


@dataclass(eq=False)
class Session:
    """A run in progress. The order of its images is a function of seed and step alone."""

    run: Path
    settings: Settings
    data: Dataset
    model: nn.Module
    descent: Descent
    device: torch.device
    ranks: Ranks
    wrapped: nn.Module  # `model`, or the wrapper that synchronizes its BatchNorms in training
    step: int = 0
    seconds: float = 0.0

    @property
    def steps(self) -> int:
        return self.settings.total_steps(len(self.data.train))

    @property
    def steps_per_epoch(self) -> int:
        return len(self.data.train) // self.settings.batch_size

    @property
    def interval(self) -> int:
        """Steps between evaluations; at most so many are lost when a run is interrupted."""
        usual = min(self.steps_per_epoch, self.steps // EVALUATIONS)
        return self.settings.evaluate_every or max(1, usual if self.steps > SHORT else self.steps)

    @property
    def lr(self) -> float:
        """The learning rate of the step to come."""
        return learning_rate(self.settings, self.step, self.steps)

    def batches_ahead(self) -> Iterator[tuple[Tensor, Tensor]]:
        """This process's share of the images and labels of every step that is still to be taken."""
        epoch, done = divmod(self.step, self.steps_per_epoch)
        ahead = ((e, indices) for e in count(epoch) for indices in self._epoch(e))
        chosen = islice(ahead, done, done + self.steps - self.step)
        return (self.training(indices[self.ranks.share(len(indices))], e) for e, indices in chosen)

    def statistics_batches(self) -> StatisticsBatches:
        """This process's share of the batches that the statistics are taken of."""
        chosen = _mini_batches(self) if self.settings.statistics in BY_BATCH else _every_image(self)
        return StatisticsBatches(self, chosen[self.ranks.share(len(chosen))])

    def tensors(self, split: Split, chosen: npt.NDArray[np.intp] | slice) -> tuple[Tensor, Tensor]:
        """Normalized images and their labels, on the device."""
        return self._on_device(split.images[chosen], split.labels[chosen])

    def training(self, chosen: npt.NDArray[np.intp], epoch: int) -> tuple[Tensor, Tensor]:
        """These training images as `epoch` augments them, normalized, and their labels, on the device."""
        images, labels = self.data.train.images[chosen], self.data.train.labels[chosen]
        drawn = draws(self.settings.seed, epoch, len(self.data.train))[chosen]
        return self._on_device(augmented(images, self.settings.augment, drawn), labels)

    def checkpoint(self) -> Checkpoint:
        """The state of the run; all processes take part."""
        states = self.ranks.gather(_random_state(self.device))
        rng = {f"{kind}:{rank}": state for rank, here in enumerate(states) for kind, state in here.items()}
        descent = self.descent.optimizer.state_dict()
        scaler = self.descent.scaler.state_dict()
        return Checkpoint(self.step, self.model.state_dict(), descent, rng, self.seconds, scaler)

    def _epoch(self, epoch: int) -> Iterator[npt.NDArray[np.intp]]:
        settings = self.settings
        return batches(settings.batch_size, len(self.data.train), settings.seed, epoch, settings.shuffle)

    def _on_device(self, images: Pixels, labels: Labels) -> tuple[Tensor, Tensor]:
        x = torch.from_numpy(self.data.normalization(images)).to(self.device, memory_format=layout(self.settings))
        return x, torch.from_numpy(labels).to(self.device)


@dataclass(frozen=True, eq=False)
class StatisticsBatches:
    """Batches of training images, augmented as in training; can be iterated more than once."""

    session: Session
    chosen: list[npt.NDArray[np.intp]]

    def __len__(self) -> int:
        return len(self.chosen)

    def __iter__(self) -> Iterator[Tensor]:
        return (self.session.training(indices, STATISTICS_EPOCH)[0] for indices in self.chosen)


def _every_image(session: Session) -> list[npt.NDArray[np.intp]]:
    count = len(session.data.train)
    return np.array_split(np.arange(count), range(CHUNK, count, CHUNK))


def _mini_batches(session: Session) -> list[npt.NDArray[np.intp]]:
    """Mini-batches of one size, in an order that no epoch of training has; a short last one is left out."""
    settings = session.settings
    return list(batches(settings.mini_batch, len(session.data.train), settings.seed, STATISTICS_EPOCH))


def start(options: TrainOptions, ranks: Ranks) -> Session:
    """A new run; nothing is written before all of `options` has been checked."""
    settings = ranks.on_all(lambda: Settings(**options.settings))
    run = ranks.on_first(lambda: _new(options.out or runs.default_out(settings)))
    data = ranks.first_then_all(lambda: _load(settings))
    session = ranks.on_all(lambda: _session(run, settings, data, _device(options.device, settings), ranks))
    ranks.on_all(lambda: try_a_step(session.descent, session.data, ranks))
    checkpoint = session.checkpoint()
    ranks.on_first(lambda: runs.create(run, Config.of(settings, session.data)))
    ranks.on_first(lambda: runs.save_checkpoint(run, checkpoint))
    return session


def _new(run: Path) -> Path:
    if os.path.exists(run):
        raise runs.exists(run)
    return run


def resume(options: TrainOptions, ranks: Ranks) -> tuple[Session, Checkpoint]:
    """The run named by `out`, else the newest one, as its last checkpoint left it."""
    run = ranks.on_first(lambda: options.out or runs.newest())
    config, checkpoint = ranks.on_first(lambda: (read_config(run), runs.load_checkpoint(run)))
    settings = ranks.on_all(lambda: resumed_settings(config.settings, options))
    data = ranks.first_then_all(lambda: _load(settings))
    session = ranks.on_all(lambda: _resumed(run, replace(config, settings=settings), data, checkpoint, options, ranks))
    ranks.on_first(lambda: write_config(run, replace(config, settings=settings)))
    return session, checkpoint


def _resumed(
    run: Path, config: Config, data: Dataset, checkpoint: Checkpoint, options: TrainOptions, ranks: Ranks
) -> Session:
    settings, processes = config.settings, sum(name.startswith("cpu") for name in checkpoint.rng)
    if Config.of(settings, data) != config:
        raise ModelProblem(f"{settings.data} is not what {run} was trained on", "Point --data-dir to the same files.")
    if processes != ranks.size:
        resume = f"train --resume --out {quote(str(run))}"
        raise UsageProblem(
            f"{run} is a run of {counted(processes, 'process', 'processes')}, not {ranks.size}",
            f"`torchrun --nproc-per-node {processes} -m bnfold_cli {resume}` goes on with it.",
        )
    session = _session(run, settings, data, _device(options.device, settings), ranks)
    if session.steps < checkpoint.step:
        raise UsageProblem(f"{run} is at step {checkpoint.step} already", f"Ask for more than {session.steps} steps.")
    try_a_step(session.descent, data, ranks)
    _restore(session, checkpoint)
    return session


def network(config: Config, weights: dict[str, Tensor], run: Path) -> nn.Module:
    """The network of `config` with `weights`; ModelProblem if they are another architecture's."""
    arch = config.settings.arch
    try:
        model = build(config.settings, config.shape, len(config.classes))
    except UsageProblem as error:
        raise ModelProblem(
            f"{run} is of an architecture unknown here: {arch}", "Use the bnfold that trained it."
        ) from error
    load_weights(model, weights, run, arch)
    return model


def load_weights(model: nn.Module, weights: dict[str, Tensor], run: Path, arch: str) -> None:
    """Give `model` these weights; ModelProblem if they do not fit."""
    try:
        model.load_state_dict(weights)
    except (RuntimeError, TypeError, AttributeError) as error:
        raise ModelProblem(
            f"{run / runs.CHECKPOINT} holds the weights of another architecture than {arch}",
            f"{runs.CHECKPOINT} and {CONFIG} of a run belong together.",
        ) from error


def _session(run: Path, settings: Settings, data: Dataset, device: torch.device, ranks: Ranks) -> Session:
    torch.manual_seed(settings.seed)
    model = build(settings, data.shape, len(data.classes))
    model = model.to(device, memory_format=layout(settings))  # type: ignore[call-overload]
    if ranks.rank:
        torch.manual_seed(settings.seed + ranks.rank)  # the same weights, but another Dropout
    wrapped = Synced(model, ranks) if settings.sync_bn else model
    descent = Descent(settings, model, optimizer(settings, model), device)
    return Session(run, settings, data, model, descent, device, ranks, wrapped)


def _restore(session: Session, checkpoint: Checkpoint) -> None:
    load_weights(session.model, checkpoint.model, session.run, session.settings.arch)
    session.descent.optimizer.load_state_dict(checkpoint.optimizer)
    session.descent.scaler.load_state_dict(checkpoint.scaler)
    session.step, session.seconds = checkpoint.step, checkpoint.seconds
    rank = session.ranks.rank
    torch.set_rng_state(checkpoint.rng[f"cpu:{rank}"])
    if session.device.type == "cuda" and f"cuda:{rank}" in checkpoint.rng:
        torch.cuda.set_rng_state(checkpoint.rng[f"cuda:{rank}"], session.device)


def _random_state(device: torch.device) -> dict[str, Tensor]:
    cpu = {"cpu": torch.get_rng_state()}
    return cpu | ({"cuda": torch.cuda.get_rng_state(device)} if device.type == "cuda" else {})


def _load(settings: Settings) -> Dataset:
    return load_dataset(settings.data, Path(settings.data_dir) if settings.data_dir else None)


def _device(name: str, settings: Settings) -> torch.device:
    if name not in DEVICES:
        raise unknown("device", name, DEVICES)
    available = torch.cuda.is_available()
    if name == "cuda" and not available:
        raise EnvironmentProblem("no CUDA device can be used here", "Use --device cpu, or install PyTorch for CUDA.")
    device = torch.device("cuda", local_rank()) if name != "cpu" and available else torch.device("cpu")
    if settings.amp == "float16" and device.type == "cpu":
        raise UsageProblem("--amp float16 needs a CUDA device", "Use --amp bfloat16 on the CPU.")
    return device
