"""Ring 4: in every element type the folded constants are the float64 ones, rounded once."""

from __future__ import annotations

from dataclasses import dataclass, field

import ml_dtypes
import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper

from bnfold.algebra.rounding import TINY
from bnfold.folding.driver import fold
from tests.build import BN, bn, build
from tests.rows import Graph
from tests.test_scenarios import GRAPHS

TYPES = {"float16": np.float16, "bfloat16": ml_dtypes.bfloat16, "float32": np.float32, "float64": np.float64}


def in_type(model: onnx.ModelProto, kind: str, only: tuple[str, ...] = ()) -> onnx.ModelProto:
    """A copy with its float64 tensors, or those of `only`, in another type."""
    made = onnx.ModelProto()
    made.CopyFrom(model)
    for tensor in made.graph.initializer:
        if tensor.data_type == onnx.TensorProto.DOUBLE and (not only or tensor.name in only):
            tensor.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(tensor).astype(TYPES[kind]), tensor.name))
    if not only:
        for value in [*made.graph.input, *made.graph.output]:
            value.type.tensor_type.elem_type = helper.np_dtype_to_tensor_dtype(np.dtype(TYPES[kind]))
    return made


def stored(model: onnx.ModelProto) -> dict[str, np.ndarray]:
    return {t.name: numpy_helper.to_array(t) for t in model.graph.initializer}


def as_float64(model: onnx.ModelProto) -> onnx.ModelProto:
    made = onnx.ModelProto()
    made.CopyFrom(model)
    for tensor in made.graph.initializer:
        values = numpy_helper.to_array(tensor)
        if values.dtype.kind not in "iub":
            tensor.CopyFrom(numpy_helper.from_array(values.astype(np.float64), tensor.name))
    for value in [*made.graph.input, *made.graph.output]:
        value.type.tensor_type.elem_type = onnx.TensorProto.DOUBLE
    return made


def half_ulp(exact: np.ndarray, kind: str) -> np.ndarray:
    """Half the distance between the representable numbers around each value."""
    info = ml_dtypes.finfo(TYPES[kind])
    exponent = np.floor(np.log2(np.maximum(np.abs(exact), float(info.smallest_normal))))
    return np.exp2(exponent - info.nmant) / 2


@pytest.mark.parametrize("kind", TYPES)
@pytest.mark.parametrize("name", GRAPHS)
def test_constants_are_rounded_once(name, kind):
    model = in_type(GRAPHS[name].model(), kind)
    got, exact = fold(model), fold(as_float64(model))
    assert [f.output for f in got.folded] == [f.output for f in exact.folded]
    truth = stored(exact.model)
    for tensor, values in stored(got.model).items():
        if values.dtype.kind in "iub":
            continue
        assert values.dtype == TYPES[kind]
        distance = np.abs(values.astype(np.float64) - truth[tensor])
        assert (distance <= half_ulp(truth[tensor], kind) * (1 + 1e-9)).all()


def conv_bn(**scales: float) -> onnx.ModelProto:
    model = build(
        "c = Conv(X, W) Y = BatchNormalization(c, pg, pb, pm, pv)",
        "X[N,3,6,6]",
        "Y[N,4,4,4]",
        {"W": (4, 3, 3, 3), **bn("p", 4)},
    )
    for tensor in model.graph.initializer:
        if tensor.name in scales:
            tensor.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(tensor) * scales[tensor.name], tensor.name))
    return model


def test_float16_weights_with_float32_statistics():
    model = in_type(in_type(conv_bn(), "float16", only=("W",)), "float32", only=("pg", "pb", "pm", "pv"))
    for value in [*model.graph.input, *model.graph.output]:
        value.type.tensor_type.elem_type = onnx.TensorProto.FLOAT16
    result = fold(model)
    assert {t.name: t.data_type for t in result.model.graph.initializer} == dict.fromkeys(
        ("W", "W.bias"), onnx.TensorProto.FLOAT16
    )


def test_overflow_is_refused():
    result = fold(in_type(conv_bn(W=1e4, pg=1e4), "float16"))
    assert [k.not_hoisted.code for k in result.kept] == ["OVERFLOW"]
    assert "overflow float16" in result.kept[0].not_hoisted.words


@dataclass(frozen=True)
class InRange(Graph):
    """A graph in float16, and the operators that are folded in it."""

    folded: list[str] = field(default_factory=list)


RANGE = {
    "an Add in place of the norm": InRange(f"l = MatMul(X, W) c = Transpose<perm=[0,2,1]>(l) Y = {BN('c', 'p')}",
        {"W": (8, 4), **bn("p", 4), "pg": [1.0] * 4, "pm": [100.0] * 4, "pv": [1e-6] * 4}, inputs="X[2,5,8]", outputs="Y[2,4,5]"),
    "an Add, constant left": InRange(f"c = MatMul(W, X) Y = {BN('c', 'p')}",
        {"W": (4, 4, 4), **bn("p", 4), "pg": [1.0] * 4, "pm": [100.0] * 4, "pv": [1e-6] * 4}, inputs="X[2,1,4,8]", outputs="Y[2,4,4,8]"),
    "the bias of a Gemm": InRange(f"c = MatMul(X, W) Y = {BN('c', 'p')}", {"W": (8, 4), **bn("p", 4), "pg": [1.0] * 4, "pm": [100.0] * 4, "pv": [1e-6] * 4},
        inputs="X[2,8]", outputs="Y[2,4]"),
    "a divisor that vanishes": InRange("a = Sigmoid(X) b = Div(a, d) Y = Mul(b, k)", {"d": [1e-4], "k": [6e4]}, inputs="X[2,4]", outputs="Y[2,4]"),
    "a divisor that loses its digits": InRange("a = Sigmoid(X) b = Div(a, d) Y = Mul(b, k)", {"d": [1e-4], "k": [1e3]}, inputs="X[2,4]", outputs="Y[2,4]"),
    "a factor that loses its digits": InRange("a = Sigmoid(X) b = Mul(a, d) Y = Mul(b, k)", {"d": [1e-4], "k": [1e-3]}, inputs="X[2,4]", outputs="Y[2,4]"),
    "a factor that overflows": InRange("a = Sigmoid(X) b = Mul(a, d) Y = Mul(b, k)", {"d": [6e4], "k": [2.0]}, inputs="X[2,4]", outputs="Y[2,4]"),
    "a factor that keeps them": InRange("a = Sigmoid(X) b = Mul(a, d) Y = Mul(b, k)", {"d": [1e-2], "k": [1e-2]}, inputs="X[2,4]", outputs="Y[2,4]",
        folded=["Mul"]),
    "branches": InRange("a = Conv(X, W) b = Conv(X, V) Y = Add(a, b)", {"W": np.full((4, 3, 3, 3), 4e4), "V": np.full((4, 3, 3, 3), 4e4)},
        inputs="X[1,3,6,6]", outputs="Y[1,4,4,4]"),
    "a slope": InRange("a = Sigmoid(X) b = PRelu(a, d) Y = Mul(b, k)", {"d": [1e-5], "k": [-1.0]}, inputs="X[2,4]", outputs="Y[2,4]"),
}  # fmt: skip


@pytest.mark.parametrize("name", RANGE)
def test_every_number_is_in_range(name):
    """What overflows float16, or loses its digits where it multiplies or divides a whole tensor, is refused."""
    row = RANGE[name]
    model = in_type(row.model(), "float16")
    model.graph.node[-1].attribute.extend([helper.make_attribute("epsilon", 1e-7)] if "pv" in row.constants else [])
    result = fold(model)
    assert [f.operator for f in result.folded][:1] == row.folded
    assert all(np.isfinite(values.astype(np.float64)).all() for values in stored(result.model).values())


@pytest.mark.parametrize("operator", ["QuantizeLinear", "DequantizeLinear"])
def test_a_scale_of_integers_keeps_its_digits(operator):
    """X / 1e-42 would be infinite: float32 has no normal numbers that small."""
    value, first = helper.make_tensor_value_info, operator == "QuantizeLinear"
    there = [
        helper.make_node("QuantizeLinear", ["b", "s"], ["q"]),
        helper.make_node("DequantizeLinear", ["q", "u"], ["Y"]),
    ]
    back = [
        helper.make_node("QuantizeLinear", ["X", "u"], ["q"]),
        helper.make_node("DequantizeLinear", ["q", "s"], ["b"]),
    ]
    nodes = [helper.make_node("Mul", ["X", "k"], ["b"]), *there] if first else [*back, helper.make_node("Mul", ["b", "k"], ["Y"])]  # fmt: skip
    constants = {"k": np.float32([2.0**20 if first else 1e-6]), "s": np.float32(1e-36), "u": np.float32(0.1)}
    tensors = [numpy_helper.from_array(v, k) for k, v in constants.items()]
    graph = helper.make_graph(nodes, "g", [value("X", 1, [2, 4])], [value("Y", 1, [2, 4])], tensors)
    (kept,) = fold(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)).kept
    reason = kept.not_sunk if first else kept.not_hoisted
    assert reason.code == "OVERFLOW"
    assert (
        reason.words == f"the folded constant of {operator} -> '{'q' if first else 'b'}' would be too small for float32"
    )


@pytest.mark.parametrize("kind", ["float32", "bfloat16"])
def test_subnormals_become_zero_and_are_counted(kind):
    result = fold(in_type(conv_bn(W=1e-20, pg=1e-20, pb=1e-39, pm=0.0), kind))
    values = stored(result.model)
    assert result.flushed == values["W"].size + values["W.bias"].size
    assert not values["W"].any()
    assert not values["W.bias"].any()


def test_float16_keeps_its_subnormals():
    result = fold(in_type(conv_bn(pg=1e-5), "float16"))
    small = np.abs(stored(result.model)["W"].astype(np.float64))
    assert result.flushed == 0
    assert (small[small > 0] < 2.0**-14).any()
    assert TINY[np.dtype(np.float16)] == 0


def test_epsilon_survives_float16():
    """var + epsilon in float16 would be 0 here, and the folded weights infinite."""
    model = in_type(conv_bn(pv=0.0), "float16")
    model.graph.node[1].attribute.append(helper.make_attribute("epsilon", 1e-2))
    assert np.isfinite(stored(fold(model).model)["W"].astype(np.float64)).all()
