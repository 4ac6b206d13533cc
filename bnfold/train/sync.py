"""BatchNorm over the mini-batch of all processes together, on any device and for any class of layer.

nn.SyncBatchNorm needs a GPU, and a layer that does more than normalize loses the rest when it is converted to it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import batch_norm
from torch.overrides import TorchFunctionMode

from .algorithms import MiniBatch, batch_normalize
from .ranks import Ranks


class Synced(nn.Module):
    """Calls `model`; its BatchNorms then normalize by the mini-batch of all `ranks`, which have equally many images."""

    def __init__(self, model: nn.Module, ranks: Ranks) -> None:
        super().__init__()
        self.model, self.ranks = model, ranks

    def forward(self, x: Tensor) -> Tensor:
        with _BatchNormOverRanks(self.ranks):
            return self.model(x)  # type: ignore[no-any-return]


class _BatchNormOverRanks(TorchFunctionMode):
    """Inside it, torch.nn.functional.batch_norm in training is Algorithm 1 with its sums taken over all ranks."""

    def __init__(self, ranks: Ranks) -> None:
        super().__init__()
        self.ranks = ranks

    def __torch_function__(
        self,
        function: Callable[..., Any],
        types: Any,
        args: tuple[Any, ...] = (),
        options: dict[str, Any] | None = None,
    ) -> Any:
        return (self._batch_norm if function is batch_norm else function)(*args, **options or {})

    def _batch_norm(
        self,
        x: Tensor,
        running_mean: Tensor | None,
        running_var: Tensor | None,
        weight: Tensor | None = None,
        bias: Tensor | None = None,
        training: bool = False,
        momentum: float = 0.1,
        eps: float = 1e-5,
    ) -> Tensor:
        if not training:
            return batch_norm(x, running_mean, running_var, weight, bias, training, momentum, eps)
        wide = x if x.dtype == torch.float64 else x.float()
        here = MiniBatch.per_feature_map(x)
        B = replace(here, m=here.m * self.ranks.size, all_reduce=self.ranks.sum)
        gamma = wide.new_ones(x.shape[1]) if weight is None else weight
        beta = wide.new_zeros(x.shape[1]) if bias is None else bias
        y, mu, sigma2 = batch_normalize(wide, gamma, beta, eps, B)
        with torch.no_grad():
            _update(running_mean, mu, momentum)
            _update(running_var, B.m / (B.m - 1) * sigma2, momentum)
        return y.to(x.dtype)


def _update(average: Tensor | None, value: Tensor, momentum: float) -> None:
    if average is not None:
        average.lerp_(value.to(average.dtype), momentum)
