"""`verify`: structure and numbers of two models, each looked at in a child process, and one verdict."""

from __future__ import annotations

import hashlib
import os
import time
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from itertools import chain, groupby
from pathlib import Path
from typing import Any, NamedTuple

from ..errors import FOREVER, UsageProblem, require_within
from ..model.models import Model, path_or_proto
from ..process import launcher
from ..process.endings import Failed
from ..runtime.detached import bytes_of
from ..runtime.doctor import require as require_providers
from ..runtime.input_options import require_dims, require_sizes
from ..runtime.loading import for_onnxruntime, require_model_file
from ..runtime.placement import POLICIES
from ..runtime.providers import MATHS, Way, ways
from ..system import temporary
from ..system.installed import require_runtime
from .children import check_structure, compare_numbers, look_at_both
from .judge import judge, run_wrong
from .level_results import Level
from .results import GRADES, INCONCLUSIVE, MEASURED, PASS, Derived, Influence, Structure, Verification

SECONDS = {"fast": 300.0, "full": 3600.0}  # after which a child is stopped
READ = 10e6  # bytes of a model for which a child has a second more
LEVELS = ("off", "default")
LAST_SEED = (1 << 63) - 1
_SAME: tuple[str, ...] = ("the two models are the same, stored numbers included: there is nothing to compare",)


def verify(
    original: Model,
    folded: Model,
    *,
    effort: str = "fast",
    seed: int = 0,
    levels: Sequence[str] = LEVELS,
    providers: Sequence[str] = ("cpu",),
    maths: Sequence[str] = MATHS,
    placement: str = "compute",
    inputs: Sequence[str | os.PathLike[str]] = (),
    dims: Mapping[str, Sequence[int]] | None = None,
    shapes: Mapping[str, Sequence[int]] | None = None,
    budget_s: float | None = None,
    untouched: bool | Collection[str] = False,
    freeze_initializers: bool = False,
    require: str = MEASURED,
    allow_external_outside: bool = False,
) -> Verification:
    """Decide whether `folded` computes what `original` computes, up to rounding.

    Both run on onnxruntime, with graph optimization off (every tensor the two share is compared) and at its default
    (outputs), against a float64 evaluation of the original that shares no code with fold or runtime. `effort` is `fast`
    (three inputs, a few seconds) or `full`; `levels` limits what is run. The models are not changed.

    `providers` are cpu, cuda, tensorrt and tensorrt-rtx. The GPU's run with each of `maths`: strict float32
    arithmetic, and the provider's default, TF32; where the nodes ran is held against the policy `placement`:
    strict, compute or any. On CUDA sessions take cuDNN's default kernels; with effort `full` it tries all out, as
    onnxruntime serves, for both models at the default level in default math. With `fast` the second arithmetic
    takes the inputs of one shape. `inputs` are files or folders of a person's own data (.npz, .npy, ONNX test
    data), run before random ones. `dims` gives dynamic dimensions (a symbolic name, or `input/axis`) the sizes to
    try, `shapes` whole inputs theirs. After `budget_s` seconds nothing more is begun, and the notes say what was
    skipped.

    What is other in the file beside what it computes (metadata, documentation, shapes of tensors, operator sets, order)
    is in `structure.changes`, and no failure unless the file has to be `untouched`: then everything beside the fold
    sites, those that are named (`FoldResult.sites`) or whatever nodes differ, is the same to the last byte. With
    `freeze_initializers`, callers need not be able to override initializers any more. A PASS has a `grade`: `proved`
    for all inputs, or `measured` on those that were tried; where `require` is proved, it has to be that.
    `allow_external_outside` reads external data also outside of the models' folders.

    Raises ModelProblem where a file is no readable model or data, UsageProblem where sizes do not fit the model,
    EnvironmentProblem where a provider cannot run.
    """
    request = _asked(effort, seed, levels, placement, allow_external_outside)
    require_grade(require)
    served, started = ways(providers, maths), time.perf_counter()
    request.update(_data(inputs, dims or {}, shapes or {}), **_file(untouched, freeze_initializers))
    request["deadline"] = _deadline(budget_s)
    with locate(original) as first, locate(folded) as second:
        models = {"original": describe(first), "folded": describe(second)}
        require_providers(way.provider for way in served if way.gpu)
        structure, numbers = _found({**request, "original": str(first), "folded": str(second)}, served)
    return with_grade(_verification(structure, numbers, models, started), require)


def _verification(
    structure: Structure | None, numbers: _Numbers, models: dict[str, dict[str, Any]], started: float
) -> Verification:
    """The verdict on what was found."""
    judged = (PASS, _SAME) if structure and structure.identical else judge(structure, *numbers.judged())
    notes = (*(structure.notes if structure else ()), *numbers.notes, *run_wrong(numbers.levels))
    seconds, parts = time.perf_counter() - started, (numbers.levels, numbers.derived)
    return Verification(*judged, notes, structure, *parts, models, seconds, numbers.influence)


def _file(untouched: bool | Collection[str], frozen: bool) -> dict[str, Any]:
    """What is asked of the file beside its numbers."""
    declared = None if isinstance(untouched, bool) else list(untouched)
    return {"untouched": declared is not None or untouched, "declared": declared, "frozen": frozen}


def require_grade(wanted: str) -> None:
    """Raises UsageProblem for a grade that there is not."""
    if wanted not in GRADES:
        raise UsageProblem(f"unknown grade {wanted!r}", f"Choose one of: {', '.join(GRADES)}.")


def with_grade(found: Verification, wanted: str) -> Verification:
    """The same; INCONCLUSIVE where it passed with another grade than proved, and that one is `wanted`."""
    if not found.passed or wanted == MEASURED or found.grade == wanted:
        return found
    reason = f"the models agree, but that is {found.said_grade}, not proved for all"
    return replace(found, verdict=INCONCLUSIVE, reasons=(reason, *found.reasons))


def _asked(effort: str, seed: int, levels: Sequence[str], placement: str, outside: bool) -> dict[str, Any]:
    """The start of a request to the children. Raises UsageProblem for what there is not, and without a runtime."""
    require_runtime("verification")
    if placement not in POLICIES:
        raise UsageProblem(f"unknown placement policy {placement!r}", f"Choose one of: {', '.join(POLICIES)}.")
    if effort not in SECONDS:
        raise UsageProblem(f"unknown effort {effort!r}", f"Choose one of: {', '.join(SECONDS)}.")
    for level in levels:
        if level not in LEVELS:
            raise UsageProblem(f"unknown optimization level {level!r}", f"Choose from: {', '.join(LEVELS)}.")
    require_within("--seed", seed, 0, LAST_SEED)
    if not levels:
        raise UsageProblem("no optimization level to compare at", f"Choose from: {', '.join(LEVELS)}.")
    return {"effort": effort, "seed": seed, "levels": list(levels), "placement": placement, "outside": outside}


def _data(
    inputs: Sequence[str | os.PathLike[str]], dims: Mapping[str, Sequence[int]], shapes: Mapping[str, Sequence[int]]
) -> dict[str, Any]:
    """What is asked of the inputs. Raises UsageProblem for a size that no dimension has."""
    for name, sizes in shapes.items():
        require_sizes(name or "the input", sizes)
    plain = {name: [int(size) for size in sizes] for name, sizes in shapes.items()}
    return {"inputs": [str(path) for path in inputs], "dims": require_dims(dims), "shapes": plain}


def _deadline(budget_s: float | None) -> float | None:
    """When nothing more is begun. Raises UsageProblem for no time at all, as nan."""
    if budget_s is None:
        return None
    require_within("--budget", budget_s, 0, FOREVER)
    return time.time() + budget_s


@contextmanager
def locate(model: Model) -> Iterator[Path]:
    """A path where a child process finds `model`: its own, or that of a temporary copy of a model in memory."""
    where = path_or_proto(model)
    if isinstance(where, Path):
        yield require_model_file(where)
        return
    with temporary.folder() as folder:
        held = for_onnxruntime(where, folder)
        path = Path(held) if isinstance(held, str) else Path(folder, "model.onnx")
        if isinstance(held, bytes):
            path.write_bytes(held)
        yield path


def describe(path: Path) -> dict[str, Any]:
    """Its path, bytes and SHA-256, by which a record tells which model it is about."""
    with path.open("rb") as stream:
        digest = hashlib.file_digest(stream, "sha256").hexdigest()
    return {"path": str(path), "bytes": path.stat().st_size, "sha256": digest}


class _Numbers(NamedTuple):
    """The answer of the numeric tier."""

    levels: tuple[Level, ...] = ()
    blocked: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    derived: tuple[Derived, ...] = ()
    influence: tuple[Influence, ...] = ()

    def judged(self) -> tuple[Any, ...]:
        """What `judge` is given."""
        return self.levels, self.blocked, self.derived, self.influence


def _found(request: Mapping[str, Any], served: Sequence[Way]) -> tuple[Structure | None, _Numbers]:
    """What the children say: one for each provider and environment, of which CUDA reads what it reads once."""
    size = sum(bytes_of(Path(request[name])) for name in ("original", "folded"))
    request = {**request, "seconds": SECONDS[request["effort"]] + size / READ}
    groups = [list(group) for _, group in groupby(served, _child)]
    structure, found, crash = _both(request, groups[0]) or _structure(request)
    if structure and structure.identical:
        return structure, _Numbers()
    left = groups if not found else groups[1:]
    answers = [*found, *(answer for group in left for answer in _numbers(request, group))]
    levels, blocked, notes, derived, influence = (
        tuple(chain.from_iterable(parts)) for parts in zip(*answers, strict=True)
    )
    return structure, _Numbers(levels, (*crash, *blocked), tuple(dict.fromkeys(notes)), derived, influence)


def _both(request: Mapping[str, Any], served: Sequence[Way]) -> tuple[Structure, list[_Numbers], list[str]] | None:
    """Structure and numbers of the CPU by one child; None where it does not survive, or for another provider."""
    if served[0] != Way():
        return None
    try:
        answer = launcher.run(look_at_both, {**request, **_of_ways(served)}, seconds=request["seconds"])
    except Failed:
        return None
    numbers = answer["numbers"] or {"ways": []}
    found = [_answer(way, each) for way, each in zip(served, numbers["ways"], strict=False)]
    return Structure.of(answer["structure"]), found, []


def _structure(request: Mapping[str, Any]) -> tuple[Structure | None, list[_Numbers], list[str]]:
    """The structure by a child of its own, or the sentence that it did not survive."""
    try:
        return Structure.of(launcher.run(check_structure, request, seconds=request["seconds"])), [], []
    except Failed as why:
        return None, [], [str(why)]


def _of_ways(served: Sequence[Way]) -> dict[str, Any]:
    return {"provider": served[0].provider, "maths": [way.math for way in served]}


def _child(way: Way) -> tuple[str, dict[str, str]]:
    """What ways have in common that one child looks at."""
    return way.provider, way.environment


def _numbers(request: Mapping[str, Any], served: Sequence[Way]) -> list[_Numbers]:
    """An answer for each way. Where the child does not survive, each is tried in one of its own."""
    first, seconds = served[0], request["seconds"] * len(served)
    asked = {**request, **_of_ways(served)}
    try:
        answer = launcher.run(
            compare_numbers, asked, seconds=seconds, environment=first.environment, reserves=first.gpu
        )
    except Failed as why:
        if len(served) > 1:
            return [answer for way in served for answer in _numbers(request, [way])]
        return [_Numbers(blocked=(_of(first, str(why)),))]
    return [_answer(way, found) for way, found in zip(served, answer["ways"], strict=True)]


def _answer(way: Way, answer: Mapping[str, Any]) -> _Numbers:
    blocked, notes = (tuple(_of(way, sentence) for sentence in answer[part]) for part in ("blocked", "notes"))
    derived = (Derived(**{**entry, "inside": tuple(entry["inside"])}) for entry in answer["derived"])
    influence = tuple(map(Influence.of, answer["influence"]))
    return _Numbers(tuple(map(Level.of, answer["levels"])), blocked, notes, tuple(derived), influence)


def _of(way: Way, sentence: str) -> str:
    return ": ".join(filter(None, [way.words, sentence]))
