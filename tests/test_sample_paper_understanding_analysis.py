"""The sample on Bjorck et al. 2018: its measurements of activations and gradients against sums written out one by one."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from bnfold.train.small_networks import resnet
from tests.samples import folder, module

with module(folder("paper_understanding") / "analysis.py") as analysis:
    activation_moments, gradient, moved = analysis.activation_moments, analysis.gradient, analysis.moved
    loss_along_gradient, weight_gradient = analysis.loss_along_gradient, analysis.weight_gradient

IMAGES = torch.randn(4, 3, 8, 8, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
LABELS = torch.tensor([0, 1, 2, 1])


def small(batch_norm: bool = True) -> nn.Module:
    torch.manual_seed(0)
    return resnet("8", (3, 8, 8), 3, batch_norm, width=0.25).double()


def loss(model: nn.Module, chosen: slice = slice(None)) -> Tensor:
    return cross_entropy(model(IMAGES[chosen]), LABELS[chosen])


def test_moments_are_those_of_what_each_layer_gives_in_the_order_of_computation():
    model = small()
    first = model.first.conv(IMAGES).detach().numpy().swapaxes(0, 1).reshape(4, -1)
    outputs = activation_moments(model, IMAGES)
    assert [*outputs][:3] == ["first.conv", "block1_1.first.conv", "block1_1.second"]
    assert [*outputs][-1] == "output"
    np.testing.assert_allclose(outputs["first.conv"].mean, first.mean(1), atol=1e-12)
    np.testing.assert_allclose(outputs["first.conv"].biased_variance, first.var(1), rtol=1e-12)


@pytest.mark.parametrize(("batch_norm", "grows"), [(False, True), (True, False)])
def test_variance_grows_with_depth_without_batch_norm_only(batch_norm, grows):
    """By about a factor for every block, so that 27 of them leave no doubt; with BatchNorm at most blocks add up."""
    torch.manual_seed(0)
    model = resnet("56", (3, 8, 8), 3, batch_norm, width=0.25).double()
    variances = [m.biased_variance.mean() for m in activation_moments(model, IMAGES, (nn.Conv2d,)).values()]
    assert (variances[-1] > 1e4 * variances[0]) == grows
    assert (max(variances) > 100 * variances[0]) == grows


def test_a_layer_that_computes_twice_gives_both():
    layer = nn.Linear(3, 3).double()
    x = torch.randn(5, 3, dtype=torch.float64)
    y = layer(x)
    both = torch.cat([y, layer(y)]).detach().numpy()
    outputs = activation_moments(nn.Sequential(layer, layer), x)
    assert [*outputs] == ["0"]
    np.testing.assert_allclose(outputs["0"].mean, both.mean(0))
    np.testing.assert_allclose(outputs["0"].biased_variance, both.var(0))


@pytest.mark.parametrize("measure", [activation_moments, gradient, loss_along_gradient, weight_gradient])
def test_a_network_that_is_measured_stays_as_it_was(measure):
    model = small()
    before = copy.deepcopy(model.state_dict())
    rest = {gradient: (LABELS,), loss_along_gradient: (LABELS, [1.0]), weight_gradient: (LABELS,)}.get(measure, ())
    measure(model, *(("first.conv",) if measure is weight_gradient else ()), IMAGES, *rest)
    assert all(torch.equal(now, before[name]) for name, now in model.state_dict().items())
    assert all(p.grad is None for p in model.parameters())
    assert model.training


def test_a_step_along_the_gradient_is_that_of_plain_sgd():
    model = small()
    start = loss(copy.deepcopy(model)).item()
    stepped = copy.deepcopy(model)
    loss(stepped).backward()
    torch.optim.SGD(stepped.parameters(), lr=0.05).step()
    here, there = loss_along_gradient(model, IMAGES, LABELS, [0, 0.05])
    assert here == 1
    assert there == pytest.approx(loss(stepped).item() / start, rel=1e-12)
    by_hand = moved(model, gradient(model, IMAGES, LABELS), 0.05)
    torch.testing.assert_close([*by_hand.parameters()], [*stepped.parameters()])


def test_parameters_that_are_frozen_do_not_move():
    model = small()
    model.output.weight.requires_grad_(False)
    along = gradient(model, IMAGES, LABELS)
    assert "output.weight" not in along
    assert torch.equal(moved(model, along, 1.0).output.weight, model.output.weight)


@pytest.mark.parametrize("layer", ["first.conv", "block2_1.first.conv", "block3_1.second"])  # the second has stride 2
def test_what_a_gradient_is_the_sum_of(layer):
    model = small(batch_norm=False)
    sums = weight_gradient(model, layer, IMAGES, LABELS)
    weight = model.get_submodule(layer).weight
    total = torch.autograd.grad(loss(model), weight)[0]
    alone = [torch.autograd.grad(loss(model, slice(b, b + 1)) / 4, weight)[0] for b in range(4)]
    torch.testing.assert_close(sums.total, total)
    torch.testing.assert_close(sums.by_example, torch.stack(alone).abs().sum(0))
    assert (sums.by_location >= sums.by_example - 1e-15).all()
    assert (sums.by_example >= sums.total.abs() - 1e-15).all()


def test_the_sum_over_locations_term_by_term():
    """A 1x1 convolution whose output is what the loss averages: dl/dw is a sum of x * dl/dy over images and places."""
    conv = nn.Conv2d(3, 3, 1, bias=False).double()
    model = nn.Sequential(conv, nn.AdaptiveAvgPool2d(1), nn.Flatten())
    sums = weight_gradient(model, "0", IMAGES, LABELS)
    dlogits = (model(IMAGES).softmax(1) - nn.functional.one_hot(LABELS, 3)) / 4 / 64
    terms = dlogits[:, :, None, None, None] * IMAGES[:, None]
    torch.testing.assert_close(sums.by_location[:, :, 0, 0], terms.abs().sum((0, 3, 4)))
    torch.testing.assert_close(sums.total[:, :, 0, 0], terms.sum((0, 3, 4)))
