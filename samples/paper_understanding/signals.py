"""Activations, gradients and single steps of networks that have not been trained."""

from collections.abc import Iterable, Sequence
from functools import reduce
from math import isfinite
from typing import Any

import numpy as np
import torch
from analysis import activation_moments, gradient, loss_along_gradient, moved, weight_gradient
from networks import INITIAL, KINDS, network
from torch import Tensor, nn

from bnfold.train.data import Dataset

Row = dict[str, Any]
STEPS = tuple(10 ** (e / 2) for e in range(-10, 4))  # learning rates of a single step: 1e-5 to about 30
DIVERGED = 1e3  # new loss over old loss, as the paper counts
FRACTIONS = (0, 0.25, 0.5, 0.75, 1)  # of a step
BINS = np.linspace(-20, 20, 81)  # standard deviations
MATRICES, SIDE = (1, 2, 4, 8), 100


class Signals:
    """The measurements, all with the same first `count` training images and the same random weights."""

    def __init__(self, data: Dataset, count: int, depth: int, seed: int) -> None:
        self.shape, self.classes, self.depth, self.seed = data.shape, len(data.classes), depth, seed
        self.images = torch.from_numpy(data.normalization(data.train.images[:count]))
        self.labels = torch.from_numpy(data.train.labels[:count])

    def network(self, kind: str, depth: int | None = None, initial: str = "glorot") -> nn.Module:
        torch.manual_seed(self.seed)
        return network(kind, self.shape, self.classes, depth or self.depth, initial=initial)

    def moments(self) -> list[Row]:
        """By depth, at the start."""
        return [{"kind": kind} | self._moments(self.network(kind)) for kind in KINDS]

    def gradients(self) -> list[Row]:
        """Of three layers, as the networks start, and of the middle one if they start otherwise."""
        layers = [round(self.depth * share) for share in (1 / 6, 1 / 2, 5 / 6)]
        starts = [("glorot", layer) for layer in layers] + [(i, layers[1]) for i in INITIAL if i != "glorot"]
        return [self._gradient(kind, initial, layer) for initial, layer in starts for kind in KINDS]

    def columns(self) -> dict[str, float]:
        """The largest share of one class in the gradient of the logits: sum_b |dl/dz|."""
        return {kind: self._column(self.network(kind)) for kind in KINDS}

    def losses(self, depths: Iterable[int]) -> list[Row]:
        """New loss over old loss after one step of plain gradient descent, at the start."""
        return [self.along(self.network(kind, depth), kind, depth) for depth in depths for kind in KINDS]

    def along(self, model: nn.Module, kind: str, depth: int) -> Row:
        """The same, of any network; null where the new loss is not finite."""
        ratios = loss_along_gradient(model, self.images, self.labels, STEPS)
        edge = next((step for step, ratio in zip(STEPS, ratios, strict=True) if not ratio <= DIVERGED), None)
        return {"kind": kind, "depth": depth, "ratios": numbers(ratios), "diverges_at": edge}

    def update(self, rate: float) -> list[Row]:
        """By depth, while one step of this rate is taken."""
        return [row for kind in KINDS for row in self._update(kind, rate)]

    def _moments(self, model: nn.Module) -> Row:
        """Of what the convolutions give: variance and size of the mean, averaged over channels."""
        moments = activation_moments(model, self.images, (nn.Conv2d,)).values()
        means, variances = zip(*((np.abs(m.mean).mean(), m.biased_variance.mean()) for m in moments), strict=True)
        return {"mean": numbers(means), "variance": numbers(variances)}

    def _gradient(self, kind: str, initial: str, layer: int) -> Row:
        model = self.network(kind, initial=initial)
        names = [name for name, part in model.named_modules() if isinstance(part, nn.Conv2d)]
        of_weights = weight_gradient(model, names[layer - 1], self.images, self.labels)
        total = of_weights.total.abs().sum()
        signs = {"by_example": total / of_weights.by_example.sum(), "by_location": total / of_weights.by_location.sum()}
        row = {"kind": kind, "initial": initial, "layer": layer} | tails(of_weights.total)
        return row | dict(zip(signs, numbers(signs.values()), strict=True))

    def _column(self, model: nn.Module) -> float:
        with torch.no_grad():
            dlogits = model(self.images).softmax(1) - nn.functional.one_hot(self.labels, self.classes)
        columns = dlogits.abs().sum(0)
        return round(float(columns.max() / columns.sum()), 4)

    def _update(self, kind: str, rate: float) -> list[Row]:
        model = self.network(kind)
        along = gradient(model, self.images, self.labels)
        places = ((f, moved(model, along, f * rate)) for f in FRACTIONS)
        return [{"kind": kind, "fraction": f, "rate": rate} | self._moments(at) for f, at in places]


def tails(gradient: Tensor) -> Row:
    """Its size, and how heavy its tails are (a Gaussian has kurtosis 3)."""
    values = gradient.double().numpy().ravel()
    away = (values - values.mean()) / values.std()
    size = np.abs(values).mean()
    row = {"size": size, "kurtosis": (away**4).mean(), "largest": np.abs(values).max() / size}
    counts = np.histogram(away, BINS)[0].tolist()
    return dict(zip(row, numbers(row.values()), strict=True)) | {"values": values.size, "counts": counts}


def products(seed: int) -> list[Row]:
    """Singular values of products of M random Gaussian matrices, over the largest."""
    random = np.random.default_rng(seed)
    drawn = [random.normal(size=(SIDE, SIDE)) / SIDE**0.5 for _ in range(max(MATRICES))]
    spectra = ((m, np.linalg.svd(reduce(np.matmul, drawn[:m]), compute_uv=False)) for m in MATRICES)
    return [{"matrices": m, "values": numbers(values / values[0])} for m, values in spectra]


def numbers(values: Iterable[Any]) -> Sequence[float | None]:
    """Four digits each; None for what is not finite, which JSON cannot write."""
    return [float(f"{float(v):.4g}") if isfinite(v) else None for v in values]
