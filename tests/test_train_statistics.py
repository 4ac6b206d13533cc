"""Algorithm 2 against its formulas, written out once more in NumPy float64."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pytest
import torch
from torch import Tensor, nn

from bnfold.errors import ModelProblem, UsageProblem
from bnfold.train.statistics import Moments, install, population_statistics

Array = npt.NDArray[np.float64]


def close(measured: Tensor, expected: Array) -> None:
    np.testing.assert_allclose(measured.numpy(), expected, rtol=1e-6, atol=1e-7)


def cloud(*shape: int, seed: int = 0) -> Tensor:
    """Values whose mean and variance differ from channel to channel."""
    channel = torch.arange(1, shape[1] + 1).reshape(1, -1, *[1] * (len(shape) - 2))
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed)) * channel + 10 * channel


def test_mean_of_batch_means_and_of_unbiased_batch_variances() -> None:
    batches = [cloud(8, 3, seed=seed) for seed in range(5)]
    moments = population_statistics(nn.BatchNorm1d(3), batches)[""]
    xs = [b.double().numpy() for b in batches]
    close(moments.mean, np.mean([x.mean(0) for x in xs], axis=0))
    close(moments.var, np.mean([8 / 7 * x.var(0) for x in xs], axis=0))
    assert moments.mean.dtype == moments.var.dtype == torch.float64


@pytest.mark.parametrize(
    ("norm", "locations"), [(nn.BatchNorm1d(2), (7,)), (nn.BatchNorm2d(2), (3, 5)), (nn.BatchNorm3d(2), (2, 3, 2))]
)
def test_a_feature_map_is_normalized_over_m_p_q_values(norm: nn.Module, locations: tuple[int, ...]) -> None:
    x = cloud(4, 2, *locations)
    moments = population_statistics(norm, [x])[""]
    values = x.double().numpy().swapaxes(0, 1).reshape(2, -1)
    size = 4 * np.prod(locations)
    close(moments.mean, values.sum(1) / size)
    close(moments.var, ((values - values.mean(1, keepdims=True)) ** 2).sum(1) / (size - 1))


def test_deeper_layers_see_what_batch_statistics_above_them_give() -> None:
    net = nn.Sequential(nn.BatchNorm1d(3), nn.Sigmoid(), nn.BatchNorm1d(3))
    batches = [cloud(16, 3, seed=seed) for seed in range(3)]

    def hidden(x: Array) -> Array:
        return 1 / (1 + np.exp(-(x - x.mean(0)) / np.sqrt(x.var(0) + 1e-5)))

    hiddens = [hidden(b.double().numpy()) for b in batches]
    moments = population_statistics(net, batches)["2"]
    close(moments.mean, np.mean([h.mean(0) for h in hiddens], axis=0))
    close(moments.var, np.mean([h.var(0, ddof=1) for h in hiddens], axis=0))


def test_a_short_last_batch_counts_by_its_size() -> None:
    x = cloud(130, 2)
    x[128:] += 1000
    moments = population_statistics(nn.BatchNorm1d(2), x.split(64))[""]
    close(moments.mean, x.double().numpy().mean(0))


def test_dropout_is_off() -> None:
    batches = [cloud(8, 3)]
    plain = population_statistics(nn.Sequential(nn.Identity(), nn.BatchNorm1d(3)), batches)["1"]
    dropped = population_statistics(nn.Sequential(nn.Dropout(0.9), nn.BatchNorm1d(3)), batches)["1"]
    assert torch.equal(plain.mean, dropped.mean)
    assert torch.equal(plain.var, dropped.var)


@pytest.mark.parametrize("batches", [[cloud(8, 3)], [cloud(8, 3), cloud(1, 3)]], ids=["success", "error"])
def test_the_network_is_left_as_it_was(batches: list[Tensor]) -> None:
    net = nn.Sequential(nn.BatchNorm1d(3), nn.Dropout(), nn.BatchNorm1d(3)).train()
    net[0].eval()
    before = {name: value.clone() for name, value in net.state_dict().items()}
    modes = [layer.training for layer in net.modules()]
    if len(batches) == 1:
        population_statistics(net, batches)
    else:
        with pytest.raises(UsageProblem, match="0 sees 1 value per channel"):
            population_statistics(net, batches)
    assert [layer.training for layer in net.modules()] == modes
    assert all(torch.equal(value, before[name]) for name, value in net.state_dict().items())
    net.train()(cloud(8, 3))
    assert not torch.equal(net[0].running_mean, before["0.running_mean"]), "moving averages move again"


def test_one_image_is_enough_where_it_has_locations() -> None:
    x = cloud(1, 2, 4, 4)
    close(population_statistics(nn.BatchNorm2d(2), [x])[""].var, x.double().numpy().var((0, 2, 3), ddof=1))


def test_float64_sums_survive_a_large_mean() -> None:
    x = cloud(1000, 1).double()
    moments = population_statistics(nn.BatchNorm1d(1).double(), (x + 1e7).split(100))[""]
    np.testing.assert_allclose(moments.var, np.mean([b.numpy().var(ddof=1) for b in x.split(100)]), rtol=1e-7)


def test_inference_normalizes_the_population_after_install() -> None:
    x, net = cloud(4000, 2), nn.BatchNorm1d(2)
    install(net, population_statistics(net, x.split(40)))
    y = net.eval()(x).detach()
    assert y.mean(0).abs().max() < 1e-5
    assert (y.var(0) - 1).abs().max() < 0.01


def test_layers_without_stored_statistics_or_never_reached_have_none() -> None:
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.used = nn.BatchNorm1d(2)
            self.live = nn.BatchNorm1d(2, track_running_stats=False)
            self.unused = nn.BatchNorm1d(2)

        def forward(self, x: Tensor) -> Tensor:
            return self.live(self.used(x))

    assert population_statistics(Net(), [cloud(8, 2)]).keys() == {"used"}


def test_statistics_that_are_not_finite_are_refused() -> None:
    bad = Moments(torch.tensor([0.0, float("nan")]), torch.ones(2))
    with pytest.raises(ModelProblem, match="not finite"):
        install(nn.BatchNorm1d(2), {"": bad})
