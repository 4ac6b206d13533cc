"""`verify`: structure and numbers of two models, compared in child processes, and one verdict."""

from __future__ import annotations

import hashlib
import os
import time
from collections.abc import Collection, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace
from itertools import groupby
from pathlib import Path
from typing import Any

from ..errors import FOREVER, UsageProblem, require_within
from ..model.models import Model, path_or_proto
from ..process import launcher
from ..process.endings import Failed
from ..runtime.detached import bytes_of
from ..runtime.doctor import require_providers
from ..runtime.input_options import require_dims, require_sizes
from ..runtime.loading import for_onnxruntime, require_model_file
from ..runtime.placement import POLICIES
from ..runtime.providers import MATHS, Way, ways
from ..system import temporary
from ..system.installed import require_runtime
from .children import compare_both, compare_numbers, compare_structure
from .judge import judge, run_wrong
from .results import GRADES, INCONCLUSIVE, MEASURED, PASS, Numbers, Structure, Verification

TIME_LIMITS = {"fast": 300.0, "full": 3600.0}  # seconds after which a child is stopped
BYTES_A_SECOND = 10e6  # for so many bytes of a model a child has a second more
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
    untouched: bool | Collection[str] | None = False,
    freeze_initializers: bool = False,
    require: str = MEASURED,
    allow_external_outside: bool = False,
) -> Verification:
    """Decide whether `folded` computes what `original` computes, up to rounding.

    Both run on onnxruntime, with graph optimization off (every tensor that both have is compared) and at its default
    (outputs), against a float64 evaluation of the original that shares no code with fold or runtime. `effort` is `fast`
    (three inputs, a few seconds) or `full`; `levels` are those of graph optimization to run. The models are not
    changed.

    `providers` are cpu, cuda, tensorrt and tensorrt-rtx. Those of GPUs run with each of `maths`: strict float32
    arithmetic, and the provider's default, TF32; where the nodes ran has to agree with the policy `placement`:
    strict, compute or any. On CUDA sessions use cuDNN's default kernels; with effort `full` it tries all of them, as
    onnxruntime serves, for both models at the default level in default math. With `fast` the second arithmetic
    runs the inputs of one shape. `inputs` are files or folders of a person's own data (.npz, .npy, ONNX test
    data), run before random ones. `dims` are the sizes to try of dynamic dimensions (a symbolic name, or
    `input/axis`), `shapes` those of whole inputs. After `budget_s` seconds nothing more is begun, and the notes say
    what was skipped.

    What differs in the file and changes nothing in what the model computes (metadata, documentation, shapes of
    tensors, operator sets, order) is in `structure.changes`, and fails only where the file has to be `untouched`: then
    everything outside the fold sites has to be the same to the last byte. `untouched` may name the sites, as
    `FoldResult.sites` does, where that is not None; otherwise all nodes that differ are sites. With
    `freeze_initializers`, callers need not be able to override initializers any more. A PASS has a `grade`: `proved`
    for all inputs, or `measured` on those that were tried; where `require` is proved, any other PASS becomes
    INCONCLUSIVE. `allow_external_outside` reads external data also outside of the models' folders.

    Raises ModelProblem where a file is no readable model or data, UsageProblem where sizes do not fit the model,
    EnvironmentProblem where a provider cannot run.
    """
    request = _options(effort, seed, levels, placement, allow_external_outside)
    require_grade(require)
    served, started = ways(providers, maths), time.perf_counter()
    request.update(_data(inputs, dims or {}, shapes or {}), **_file(untouched, freeze_initializers))
    request["deadline"] = _deadline(budget_s)
    with locate(original) as first, locate(folded) as second, ThreadPoolExecutor() as threads:
        require_providers(way.provider for way in served if way.gpu)
        described = threads.map(describe, (first, second))  # next to the child
        structure, numbers = _tiers({**request, "original": str(first), "folded": str(second)}, served)
    models = dict(zip(("original", "folded"), described, strict=True))
    return with_grade(_verification(structure, numbers, models, started), require)


def _verification(
    structure: Structure | None, numbers: Numbers, models: dict[str, dict[str, Any]], started: float
) -> Verification:
    """The result of both tiers, with the verdict."""
    judged = (PASS, _SAME) if structure and structure.identical else judge(structure, numbers)
    notes = (*(structure.notes if structure else ()), *numbers.notes, *run_wrong(numbers.levels))
    seconds, parts = time.perf_counter() - started, (numbers.levels, numbers.derived)
    return Verification(*judged, notes, structure, *parts, models, seconds, numbers.influence)


def _file(untouched: bool | Collection[str] | None, frozen: bool) -> dict[str, Any]:
    """The options of the structure tier."""
    declared = None if untouched is None or isinstance(untouched, bool) else list(untouched)
    return {"untouched": untouched is not False, "declared": declared, "frozen": frozen}


def require_grade(wanted: str) -> None:
    """Raises UsageProblem for an unknown grade."""
    if wanted not in GRADES:
        raise UsageProblem(f"unknown grade {wanted!r}", f"Choose one of: {', '.join(GRADES)}.")


def with_grade(result: Verification, wanted: str) -> Verification:
    """The same; INCONCLUSIVE where the grade `wanted` is proved, and it passed with another."""
    if not result.passed or wanted == MEASURED or result.grade == wanted:
        return result
    reason = f"the models agree, but that is {result.said_grade}, not proved for all"
    return replace(result, verdict=INCONCLUSIVE, reasons=(reason, *result.reasons))


def _options(effort: str, seed: int, levels: Sequence[str], placement: str, outside: bool) -> dict[str, Any]:
    """The start of a request to the children. Raises UsageProblem for unknown values, and without onnxruntime."""
    require_runtime("verification")
    if placement not in POLICIES:
        raise UsageProblem(f"unknown placement policy {placement!r}", f"Choose one of: {', '.join(POLICIES)}.")
    if effort not in TIME_LIMITS:
        raise UsageProblem(f"unknown effort {effort!r}", f"Choose one of: {', '.join(TIME_LIMITS)}.")
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
    """The options about inputs. Raises UsageProblem for a size that no dimension has."""
    for name, sizes in shapes.items():
        require_sizes(name or "the input", sizes)
    plain = {name: [int(size) for size in sizes] for name, sizes in shapes.items()}
    return {"inputs": [str(path) for path in inputs], "dims": require_dims(dims), "shapes": plain}


def _deadline(budget_s: float | None) -> float | None:
    """The `time.time()` after which nothing more is begun. Raises UsageProblem for a budget of 0 or less, or nan."""
    if budget_s is None:
        return None
    require_within("--budget", budget_s, 0, FOREVER)
    return time.time() + budget_s


@contextmanager
def locate(model: Model) -> Iterator[Path]:
    """A path from which a child process can read `model`: its own, or that of a temporary copy of one in memory."""
    where = path_or_proto(model)
    if isinstance(where, Path):
        yield require_model_file(where)
        return
    with temporary.folder() as folder:
        loadable = for_onnxruntime(where, folder)
        path = Path(loadable) if isinstance(loadable, str) else Path(folder, "model.onnx")
        if isinstance(loadable, bytes):
            path.write_bytes(loadable)
        yield path


def describe(path: Path) -> dict[str, Any]:
    """The path, bytes and SHA-256 of a model, by which a record identifies it."""
    with path.open("rb") as stream:
        digest = hashlib.file_digest(stream, "sha256").hexdigest()
    return {"path": str(path), "bytes": path.stat().st_size, "sha256": digest}


def _tiers(request: Mapping[str, Any], served: Sequence[Way]) -> tuple[Structure | None, Numbers]:
    """The results of the children: one child for each provider and environment, which CUDA reads only once."""
    size = sum(bytes_of(Path(request[name])) for name in ("original", "folded"))
    request = {**request, "seconds": TIME_LIMITS[request["effort"]] + size / BYTES_A_SECOND}
    groups = [list(group) for _, group in groupby(served, _child)]
    structure, first, crash = _both(request, groups[0]) or _structure(request)
    if structure and structure.identical:
        return structure, Numbers()
    left = groups if not first else groups[1:]
    answers = [*first, *(answer for group in left for answer in _numbers(request, group))]
    numbers = Numbers.joined([Numbers(blocked=tuple(crash)), *answers])
    return structure, replace(numbers, notes=tuple(dict.fromkeys(numbers.notes)))


def _both(request: Mapping[str, Any], served: Sequence[Way]) -> tuple[Structure, list[Numbers], list[str]] | None:
    """Structure and numbers of the CPU by one child; None where that child fails, or for another provider."""
    if served[0] != Way():
        return None
    try:
        answer = launcher.run(compare_both, {**request, **_of_ways(served)}, seconds=request["seconds"])
    except Failed:
        return None
    numbers = answer["numbers"] or {"ways": []}
    results = [_answer(way, each) for way, each in zip(served, numbers["ways"], strict=False)]
    return Structure.of(answer["structure"]), results, []


def _structure(request: Mapping[str, Any]) -> tuple[Structure | None, list[Numbers], list[str]]:
    """The structure by a child of its own, or a sentence about how that child failed."""
    try:
        return Structure.of(launcher.run(compare_structure, request, seconds=request["seconds"])), [], []
    except Failed as why:
        return None, [], [str(why)]


def _of_ways(served: Sequence[Way]) -> dict[str, Any]:
    return {"provider": served[0].provider, "maths": [way.math for way in served]}


def _child(way: Way) -> tuple[str, dict[str, str]]:
    """What ways have in common that one child can run."""
    return way.provider, way.environment


def _numbers(request: Mapping[str, Any], served: Sequence[Way]) -> list[Numbers]:
    """The result of each way. Where the child fails, each way is run in a child of its own."""
    first, seconds = served[0], request["seconds"] * len(served)
    request_of_ways = {**request, **_of_ways(served)}
    try:
        answer = launcher.run(
            compare_numbers, request_of_ways, seconds=seconds, environment=first.environment, reserves=first.gpu
        )
    except Failed as why:
        if len(served) > 1:
            return [answer for way in served for answer in _numbers(request, [way])]
        return [Numbers(blocked=(_of(first, str(why)),))]
    return [_answer(way, each) for way, each in zip(served, answer["ways"], strict=True)]


def _answer(way: Way, answer: dict[str, Any]) -> Numbers:
    """The result of a way, whose sentences name it."""
    numbers = Numbers.of(answer)
    blocked, notes = (tuple(_of(way, each) for each in sentences) for sentences in (numbers.blocked, numbers.notes))
    return replace(numbers, blocked=blocked, notes=notes)


def _of(way: Way, sentence: str) -> str:
    return ": ".join(filter(None, [way.words, sentence]))
