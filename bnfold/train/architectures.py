"""Networks: `build` gives one. A new one is a function and one row in ARCHITECTURES or FAMILIES.

The function's parameters are `shape` (C, H, W), the number of `classes`, and those of Network's options that the
architecture honours: an option it has no parameter for is refused.
"""

from __future__ import annotations

import re
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import fields
from functools import partial
from inspect import signature
from itertools import pairwise
from math import prod

import torch
from torch import nn

from ..errors import UsageProblem
from .inception import bn_inception, inception
from .layers import Style, small_gaussian
from .outside import from_file, from_timm, from_torchvision
from .recipe import Network, flag, unknown
from .resnet import resnet

Shape = tuple[int, int, int]
HIDDEN = (100, 100, 100)  # units; section 4.1
WEIGHT_STD = 0.1  # the paper says "small random Gaussian values"
CHANNELS = (16, 32, 64)
STRIDES = (1, 1, 2)
VARIED = {field.name: field for field in fields(Network) if field.name not in ("arch", "init_std")}


def build(network: Network, shape: Shape, classes: int) -> nn.Module:
    """The network from images (N, *shape) to logits (N, classes).

    Raises UsageProblem for an unknown name or an option that the architecture cannot honour, ModelProblem for a
    user's file that is not there or fails.
    """
    factory = find(network.arch)
    options = {name: value for name in VARIED if (value := getattr(network, name)) is not None}
    honoured = signature(factory).parameters.keys() & options.keys()
    _require_honoured(network, {name for name in options.keys() - honoured if options[name] != getattr(Network, name)})
    model = factory(shape, classes, **{name: options[name] for name in honoured})
    if network.init_std is not None:
        small_gaussian(model, network.init_std)
    return model


def find(arch: str) -> Callable[..., nn.Module]:
    """The function that builds `arch`; UsageProblem, with the nearest names, if there is none."""
    for pattern, factory in FAMILIES.items():
        if match := re.fullmatch(pattern, arch):
            return partial(factory, *match.groups())
    if arch not in ARCHITECTURES:
        raise unknown("architecture", arch, [*ARCHITECTURES, *FORMS])
    return ARCHITECTURES[arch]


def _require_honoured(network: Network, beyond: set[str]) -> None:
    if beyond:
        flags = ", ".join(sorted(flag(VARIED[name]) for name in beyond))
        raise UsageProblem(f"the architecture {network.arch} cannot honour {flags}", "Leave it out, or choose another.")


def mlp(
    shape: Shape, classes: int, batch_norm: bool = True, activation: str = "sigmoid", bn_position: str = "before"
) -> nn.Module:
    """Section 4.1 of the paper: three hidden layers of 100 sigmoid units, normalized before the sigmoid."""
    style = Style(batch_norm, activation, bn_position)
    layers = OrderedDict[str, nn.Module](flatten=nn.Flatten())
    for i, (n, m) in enumerate(pairwise((prod(shape), *HIDDEN)), start=1):
        layers[f"hidden{i}"] = style.followed("linear", nn.Linear(n, m, bias=style.bias), nn.BatchNorm1d(m))
    layers["output"] = nn.Linear(HIDDEN[-1], classes)
    model = nn.Sequential(layers)
    small_gaussian(model, WEIGHT_STD)
    return model


def convnet(
    shape: Shape, classes: int, batch_norm: bool = True, activation: str = "relu", bn_position: str = "before"
) -> nn.Module:
    """Three stages of 3x3 beside 1x1 convolutions, joined, normalized, ReLU; the last at stride 2; then their mean."""
    style = Style(batch_norm, activation, bn_position)
    layers = OrderedDict[str, nn.Module]()
    for i, (n, m) in enumerate(pairwise((shape[0], *CHANNELS))):
        joined = Branches(n, m, STRIDES[i], bias=style.bias)
        layers[f"stage{i + 1}"] = style.followed("convs", joined, nn.BatchNorm2d(m))
    layers["pool"] = nn.AdaptiveAvgPool2d(1)
    layers["flatten"] = nn.Flatten()
    layers["output"] = nn.Linear(CHANNELS[-1], classes)
    return nn.Sequential(layers)


class Branches(nn.Module):
    """3x3 and 1x1 convolutions of one input (N, n, H, W), side by side in the channels of (N, m, H', W')."""

    def __init__(self, n: int, m: int, stride: int, bias: bool) -> None:
        super().__init__()
        self.wide = nn.Conv2d(n, m - m // 4, 3, stride, padding=1, bias=bias)
        self.narrow = nn.Conv2d(n, m // 4, 1, stride, bias=bias)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.cat([self.wide(x), self.narrow(x)], dim=1)


ARCHITECTURES: dict[str, Callable[..., nn.Module]] = {
    "mlp": mlp,
    "convnet": convnet,
    "bn-inception": bn_inception,
    "inception": inception,
}

FAMILIES: dict[str, Callable[..., nn.Module]] = {  # the groups of the name come before shape and classes
    r"resnet-(\d+)": resnet,
    r"timm:(.+)": from_timm,
    r"torchvision:(.+)": from_torchvision,
    r"(.+\.py):(\w+)": from_file,
}
FORMS = ("resnet-N", "timm:NAME", "torchvision:NAME", "FILE.py:FACTORY")
