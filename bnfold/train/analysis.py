"""What goes through a network and what comes back: the measurements of Bjorck et al. 2018, for any network.

Nothing here changes the network that it is given. It is looked at in the mode it is in; as long as it is in training
mode, BatchNorm normalizes by the batch at hand.
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

from ..algebra.moments import Moments
from .norms import moments

Hook = Callable[[nn.Module, tuple[Tensor, ...], Tensor], None]
WEIGHTED = (nn.Conv2d, nn.Linear)


def activation_moments(
    model: nn.Module, images: Tensor, kinds: tuple[type[nn.Module], ...] = WEIGHTED
) -> dict[str, Moments]:
    """Of every channel that each layer of these kinds gives for `images`, in the order in which the layers compute."""
    model, found = deepcopy(model), dict[str, Moments]()

    def watching(name: str) -> Hook:
        def look(layer: nn.Module, given: tuple[Tensor, ...], y: Tensor) -> None:
            found[name] = found[name] + moments(y) if name in found else moments(y)

        return look

    hooks = {layer: watching(name) for name, layer in model.named_modules() if isinstance(layer, kinds)}
    with _hooked(hooks), torch.no_grad():
        model(images)
    return found


def gradient(model: nn.Module, images: Tensor, labels: Tensor) -> dict[str, Tensor]:
    """Of the mean cross-entropy of this batch, for every parameter that is trained."""
    model = deepcopy(model)
    trained = {name: p for name, p in model.named_parameters() if p.requires_grad}
    loss = cross_entropy(model(images), labels)
    return dict(zip(trained, torch.autograd.grad(loss, list(trained.values())), strict=True))


def moved(model: nn.Module, along: dict[str, Tensor], rate: float) -> nn.Module:
    """A copy of `model` whose parameters are -rate * along further."""
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

    `total` is that sum; `by_example` is sum_b |sum_xy|, and `by_location` sum_bxy | |. They are |total| where all that
    is summed up has the same sign, and far above it where signs cancel.
    """

    total: Tensor
    by_example: Tensor
    by_location: Tensor


def weight_gradient(model: nn.Module, layer: str, images: Tensor, labels: Tensor) -> WeightGradient:
    """Of the mean cross-entropy of this batch, for the Conv2d of this name, which computes once."""
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
    """dl/dW from what the convolution is given and dl/dy."""
    assert not isinstance(conv.padding, str)
    sizes = (conv.stride, conv.padding, conv.dilation)
    found: Tensor = conv2d_weight(x, conv.weight.shape, dy, *sizes, conv.groups)  # type: ignore[no-untyped-call]
    return found


@contextmanager
def _hooked(hooks: dict[nn.Module, Hook]) -> Iterator[None]:
    handles = [layer.register_forward_hook(hook) for layer, hook in hooks.items()]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()
