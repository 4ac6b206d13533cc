"""Statistics computed on an ONNX file are those that PyTorch computes on the network it was exported from."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from onnx import numpy_helper
from torch import nn

from bnfold.recalibration import recalibrate
from bnfold.train import to_onnx
from bnfold.train.population import population_statistics

RNG = np.random.default_rng(0)


class Residual(nn.Module):
    """A shortcut, a depthwise and a transposed convolution, a concatenation, a normalization after a ReLU."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.b0 = nn.Conv2d(3, 8, 3, padding=1, bias=False), nn.BatchNorm2d(8)
        self.depth, self.b1 = nn.Conv2d(8, 8, 3, padding=1, groups=8, bias=False), nn.BatchNorm2d(8)
        self.point, self.b2 = nn.Conv2d(8, 8, 1), nn.BatchNorm2d(8, affine=False)
        self.up, self.b3 = nn.ConvTranspose2d(16, 4, 2, stride=2, bias=False), nn.BatchNorm2d(4, eps=1e-3)
        self.head, self.b4 = nn.Linear(4, 6, bias=False), nn.BatchNorm1d(6)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = torch.relu(self.b0(self.stem(x)))
        y = x + self.b2(torch.relu(self.point(self.b1(self.depth(x)))))
        z = self.b3(self.up(torch.cat([x, y], 1)))
        return self.b4(self.head(torch.relu(z).mean((2, 3))))


def mlp() -> nn.Module:
    """Section 4.1 of the paper, smaller: normalized before the sigmoid."""
    layers = [
        (nn.Linear(n, m, bias=False), nn.BatchNorm1d(m), nn.Sigmoid()) for n, m in ((144, 50), (50, 40), (40, 30))
    ]
    return nn.Sequential(nn.Flatten(), *(layer for three in layers for layer in three), nn.Linear(30, 10))


def chain() -> nn.Module:
    layers = [
        (nn.Conv2d(n, m, 3, stride, 1), nn.BatchNorm2d(m), nn.ReLU())
        for n, m, stride in ((3, 16, 1), (16, 32, 2), (32, 64, 2))
    ]
    return nn.Sequential(
        *(layer for three in layers for layer in three), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(64, 5)
    )


NETS = {"mlp": (mlp, (1, 12, 12)), "chain": (chain, (3, 12, 12)), "residual": (Residual, (3, 8, 8))}


@pytest.mark.parametrize("name", NETS)
def test_the_same_statistics_as_pytorch(name):
    torch.manual_seed(0)
    make, shape = NETS[name]
    net = make()
    x = RNG.normal(0.3, 1.5, (500, *shape)).astype(np.float32)
    wanted = population_statistics(net.eval(), [torch.from_numpy(x)], "sequential")
    result = recalibrate(to_onnx.converted(net, shape, 20, {}), [x])
    stored = {t.name: numpy_helper.to_array(t) for t in result.model.graph.initializer}
    assert len(wanted) == len(result.drifts)
    for layer, found in wanted.items():
        mean, var = (value.numpy() for value in (found.mean, found.var))
        np.testing.assert_allclose(stored[f"{layer}.running_var"], var, rtol=1e-6)
        np.testing.assert_array_less(np.abs(stored[f"{layer}.running_mean"] - mean), 1e-6 * np.sqrt(var + mean**2))
