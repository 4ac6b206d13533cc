"""Where tests find real data: `BNFOLD_DATA`, or `../shared/data` next to the project."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

DATA = Path(os.environ.get("BNFOLD_DATA", Path(__file__).resolve().parents[2] / "shared" / "data"))


def data_path(*parts: str) -> Path:
    """A file or folder of the test data; the test is skipped, saying so, where it is absent."""
    path = DATA.joinpath(*parts)
    if not path.exists():
        pytest.skip(f"test data is not here: {path} (set BNFOLD_DATA)")
    return path
