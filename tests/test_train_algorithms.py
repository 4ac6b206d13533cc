"""Algorithms 1 and 2: against autograd, against PyTorch, against the affine that is folded, and section 3.3."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import batch_norm

from bnfold.algebra.moments import Moments
from bnfold.folding.affine_nodes import affine_of
from bnfold.graph.view import import_view, skeleton
from bnfold.train.algorithms import MiniBatch, batch_normalize, exploding_bias, inference, population
from bnfold.train.to_onnx import converted

FORMS = {
    "per activation": (MiniBatch.per_activation, (5, 3, 2), (3, 2)),
    "per activation of a dense layer": (MiniBatch.per_activation, (6, 4), (4,)),
    "per feature map": (MiniBatch.per_feature_map, (3, 4, 2, 5), (4,)),
    "per feature map, 1 location": (MiniBatch.per_feature_map, (6, 4), (4,)),
    "per feature map, 3 dimensions": (MiniBatch.per_feature_map, (2, 3, 2, 2, 2), (3,)),
}
form = pytest.mark.parametrize("name", FORMS)


def values(name: str) -> tuple[Tensor, Tensor, Tensor, MiniBatch]:
    """x, gamma and beta of a form, and what it normalizes together."""
    of, shape, parameters = FORMS[name]
    generator = torch.Generator().manual_seed(0)
    x, gamma, beta = (
        torch.randn(s, generator=generator, dtype=torch.float64, requires_grad=True)
        for s in (shape, parameters, parameters)
    )
    return x, gamma, beta, of(x)


@form
@pytest.mark.parametrize("eps", [1e-5, 0.8])
def test_the_backward_pass_is_the_derivative_of_the_forward_pass(name: str, eps: float) -> None:
    x, gamma, beta, B = values(name)
    assert torch.autograd.gradcheck(lambda *given: batch_normalize(*given, eps, B)[0], (x, gamma, beta))


@form
def test_autograd_of_the_formula_has_the_same_gradients(name: str) -> None:
    x, gamma, beta, B = values(name)
    mean, var = x.mean(B.over, keepdim=True), x.var(B.over, keepdim=True, correction=0)
    formula = B.aligned(gamma, x) * (x - mean) / torch.sqrt(var + 1e-5) + B.aligned(beta, x)
    y, mu, sigma2 = batch_normalize(x, gamma, beta, 1e-5, B)
    weights = torch.randn(x.shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    ours, autograds = (torch.autograd.grad((out * weights).sum(), (x, gamma, beta)) for out in (y, formula))
    for a, b in zip((y, mu, sigma2, *ours), (formula, mean, var, *autograds), strict=True):
        torch.testing.assert_close(a, b.reshape(a.shape), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("name", [name for name in FORMS if "map" in name])
def test_per_feature_map_is_what_pytorch_does(name: str) -> None:
    x, gamma, beta, B = values(name)
    theirs = batch_norm(x, None, None, gamma, beta, training=True)
    torch.testing.assert_close(batch_normalize(x, gamma, beta, 1e-5, B)[0], theirs, rtol=1e-12, atol=1e-12)


def test_m_is_the_number_of_values_normalized_together() -> None:
    assert MiniBatch.per_activation(torch.zeros(7, 3, 2)).m == 7
    assert MiniBatch.per_feature_map(torch.zeros(7, 3, 4, 5)).m == 7 * 4 * 5


@form
def test_whatever_the_input_each_b_comes_out_with_mean_beta_and_deviation_gamma(name: str) -> None:
    x, gamma, beta, B = values(name)
    y, _, _ = batch_normalize(100 + 10 * x, gamma, beta, 0.0, B)
    torch.testing.assert_close(y.mean(B.over), beta)
    torch.testing.assert_close(y.std(B.over, correction=0), gamma.abs())


@form
def test_gamma_the_deviation_and_beta_the_mean_recover_the_identity(name: str) -> None:
    x, _, _, B = values(name)
    deviation, mean = x.std(B.over, correction=0), x.mean(B.over)
    y, _, _ = batch_normalize(x, deviation, mean, 0.0, B)
    torch.testing.assert_close(y, x, rtol=1e-12, atol=1e-12)


def of_weights(W: Tensor, u: Tensor, eps: float) -> tuple[Tensor, Tensor, Tensor]:
    """BN(Wu), and the gradients to W and u of a loss that is the same for every W."""
    W, u = W.clone().requires_grad_(), u.clone().requires_grad_()
    x = u @ W.T
    ones, zeros = torch.ones(len(W), dtype=W.dtype), torch.zeros(len(W), dtype=W.dtype)
    y, _, _ = batch_normalize(x, ones, zeros, eps, MiniBatch.per_activation(x))
    loss = (y * torch.arange(y.numel()).reshape(y.shape).sin()).sum()
    return (y.detach(), *torch.autograd.grad(loss, (W, u)))


@pytest.mark.parametrize("a", [1e-3, 0.5, 7.0, 1e4])
def test_the_scale_of_the_weights_is_not_seen_and_larger_weights_move_less(a: float) -> None:
    """BN(Wu) = BN((aW)u); the gradient to u is the same, the one to the weights 1/a of it: section 3.3, for eps = 0."""
    generator = torch.Generator().manual_seed(0)
    W, u = (torch.randn(shape, generator=generator, dtype=torch.float64) for shape in ((4, 6), (9, 6)))
    (y, dW, du), (ya, dWa, dua) = of_weights(W, u, 0.0), of_weights(a * W, u, 0.0)
    torch.testing.assert_close(ya, y, rtol=1e-10, atol=1e-10)
    torch.testing.assert_close(dua, du, rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(a * dWa, dW, rtol=1e-9, atol=1e-9)


def test_with_eps_the_scale_is_seen_as_another_eps() -> None:
    """To scale W by a is to divide eps by a^2: exact for every eps, and why section 3.3 needs eps -> 0."""
    generator = torch.Generator().manual_seed(0)
    W, u = (torch.randn(shape, generator=generator, dtype=torch.float64) for shape in ((4, 6), (9, 6)))
    torch.testing.assert_close(of_weights(0.5 * W, u, 0.8)[0], of_weights(W, u, 0.8 / 0.25)[0])
    assert (of_weights(0.5 * W, u, 0.8)[0] - of_weights(W, u, 0.8)[0]).abs().max() > 0.1


def test_line_10_is_the_mean_of_means_and_of_unbiased_variances() -> None:
    x = np.random.default_rng(0).normal(3, 2, (20, 8, 3))
    mean, var = population([Moments.of(B) for B in x])
    np.testing.assert_allclose(mean, x.mean((0, 1)), rtol=1e-12)
    np.testing.assert_allclose(var, 8 / 7 * x.var(1).mean(0), rtol=1e-12)


def test_m_over_m_minus_1_makes_small_batches_right_on_average() -> None:
    x = np.random.default_rng(0).normal(0, 2, (2000, 2, 20))
    _, var = population([Moments.of(B) for B in x])
    assert abs(var.mean() - 4) < 0.1
    assert abs(x.var(1).mean() - 2) < 0.05, "the biased one is off by half"


@pytest.mark.parametrize("norm", [nn.BatchNorm2d(5), nn.BatchNorm2d(5, eps=0.8), nn.BatchNorm2d(5, affine=False)])
def test_line_11_is_the_affine_that_is_folded(norm: nn.BatchNorm2d) -> None:
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for value in (*norm.parameters(), norm.running_mean):
            value.copy_(torch.randn(5, generator=generator))
        norm.running_var.copy_(torch.rand(5, generator=generator) + 0.1)
    net = nn.Sequential(nn.Conv2d(2, 5, 1), norm).eval()
    graph = import_view(skeleton(converted(net, (2, 3, 3), 20, {}), set()))
    node = next(node for node in graph.nodes if node.op == "BatchNormalization")
    _, affine = affine_of(node)
    eps = float(np.float32(norm.eps))  # as an attribute is stored
    ones, zeros = torch.ones(5), torch.zeros(5)
    gamma, beta = (norm.weight, norm.bias) if norm.affine else (ones, zeros)
    scale, shift = inference(*(v.detach().double() for v in (gamma, beta, norm.running_mean, norm.running_var)), eps)
    np.testing.assert_allclose(affine.scale.ravel(), scale, rtol=1e-14)
    np.testing.assert_allclose(affine.shift.ravel(), shift, rtol=1e-13, atol=1e-15)


def test_a_step_that_ignores_the_mean_moves_the_bias_without_end() -> None:
    u = torch.randn(100, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    biases, losses = exploding_bias(u, u + 1, lr=0.5, steps=200)
    np.testing.assert_allclose(np.diff(biases), np.diff(biases)[0], rtol=1e-9)
    assert biases[-1] > 90
    np.testing.assert_allclose(losses, losses[0], rtol=1e-12)


def test_a_step_that_sees_that_the_mean_depends_on_the_bias_leaves_it_alone() -> None:
    u = torch.randn(100, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    biases, losses = exploding_bias(u, u + 1, lr=0.5, steps=200, through_mean=True)
    assert np.abs(biases).max() < 1e-12
    np.testing.assert_allclose(losses, losses[0], rtol=1e-12)
