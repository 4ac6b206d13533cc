"""One step on blank images with a copy of the network, before a run begins: what cannot work is said at once."""

from __future__ import annotations

import copy

import torch
from torch import Tensor

from ..errors import BnfoldError, UsageProblem
from .data import Dataset
from .descent import Descent, layout, optimizer
from .options import Settings
from .statistics import population_statistics


def try_a_step(descent: Descent, data: Dataset, settings: Settings) -> None:
    """UsageProblem unless there is a batch, every BatchNorm can take its variance, and a step gives logits."""
    size = settings.batch_size
    if size > len(data.train):
        raise UsageProblem(
            f"--batch-size {size} is more than the {len(data.train)} training images.", "Use smaller batches."
        )
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


def _step(descent: Descent, images: Tensor) -> Tensor:
    """The logits of one step of a copy of the network."""
    network = copy.deepcopy(descent.model)
    population_statistics(network, [images])
    trial = Descent(descent.settings, network, optimizer(descent.settings, network), descent.device)
    labels = torch.zeros(len(images), dtype=torch.int64, device=descent.device)
    trial.take(images, labels, descent.settings.lr)
    logits: Tensor = network(images)
    return logits


def _require_logits(arch: str, images: Tensor, logits: Tensor, classes: int) -> None:
    if logits.shape != (len(images), classes):
        raise UsageProblem(
            f"{arch} answers images of {tuple(images.shape)} with {tuple(logits.shape)}, not {classes} logits each.",
            "Its factory is told the number of classes.",
        )
