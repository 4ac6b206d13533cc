"""Algorithms 1 and 2 of Ioffe & Szegedy (2015) as they are printed, and the example of their section 2.

Names are the paper's: x, mu, sigma2, xhat, y, gamma, beta, and m, the number of values in a mini-batch B.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from ..algebra.moments import Array, Moments


@dataclass(frozen=True)
class MiniBatch:
    """B, the values that are normalized together: the dimensions of a tensor it runs over, and their number m.

    `everywhere` adds up what the processes that share B hold of a sum; m then counts the values of all of them.
    """

    over: tuple[int, ...]
    m: int
    everywhere: Callable[[Tensor], Tensor] = lambda values: values

    @staticmethod
    def per_activation(x: Tensor) -> MiniBatch:
        """For (m, ...): each activation on its own."""
        return MiniBatch((0,), x.shape[0])

    @staticmethod
    def per_feature_map(x: Tensor) -> MiniBatch:
        """For (m, C, p, q): all locations of a map together, so that m is m' = m*p*q. The same for (m, C)."""
        return MiniBatch((0, *range(2, x.ndim)), x.numel() // x.shape[1])

    def sum(self, values: Tensor) -> Tensor:
        return self.everywhere(values.sum(self.over, keepdim=True))

    def aligned(self, parameter: Tensor, x: Tensor) -> Tensor:
        """gamma or beta, one for each B, laid along the dimensions of x."""
        return parameter.reshape([1 if i in self.over else n for i, n in enumerate(x.shape)])


def batch_normalize(x: Tensor, gamma: Tensor, beta: Tensor, eps: float, B: MiniBatch) -> tuple[Tensor, Tensor, Tensor]:
    """Algorithm 1: y = BN_{gamma,beta}(x), and the mu_B and biased sigma2_B that it was normalized by."""
    y, mu, sigma2 = Algorithm1.apply(x, B.aligned(gamma, x), B.aligned(beta, x), eps, B)
    return y, mu.reshape(gamma.shape), sigma2.reshape(gamma.shape)


class Algorithm1(torch.autograd.Function):
    """The transform and its chain rule, line for line."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, gamma: Tensor, beta: Tensor, eps: float, B: MiniBatch) -> tuple[Tensor, ...]:
        mu = B.sum(x) / B.m
        sigma2 = B.sum((x - mu) ** 2) / B.m
        xhat = (x - mu) / torch.sqrt(sigma2 + eps)
        y = gamma * xhat + beta
        ctx.save_for_backward(x, gamma, mu, sigma2)
        ctx.eps, ctx.B = eps, B
        ctx.mark_non_differentiable(mu, sigma2)
        return y, mu, sigma2

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dy: Tensor, *statistics: Tensor) -> tuple[Tensor | None, ...]:
        """dl/dx, dl/dgamma and dl/dbeta from dl/dy; the last two of the values that this process holds."""
        (x, gamma, mu, sigma2), eps, B = ctx.saved_tensors, ctx.eps, ctx.B
        deviation = torch.sqrt(sigma2 + eps)
        xhat = (x - mu) / deviation
        dxhat = dy * gamma
        dsigma2 = B.sum(dxhat * (x - mu)) * (-1 / 2) * (sigma2 + eps) ** (-3 / 2)
        dmu = B.sum(dxhat) * (-1 / deviation) + dsigma2 * B.sum(-2 * (x - mu)) / B.m
        dx = dxhat / deviation + dsigma2 * 2 * (x - mu) / B.m + dmu / B.m
        dgamma = (dy * xhat).sum(B.over, keepdim=True)
        dbeta = dy.sum(B.over, keepdim=True)
        return dx, dgamma, dbeta, None, None


def population(batches: Sequence[Moments]) -> tuple[Array, Array]:
    """Algorithm 2, line 10: E[x] = E_B[mu_B] and Var[x] = m/(m-1) * E_B[sigma2_B], over mini-batches of m values."""
    means = [B.mean for B in batches]
    variances = [B.count / (B.count - 1) * B.biased_variance for B in batches]
    return np.mean(means, axis=0), np.mean(variances, axis=0)


def inference(gamma: Tensor, beta: Tensor, mean: Tensor, var: Tensor, eps: float) -> tuple[Tensor, Tensor]:
    """Algorithm 2, line 11: the scale and shift of y = scale * x + shift, which `bnfold fold` works into weights."""
    scale = gamma / torch.sqrt(var + eps)
    return scale, beta - scale * mean


def exploding_bias(
    u: Tensor, target: Tensor, lr: float, steps: int, through_mean: bool = False
) -> tuple[list[float], list[float]]:
    """Section 2: the bias b and the loss of xhat = x - E[x], x = u + b, before each step of gradient descent.

    The loss is half the mean squared distance of xhat to `target`. Steps that take E[x] for a constant move b
    without end and the loss not at all; steps that see that E[x] depends on b (`through_mean`) leave b alone.
    """
    b = torch.zeros((), dtype=u.dtype, requires_grad=True)
    biases, losses = [], []
    for _ in range(steps):
        x = u + b
        mean = x.mean() if through_mean else x.mean().detach()
        loss = ((x - mean - target) ** 2).mean() / 2
        biases.append(b.item())
        losses.append(loss.item())
        with torch.no_grad():
            b -= lr * torch.autograd.grad(loss, b)[0]
    return biases, losses
