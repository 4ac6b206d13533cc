"""Activations and gradients of a network: the measurements of Bjorck et al. 2018, for any network.

No function changes its network. It stays in its mode; in training mode, BatchNorm normalizes by the batch.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from copy import deepcopy
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from torch.nn.grad import conv2d_weight

from bnfold.algebra.moments import Moments
from bnfold.train.norms import moments

Hook = Callable[[nn.Module, tuple[Tensor, ...], Tensor], None]
WEIGHTED = (nn.Conv2d, nn.Linear)


def activation_moments(
    model: nn.Module, images: Tensor, kinds: tuple[type[nn.Module], ...] = WEIGHTED
) -> dict[str, Moments]:
    """The moments of every output channel of each layer of these kinds, in the order in which the layers compute."""
    model, outputs = deepcopy(model), dict[str, Moments]()

    def watching(name: str) -> Hook:
        def look(layer: nn.Module, given: tuple[Tensor, ...], y: Tensor) -> None:
            outputs[name] = outputs[name] + moments(y) if name in outputs else moments(y)

        return look

    hooks = {layer: watching(name) for name, layer in model.named_modules() if isinstance(layer, kinds)}
    with _hooked(hooks), torch.no_grad():
        model(images)
    return outputs


def gradient(model: nn.Module, images: Tensor, labels: Tensor) -> dict[str, Tensor]:
    """The gradient of the mean cross-entropy of this batch, by the name of the parameter; frozen ones are left out."""
    model = deepcopy(model)
    trained = {name: p for name, p in model.named_parameters() if p.requires_grad}
    loss = cross_entropy(model(images), labels)
    return dict(zip(trained, torch.autograd.grad(loss, list(trained.values())), strict=True))


def moved(model: nn.Module, along: dict[str, Tensor], rate: float) -> nn.Module:
    """A copy of `model` after the step -rate * along."""
    model = deepcopy(model)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name in along:
                parameter.sub_(rate * along[name])
    return model


def loss_along_gradient(model: nn.Module, images: Tensor, labels: Tensor, rates: Sequence[float]) -> list[float]:
    """The loss of this batch after one step of each rate against its own gradient, over the loss before the step."""

    def loss(model: nn.Module) -> float:
        with torch.no_grad():
            return float(cross_entropy(model(images), labels))

    along, before = gradient(model, images, labels), loss(moved(model, {}, 0))
    return [loss(moved(model, along, rate)) / before for rate in rates]


@dataclass(frozen=True, eq=False)
class WeightGradient:
    """The gradient of the weights of a convolution is a sum over examples b and locations (x, y). All of its shape.

    `total` is that sum; `by_example` is sum_b |sum_xy|, and `by_location` sum_bxy | |. They are |total| where all
    summands have the same sign, and far above it where signs cancel.
    """

    total: Tensor
    by_example: Tensor
    by_location: Tensor


def weight_gradient(model: nn.Module, layer: str, images: Tensor, labels: Tensor) -> WeightGradient:
    """The gradient of the mean cross-entropy of this batch for the Conv2d of this name, which is used once."""
    model = deepcopy(model)
    conv, seen = model.get_submodule(layer), list[Tensor]()
    assert isinstance(conv, nn.Conv2d)
    with _hooked({conv: lambda layer, given, y: seen.extend((given[0].detach(), y))}):
        loss = cross_entropy(model(images), labels)
    x, y = seen
    dy = torch.autograd.grad(loss, y)[0]
    alone = (_weights(conv, x[b : b + 1], dy[b : b + 1]).abs() for b in range(len(x)))
    return WeightGradient(_weights(conv, x, dy), torch.stack([*alone]).sum(0), _weights(conv, x.abs(), dy.abs()))


def _weights(conv: nn.Conv2d, x: Tensor, dy: Tensor) -> Tensor:
    """dl/dW of a convolution from its input and dl/dy."""
    assert not isinstance(conv.padding, str)
    sizes = (conv.stride, conv.padding, conv.dilation)
    dw: Tensor = conv2d_weight(x, conv.weight.shape, dy, *sizes, conv.groups)  # type: ignore[no-untyped-call]
    return dw


@contextmanager
def _hooked(hooks: dict[nn.Module, Hook]) -> Iterator[None]:
    handles = [layer.register_forward_hook(hook) for layer, hook in hooks.items()]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()
