"""Numbers that nodes compute from lengths, on their way to a Reshape or Expand: whole ones, products, or unknown."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import onnx_graphsurgeon as gs
from onnx import TensorProto

from ..algebra.affine import Array
from ..algebra.computing import slice_positions
from .lengths import Lengths
from .products import Dim, product, quotient

NumberRule = Callable[[gs.Node, Lengths], Array | None]
WHOLE_NUMBERS = (TensorProto.INT32, TensorProto.INT64)


def numbers_of(node: gs.Node, known: Lengths) -> Array | None:
    """What a node makes of lengths, or of numbers computed from them; None where that is something else."""
    rule = NUMBERS.get(node.op) if node.domain in (None, "", "ai.onnx") else None
    if rule is None or not (node.op in ALWAYS or any(map(known.is_noted, node.inputs))):
        return None
    try:
        return rule(node, known)
    except (IndexError, TypeError, ValueError, KeyError):  # not the inputs or settings that its operator asks for
        return None


def shape_operator(node: gs.Node, known: Lengths) -> Array | None:
    dims = known.dims(node.inputs[0])
    return None if dims is None else array(dims[node.attrs.get("start", 0) : node.attrs.get("end")])


def size_operator(node: gs.Node, known: Lengths) -> Array | None:
    dims = known.dims(node.inputs[0])
    return None if dims is None else array([product(dims)]).reshape(())


def array(numbers: tuple[Dim, ...] | list[Dim]) -> Array:
    result = np.empty(len(numbers), object)
    result[:] = numbers
    return result


def same(node: gs.Node, known: Lengths) -> Array | None:
    return known.numbers(node.inputs[0])


def cast(node: gs.Node, known: Lengths) -> Array | None:
    return same(node, known) if node.attrs["to"] in WHOLE_NUMBERS else None


def gather(node: gs.Node, known: Lengths) -> Array | None:
    x, indices = known.numbers(node.inputs[0]), known.numbers(node.inputs[1])
    if x is None or indices is None or x.ndim != 1:
        return None
    return x[indices.astype(np.int64).ravel()].reshape(indices.shape)


def sliced(node: gs.Node, known: Lengths) -> Array | None:
    x = known.numbers(node.inputs[0])
    start, end, axis, step = (number_in(node, known, name, i) for i, name in enumerate(SLICE, 1))
    if x is None or x.ndim != 1 or start is None or end is None or axis not in (0, -1, None):
        return None
    return x[slice_positions(len(x), start, end, 1 if step is None else step)]


SLICE = ("starts", "ends", "axes", "steps")


def number_in(node: gs.Node, known: Lengths, name: str, index: int) -> int | None:
    """The one number of a setting that is an attribute or an input; None where it is left out."""
    if name not in node.attrs and (index >= len(node.inputs) or node.inputs[index].is_empty()):
        return None
    numbers = node.attrs[name] if name in node.attrs else known.numbers(node.inputs[index])
    (number,) = numbers  # type: ignore[misc]
    return int(number)  # raises TypeError for one that is not known


def concat(node: gs.Node, known: Lengths) -> Array | None:
    parts = [known.numbers(x) for x in node.inputs]
    return None if any(x is None for x in parts) else np.concatenate([x for x in parts if x is not None])


def rearranged(node: gs.Node, known: Lengths) -> Array | None:
    """From a number to a list of it (Unsqueeze), or back."""
    x = known.numbers(node.inputs[0])
    return None if x is None or x.size != 1 or x.ndim != (node.op == "Squeeze") else x.reshape([1] * (1 - x.ndim))


def reshape(node: gs.Node, known: Lengths) -> Array | None:
    x, to = known.numbers(node.inputs[0]), known.numbers(node.inputs[1])
    if x is None or to is None or len(to) > 1:
        return None
    return x.reshape([-1] * len(to))


def multiplied(node: gs.Node, known: Lengths) -> Array | None:
    """Products in 64 bits: in fewer they might overflow."""
    long = node.outputs[0].dtype in (np.dtype(np.int64), TensorProto.INT64)
    return per_number(lambda n, m: product([n, m]), node, known) if long else None


def over(node: gs.Node, known: Lengths) -> Array | None:
    return per_number(quotient, node, known)


def per_number(operation: Callable[[Dim, Dim], Dim], node: gs.Node, known: Lengths) -> Array | None:
    """An operation on two numbers, applied to those of both inputs, which are broadcast."""
    a, b = (known.numbers(x) for x in node.inputs)
    if a is None or b is None:
        return None
    left, right = np.broadcast_arrays(a, b)
    return array([operation(n, m) for n, m in zip(left.flat, right.flat, strict=True)]).reshape(left.shape)


def all_of_them(node: gs.Node, known: Lengths) -> Array | None:
    """ReduceProd of a list: the product of all its numbers."""
    x = known.numbers(node.inputs[0])
    result = None if x is None or x.ndim != 1 else array([product(x)])
    return result if result is None or node.attrs.get("keepdims", 1) else result.reshape(())


NUMBERS: dict[str, NumberRule] = {
    **dict.fromkeys(("Squeeze", "Unsqueeze"), rearranged),
    "Cast": cast,
    "Concat": concat,
    "Div": over,
    "Gather": gather,
    "Identity": same,
    "Mul": multiplied,
    "ReduceProd": all_of_them,
    "Reshape": reshape,
    "Shape": shape_operator,
    "Size": size_operator,
    "Slice": sliced,
}
ALWAYS = ("Concat", "Shape", "Size")  # the others only read what is noted
