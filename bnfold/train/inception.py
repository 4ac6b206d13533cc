"""The Inception variant of section 4.2 and the appendix, with BatchNorm and without.

Differences to GoogLeNet that the appendix lists: each 5x5 convolution is two 3x3 ones; three modules at 28x28 instead
of two; pooling inside a module is by average or by maximum; no pooling between modules: 3c and 4e have stride 2, and
their pool passes every channel on. The first layer is a separable convolution with depth multiplier 8.

The appendix prints 576, 576 and 1024 channels for 4c, 4d and 4e. Its own filters add up to 160+160+160+128 = 608,
96+192+192+128 = 608 and 192+256+608 = 1056. The filters are taken at their word here,
which makes 11.3 million parameters for 1000 classes; the paper says 13.6 million of its network.
"""

from __future__ import annotations

from collections import OrderedDict
from typing import Any, NamedTuple

import torch
from torch import nn

from .layers import ImageShape, Style, he

SMALL_IMAGE = 96  # images of shorter sides than this take the small first layer
STEM = (64, 64, 192)
DEPTH_MULTIPLIER = 8


class Module(NamedTuple):
    """One row of the appendix: filters, and the pool with its projection. No projection: the stride is 2."""

    one: int
    three_reduce: int
    three: int
    double_reduce: int
    double: int
    pool: str
    projection: int

    @property
    def stride(self) -> int:
        return 1 if self.projection else 2


MODULES = {
    "3a": Module(64, 64, 64, 64, 96, "avg", 32),
    "3b": Module(64, 64, 96, 64, 96, "avg", 64),
    "3c": Module(0, 128, 160, 64, 96, "max", 0),
    "4a": Module(224, 64, 96, 96, 128, "avg", 128),
    "4b": Module(192, 96, 128, 96, 128, "avg", 128),
    "4c": Module(160, 128, 160, 128, 160, "avg", 128),
    "4d": Module(96, 128, 192, 160, 192, "avg", 128),
    "4e": Module(0, 128, 192, 192, 256, "max", 0),
    "5a": Module(352, 192, 320, 160, 224, "avg", 128),
    "5b": Module(352, 192, 320, 192, 224, "max", 128),
}


def bn_inception(
    shape: ImageShape,
    classes: int,
    batch_norm: bool = True,
    activation: str = "relu",
    bn_position: str = "before",
    width: float = 1.0,
    dropout: float = 0.0,
    lrn: bool = False,
) -> nn.Module:
    """BN-Inception, every number of channels times `width`.

    An image of 224x224 is 28x28 at 3a and 7x7 at the end. Images with a side under 96 (CIFAR-10) take a small first
    layer, 3x3 at stride 1 without the pool after it, so that 32x32 is 16x16 at 3a and 4x4 at the end.
    """
    style = Style(batch_norm, activation, bn_position)
    layers = _stem(shape, style, width, lrn)
    channels = scaled_channels(STEM[-1], width)
    for name, row in MODULES.items():
        layers[name] = module = Inception(channels, row, style, width)
        channels = module.channels
    layers["pool"], layers["flatten"] = nn.AdaptiveAvgPool2d(1), nn.Flatten()
    if dropout:
        layers["dropout"] = nn.Dropout(dropout)
    layers["output"] = nn.Linear(channels, classes)
    model = nn.Sequential(layers)
    he(model)
    return model


def inception(
    shape: ImageShape,
    classes: int,
    activation: str = "relu",
    width: float = 1.0,
    dropout: float = 0.0,
    lrn: bool = False,
) -> nn.Module:
    """The same without BatchNorm: every convolution has a bias."""
    return bn_inception(shape, classes, False, activation, width=width, dropout=dropout, lrn=lrn)


def scaled_channels(channels: int, width: float) -> int:
    """`channels` of the table times `width`, at least 4 of them; 0 stays 0."""
    return max(4, round(channels * width)) if channels else 0


class Inception(nn.Module):
    """Towers of 1x1, of 3x3, of two 3x3 and of a pool, all of one input, concatenated."""

    def __init__(self, n: int, row: Module, style: Style, width: float) -> None:
        super().__init__()
        one, reduce, three = (scaled_channels(m, width) for m in (row.one, row.three_reduce, row.three))
        double_reduce, double = scaled_channels(row.double_reduce, width), scaled_channels(row.double, width)
        projection = scaled_channels(row.projection, width)
        towers = OrderedDict[str, nn.Module]()
        if one:
            towers["one"] = style.conv(n, one, 1)
        towers["three"] = nn.Sequential(style.conv(n, reduce, 1), style.conv(reduce, three, 3, row.stride))
        towers["three_three"] = nn.Sequential(
            style.conv(n, double_reduce, 1),
            style.conv(double_reduce, double, 3),
            style.conv(double, double, 3, row.stride),
        )
        pool = _pool(row)
        towers["pool"] = nn.Sequential(pool, style.conv(n, projection, 1)) if projection else pool
        self.towers = nn.ModuleDict(towers)
        self.channels = one + three + double + (projection or n)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.cat([tower(x) for tower in self.towers.values()], dim=1)


class LocalResponseNorm(nn.LocalResponseNorm):
    """Local response normalization, exported as the one ONNX operator that it is."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if not torch.onnx.is_in_onnx_export():
            return super().forward(x)
        attributes: Any = {"size": self.size, "alpha": self.alpha, "beta": self.beta, "bias": self.k}
        return torch.onnx.ops.symbolic("LRN", (x,), attributes, dtype=x.dtype, shape=x.shape)


def _stem(shape: ImageShape, style: Style, width: float, lrn: bool) -> OrderedDict[str, nn.Module]:
    """All layers before 3a; local response normalization stands where GoogLeNet has it."""
    is_small = min(shape[1:]) < SMALL_IMAGE
    a, b, c = (scaled_channels(m, width) for m in STEM)
    layers = {
        "1": _separable(shape[0], a, style, size=3 if is_small else 7, stride=1 if is_small else 2),
        "pool1": None if is_small else nn.MaxPool2d(3, 2, padding=1),
        "lrn1": LocalResponseNorm(5) if lrn else None,
        "2_reduce": style.conv(a, b, 1),
        "2": style.conv(b, c, 3),
        "lrn2": LocalResponseNorm(5) if lrn else None,
        "pool2": nn.MaxPool2d(3, 2, padding=1),
    }
    return OrderedDict((name, layer) for name, layer in layers.items() if layer is not None)


def _separable(n: int, m: int, style: Style, size: int, stride: int) -> nn.Module:
    """DEPTH_MULTIPLIER filters on each channel alone, fewer where m does not need them, then 1x1 across channels."""
    inner = n * max(1, min(DEPTH_MULTIPLIER, m // n))
    depthwise = nn.Conv2d(n, inner, size, stride, padding=size // 2, groups=n, bias=False)
    return nn.Sequential(OrderedDict(depthwise=depthwise, pointwise=style.conv(inner, m, 1)))


def _pool(row: Module) -> nn.Module:
    """3x3; what is outside the image does not count in an average."""
    if row.pool == "max":
        return nn.MaxPool2d(3, row.stride, padding=1)
    return nn.AvgPool2d(3, row.stride, padding=1, count_include_pad=False)
