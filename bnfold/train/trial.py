"""One step on blank images with a copy of the network, before a run begins: what cannot work is said at once."""

from __future__ import annotations

import copy

import torch
from torch import Tensor

from ..errors import BnfoldError, UsageProblem
from .data import Dataset
from .descent import Descent, compiled, layout, optimizer
from .population import population_statistics
from .ranks import Ranks
from .recipe import Settings


def try_a_step(descent: Descent, data: Dataset, ranks: Ranks) -> None:
    """UsageProblem unless there is a batch, in equal shares, every BatchNorm can take its variance, and a step gives
    logits."""
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
            "Its factory is told the number of classes.",
        )
