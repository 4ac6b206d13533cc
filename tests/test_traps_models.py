"""Models on which folding goes wrong elsewhere: T8 to T10: where constants live, opsets, types and numbers."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from bnfold.errors import ModelProblem
from bnfold.folding.driver import fold
from tests.build import BN, assert_same, bn, build, feeds
from tests.reference import evaluate
from tests.rows import Row
from tests.test_dtypes import as_float64, in_type, stored
from tests.test_traps import check, codes, left, rows

X, Y, W, P3, P4, Q4 = "X[2,3,6,6]", "Y[2,4,4,4]", {"W": (4, 3, 3, 3)}, bn("p", 3), bn("p", 4), bn("q", 4)
ROW = Row(f"c = Conv(X, W) Y = {BN('c', 'p')}", {**W, **P4}, X, Y)


def conv_bn(opset: int = 17, kind: str = "float64", **attributes) -> onnx.ModelProto:
    model = in_type(ROW.model(opset=opset), kind)
    model.graph.node[1].attribute.extend(helper.make_attribute(k, v) for k, v in attributes.items())
    return model


def tensor(model: onnx.ModelProto, name: str) -> TensorProto:
    return next(t for t in model.graph.initializer if t.name == name)


def put(model: onnx.ModelProto, **new) -> onnx.ModelProto:
    """A copy of the model with other values in some initializers, in the types these have."""
    made = onnx.ModelProto()
    made.CopyFrom(model)
    for name, value in new.items():
        old = numpy_helper.to_array(tensor(model, name))
        tensor(made, name).CopyFrom(numpy_helper.from_array(np.broadcast_to(value, old.shape).astype(old.dtype), name))
    return made


@pytest.mark.parametrize("name", ["W", "pv"])
def test_T8_what_a_caller_may_override(name):
    model = conv_bn()
    model.graph.input.append(helper.make_tensor_value_info(name, TensorProto.DOUBLE, tensor(model, name).dims))
    result = fold(model)
    assert result.model == model
    assert {"W": "GRAPH_INPUT", "pv": "NOT_CONSTANT"}[name] in codes(result)


def test_T8_up_to_ir_version_3_every_initializer_is_an_input():
    model = conv_bn(opset=8)
    model.ir_version = 3
    model.graph.input.extend(
        helper.make_tensor_value_info(t.name, t.data_type, t.dims) for t in model.graph.initializer
    )
    result = fold(model)
    assert left(result) == "Conv"
    assert_same(model, result.model)


def test_T8_constant_nodes():
    model, same = conv_bn(), conv_bn()
    nodes = [helper.make_node("Constant", [], [t.name], value=t) for t in model.graph.initializer]
    made = [*nodes, *model.graph.node]
    del model.graph.initializer[:], model.graph.node[:]
    model.graph.node.extend(made)
    result = fold(model)
    assert left(result) == "Constant Conv"
    assert_same(same, result.model)


T8 = {
    "Identity": replace(
        ROW,
        body="w = Identity(W) v = Identity(pv) u = Identity(v) c = Conv(X, w) Y = BatchNormalization(c, pg, pb, pm, u)",
    ),
    "Cast": replace(
        ROW, body="w = Cast<to=11>(W) g = Cast<to=11>(pg) c = Conv(X, w) Y = BatchNormalization(c, g, pb, pm, pv)"
    ),
}


@rows(T8)
def test_T8_wrapped_constants(row):
    check(row)


def test_T8_sparse_initializers():
    model = conv_bn()
    stock = [t for t in model.graph.initializer if t.name != "pm"]
    dense = put(conv_bn(), pm=[0, 1.5, 0, -2])
    del model.graph.initializer[:]
    model.graph.initializer.extend(stock)
    numbers = numpy_helper.from_array(np.array([1.5, -2]), "pm")
    places = numpy_helper.from_array(np.array([1, 3]), "pm_indices")
    model.graph.sparse_initializer.append(helper.make_sparse_tensor(numbers, places, [4]))
    onnx.checker.check_model(model)
    result = fold(model)
    assert left(result) == "Conv"
    assert not result.model.graph.sparse_initializer
    assert_same(dense, result.model)


def test_T8_external_data_at_an_offset(tmp_path: Path):
    model = conv_bn()
    outside = tensor(model, "W")
    data = numpy_helper.to_array(outside).tobytes()
    (tmp_path / "data").write_bytes(b"x" * 4096 + data + b"y" * 100)
    outside.ClearField("raw_data")
    outside.data_location = TensorProto.EXTERNAL
    for key, value in (("location", "data"), ("offset", "4096"), ("length", str(len(data)))):
        outside.external_data.add(key=key, value=value)
    onnx.save(model, tmp_path / "m.onnx")
    result = fold(tmp_path / "m.onnx")
    assert left(result) == "Conv"
    assert_same(conv_bn(), result.model)


@pytest.mark.parametrize("where", ["then_branch", "else_branch"])
def test_T8_a_body_has_a_constant_of_the_same_name(where):
    """The W of one body hides the W around it, which the other body and the main graph read."""
    parts = [f"{k} () => (double[2,4,4,4] {k}y) {{ {k}c = Conv(X, W) {k}y = {BN(f'{k}c', 'p')} }}" for k in "te"]
    branches = f"If (yes) <then_branch = {parts[0]}, else_branch = {parts[1]}>"
    body = f"c = Conv(X, W) d = {BN('c', 'q')} e = {branches} Y = Add(d, e)"
    model = build(body, X, Y, {**W, **P4, **Q4, "yes": np.array(True)})
    body = next(a.g for a in model.graph.node[2].attribute if a.name == where)
    body.initializer.append(numpy_helper.from_array(3 * numpy_helper.to_array(tensor(model, "W")), "W"))
    result = fold(model)
    for taken in (True, False):
        assert_same(put(model, yes=taken), put(result.model, yes=taken))


@pytest.mark.parametrize("outputs", [(), ("m2", "v2")])
def test_T9_training_mode(outputs):
    model = conv_bn(training_mode=1)
    model.graph.node[1].output.extend(outputs)
    with pytest.raises(ModelProblem, match="training mode"):
        fold(model)


def test_T9_five_outputs():
    model = conv_bn(opset=9)
    model.graph.node[1].output.extend(["m2", "v2", "m3", "v3"])
    with pytest.raises(ModelProblem, match="training mode"):
        fold(model)


OLD = {
    1: {"is_test": 1, "consumed_inputs": [0, 0, 0, 1, 1]},
    6: {"is_test": 1},
    7: {"spatial": 1},
    8: {"spatial": 1},
    9: {},
}


@pytest.mark.parametrize("empty", [0, 4])
@pytest.mark.parametrize("opset", OLD)
def test_T9_old_opsets(opset, empty):
    model = conv_bn(opset, **OLD[opset])
    model.graph.node[1].output.extend([""] * empty)
    result = fold(model)
    assert left(result) == "Conv"
    assert_same(conv_bn(), result.model)


@pytest.mark.parametrize("opset", [7, 8])
def test_T9_parameters_per_activation(opset):
    """spatial=0: parameters of shape C x H x W, for which no Conv has room, but a Gemm has."""
    shapes = {f"p{k}": (4, 4, 4) for k in "gbmv"}
    model = replace(ROW, constants={**W, **shapes}).model(opset=opset)
    model.graph.node[1].attribute.append(helper.make_attribute("spatial", 0))
    assert {k.not_hoisted.code for k in fold(model).kept} == {"VARIES"}
    dense = build(f"b = {BN('X', 'p')} f = Flatten(b) Y = Gemm(f, V, C)", "X[2,4,4,4]", "Y[2,5]", {"V": (64, 5), "C": (5,), **shapes}, opset=opset)  # fmt: skip
    dense.graph.node[0].attribute.append(helper.make_attribute("spatial", 0))
    result, x = fold(dense), feeds(dense)["X"]
    assert left(result) == "Flatten Gemm"
    g, b, m, v, w, c = (stored(dense)[k] for k in ("pg", "pb", "pm", "pv", "V", "C"))
    want = ((x - m) / np.sqrt(v + float(np.float32(1e-5))) * g + b).reshape(2, -1) @ w + c
    np.testing.assert_allclose(evaluate(result.model, {"X": x})[0], want, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("opset", [7, 8])
def test_T9_a_scale_before_parameters_per_activation(opset):
    shapes = {f"p{k}": (4, 4, 4) for k in "gbmv"}
    row = (f"b = Div(X, k) Y = {BN('b', 'p')}", "X[2,4,4,4]", "Y[2,4,4,4]", {"k": (4, 1, 1), **shapes})
    model = build(*row, opset=opset)
    model.graph.node[1].attribute.append(helper.make_attribute("spatial", 0))
    assert [k.not_sunk.code for k in fold(model).kept] == ["VARIES", "GRAPH_OUTPUT"]


def test_T9_a_tile_that_repeats_one_axis():
    """Up to opset 5 the inputs of Tile are how often, and along which axis."""
    row = (f"a = Conv(X, W) c = Tile(a, n, i) Y = {BN('c', 'p')}", X, "Y[2,8,4,4]", {**W, **bn("p", 8), "n": np.array(2), "i": np.array(1)})  # fmt: skip
    model = build(*row, opset=5)
    model.graph.node[2].attribute.append(helper.make_attribute("is_test", 1))
    model.graph.value_info.append(helper.make_tensor_value_info("c", TensorProto.DOUBLE, [2, 8, 4, 4]))
    assert "OLD_OPSET" in codes(fold(model))


ALL = ("pg", "pb", "pm", "pv")
MIXES = {14: ("pm", "pv"), 15: ALL, 22: ALL}  # what may be of another type than X


@pytest.mark.parametrize(("opset", "kind"), [(14, "float16"), (15, "float16"), (22, "float16"), (22, "bfloat16")])
def test_T9_mixed_types(opset, kind):
    model = conv_bn(opset)
    half = tuple(t.name for t in model.graph.initializer if t.name not in MIXES[opset])
    model = in_type(in_type(model, "float32", only=MIXES[opset]), kind, only=half)
    for value in [*model.graph.input, *model.graph.output]:
        value.type.tensor_type.elem_type = tensor(model, "W").data_type
    onnx.checker.check_model(model, full_check=True)
    result = fold(model)
    assert left(result) == "Conv"
    onnx.checker.check_model(result.model, full_check=True)
    assert {t.data_type for t in result.model.graph.initializer} == {tensor(model, "W").data_type}
    assert_same(as_float64(model), as_float64(result.model), tolerance=0.02)


def test_T9_the_default_of_epsilon():
    model = put(conv_bn(), pv=1e-6)
    explicit = put(conv_bn(epsilon=1e-5), pv=1e-6)
    assert stored(fold(model).model)["W"].tobytes() == stored(fold(explicit).model)["W"].tobytes()
    assert_same(model, fold(model).model)


@dataclass(frozen=True)
class Numerics:
    """New numbers and attributes of a Conv and a BatchNormalization, and what is left of them."""

    numbers: dict[str, Any] = field(default_factory=dict)
    attributes: dict[str, float] = field(default_factory=dict)
    kind: str = "float64"
    left: str = "Conv"
    code: str | None = None


T10 = {
    "var is 0": Numerics({"pv": 0.0}),
    "var is a little negative": Numerics({"pv": -1e-6}),
    "var is too negative": Numerics({"pv": -1e-4}, left="Conv BatchNormalization", code="NOT_FINITE"),
    "var + epsilon vanishes": Numerics({"pv": 0.0}, attributes={"epsilon": 0.0}, left="Conv BatchNormalization", code="NOT_FINITE"),
    "epsilon is below float16": Numerics({"pv": 0.0, "W": 1e-3, "pm": 0.0}, attributes={"epsilon": 1e-8}, kind="float16"),
    "weights overflow": Numerics({"pv": 0.0, "W": 100.0}, attributes={"epsilon": 1e-8}, kind="float16", left="Conv BatchNormalization", code="OVERFLOW"),
    "biases overflow": Numerics({"pv": 0.0, "W": 1e-3, "pm": 100.0}, attributes={"epsilon": 1e-8}, kind="float16",
        left="Conv BatchNormalization", code="OVERFLOW"),
    "dead channels": Numerics({"pg": [0, 1, 0, -1]}),
    "the mean is far off": Numerics({"pm": 1e6, "pv": 1e-6}),
    "bfloat16": Numerics(kind="bfloat16"),
}  # fmt: skip


@pytest.mark.parametrize("name", T10)
def test_T10_numerics(name):
    row = T10[name]
    model = put(conv_bn(22, row.kind, **row.attributes), **row.numbers)
    result = fold(model)
    assert left(result) == row.left
    assert codes(result) == ({row.code, *({"GRAPH_OUTPUT"} if row.code == "OVERFLOW" else ())} if row.code else set())
    if row.code is None:
        onnx.checker.check_model(result.model, full_check=True)
        assert_same(
            as_float64(model), as_float64(result.model), {"float64": 1e-9, "float16": 2e-3, "bfloat16": 0.02}[row.kind]
        )


def test_T10_variances_beyond_float16():
    model = in_type(in_type(conv_bn(opset=15), "float32", only=ALL), "float16", only=("W",))
    for value in [*model.graph.input, *model.graph.output]:
        value.type.tensor_type.elem_type = TensorProto.FLOAT16
    result = fold(put(model, pv=1e6, pg=30.0))
    assert left(result) == "Conv"
    assert np.all(stored(result.model)["W"] != 0)


def test_T10_dead_channels_are_zero_and_subnormals_too():
    result = fold(put(conv_bn(kind="float32"), pg=[0, 1, 1, 1], pm=0.0, pb=[0.5, 1e-40, 1, 1]))
    assert not stored(result.model)["W"][0].any()
    assert stored(result.model)["W.bias"][:2].tolist() == [0.5, 0.0]
    assert result.flushed == 1


@pytest.mark.parametrize("back", ["d = Add(c, k) Y = Sub(d, k)", "d = Mul(c, k) Y = Div(d, k)"])
@pytest.mark.parametrize("bias", ["", ", B"])
def test_T10_nothing_is_left_of_an_affine_and_its_inverse(back, bias):
    """But a bias that was made for them has a value for each channel."""
    model = build(f"c = Conv(X, W{bias}) {back}", X, Y, {**W, "k": (4, 1, 1), "B": (4,)})
    result = fold(model)
    assert left(result) == "Conv"
    assert {value.shape for name, value in stored(result.model).items() if name != "W"} <= {(4,)}
    assert_same(model, result.model)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("name", ALL)
def test_T10_statistics_that_are_no_numbers(name, value):
    with pytest.raises(ModelProblem, match="NaN or infinity"):
        fold(put(conv_bn(), **{name: [1, value, 1, 1]}))


@pytest.mark.parametrize("bias", [False, True])
def test_T10_branches_that_overflow_together(bias):
    """Each branch fits float16, and their sum does not."""
    third, more = (", B", {"B": (4,), "C": (4,)}) if bias else ("", {})
    body = f"a = Conv(X, V{third}) b = Conv(X, U{third.replace('B', 'C')}) Y = Add(a, b)"
    model = in_type(build(body, "X[2,4,6,6]", "Y[2,4,6,6]", {"V": (4, 4, 1, 1), "U": (4, 4, 1, 1), **more}), "float16")
    model = put(model, **({"B": 6e4, "C": 6e4} if bias else {"V": 6e4, "U": 6e4}))
    assert left(fold(model)) == "Conv Conv Add"
