"""What is known of two models without `bnfold verify`: whether inputs show a difference, whether a tool's fold is right."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
from onnx import ModelProto, ValueInfoProto, helper

from tests.differential.judging import EXPLAINED, TIMES, error
from tests.reference import evaluate

Feeds = Mapping[str, Any]
TIMES_CLEAR = 8.0  # a fault shows where the outputs differ so many times as much as those of the faultless fold
EXACT = 4.0  # and by more than so many steps of their type, of the largest value
SIZES = ({"batch": 2, "other": 64}, {"batch": 1, "other": 32}, {"batch": 3, "other": 96})


def ran(model: ModelProto | Path, feeds: Feeds) -> dict[str, Any]:
    """What onnxruntime computes, optimizations off, on the CPU."""
    options = ort.SessionOptions()
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.log_severity_level, options.intra_op_num_threads = 4, 1
    source = str(model) if isinstance(model, Path) else model.SerializeToString()
    session = ort.InferenceSession(source, options, providers=["CPUExecutionProvider"])
    names = [output.name for output in session.get_outputs()]
    return dict(_tensors(names, session.run(None, dict(feeds))))


def _tensors(names: Sequence[str], values: Sequence[Any]) -> Iterator[tuple[str, Any]]:
    """The elements of a sequence each by itself."""
    for name, value in zip(names, values, strict=True):
        if isinstance(value, list):
            yield from _tensors([f"{name}[{at}]" for at in range(len(value))], value)
        else:
            yield name, value


def callers(model: ModelProto) -> list[ValueInfoProto]:
    """The inputs that must be given."""
    own = {tensor.name for tensor in model.graph.initializer}
    return [value for value in model.graph.input if value.name not in own]


def normal(model: ModelProto, batch: int = 2, other: int = 6, seed: int = 0) -> dict[str, Any]:
    """Normal numbers, whole ones below 8; an axis whose size is not fixed has `other` elements, a first one `batch`."""
    random, found = np.random.default_rng(seed), {}
    for value in callers(model):
        tensor = value.type.tensor_type
        dims = [d.dim_value if d.dim_value > 0 else (other if i else batch) for i, d in enumerate(tensor.shape.dim)]
        dtype = helper.tensor_dtype_to_np_dtype(tensor.elem_type)
        drawn = random.standard_normal(dims) if dtype.kind == "f" else random.integers(0, 8, dims)
        found[value.name] = np.asarray(drawn > 3 if dtype.kind == "b" else drawn).astype(dtype)
    return found


def distance(one: Mapping[str, Any], two: Mapping[str, Any]) -> float:
    """The largest difference of an output, over its largest value; infinite for another type, shape or kind of NaN."""
    worst = 0.0
    for a, b in ((a, two.get(name)) for name, a in one.items()):
        if b is None or a.shape != b.shape or a.dtype != b.dtype:
            return float("inf")
        if a.dtype.kind != "f":
            worst = max(worst, float(np.any(a != b)))
            continue
        with np.errstate(all="ignore"):
            apart = np.abs(np.subtract(a, b, dtype=np.float64))
            apart = np.where((a == b) | (np.isnan(a) & np.isnan(b)), 0.0, apart).max(initial=0.0)
            large = np.abs(np.where(np.isfinite(a), a, 0.0)).max(initial=0.0)
        worst = max(worst, float("inf") if not np.isfinite(apart) else float(apart) / max(float(large), 1e-30))
    return worst


def shows(original: ModelProto, right: ModelProto, other: ModelProto | Path, feeds: Feeds) -> bool:
    """Whether `other` differs from the original clearly more than a `right` fold of it does."""
    want = ran(original, feeds)
    try:
        got = ran(other, feeds)
    except Exception:  # onnxruntime's errors have no common class
        return True
    step = max(float(np.finfo(a.dtype).eps) if a.dtype.kind == "f" else 0.0 for a in want.values())
    return distance(want, got) > max(EXACT * step, TIMES_CLEAR * distance(want, ran(right, feeds)))


def wrong(original: Path, other: Path) -> str:
    """Why the fold of a tool is wrong; empty for a right one."""
    try:
        before, after = onnx.load(original), onnx.load(other)
    except Exception as problem:  # of protobuf
        return f"invalid: {problem}".splitlines()[0]
    if (why := invalid(after)) and not invalid(before):
        return why
    return next(_wrong(before, after, original, other), "")


def overridable(model: ModelProto) -> set[str]:
    """Initializers that callers may replace; where all are listed, exporters do so by habit."""
    stored, inputs = ({x.name for x in field} for field in (model.graph.initializer, model.graph.input))
    return set() if model.ir_version < 4 or stored <= inputs else stored & inputs


def invalid(model: ModelProto) -> str:
    """What onnx's checker says against a model, in a line."""
    try:
        onnx.checker.check_model(model, full_check=True)
    except Exception as problem:  # of several unrelated classes
        return f"invalid: {problem}".splitlines()[0]
    return ""


def _wrong(before: ModelProto, after: ModelProto, original: Path, other: Path) -> Iterator[str]:
    if [v.name for v in callers(before)] != [v.name for v in callers(after)]:
        yield "other inputs"
    if not overridable(before) <= {v.name for v in after.graph.input}:
        yield "an override is lost"
    if [v.name for v in before.graph.output] != [v.name for v in after.graph.output]:
        yield "other outputs"
    seeds = [seed for seed in range(len(SIZES) + 1) if meant(original, seed)[0]]
    if not seeds:
        raise AssertionError(f"{original.name} runs on none of the sizes")
    for seed in seeds:
        feeds, (expected, truth) = fed(before, seed), meant(original, seed)
        try:
            got = ran(other, feeds)
        except Exception as problem:
            yield f"does not run: {problem}".splitlines()[0]
            continue
        if any(a.dtype != got[name].dtype for name, a in expected.items()):
            yield "another type of an output"
        own = error(expected, truth)
        limit = max(EXPLAINED["float32"], TIMES * own)
        if (off := error(got, truth)) > limit:
            yield f"error {off:.2g} of the largest value, {own:.2g} of the original, explained up to {limit:.2g}"


def fed(model: ModelProto, seed: int) -> dict[str, Any]:
    """Normal numbers of one of `SIZES`, and last zeros: a tool may take a small constant for nothing."""
    if seed < len(SIZES):
        return normal(model, **SIZES[seed], seed=seed)
    return {name: np.zeros_like(value) for name, value in normal(model, **SIZES[0]).items()}


@cache
def meant(path: Path, seed: int) -> tuple[dict[str, Any], dict[str, Any]]:
    """The original's own numbers, and those in float64; nothing where it does not run on inputs of these sizes.

    Where onnx's reference evaluator does not know an operator the original's numbers stand for both.
    """
    model = onnx.load(path)
    feeds = fed(model, seed)
    try:
        got = ran(path, feeds)
    except Exception:  # of onnxruntime
        return {}, {}
    try:
        wide = evaluate(model, {k: v.astype(np.float64) if v.dtype.kind == "f" else v for k, v in feeds.items()})
    except Exception:  # of the evaluator
        wide = got.values()
    return got, dict(zip(got, (np.asarray(value, np.float64) for value in wide), strict=True))
