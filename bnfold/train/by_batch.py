"""Statistics by mini-batches, each of which is normalized by its own mean and variance, as in training."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sized
from contextlib import ExitStack, contextmanager
from functools import partial
from itertools import chain
from typing import Any

import torch
from torch import Tensor, distributed, nn

from ..algebra.moments import Moments
from ..errors import UsageProblem
from ..system.progress import each
from .norms import Batch, BatchNorm, moments, network_input, unfrozen_norms
from .ranks import Ranks

BatchMoments = dict[str, list[Moments]]  # of the inputs of each BatchNorm, by its name


def equal_batches(model: nn.Module, batches: Iterable[Batch], ranks: Ranks) -> BatchMoments:
    """`batch_moments` of mini-batches of one size, as in Algorithm 2; a short last one is left out."""
    seen = batch_moments(model, _without_a_short_last(batches), ranks)
    for name, of_batches in seen.items():
        sizes = sorted({B.count for B in of_batches})
        if len(sizes) > 1:
            raise UsageProblem(
                f"{name} sees mini-batches of {sizes[0]} to {sizes[-1]} values per channel; Algorithm 2 has one size",
                "The methods sequential and pooled take any.",
            )
    return seen


def batch_moments(model: nn.Module, batches: Iterable[Batch], ranks: Ranks) -> BatchMoments:
    """The moments of the input of each BatchNorm that is not frozen, per mini-batch, in order of ranks; Dropout is off.

    Raises UsageProblem where a mini-batch has one value per channel, or where there is none at all.
    """
    norms = unfrozen_norms(model)
    _refuse_synchronized(norms)
    parts = ranks.gather(ranks.on_all(lambda: _collect(model, norms, batches)))
    seen = {name: list(chain.from_iterable(part[name] for part in parts)) for name in norms}
    if norms and not any(seen.values()):
        raise UsageProblem("no mini-batch reaches a BatchNorm", "Give at least one full mini-batch.")
    return {name: of_batches for name, of_batches in seen.items() if of_batches}


def _collect(model: nn.Module, norms: dict[str, BatchNorm], batches: Iterable[Batch]) -> BatchMoments:
    seen: BatchMoments = {name: [] for name in norms}
    with torch.no_grad(), _normalizing_by_batch(model, norms), ExitStack() as hooks:
        for name, norm in norms.items():
            hooks.enter_context(norm.register_forward_pre_hook(partial(_record, name, seen[name])))
        number = len(batches) if isinstance(batches, Sized) else 0
        for batch in each(batches, "population statistics", number) if number else batches:
            model(network_input(batch))
    return seen


def _record(name: str, seen: list[Moments], norm: nn.Module, inputs: tuple[Any, ...]) -> None:
    """A hook: append the moments of one mini-batch, before it is normalized."""
    here = moments(inputs[0])
    if here.count < 2:
        raise UsageProblem(f"{name} sees 1 value per channel, which has no variance", "Use larger batches.")
    seen.append(here)


def _without_a_short_last(batches: Iterable[Batch]) -> Iterator[Tensor]:
    size, before = 0, None
    for x in map(network_input, batches):
        if before is not None:
            yield before
        size, before = size or len(x), x
    if before is not None and len(before) >= size:
        yield before


@contextmanager
def _normalizing_by_batch(model: nn.Module, norms: dict[str, BatchNorm]) -> Iterator[None]:
    """Evaluation mode, but `norms` normalize by the batch; their moving averages stay as they are."""
    before = {layer: layer.training for layer in model.modules()}
    tracking = {norm: norm.track_running_stats for norm in norms.values()}
    model.eval()
    for norm in norms.values():
        norm.training, norm.track_running_stats = True, False
    try:
        yield
    finally:
        for norm, tracked in tracking.items():
            norm.track_running_stats = tracked
        for layer, training in before.items():
            layer.training = training


def _refuse_synchronized(norms: dict[str, BatchNorm]) -> None:
    """UsageProblem: at each mini-batch they would wait for processes that have fewer mini-batches."""
    for name, norm in norms.items():
        if isinstance(norm, nn.SyncBatchNorm) and distributed.is_initialized():
            raise UsageProblem(
                f"{name} is a SyncBatchNorm: it does not normalize by the mini-batch of one process",
                "The method sequential takes it.",
            )
