"""The parts of networks: a layer of weights, Batch Normalization and a nonlinearity, in the order of a style."""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass

import torch
from torch import nn

from .recipe import ACTIVATIONS

ImageShape = tuple[int, int, int]  # (C, H, W) of an image
NONLINEARITIES: dict[str, type[nn.Module]] = {"sigmoid": nn.Sigmoid, "relu": nn.ReLU}
assert NONLINEARITIES.keys() == {*ACTIVATIONS}


@dataclass(frozen=True)
class Style:
    """What follows every layer of weights. "before" is the paper's z = g(BN(Wu)); "after" is z = BN(g(Wu + b))."""

    batch_norm: bool = True
    activation: str = "relu"
    bn_position: str = "before"

    @property
    def bias(self) -> bool:
        """Whether the weights need a bias: not where BatchNorm's shift subsumes it (section 3.2)."""
        return not self.batch_norm or self.bn_position == "after"

    def block(self, name: str, weights: nn.Module, norm: nn.Module) -> nn.Module:
        """`weights` under this name, and `norm` and the nonlinearity in the order of the style."""
        layers = {name: weights, "norm": norm, "act": NONLINEARITIES[self.activation]()}
        order = [name, "norm", "act"] if self.bn_position == "before" else [name, "act", "norm"]
        kept = [key for key in order if key != "norm" or self.batch_norm]
        return nn.Sequential(OrderedDict((key, layers[key]) for key in kept))

    def conv(self, n: int, m: int, size: int, stride: int = 1) -> nn.Module:
        """A convolution of n to m channels that keeps the sides of an image, or halves them at stride 2, in a block."""
        weights = nn.Conv2d(n, m, size, stride, padding=size // 2, bias=self.bias)
        return self.block("conv", weights, nn.BatchNorm2d(m))


def small_gaussian(model: nn.Module, std: float) -> None:
    """Weights drawn from N(0, std^2) and biases of 0, in every layer but the normalizing ones."""
    for layer in model.modules():
        weight = getattr(layer, "weight", None)
        if isinstance(weight, torch.Tensor) and weight.ndim > 1:
            nn.init.normal_(weight, std=std)
            _no_bias(layer)


def he(model: nn.Module) -> None:
    """He et al. 2015: weights of convolutions for which the variance stays the same through a ReLU; biases of 0."""
    for layer in model.modules():
        if isinstance(layer, nn.Conv2d):
            nn.init.kaiming_normal_(layer.weight, nonlinearity="relu")
            _no_bias(layer)


def _no_bias(layer: nn.Module) -> None:
    if isinstance(bias := getattr(layer, "bias", None), torch.Tensor):
        nn.init.zeros_(bias)
