"""Operators that turn small differences into whole steps: quantizers, comparisons, choices.

A number that lies at a tie is rounded up by one kernel and down by another, and from there on the two runs differ by a
whole step, which says nothing about either. So after each such operator both models, the float64 evaluation and the
jittered copies are fed what the original makes there. Every stretch from one step to the next is then compared on its
own, as strictly as a network without steps. A step that the fold left alone does the same to the same numbers: what
enters it is compared. A quantizer whose scale the fold changed is compared by the numbers that it rounds.
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
from ..float64.oracle import Steer
from ..float64.windows import Array

ROUNDING = frozenset(["Round", "Floor", "Ceil", "Sign"])
COMPARING = frozenset(["Greater", "GreaterOrEqual", "Less", "LessOrEqual", "Equal", "ArgMax", "ArgMin"])
QUANTIZING = frozenset(["QuantizeLinear", "QLinearConv", "QLinearMatMul", "DynamicQuantizeLinear"])
OUTPUTS = {
    "DynamicQuantizeLinear": (0, 2),
    "TopK": (1,),
}  # of an operator, those that move in steps, where not the first
STEPS = ROUNDING | COMPARING | QUANTIZING | {"TopK", "NonMaxSuppression", "Cast"}
_WHOLE = {getattr(TensorProto, f"{sign}INT{bits}") for sign in ("", "U") for bits in (4, 8, 16, 32, 64)}


def is_step(node: onnx.NodeProto) -> bool:
    """Whether a node makes whole steps of small differences."""
    if node.op_type not in STEPS or domain(node):
        return False
    return node.op_type != "Cast" or any(a.name == "to" and a.i in {*_WHOLE, TensorProto.BOOL} for a in node.attribute)


def is_quantized(graph: onnx.GraphProto) -> bool:
    """Whether the runtime may compute in integers here."""
    return any(node.op_type in QUANTIZING and not domain(node) for node in graph.node)


def steps(original: onnx.GraphProto, folded: onnx.GraphProto, narrow: Collection[str]) -> list[str]:
    """Tensors that move in steps in both graphs, in the order of the original.

    Where the runtime cannot return one, being `narrow` (of less than 8 bits, or float8), it is what is made of it.
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
    """Of a type that onnxruntime neither takes nor returns in Python."""
    return isinstance(value, np.ndarray) and value.dtype.name.startswith(
        ("int4", "uint4", "int2", "uint2", "float8", "float4")
    )


def replace_codes(codes: Mapping[str, Array]) -> Steer:
    """For the float64 evaluation: what comes after a step reads `codes`."""
    widened = {name: wide(value) for name, value in codes.items()}
    return lambda node, inputs, outputs: [widened.get(*pair) for pair in zip(node.output, outputs, strict=False)]


def either_neighbour(seed: int) -> Steer:
    """For the float64 evaluation: quantizers choose at random between the two codes next to a number.

    That is what integer kernels are entitled to: they round biases, scales and sums in ways of their own, but no
    further than to one of the two. Codes of 16 bits count as of 8: weights that are float become 8-bit integers.
    """
    random = np.random.default_rng(seed)

    def steer(node: onnx.NodeProto, inputs: Sequence[Any], outputs: Sequence[Any]) -> Sequence[Any]:
        if domain(node) or node.op_type not in ("QuantizeLinear", "DynamicQuantizeLinear", "Round"):
            return outputs
        code, scale_and_zero = outputs[0], inputs[1:] if node.op_type == "QuantizeLinear" else outputs[1:]
        exact, apart = (
            rounds(node, inputs[0], *scale_and_zero),
            256 ** (code.dtype.itemsize - 1) if code.dtype.kind in "iu" else 1,
        )
        low, high = np.floor(exact / apart) * apart, np.ceil(exact / apart) * apart
        chosen = np.where(random.random(exact.shape) < 0.5, low, high)
        return [_as(chosen, code), *outputs[1:]]

    return steer


def _as(chosen: Array, code: Array) -> Array:
    """In the type of a code and its range; of floating point as they are, or not at all."""
    if code.dtype.kind == "f":
        return chosen
    if code.dtype.name.startswith("float"):
        return code
    limits = ml_dtypes.iinfo(code.dtype)  # type: ignore[no-untyped-call]
    return np.clip(chosen, limits.min, limits.max).astype(code.dtype)


def rounds(node: onnx.NodeProto, x: Array, scale: Array | None = None, zero: Array | None = None) -> Array:
    """The numbers that a quantizer rounds to codes, in float64."""
    settings = {attribute.name: attribute.i for attribute in node.attribute}
    axis, block, exact = settings.get("axis", 1), settings.get("block_size", 0), x.astype(np.float64)
    if scale is not None:
        exact = exact / laid(scale.astype(np.float64), x.shape, axis, block)
    return exact if zero is None else exact + laid(zero.astype(np.float64), x.shape, axis, block)


@dataclass(frozen=True)
class Ruler:
    """A QuantizeLinear with stored parameters, to say what it rounds: in both models the same, however scaled."""

    node: onnx.NodeProto
    parameters: tuple[Array, ...]

    @property
    def reads(self) -> str:
        return str(self.node.input[0])

    def of(self, x: Any) -> Any:
        """Float32, of the shape of x, in codes."""
        return rounds(self.node, x, *self.parameters).astype(np.float32) if isinstance(x, np.ndarray) else None


def touched(folded: onnx.GraphProto, steps: Iterable[str], edits: Collection[str]) -> set[str]:
    """The steps that the fold changed, or what they are made of where that cannot be returned."""
    makers = produced(folded)
    return {step for step in steps if step in edits or (not is_step(makers[step]) and makers[step].input[0] in edits)}


def rulers(original: onnx.GraphProto, folded: onnx.GraphProto, names: Iterable[str]) -> dict[str, tuple[Ruler, Ruler]]:
    """For each of the steps `names` that a QuantizeLinear makes in both graphs: what it rounds there."""
    rulers = {name: (_ruler(original, name), _ruler(folded, name)) for name in names}
    return {name: (ours, theirs) for name, (ours, theirs) in rulers.items() if ours and theirs}


def _ruler(graph: onnx.GraphProto, name: str) -> Ruler | None:
    makers, constants = produced(graph), stored(graph)
    node = makers.get(name)
    if node is not None and not is_step(node):
        node = makers.get(node.input[0])
    if node is None or node.op_type != "QuantizeLinear" or node.input[0] not in makers:
        return None
    if not all(parameter in constants for parameter in node.input[1:]):
        return None
    return Ruler(node, tuple(numpy_helper.to_array(constants[parameter]) for parameter in node.input[1:]))
