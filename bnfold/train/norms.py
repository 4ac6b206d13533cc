"""The BatchNorms of a network, and the moments of their inputs."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from ..algebra.moments import Moments

BatchNorm = nn.BatchNorm1d | nn.BatchNorm2d | nn.BatchNorm3d | nn.SyncBatchNorm
Batch = Tensor | list[Any] | tuple[Any, ...]


def tracked_norms(model: nn.Module) -> dict[str, BatchNorm]:
    """Every BatchNorm that has stored statistics for inference, by its name in `model`."""
    named = model.named_modules()
    return {name: layer for name, layer in named if isinstance(layer, BatchNorm) and layer.running_mean is not None}


def unfrozen_norms(model: nn.Module) -> dict[str, BatchNorm]:
    """Every BatchNorm whose statistics may change: all but those in evaluation mode while `model` is training."""
    return {name: norm for name, norm in tracked_norms(model).items() if norm.training or not model.training}


def live_norms(model: nn.Module) -> dict[str, BatchNorm]:
    """Every BatchNorm without stored statistics, which normalizes by the batch even in inference."""
    named = model.named_modules()
    return {name: layer for name, layer in named if isinstance(layer, BatchNorm) and layer.running_mean is None}


def network_input(batch: Batch) -> Tensor:
    """The input of the network, which in a batch of a DataLoader is followed by labels."""
    x = batch if isinstance(batch, Tensor) else batch[0]
    assert isinstance(x, Tensor), f"a batch is a tensor, or a tuple or list that begins with one, not {type(batch)}"
    return x


def moments(x: Tensor) -> Moments:
    """The moments of every channel of `x` (N, C, ...), the input of a BatchNorm."""
    return Moments.of(x.detach().cpu().double().numpy())
