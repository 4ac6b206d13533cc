"""What two pieces have to have in common for a comparison of them to say something of all inputs and sizes.

Casts are evaluated as if they rounded nothing, and rearrangements at a few sizes only. So the folded model may
calculate in no type that is less exact, or reaches less far, than those of the original; and where sizes may vary, what
cuts, pads or averages is the same in both.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import onnx
from onnx import helper

from ...runtime import detached
from ...runtime.protos import FLOATING, called, stored
from ..float64.floating import is_floating, roundoff
from ..float64.windows import Array
from ..regions import MIXING, SELECT
from .impulses import NotDerived
from .indexed_model import attributes, computation
from .pieces import POINTWISE, SIZES, SUMS, Claim, Piece, is_cast_to_float, require_linear

BY_SIZES = frozenset(["Reshape", "Expand", "Tile", "Slice", "Pad", "Split"])  # other inputs than the first are sizes
FOR_ANY_SIZE = frozenset(["Conv", "ConvTranspose"]) | POINTWISE | SUMS - {"Concat"}
REARRANGED = frozenset(["Reshape", "Flatten", "Transpose", "Squeeze", "Unsqueeze", "Concat", "DepthToSpace"])
PLACES = SIZES | SELECT | {"Range", "Concat", "Tile", "Pad", "Expand", "NonZero", "Trilu"}  # by sizes and indices
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


def is_for_any_size(claim: Claim) -> bool:
    """Whether pieces treat all places of images alike, whatever their number: what small images show holds for all."""
    nodes = [node for piece in claim.pieces for node in piece.data_nodes()]
    dims = (t.dims for piece in claim.pieces for t in piece.constants if len(t.dims) < 3 or not _is_kernel(piece, t))
    return (
        _has_same_windows(claim)
        and all(called(node) in FOR_ANY_SIZE for node in nodes)
        and all(any(called(node) in MIXING for node in piece.data_nodes()) for piece in claim.pieces)
        and all(sum(size > 1 for size in each) < 2 for each in dims)
    )


def _has_same_windows(claim: Claim) -> bool:
    """Whether convolutions of both pieces make images of the same size of images of any size."""
    ours, theirs = ({_window(piece, node) for node in piece.data_nodes()} - {""} for piece in claim.pieces)
    return ours == theirs


def _window(piece: Piece, node: onnx.NodeProto) -> str:
    """What, with the size of an image, the size of the image depends on that a convolution makes of it."""
    if called(node) not in ("Conv", "ConvTranspose"):
        return ""
    stated = {name: value for name, value in attributes(node).items() if name != "group"}
    weight = next((t.dims[2:] for t in piece.constants if t.name == node.input[1]), None)
    kernel = stated.get("kernel_shape", weight)
    if kernel is None or called(node) != "Conv" or stated.get("auto_pad", b"NOTSET") not in (b"NOTSET", b"VALID"):
        return repr(sorted(stated.items()))
    rank = len(kernel)
    steps, apart = (stated.get(name, [1] * rank) for name in ("strides", "dilations"))
    pads = stated.get("pads", [0] * 2 * rank)
    return repr([(steps[i], pads[i] + pads[i + rank] - apart[i] * (kernel[i] - 1)) for i in range(rank)])


def _is_kernel(piece: Piece, tensor: onnx.TensorProto) -> bool:
    return any(called(node) in MIXING and tensor.name in node.input[1:2] for node in piece.nodes)


def require_same_cuts(claim: Claim) -> None:
    """Raises NotDerived unless what cuts, pads and averages is the same in both pieces: it may differ at other sizes.

    With what rearranges before, between and after.
    """
    if not _has_same_windows(claim):
        raise NotDerived("the two models pad in other ways: the same for some sizes only, maybe")
    if any(_is_cut(node) for piece in claim.pieces for node in piece.data_nodes()):
        ours, theirs = (_cuts(piece).get(claim.site) for piece in claim.pieces)
        if ours != theirs:
            raise NotDerived("the two models cut, pad or average in other ways: the same for some sizes only, maybe")


def require_same_places(pieces: Sequence[Piece]) -> None:
    """Refuse a folded piece that counts or picks elements as the original's does not: another size may show it."""
    ours, theirs = (Counter(_places(each)) for each in pieces)
    if other := theirs - ours:
        raise NotDerived(f"{next(iter(other))[0]} is not in the original: what it does depends on sizes")
    data, sized, new = pieces[1].data(), set[str](), {*pieces[1].changed}
    for node in (node for node in pieces[1].nodes if data.keys().isdisjoint(node.output)):
        if not new.isdisjoint(node.input) and not sized.isdisjoint(node.input) and called(node) in SELECT:
            raise NotDerived(f"what {called(node)} {node.name!r} reads of a changed constant depends on sizes")
        for names in (sized, new):
            names.update(() if names.isdisjoint(node.input) else node.output)
        sized.update(node.output if called(node) in SIZES else ())


def _places(own: Piece) -> Iterator[tuple[Any, ...]]:
    """What each such node does, with the whole numbers that it reads."""
    tensors = {**{tensor.name: tensor for tensor in own.constants}, **stored(onnx.GraphProto(node=own.nodes))}
    whole_numbers = {
        name: detached.values(tensor).tobytes() for name, tensor in tensors.items() if tensor.data_type not in FLOATING
    }
    for node in own.nodes:
        if called(node) in PLACES:
            yield *computation(node, []), *(whole_numbers.get(name, b"") for name in node.input)


def _is_cut(node: onnx.NodeProto) -> bool:
    """Whether what a node does to a tensor depends on its size; a Squeeze that states no axes looks for those of 1."""
    if called(node) == "Squeeze" and not any(node.input[1:]) and not node.attribute:
        return True
    return called(node) not in FOR_ANY_SIZE | MIXING | REARRANGED


def _cuts(piece: Piece) -> dict[str, frozenset[int]]:
    """Of each tensor that depends on data what cuts or rearranges on the ways to it: the last ones, which name those
    before."""
    marks: dict[str, frozenset[int]] = {name: frozenset() for name in piece.entering}
    for node in piece.data_nodes():
        read = [marks[name] for name in node.input if name in marks]
        own = frozenset[int]().union(*read)
        if _is_cut(node) or called(node) in REARRANGED:
            own = frozenset([hash((_words(piece, node), *map(frozenset, read)))])
        marks.update(dict.fromkeys(node.output, own))
    return marks


def _words(piece: Piece, node: onnx.NodeProto) -> str:
    """What a node does, with the constants that say how."""
    stored, data = {tensor.name: tensor for tensor in piece.constants}, piece.data()
    makers = {name: each for each in piece.nodes for name in each.output}
    read = []
    for name in node.input:
        if not name or name in data:
            read.append("data" if name else "")
        elif name in stored:
            read.append(repr(detached.values(stored[name]).tolist()))
        elif name in makers:
            read.append(_words(piece, makers[name]))
    return repr((computation(node, [""]), read))
