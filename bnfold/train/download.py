"""What torchvision downloads, it keeps in one folder."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from ..errors import EnvironmentProblem, first_line
from ..system.installed import need

CACHE = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "bnfold"


def download(name: str) -> list[Any]:
    """torchvision's data set `name`, train and test part; EnvironmentProblem where it cannot be had."""
    need("torchvision")
    from torchvision import datasets

    try:
        CACHE.mkdir(parents=True, exist_ok=True)
        return [getattr(datasets, name)(CACHE, train=train, download=True) for train in (True, False)]
    except (OSError, RuntimeError) as error:
        reason = first_line(error)
        raise EnvironmentProblem(
            f"{name} cannot be downloaded to {CACHE}: {reason}",
            "Fetch it elsewhere and name its folder with --data-dir.",
        ) from error
