"""Samples, as tests look at them."""

from __future__ import annotations

import runpy
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from types import ModuleType

import pytest


def folder(name: str) -> Path:
    return Path(__file__).resolve().parents[1] / "samples" / name


def run_quickly(script: Path, out: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The script's own `--quick --out`, in this process."""
    monkeypatch.setattr(sys, "argv", [str(script), "--quick", "--out", str(out)])
    runpy.run_path(str(script), run_name="__main__")


@contextmanager
def module(path: Path) -> Iterator[ModuleType]:
    """The script as a module; nothing stays, not even its bytecode."""
    spec = spec_from_file_location(f"sample_{path.stem}", path)
    loaded = module_from_spec(spec)
    before, sys.dont_write_bytecode = sys.dont_write_bytecode, True
    sys.modules[spec.name] = loaded
    try:
        spec.loader.exec_module(loaded)
        yield loaded
    finally:
        sys.dont_write_bytecode = before
        del sys.modules[spec.name]
