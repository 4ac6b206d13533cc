"""A network on its way through training: how it starts, and how it comes back from a checkpoint."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import chain, count, islice
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from ..errors import EnvironmentProblem, ModelProblem, UsageProblem
from . import runs
from .config import CONFIG, Config, read_config, resumed, write_config
from .data import Dataset, Split, batches, load
from .models import ARCHITECTURES, build
from .options import DEVICES, Settings, TrainOptions, unknown
from .runs import Checkpoint
from .statistics import population_statistics

EVALUATIONS = 20  # of a run, at least
STATISTICS_EPOCH = 2**31  # seeds the order of images for Algorithm 2


@dataclass(eq=False)
class Session:
    """What trains, on what, and how far it is. The order of images is a function of seed and step alone."""

    run: Path
    settings: Settings
    data: Dataset
    model: nn.Module
    optimizer: torch.optim.Optimizer
    device: torch.device
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
        """Steps between evaluations, which is also what an interruption can lose."""
        return max(1, min(self.steps_per_epoch, self.steps // EVALUATIONS))

    def batches_ahead(self) -> Iterator[tuple[Tensor, Tensor]]:
        """The images and labels of every step that is still to be taken."""
        epoch, done = divmod(self.step, self.steps_per_epoch)
        ahead = chain.from_iterable(self._epoch(e) for e in count(epoch))
        chosen = islice(ahead, done, done + self.steps - self.step)
        return (self.tensors(self.data.train, indices) for indices in chosen)

    def population(self) -> Iterator[Tensor]:
        """Every training image once, in mini-batches of the training size; a short last one is left out."""
        return (self.tensors(self.data.train, indices)[0] for indices in self._epoch(STATISTICS_EPOCH))

    def tensors(self, split: Split, chosen: npt.NDArray[np.intp] | slice) -> tuple[Tensor, Tensor]:
        """Normalized images and their labels, on the device."""
        images = torch.from_numpy(self.data.normalization(split.images[chosen]))
        return images.to(self.device), torch.from_numpy(split.labels[chosen]).to(self.device)

    def checkpoint(self) -> Checkpoint:
        rng = {"cpu": torch.get_rng_state()}
        if self.device.type == "cuda":
            rng["cuda"] = torch.cuda.get_rng_state(self.device)
        return Checkpoint(self.step, self.model.state_dict(), self.optimizer.state_dict(), rng, self.seconds)

    def _epoch(self, epoch: int) -> Iterator[npt.NDArray[np.intp]]:
        return batches(self.settings.batch_size, len(self.data.train), self.settings.seed, epoch)


def start(options: TrainOptions) -> Session:
    """A new run; nothing is written before everything that could be wrong with `options` has been looked at."""
    settings = Settings(**options.said())
    run = options.out or runs.default_out(settings)
    if run.exists():
        raise runs.exists(run)
    session = _session(run, settings, _load(settings), _device(options.device))
    _check_batches(session)
    runs.create(run, Config.of(settings, session.data))
    runs.save(run, session.checkpoint())
    return session


def resume(options: TrainOptions) -> tuple[Session, Checkpoint]:
    """The run named by `out`, else the newest one, as its last checkpoint left it."""
    run = options.out or runs.newest()
    config, checkpoint = read_config(run), runs.load(run)
    settings = resumed(config.settings, options)
    data = _load(settings)
    if Config.of(settings, data) != replace(config, settings=settings):
        raise ModelProblem(f"{settings.data} is not what {run} was trained on.", "Point --data-dir to the same files.")
    session = _session(run, settings, data, _device(options.device))
    if session.steps < checkpoint.step:
        raise UsageProblem(f"{run} is at step {checkpoint.step} already.", f"Ask for more than {session.steps} steps.")
    _restore(session, checkpoint)
    write_config(run, replace(config, settings=settings))
    return session, checkpoint


def network(config: Config, weights: dict[str, Tensor], run: Path) -> nn.Module:
    """The network of `config` with `weights`; ModelProblem if they are another architecture's."""
    arch = config.settings.arch
    if arch not in ARCHITECTURES:
        raise ModelProblem(f"{run} is of an architecture unknown here: {arch}.", "Use the bnfold that trained it.")
    model = build(arch, config.shape, len(config.classes), config.settings.batch_norm)
    put(model, weights, run, arch)
    return model


def put(model: nn.Module, weights: dict[str, Tensor], run: Path, arch: str) -> None:
    """Give `model` these weights; ModelProblem if they do not fit."""
    try:
        model.load_state_dict(weights)
    except (RuntimeError, TypeError, AttributeError) as error:
        raise ModelProblem(
            f"{run / runs.CHECKPOINT} holds the weights of another architecture than {arch}.",
            f"{runs.CHECKPOINT} and {CONFIG} of a run belong together.",
        ) from error


def _session(run: Path, settings: Settings, data: Dataset, device: torch.device) -> Session:
    torch.manual_seed(settings.seed)
    model = build(settings.arch, data.shape, len(data.classes), settings.batch_norm).to(device)
    return Session(run, settings, data, model, torch.optim.SGD(model.parameters(), settings.lr), device)


def _restore(session: Session, checkpoint: Checkpoint) -> None:
    put(session.model, checkpoint.model, session.run, session.settings.arch)
    session.optimizer.load_state_dict(checkpoint.optimizer)
    session.step, session.seconds = checkpoint.step, checkpoint.seconds
    torch.set_rng_state(checkpoint.rng["cpu"])
    if session.device.type == "cuda" and "cuda" in checkpoint.rng:
        torch.cuda.set_rng_state(checkpoint.rng["cuda"], session.device)


def _load(settings: Settings) -> Dataset:
    return load(settings.data, Path(settings.data_dir) if settings.data_dir else None)


def _device(name: str) -> torch.device:
    if name not in DEVICES:
        raise unknown("device", name, DEVICES)
    available = torch.cuda.is_available()
    if name == "cuda" and not available:
        raise EnvironmentProblem("No CUDA device can be used here.", "Use --device cpu, or install PyTorch for CUDA.")
    return torch.device("cuda" if name != "cpu" and available else "cpu")


def _check_batches(session: Session) -> None:
    """There is at least one batch, and every BatchNorm can take its variance."""
    size, images = session.settings.batch_size, len(session.data.train)
    if size > images:
        raise UsageProblem(f"--batch-size {size} is more than the {images} training images.", "Use smaller batches.")
    population_statistics(session.model, [torch.zeros(size, *session.data.shape, device=session.device)])
