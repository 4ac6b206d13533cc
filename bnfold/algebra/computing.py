"""One node whose inputs are stored values: what it computes, type by type as ONNX says."""

from __future__ import annotations

from itertools import zip_longest
from typing import Any

import numpy as np
import onnx_graphsurgeon as gs
from onnx import ValueInfoProto, helper, numpy_helper

from .affine import Array, require, require_room
from .casting import cast, quantize
from .rounding import BFLOAT16, nearest, widened

COMPUTED = {  # operators that exporters put between a stored value and its use
    *("Add", "Cast", "CastLike", "Concat", "ConstantOfShape", "Div", "Expand", "Flatten", "Gather", "Identity", "Mul"),
    *("Neg", "Pow", "QuantizeLinear", "Reciprocal", "Reshape", "Shape", "Slice", "Sqrt", "Squeeze", "Sub", "Transpose"),
    "Unsqueeze",
}
ARITHMETIC = ("Add", "Div", "Mul", "Pow", "Reciprocal", "Sqrt", "Sub")
AGREED = ("Cast", "CastLike", "Constant", "ConstantOfShape", "QuantizeLinear", "Shape")  # on which runtimes agree
HALF = (BFLOAT16, np.dtype(np.float16))
BROADCAST = ("Add", "Div", "Expand", "Mul", "Pow", "Sub")
ENDS = (2**31 - 1, 2**63 - 1)


def computed(node: gs.Node, inputs: list[Array | None]) -> Array:
    """The output of one node for these inputs, in the element types that ONNX gives it."""
    if node.op in ("Cast", "CastLike"):
        kind = element_type(node.attrs["to"] if node.op == "Cast" else node.inputs[1].dtype)
        _require_agreed(node.inputs[0], _present(inputs)[0].dtype, kind)
        return np.asarray(cast(_present(inputs)[0], kind, *_rounding(node)))
    require_room(*_largest(node, inputs))
    if node.op == "Slice":
        return _sliced(node, _present(inputs)[0], *inputs[1:])
    if node.op == "QuantizeLinear":
        _require_agreed(node.inputs[0], _present(inputs)[0].dtype)
        return _quantized(node, *_present(inputs))
    if node.op == "Pow":
        _require_exact(*_present(inputs))
    with np.errstate(over="ignore", invalid="ignore", divide="ignore"):
        result = _by_reference(node, [None if x is None else widened(x) for x in inputs])
    if node.op == "ConstantOfShape":
        return narrowed(result, element_type(node.attrs["value"].dtype) if "value" in node.attrs else np.dtype("f4"))
    return narrowed(result, _present(inputs)[0].dtype)


def _require_exact(base: Array, exponent: Array) -> None:
    """Refuse powers of integers that no float64 holds exactly: runtimes compute with such, or let them overflow."""
    if base.dtype.kind in "iu":
        limits = np.iinfo(base.dtype)
        with np.errstate(all="ignore"):
            power = np.power(base.astype(np.float64), exponent.astype(np.float64))
        in_range = np.all((np.abs(power) <= 2.0**53) & (power >= limits.min) & (power <= limits.max))
        require(in_range, "NOT_CONSTANT", f"a Pow of {base.dtype} that overflows, on which runtimes differ")


def valued_inputs(node: gs.Node) -> list[gs.Tensor]:
    """The inputs whose values count: Shape looks at no value, CastLike at none of its second input."""
    return list(node.inputs[: {"Shape": 0, "CastLike": 1}.get(node.op)])


def narrowed(value: Array, kind: np.dtype[Any]) -> Array:
    """float64 rounded to the type that the numbers are of; anything but floating point stays as it is."""
    return value if value.dtype == kind or value.dtype.kind in "iubSUO" else nearest(value, kind)


def element_type(kind: Any) -> np.dtype[Any]:
    """The NumPy dtype of an element type, which onnx-graphsurgeon states as such or as ONNX's number for it."""
    return kind if isinstance(kind, np.dtype) else helper.tensor_dtype_to_np_dtype(kind)


def _require_agreed(tensor: gs.Tensor, kind: np.dtype[Any], to: np.dtype[Any] | None = None) -> None:
    """Refuse to convert what arithmetic in 16 bits made: not every runtime rounds it to 16 bits before it goes on."""
    agenda = [tensor] if kind in HALF and kind != to else []
    while agenda:
        t = agenda.pop()
        made_by = t.inputs[0] if t.inputs else None
        if made_by is not None and made_by.op not in AGREED:
            require(
                made_by.op not in ARITHMETIC, "NOT_CONSTANT", f"made by arithmetic in {kind}, on which runtimes differ"
            )
            agenda += valued_inputs(made_by)


def _present(inputs: list[Array | None]) -> list[Array]:
    return [x for x in inputs if x is not None]


def _rounding(node: gs.Node) -> tuple[bool, str]:
    """`saturate` and `round_mode` of a Cast, which count for types of eight bits."""
    return bool(node.attrs.get("saturate", 1)), str(node.attrs.get("round_mode", "up"))


def _by_reference(node: gs.Node, inputs: list[Array | None]) -> Array:
    """One node on the operator's reference implementation in the onnx package, in float64."""
    from onnx.reference import ReferenceEvaluator

    attributes: dict[str, Any] = {k: v.values if isinstance(v, gs.Tensor) else v for k, v in node.attrs.items()}
    if node.op == "ConstantOfShape" and "value" in attributes:
        attributes["value"] = numpy_helper.from_array(widened(np.asarray(attributes["value"])))
    names = ["" if x is None else f"x{i}" for i, x in enumerate(inputs)]
    feeds = {name: x for name, x in zip(names, inputs, strict=True) if x is not None}
    proto = helper.make_node(node.op, names, ["y"], **attributes)
    infos = [
        helper.make_tensor_value_info(k, helper.np_dtype_to_tensor_dtype(x.dtype), x.shape) for k, x in feeds.items()
    ]
    graph = helper.make_graph([proto], "constant", infos, [ValueInfoProto(name="y")])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", node.opset)])
    (result,) = ReferenceEvaluator(model).run(None, feeds)
    return np.asarray(result)


def slice_positions(length: int, start: int, end: int, step: int) -> Array:
    """The positions that a Slice takes of an axis, its start and end clamped as ONNX says.

    Refuses an end of the largest integer where steps go back: for ONNX that is the last element, for onnxruntime the
    place before the first.
    """
    require(
        step > 0 or end not in ENDS, "MALFORMED", "a Slice goes back to the largest integer: runtimes differ on that"
    )
    start, end = (at + length if at < 0 else at for at in (start, end))
    low, high = (0, length) if step > 0 else (-1, length - 1)
    return np.arange(min(max(start, 0), high), min(max(end, low), high), step)


def _sliced(node: gs.Node, value: Array, *settings: Array | None) -> Array:
    """x[start:end:step] along every axis given: by attributes up to opset 9, then by inputs."""
    named = zip(("starts", "ends", "axes", "steps"), settings, strict=False)
    stated: dict[str, Any] = {**node.attrs, **{name: np.ravel(x).tolist() for name, x in named if x is not None}}
    starts, ends = stated["starts"], stated["ends"]
    axes, steps = stated.get("axes", range(len(starts))), stated.get("steps", [1] * len(starts))
    for start, end, axis, step in zip(starts, ends, axes, steps, strict=True):
        value = value.take(slice_positions(value.shape[axis], start, end, step), axis)
    return value


def _quantized(node: gs.Node, value: Array, scale: Array, zero: Array | None = None) -> Array:
    kind = element_type(node.attrs.get("output_dtype") or np.dtype(np.uint8))
    zero = np.zeros(scale.shape, kind) if zero is None else zero
    axis, block = node.attrs.get("axis", 1), node.attrs.get("block_size", 0)

    def laid(c: Array) -> Array:
        if block:
            return np.repeat(c, block, axis).take(range(value.shape[axis]), axis)
        along = [-1 if i == axis % value.ndim else 1 for i in range(value.ndim)]
        return c.reshape(along if c.size > 1 else ())

    precision = element_type(node.attrs.get("precision") or scale.dtype)
    return quantize(value, laid(scale), laid(zero), precision, _rounding(node)[0])


def _largest(node: gs.Node, inputs: list[Array | None]) -> tuple[int, ...]:
    """The shape of what a node computes; where it only rearranges numbers, one of at least as many."""
    present = _present(inputs)
    if node.op == "ConstantOfShape":
        return tuple(map(int, present[0]))
    if node.op == "Gather":
        return present[1].size, present[0].size // max(1, present[0].shape[node.attrs.get("axis", 0)])
    if node.op in BROADCAST:
        shapes = [present[0].shape, tuple(map(int, present[1]))] if node.op == "Expand" else [x.shape for x in present]
        return tuple(map(max, zip_longest(*(shape[::-1] for shape in shapes), fillvalue=1)))
    return (sum(x.size for x in present),)
