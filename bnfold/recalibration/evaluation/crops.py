"""Crops of an image, as networks for ImageNet are tested: 1, 5, 10 or the 144 of GoogLeNet (Szegedy et al. 2015).

    1    the centre
    5    the four corners and the centre
    10   these and their mirror images
    144  4 scales x left, middle, right square (top, middle, bottom of an upright image)
         x 4 corners, centre, and the whole square brought to size x mirror images

A network of 224x224 sees images whose shorter side is 256; for the 144 it is 256, 288, 320 and 352. Other networks see
the same proportions. An image that has just the size of the network is its own centre crop.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from ...errors import UsageProblem
from ..feeds.card import Array
from ..feeds.pictures import covering, middle, resized, shorter_to

CROP_COUNTS = (1, 5, 10, 144)
SIDE, SCALES = 224, (256, 288, 320, 352)


def require_possible(number: int, height: int, width: int) -> None:
    """Raises UsageProblem for a number of crops that is not known, or that this size of input does not allow."""
    if number not in CROP_COUNTS:
        raise UsageProblem(f"--crops is {number}", f"Choose one of: {', '.join(map(str, CROP_COUNTS))}.")
    if number == 144 and height != width:
        raise UsageProblem(
            f"144 crops are cut from squares, and the model takes {height}x{width}", "Use --crops 10, 5 or 1."
        )
    if number > 1 and scaled_side(min(height, width), SCALES[0]) == min(height, width):
        raise UsageProblem(f"images of {height}x{width} are too small for {number} crops", "Use --crops 1.")


def preparation(number: int, height: int, width: int) -> str:
    """What is done to an image before crops are cut: a network that never saw the like may lose by it."""
    side = min(height, width)
    sides = ", ".join(str(scaled_side(side, scale)) for scale in (SCALES if number == 144 else SCALES[:1]))
    return f"the shorter side of every image is brought to {sides} before crops of {height}x{width} are cut"


def scaled_side(size: int, side: int) -> int:
    """The shorter side of the image that a network of this size sees where one of 224 sees `side`."""
    return round(size * side / SIDE)


def crops(image: Array, number: int, height: int, width: int) -> Array:
    """(number, C, height, width), of an image (C, H, W)."""
    if number == 1 and image.shape[1:] == (height, width):
        return image[None]
    if number == 144:
        return np.stack([*_of_all_scales(image, height)])
    large = shorter_to(image, scaled_side(min(height, width), SCALES[0]))
    if large.shape[1] < height or large.shape[2] < width:
        large = covering(large, height, width)
    if number == 1:
        return middle(large, height, width)[None]
    cut = [*_five(large, height, width)]
    return np.stack(cut + [crop[:, :, ::-1] for crop in cut] if number == 10 else cut)


def _five(image: Array, height: int, width: int) -> Iterator[Array]:
    bottom, right = image.shape[1] - height, image.shape[2] - width
    for top, left in ((0, 0), (0, right), (bottom, 0), (bottom, right)):
        yield image[:, top : top + height, left : left + width]
    yield middle(image, height, width)


def _of_all_scales(image: Array, size: int) -> Iterator[Array]:
    for side in SCALES:
        for square in _squares(shorter_to(image, scaled_side(size, side))):
            for crop in (*_five(square, size, size), resized(square, size, size)):
                yield crop
                yield crop[:, :, ::-1]


def _squares(image: Array) -> Iterator[Array]:
    """The three squares along the longer side."""
    height, width = image.shape[1:]
    size, longer = min(height, width), max(height, width)
    for at in (0, (longer - size) // 2, longer - size):
        yield image[:, :, at : at + size] if width > height else image[:, at : at + size]
