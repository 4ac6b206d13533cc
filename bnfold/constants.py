"""Values that are known before run time: initializers, Constant nodes, and what is computed from them alone."""

from __future__ import annotations

from itertools import zip_longest
from typing import Any

import numpy as np
import onnx_graphsurgeon as gs
from onnx import ValueInfoProto, helper, numpy_helper

from .affine import Array, Refused, require_room
from .rounding import widened

COMPUTED = {  # operators that exporters put between a stored value and its use
    *("Add", "Cast", "CastLike", "Concat", "ConstantOfShape", "Div", "Expand", "Flatten", "Gather", "Identity", "Mul"),
    *("Neg", "Pow", "Reciprocal", "Reshape", "Shape", "Slice", "Sqrt", "Squeeze", "Sub", "Transpose", "Unsqueeze"),
}
BROADCAST = ("Add", "Div", "Expand", "Mul", "Pow", "Sub")
SCALARS = {"value_float": np.float32, "value_floats": np.float32, "value_int": np.int64, "value_ints": np.int64}


def is_evaluable(tensor: gs.Tensor) -> bool:
    """Whether `value_of` knows the value. Tensors keep the answer, for folding changes it for none."""
    agenda = [] if hasattr(tensor, "evaluable") else [tensor]
    while agenda:
        t = agenda[-1]
        operands = _operands(t)
        new = [x for x in operands or () if not hasattr(x, "evaluable")]
        t.evaluable = operands is not None and not new and all(x.evaluable for x in operands)
        agenda += new
        if not new:
            agenda.pop()
    return bool(tensor.evaluable) and not tensor.is_empty()


def _operands(tensor: gs.Tensor) -> list[gs.Tensor] | None:
    """What the value of a tensor is computed from; None if that is not known before run time."""
    if isinstance(tensor, gs.Constant) or tensor.is_empty():
        return []
    if len(tensor.inputs) != 1 or not _computes_a_constant(tensor.inputs[0]):
        return None
    return _read(tensor.inputs[0])


def _read(node: gs.Node) -> list[gs.Tensor]:
    """The inputs whose values count: Shape looks at no value, CastLike at none of its second input."""
    return list(node.inputs[: {"Shape": 0, "CastLike": 1}.get(node.op)])


def _computes_a_constant(node: gs.Node) -> bool:
    if node.domain not in (None, "", "ai.onnx") or len(node.outputs) != 1:
        return False
    if node.op == "Constant":
        return "value" in node.attrs or any(name in node.attrs for name in SCALARS)
    if node.op == "Shape":
        return _is_static(node.inputs[0].shape)
    if node.op == "CastLike":
        return node.inputs[1].dtype is not None
    return node.op in COMPUTED


def _is_static(dims: Any) -> bool:
    return dims is not None and all(isinstance(n, int) for n in dims)


def value_of(tensor: gs.Tensor) -> Array:
    """The value of an evaluable tensor. Floating point is widened to float64 and computed in float64.

    Refuses where it turns out that it cannot be computed, or would be too large.
    """
    if isinstance(tensor, gs.Constant):
        return widened(tensor.values)
    values: dict[int, Array | None] = {}
    agenda = [tensor]
    while agenda:
        t = agenda[-1]
        new = [x for x in _operands(t) or () if id(x) not in values]
        agenda += new
        if not new:
            values[id(t)] = _value(t, values)
            agenda.pop()
    result = values[id(tensor)]
    assert result is not None
    return result


def _value(tensor: gs.Tensor, values: dict[int, Array | None]) -> Array | None:
    """The value of a tensor by those of what it is computed from, or None for an omitted one."""
    if isinstance(tensor, gs.Constant):
        return widened(tensor.values)
    if tensor.is_empty():
        return None
    node = tensor.inputs[0]
    if node.op == "Constant":
        return widened(_literal(node))
    if node.op == "Shape":
        start, end = node.attrs.get("start", 0), node.attrs.get("end")
        return np.asarray(node.inputs[0].shape[start:end], np.int64)
    return _evaluate(node, [values[id(x)] for x in _read(node)])


def _literal(node: gs.Node) -> Array:
    if "value" in node.attrs:
        return np.asarray(node.attrs["value"].values)
    name = next(name for name in SCALARS if name in node.attrs)
    return np.asarray(node.attrs[name], SCALARS[name])


def _evaluate(node: gs.Node, inputs: list[Array | None]) -> Array:
    """One node on the operator's reference implementation in the onnx package."""
    if node.op in ("Cast", "CastLike"):
        return _cast(node, inputs)
    from onnx.reference import ReferenceEvaluator

    attributes: dict[str, Any] = {k: v.values if isinstance(v, gs.Tensor) else v for k, v in node.attrs.items()}
    if node.op == "ConstantOfShape" and "value" in attributes:
        attributes["value"] = numpy_helper.from_array(widened(np.asarray(attributes["value"])))
    require_room(*_largest(node, inputs))
    names = ["" if x is None else f"x{i}" for i, x in enumerate(inputs)]
    given = {name: x for name, x in zip(names, inputs, strict=True) if x is not None}
    proto = helper.make_node(node.op, names, ["y"], **attributes)
    infos = [
        helper.make_tensor_value_info(k, helper.np_dtype_to_tensor_dtype(x.dtype), x.shape) for k, x in given.items()
    ]
    graph = helper.make_graph([proto], "constant", infos, [ValueInfoProto(name="y")])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", node.opset)])
    try:
        (result,) = ReferenceEvaluator(model).run(None, given)
    except Exception as why:  # whatever it raises where shapes do not fit, or it knows no such node
        name = node.outputs[0].name
        raise Refused("NOT_CONSTANT", f"the constant '{name}' cannot be computed: {type(why).__name__}") from why
    return np.asarray(result)


def _largest(node: gs.Node, inputs: list[Array | None]) -> tuple[int, ...]:
    """The shape of what a node computes or, where operators only rearrange what there is, of at least as much."""
    given = [x for x in inputs if x is not None]
    if node.op == "ConstantOfShape":
        return tuple(map(int, given[0]))
    if node.op == "Gather":
        return given[1].size, given[0].size // max(1, given[0].shape[node.attrs.get("axis", 0)])
    if node.op in BROADCAST:
        shapes = [given[0].shape, tuple(map(int, given[1]))] if node.op == "Expand" else [x.shape for x in given]
        return tuple(map(max, zip_longest(*(shape[::-1] for shape in shapes), fillvalue=1)))
    return (sum(x.size for x in given),)


def _cast(node: gs.Node, inputs: list[Array | None]) -> Array:
    value = inputs[0]
    assert value is not None
    kind = node.attrs["to"] if node.op == "Cast" else node.inputs[1].dtype
    like = kind if isinstance(kind, np.dtype) else helper.tensor_dtype_to_np_dtype(kind)
    return widened(value.astype(like)) if like.kind in "iub" else value.astype(np.float64)
