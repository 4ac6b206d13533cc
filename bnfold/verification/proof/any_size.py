"""What two pieces have to have in common for a comparison at two sizes to say something of tensors of any size."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from typing import Any

import onnx

from ...runtime import detached
from ...runtime.protos import FLOATING, attributes, called
from ..float64.windows import Array
from ..regions import MIXING, SELECT
from .claims import Claim
from .impulses import NotDerived
from .indexed_model import computation
from .pieces import POINTWISE, SIZES, SUMS, Piece

FOR_ANY_SIZE = frozenset(["Conv", "ConvTranspose"]) | POINTWISE | SUMS - {"Concat"}
REARRANGED = frozenset(["Reshape", "Flatten", "Transpose", "Squeeze", "Unsqueeze", "Concat", "DepthToSpace"])
PLACES = SIZES | SELECT | {"Range", "Concat", "Tile", "Pad", "Expand", "NonZero", "Trilu"}  # by sizes and indices
NO_ARITHMETIC = PLACES | {"Reshape", "Squeeze", "Unsqueeze", "Cast", "Identity"}  # sizes as they are, and as indices


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
    weight = piece.by_name.get(node.input[1])
    kernel = stated.get("kernel_shape", weight.dims[2:] if weight else None)
    if kernel is None or called(node) != "Conv" or stated.get("auto_pad", b"NOTSET") not in (b"NOTSET", b"VALID"):
        return repr(sorted(stated.items()))
    rank = len(kernel)
    steps, apart = (stated.get(name, [1] * rank) for name in ("strides", "dilations"))
    pads = stated.get("pads", [0] * 2 * rank)
    return repr([(steps[i], pads[i] + pads[i + rank] - apart[i] * (kernel[i] - 1)) for i in range(rank)])


def _is_kernel(piece: Piece, tensor: onnx.TensorProto) -> bool:
    return any(called(node) in MIXING and tensor.name in node.input[1:2] for node in piece.nodes)


def require_same_cuts(claim: Claim, examples: Mapping[str, Array], others: Mapping[str, Array]) -> None:
    """Raises NotDerived unless what cuts, pads and averages is the same in both pieces: it may differ at other sizes.

    With what rearranges before, between and after. The examples are for two sets of sizes.
    """
    if not _has_same_windows(claim):
        raise NotDerived("the two models pad in other ways: the same for some sizes only, maybe")
    if any(_is_cut(node) for piece in claim.pieces for node in piece.data_nodes()):
        pairs = {name: (examples[name].shape[1:], others[name].shape[1:]) for name in claim.pieces[0].entering}
        inner = {name: first for name, (first, second) in pairs.items() if first == second}
        ours, theirs = (_Marks(piece, inner).marks.get(claim.site) for piece in claim.pieces)
        if ours != theirs:
            raise NotDerived("the two models cut, pad or average in other ways: the same for some sizes only, maybe")


def require_same_places(pieces: Sequence[Piece]) -> None:
    """Refuse a folded piece that counts or picks elements as the original's does not: another size may show it."""
    ours, theirs = (Counter(_places(each)) for each in pieces)
    if other := theirs - ours:
        raise NotDerived(f"{next(iter(other))[0]} is not in the original: what it does depends on sizes")
    sized, new = _of_sizes(pieces[1]), {*pieces[1].changed}
    for node in _without_data(pieces[1]):
        if not new.isdisjoint(node.input) and not sized.isdisjoint(node.input) and called(node) in SELECT:
            raise NotDerived(f"what {called(node)} {node.name!r} reads of a changed constant depends on sizes")
        new.update(() if new.isdisjoint(node.input) else node.output)


def _places(own: Piece) -> Iterator[tuple[Any, ...]]:
    """What each such node does, or one that calculates with sizes, with the whole numbers that it reads."""
    whole_numbers = {n: detached.values(t).tobytes() for n, t in own.stored.items() if t.data_type not in FLOATING}
    sized = _of_sizes(own)
    for node in own.nodes:
        calculates = called(node) not in NO_ARITHMETIC and not sized.isdisjoint(node.output)
        if called(node) in PLACES or calculates:
            yield *computation(node, []), *(whole_numbers.get(name, b"") for name in node.input)


def _of_sizes(own: Piece) -> set[str]:
    """The tensors that depend on no data, but on how large some is."""
    sized = set[str]()
    for node in _without_data(own):
        if called(node) in SIZES or not sized.isdisjoint(node.input):
            sized.update(node.output)
    return sized


def _without_data(own: Piece) -> Iterator[onnx.NodeProto]:
    data = own.data()
    return (node for node in own.nodes if data.keys().isdisjoint(node.output))


def _is_cut(node: onnx.NodeProto) -> bool:
    """Whether what a node does to a tensor depends on its size; a Squeeze that states no axes looks for those of 1."""
    if called(node) == "Squeeze" and not any(node.input[1:]) and not node.attribute:
        return True
    return called(node) not in FOR_ANY_SIZE | MIXING | REARRANGED


class _Marks:
    """What cuts or rearranges on the ways to the tensors of a piece: of each the last ones, which name those before.

    Reshapes in a row are as good as the last one where the only size that they leave open is the first: then where an
    element is along the other axes does not depend on it. One back to the sizes of `inner` axes undoes all of them.
    """

    def __init__(self, piece: Piece, inner: Mapping[str, tuple[int, ...]]) -> None:
        self.piece = piece
        self.marks: dict[str, frozenset[int]] = {name: frozenset() for name in piece.entering}
        self.inner: dict[str, tuple[int, ...] | None] = {name: inner.get(name) for name in piece.entering}
        self.before: dict[str, tuple[frozenset[int], tuple[int, ...] | None]] = {}  # reshapes in a row
        for node in piece.data_nodes():
            self._add(node, [name for name in node.input if name in self.marks])

    def _add(self, node: onnx.NodeProto, data: Sequence[str]) -> None:
        read = [self.marks[name] for name in data]
        own, inner = frozenset[int]().union(*read), self.inner[data[0]] if len(data) == 1 else None
        if (rows := _rows(self.piece, node)) and data == [node.input[0]]:
            start = self.before.get(data[0], (own, inner))
            self.before[node.output[0]] = start
            own, inner = start[0] if rows == start[1] else frozenset([hash((rows, start[0]))]), rows
        elif _is_cut(node) or called(node) in REARRANGED:
            own, inner = frozenset([hash((_words(self.piece, node), *read))]), None
        elif not self._keeps(node, inner):
            inner = None
        elif data[0] in self.before:
            self.before[node.output[0]] = self.before[data[0]]
        self.marks.update(dict.fromkeys(node.output, own))
        self.inner.update(dict.fromkeys(node.output, inner))

    def _keeps(self, node: onnx.NodeProto, inner: tuple[int, ...] | None) -> bool:
        """Whether a node works element by element, and its constants make no axis longer."""
        if inner is None or called(node) not in POINTWISE:
            return False
        dims = {name: tuple(tensor.dims) for name, tensor in self.piece.by_name.items()}
        constants = [dims.get(name) for name in node.input if name and name not in self.marks]
        return called(node) == "BatchNormalization" or all(map(partial(fits_into, (1, *inner)), constants))


def fits_into(sizes: Sequence[int], dims: Sequence[int] | None) -> bool:
    """Whether a constant with these `dims` leaves a tensor of these sizes as long as it is."""
    if dims is None or len(dims) > len(sizes):
        return False
    return all(n in (1, size) for n, size in zip(dims[::-1], sizes[::-1], strict=False))


def _rows(piece: Piece, node: onnx.NodeProto) -> tuple[int, ...]:
    """The sizes of all axes but the first that a Reshape states, if they are known; else none."""
    sizes = piece.by_name.get(node.input[1]) if called(node) == "Reshape" else None
    target = [] if sizes is None else detached.values(sizes).tolist()
    return tuple(target[1:]) if target and all(size > 0 for size in target[1:]) and target[0] == -1 else ()


def _words(piece: Piece, node: onnx.NodeProto) -> str:
    """What a node does, with the constants that say how."""
    stored, data = piece.by_name, piece.data()
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
