"""A folder of images, with a sub-folder for each class or without: read when they are needed."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from ...errors import ModelProblem, first_line
from ...model import datafiles
from ...system.installed import need
from ...train.folder import SUFFIXES

FloatPixels = npt.NDArray[np.float32]  # (C, H, W), 0 to 255


def files(folder: Path) -> list[Path]:
    """Every image below a folder, in the order of the names. Raises ModelProblem for none."""
    if not os.path.isdir(folder):
        raise ModelProblem(f"no data at {folder}", "Give a .npz file, or a folder of images.")
    paths = sorted(p for p in folder.rglob("*") if p.suffix.lower() in SUFFIXES and os.path.isfile(p))
    if not paths:
        raise ModelProblem(f"{folder} has no images", f"Files that count end in {', '.join(sorted(SUFFIXES))}.")
    return paths


def read_picture(path: Path, channels: int) -> FloatPixels:
    """One image as it is stored, grey for 1 channel, else RGB. Raises ModelProblem, naming the file."""
    need("PIL", what="an image")
    from PIL import Image, UnidentifiedImageError

    if channels not in (1, 3):
        raise ModelProblem(
            f"the model takes images of {channels} channels, {path} has 1 or 3", "Give the data as .npz."
        )
    try:
        with datafiles.open_regular(path) as stream, Image.open(stream) as image:
            values = np.asarray(image.convert("L" if channels == 1 else "RGB"), np.float32)
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as why:
        said = "it is of no known format" if isinstance(why, UnidentifiedImageError) else first_line(why)
        raise ModelProblem(f"{path} is not a readable image: {said}", "Repair or remove it.") from why
    return np.atleast_3d(values).transpose(2, 0, 1)


def resized(image: npt.NDArray[Any], height: int, width: int) -> FloatPixels:
    """Bilinear, with the weights of an area where it becomes smaller, in float32: pixels or what they became."""
    if image.shape[1:] == (height, width):
        return np.ascontiguousarray(image, np.float32)
    need("PIL", what="an image")
    from PIL import Image

    planes = [Image.fromarray(np.ascontiguousarray(plane, np.float32)) for plane in image]
    return np.stack([np.asarray(p.resize((width, height), Image.Resampling.BILINEAR)) for p in planes])


def shorter_to(image: npt.NDArray[Any], size: int) -> FloatPixels:
    """The image with its shorter side at `size`, its proportions kept."""
    height, width = image.shape[1:]
    least = min(height, width)
    return resized(image, max(size, round(height * size / least)), max(size, round(width * size / least)))


def covering(image: npt.NDArray[Any], height: int, width: int) -> FloatPixels:
    """The image at the smallest size, in its proportions, that covers a crop of this size."""
    factor = max(height / image.shape[1], width / image.shape[2])
    return resized(image, max(height, round(image.shape[1] * factor)), max(width, round(image.shape[2] * factor)))


def middle(image: npt.NDArray[Any], height: int, width: int) -> npt.NDArray[Any]:
    """The centre of an image, which is at least so large."""
    top, left = (image.shape[1] - height) // 2, (image.shape[2] - width) // 2
    return image[:, top : top + height, left : left + width]
