"""Axes of length 0, wherever they stand: a fold, a copy or a sentence."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper

from bnfold import verify
from bnfold.folding.driver import fold
from tests.verify_nets import evaluate

RNG = np.random.default_rng(0)
NONE = np.zeros(0)
NORM = {"g": RNG.uniform(0.5, 2, 4), "b": RNG.normal(size=4), "m": RNG.normal(size=4), "v": RNG.uniform(0.5, 2, 4)}
BN = ("BatchNormalization", "c g b m v", "y")
W = RNG.normal(size=(4, 3, 1, 1))


def model(nodes, shape, opset=17, **constants) -> onnx.ModelProto:
    """Nodes as (operator, inputs, output, attributes); float32, integers as they are."""
    made = [helper.make_node(op, x.split(), y.split(), name=f"n{i}", **(more[0] if more else {})) for i, (op, x, y, *more) in enumerate(nodes)]  # fmt: skip
    typed = {k: np.asarray(v) if np.asarray(v).dtype.kind in "ib" else np.float32(v) for k, v in constants.items()}
    stored = [numpy_helper.from_array(v, k) for k, v in typed.items()]
    value = helper.make_tensor_value_info
    graph = helper.make_graph(made, "g", [value("x", 1, shape)], [value(nodes[-1][2].split()[0], 1, None)], stored)
    whole = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=8)
    whole = onnx.shape_inference.infer_shapes(whole, data_prop=True)
    onnx.checker.check_model(whole, full_check=True)
    return whole


MODELS = {
    "a constant that empties": model([("Neg", "x", "n"), ("Sub", "e n", "y"), ("Mul", "y k", "z")], [3, 1], e=NONE, k=np.zeros((3, 0))),
    "Concat with nothing": model([("Concat", "x e", "t", {"axis": 2}), ("Conv", "t W", "c"), BN], [1, 3, 4, 4], e=np.zeros((1, 3, 0, 4)), W=W, **NORM),
    "Concat with no channels": model([("Conv", "x W", "t"), ("Concat", "t e", "c", {"axis": 1}), BN], [1, 3, 4, 4], e=np.zeros((1, 0, 4, 4)), W=W, **NORM),
    "a part of Split without channels": model([("Conv", "x W", "t"), ("Split", "t s", "c d", {"axis": 1}), BN], [1, 3, 4, 4], s=np.array([4, 0]), W=W, **NORM),
    "a Slice of nothing": model([("Conv", "x W", "t"), ("Slice", "t f f a", "d"), ("Mul", "d k", "y")], [1, 3, 4, 4],
        f=np.array([2]), a=np.array([1]), W=W, k=np.ones((1, 0, 1, 1))),
    "no output channels": model([("Conv", "x W", "c"), BN], [1, 3, 4, 4], W=np.zeros((0, 3, 1, 1)), g=NONE, b=NONE, m=NONE, v=NONE),
    "no input channels": model([("Conv", "x W", "c"), BN], [1, 0, 4, 4], W=np.zeros((4, 0, 1, 1)), **NORM),
    "no rows": model([("Gemm", "x W h", "c"), BN], [0, 3], W=W[:, :, 0, 0].T, h=np.ones(4), **NORM),
    "nothing to sum": model([("Gemm", "x W h", "c"), BN], [2, 0], W=np.zeros((0, 4)), h=np.ones(4), **NORM),
    "no pictures": model([("ConvTranspose", "x W", "c"), BN], [0, 3, 4, 4], W=W.reshape(3, 4, 1, 1), **NORM),
    "a norm of nothing": model([("Neg", "x", "c"), BN], [0, 4, 2], **NORM),
    "gathered by no index": model([("Gather", "x i", "t", {"axis": 1}), ("Mul", "t k", "y")], [2, 3], i=np.zeros(0, int), k=np.ones((2, 1))),
}  # fmt: skip


@pytest.mark.parametrize("name", MODELS)
def test_a_fold_or_a_copy(name):
    whole = MODELS[name]
    result = fold(whole)
    onnx.checker.check_model(result.model, full_check=True)
    x = {"x": RNG.normal(size=[d.dim_value for d in whole.graph.input[0].type.tensor_type.shape.dim])}
    for want, got in zip(evaluate(whole, x).values(), evaluate(result.model, x).values(), strict=True):
        assert got.shape == want.shape
        np.testing.assert_allclose(got, want, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("first", ["Add", "Mul", "Sum"])
@pytest.mark.parametrize("last", ["Sub", "Mul", "Add"])
@pytest.mark.parametrize("k", [1.5, [[1.5]], np.zeros((2, 0))], ids=["a number", "a matrix", "nothing"])
@pytest.mark.parametrize("e", [NONE, np.zeros((2, 0)), np.zeros((1, 0))], ids=["[0]", "[2,0]", "[1,0]"])
def test_coefficients_without_elements(first, last, k, e):
    nodes = [(first, "k x", "a"), ("Neg", "a", "n"), (last, "e n", "y")]
    result = fold(model(nodes, [2, 1], k=k, e=e))
    assert evaluate(result.model, {"x": np.ones((2, 1))})["y"].shape == (2, 0)


@pytest.mark.parametrize("name", ["nothing to sum", "a part of Split without channels"])
def test_verification_copes(name):
    whole = MODELS[name]
    assert verify(whole, fold(whole).model).verdict == "PASS"


def test_a_conv_without_input_channels_is_proved():
    """onnxruntime 1.31 leaves the output of such a Conv as the memory was, NaN at times: no run of it is judged here."""
    whole = MODELS["no input channels"]
    found = verify(whole, fold(whole).model)
    assert not found.structure.problems
    assert [site.why for site in found.derived] == [""]


@pytest.mark.parametrize("name", ["no rows", "no pictures", "a constant that empties"])
def test_verification_says_that_there_is_nothing_to_compare(name):
    found = verify(MODELS[name], fold(MODELS[name]).model)
    assert found.verdict == "INCONCLUSIVE"
    assert "no output has elements: there is nothing to compare" in found.reasons


def test_an_empty_batch_is_no_defect(tmp_path):
    whole = model([("Conv", "x W", "c"), BN], ["N", 3, 6, 6], W=W, **NORM)
    np.savez(tmp_path / "empty.npz", x=np.zeros((0, 3, 6, 6), np.float32))
    found = verify(whole, fold(whole).model, inputs=[tmp_path / "empty.npz"])
    assert found.verdict in ("PASS", "INCONCLUSIVE")
