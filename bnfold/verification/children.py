"""What a verification lets child processes do: look at the structure of two models, and compare their numbers."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

from ..process import launcher
from ..process.jobs import job
from ..system.installed import runtime


def _tiers() -> tuple[Any, ...]:
    """What only the children import: how they read both models, the structure tier, the numeric tier."""
    from .comparison import compare
    from .structure import check
    from .trial import read_models

    runtime()
    return read_models, check, compare


@partial(job, prepare=_tiers)
def look_at_both(request: dict[str, Any]) -> dict[str, Any]:
    """Structure and, unless the models are identical, numbers, in one child that reads the models once."""
    read_models, check, compare = _tiers()
    models = read_models(request)
    structure = check(request, models)
    return {"structure": structure, "numbers": None if structure["identical"] else compare(request, models)}


@job
def check_structure(request: dict[str, Any]) -> dict[str, Any]:
    """`structure.check`."""
    read_models, check, _ = _tiers()
    return dict(check(request, read_models(request)))


@job
def compare_numbers(request: dict[str, Any]) -> dict[str, Any]:
    """`comparison.compare`."""
    read_models, _, compare = _tiers()
    return dict(compare(request, read_models(request)))


@contextmanager
def prepared_child() -> Iterator[None]:
    """A block in which the child of a `verify` on the CPU gets ready."""
    with launcher.prepared(look_at_both):
        yield
