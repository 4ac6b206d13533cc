"""What the code of a reason means, and what can be done about a node that is kept. One open direction is enough."""

from __future__ import annotations

from .reasons import Kept

FINAL = "nothing: this is final"
AFTER_THE_CONV = "train with the BatchNormalization directly after the Conv"
EXPORT_FOR_INFERENCE = "export in inference mode"
CONVERT = "convert with `onnx.version_converter`"
IN_FLOAT32 = "fold the float32 model; leave this layer in float32 when you convert"
INTERFACE = "`--freeze-initializers`, where it is a weight; drop an output that was left from debugging"
OF_INTERFACE = "the tensor is part of the interface; or a weight is an input, too, which callers may override"
OF_NUMBERS = (
    "the folded numbers would exceed their type, one that scales a whole tensor would lose digits, "
    "or var + epsilon is not positive"
)
ADVICE = {  # docs/reasons.md has the same
    "NONLINEAR": f"in this file nothing; {AFTER_THE_CONV}",
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
    "NO_BIAS": FINAL,
    "MIXES": FINAL,
    "VARIES": FINAL,
    "NOT_LINEAR": FINAL,
    "ZERO_SCALE": "prune the dead channel",
    "SHAPE_UNKNOWN": "write the size into the graph's inputs, export with static shapes, or run shape inference",
    "OVERFLOW": IN_FLOAT32,
    "NOT_FINITE": IN_FLOAT32,
    "CODE_RANGE": "quantize weights to a symmetric range, -127 to 127 in int8",
    "INTEGERS": "fold first, then quantize the folded model",
    "NO_INPUT": CONVERT,
    "DTYPE": FINAL,
    "TOO_LARGE": "`--limit elements=...`, where a constant is computed",
    "MALFORMED": "check the model with `onnx.checker.check_model(m, full_check=True)`",
    "TRAINING": EXPORT_FOR_INFERENCE,
    "OLD_OPSET": CONVERT,
    "ALIGNMENT": FINAL,
    "COST": FINAL,
    "NO_BRANCHES": FINAL,
}
MEANING = {
    "NONLINEAR": "a nonlinear operator stands in the way; some let a scale pass, but no shift",
    "NEGATIVE_SCALE": "a scale is negative, and an operator in the way (Relu, MaxPool, ...) goes by sign or order; or "
    "it would have to become that of integers that are computed at run time",
    "NO_RULE": "no rule is known for an operator in the way",
    "SHARED": "another consumer needs the tensor as it is",
    "GRAPH_INPUT": OF_INTERFACE,
    "GRAPH_OUTPUT": OF_INTERFACE,
    "SUBGRAPH": "a body returns the tensor as it is, or a Loop or Scan hands it from step to step",
    "NOT_CONSTANT": "a weight or a statistic is computed at run time, or is an input that callers may override; or "
    "runtimes do not agree on the constant (a fraction cast to int4, a number out of range)",
    "CONSTANT": "the input is itself a constant",
    "PADDING": "a convolution, pooling or Pad fills in a number at the border, where the shift would be missing; or a "
    "window may hold nothing but padding",
    "BORDER": "not every output of a ConvTranspose is reached by the same taps",
    "REPEATS": "before this node an axis holds several values for each item of a batch whose size is open: no constant "
    "can be as long",
    "NO_BIAS": "nothing on the way can take the shift",
    "MIXES": "the affine meets a tensor to which it does not apply",
    "VARIES": "the coefficients vary along an axis that the weight does not have, or that an operator mixes",
    "NOT_LINEAR": "the affine reaches an operator as a setting, not as data",
    "ZERO_SCALE": "a scale of 0 would have to be divided by",
    "SHAPE_UNKNOWN": "a rank, length or type is not known before run time, though all that follows from the operators "
    "is used; names that the file gives to lengths are not believed",
    "OVERFLOW": OF_NUMBERS,
    "NOT_FINITE": OF_NUMBERS,
    "CODE_RANGE": "a negative scale changes the sign of stored integers, and one of them, such as -128 in int8, has no "
    "opposite",
    "INTEGERS": "integers that a run computes would not stay the same: activations have one scale for all channels, a "
    "shift has no exact place among integers, only a power of two crosses a rounding; or another tool's operator "
    "(QONNX, Brevitas, onnxruntime) quantizes by rules of its own; or branches have no sum in integers",
    "NO_INPUT": "a number that would have to change is an attribute, or omitted",
    "DTYPE": "the constant, or the type that a Cast converts from or to, is not floating point; or a Cast or "
    "QuantizeLinear rounds a weight, which is part of the model; or a Cast to or from fewer bits would round what the "
    "affine has not seen yet, or makes",
    "TOO_LARGE": "a constant computed in the graph would be enormous, or an axis would have more than 16 million "
    "elements",
    "MALFORMED": "shapes or settings of a node contradict what it reads or makes",
    "TRAINING": "a Dropout on the way is in training mode",
    "OLD_OPSET": "an operator of opset 6 or older works in its own way; or a DequantizeLinear of opset 10 to 12 would "
    "need a scale for each channel",
    "ALIGNMENT": "parallel branches cannot merge: strides, padding, dilations or channels differ",
    "COST": "parallel branches could merge, but one convolution would multiply more than its parts",
    "NO_BRANCHES": "parallel branches do not read one tensor",
}


def advice_of(kept: Kept) -> str:
    """What can be done about a kept node, by the codes of both directions: `final` where nothing can."""
    said = dict.fromkeys(ADVICE[reason.code] for reason in (kept.not_hoisted, kept.not_sunk))
    helpful = [words for words in said if not words.startswith("nothing: ")]
    return "; ".join(w for w in helpful if not any(w in other and w != other for other in helpful)) or "final"
