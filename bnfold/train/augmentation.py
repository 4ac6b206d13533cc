"""Augmentation: changed copies of training images.

The change of an image is a function of seed, epoch and its index alone, so that a run resumes exactly, and statistics
do not depend on batches.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache

import numpy as np
import numpy.typing as npt

from .pixels import Pixels

Draws = npt.NDArray[np.float64]
DRAWS_PER_IMAGE = 6  # for each image: rows, columns, mirrored, brightness, contrast, saturation
STREAM = 1  # of random numbers; those that order the images are another one
SHIFT = 8  # an image is moved by up to a SHIFTth of its sides
STRENGTH = 0.4  # photometric factors are from 1 - STRENGTH to 1 + STRENGTH
LUMINANCE = np.array([0.299, 0.587, 0.114])  # ITU-R BT.601


def augmented(images: Pixels, kind: str, draws: Draws) -> Pixels:
    """Images (N, C, H, W), each changed as its row of `draws` (N, DRAWS), uniform in [0, 1), says."""
    for change in AUGMENTATIONS[kind]:
        images = change(images, draws)
    return images


@lru_cache(maxsize=2)
def draws(seed: int, epoch: int, count: int) -> Draws:
    """Random numbers (count, DRAWS): a row for each image."""
    return np.random.default_rng([seed, epoch, STREAM]).random((count, DRAWS_PER_IMAGE))


def crop_flip(images: Pixels, draws: Draws) -> Pixels:
    """Moved by up to an eighth of its sides, filled with black, and mirrored half of the time."""
    n, _, height, width = images.shape
    up, left = (-(-side // SHIFT) for side in (height, width))
    padded = np.pad(images, ((0, 0), (0, 0), (up, up), (left, left)))
    rows = np.floor(draws[:, :1] * (2 * up + 1)).astype(int) + np.arange(height)
    columns = np.floor(draws[:, 1:2] * (2 * left + 1)).astype(int) + np.arange(width)
    columns = np.where(draws[:, 2:3] < 0.5, columns[:, ::-1], columns)
    moved = padded.transpose(0, 2, 3, 1)[np.arange(n)[:, None, None], rows[:, :, None], columns[:, None, :]]
    return np.ascontiguousarray(moved.transpose(0, 3, 1, 2))


def distort(images: Pixels, draws: Draws) -> Pixels:
    """Brightness, contrast and, in colour images, saturation, each changed by up to STRENGTH."""
    brightness, contrast, saturation = (1 + STRENGTH * (2 * draws[:, 3:6] - 1)).T.reshape(3, -1, 1, 1, 1)
    x = images * brightness
    x = contrast * x + (1 - contrast) * x.mean(axis=(1, 2, 3), keepdims=True)
    if images.shape[1] == len(LUMINANCE):
        x = saturation * x + (1 - saturation) * np.tensordot(x, LUMINANCE, axes=(1, 0))[:, None]
    changed: Pixels = np.clip(np.rint(x), 0, 255).astype(np.uint8)
    return changed


AUGMENTATIONS: dict[str, tuple[Callable[[Pixels, Draws], Pixels], ...]] = {
    "none": (),
    "crop-flip": (crop_flip,),
    "distort": (crop_flip, distort),
}
