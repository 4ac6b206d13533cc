"""One step of training: the gradient of the loss, in mixed precision if that is set, and the optimizer's move.

Before a run begins, `try_a_step` takes one on blank images with a copy of the network, so that errors come at once.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass
from math import cos, pi
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from torch.nn.utils import clip_grad_norm_

from ..errors import BnfoldError, UsageProblem
from .data import Dataset
from .population import population_statistics
from .ranks import Ranks
from .recipe import Settings

Forward = Callable[[Tensor], Tensor]
SCHEDULES: dict[str, Callable[[Settings, int, int], float]] = {
    "constant": lambda recipe, step, steps: 1.0,
    "exponential": lambda recipe, step, steps: recipe.decay ** (step / (recipe.decay_every or steps)),
    "step": lambda recipe, step, steps: recipe.decay ** (step // (recipe.decay_every or steps)),
    "cosine": lambda recipe, step, steps: (1 + cos(pi * step / steps)) / 2,
}


def learning_rate(settings: Settings, step: int, steps: int) -> float:
    """The learning rate of the step after `step` of `steps`: a function of nothing else, so that resuming is exact."""
    return settings.lr * SCHEDULES[settings.schedule](settings, step, steps)


def layout(settings: Settings) -> torch.memory_format:
    """How images and convolutions lie in memory."""
    return torch.channels_last if settings.channels_last else torch.contiguous_format


def compiled(settings: Settings, network: nn.Module) -> Forward:
    """`network`, through torch.compile if the settings say so."""
    return torch.compile(network) if settings.compile else network


def optimizer(settings: Settings, model: nn.Module) -> torch.optim.Optimizer:
    """Weight decay (an L2 penalty under SGD) acts on weights, not on biases or BatchNorm's scale and shift."""
    weights, others = (
        [p for p in model.parameters() if p.requires_grad and (p.ndim > 1) == is_weight] for is_weight in (True, False)
    )
    groups = [{"params": weights, "weight_decay": settings.weight_decay}, {"params": others, "weight_decay": 0.0}]
    if settings.optimizer == "adamw":
        return torch.optim.AdamW(groups, settings.lr)
    return torch.optim.SGD(groups, settings.lr, settings.momentum)


class StepResult(NamedTuple):
    """The loss of a step and the largest parameter after it, on the device, so that no step waits for them."""

    loss: Tensor
    largest: Tensor


@dataclass(eq=False)
class Descent:
    """Steps of a model. In float16 the scaler keeps small gradients from vanishing; else it does nothing."""

    settings: Settings
    model: nn.Module
    optimizer: torch.optim.Optimizer
    device: torch.device

    def __post_init__(self) -> None:
        self.scaler = torch.amp.GradScaler(self.device.type, enabled=self.settings.amp == "float16")
        self.parameters = [p for p in self.model.parameters() if p.requires_grad]

    def take(self, network: Forward, images: Tensor, labels: Tensor, rate: float) -> StepResult:
        """One step against the gradient; `network` is the model, or a wrapper that calls it."""
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        loss = self._loss(network, images, labels)
        self.optimizer.zero_grad()
        torch.autograd.backward(self.scaler.scale(loss))
        self._clip()
        self.scaler.step(self.optimizer)
        self.scaler.update()
        with torch.no_grad():
            return StepResult(loss.detach(), torch.cat([p.ravel() for p in self.parameters]).abs().max())

    def _loss(self, network: Forward, images: Tensor, labels: Tensor) -> Tensor:
        dtype = getattr(torch, self.settings.amp or "float32")
        with torch.autocast(self.device.type, dtype, enabled=self.settings.amp is not None):
            return cross_entropy(network(images), labels)

    def _clip(self) -> None:
        if self.settings.clip_norm is not None:
            self.scaler.unscale_(self.optimizer)
            clip_grad_norm_(self.parameters, self.settings.clip_norm)


def try_a_step(descent: Descent, data: Dataset, ranks: Ranks) -> None:
    """UsageProblem unless there is one full batch, processes share it equally, every BatchNorm gets two values per
    channel, and a step gives logits."""
    settings = descent.settings
    _check_sizes(settings, len(data.train), ranks.size)
    size = settings.batch_size // (1 if settings.sync_bn else ranks.size)  # images that a BatchNorm sees
    images = torch.zeros(size, *data.shape, device=descent.device).to(memory_format=layout(settings))
    try:
        logits = _step(descent, images)
    except BnfoldError:
        raise
    except Exception as error:  # other people's networks, and compilers, may raise anything
        reason = next(iter(str(error).splitlines()), "")
        raise UsageProblem(
            f"{settings.arch} cannot be trained on batches of {tuple(images.shape)}: {type(error).__name__}: {reason}",
            f"Choose another architecture or size{', or leave --compile out' if settings.compile else ''}.",
        ) from error
    _require_logits(settings.arch, images, logits, len(data.classes))


def _check_sizes(settings: Settings, images: int, processes: int) -> None:
    for option, size in (("batch-size", settings.batch_size), ("statistics-batch", settings.mini_batch)):
        if size > images:
            raise UsageProblem(f"--{option} {size} is more than the {images} training images", "Use smaller batches.")
    if settings.batch_size % processes:
        raise UsageProblem(
            f"--batch-size {settings.batch_size} cannot be shared equally by {processes} processes",
            f"Use a multiple of {processes}.",
        )


def _step(descent: Descent, images: Tensor) -> Tensor:
    """The logits of one step of a copy of the network."""
    network, settings = copy.deepcopy(descent.model), descent.settings
    for batch in (images, images[:1].expand(settings.mini_batch, -1, -1, -1)):
        population_statistics(network, [batch], "alg2")
    trial = Descent(settings, network, optimizer(settings, network), descent.device)
    labels = torch.zeros(len(images), dtype=torch.int64, device=descent.device)
    trial.take(compiled(settings, network), images, labels, settings.lr)
    logits: Tensor = network(images)
    return logits


def _require_logits(arch: str, images: Tensor, logits: Tensor, classes: int) -> None:
    if logits.shape != (len(images), classes):
        raise UsageProblem(
            f"{arch} answers images of {tuple(images.shape)} with {tuple(logits.shape)}, not {classes} logits each",
            "Its factory gets the number of classes.",
        )
