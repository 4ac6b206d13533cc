"""A folder of images: PATH/CLASS/*.png, or PATH/train/CLASS/*.png and PATH/test/CLASS/*.png."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from ..display.display import counted
from ..errors import ModelProblem
from ..system.installed import need
from .sources import Arrays

SUFFIXES = {".png", ".jpg", ".jpeg", ".bmp", ".gif", ".webp", ".ppm", ".pgm", ".tif", ".tiff"}
GREY_MODES = {"1", "L"}
DEEP = ("I", "F")
MIXED_SIZE = (64, 64)  # width and height that images of different sizes are brought to


def load_folder(path: Path) -> tuple[tuple[str, ...], list[Arrays]]:
    """Class names, and one (images (N, C, H, W), labels) or, where PATH has `train` and `test`, two of them.

    Images of one size keep it, others are resized to 64x64; C is 1 if all of them are grey, else 3.
    """
    need("PIL", what="an image")
    if not os.path.isdir(path):
        raise ModelProblem(f"no folder {path}", "Give folder:PATH, with one sub-folder of images for each class.")
    parts = (
        [path / "train", path / "test"] if os.path.isdir(path / "train") and os.path.isdir(path / "test") else [path]
    )
    classes = _classes(parts[0])
    if _classes(parts[-1]) != classes:
        raise ModelProblem(f"{parts[0]} and {parts[-1]} have different classes", "Give both the same sub-folders.")
    listed = [_listing(part, classes) for part in parts]
    size, mode = _common_format([file for part in listed for file, _ in part])
    return classes, [_arrays(part, size, mode) for part in listed]


def _classes(path: Path) -> tuple[str, ...]:
    names = tuple(sorted(p.name for p in path.iterdir() if os.path.isdir(p) and not p.name.startswith(".")))
    if len(names) < 2:
        raise ModelProblem(
            f"{path} has {counted(len(names), 'folder')} of classes", "At least 2 are needed: PATH/CLASS/image.png."
        )
    return names


def _listing(path: Path, classes: tuple[str, ...]) -> list[tuple[Path, int]]:
    """Every image file below the class folders, in the order of its name, with its class."""
    listed = [(p, i) for i, name in enumerate(classes) for p in sorted((path / name).rglob("*")) if _is_image(p)]
    if not listed:
        raise ModelProblem(f"{path} has no images", f"Files that count end in {', '.join(sorted(SUFFIXES))}.")
    return listed


def _is_image(path: Path) -> bool:
    return path.suffix.lower() in SUFFIXES and os.path.isfile(path)


def _common_format(files: list[Path]) -> tuple[tuple[int, int], str]:
    """The (width, height) and the mode that all images are brought to."""
    formats = [_read_image(file, lambda image: (image.size, image.mode)) for file in files]
    sizes, modes = {size for size, _ in formats}, {mode for _, mode in formats}
    if any(mode.startswith(DEEP) for mode in modes):
        raise ModelProblem("some of the images have more than 8 bits per channel", "Convert them to 8 bits.")
    return sizes.pop() if len(sizes) == 1 else MIXED_SIZE, "L" if modes <= GREY_MODES else "RGB"


def _arrays(listed: list[tuple[Path, int]], size: tuple[int, int], mode: str) -> Arrays:
    images = np.stack([_read_image(file, lambda image: _pixels(image, size, mode)) for file, _ in listed])
    return images, np.array([label for _, label in listed], np.int64)


def _pixels(image: Any, size: tuple[int, int], mode: str) -> npt.NDArray[np.uint8]:
    from PIL.Image import Resampling

    image = image.convert(mode)
    image = image if image.size == size else image.resize(size, Resampling.BILINEAR)
    return np.atleast_3d(np.asarray(image, np.uint8)).transpose(2, 0, 1)


def _read_image(file: Path, read: Any) -> Any:
    from PIL import Image

    try:
        with Image.open(file) as image:
            return read(image)
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise ModelProblem(f"{file} is not a readable image: {error}", "Repair or remove it.") from error
