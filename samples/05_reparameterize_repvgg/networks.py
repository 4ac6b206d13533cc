"""A small RepVGG (Ding et al. 2021) and MobileOne (Vasu et al. 2022), written as they are trained: with branches."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class Branches(nn.Module):
    """The sum of normalized convolutions of one tensor and, where its shape stays, of the tensor itself, normalized."""

    def __init__(self, kernels: tuple[int, ...], a: int, b: int, stride: int = 1, groups: int = 1) -> None:
        super().__init__()
        self.convs = nn.ModuleList(
            nn.Sequential(nn.Conv2d(a, b, k, stride, k // 2, groups=groups, bias=False), nn.BatchNorm2d(b))
            for k in kernels
        )
        self.identity = nn.BatchNorm2d(a) if a == b and stride == 1 else None

    def forward(self, x: Tensor) -> Tensor:
        total = sum(conv(x) for conv in self.convs)
        return torch.relu(total if self.identity is None else total + self.identity(x))


def repvgg() -> nn.Module:
    """Per block a 3x3 and a 1x1 convolution, and the identity."""
    steps = (3, 32, 2), (32, 32, 1), (32, 64, 2), (64, 64, 1), (64, 64, 1), (64, 128, 2), (128, 128, 1)
    return nn.Sequential(*(Branches((3, 1), *step) for step in steps), *head(128))


def mobileone() -> nn.Module:
    """Depthwise blocks of four 3x3 convolutions and a 1x1, then pointwise blocks of four 1x1, and identities."""
    layers: list[nn.Module] = [Branches((3, 1), 3, 32, 2)]
    for a, b, stride in (32, 64, 2), (64, 64, 1), (64, 128, 2), (128, 128, 1):
        layers += [Branches((3, 3, 3, 3, 1), a, a, stride, groups=a), Branches((1, 1, 1, 1), a, b)]
    return nn.Sequential(*layers, *head(128))


def head(width: int) -> tuple[nn.Module, ...]:
    return nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(width, 10)


def trained(make: type[nn.Module]) -> nn.Module:
    """Random scales and shifts, statistics of data: neither speed nor equality depends on training."""
    torch.manual_seed(0)
    network = make()
    for norm in (m for m in network.modules() if isinstance(m, nn.BatchNorm2d)):
        nn.init.uniform_(norm.weight, 0.5, 1.5)
        nn.init.normal_(norm.bias, std=0.3)
        norm.momentum = None
    with torch.no_grad():
        network.train()(torch.randn(32, 3, 64, 64))
    return network.eval()
