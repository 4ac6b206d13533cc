"""Every way a file can store a constant: where it lies, in which field, and what operators stand before its use."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from .net import BOOL, F16, F32, F64, FLOATS, I64, Scope, Skip, Value, need


def array_of(value: Any, kind: int) -> np.ndarray:
    with np.errstate(all="ignore"):
        return np.asarray(value).astype(helper.tensor_dtype_to_np_dtype(kind))


def tensor_of(g: Scope, value: Any, kind: int, name: str = "") -> TensorProto:
    """In raw bytes or in the field of the type, at times with a note."""
    value = array_of(value, kind)
    if g.file.chance(0.25) and kind in (F16, F32, F64, I64):
        tensor = helper.make_tensor(name, kind, value.shape, value.reshape(-1).tolist())
    else:
        tensor = numpy_helper.from_array(value, name)
    if g.file.chance(0.03):
        tensor.doc_string = "a note"
    return tensor


def plain(g: Scope, value: Any, kind: int, hint: str = "c") -> Value:
    """An initializer of this graph or of one around it, or a Constant node."""
    value = array_of(value, kind)
    f = g.file
    old = f.opset < 9 and kind not in FLOATS  # a Constant holds floating point alone
    if g.outer is not None and not g.is_function and (f.chance(0.3) or (old and f.ir < 4)):
        return plain(g.outer, value, kind, hint)
    if g.is_function or (g.outer is not None and f.ir < 4) or (f.chance(0.2) and not old):
        return literal(g, value, kind, hint)
    name = g.fresh(hint)
    if kind in FLOATS and value.ndim == 1 and value.size and f.chance(0.012) and f.opset >= 11:
        return sparse(g, value, kind, name)
    g.inits.append(tensor_of(g, value, kind, name))
    return stored(g, name, kind, value)


def stored(g: Scope, name: str, kind: int, value: np.ndarray) -> Value:
    """The value that layers see; a later constant of the shape may be this one again."""
    made = Value(name, kind, value.shape, value if kind in (I64, BOOL) else None, constant=True)
    g.constants.append(made)
    return made


def literal(g: Scope, value: np.ndarray, kind: int, hint: str = "c") -> Value:
    """A Constant node, with whichever of its attributes can say the value."""
    name, f = g.fresh(hint), g.file
    attributes: dict[str, Any] = {"value": tensor_of(g, value, kind)}
    short = {(F32, 0): "value_float", (F32, 1): "value_floats", (I64, 0): "value_int", (I64, 1): "value_ints"}
    form = short.get((kind, value.ndim))
    if f.opset >= 12 and form and value.size and f.chance(0.6) and np.isfinite(value).all():
        attributes = {form: value.tolist()}
        f.features[f"Constant {form}"] += 1
    elif f.opset >= 12 and kind == F32 and value.ndim == 2 and not g.is_function and value.size and f.chance(0.06):
        attributes = {"sparse_value": sparse_of(value, "")}
        f.features["Constant sparse_value"] += 1
    g.add("Constant", [], [name], attributes)
    return stored(g, name, kind, value)


def sparse_of(value: np.ndarray, name: str) -> onnx.SparseTensorProto:
    places = np.flatnonzero(value)
    if not len(places):
        raise Skip
    numbers = numpy_helper.from_array(value.reshape(-1)[places], name)
    return helper.make_sparse_tensor(numbers, numpy_helper.from_array(places.astype(np.int64), ""), list(value.shape))


def sparse(g: Scope, value: np.ndarray, kind: int, name: str) -> Value:
    g.sparse.append(sparse_of(value, name))
    g.file.features["sparse initializer"] += 1
    return stored(g, name, kind, value)


def ints(g: Scope, values: Sequence[int] | int) -> Value:
    """A setting: stored, or computed from other settings."""
    value = np.asarray(values, np.int64)
    if value.ndim == 1 and value.size > 1 and g.file.chance(0.06):
        parts = [plain(g, value[:1], I64), plain(g, value[1:], I64)]
        return known(g.emit("Concat", parts, axis=0)[0], value)
    if value.ndim == 1 and value.size and g.file.chance(0.04):
        table = plain(g, np.concatenate([[7], value]), I64)
        return known(g.emit("Gather", [table, plain(g, np.arange(-value.size, 0), I64)])[0], value)
    return plain(g, value, I64, "i")


def known(made: Value, number: np.ndarray | None = None) -> Value:
    return Value(made.name, made.kind, made.shape, number, constant=True)


def identity(g: Scope, value: np.ndarray, kind: int) -> Value:
    return g.emit("Identity", [plain(g, value, kind)])[0]


def transposed(g: Scope, value: np.ndarray, kind: int) -> Value:
    need(value.ndim > 1)
    order = g.file.rng.permutation(value.ndim)
    return g.emit("Transpose", [plain(g, value.transpose(order), kind)], perm=[int(i) for i in np.argsort(order)])[0]


def reshaped(g: Scope, value: np.ndarray, kind: int) -> Value:
    need(value.size)
    return g.emit("Reshape", [plain(g, value.reshape(-1), kind), ints(g, list(value.shape))])[0]


def unsqueezed(g: Scope, value: np.ndarray, kind: int) -> Value:
    need(value.ndim and value.shape[-1] == 1)
    x = plain(g, value[..., 0], kind)
    return unsqueeze(g, x, [g.file.pick([-1, value.ndim - 1]) if g.file.opset >= 11 else value.ndim - 1])


def unsqueeze(g: Scope, x: Value, axes: list[int]) -> Value:
    if g.file.opset < 13:
        return g.emit("Unsqueeze", [x], axes=axes)[0]
    return g.emit("Unsqueeze", [x, ints(g, axes)])[0]


def expanded(g: Scope, value: np.ndarray, kind: int) -> Value:
    """One number, laid out: other values than asked for."""
    need(g.file.opset >= 8 and value.size)
    return g.emit("Expand", [plain(g, value.reshape(-1)[:1], kind), ints(g, list(value.shape))])[0]


def filled(g: Scope, value: np.ndarray, kind: int) -> Value:
    need(g.file.opset >= 9)
    number = value.reshape(-1)[:1] if value.size else np.ones(1)
    shape = ints(g, list(value.shape)) if value.ndim else plain(g, np.zeros(0), I64)
    default = kind == F32 and g.file.chance(0.1)
    return g.emit("ConstantOfShape", [shape], value=None if default else tensor_of(g, number, kind))[0]


def cast(g: Scope, x: Value, to: int, saturate: int | None = None) -> Value:
    saturate = saturate if g.file.opset >= 19 else None
    return g.emit("Cast", [x], to=to, saturate=saturate)[0]


def arithmetic(g: Scope, value: np.ndarray, kind: int) -> Value:
    f = g.file
    op = f.pick(["Add", "Sub", "Mul", "Div", "Neg", "Reciprocal", "Sqrt", "Pow"])
    a = array_of(value, kind).astype(np.float64)
    if op in ("Neg", "Reciprocal", "Sqrt"):
        with np.errstate(all="ignore"):
            back = {"Neg": -a, "Reciprocal": 1 / np.where(a == 0, 1, a), "Sqrt": a * a}[op]
        return g.emit(op, [plain(g, back, kind)])[0]
    other = f.rng.uniform(0.5, 2, f.pick([(), a.shape, a.shape[-1:]]))
    return g.emit(op, [plain(g, np.abs(a) + 0.1 if op == "Pow" else a, kind), plain(g, other, kind)])[0]


def joined(g: Scope, value: np.ndarray, kind: int) -> Value:
    need(value.ndim and value.shape[0] > 1)
    at = g.file.number(0, value.shape[0])
    return g.emit("Concat", [plain(g, value[:at], kind), plain(g, value[at:], kind)], axis=0)[0]


def sliced(g: Scope, value: np.ndarray, kind: int) -> Value:
    """Out of a larger one, at times backwards, with ends beyond it."""
    need(value.ndim and g.file.opset >= 10 and value.shape[0])
    n = value.shape[0]
    if g.file.chance(0.5):
        return g.emit(
            "Slice", [plain(g, value[::-1], kind), ints(g, [n + 5]), ints(g, [-n - 7]), ints(g, [0]), ints(g, [-1])]
        )[0]
    larger = np.concatenate([value, value[:1]])
    return g.emit("Slice", [plain(g, larger, kind), ints(g, [-n - 99]), ints(g, [-1])])[0]


def gathered(g: Scope, value: np.ndarray, kind: int) -> Value:
    need(value.ndim and value.shape[0])
    order = g.file.rng.permutation(value.shape[0])
    back = np.argsort(order) - (value.shape[0] if g.file.opset >= 11 else 0)
    return g.emit("Gather", [plain(g, value[order], kind), plain(g, back, I64)], axis=0)[0]


def of_shape(g: Scope, value: np.ndarray, kind: int) -> Value:
    """The shape of a tensor as numbers."""
    need(value.ndim == 1 and g.live and not g.is_function)
    x = g.file.pick(g.visible)
    need(x.rank == value.size)
    return cast(g, g.emit("Shape", [x])[0], kind)


def chosen(g: Scope, value: np.ndarray, kind: int) -> Value:
    need(g.file.opset >= 9 and value.size)
    mask = plain(g, g.file.rng.random(value.shape) < 0.5, BOOL)
    return g.emit("Where", [mask, plain(g, value, kind), plain(g, value * 0.5, kind)])[0]
