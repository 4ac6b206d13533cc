"""The shape of what each operator makes, as far as it follows from the shapes that it reads."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from itertools import zip_longest

import numpy as np
import onnx_graphsurgeon as gs

from .foreign import alike_operator
from .implied_ranks import BROADCAST, ELEMENTWISE, GLOBAL_POOLS, POOLS, REDUCTIONS
from .lengths import Implied, Lengths, Shape
from .products import Dim, Product, dim_of, parted, product, quotient
from .window_lengths import convolution, global_pool, pool

LengthRule = Callable[[gs.Node, Lengths], Implied | list[Implied]]
TO_THE_END = (1 << 31) - 1  # a Slice that ends there, or farther, goes to the end of an axis


def lengths_of(node: gs.Node, known: Lengths) -> list[Implied] | None:
    """The shapes of the outputs, of the first ones at least; None for an operator that has no rule here."""
    if (rule := LENGTHS.get(alike_operator(node))) is None:
        return None
    if any(isinstance(value, gs.Node.AttributeRef) for value in node.attrs.values()):
        return []
    try:
        result = rule(node, known)
    except (IndexError, TypeError, ValueError, KeyError, ArithmeticError):  # not what its operator asks for
        return []
    return result if isinstance(result, list) else [result]


def numbers_in(node: gs.Node, known: Lengths, name: str, index: int) -> list[Dim] | None:
    """The numbers of a setting that is an attribute or an input; None where it is left out, or not known at all."""
    if name in node.attrs:
        return list(np.ravel(node.attrs[name]).tolist())
    if index >= len(node.inputs) or node.inputs[index].is_empty():
        return None
    numbers = known.numbers(node.inputs[index])
    return None if numbers is None else list(numbers.ravel())


def has_setting(node: gs.Node, name: str, index: int) -> bool:
    return name in node.attrs or (index < len(node.inputs) and not node.inputs[index].is_empty())


def axes_of(node: gs.Node, known: Lengths, rank: int, index: int) -> list[int] | None:
    """The setting `axes`, counted from the front."""
    axes = numbers_in(node, known, "axes", index)
    return None if axes is None else [int(a) % rank for a in axes]  # type: ignore[arg-type]


def elementwise(node: gs.Node, known: Lengths) -> Implied:
    return known.dims(node.inputs[0])


def broadcast(node: gs.Node, known: Lengths) -> Implied:
    if node.opset < 7:
        return elementwise(node, known)
    shapes = [known.dims(x) for x in node.inputs]
    return None if None in shapes else broadcast_shapes(shapes)  # type: ignore[arg-type]


def broadcast_shapes(shapes: Iterable[Shape]) -> Shape:
    """Axes are aligned from the last; those that a shape lacks have length 1."""
    columns = zip_longest(*(shape[::-1] for shape in shapes), fillvalue=1)
    return tuple(broadcast_lengths(column) for column in columns)[::-1]


def broadcast_lengths(lengths: Iterable[Dim]) -> Dim:
    """The length of an axis after broadcasting: the only one that is not 1 or, of several, the only number."""
    others = {n for n in lengths if n != 1}
    numbers = {n for n in others if isinstance(n, int)}
    candidates = numbers or others or {1}
    return candidates.pop() if len(candidates) == 1 else None


def transpose(node: gs.Node, known: Lengths) -> Implied:
    source = known.dims(node.inputs[0])
    if source is None:
        return None
    return tuple(source[i] for i in node.attrs.get("perm") or reversed(range(len(source))))


def reshape(node: gs.Node, known: Lengths) -> Implied:
    """The lengths that the second input states; a single one that is -1 or unknown follows from the number of elements.

    A length that is a product of symbols may be 0 in a run, and a 0 is replaced by a length of the input. It counts as
    it is stated where the input has the same symbols: in such a run there are no elements, before or after.
    """
    source, wanted = known.dims(node.inputs[0]), numbers_in(node, known, "shape", 1)
    if wanted is None:
        return None
    literal = bool(node.attrs.get("allowzero", 0))
    target = [target_length(i, n, source, literal) for i, n in enumerate(wanted)]
    open_ones = [i for i, n in enumerate(target) if n is None]
    if source is not None and len(open_ones) == 1:
        target[open_ones[0]] = quotient(product(source), product(n for n in target if n is not None))
    return tuple(target)


def target_length(axis: int, number: Dim, source: Implied, literal: bool) -> Dim:
    """The length that an entry of the second input of a Reshape stands for."""
    if isinstance(number, Product):
        there = {name for n in source or () if isinstance(n, Product) for name in n.symbols}
        return number if literal or there.issuperset(number.symbols) else None
    if number == 0 and not literal:
        return source[axis] if source is not None else None
    return number if number is not None and number >= 0 else None


def flatten(node: gs.Node, known: Lengths) -> Implied:
    source, axis = known.dims(node.inputs[0]), node.attrs.get("axis", 1)
    return None if source is None else (product(source[:axis]), product(source[axis:]))


def squeeze(node: gs.Node, known: Lengths) -> Implied:
    source = known.dims(node.inputs[0])
    axes = None if source is None else axes_of(node, known, len(source), 1)
    if source is None or axes is None:
        return None
    return tuple(n for i, n in enumerate(source) if i not in axes)


def unsqueeze(node: gs.Node, known: Lengths) -> Implied:
    source, inserted = known.dims(node.inputs[0]), numbers_in(node, known, "axes", 1)
    if source is None or inserted is None:
        return None
    rest, axes = iter(source), axes_of(node, known, len(source) + len(inserted), 1) or ()
    return tuple(1 if i in axes else next(rest) for i in range(len(source) + len(inserted)))


def concat(node: gs.Node, known: Lengths) -> Implied:
    shapes = [known.dims(x) for x in node.inputs]
    if None in shapes:
        return None
    columns = list(zip(*shapes, strict=True))
    axis = node.attrs.get("axis", 1) % len(columns)
    return tuple(total(c) if i == axis else (c[0] if len({*c}) == 1 else None) for i, c in enumerate(columns))


def total(lengths: Iterable[Dim]) -> Dim:
    """The sum, if it is a number, or a multiple of one product of symbols."""
    factors: dict[tuple[str, ...], int] = {}
    for n in lengths:
        if n is None:
            return None
        factor, symbols = parted(n)
        factors[symbols] = factors.get(symbols, 0) + factor
    if len(factors) > 1:
        return None
    ((symbols, factor),) = factors.items()
    return dim_of(factor, symbols)


def split(node: gs.Node, known: Lengths) -> list[Implied]:
    source = known.dims(node.inputs[0])
    if source is None:
        return []
    axis, count = node.attrs.get("axis", 0) % len(source), len(node.outputs)
    sizes = (
        numbers_in(node, known, "split", 1)
        if has_setting(node, "split", 1)
        else [quotient(source[axis], count)] * count
    )
    return [(*source[:axis], n, *source[axis + 1 :]) for n in sizes or [None] * count]


def slices(node: gs.Node, known: Lengths) -> Implied:
    """Axes that are not cut keep their length."""
    source, starts, ends = (
        known.dims(node.inputs[0]),
        numbers_in(node, known, "starts", 1),
        numbers_in(node, known, "ends", 2),
    )
    if source is None or starts is None or ends is None:
        return None
    axes = axes_of(node, known, len(source), 3) if has_setting(node, "axes", 3) else range(len(starts))
    steps = numbers_in(node, known, "steps", 4) if has_setting(node, "steps", 4) else [1] * len(starts)
    settings = zip(axes or (), starts, ends, steps or (), strict=True)
    cut = {
        a for a, start, end, step in settings if (start, step) != (0, 1) or not isinstance(end, int) or end < TO_THE_END
    }
    return tuple(None if i in cut else n for i, n in enumerate(source))


def gather(node: gs.Node, known: Lengths) -> Implied:
    source, indices = known.dims(node.inputs[0]), known.dims(node.inputs[1])
    if source is None or indices is None:
        return None
    axis = node.attrs.get("axis", 0) % len(source)
    return (*source[:axis], *indices, *source[axis + 1 :])


def matmul(node: gs.Node, known: Lengths) -> Implied:
    a, b = (known.dims(x) for x in node.inputs[:2])
    if a is None or b is None or min(len(a), len(b)) < 2:
        return None
    return (*broadcast_shapes([a[:-2], b[:-2]]), a[-2], b[-1])


def gemm(node: gs.Node, known: Lengths) -> Implied:
    a, b = (known.dims(x) or (None, None) for x in node.inputs[:2])
    return (a[1 if node.attrs.get("transA", 0) else 0], b[0 if node.attrs.get("transB", 0) else 1])


def expand(node: gs.Node, known: Lengths) -> Implied:
    source, wanted = known.dims(node.inputs[0]), numbers_in(node, known, "shape", 1)
    if source is None or wanted is None:
        return None
    return broadcast_shapes([source, tuple(None if isinstance(n, int) and n < 0 else n for n in wanted)])


def reduction(node: gs.Node, known: Lengths) -> Implied:
    source = known.dims(node.inputs[0])
    if source is None:
        return None
    one = node.op.startswith("Arg")
    axes = [node.attrs.get("axis", 0) % len(source)] if one else axes_of(node, known, len(source), 1)
    if not axes and not one and (has_setting(node, "axes", 1) or node.attrs.get("noop_with_empty_axes", 0)):
        return None
    keep = node.attrs.get("keepdims", 1)
    reduced = axes or range(len(source))
    return tuple(1 if i in reduced else n for i, n in enumerate(source) if keep or i not in reduced)


def pad(node: gs.Node, known: Lengths) -> Implied:
    source, pads = known.dims(node.inputs[0]), numbers_in(node, known, "pads", 1)
    if source is None or pads is None or has_setting(node, "axes", 3):
        return None
    before, after = pads[: len(source)], pads[len(source) :]
    return tuple(n if a == b == 0 else None for n, a, b in zip(source, before, after, strict=True))


def tile(node: gs.Node, known: Lengths) -> Implied:
    source, repeats = (
        known.dims(node.inputs[0]),
        numbers_in(node, known, "repeats", 1) if node.opset > 5 else None,
    )
    return None if source is None or repeats is None else tuple(map(product, zip(source, repeats, strict=True)))


def resize(node: gs.Node, known: Lengths) -> Implied:
    """Axes that are not scaled keep their length."""
    source, place = known.dims(node.inputs[0]), 2 if node.opset > 10 else 1
    scales = node.attrs["scales"] if "scales" in node.attrs else known.constant(node.inputs[place])
    cropped = node.attrs.get("coordinate_transformation_mode") == "tf_crop_and_resize" or "axes" in node.attrs
    if source is None or scales is None or len(scales) != len(source) or cropped:
        return None
    return tuple(n if scale == 1 else None for n, scale in zip(source, scales, strict=True))


def einsum(node: gs.Node, known: Lengths) -> Implied:
    *terms, result = re.split(",|->", str(node.attrs["equation"]).replace(" ", ""))
    lengths: dict[str, list[Dim]] = {}
    for tensor, letters in zip(node.inputs, terms, strict=True):
        for letter, n in zip(letters, known.dims(tensor) or [None] * len(letters), strict=True):
            lengths.setdefault(letter, []).append(n)
    return None if "." in result else tuple(broadcast_lengths(lengths[letter]) for letter in result)


def branches(node: gs.Node, known: Lengths) -> list[Implied]:
    """Lengths on which both branches of an If agree."""
    pairs = zip(*(map(known.dims, node.attrs[name].outputs) for name in ("then_branch", "else_branch")), strict=True)
    return [common(a, b) for a, b in pairs]


def common(a: Implied, b: Implied) -> Implied:
    if a is None or b is None or len(a) != len(b):
        return None
    return tuple(n if n == m else None for n, m in zip(a, b, strict=True))


LENGTHS: dict[str, LengthRule] = {
    **dict.fromkeys(ELEMENTWISE, elementwise),
    **dict.fromkeys(BROADCAST, broadcast),
    **dict.fromkeys(REDUCTIONS, reduction),
    **dict.fromkeys(POOLS, pool),
    **dict.fromkeys(GLOBAL_POOLS, global_pool),
    **dict.fromkeys(("Conv", "ConvTranspose"), convolution),
    **dict.fromkeys(("Resize", "Upsample"), resize),
    "Concat": concat,
    "Einsum": einsum,
    "Expand": expand,
    "Flatten": flatten,
    "Gather": gather,
    "Gemm": gemm,
    "If": branches,
    "MatMul": matmul,
    "Pad": pad,
    "Reshape": reshape,
    "Slice": slices,
    "Split": split,
    "Squeeze": squeeze,
    "Tile": tile,
    "Transpose": transpose,
    "Unsqueeze": unsqueeze,
}
