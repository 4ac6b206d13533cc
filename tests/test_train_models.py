"""The networks: shape, and BatchNorm where the paper puts it."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from bnfold.errors import UsageProblem
from bnfold.train.models import ARCHITECTURES, build

SHAPES = [(1, 28, 28), (1, 8, 8), (3, 32, 32), (3, 5, 7), (1, 1, 1)]


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("batch_norm", [True, False])
@pytest.mark.parametrize("arch", ARCHITECTURES)
def test_images_of_any_shape_to_logits(arch: str, batch_norm: bool, shape: tuple[int, int, int]) -> None:
    net = build(arch, shape, 7, batch_norm).eval()
    assert net(torch.zeros(2, *shape)).shape == (2, 7)


@pytest.mark.parametrize("arch", ARCHITECTURES)
def test_normalized_between_weights_without_bias_and_nonlinearity(arch: str) -> None:
    layers = [layer for layer in build(arch, (1, 8, 8), 10, True).modules() if not list(layer.children())]
    norms = [i for i, layer in enumerate(layers) if isinstance(layer, nn.BatchNorm1d | nn.BatchNorm2d)]
    assert len(norms) == 3
    for i in norms:
        assert layers[i - 1].bias is None
        assert isinstance(layers[i + 1], nn.Sigmoid | nn.ReLU)


@pytest.mark.parametrize("arch", ARCHITECTURES)
def test_without_batch_norm_the_biases_are_back(arch: str) -> None:
    layers = list(build(arch, (1, 8, 8), 10, False).modules())
    assert not any(isinstance(layer, nn.BatchNorm1d | nn.BatchNorm2d) for layer in layers)
    assert all(layer.bias is not None for layer in layers if isinstance(layer, nn.Linear | nn.Conv2d))


def test_mlp_is_the_network_of_section_4_1() -> None:
    net = build("mlp", (1, 28, 28), 10, True)
    weights = [layer.weight for layer in net.modules() if isinstance(layer, nn.Linear)]
    assert [tuple(w.shape) for w in weights] == [(100, 784), (100, 100), (100, 100), (10, 100)]
    assert sum(isinstance(layer, nn.Sigmoid) for layer in net.modules()) == 3
    everything = torch.cat([w.detach().ravel() for w in weights])
    assert abs(float(everything.std()) - 0.1) < 0.001
    assert abs(float(everything.mean())) < 0.001


def test_an_unknown_architecture_has_its_nearest_in_the_hint() -> None:
    with pytest.raises(UsageProblem, match="Unknown architecture: 'convent'") as caught:
        build("convent", (1, 8, 8), 10, True)
    assert "convnet" in caught.value.hint
