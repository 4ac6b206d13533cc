"""Two models on onnxruntime, in a fork that may die: a quick look at whether they differ, for `verify` to judge."""

from __future__ import annotations

import os
import resource
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import onnx
import onnxruntime

from bnfold.process import native

SECONDS, MEMORY = 10.0, 2 << 30
CLOSE = 1e-4  # of the largest number of an output
FAR = 1e30  # numbers beyond it may overflow on one way and not on the other: there is nothing to compare
TYPES = {
    "float": np.float32,
    "double": np.float64,
    "float16": np.float16,
    "bool": np.bool_,
    "int64": np.int64,
    "int32": np.int32,
    "int8": np.int8,
    "uint8": np.uint8,
}
OPTIONS = {"intra_op_num_threads": 1, "inter_op_num_threads": 1, "log_severity_level": 4}


def compared(original: Path, folded: Path) -> str:
    """`same`, `different`, or why it is not known."""
    try:
        with mock.patch.object(native, "os", os):  # fork, whatever `survival` says
            return native.guarded("onnxruntime", lambda: _compared(original, folded).encode(), SECONDS).decode()
    except native.Failed as why:
        return f"not told: {'crash' if 'crashed' in str(why) else 'failed'}"


def _compared(original: Path, folded: Path) -> str:
    held = resource.getrlimit(resource.RLIMIT_DATA)
    resource.setrlimit(resource.RLIMIT_DATA, (min(MEMORY, held[0]) if held[0] > 0 else MEMORY, held[1]))
    onnxruntime.set_default_logger_severity(4)
    try:
        onnx.checker.check_model(onnx.load(original), full_check=True)
        first = session(original)
        feeds = {i.name: drawn(i.type, i.shape, number) for number, i in enumerate(first.get_inputs())}
        wanted = first.run(None, feeds)
        if overflows(original, feeds):
            return "the original overflows"
    except Exception:
        return "the original does not run"
    try:
        second = session(folded)
        got = second.run(None, {i.name: feeds[i.name] for i in second.get_inputs()})
    except Exception:
        return "the folded model does not run"
    alike = len(wanted) == len(got) and all(map(same, wanted, got))
    return "same" if alike else "different"


def overflows(path: Path, feeds: dict[str, Any]) -> bool:
    """Whether a number that a node of the main graph makes is beyond what can be compared, or none."""
    model = onnx.load(path)
    del model.graph.output[:]
    model.graph.output.extend(onnx.ValueInfoProto(name=name) for n in model.graph.node for name in n.output if name)
    made = session(model.SerializeToString()).run(None, feeds)
    floating = (x.astype(np.float64) for x in made if isinstance(x, np.ndarray) and x.dtype.kind in "fV")
    return any(x.size and not np.abs(x).max() < FAR for x in floating)


def session(path: Path | bytes) -> Any:
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    for name, value in OPTIONS.items():
        setattr(options, name, value)
    return onnxruntime.InferenceSession(
        path if isinstance(path, bytes) else str(path), options, providers=["CPUExecutionProvider"]
    )


def drawn(kind: str, shape: list[Any], seed: int) -> Any:
    """Random numbers of a type and shape; what is not known of the shape is 2."""
    axes = [n if isinstance(n, int) else 2 for n in shape]
    rng = np.random.default_rng(seed)
    made = TYPES[kind.removeprefix("tensor(").removesuffix(")")]
    return (rng.standard_normal(axes) * 2).astype(made)


def same(wanted: Any, got: Any) -> bool:
    """Whether two outputs are alike beyond doubt."""
    if not isinstance(wanted, np.ndarray) or not isinstance(got, np.ndarray):
        return wanted == got
    if wanted.shape != got.shape or wanted.dtype != got.dtype:
        return False
    if wanted.dtype.kind not in "fV":
        return bool(np.array_equal(wanted, got))
    a, b = wanted.astype(np.float64), got.astype(np.float64)
    finite = np.isfinite(a)
    if not np.array_equal(a[~finite], b[~finite], equal_nan=True):
        return False
    size = np.abs(a[finite]).max(initial=0.0)
    return bool(np.all(np.abs(a[finite] - b[finite]) <= CLOSE * size))
