"""What a verification lets child processes do: look at the structure of two models, and compare their numbers."""

from __future__ import annotations

from contextlib import AbstractContextManager
from functools import partial
from typing import Any

from ..process import launcher
from ..process.jobs import job
from ..system.installed import runtime


def _tiers() -> tuple[Any, ...]:
    """What only the children import: how they read both models, the structure tier, the numeric tier."""
    from .comparison import numbers_report
    from .structure import structure_report
    from .trial import read_models

    runtime()
    return read_models, structure_report, numbers_report


@partial(job, prepare=_tiers)
def compare_both(request: dict[str, Any]) -> dict[str, Any]:
    """Structure and, unless the models are identical, numbers, in one child that reads the models once."""
    read_models, structure_report, numbers_report = _tiers()
    models = read_models(request)
    structure = structure_report(request, models)
    return {"structure": structure, "numbers": None if structure["identical"] else numbers_report(request, models)}


@job
def compare_structure(request: dict[str, Any]) -> dict[str, Any]:
    """`structure_report`."""
    read_models, structure_report, _ = _tiers()
    return dict(structure_report(request, read_models(request)))


@job
def compare_numbers(request: dict[str, Any]) -> dict[str, Any]:
    """`numbers_report`."""
    read_models, _, numbers_report = _tiers()
    return dict(numbers_report(request, read_models(request)))


def prepared_child() -> AbstractContextManager[None]:
    """A block in which the child of a `verify` on the CPU gets ready."""
    return launcher.prepared(compare_both)
