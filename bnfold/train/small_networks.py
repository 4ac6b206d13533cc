"""Small networks: the paper's mlp, a convnet whose layers have branches, and residual networks for small images."""

from __future__ import annotations

from collections import OrderedDict
from itertools import pairwise
from math import prod

import torch
from torch import Tensor, nn
from torch.nn.functional import pad

from ..errors import UsageProblem
from .layers import NONLINEARITIES, ImageShape, Style, he, small_gaussian

HIDDEN_UNITS = (100, 100, 100)  # units; section 4.1
WEIGHT_STD = 0.1  # the paper says "small random Gaussian values"
CHANNELS = (16, 32, 64)
STRIDES = (1, 1, 2)


def mlp(
    shape: ImageShape, classes: int, batch_norm: bool = True, activation: str = "sigmoid", bn_position: str = "before"
) -> nn.Module:
    """Section 4.1 of the paper: three hidden layers of 100 sigmoid units, normalized before the sigmoid."""
    style = Style(batch_norm, activation, bn_position)
    layers = OrderedDict[str, nn.Module](flatten=nn.Flatten())
    for i, (n, m) in enumerate(pairwise((prod(shape), *HIDDEN_UNITS)), start=1):
        layers[f"hidden{i}"] = style.block("linear", nn.Linear(n, m, bias=style.bias), nn.BatchNorm1d(m))
    layers["output"] = nn.Linear(HIDDEN_UNITS[-1], classes)
    model = nn.Sequential(layers)
    small_gaussian(model, WEIGHT_STD)
    return model


def convnet(
    shape: ImageShape, classes: int, batch_norm: bool = True, activation: str = "relu", bn_position: str = "before"
) -> nn.Module:
    """Three stages of parallel 3x3 and 1x1 convolutions, normalization and ReLU, the last at stride 2; then a mean."""
    style = Style(batch_norm, activation, bn_position)
    layers = OrderedDict[str, nn.Module]()
    for i, (n, m) in enumerate(pairwise((shape[0], *CHANNELS))):
        branches = Branches(n, m, STRIDES[i], bias=style.bias)
        layers[f"stage{i + 1}"] = style.block("convs", branches, nn.BatchNorm2d(m))
    layers["pool"] = nn.AdaptiveAvgPool2d(1)
    layers["flatten"] = nn.Flatten()
    layers["output"] = nn.Linear(CHANNELS[-1], classes)
    return nn.Sequential(layers)


class Branches(nn.Module):
    """3x3 and 1x1 convolutions of one input (N, n, H, W), concatenated to (N, m, H', W')."""

    def __init__(self, n: int, m: int, stride: int, bias: bool) -> None:
        super().__init__()
        self.wide = nn.Conv2d(n, m - m // 4, 3, stride, padding=1, bias=bias)
        self.narrow = nn.Conv2d(n, m // 4, 1, stride, bias=bias)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.cat([self.wide(x), self.narrow(x)], dim=1)


def resnet(
    depth: str,
    shape: ImageShape,
    classes: int,
    batch_norm: bool = True,
    activation: str = "relu",
    width: float = 1.0,
) -> nn.Module:
    """He et al. 2016, section 4.2; at depth 110 the subject of Bjorck et al. 2018.

    `depth` = 6n + 2 layers of weights: a 3x3 convolution, three stages of n blocks of two, and the classifier.
    """
    n, rest = divmod(int(depth) - 2, 6)
    if n < 1 or rest:
        raise UsageProblem(f"no resnet has {depth} layers: the depth is 6n + 2", "Use resnet-20, -32, -56 or -110.")
    style = Style(batch_norm, activation)
    widths = [max(4, round(m * width)) for m in CHANNELS]
    layers = OrderedDict[str, nn.Module](first=style.conv(shape[0], widths[0], 3))
    for stage, m in enumerate(widths):
        for i in range(n):
            before = widths[max(stage - 1, 0)] if i == 0 else m
            layers[f"block{stage + 1}_{i + 1}"] = ResidualBlock(before, m, 2 if stage and i == 0 else 1, style)
    layers |= {"pool": nn.AdaptiveAvgPool2d(1), "flatten": nn.Flatten(), "output": nn.Linear(widths[-1], classes)}
    model = nn.Sequential(layers)
    he(model)
    return model


class ResidualBlock(nn.Module):
    """g(x + BN(W2 g(BN(W1 x)))); where sizes differ, x is every second pixel, and zeros in the new channels."""

    def __init__(self, n: int, m: int, stride: int, style: Style) -> None:
        super().__init__()
        self.stride, self.more = stride, m - n
        self.first = style.conv(n, m, 3, stride)
        self.second = nn.Conv2d(m, m, 3, padding=1, bias=style.bias)
        self.norm = nn.BatchNorm2d(m) if style.batch_norm else nn.Identity()
        self.act = NONLINEARITIES[style.activation]()

    def forward(self, x: Tensor) -> Tensor:
        inner: Tensor = self.norm(self.second(self.first(x)))
        return torch.as_tensor(self.act(inner + self._shortcut(x)))

    def _shortcut(self, x: Tensor) -> Tensor:
        x = x[..., :: self.stride, :: self.stride] if self.stride > 1 else x
        return pad(x, (0, 0, 0, 0, 0, self.more)) if self.more else x
