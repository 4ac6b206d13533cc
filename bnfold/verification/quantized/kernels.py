"""Notes on what onnxruntime's integer arithmetic does to a quantized model at the default level.

onnxruntime makes a Conv between DequantizeLinear and QuantizeLinear an integer one (QLinearConv) where no other node is
between them, such as a BatchNormalization that is folded. On x86 processors without VNNI the kernels for unsigned
inputs and signed weights add pairs of products in 16 bits, which saturate, unless `session.x64quantprecision` is 1.
"""

from __future__ import annotations

import numpy as np
import onnx
from onnx import numpy_helper

from ...display.display import counted
from ...runtime.protos import produced, stored
from ..level_results import Compared, Level
from ..regions import MOVES

PRECISE, IN_FLOAT = "session.x64quantprecision", "session.disable_quant_qdq"
KEEPS_STEPS = MOVES | {"Relu", "Clip", "MaxPool", "Concat"}


def entry(report: Level) -> str:
    """The session entry with which nothing may be wrong at a level where something is; "" where nothing is."""
    if report.broken or not report.ran:
        return IN_FLOAT
    return "" if all(t.ok for t in report.tensors) else PRECISE


def warning(folded: onnx.GraphProto, report: Level, again: Level, name: str) -> str:
    """A note on a level at which something is wrong without the session entry `name`, and nothing `again` with it.

    The kernels that this entry excludes differ from the others only where they saturate: so errors that are much larger
    with them show that they do, those of the original that they compute its outputs as well.
    """
    if name == IN_FLOAT:
        return f"warning: {report.why}; with the session entry {name}=1, as compared here, both models load and run"
    worst = max(report.tensors, key=lambda t: t.ratio)
    off = {which: _size(folded, worst.name, getattr(worst, f"max_abs_{which}")) for which in ("original", "folded")}
    cause, original = "differ from float64 by more than rounding explains", ""
    if _is_larger(folded, worst, again, "folded"):
        cause, original = "saturate on this processor", ". Folding is what makes it choose them"
    if _is_larger(folded, worst, again, "original"):
        original = f", of the original up to {off['original']}"
    return (
        f"warning: onnxruntime's 8-bit kernels {cause}: at its default graph optimization output "
        f"{worst.name!r} of the folded model is up to {off['folded']} off{original}. The session "
        f"entry {name}=1, with which both models were compared, or graph optimization off avoids that"
    )


def _is_larger(folded: onnx.GraphProto, tensor: Compared, again: Level, which: str) -> bool:
    """Whether a model's largest error is at least half a step, and more than twice that of the other run."""
    name = f"max_abs_{which}"
    error, other = getattr(tensor, name), [getattr(t, name) for t in again.tensors if t.name == tensor.name]
    half = step_of(folded, tensor.name) / 2 or 1e-3 * tensor.max_abs_folded
    return bool(other) and error >= half and error > 2 * other[0]


def off_by_steps(folded: onnx.GraphProto, report: Level) -> list[str]:
    """A sentence about the first output that is whole steps off in the folded model alone."""
    for t in report.tensors:
        step = step_of(folded, t.name)
        if step and t.max_abs_original < step / 2 <= t.max_abs_folded:
            size = _size(folded, t.name, t.max_abs_folded)
            place = f"output {t.name!r} of the folded model is up to {size} off"
            return [
                f"onnxruntime computes layers between quantizers in integers, with 8-bit weights, at its default: "
                f"{place}; with the session entry {IN_FLOAT}=1 it computes them in float"
            ]
    return []


def _size(folded: onnx.GraphProto, name: str, error: float) -> str:
    step = step_of(folded, name)
    return f"{counted(round(error / step), 'quantization step')} ({error:.3g})" if step else f"{error:.3g}"


def step_of(graph: onnx.GraphProto, name: str) -> float:
    """The smallest distance between two values of a tensor that a DequantizeLinear makes; 0 where none does."""
    makers, constants = produced(graph), stored(graph)
    while name in makers and makers[name].op_type in KEEPS_STEPS:
        name = makers[name].input[0]
    node = makers.get(name)
    if node is None or node.op_type != "DequantizeLinear" or node.input[1] not in constants:
        return 0.0
    return float(np.abs(numpy_helper.to_array(constants[node.input[1]])).astype(np.float64).min(initial=np.inf))
