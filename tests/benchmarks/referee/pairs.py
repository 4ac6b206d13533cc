"""The pairs that are judged: which two models, and whether they compute the same."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from itertools import product
from pathlib import Path
from typing import Any, NamedTuple

import onnx

from tests.benchmarks import mutations

from . import folds, nets, truth
from .edits import Change, Edit
from .faults import NUMBERS
from .interface import BODIES, EXTERNAL, INTERFACE, Bytes, external
from .rare import RARE
from .real import IN_FOLDS, REAL
from .right import RIGHT

FAULT, SAME = "fault", "right"
FAULTS = (*NUMBERS, *RARE, *BODIES, *INTERFACE, *REAL)
Judged = tuple[Any, Any, str, str]  # two models; whether it is a fault or right; how that is known


class Pair(NamedTuple):
    """Two models, made when they are judged, in a folder of their own."""

    kind: str
    name: str
    made: Callable[[Path], Judged]
    options: Mapping[str, Any] = {}


def edits() -> Iterator[Pair]:
    """What is planted into small networks, after their faultless folds."""
    changes = [(edit, FAULT) for edit in FAULTS] + [(edit, SAME) for edit in RIGHT]
    for name in dict.fromkeys(edit.net for edit, _ in changes):
        yield Pair("faultless folds", name, lambda folder, name=name: (*nets.pair(name), SAME, "by bnfold"))
    for edit, known in changes:
        yield Pair(edit.kind, f"{edit.name} ({edit.net})", partial(_edited, edit, known))
    for name, change in EXTERNAL.items():
        yield Pair("external data", name, partial(_external, change))


def _edited(edit: Edit, known: str, folder: Path) -> Judged:
    original, right = nets.pair(edit.net)
    _, other = nets.pair(edit.net)
    edit.change(other)
    if isinstance(edit.shows, str):
        return original, other, known, edit.shows
    feeds = truth.normal(original) if edit.shows is None else edit.shows
    seen = truth.shows(original, right, other, feeds)
    if seen != (known == FAULT):
        raise AssertionError(f"{edit.kind}, {edit.name}: outputs {'differ' if seen else 'do not differ'}")
    return original, other, known, "outputs differ" if seen else "outputs are the same"


def _external(change: Bytes, folder: Path) -> Judged:
    original, right = nets.pair("plain")
    one, other = external(change, original, right, folder)
    if not truth.shows(original, right, other, truth.normal(original)):
        raise AssertionError("outputs do not differ")
    return one, other, FAULT, "outputs differ"


def of_mutations(names: Sequence[str]) -> Iterator[Pair]:
    """The faults of `tests.benchmarks.mutations`, whose kinds are known to differ."""
    for name in names:
        for site, kind, original, wrong in mutations.faults(name):
            models = (original, wrong, FAULT, "by its kind")
            yield Pair(f"weights: {kind}", f"{name} {site}", lambda folder, m=models: m, {"levels": ["off"]})


def of_tools(python: str = sys.executable) -> Iterator[Pair]:
    """What other tools make, with the versions that the Python of an environment has, and torch."""
    for tool in folds.TOOLS:
        for file in folds.FILES:
            yield Pair(f"folds by {tool}", file, partial(_fold, partial(folds.folded, file, tool, python=python)))
    for name in folds.NETS:
        yield Pair("folds by torch", name, partial(_fold, partial(folds.exported, name)))


def in_folds(python: str = sys.executable) -> Iterator[Pair]:
    """Faults planted into what other tools made."""
    for tool, file in product(folds.TOOLS, folds.FILES[:2]):
        make = partial(folds.folded, file, tool, python=python)
        for name, change in IN_FOLDS.items():
            yield Pair(f"faults in folds by {tool}", f"{name} ({file})", partial(_in_fold, make, change))


def _in_fold(make: Callable[..., tuple[Path, Path]], change: Change, folder: Path) -> Judged:
    source, target = make(folder=folder)
    original, right, other = onnx.load(source), onnx.load(target), onnx.load(target)
    change(other)
    if not truth.shows(original, right, other, truth.normal(original)):
        raise AssertionError("outputs do not differ")
    return source, other, FAULT, "outputs differ"


def _fold(make: Callable[..., tuple[Path, Path]], folder: Path) -> Judged:
    original, other = make(folder=folder)
    why = truth.wrong(original, other)
    return original, other, FAULT if why else SAME, why or "right on four inputs"
