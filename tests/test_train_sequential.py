"""Exact statistics: the same bits whatever the batches, their order, and the way the passes are made."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from functools import cache

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from bnfold.train import sequential as module
from bnfold.train.architectures import build
from bnfold.train.data import load_dataset
from bnfold.train.population import Statistics, install, population_statistics
from bnfold.train.ranks import ONE_PROCESS
from bnfold.train.recipe import Network
from tests.data import data_path

Bits = dict[str, tuple[Tensor, Tensor]]
ARCHS = ("mlp", "convnet")


@cache
def digits() -> Tensor:
    data = load_dataset("digits", None)
    return torch.from_numpy(data.normalization(data.train.images))


def network(arch: str, x: Tensor) -> nn.Module:
    """With statistics that fit nothing, and gammas and betas of every sign."""
    torch.manual_seed(1)
    net = build(Network(arch), tuple(x.shape[1:]), 10)  # type: ignore[arg-type]
    for layer in net.modules():
        if isinstance(layer, nn.BatchNorm1d | nn.BatchNorm2d):
            for parameter in layer.parameters():
                nn.init.normal_(parameter)
            assert layer.running_var is not None
            layer.running_var.fill_(7)
    return net


def bits(statistics: dict[str, Statistics]) -> Bits:
    """As they are stored."""
    return {name: (moments.mean.float(), moments.var.float()) for name, moments in statistics.items()}


def same(one: Bits, other: Bits) -> bool:
    return one.keys() == other.keys() and all(
        torch.equal(a, b) for name in one for a, b in zip(one[name], other[name], strict=True)
    )


def sparing(net: nn.Module, batches: Iterable[Tensor]) -> Bits:
    """The statistics, taken in memory for no more than a few images"""
    statistics = module.sequential(net, batches, ONE_PROCESS, memory=10**6)
    return {
        name: (torch.from_numpy(m.mean).float(), torch.from_numpy(m.variance).float()) for name, m in statistics.items()
    }


@pytest.mark.parametrize("arch", ARCHS)
@pytest.mark.parametrize("shuffled", [False, True])
@pytest.mark.parametrize("size", [7, 64, 1000])
def test_neither_batch_size_nor_order_is_in_the_statistics(arch: str, size: int, shuffled: bool) -> None:
    x = digits()
    net = network(arch, x)
    order = torch.randperm(len(x), generator=torch.Generator().manual_seed(size)) if shuffled else torch.arange(len(x))
    expected = bits(population_statistics(net, [x]))
    assert len(expected) == 3
    assert same(bits(population_statistics(net, x[order].split(size))), expected)


@pytest.mark.parametrize("arch", ARCHS)
def test_taking_them_again_changes_nothing(arch: str) -> None:
    x = digits()
    net = network(arch, x)
    install(net, population_statistics(net, x.split(100)))
    before = {name: value.clone() for name, value in net.state_dict().items()}
    install(net, population_statistics(net, x.split(99)))
    assert all(torch.equal(value, before[name]) for name, value in net.state_dict().items())


@pytest.mark.parametrize("arch", ARCHS)
def test_each_is_the_moments_of_its_input_in_the_network_as_it_infers_then(arch: str) -> None:
    x = digits()
    net = network(arch, x)
    install(net, population_statistics(net, x.split(100)))
    truth = network(arch, x).double().eval()
    truth.load_state_dict(net.state_dict())
    seen: dict[str, Tensor] = {}
    for name, layer in truth.named_modules():
        if isinstance(layer, nn.BatchNorm1d | nn.BatchNorm2d):
            layer.register_forward_pre_hook(lambda _, inputs, name=name: seen.update({name: inputs[0]}))
    with torch.no_grad():
        truth(x.double())
    for name, given in seen.items():
        values = given.transpose(0, 1).flatten(1).numpy()
        norm = net.get_submodule(name)
        np.testing.assert_allclose(norm.running_mean, values.mean(1), rtol=1e-6, atol=1e-9)
        np.testing.assert_allclose(norm.running_var, values.var(1, ddof=1), rtol=1e-6)


@pytest.mark.parametrize("arch", ARCHS)
def test_one_pass_and_a_pass_for_each_layer_give_the_same(arch: str, monkeypatch: pytest.MonkeyPatch) -> None:
    x = digits()
    net = network(arch, x)
    expected = bits(population_statistics(net, [x]))
    monkeypatch.setattr(module, "_in_one_pass", None)
    assert same(sparing(net, x.split(100)), expected)


class Parallel(nn.Module):
    """Two branches that join, one of which has a layer more, and a shortcut."""

    def __init__(self) -> None:
        super().__init__()
        self.left = nn.Sequential(nn.Conv2d(2, 4, 3, padding=1), nn.BatchNorm2d(4), nn.ReLU(), nn.Conv2d(4, 4, 1))
        self.deep = nn.BatchNorm2d(4)
        self.right = nn.Sequential(nn.Conv2d(2, 4, 1, groups=2), nn.BatchNorm2d(4))
        self.last = nn.BatchNorm2d(8)

    def forward(self, x: Tensor) -> Tensor:
        right = self.right(x)
        joined = torch.cat([self.deep(self.left(x)), right], dim=1)
        return self.last(joined.relu()) + joined


def test_branches() -> None:
    torch.manual_seed(0)
    net, x = Parallel(), torch.randn(300, 2, 5, 5)
    statistics = population_statistics(net, x.split(30))
    assert list(statistics) == ["right.1", "left.1", "deep", "last"]
    assert same(sparing(net, iter(x.split(30))), bits(statistics))
    install(net, statistics)
    last: list[Tensor] = []
    net.eval().double().last.register_forward_pre_hook(lambda _, inputs: last.append(inputs[0]))
    with torch.no_grad():
        net(x.double())
    np.testing.assert_allclose(statistics["last"].mean, last[0].mean((0, 2, 3)), rtol=1e-9)


def test_batches_that_can_be_gone_through_once() -> None:
    def once() -> Iterator[Tensor]:
        yield from digits().split(50)

    net = network("mlp", digits())
    assert same(bits(population_statistics(net, once())), bits(population_statistics(net, [digits()])))


def test_a_network_in_half_precision_is_given_what_it_will_store() -> None:
    x = digits()
    net = network("mlp", x).half()
    statistics = population_statistics(net, [x.half()])
    install(net, statistics)
    again = population_statistics(net, [x.half()])
    assert all(torch.equal(statistics[name].var, again[name].var) for name in statistics)
    hidden = net.double().eval()[:2](x.half().double())
    first = nn.Sequential(*net[2][:1])
    given = first(hidden).detach()
    np.testing.assert_allclose(statistics["hidden2.norm"].mean, given.mean(0), rtol=1e-9, atol=1e-12)


@pytest.mark.slow
@pytest.mark.parametrize(("arch", "count"), [("mlp", 60000), ("convnet", 3000)])
def test_mnist(arch: str, count: int) -> None:
    data = load_dataset("mnist", data_path("mnist"))
    x = torch.from_numpy(data.normalization(data.train.images[:count]))
    net = network(arch, x)
    expected = bits(population_statistics(net, [x]))
    for size in (7, 64, 1000):
        order = torch.randperm(len(x), generator=torch.Generator().manual_seed(size))
        assert same(bits(population_statistics(net, x.split(size))), expected)
        assert same(bits(population_statistics(net, x[order].split(size))), expected)
