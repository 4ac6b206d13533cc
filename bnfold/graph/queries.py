"""What rules and plans may ask of a graph: onnx-graphsurgeon nodes and tensors, read only."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import onnx
import onnx_graphsurgeon as gs

from ..algebra.affine import Affine, Array, Refused, require
from ..algebra.rounding import TINY
from .constants import is_evaluable, value_of
from .foreign import keeps_type
from .products import Dim as Dim
from .products import Product, repeats

LONGEST_AXIS = 1 << 24  # elements along an axis: such a vector of coefficients has 128 MB


def operator(node: gs.Node) -> str:
    """The ONNX operator of a node, or '' for a node of another domain that merely shares the name."""
    return str(node.op) if node.domain in (None, "", "ai.onnx") else ""


def label(node: gs.Node) -> str:
    """How a node is called in sentences: its operator and its name, or what it produces where it has none."""
    return f"{node.op} '{node.name}'" if node.name else f"{node.op} -> '{node.outputs[0].name}'"


@contextmanager
def algebra(node: gs.Node) -> Iterator[None]:
    """A block of NumPy operations on what a node states: what raises an error there is refused as MALFORMED.

    onnx's checker does not check that shapes fit or that settings are lists, and rules need not.
    """
    try:
        yield
    except (ValueError, IndexError, TypeError, ArithmeticError) as why:
        words = f"the shapes or settings of {label(node)} contradict what it reads or makes"
        raise Refused("MALFORMED", words) from why


def opset(node: gs.Node) -> int:
    """The version of the ONNX operator set that defines this node."""
    return int(node.opset)


def has(node: gs.Node, index: int) -> bool:
    """Whether an optional input is there."""
    return index < len(node.inputs) and not node.inputs[index].is_empty()


def attribute(node: gs.Node, name: str, default: Any = None) -> Any:
    """An attribute, or its default. Refuses a reference to an attribute of the enclosing function."""
    value = node.attrs.get(name, default)
    require(
        not isinstance(value, gs.Node.AttributeRef),
        "NOT_CONSTANT",
        f"attribute {name} of {label(node)} is set by the caller of the function",
    )
    return value


def argument(node: gs.Node, name: str, index: int, default: Any = None) -> Any:
    """A setting that newer opsets moved from attribute `name` to input `index`: whichever this node has."""
    if has(node, index):
        return constant(node, index).tolist()
    return attribute(node, name, default)


def number(node: gs.Node, value: Any) -> float:
    """A setting as a float. Refuses what is not one number."""
    array = np.asarray(value)
    sound = array.size == 1 and array.dtype.kind in "biuf"
    require(sound, "MALFORMED", f"a setting of {label(node)} is not one number")
    return float(array.reshape(()))


def is_constant(tensor: gs.Tensor) -> bool:
    """Whether the value is stored in the model, or follows from stored values alone."""
    return is_evaluable(tensor)


def constant(node: gs.Node, index: int) -> Array:
    """The constant value of an input; floating point comes as float64. Refuses a value known only at run time."""
    tensor = node.inputs[index]
    require(
        is_constant(tensor), "NOT_CONSTANT", f"'{tensor.name}', an input of {label(node)}, is not a stored constant"
    )
    value = value_of(tensor)
    require(value.dtype.kind not in "OSU", "DTYPE", f"'{tensor.name}', an input of {label(node)}, holds no numbers")
    return value


def dtype(tensor: gs.Tensor) -> np.dtype[Any]:
    """The element type as NumPy (or ml_dtypes, for bfloat16) knows it. Refuses if it is not known."""
    while literal_of(tensor).dtype is None and any(map(keeps_type, tensor.inputs)):
        tensor = tensor.inputs[0].inputs[0]
    kind = literal_of(tensor).dtype
    known = isinstance(kind, np.dtype) or kind in onnx.helper.get_all_tensor_dtypes()
    require(known, "SHAPE_UNKNOWN", f"the element type of '{tensor.name}' is not known")
    return kind if isinstance(kind, np.dtype) else onnx.helper.tensor_dtype_to_np_dtype(kind)


def literal_of(tensor: gs.Tensor) -> gs.Tensor:
    """The constant of a tensor that a Constant node makes; any other tensor itself."""
    made_by = tensor.inputs[0] if tensor.inputs else None
    literal = made_by.attrs.get("value") if made_by is not None and made_by.op == "Constant" else None
    return literal if isinstance(literal, gs.Constant) else tensor


def is_floating(tensor: gs.Tensor) -> bool:
    """Whether the tensor is known to hold float16, bfloat16, float32 or float64 values."""
    try:
        return dtype(tensor) in TINY
    except Refused:
        return False


def dims(tensor: gs.Tensor) -> tuple[Dim, ...]:
    """The dimensions: an int where static, a Product where not. Refuses if not even the rank is known."""
    known = tensor.shape is not None
    if is_constant(tensor) and not (known and all(isinstance(n, int) for n in tensor.shape)):
        return value_of(tensor).shape
    require(known, "SHAPE_UNKNOWN", f"the rank of '{tensor.name}' is not known before run time")
    return tuple(tensor.shape)


def rank(tensor: gs.Tensor) -> int:
    return len(dims(tensor))


def bounded(length: int) -> int:
    """A length of an axis along which coefficients are laid out. Refuses one of more than LONGEST_AXIS elements."""
    require(abs(length) <= LONGEST_AXIS, "TOO_LARGE", f"an axis would have {length} elements")
    return length


def size(tensor: gs.Tensor, axis: int) -> int:
    """The length of one axis. Refuses if it is not static, or beyond the limit of what may be computed."""
    n = dims(tensor)[axis]
    require(
        isinstance(n, int),
        "SHAPE_UNKNOWN",
        f"the length of axis {axis} of '{tensor.name}' is not known before run time",
    )
    return bounded(int(n))  # type: ignore[arg-type]


def shape(tensor: gs.Tensor) -> tuple[int, ...]:
    """The static shape. Refuses if any axis is dynamic."""
    return tuple(size(tensor, axis) for axis in range(rank(tensor)))


def carries_data(port: int, node: gs.Node) -> None:
    """Refuse unless the affine is on the first input or output, where most operators carry their data."""
    require(port == 0, "NOT_LINEAR", f"it reaches {label(node)} as a setting, not as data")


def fits(affine: Affine, axes: tuple[Dim, ...]) -> bool:
    """Whether a tensor with these dimensions has every axis on which the affine varies, or repeats."""
    own = (None,) * (affine.rank - len(axes)) + axes
    pairs = zip(affine.extent, own[len(own) - affine.rank :], strict=True)
    return all(n == 1 or n == m or repeats(n, m) for n, m in pairs)


def is_repeated(affine: Affine, tensor: gs.Tensor) -> bool:
    """Whether the affine repeats along an axis of the tensor: it varies, but not along all of it."""
    if tensor.shape is None or not any(isinstance(n, Product) for n in tensor.shape):
        return False
    return any(map(repeats, affine.extent[::-1], tensor.shape[::-1]))


def scales_a_number(tensor: gs.Tensor) -> bool:
    """Whether a Mul makes a tensor of a constant and of a number that a run knows: it may take another shape."""
    maker = tensor.inputs[0] if tensor.inputs else None
    if maker is None or operator(maker) != "Mul" or opset(maker) < 7 or len(tensor.outputs) != 1:
        return False
    shapes = [x.shape for x in maker.inputs if not is_constant(x)]
    return len(shapes) == 1 and shapes[0] is not None and tuple(shapes[0]) in ((), (1,))


def onto(affine: Affine, tensor: gs.Tensor) -> Affine:
    """The affine at the rank of a tensor that is broadcast. Refuses if it varies along an axis the tensor lacks."""
    if scales_a_number(tensor):
        return affine
    axes = dims(tensor)
    require(fits(affine, axes), "VARIES", f"it varies along an axis on which '{tensor.name}' is broadcast")
    return affine.map(lambda c: c.reshape((1,) * (len(axes) - c.ndim) + c.shape[max(0, c.ndim - len(axes)) :]))
