"""Population statistics for any network with nn.BatchNorm*d: inference normalizes by them (Algorithm 2, line 8 on).

A training batch is normalized by its own mean and variance, inference by those of the population. The moving
average that PyTorch keeps is neither: it is over about ten batches, during which the weights changed.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from ..algebra.moments import Array, Moments
from ..errors import ModelProblem
from .algorithms import population
from .by_batch import batch_moments, equal_batches
from .norms import Batch, tracked_norms
from .ranks import ONE_PROCESS, Ranks
from .recipe import METHODS, unknown
from .sequential import sequential


@dataclass(frozen=True, eq=False)
class Statistics:
    """E[x] and Var[x] of every channel that one BatchNorm normalizes: float64, shape (C,)."""

    mean: Tensor
    var: Tensor


def population_statistics(
    model: nn.Module, batches: Iterable[Batch], method: str = "sequential", ranks: Ranks = ONE_PROCESS
) -> dict[str, Statistics]:
    """The statistics of every BatchNorm of `model`, by its name, for `install`; `model` does not change.

    `batches` are inputs of `model`, or tuples or lists that begin with one, as a DataLoader gives them. Methods:
    `sequential` (exact, whatever the batches), `alg2` (the paper's, by mini-batches of this size), `pooled` (all
    values of the same mini-batches together), `ema` (none: the moving averages stay). Dropout is off. A BatchNorm
    is frozen, and keeps its statistics, if it is in evaluation mode while `model` is in training mode. With
    `ranks`, each process passes its share and all get the same.

    Raises UsageProblem where a method does not apply, such as to the variance of one value.
    """
    if method not in METHODS:
        raise unknown("method", method, METHODS)
    taken = BY_METHOD[method](model, batches, ranks) if method in BY_METHOD else {}
    return {name: Statistics(*map(torch.from_numpy, pair)) for name, pair in taken.items()}


def install(model: nn.Module, statistics: dict[str, Statistics]) -> None:
    """Let inference normalize by `statistics`, rounded once to the dtype of the model; ModelProblem if not finite."""
    norms = tracked_norms(model)
    for name, new in statistics.items():
        for stored, value in ((norms[name].running_mean, new.mean), (norms[name].running_var, new.var)):
            if not bool(torch.isfinite(value).all()):
                raise ModelProblem(f"the population statistics of {name} are not finite", "Train with a lower --lr.")
            assert stored is not None
            stored.copy_(value)


MeansAndVariances = dict[str, tuple[Array, Array]]  # by the name of the BatchNorm


def _alg2(model: nn.Module, batches: Iterable[Batch], ranks: Ranks) -> MeansAndVariances:
    return {name: population(seen) for name, seen in equal_batches(model, batches, ranks).items()}


def _pooled(model: nn.Module, batches: Iterable[Batch], ranks: Ranks) -> MeansAndVariances:
    seen = batch_moments(model, batches, ranks)
    return _unbiased({name: Moments.merged(parts) for name, parts in seen.items()})


def _sequential(model: nn.Module, batches: Iterable[Batch], ranks: Ranks) -> MeansAndVariances:
    return _unbiased(sequential(model, batches, ranks))


def _unbiased(moments: dict[str, Moments]) -> MeansAndVariances:
    return {name: (m.mean, m.variance) for name, m in moments.items()}


BY_METHOD = {"sequential": _sequential, "alg2": _alg2, "pooled": _pooled}
