"""From stored pixels to what a network reads; NumPy only, so that a deployer can do the same without PyTorch."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from ..errors import ModelProblem

Pixels = npt.NDArray[np.uint8]
LARGEST_SCALE = 1e9  # a mean, a standard deviation or a scale of pixels, and the inverse of the smallest
AT_ONCE = 1024  # images summed up together, which bounds the memory


@dataclass(frozen=True)
class Normalization:
    """x = (pixel / full_scale - mean) / std per channel; with a threshold, x = 1 where pixel > threshold, else 0."""

    full_scale: float
    mean: tuple[float, ...]
    std: tuple[float, ...]
    threshold: float | None = None

    @staticmethod
    def standardizing(images: Pixels, full_scale: float) -> Normalization:
        """Mean 0 and variance 1 in every channel of `images` (N, C, H, W); a constant channel keeps its scale."""
        count = images.shape[0] * images.shape[2] * images.shape[3]
        total, squares = _sums(images)
        mean = total / count
        std = np.sqrt(squares / count - mean**2)
        std[std == 0] = full_scale
        return Normalization(full_scale, tuple((mean / full_scale).tolist()), tuple((std / full_scale).tolist()))

    @staticmethod
    def binarizing(threshold: float, full_scale: float = 255) -> Normalization:
        """1 above `threshold`, else 0, as section 4.1 of the paper feeds MNIST."""
        return Normalization(full_scale, (0.0,), (1.0,), threshold)

    def __call__(self, images: npt.NDArray[Any]) -> npt.NDArray[np.float32]:
        """Float32 of the same shape (N, C, H, W). Raises ModelProblem for another number of channels."""
        if len(self.mean) not in (1, images.shape[1]):
            raise ModelProblem(
                f"images of {images.shape[1]} channels are to be normalized by {len(self.mean)} means",
                "Are model and data of one kind?",
            )
        if self.threshold is not None:
            return (images > self.threshold).astype(np.float32)
        scale = _per_channel(1 / (self.full_scale * np.array(self.std)))
        shift = _per_channel(np.array(self.mean) / np.array(self.std))
        return images.astype(np.float32) * scale - shift

    def to_json(self) -> str:
        return json.dumps(asdict(self))

    @staticmethod
    def from_stored(stored: dict[str, Any]) -> Normalization:
        """Read parsed `to_json`. Raises ValueError, KeyError, TypeError or OverflowError for anything else."""
        mean, std = (tuple(float(x) for x in stored[name]) for name in ("mean", "std"))
        threshold, full_scale = stored["threshold"], float(stored["full_scale"])
        sizes = [*map(abs, mean), *std, full_scale, 0.0 if threshold is None else abs(float(threshold))]
        if not mean or len(mean) != len(std) or not all(size <= LARGEST_SCALE for size in sizes):
            raise ValueError("no numbers for each channel")
        if not all(size >= 1 / LARGEST_SCALE for size in (*std, full_scale)):
            raise ValueError("a scale must be positive")
        return Normalization(full_scale, mean, std, None if threshold is None else float(threshold))


def _per_channel(values: npt.NDArray[np.float64]) -> npt.NDArray[np.float32]:
    return values.astype(np.float32).reshape(1, -1, 1, 1)


def _sums(images: Pixels) -> tuple[npt.NDArray[Any], npt.NDArray[Any]]:
    """Sum and sum of squares per channel, exact in int64."""
    total = squares = np.zeros(images.shape[1], np.int64)
    for start in range(0, len(images), AT_ONCE):
        chunk = images[start : start + AT_ONCE].astype(np.int64)
        total = total + chunk.sum(axis=(0, 2, 3))
        squares = squares + (chunk**2).sum(axis=(0, 2, 3))
    return total, squares
