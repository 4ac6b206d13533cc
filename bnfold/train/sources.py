"""What the readers of data sets share: downloads by torchvision, and images that are paired with their labels."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from ..errors import EnvironmentProblem, ModelProblem, first_line
from ..system.installed import need

CACHE = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "bnfold"


def download(name: str) -> list[Any]:
    """torchvision's data set `name`, train and test part; EnvironmentProblem where it cannot be had."""
    need("torchvision", what=f"the download of {name}")
    from torchvision import datasets

    try:
        CACHE.mkdir(parents=True, exist_ok=True)
        return [getattr(datasets, name)(CACHE, train=train, download=True) for train in (True, False)]
    except (OSError, RuntimeError) as error:
        reason = first_line(error).rstrip(":")
        hint = "Fetch it elsewhere and name its folder with --data-dir."
        raise EnvironmentProblem(f"{name} cannot be downloaded to {CACHE}: {reason}", hint) from error


Arrays = tuple[npt.NDArray[np.uint8], npt.NDArray[np.int64]]


def image_label_pairs(images: npt.NDArray[np.uint8], labels: npt.NDArray[Any], classes: int, source: Path) -> Arrays:
    """Images (N, C, H, W) and labels (N,), N above 0, each label from 0 to classes - 1; else ModelProblem."""
    if len(images) != len(labels) or len(images) == 0:
        raise ModelProblem(
            f"{source} has {len(labels)} labels for {len(images)} images", "There must be one each, and at least one."
        )
    if labels.min() < 0 or labels.max() >= classes:
        raise ModelProblem(
            f"{source} has labels from {labels.min()} to {labels.max()}", f"They must be 0 to {classes - 1}."
        )
    return np.ascontiguousarray(images), labels.astype(np.int64)
