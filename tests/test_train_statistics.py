"""Population statistics against their formulas, written out once more in NumPy float64."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
import torch
from torch import Tensor, distributed, nn
from torch.utils.data import DataLoader, TensorDataset

from bnfold.errors import ModelProblem, UsageProblem
from bnfold.train.population import Statistics, install, population_statistics

Array = npt.NDArray[np.float64]
TAKEN = ("sequential", "alg2", "pooled")


def close(measured: Tensor, expected: Array) -> None:
    np.testing.assert_allclose(measured.numpy(), expected, rtol=1e-6, atol=1e-7)


def cloud(*shape: int, seed: int = 0) -> Tensor:
    """Values whose mean and variance differ from channel to channel."""
    channel = torch.arange(1, shape[1] + 1).reshape(1, -1, *[1] * (len(shape) - 2))
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed)) * channel + 10 * channel


def test_mean_of_batch_means_and_of_unbiased_batch_variances() -> None:
    batches = [cloud(8, 3, seed=seed) for seed in range(5)]
    moments = population_statistics(nn.BatchNorm1d(3), batches, "alg2")[""]
    xs = [b.double().numpy() for b in batches]
    close(moments.mean, np.mean([x.mean(0) for x in xs], axis=0))
    close(moments.var, np.mean([8 / 7 * x.var(0) for x in xs], axis=0))
    assert moments.mean.dtype == moments.var.dtype == torch.float64


@pytest.mark.parametrize(
    ("norm", "locations"), [(nn.BatchNorm1d(2), (7,)), (nn.BatchNorm2d(2), (3, 5)), (nn.BatchNorm3d(2), (2, 3, 2))]
)
@pytest.mark.parametrize("method", TAKEN)
def test_a_feature_map_is_normalized_over_m_p_q_values(
    norm: nn.Module, locations: tuple[int, ...], method: str
) -> None:
    x = cloud(4, 2, *locations)
    moments = population_statistics(norm, [x], method)[""]
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
    moments = population_statistics(net, batches, "alg2")["2"]
    close(moments.mean, np.mean([h.mean(0) for h in hiddens], axis=0))
    close(moments.var, np.mean([h.var(0, ddof=1) for h in hiddens], axis=0))
    pooled = population_statistics(net, batches, "pooled")["2"]
    close(pooled.mean, np.concatenate(hiddens).mean(0))
    close(pooled.var, np.concatenate(hiddens).var(0, ddof=1))


@pytest.mark.parametrize("method", ["sequential", "pooled"])
def test_a_short_last_batch_counts_by_its_size(method: str) -> None:
    x = cloud(130, 2)
    x[128:] += 1000
    moments = population_statistics(nn.BatchNorm1d(2), x.split(64), method)[""]
    close(moments.mean, x.double().numpy().mean(0))
    close(moments.var, x.double().numpy().var(0, ddof=1))


def test_algorithm_2_leaves_a_short_last_batch_out_and_refuses_other_sizes() -> None:
    x, norm = cloud(130, 2), nn.BatchNorm1d(2)
    x[128:] += 1000
    moments = population_statistics(norm, x.split(64), "alg2")[""]
    close(moments.mean, x[:128].double().numpy().mean(0))
    for sizes in ([64, 2, 64], [2, 64, 64], [64, 64, 66]):
        with pytest.raises(UsageProblem, match="Algorithm 2 has one size"):
            population_statistics(norm, cloud(sum(sizes), 2).split(sizes), "alg2")


@pytest.mark.parametrize("method", TAKEN)
def test_dropout_is_off(method: str) -> None:
    batches = [cloud(8, 3)]
    plain = population_statistics(nn.Sequential(nn.Identity(), nn.BatchNorm1d(3)), batches, method)["1"]
    dropped = population_statistics(nn.Sequential(nn.Dropout(0.9), nn.BatchNorm1d(3)), batches, method)["1"]
    assert torch.equal(plain.mean, dropped.mean)
    assert torch.equal(plain.var, dropped.var)


@pytest.mark.parametrize("method", TAKEN)
@pytest.mark.parametrize("batches", [[cloud(8, 3)], [cloud(1, 3)]], ids=["success", "error"])
def test_the_network_is_left_as_it_was(batches: list[Tensor], method: str) -> None:
    net = nn.Sequential(nn.BatchNorm1d(3), nn.Dropout(), nn.BatchNorm1d(3), nn.BatchNorm1d(3)).train()
    net[3].eval()
    before = {name: value.clone() for name, value in net.state_dict().items()}
    modes = [layer.training for layer in net.modules()]
    if len(batches[0]) > 1:
        population_statistics(net, batches, method)
    else:
        with pytest.raises(UsageProblem, match="0 sees 1 value per channel"):
            population_statistics(net, batches, method)
    assert [layer.training for layer in net.modules()] == modes
    assert all(torch.equal(value, before[name]) for name, value in net.state_dict().items())
    net.train()(cloud(8, 3))
    assert not torch.equal(net[0].running_mean, before["0.running_mean"]), "moving averages move again"
    assert not any(norm._forward_pre_hooks for norm in net)


@pytest.mark.parametrize("method", TAKEN)
def test_a_frozen_layer_keeps_its_statistics_and_normalizes_by_them(method: str) -> None:
    net = nn.Sequential(nn.BatchNorm1d(3), nn.BatchNorm1d(3)).train()
    net[0].running_mean += 5
    net[0].eval()
    x = cloud(50, 3)
    statistics = population_statistics(net, [x], method)
    assert statistics.keys() == {"1"}
    close(statistics["1"].mean, (x.double().numpy().mean(0) - 5) / np.sqrt(1 + 1e-5))
    assert population_statistics(net.eval(), [x], method).keys() == {"0", "1"}, "inference freezes nothing"


@pytest.mark.parametrize("method", TAKEN)
def test_nothing_to_take_statistics_of(method: str) -> None:
    assert population_statistics(nn.Linear(3, 3), [cloud(8, 3)], method) == {}
    with pytest.raises(UsageProblem, match="reaches a BatchNorm"):
        population_statistics(nn.BatchNorm1d(3), [], method)


def test_ema_leaves_the_moving_averages_and_other_names_are_unknown() -> None:
    norm = nn.BatchNorm1d(3)
    assert population_statistics(norm, [cloud(8, 3)], "ema") == {}
    with pytest.raises(UsageProblem, match="unknown method 'alg3'"):
        population_statistics(norm, [cloud(8, 3)], "alg3")


@pytest.mark.parametrize("method", TAKEN)
def test_what_a_data_loader_gives(method: str) -> None:
    images, labels = cloud(24, 3), torch.arange(24)
    loader = DataLoader(TensorDataset(images, labels), batch_size=8)
    one, two = (population_statistics(nn.BatchNorm1d(3), b, method)[""] for b in (loader, images.split(8)))
    assert torch.equal(one.mean, two.mean)
    assert torch.equal(one.var, two.var)


@pytest.mark.parametrize("method", TAKEN)
def test_one_image_is_enough_where_it_has_locations(method: str) -> None:
    x = cloud(1, 2, 4, 4)
    close(population_statistics(nn.BatchNorm2d(2), [x], method)[""].var, x.double().numpy().var((0, 2, 3), ddof=1))


def test_float64_sums_survive_a_large_mean() -> None:
    x = cloud(1000, 1).double()
    moments = population_statistics(nn.BatchNorm1d(1).double(), (x + 1e7).split(100), "alg2")[""]
    np.testing.assert_allclose(moments.var, np.mean([b.numpy().var(ddof=1) for b in x.split(100)]), rtol=1e-7)
    moments = population_statistics(nn.BatchNorm1d(1).double(), (x + 1e7).split(100))[""]
    np.testing.assert_allclose(moments.var, x.numpy().var(ddof=1), rtol=1e-7)


@pytest.mark.parametrize("method", TAKEN)
def test_inference_normalizes_the_population_after_install(method: str) -> None:
    x, net = cloud(4000, 2), nn.BatchNorm1d(2)
    install(net, population_statistics(net, x.split(40), method))
    y = net.eval()(x).detach()
    assert y.mean(0).abs().max() < 1e-5
    assert (y.var(0) - 1).abs().max() < 0.01


class Branching(nn.Module):
    """A layer that is used, one that keeps no statistics, and one that is not used."""

    def __init__(self) -> None:
        super().__init__()
        self.used = nn.BatchNorm1d(2)
        self.live = nn.BatchNorm1d(2, track_running_stats=False)
        self.unused = nn.BatchNorm1d(2)

    def forward(self, x: Tensor) -> Tensor:
        return self.live(self.used(x))


def test_layers_without_stored_statistics_or_never_reached_have_none() -> None:
    for method in ("alg2", "pooled"):
        assert population_statistics(Branching(), [cloud(8, 2)], method).keys() == {"used"}
    with pytest.raises(UsageProblem, match="live keeps no statistics"):
        population_statistics(Branching(), [cloud(8, 2)])
    net = Branching()
    net.live = nn.Identity()
    assert population_statistics(net, [cloud(8, 2)]).keys() == {"used"}


def test_a_layer_that_is_used_twice() -> None:
    norm = nn.BatchNorm1d(2)
    net = nn.Sequential(norm, nn.Sigmoid(), norm)
    with pytest.raises(UsageProblem, match="0 is used 2 times") as caught:
        population_statistics(net, [cloud(8, 2)])
    assert "alg2 and pooled" in caught.value.hint
    seen = [cloud(8, 2).double(), norm.double()(cloud(8, 2).double()).detach().sigmoid()]
    moments = population_statistics(net, [cloud(8, 2).double()], "pooled")["0"]
    close(moments.mean, torch.cat(seen).numpy().mean(0))


def test_a_synchronized_layer_is_refused_by_batch_where_it_would_wait(tmp_path: Path) -> None:
    net = nn.SyncBatchNorm(2)
    distributed.init_process_group("gloo", init_method=f"file://{tmp_path / 'store'}", rank=0, world_size=1)
    try:
        with pytest.raises(UsageProblem, match="is a SyncBatchNorm"):
            population_statistics(net, [cloud(8, 2)], "alg2")
        assert population_statistics(net, [cloud(8, 2)]).keys() == {""}
    finally:
        distributed.destroy_process_group()


def test_statistics_that_are_not_finite_are_refused() -> None:
    bad = Statistics(torch.tensor([0.0, float("nan")]), torch.ones(2))
    with pytest.raises(ModelProblem, match="not finite"):
        install(nn.BatchNorm1d(2), {"": bad})
