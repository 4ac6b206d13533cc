"""Residual networks for small images: He et al. 2016, section 4.2; the subject of Bjorck et al. 2018 at depth 110."""

from __future__ import annotations

from collections import OrderedDict

import torch
from torch import Tensor, nn
from torch.nn.functional import pad

from ..errors import UsageProblem
from .layers import NONLINEAR, Style, he

CHANNELS = (16, 32, 64)


def resnet(
    depth: str,
    shape: tuple[int, int, int],
    classes: int,
    batch_norm: bool = True,
    activation: str = "relu",
    width: float = 1.0,
) -> nn.Module:
    """`depth` = 6n + 2 layers of weights: a 3x3 convolution, three stages of n blocks of two, and the classifier."""
    n, rest = divmod(int(depth) - 2, 6)
    if n < 1 or rest:
        raise UsageProblem(f"no resnet has {depth} layers: the depth is 6n + 2", "Use resnet-20, -32, -56 or -110.")
    style = Style(batch_norm, activation)
    widths = [max(4, round(m * width)) for m in CHANNELS]
    layers = OrderedDict[str, nn.Module](first=style.conv(shape[0], widths[0], 3))
    for stage, m in enumerate(widths):
        for i in range(n):
            before = widths[max(stage - 1, 0)] if i == 0 else m
            layers[f"block{stage + 1}_{i + 1}"] = Block(before, m, 2 if stage and i == 0 else 1, style)
    layers |= {"pool": nn.AdaptiveAvgPool2d(1), "flatten": nn.Flatten(), "output": nn.Linear(widths[-1], classes)}
    model = nn.Sequential(layers)
    he(model)
    return model


class Block(nn.Module):
    """g(x + BN(W2 g(BN(W1 x)))); where sizes differ, x is every second pixel, and zeros in the new channels."""

    def __init__(self, n: int, m: int, stride: int, style: Style) -> None:
        super().__init__()
        self.stride, self.more = stride, m - n
        self.first = style.conv(n, m, 3, stride)
        self.second = nn.Conv2d(m, m, 3, padding=1, bias=style.bias)
        self.norm = nn.BatchNorm2d(m) if style.batch_norm else nn.Identity()
        self.act = NONLINEAR[style.activation]()

    def forward(self, x: Tensor) -> Tensor:
        inner: Tensor = self.norm(self.second(self.first(x)))
        return torch.as_tensor(self.act(inner + self._shortcut(x)))

    def _shortcut(self, x: Tensor) -> Tensor:
        x = x[..., :: self.stride, :: self.stride] if self.stride > 1 else x
        return pad(x, (0, 0, 0, 0, 0, self.more)) if self.more else x
