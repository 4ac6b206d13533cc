"""Operators that turn small differences into whole steps: quantizers, comparisons, and those that select by value.

A number next to a tie is rounded up by one kernel and down by another, and from there on the two runs differ by a
whole step, which says nothing about either. So after each such operator both models, the float64 evaluation and the
jittered copies are fed what the original computes there. Each part from one step to the next is then compared on its
own, as strictly as a network without steps. A step that the fold did not change is compared by what it reads, a
quantizer whose scale the fold changed by the numbers that it rounds.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import ml_dtypes
import numpy as np
import onnx
from onnx import TensorProto, numpy_helper

from ...runtime.copies import without_data
from ...runtime.protos import domain, produced, stored
from ..float64.floating import wide
from ..float64.operators import laid
from ..float64.oracle import ReplaceOutputs
from ..float64.windows import Array

ROUNDING = frozenset(["Round", "Floor", "Ceil", "Sign"])
COMPARING = frozenset(["Greater", "GreaterOrEqual", "Less", "LessOrEqual", "Equal", "ArgMax", "ArgMin"])
QUANTIZING = frozenset(["QuantizeLinear", "QLinearConv", "QLinearMatMul", "DynamicQuantizeLinear"])
OUTPUTS = {"DynamicQuantizeLinear": (0, 2), "TopK": (1,)}  # that move in steps, where it is not the first alone
STEP_OPERATORS = ROUNDING | COMPARING | QUANTIZING | {"TopK", "NonMaxSuppression", "Cast"}
_WHOLE = {getattr(TensorProto, f"{sign}INT{bits}") for sign in ("", "U") for bits in (4, 8, 16, 32, 64)}


def is_step(node: onnx.NodeProto) -> bool:
    """Whether small differences of what a node reads become whole steps of what it returns."""
    if node.op_type not in STEP_OPERATORS or domain(node):
        return False
    return node.op_type != "Cast" or any(a.name == "to" and a.i in {*_WHOLE, TensorProto.BOOL} for a in node.attribute)


def is_quantized(graph: onnx.GraphProto) -> bool:
    """Whether a graph has quantizers, between which onnxruntime may compute in integers."""
    return any(node.op_type in QUANTIZING and not domain(node) for node in graph.node)


def steps(original: onnx.GraphProto, folded: onnx.GraphProto, narrow: Collection[str]) -> list[str]:
    """Tensors that move in steps in both graphs, in the order of the original.

    In place of one that onnxruntime cannot return, being `narrow` (of less than 8 bits, or float8), what is made of it.
    """
    fixed, theirs = without_data(original), produced(folded)
    names: dict[str, None] = {}
    for node in original.node:
        if is_step(node):
            names.update((node.output[i], None) for i in OUTPUTS.get(node.op_type, (0,)) if i < len(node.output))
        elif not set(node.input).isdisjoint(names.keys() & set(narrow)):
            names.update(dict.fromkeys(node.output))
    return [name for name in names if name in theirs and name not in fixed and name not in narrow]


def is_narrow(value: Any) -> bool:
    """Whether a value is of a type that onnxruntime neither takes nor returns in Python."""
    return isinstance(value, np.ndarray) and value.dtype.name.startswith(
        ("int4", "uint4", "int2", "uint2", "float8", "float4")
    )


def replace_codes(codes: Mapping[str, Array]) -> ReplaceOutputs:
    """For the float64 evaluation: nodes after a step read `codes`."""
    widened = {name: wide(value) for name, value in codes.items()}
    return lambda node, inputs, outputs: [widened.get(*pair) for pair in zip(node.output, outputs, strict=False)]


def either_neighbour(seed: int) -> ReplaceOutputs:
    """For the float64 evaluation: quantizers choose at random between the two codes next to a number.

    Integer kernels may do so: they round biases, scales and sums in ways of their own, but no further than to one of
    the two. Codes of 16 bits count as of 8: float weights become 8-bit integers.
    """
    random = np.random.default_rng(seed)

    def replace_outputs(node: onnx.NodeProto, inputs: Sequence[Any], outputs: Sequence[Any]) -> Sequence[Any]:
        if domain(node) or node.op_type not in ("QuantizeLinear", "DynamicQuantizeLinear", "Round"):
            return outputs
        code, scale_and_zero = outputs[0], inputs[1:] if node.op_type == "QuantizeLinear" else outputs[1:]
        exact = rounds(node, inputs[0], *scale_and_zero)
        step = 256 ** (code.dtype.itemsize - 1) if code.dtype.kind in "iu" else 1
        low, high = np.floor(exact / step) * step, np.ceil(exact / step) * step
        chosen = np.where(random.random(exact.shape) < 0.5, low, high)
        return [_as(chosen, code), *outputs[1:]]

    return replace_outputs


def _as(chosen: Array, code: Array) -> Array:
    """The chosen numbers in the type of a code, clipped to its range; float8 codes stay as they are."""
    if code.dtype.kind == "f":
        return chosen
    if code.dtype.name.startswith("float"):
        return code
    limits = ml_dtypes.iinfo(code.dtype)  # type: ignore[no-untyped-call]
    return np.clip(chosen, limits.min, limits.max).astype(code.dtype)


def rounds(node: onnx.NodeProto, x: Array, scale: Array | None = None, zero: Array | None = None) -> Array:
    """The numbers that a quantizer rounds to codes: x / scale + zero, in float64."""
    settings = {attribute.name: attribute.i for attribute in node.attribute}
    axis, block, exact = settings.get("axis", 1), settings.get("block_size", 0), x.astype(np.float64)
    if scale is not None:
        exact = exact / laid(scale.astype(np.float64), x.shape, axis, block)
    return exact if zero is None else exact + laid(zero.astype(np.float64), x.shape, axis, block)


@dataclass(frozen=True)
class Quantizer:
    """A QuantizeLinear with stored parameters; what it rounds is the same in both models, whatever its scale."""

    node: onnx.NodeProto
    parameters: tuple[Array, ...]

    @property
    def reads(self) -> str:
        return str(self.node.input[0])

    def of(self, x: Any) -> Any:
        """The numbers that it rounds for x, in float32; None where x is not a tensor."""
        return rounds(self.node, x, *self.parameters).astype(np.float32) if isinstance(x, np.ndarray) else None


def changed_steps(folded: onnx.GraphProto, steps: Iterable[str], edits: Collection[str]) -> set[str]:
    """The steps that the fold changed, or that read a step that it changed and that cannot be returned."""
    makers = produced(folded)
    return {step for step in steps if step in edits or (not is_step(makers[step]) and makers[step].input[0] in edits)}


def quantizers(
    original: onnx.GraphProto, folded: onnx.GraphProto, names: Iterable[str]
) -> dict[str, tuple[Quantizer, Quantizer]]:
    """The quantizer in either graph of each of the steps `names` that a QuantizeLinear makes in both."""
    pairs = {name: (_quantizer(original, name), _quantizer(folded, name)) for name in names}
    return {name: (ours, theirs) for name, (ours, theirs) in pairs.items() if ours and theirs}


def _quantizer(graph: onnx.GraphProto, name: str) -> Quantizer | None:
    makers, constants = produced(graph), stored(graph)
    node = makers.get(name)
    if node is not None and not is_step(node):
        node = makers.get(node.input[0])
    if node is None or node.op_type != "QuantizeLinear" or node.input[0] not in makers:
        return None
    if not all(parameter in constants for parameter in node.input[1:]):
        return None
    return Quantizer(node, tuple(numpy_helper.to_array(constants[parameter]) for parameter in node.input[1:]))
