"""What two pieces have to have in common for a comparison of them to say something of all inputs and sizes.

Casts are evaluated as if they rounded nothing, and rearrangements at a few sizes only. So the folded model may
calculate in no type that is less exact, or reaches less far, than those of the original; and where sizes may vary, what
cuts, pads or averages is the same in both.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
import onnx
from onnx import helper

from ...runtime import detached
from ...runtime.protos import FLOATING, attributes, called
from ..float64.floating import is_floating, roundoff
from ..float64.windows import Array
from ..regions import MIXING
from .claims import Claim
from .impulses import NotDerived
from .pieces import SIZES, Piece, is_cast_to_float, require_linear

BY_SIZES = frozenset(["Reshape", "Expand", "Tile", "Slice", "Pad", "Split"])  # other inputs than the first are sizes
UNUSUAL, UNUSUAL_HALF = 2.0**32, 2.0**12  # constants that folds seldom reach
MULTIPLY = MIXING | {"Mul", "Div", "BatchNormalization"}


def require_same_arithmetic(claim: Claim, examples: Mapping[str, Array]) -> None:
    """Raises NotDerived where the folded model's piece calculates in a lesser type, or one with sizes or integers."""
    _require_floats(claim, examples)
    for piece in claim.pieces:
        _require_no_sizes(piece)
        _require_kernels(piece)
    kinds = [_kinds(piece, examples) for piece in claim.pieces]
    made = [own.get(claim.site) for own in kinds]
    if made[0] != made[1]:
        raise NotDerived("the two models make it in different types")
    stored = [[np.dtype(helper.tensor_dtype_to_np_dtype(t.data_type)) for t in _stored(p)] for p in claim.pieces]
    _require_as_exact([*kinds[0].values()], [*kinds[1].values()])
    _require_as_exact([*kinds[0].values(), *stored[0]], [*kinds[1].values(), *stored[1]])
    _require_in_range(claim, np.dtype(np.float16) in kinds[1].values())


def _require_kernels(piece: Piece) -> None:
    """The float64 evaluation looks at no kernel_shape that is another than its weight's, which no runtime takes."""
    dims = {tensor.name: [*tensor.dims[2:]] for tensor in piece.constants}
    for node in piece.nodes:
        stated = attributes(node)
        kernel = stated.get("kernel_shape") if called(node) in MIXING else None
        if stated.get("group", 1) < 1 or (kernel and kernel != dims.get(node.input[1], kernel)):
            raise NotDerived(f"{node.op_type} {node.name!r} states another kernel than its weight is")


def _require_floats(claim: Claim, examples: Mapping[str, Array]) -> None:
    for name in {claim.like, *(each for piece in claim.pieces for each in piece.entering)}:
        if name not in examples or not is_floating(examples[name]):
            for piece in claim.pieces:
                require_linear(piece)
            raise NotDerived(f"{name!r}, which enters it, holds no floating-point numbers")


def _require_in_range(claim: Claim, is_half: bool) -> None:
    """A node on the way to the last one may make numbers that are too large, where the last makes them small again."""
    nodes = [called(node) for node in claim.pieces[1].data_nodes()]
    if is_half and sum(name in MULTIPLY for name in nodes) > 1:
        raise NotDerived("a number on the way may be beyond the range of float16")
    if sum(name in MULTIPLY | {"Add", "Sub"} for name in nodes) > 1:
        ours, theirs = map(_largest, claim.pieces)
        if theirs > max(ours, UNUSUAL_HALF if is_half else UNUSUAL):
            raise NotDerived("a number on the way may be beyond the range of its type")


def _largest(piece: Piece) -> float:
    """The largest factor or summand among the constants of a piece, and those that are divided by."""
    divisors, largest = {name for node in piece.nodes if called(node) == "Div" for name in node.input[1:]}, 0.0
    for tensor in _stored(piece):
        sizes = np.abs(detached.values(tensor))
        largest = max(largest, float(sizes.max(initial=0)))
        if tensor.name in divisors:
            largest = max(largest, 1 / float(sizes.min(initial=1)) if sizes.all() else np.inf)
    return largest


def _require_no_sizes(piece: Piece) -> None:
    """Sizes say where elements go; they are no numbers to calculate with."""
    data, sizes = piece.data(), set[str]()
    for node in piece.nodes:
        of_data = called(node) in SIZES and not data.keys().isdisjoint(node.input)  # those of a constant never vary
        if of_data or (data.keys().isdisjoint(node.output) and not sizes.isdisjoint(node.input)):
            sizes.update(node.output)
        elif not sizes.isdisjoint(node.input[:1] if called(node) in BY_SIZES else node.input):
            raise NotDerived(f"{node.op_type} {node.name!r} calculates with sizes")


def _kinds(piece: Piece, examples: Mapping[str, Array]) -> dict[str, Any]:
    """The types of the tensors that depend on what enters."""
    kinds: dict[str, Any] = {name: np.dtype(examples[name].dtype) for name in piece.entering if name in examples}
    for node in piece.data_nodes():
        if not is_cast_to_float(node):
            raise NotDerived(f"{node.op_type} {node.name!r} is not linear")
        to = next((a.i for a in node.attribute if a.name == "to"), 0) if called(node) == "Cast" else 0
        kind = (
            np.dtype(helper.tensor_dtype_to_np_dtype(to))
            if to
            else next((kinds[name] for name in node.input if name in kinds), None)
        )
        kinds.update((name, kind) for name in node.output if kind is not None)
    return kinds


def _stored(piece: Piece) -> list[onnx.TensorProto]:
    """The floating-point constants."""
    values = (a.t for n in piece.nodes if called(n) == "Constant" for a in n.attribute if a.name == "value")
    return [tensor for tensor in (*piece.constants, *values) if tensor.data_type in FLOATING]


def _require_as_exact(ours: Iterable[Any], theirs: Iterable[Any]) -> None:
    ours, theirs = {*ours}, {*theirs}
    if max(map(roundoff, theirs), default=0.0) > max(map(roundoff, ours), default=0.0):
        raise NotDerived("the folded model calculates in a type that is less exact")
    if min(map(_reach, theirs), default=1) < min(map(_reach, ours), default=1):
        raise NotDerived("the folded model calculates in a type that reaches less far")


def _reach(kind: Any) -> int:
    """How many bits the exponents of a type have, as an order."""
    return 0 if kind == np.float16 else 2 if kind == np.float64 else 1
