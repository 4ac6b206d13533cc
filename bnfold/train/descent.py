"""One step of training: the gradient of the loss, in mixed precision if asked, and what the optimizer makes of it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from math import cos, pi
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from torch.nn.utils import clip_grad_norm_

from .recipe import Settings

Network = Callable[[Tensor], Tensor]
SCHEDULES: dict[str, Callable[[Settings, int, int], float]] = {
    "constant": lambda recipe, step, steps: 1.0,
    "exponential": lambda recipe, step, steps: recipe.decay ** (step / (recipe.decay_every or steps)),
    "step": lambda recipe, step, steps: recipe.decay ** (step // (recipe.decay_every or steps)),
    "cosine": lambda recipe, step, steps: (1 + cos(pi * step / steps)) / 2,
}


def learning_rate(settings: Settings, step: int, steps: int) -> float:
    """What the step after `step` of `steps` is taken with; a function of nothing else, so that resuming is exact."""
    return settings.lr * SCHEDULES[settings.schedule](settings, step, steps)


def layout(settings: Settings) -> torch.memory_format:
    """How images and convolutions lie in memory."""
    return torch.channels_last if settings.channels_last else torch.contiguous_format


def compiled(settings: Settings, network: nn.Module) -> Network:
    """`network`, through torch.compile if that is asked."""
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


class Taken(NamedTuple):
    """What a step leaves for later, without waiting for the device: its loss, and the largest parameter after it."""

    loss: Tensor
    largest: Tensor


@dataclass(eq=False)
class Descent:
    """The parts of a step. The scaler keeps the small gradients of float16 from vanishing; else it does nothing."""

    settings: Settings
    model: nn.Module
    optimizer: torch.optim.Optimizer
    device: torch.device

    def __post_init__(self) -> None:
        self.scaler = torch.amp.GradScaler(self.device.type, enabled=self.settings.amp == "float16")
        self.parameters = [p for p in self.model.parameters() if p.requires_grad]

    def take(self, network: Network, images: Tensor, labels: Tensor, rate: float) -> Taken:
        """One step against the gradient; `network` is what the model is called through."""
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        loss = self._loss(network, images, labels)
        self.optimizer.zero_grad()
        torch.autograd.backward(self.scaler.scale(loss))
        self._clip()
        self.scaler.step(self.optimizer)
        self.scaler.update()
        with torch.no_grad():
            return Taken(loss.detach(), torch.cat([p.ravel() for p in self.parameters]).abs().max())

    def _loss(self, network: Network, images: Tensor, labels: Tensor) -> Tensor:
        dtype = getattr(torch, self.settings.amp or "float32")
        with torch.autocast(self.device.type, dtype, enabled=self.settings.amp is not None):
            return cross_entropy(network(images), labels)

    def _clip(self) -> None:
        if self.settings.clip_norm is not None:
            self.scaler.unscale_(self.optimizer)
            clip_grad_norm_(self.parameters, self.settings.clip_norm)
