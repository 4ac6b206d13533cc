"""What can be done about a node that is kept, by the codes of its reasons. One open direction is enough."""

from __future__ import annotations

from collections.abc import Iterable

from .result import Kept

FINAL = "nothing: this is final"
AFTER_THE_CONV = "train with the BatchNormalization after the Conv"
EXPORT_FOR_INFERENCE = "export in inference mode"
CONVERT = "convert with `onnx.version_converter`"
IN_FLOAT32 = "fold the float32 model; leave this layer in float32 when you convert"
INTERFACE = "`--freeze-initializers`, where it is a weight; drop an output that was left from debugging"
ADVICE = {  # the table of README.md has the same
    "NONLINEAR": "in this file nothing; train with the BatchNormalization directly after the Conv",
    "NEGATIVE_SCALE": FINAL,
    "NO_RULE": "report the operator, or add a rule (CONTRIBUTING.md of the repository)",
    "SHARED": "nothing: both uses are real",
    "GRAPH_INPUT": INTERFACE,
    "GRAPH_OUTPUT": INTERFACE,
    "SUBGRAPH": FINAL,
    "NOT_CONSTANT": "`--freeze-initializers`, where callers may override it",
    "CONSTANT": "fold constants first",
    "PADDING": AFTER_THE_CONV,
    "BORDER": AFTER_THE_CONV,
    "REPEATS": "export with a static batch",
    "ZERO_SCALE": "prune the dead channel",
    "SHAPE_UNKNOWN": "write the size into the graph's inputs, export with static shapes, or run shape inference",
    "OVERFLOW": IN_FLOAT32,
    "NOT_FINITE": IN_FLOAT32,
    "CODE_RANGE": "quantize weights to a symmetric range, -127 to 127 in int8",
    "INTEGERS": "fold first, then quantize the folded model",
    "NO_INPUT": CONVERT,
    "TOO_LARGE": "`--limit elements=...`, where a constant is computed",
    "MALFORMED": "check the model with `onnx.checker.check_model(m, full_check=True)`",
    "TRAINING": EXPORT_FOR_INFERENCE,
    "OLD_OPSET": CONVERT,
}


def advice(kept: Iterable[Kept]) -> list[str]:
    """`CODE: what can be done`, for the codes of these nodes that have advice, in order of appearance."""
    codes = dict.fromkeys(reason.code for each in kept for reason in (each.not_hoisted, each.not_sunk))
    return [f"{code}: {ADVICE[code]}" for code in codes if code in ADVICE]
