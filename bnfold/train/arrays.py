"""What a reader of files hands on: images and labels that fit each other."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from ..errors import ModelProblem

Arrays = tuple[npt.NDArray[np.uint8], npt.NDArray[np.int64]]


def paired(images: npt.NDArray[np.uint8], labels: npt.NDArray[Any], classes: int, source: Path) -> Arrays:
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
