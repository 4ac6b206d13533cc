"""CIFAR-10: one .npz file, or the files of https://www.cs.toronto.edu/~kriz/cifar.html through torchvision."""

from __future__ import annotations

import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from ..errors import ModelProblem
from ..system.installed import need
from .sources import Arrays, download, image_label_pairs

CIFAR_CLASSES = 10
KEYS = ("x_train", "y_train", "x_test", "y_test")
CIFAR_HINT = "--data-dir names a folder with cifar-10-batches-py or with one .npz of x_train, y_train, x_test, y_test."


def load_cifar(data_dir: Path | None) -> tuple[Arrays, Arrays]:
    """Train and test (images (N, 3, 32, 32), labels), from `data_dir` or downloaded."""
    if data_dir is None:
        train, test = download("CIFAR10")
        return _from_torchvision(train), _from_torchvision(test)
    files = sorted(data_dir.glob("*.npz"))
    return _from_npz(files[0]) if files else _from_batches(data_dir)


def _from_npz(path: Path) -> tuple[Arrays, Arrays]:
    try:
        with path.open("rb") as stream, np.load(stream, allow_pickle=False) as stored:
            x_train, y_train, x_test, y_test = (stored[key] for key in KEYS)
    except (OSError, EOFError, ValueError, KeyError, zipfile.BadZipFile) as error:
        raise ModelProblem(f"{path} cannot be read: {error}", CIFAR_HINT) from error
    return _arrays(path, x_train, y_train), _arrays(path, x_test, y_test)


def _from_batches(data_dir: Path) -> tuple[Arrays, Arrays]:
    """torchvision compares the checksums of the files before it reads them."""
    need("torchvision", what="CIFAR-10")
    from torchvision.datasets import CIFAR10

    try:
        train, test = (CIFAR10(data_dir, train=train) for train in (True, False))
    except (OSError, RuntimeError) as error:
        raise ModelProblem(f"{data_dir} holds no intact CIFAR-10", CIFAR_HINT) from error
    return _from_torchvision(train), _from_torchvision(test)


def _from_torchvision(part: Any) -> Arrays:
    return np.ascontiguousarray(part.data.transpose(0, 3, 1, 2)), np.array(part.targets, np.int64)


def _arrays(path: Path, images: npt.NDArray[Any], labels: npt.NDArray[Any]) -> Arrays:
    shaped = images.ndim == 4 and images.shape[1:] == (32, 32, 3) and labels.shape == images.shape[:1]
    if not shaped or images.dtype != np.uint8 or labels.dtype.kind not in "iu":
        raise ModelProblem(f"{path} holds no uint8 images (N, 32, 32, 3) with integer labels (N,)", CIFAR_HINT)
    return image_label_pairs(images.transpose(0, 3, 1, 2), labels, CIFAR_CLASSES, path)
