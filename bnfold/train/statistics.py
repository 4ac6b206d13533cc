"""Population statistics: Algorithm 2 of the paper, lines 8 to 10, for any network with nn.BatchNorm*d.

A training batch is normalized by its own mean and variance, inference by those of the population. The moving
average that PyTorch keeps is neither: it is ten batches long and its weights were still moving.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from ..errors import ModelProblem, UsageProblem

BatchNorm = nn.BatchNorm1d | nn.BatchNorm2d | nn.BatchNorm3d | nn.SyncBatchNorm


@dataclass(frozen=True, eq=False)
class Moments:
    """E[x] and Var[x] of every channel that one BatchNorm normalizes: float64, shape (C,)."""

    mean: Tensor
    var: Tensor


def population_statistics(model: nn.Module, batches: Iterable[Tensor]) -> dict[str, Moments]:
    """E[x] = mean of mu_B and Var[x] = mean of m'/(m'-1) * sigma2_B over mini-batches B, by BatchNorm name.

    m' is the values per channel: the batch size, times the locations of a feature map. Batches weigh by m', so a
    short last one does no harm, and equal ones are Algorithm 2 to the letter. Every BatchNorm normalizes by its
    batch meanwhile, Dropout is off, and `model` is left as it was. Raises UsageProblem if m' is 1.
    """
    norms = tracked_norms(model)
    averages = {name: _Average(name) for name in norms}
    with torch.no_grad(), _normalizing_by_batch(model, norms), ExitStack() as hooks:
        for name, norm in norms.items():
            hooks.enter_context(norm.register_forward_pre_hook(averages[name].see))
        for batch in batches:
            model(batch)
    return {name: average.moments() for name, average in averages.items() if average.weight}


def install(model: nn.Module, statistics: dict[str, Moments]) -> None:
    """Let inference normalize by `statistics`, rounded once to the dtype of the model; ModelProblem if not finite."""
    norms = tracked_norms(model)
    for name, moments in statistics.items():
        for stored, value in ((norms[name].running_mean, moments.mean), (norms[name].running_var, moments.var)):
            if not bool(torch.isfinite(value).all()):
                raise ModelProblem(f"The population statistics of {name} are not finite.", "Train with a lower --lr.")
            assert stored is not None
            stored.copy_(value)


def tracked_norms(model: nn.Module) -> dict[str, BatchNorm]:
    """Every BatchNorm that infers by stored statistics, under its name in `model`."""
    named = model.named_modules()
    return {name: layer for name, layer in named if isinstance(layer, BatchNorm) and layer.running_mean is not None}


@contextmanager
def _normalizing_by_batch(model: nn.Module, norms: dict[str, BatchNorm]) -> Iterator[None]:
    """All layers infer, except that `norms` use the batch and leave their moving averages alone."""
    modes = {layer: layer.training for layer in model.modules()}
    model.eval()
    for norm in norms.values():
        norm.training, norm.track_running_stats = True, False
    try:
        yield
    finally:
        for norm in norms.values():
            norm.track_running_stats = True
        for layer, training in modes.items():
            layer.training = training


@dataclass
class _Average:
    """The running sums of one BatchNorm, in float64."""

    name: str
    weight: int = 0
    mean: Tensor = field(default_factory=lambda: torch.zeros(()))
    var: Tensor = field(default_factory=lambda: torch.zeros(()))

    def see(self, norm: nn.Module, inputs: tuple[Any, ...]) -> None:
        """One mini-batch (N, C, ...), before it is normalized."""
        x = inputs[0].double()
        size = x.numel() // x.shape[1]
        if size < 2:
            raise UsageProblem(f"{self.name} sees 1 value per channel, which has no variance.", "Use larger batches.")
        var, mean = torch.var_mean(x, dim=[0, *range(2, x.ndim)], correction=1)
        self.weight += size
        self.mean = self.mean.to(mean) + size * mean
        self.var = self.var.to(var) + size * var

    def moments(self) -> Moments:
        return Moments(self.mean / self.weight, self.var / self.weight)
