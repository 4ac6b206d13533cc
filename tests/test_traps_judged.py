"""Models on which folding goes wrong elsewhere, T16, T18 and T19: names, quantized weights, and who is to judge."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from bnfold import verify
from bnfold.folding.driver import FoldResult, fold
from bnfold.runtime import sessions
from tests.build import BN, assert_same, build, feeds
from tests.reference import evaluate
from tests.rows import Graph
from tests.test_dtypes import in_type, stored
from tests.test_traps import left, rows
from tests.test_traps_models import P4, ROW, W, X, Y, conv_bn, put, tensor
from tests.verify_nets import run_here


def test_T16_names_that_are_taken():
    """A bias that has to be made finds every likely name in use; so does the copy of a shared weight."""
    taken = ["c_weight", "c_bias", "w_bias", "W.bias", "W.bias_1", "W_1", "W_2", "c.bias"]
    adds = " ".join(f"t{i + 1} = Add(t{i}, {'q' * (i + 1)})" for i in range(len(taken)))
    body = f"c = Conv(X, W) t0 = {BN('c', 'p')} n = Abs(X) Z = Conv(n, W) {adds} Y = Abs(t{len(taken)})"
    summands = {"q" * (i + 1): (4, 4, 4) for i in range(len(taken))}
    model = build(body, X, f"{Y}; Z[2,4,4,4]", {**W, **P4, **summands})
    for i, name in enumerate(taken):
        tensor(model, "q" * (i + 1)).name = name
        node = next(n for n in model.graph.node if "q" * (i + 1) in n.input)
        node.input[1] = name
    model.metadata_props.add(key="classes", value="a,b")
    result = fold(model)
    assert "BatchNormalization" not in left(result)
    assert_same(model, result.model)
    names = [t.name for t in result.model.graph.initializer]
    assert len(names) == len(set(names))
    for field in ("input", "output"):
        assert getattr(result.model.graph, field) == getattr(model.graph, field)
    assert result.model.metadata_props == model.metadata_props
    assert (result.model.opset_import, result.model.ir_version) == (model.opset_import, model.ir_version)


INTEGERS = {"q": np.arange(-54, 54, dtype=np.int8).reshape(4, 3, 3, 3), "z": np.zeros(4, np.int8)}
SCALES = {"d": np.array([0.01, 0.02, 0.03, 0.04]), "e": np.array(0.02)}


def quantized(body: str, outputs: str, constants: dict, inputs: str = X) -> onnx.ModelProto:
    """A float32 model; constants of int8 and int32 stay what they are, and each number is stored once."""
    numbers = {k: v for k, v in constants.items() if isinstance(v, np.ndarray) and v.dtype in (np.int8, np.int32)}
    rest = {k: v for k, v in constants.items() if k not in numbers}
    model = build(body, inputs, outputs, {**rest, **{k: v.shape for k, v in numbers.items()}}, opset=19, ir=9)
    for name, value in numbers.items():
        tensor(model, name).CopyFrom(numpy_helper.from_array(value, name))
    model = in_type(model, "float32")
    onnx.checker.check_model(model, full_check=True)
    return model


def folded_in_float32(model: onnx.ModelProto) -> FoldResult:
    """Fold; the integers are what they were or, about zero, their opposites, no scale of a quantization is negative, and
    the results are the same."""
    result = fold(model)
    onnx.checker.check_model(result.model, full_check=True)
    old, new = stored(model), stored(result.model)
    codes = [(old[k], v) for k, v in new.items() if v.dtype.kind == "i" and v.any()]
    assert all(was.dtype == v.dtype and ((v == was) | (v == -was)).all() for was, v in codes)
    assert all((new[n.input[1]] > 0).all() for n in result.model.graph.node if n.op_type.endswith("quantizeLinear"))
    x = {k: v.astype(np.float32) for k, v in feeds(model).items()}
    for want, got in zip(evaluate(model, x), evaluate(result.model, x), strict=True):
        np.testing.assert_allclose(got, want, rtol=1e-4, atol=1e-5 * np.abs(want).max())
    return result


POSITIVE = {**P4, "pg": np.array([0.5, 1.5, 2, 0.75])}
PER_AXIS = "w = DequantizeLinear<axis=0>(q, d, z)"


@dataclass(frozen=True)
class Quantized(Graph):
    """A graph with quantized weights, and the operators that may be left of it."""

    outputs: str = Y
    left: str | tuple[str, ...] = "DequantizeLinear Conv"


T18 = {
    "per channel": Quantized(f"{PER_AXIS} c = Conv(X, w) Y = {BN('c', 'p')}", {**INTEGERS, **SCALES, **POSITIVE}),
    "a negative scale": Quantized(f"{PER_AXIS} c = Conv(X, w) Y = {BN('c', 'p')}", {**INTEGERS, **SCALES, **POSITIVE, "pg": np.array([0.5, -1.5, 2, 0.75])}),
    "one scale for all": Quantized(f"w = DequantizeLinear(q, e) c = Conv(X, w) Y = {BN('c', 'p')}", {**INTEGERS, **SCALES, **POSITIVE}),
    "one scale for all, one factor": Quantized("w = DequantizeLinear(q, e) c = Conv(X, w) Y = Mul(c, k)", {**INTEGERS, **SCALES, "k": np.array(1.5)},
        left="DequantizeLinear Conv"),
    "the other axis": Quantized(f"w = DequantizeLinear<axis=1>(q, f, o) c = Conv(X, w) Y = {BN('c', 'p')}",
        {**INTEGERS, "f": SCALES["d"][:3], "o": np.zeros(3, np.int8), **POSITIVE}, left="DequantizeLinear Conv BatchNormalization"),
    "from the left, axis 1": Quantized("b = Mul(X, k) w = DequantizeLinear<axis=1>(q, f, o) Y = Conv(b, w)",
        {**INTEGERS, "f": SCALES["d"][:3], "o": np.zeros(3, np.int8), "k": np.array([0.5, 2, 3]).reshape(3, 1, 1)},
        left=("DequantizeLinear Conv", "Mul DequantizeLinear Conv")),
    "after a quantization": Quantized(f"{PER_AXIS} a = Conv(X, w) i = QuantizeLinear(a, e, y) c = DequantizeLinear(i, e, y) Y = {BN('c', 'p')}",
        {**INTEGERS, **SCALES, **POSITIVE, "y": np.array(3, np.int8)}, left="DequantizeLinear Conv QuantizeLinear DequantizeLinear BatchNormalization"),
    "parameters": Quantized(f"g = DequantizeLinear(i, e) c = Conv(X, W) Y = {BN('c', 'p').replace('pg', 'g')}",
        {**SCALES, **W, **{k: v for k, v in P4.items() if k != "pg"}, "i": np.array([50, 60, 70, -80], np.int8)},
        left=("Conv", "DequantizeLinear Conv BatchNormalization")),
}  # fmt: skip


@rows(T18)
def test_T18_quantized_weights(row):
    """What may fold either way has two entries."""
    words = row.body.translate(str.maketrans("(),", "   ")).split()
    result = folded_in_float32(quantized(row.body, row.outputs, {k: v for k, v in row.constants.items() if k in words}))
    assert left(result) in ((row.left,) if isinstance(row.left, str) else row.left)


def test_T18_a_quantized_bias():
    """int32 with scale_x * scale_w: integers cannot take a shift: the bias becomes float, and a note says so."""
    row = (f"{PER_AXIS} j = DequantizeLinear<axis=0>(b, s) c = Conv(X, w, j) Y = {BN('c', 'p')}", Y)
    bias = {"b": np.array([100, -2000, 300, 40], np.int32), "s": SCALES["d"] * 0.05}
    result = folded_in_float32(quantized(*row, {**INTEGERS, "d": SCALES["d"], **bias, **POSITIVE}))
    assert left(result) == "DequantizeLinear Conv"
    assert "float" in " ".join(result.notes)


def test_T18_a_computed_scale_of_a_quantization():
    row = ("b = Mul(U, k) i = QuantizeLinear(X, b, y) Y = DequantizeLinear(i, e, y)", "Y[2,3,6,6]")
    constants = {"k": np.array([2.0]), "e": np.array([0.5]), "y": np.array([3], np.int8)}
    body = row[0].replace("QuantizeLinear", "QuantizeLinear<axis=0>")
    model = quantized(body.replace("X", "x"), "Y[1]", constants, "x[1]; U[1]")
    result = fold(model)
    assert left(result) == "Mul QuantizeLinear DequantizeLinear"
    x = {"x": np.array([0.7], np.float32), "U": np.array([0.1], np.float32)}
    np.testing.assert_array_equal(evaluate(model, x)[0], evaluate(result.model, x)[0])


def in_float32(graph: Graph) -> onnx.ModelProto:
    return in_type(graph.model(), "float32")


def test_T19_empty_outputs_which_crash_onnxruntime():
    """The child process dies, not this one; the folded model, which has no such node, is no worse for it."""
    model = conv_bn(opset=9, kind="float32")
    model.graph.node[1].output.extend([""] * 4)
    assert verify(model, fold(model).model).verdict in ("PASS", "INCONCLUSIVE")


@pytest.fixture
def in_this_process(monkeypatch: pytest.MonkeyPatch) -> None:
    """The jobs of the children, which take a second each to start."""
    run_here(monkeypatch)


def misfolded() -> onnx.ModelProto:
    """What onnxruntime makes of MatMul, Transpose, BatchNormalization where sizes coincide: scaled by columns."""
    model = in_float32(T5_ROW)
    s = stored(model)
    factor = s["pg"] / np.sqrt(s["pv"] + np.float32(1e-5))
    body = "l = Gemm(X, W, C) d = Transpose<perm=[1,0]>(l) Y = Neg(d)"
    wrong = in_float32(replace(T5_ROW, body=body, constants={"W": (6, 4), "C": (4,)}))
    return put(wrong, W=s["W"] * factor, C=s["pb"] - factor * s["pm"])


T5_ROW = Graph(
    f"l = MatMul(X, W) c = Transpose<perm=[1,0]>(l) d = {BN('c', 'p')} Y = Neg(d)",
    {"W": (6, 4), **P4},
    inputs="X[4,6]",
    outputs="Y[4,4]",
)


def is_misfolded(model: onnx.ModelProto) -> bool:
    """Whether this onnxruntime (up to 1.31) computes something else by default than without optimization."""
    feeds = {"X": np.random.default_rng(0).normal(size=(4, 6)).astype(np.float32)}
    plain, served = (
        sessions.outputs(sessions.session(model.SerializeToString(), sessions.options(level)), ["Y"], feeds)[0]
        for level in ("off", "default")
    )
    return not np.allclose(plain, served, rtol=1e-3)


@pytest.mark.usefixtures("in_this_process")
def test_T19_onnxruntime_is_not_the_judge():
    """It may fold the original wrongly by default: a right fold is not blamed for it, nor one as wrong excused."""
    model, wrong = in_float32(T5_ROW), misfolded()
    right = fold(model)
    assert right.folded
    assert [verify(model, m).verdict for m in (right.model, wrong)] == ["PASS", "FAIL"]
    assert [verify(model, m, levels=("default",)).passed for m in (right.model, wrong)] == [
        not is_misfolded(model),
        False,
    ]


@pytest.mark.usefixtures("in_this_process")
def test_T19_errors_are_weighed_against_what_was_summed():
    """Outputs that all but cancel are as far off as their parts are inexact, in both models alike; a fault is more."""
    model = put(in_float32(ROW), pm=3e3, pv=1.0)
    result = fold(model)
    assert verify(model, result.model).verdict == "PASS"
    bias = stored(result.model)["W.bias"]
    assert verify(model, put(result.model, **{"W.bias": bias + np.array([0, 0, 0, 1])})).verdict == "FAIL"


@pytest.mark.usefixtures("in_this_process")
def test_T19_graphs_that_onnxruntime_makes_equal():
    """At its default it folds the original itself: that proves nothing of a right fold, and does not hide a wrong one."""
    model = in_float32(ROW)
    right = fold(model).model
    wrong = put(right, W=1.001 * stored(right)["W"])
    assert [verify(model, right, levels=(level,)).verdict for level in ("off", "default")] == ["PASS", "VACUOUS"]
    assert [verify(model, wrong, levels=(level,)).verdict for level in ("off", "default")] == ["FAIL", "FAIL"]
