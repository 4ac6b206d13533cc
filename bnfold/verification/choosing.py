"""Which inputs are run, with which sizes, and which tensors of the two models are compared."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import onnx

from ..errors import ModelProblem
from ..process.child import stage
from ..runtime import providers, sessions
from ..runtime.dimensions import Sizes, candidates
from ..runtime.input_files import sizes_of
from ..runtime.inputs import CannotFeed, Case, feeds, shapes
from ..runtime.protos import produced
from ..runtime.providers import Chain, Way
from ..runtime.sessions import CannotRun
from .float64.windows import Array
from .quantized.steps import is_narrow, steps
from .regions import MOVES, shared
from .trial import WORK, Trial, trial_session, truth

ELEMENTS = {"fast": 12_000_000, "full": 200_000_000}  # of tensors between the sites that are compared, per input
ALONE = 4_000  # elements that take as long to compare as it takes to begin with a tensor


def find_sizes(trial: Trial) -> bool:
    """Find sizes for the dynamic dimensions with which the original runs, and choose the tensors to compare.

    On the CPU, whose sessions load fast, or else on the provider. False where it runs on neither.
    """
    stage("onnxruntime, running the original")
    own = providers.without_tensorrt(trial.way)
    tries = [("off", providers.chain(Way())), *[("off", own)] * trial.way.gpu, ("default", own)]
    reasons: list[Exception] = []
    for level, chain in tries:
        ran = _sized_on(trial, level, chain)
        if not isinstance(ran, Exception):
            trial.on_cpu = not reasons
            _choose(trial, *ran)
            return True
        reasons.append(ran)
    why = reasons[trial.way.gpu]  # of the provider itself
    trial.blocked.append(f"onnxruntime cannot run the original: {why}{folded_alone(trial)}")
    return False


def _sized_on(trial: Trial, level: str, chain: Chain) -> tuple[Case, dict[str, Array]] | Exception:
    """The first input that the original runs on, and its values; sets `trial.sizes`. Or why it runs on none."""
    try:
        running = trial_session(trial, trial.original, level, chain)
    except CannotRun as why:
        return why
    reason: Exception | None = None
    for case, sizes in cases_to_try(trial):
        try:
            values = feeds(trial.original.graph, case, sizes)
            sessions.outputs(running, trial.outputs, values)
        except (CannotRun, CannotFeed) as why:
            require_drawn(case, why)
            reason = reason or why
            continue
        trial.sizes = sizes
        trial.planned += _of_odd_sizes(trial, running)
        return case, values
    return reason or CannotRun("there is no size to try")


def _of_odd_sizes(trial: Trial, running: Any) -> list[Case]:
    """One more input where sizes may vary, if the original runs on it: odd sizes show padding that even ones do not."""
    if "*" not in trial.sizes or any(case.path or case.sizes for case in trial.planned):
        return []
    case = Case("normal", trial.seed + 1, 1, larger=1)
    try:
        sessions.outputs(running, trial.outputs, feeds(trial.original.graph, case, trial.sizes))
    except (CannotRun, CannotFeed):
        return []
    return [case]


def folded_alone(trial: Trial) -> str:
    """Words where only the folded model runs, as with BatchNormalization over 65536 rows on CUDA; "" otherwise."""
    case, sizes = next(cases_to_try(trial))
    try:
        running = trial_session(trial, trial.folded, "off", providers.without_tensorrt(trial.way))
        sessions.outputs(running, trial.outputs, feeds(trial.original.graph, case, trial.sizes or sizes))
    except (CannotRun, CannotFeed):
        return ""
    return "; it runs the folded model"


def require_drawn(case: Case, why: Exception) -> None:
    """Raise ModelProblem if the model does not run on data from a file; random inputs may be replaced by others."""
    if case.path:
        raise ModelProblem(f"the original does not run on {case}: {why}", "Is it data for this model?") from why


def cases_to_try(trial: Trial) -> Iterator[tuple[Case, Sizes]]:
    """The first planned case with one set of sizes after another; then the same with a batch of 1."""
    first = trial.planned[0]
    if first.path:
        yield first, sizes_of(trial.original.graph, first.path)
    else:
        for case in dict.fromkeys((first, replace(first, batch=1))):
            yield from ((case, sizes) for sizes in candidates(trial.original.graph))


def _choose(trial: Trial, case: Case, values: Mapping[str, Array]) -> None:
    """Choose the tensors to compare: outputs and fold sites always, of the other shared ones as many as time allows."""
    names = shared(trial.original.graph, trial.folded.graph)
    true = truth(trial, case, values, names)
    narrow = {name for name, value in true.items() if is_narrow(value)}
    names = [name for name in names if name not in narrow]
    counts = {name: value.size for name, value in true.items() if isinstance(value, np.ndarray)}
    trial.steps = steps(trial.original.graph, trial.folded.graph, narrow) if true else []
    needed = {*trial.edits, *trial.outputs, *trial.steps, *_rearranged(trial)}
    needed |= _entering(trial.original, trial.outputs)  # some outputs are no tensors, as ZipMap's are
    needed |= _entering(trial.folded, [*trial.edits, *trial.steps])
    others = [n for n in names if n not in needed]
    every = max(1, -(-sum(ALONE + counts.get(n, 0) for n in others) // ELEMENTS[trial.effort]))
    chosen = needed | set(others[::every])
    trial.names = [n for n in names if n in chosen]
    trial.elements = sum(counts.values())
    if every > 1:
        trial.notes.append(f"of {len(others)} tensors between the sites one in {every} was compared, to save time")


def _entering(model: onnx.ModelProto, names: Collection[str]) -> set[str]:
    """The tensors that the makers of `names` read: there sites can be cut out, and steps are compared by them."""
    nodes = produced(model.graph)
    return {name for made in names if made in nodes for name in nodes[made].input}


def _rearranged(trial: Trial) -> set[str]:
    """Edited tensors, and those that only have elements of them: of some edited ones, not all elements are right."""
    names = set(trial.edits)
    for node in trial.folded.graph.node:
        if node.op_type in MOVES and not names.isdisjoint(node.input):
            names.update(node.output)
    return names


def in_each(trial: Trial, maths: Sequence[str]) -> Iterator[Trial]:
    """The trial in each of `maths`: models, inputs and the float64 evaluation are shared, results are not."""
    inputs = min(len(trial.planned), max(1, WORK["fast"] // max(1, trial.elements)))
    small = trial.elements * inputs <= WORK["fast"]
    for number, math in enumerate(maths):
        own = replace(trial, way=Way(trial.way.provider, math), moved={}, seen={}, derived=[])
        own.notes, own.blocked = [*trial.notes], [*trial.blocked]
        own.keeps = small and number + 1 < len(maths)
        own.planned = _by_shape(own) if own.way.gpu else own.planned
        if number and trial.effort == "fast":
            own.planned = _of_one_shape(own)
        yield own


def _by_shape(trial: Trial) -> list[Case]:
    """The inputs of one shape after those of another: a GPU chooses its kernels anew whenever the shape changes."""
    by_case = {case: shapes(trial.original.graph, case, trial.sizes) for case in trial.planned}
    order = [*by_case.values()]
    return sorted(trial.planned, key=lambda case: order.index(by_case[case]))


def _of_one_shape(trial: Trial) -> list[Case]:
    """The inputs of the shapes of the first, and all that the options name; the first arithmetic has run the others."""
    graph, first = trial.original.graph, shapes(trial.original.graph, trial.planned[0], trial.sizes)
    kept = [c for c in trial.planned if c.path or c.sizes or shapes(graph, c, trial.sizes) == first]
    if len(kept) < len(trial.planned):
        trial.notes.append(f"{len(kept)} of {len(trial.planned)} inputs, those of one shape, were used, to save time")
    return kept
