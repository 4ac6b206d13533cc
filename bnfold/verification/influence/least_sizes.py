"""The least sizes that a graph allows, 0 and 1: two models may differ at these that agree at larger ones.

An axis of one element is repeated as often as that of what it is added to or multiplied with; of none, a Reshape cannot
say how long another axis is. Inference shows where shapes differ, and only there both models run.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import onnx

from ...process.child import stage
from ...runtime import providers, sessions
from ...runtime.dimensions import dynamic
from ...runtime.inputs import CannotFeed, feeds
from ...runtime.providers import Way
from ...runtime.sessions import CannotRun
from ..float64.windows import Array
from ..level_results import Level
from ..proof.examples import examples, input_sizes, is_possible, with_sizes
from ..trial import Trial, trial_session

MOST_DIMENSIONS = 8  # of the inputs, one after the other


def suspects(
    original: onnx.ModelProto, folded: onnx.ModelProto, values: Mapping[str, Array]
) -> Iterator[tuple[str, int]]:
    """Dimensions and sizes, the others as in `values`, that only the original allows, or for which shapes differ."""
    sizes = input_sizes(original, values)
    for name in [name for name in dynamic(original.graph) if name in sizes][:MOST_DIMENSIONS]:
        for size in {1, 0} - {sizes[name]}:
            fed = with_sizes(original, values, {name: size - sizes[name]})
            if is_possible(original, fed) and _differ(original, folded, fed):
                yield name, size


def _differ(original: onnx.ModelProto, folded: onnx.ModelProto, fed: Mapping[str, Array]) -> bool:
    if not is_possible(folded, fed):
        return True
    ours, theirs = examples(original, fed), examples(folded, fed)
    names = [output.name for output in original.graph.output if output.name in ours and output.name in theirs]
    return any(ours[name].shape != theirs[name].shape for name in names)


def at_least_sizes(trial: Trial) -> Iterator[Level]:
    """A report for the first of the least sizes at which only the original runs, or makes outputs of other shapes."""
    stage("onnxruntime, running both models with the least sizes")
    case = trial.planned[0]
    if case.path or case.sizes:
        return
    for name, size in suspects(trial.original, trial.folded, feeds(trial.original.graph, case, trial.sizes)):
        if why := _difference(trial, feeds(trial.original.graph, case, {**trial.sizes, name: size})):
            yield Level("off", why=f"{why} where {name} is {size}", broken=True)
            return


def _difference(trial: Trial, fed: Mapping[str, Array]) -> str:
    """How the folded model differs from the original in the shapes of its outputs; nothing where it does not."""
    try:
        ours = _run(trial, trial.original, fed)
    except (CannotRun, CannotFeed):
        return ""
    try:
        theirs = _run(trial, trial.folded, fed)
    except CannotRun as why:
        return f"the folded model does not run ({why})"
    pairs = zip(trial.outputs, ours, theirs, strict=True)
    shapes = ((name, np.shape(a), np.shape(b)) for name, a, b in pairs if isinstance(a, np.ndarray))
    return next((f"the shape of output {n!r} changes from {[*a]} to {[*b]}" for n, a, b in shapes if a != b), "")


def _run(trial: Trial, model: onnx.ModelProto, fed: Mapping[str, Array]) -> list[Any]:
    return list(sessions.outputs(trial_session(trial, model, "off", providers.chain(Way())), trial.outputs, fed))
