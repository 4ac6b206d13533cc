"""Exact population statistics, layer by layer: of each BatchNorm once all BatchNorms before it normalize by theirs.

The network is in evaluation mode, so the input of a BatchNorm is a function of one image, and its mean and variance
are those of the set of images: neither the size nor the order of batches matters. So that rounding does not matter
either, the network runs in float64 and in pieces of one size. Statistics are rounded to the model's dtype before
those of later layers are taken, because later layers will run after the rounded ones.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack
from functools import partial
from itertools import chain
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from ..algebra.moments import Moments
from ..errors import UsageProblem
from ..system.progress import each, report
from .norms import Batch, live_norms, moments, network_input, unfrozen_norms
from .ranks import Ranks

CHUNK = 64  # images that run together, whatever the batches were
MEMORY = 4 << 30  # bytes that activations may take
DIVISIBLE = (nn.Linear, nn.modules.conv._ConvNd)
ALIVE = 4  # times the input of the widest BatchNorm are alive together: a layer's input and output, and a shortcut


def sequential(model: nn.Module, batches: Iterable[Batch], ranks: Ranks, memory: int = MEMORY) -> dict[str, Moments]:
    """The moments of the input of each BatchNorm of `model` once those before it normalize by theirs.

    One pass where the activations of all images fit into `memory`; else one for each BatchNorm, up to that layer, and
    `batches` is iterated as often. Frozen BatchNorms keep their statistics.

    Raises UsageProblem for a BatchNorm that is used twice, that has no stored statistics, or that sees one value.
    """
    if not unfrozen_norms(model):
        return {}
    walk = _Walk(model, ranks)
    again = list(batches) if isinstance(batches, Iterator) else batches
    with torch.no_grad():
        layout = ranks.on_all(lambda: _layout(walk.net, walk.norms, next(_chunks(again), None)))
        order = next((part.order for part in ranks.gather(layout) if part.order), ())
        if not order:
            raise UsageProblem("no image reaches a BatchNorm", "Give at least one batch.")
        fitting = _at_most(memory // (ALIVE * layout.widest), _chunks(again)) if layout.order else None
        if fitting is None:
            _in_a_pass_each(walk, order, again)
        else:
            _in_one_pass(walk, fitting)
    return walk.taken


class _Walk:
    """A float64 copy of a network, whose statistics are replaced one after the other."""

    def __init__(self, model: nn.Module, ranks: Ranks) -> None:
        self.ranks = ranks
        self.net = copy.deepcopy(model).double().eval()
        self.dtypes = {name: norm.running_var.dtype for name, norm in unfrozen_norms(model).items()}  # type: ignore[union-attr]
        self.norms = {name: layer for name, layer in self.net.named_modules() if name in self.dtypes}
        self.taken: dict[str, Moments] = {}
        for layer in self.net.modules():
            if isinstance(layer, DIVISIBLE):
                layer.forward = partial(_in_pieces, layer, layer.forward)  # type: ignore[method-assign]

    def take(self, name: str, parts: list[Moments]) -> None:
        """Merge the moments of a BatchNorm's input in this process with those of the others, and install them."""
        everywhere = Moments.merged(chain.from_iterable(self.ranks.gather(parts)))
        if everywhere.count < 2:
            raise UsageProblem(f"{name} sees 1 value per channel, which has no variance", "Use more images.")
        for stored, value in (("running_mean", everywhere.mean), ("running_var", everywhere.variance)):
            getattr(self.norms[name], stored).copy_(torch.from_numpy(value).to(self.dtypes[name]))
        self.taken[name] = everywhere


class _Layout(NamedTuple):
    """The BatchNorms in the order they run in, and the size of their largest input, in bytes per image."""

    order: tuple[str, ...] = ()
    widest: int = 0


def _layout(net: nn.Module, norms: dict[str, nn.Module], chunk: Tensor | None) -> _Layout:
    if chunk is None:
        return _Layout()
    inputs: list[tuple[str, int]] = []
    with ExitStack() as hooks:
        for name, norm in (norms | live_norms(net)).items():
            hooks.enter_context(norm.register_forward_pre_hook(partial(_note, name, inputs)))
        net(chunk)
    order = tuple(name for name, _ in inputs)
    for name in order:
        _require_once(name, order.count(name))
        _require_stored(name, name in norms)
    return _Layout(order, max((size for _, size in inputs), default=0) // len(chunk))


def _note(name: str, inputs: list[tuple[str, int]], norm: nn.Module, arguments: tuple[Any, ...]) -> None:
    inputs.append((name, arguments[0].nbytes))


def _require_once(name: str, times: int) -> None:
    if times > 1:
        raise UsageProblem(
            f"{name} is used {times} times: its later input depends on the statistics that are sought",
            "The methods alg2 and pooled take every use together, as the moving averages do.",
        )


def _require_stored(name: str, stored: bool) -> None:
    if not stored:
        raise UsageProblem(
            f"{name} keeps no statistics: what follows it depends on the batch even in inference",
            "Use the method alg2 or pooled.",
        )


def _in_one_pass(walk: _Walk, everything: list[Tensor]) -> None:
    """All images run together, so that the statistics of each BatchNorm are in place before it runs."""
    with ExitStack() as hooks:
        for name, norm in walk.norms.items():
            hooks.enter_context(norm.register_forward_pre_hook(partial(_take_all, walk, name)))
        walk.net(torch.cat(everything))


def _take_all(walk: _Walk, name: str, norm: nn.Module, inputs: tuple[Any, ...]) -> None:
    walk.take(name, [moments(piece) for piece in torch.split(inputs[0], CHUNK)])
    report("population statistics", len(walk.taken), len(walk.norms))


def _in_a_pass_each(walk: _Walk, order: Sequence[str], batches: Iterable[Batch]) -> None:
    for name in each(order, "population statistics", len(order)):
        walk.take(name, [moments(x) for x in _inputs(walk.net, walk.norms[name], _chunks(batches))])


class _Reached(BaseException):
    """Ends a forward pass at a layer, with its input; a network that catches Exception does not catch it."""

    def __init__(self, inputs: Tensor) -> None:
        self.inputs = inputs


def _inputs(net: nn.Module, norm: nn.Module, chunks: Iterable[Tensor]) -> Iterator[Tensor]:
    """The input of `norm` for each of `chunks`; later layers do not run."""
    with norm.register_forward_pre_hook(_stop):
        for chunk in chunks:
            try:
                net(chunk)
            except _Reached as reached:
                yield reached.inputs


def _stop(norm: nn.Module, inputs: tuple[Any, ...]) -> None:
    raise _Reached(inputs[0])


def _chunks(batches: Iterable[Batch]) -> Iterator[Tensor]:
    """The images of `batches` CHUNK by CHUNK, in float64."""
    rest: Tensor | None = None
    for x in map(network_input, batches):
        rest = x if rest is None else torch.cat([rest, x])
        *full, rest = torch.split(rest, CHUNK)
        yield from map(_wide, full)
    if rest is not None and len(rest):
        yield _wide(rest)


def _wide(x: Tensor) -> Tensor:
    return x.double() if x.is_floating_point() else x


def _at_most(count: int, chunks: Iterable[Tensor]) -> list[Tensor] | None:
    """All of `chunks`, or None if they hold more than `count` images."""
    taken: list[Tensor] = []
    for chunk in chunks:
        count -= len(chunk)
        if count < 0:
            return None
        taken.append(chunk)
    return taken


def _in_pieces(layer: nn.Module, forward: Callable[..., Tensor], x: Tensor) -> Tensor:
    """Run a layer on CHUNK images at a time, because its work space grows with its input."""
    batched = x.ndim >= layer.weight.ndim  # type: ignore[operator]
    return torch.cat([forward(piece) for piece in torch.split(x, CHUNK)]) if batched else forward(x)
