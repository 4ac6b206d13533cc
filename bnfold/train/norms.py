"""The BatchNorms of a network, and what goes into them."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from ..algebra.moments import Moments

BatchNorm = nn.BatchNorm1d | nn.BatchNorm2d | nn.BatchNorm3d | nn.SyncBatchNorm
Batch = Tensor | list[Any] | tuple[Any, ...]


def tracked_norms(model: nn.Module) -> dict[str, BatchNorm]:
    """Every BatchNorm that infers by stored statistics, under its name in `model`."""
    named = model.named_modules()
    return {name: layer for name, layer in named if isinstance(layer, BatchNorm) and layer.running_mean is not None}


def thawed_norms(model: nn.Module) -> dict[str, BatchNorm]:
    """Those whose statistics may change: all but the ones in evaluation mode while `model` is in training mode."""
    return {name: norm for name, norm in tracked_norms(model).items() if norm.training or not model.training}


def live_norms(model: nn.Module) -> dict[str, BatchNorm]:
    """Every BatchNorm that normalizes by the batch at hand even in inference."""
    named = model.named_modules()
    return {name: layer for name, layer in named if isinstance(layer, BatchNorm) and layer.running_mean is None}


def images(batch: Batch) -> Tensor:
    """The input of the network; a DataLoader gives it with labels behind it."""
    x = batch if isinstance(batch, Tensor) else batch[0]
    assert isinstance(x, Tensor), f"a batch is a tensor, or a tuple or list that begins with one, not {type(batch)}"
    return x


def moments(x: Tensor) -> Moments:
    """Of every channel of what a BatchNorm is given, (N, C, ...)."""
    return Moments.of(x.detach().cpu().double().numpy())
