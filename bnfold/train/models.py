"""Networks: `build(name, ...)` gives one. A new one is a function and one row in ARCHITECTURES."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from itertools import pairwise
from math import prod

import torch
from torch import nn

from .options import unknown

Shape = tuple[int, int, int]
HIDDEN = (100, 100, 100)  # units; section 4.1
WEIGHT_STD = 0.1  # the paper says "small random Gaussian values"
CHANNELS = (16, 32, 64)
STRIDES = (1, 1, 2)


def build(arch: str, shape: Shape, classes: int, batch_norm: bool) -> nn.Module:
    """The network `arch` from images (N, *shape) to logits (N, classes); UsageProblem if the name is unknown."""
    if arch not in ARCHITECTURES:
        raise unknown("architecture", arch, ARCHITECTURES)
    return ARCHITECTURES[arch](shape, classes, batch_norm)


def mlp(shape: Shape, classes: int, batch_norm: bool) -> nn.Module:
    """Section 4.1 of the paper: three hidden layers of 100 sigmoid units, normalized before the sigmoid."""
    layers = OrderedDict[str, nn.Module](flatten=nn.Flatten())
    for i, (n, m) in enumerate(pairwise((prod(shape), *HIDDEN)), start=1):
        layers[f"hidden{i}"] = _hidden(n, m, batch_norm)
    layers["output"] = nn.Linear(HIDDEN[-1], classes)
    return nn.Sequential(layers).apply(_small_gaussian)


def convnet(shape: Shape, classes: int, batch_norm: bool) -> nn.Module:
    """Three stages of 3x3 beside 1x1 convolutions, joined, normalized, ReLU; the last at stride 2; then their mean."""
    layers = OrderedDict[str, nn.Module]()
    for i, (n, m) in enumerate(pairwise((shape[0], *CHANNELS))):
        layers[f"stage{i + 1}"] = _stage(n, m, STRIDES[i], batch_norm)
    layers["pool"] = nn.AdaptiveAvgPool2d(1)
    layers["flatten"] = nn.Flatten()
    layers["output"] = nn.Linear(CHANNELS[-1], classes)
    return nn.Sequential(layers)


def _hidden(n: int, m: int, batch_norm: bool) -> nn.Module:
    """sigmoid(BN(Wu)): the bias is left out where BN's shift subsumes it (section 3.2)."""
    linear = nn.Linear(n, m, bias=not batch_norm)
    return nn.Sequential(_named(linear=linear, norm=nn.BatchNorm1d(m) if batch_norm else None, act=nn.Sigmoid()))


def _stage(n: int, m: int, stride: int, batch_norm: bool) -> nn.Module:
    norm = nn.BatchNorm2d(m) if batch_norm else None
    return nn.Sequential(_named(convs=Branches(n, m, stride, bias=not batch_norm), norm=norm, act=nn.ReLU()))


class Branches(nn.Module):
    """3x3 and 1x1 convolutions of one input (N, n, H, W), side by side in the channels of (N, m, H', W')."""

    def __init__(self, n: int, m: int, stride: int, bias: bool) -> None:
        super().__init__()
        self.wide = nn.Conv2d(n, m - m // 4, 3, stride, padding=1, bias=bias)
        self.narrow = nn.Conv2d(n, m // 4, 1, stride, bias=bias)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.cat([self.wide(x), self.narrow(x)], dim=1)


def _named(**layers: nn.Module | None) -> OrderedDict[str, nn.Module]:
    return OrderedDict((name, layer) for name, layer in layers.items() if layer is not None)


def _small_gaussian(layer: nn.Module) -> None:
    if isinstance(layer, nn.Linear):
        nn.init.normal_(layer.weight, std=WEIGHT_STD)
        if layer.bias is not None:
            nn.init.zeros_(layer.bias)


ARCHITECTURES: dict[str, Callable[[Shape, int, bool], nn.Module]] = {
    "mlp": mlp,
    "convnet": convnet,
}
