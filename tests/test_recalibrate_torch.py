"""Statistics computed on an ONNX file are those that PyTorch computes on the network it was exported from."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from onnx import numpy_helper
from torch import nn

from bnfold.recalibration import recalibrate
from bnfold.train import models, to_onnx
from bnfold.train.statistics import population_statistics

RNG = np.random.default_rng(0)


class Residual(nn.Module):
    """A shortcut, a depthwise and a transposed convolution, a concatenation, a normalization behind a ReLU."""

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


NETS = {
    "mlp": lambda: (models.build("mlp", (1, 12, 12), 10, True), (1, 12, 12)),
    "convnet": lambda: (models.build("convnet", (3, 12, 12), 10, True), (3, 12, 12)),
    "residual": lambda: (Residual(), (3, 8, 8)),
}


@pytest.mark.parametrize("name", NETS)
def test_the_same_statistics_as_pytorch(name):
    torch.manual_seed(0)
    net, shape = NETS[name]()
    x = RNG.normal(0.3, 1.5, (500, *shape)).astype(np.float32)
    wanted = population_statistics(net.eval(), [torch.from_numpy(x)], "sequential")
    result = recalibrate(to_onnx.converted(net, shape, 20, {}), [x])
    stored = {t.name: numpy_helper.to_array(t) for t in result.model.graph.initializer}
    assert len(wanted) == len(result.drifts)
    for layer, found in wanted.items():
        mean, var = (value.numpy() for value in (found.mean, found.var))
        np.testing.assert_allclose(stored[f"{layer}.running_var"], var, rtol=1e-6)
        np.testing.assert_array_less(np.abs(stored[f"{layer}.running_mean"] - mean), 1e-6 * np.sqrt(var + mean**2))
