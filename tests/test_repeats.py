"""Coefficients that repeat along an axis of several times a length that is open: heads that join a batch."""

from __future__ import annotations

import re

import numpy as np
import onnx
import onnx_graphsurgeon as gs
import pytest
from onnx import helper

from bnfold.algebra.affine import Affine, Refused
from bnfold.folding import driver
from bnfold.folding.plan import REPEATING
from bnfold.folding.rules.reflow import reflow
from bnfold.graph.products import Product, symbol
from tests.build import BN, bn, build, operators
from tests.reference import evaluate

JOINED = {"W": (8, 3, 1), "there": [-1, 4, 5], "back": [-1, 8, 5], **bn("p", 8)}  # [N, 8, 5] <-> [2*N, 4, 5]
BETWEEN = {  # from h to k, both [2*N, 4, 5]
    "Add": "r = Reshape(Z, there) k = Add(h, r)",
    "Cast": "k = Cast<to = 11>(h)",
    "CastLike": "k = CastLike(h, X)",
    "Concat": "r = Reshape(Z, there) b = Concat<axis = 2>(h, r) k, rest = Split<axis = 2>(b, fives)",
    "Dropout": "k = Dropout(h)",
    "Flatten": "f = Flatten(h) k = Reshape(f, there)",
    "Identity": "k = Identity(h)",
    "LeakyRelu": "k = LeakyRelu(h)",
    "MatMul": "r = Reshape(Z, there) t = Transpose<perm = [0, 2, 1]>(r) A = MatMul(t, r) k = MatMul(h, A)",
    "Mean": "r = Reshape(Z, there) k = Mean(h, r)",
    "Neg": "k = Neg(h)",
    "Relu": "k = Relu(h)",
    "Reshape": "f = Reshape(h, flat) k = Reshape(f, there)",
    "Split": "a, b = Split<axis = 1>(h, twos) r = Reshape(Z, there) n, m = Split<axis = 1>(r, twos) k = Concat<axis = 1>(n, b)",
    "Squeeze": "u = Unsqueeze(h, two) k = Squeeze(u, two)",
    "Sub": "r = Reshape(Z, there) k = Sub(h, r)",
    "Sum": "r = Reshape(Z, there) k = Sum(r, h)",
    "Transpose": "t = Transpose<perm = [2, 0, 1]>(h) k = Transpose<perm = [1, 2, 0]>(t)",
    "Unsqueeze": "u = Unsqueeze(h, one) k = Squeeze(u, one)",
}


def heads(between: str) -> onnx.ModelProto:
    """Conv, heads, something, back, BatchNormalization."""
    body = f"c = Conv(X, W) Z = Conv(X, W2) h = Reshape(c, there) {between} o = Reshape(k, back) Y = {BN('o', 'p')}"
    constants = {"W2": (8, 3, 1), "one": [1], "two": [2], "flat": [-1, 20], "fives": [5, 5], "twos": [2, 2]}
    constants |= {
        "zero": 0,
        "zero_axis": [0],
        "last": [-1],
        "first": [-(2**62)],
        "minus": [-1],
        "one_each": (1, 4, 1),
        "parts": [-1, 20, 1],
    }
    return build(body, "X[N,3,5]", "Y[B,8,5]", {**JOINED, **constants}, opset=18)


def same(original: onnx.ModelProto, folded: onnx.ModelProto) -> None:
    """Both compute the same for batches of any size."""
    onnx.checker.check_model(folded, full_check=True)
    for batch in (1, 2, 3):
        rng = np.random.default_rng(batch)
        feeds = {"X": rng.standard_normal((batch, 3, 5))}
        for want, got in zip(evaluate(original, feeds), evaluate(folded, feeds), strict=True):
            np.testing.assert_allclose(got, want, rtol=1e-9, atol=1e-9)


def test_every_operator_that_lets_repetitions_by_has_a_row() -> None:
    assert BETWEEN.keys() == REPEATING


@pytest.mark.parametrize("operator", BETWEEN)
def test_what_repeats_along_the_batch_moves_on_as_what_does_not(operator: str) -> None:
    model = heads(BETWEEN[operator])
    for tensor in (t for t in model.graph.initializer if t.name == "pg"):
        tensor.CopyFrom(onnx.numpy_helper.from_array(np.linspace(0.5, 2, 8), "pg"))
    if operator in ("Relu", "LeakyRelu"):  # which let no shift by
        body = next(n for n in model.graph.node if n.op_type == "BatchNormalization")
        body.CopyFrom(helper.make_node("Mul", [body.input[0], "k_"], list(body.output)))
        model.graph.initializer.append(onnx.numpy_helper.from_array(np.linspace(0.5, 2, 8).reshape(8, 1), "k_"))
    result = driver.fold(model)
    assert [f.operator for f in result.folded][-1:] in (["BatchNormalization"], ["Mul"]), result.kept
    assert "BatchNormalization" not in operators(result.model)
    same(model, result.model)


def test_a_shift_that_would_have_to_repeat_stays_as_an_add_in_the_place_of_the_node() -> None:
    attention = "t = Transpose<perm = [0, 2, 1]>(r) m = MatMul(t, r) A = Softmax(m) k = MatMul(h, A)"
    model = heads(f"r = Reshape(Z, there) {attention}")
    result = driver.fold(model)
    assert operators(result.model)[-3:] == ["MatMul", "Reshape", "Add"]
    assert not result.batch_norms_kept
    same(model, result.model)


def test_towards_the_outputs_as_well() -> None:
    body = f"b = {BN('X', 'q')} h = Reshape(b, there) k = Neg(h) o = Reshape(k, back) Y = Conv(o, W)"
    model = build(body, "X[N,8,5]", "Y[N,3,5]", {**JOINED, "W": (3, 8, 1), **bn("q", 8)})
    result = driver.fold(model)
    assert operators(result.model) == ["Conv"]  # the Reshapes cancel out
    for batch in (1, 2, 3):
        feeds = {"X": np.random.default_rng(batch).standard_normal((batch, 8, 5))}
        np.testing.assert_allclose(evaluate(result.model, feeds)[0], evaluate(model, feeds)[0], atol=1e-9)


REFUSED = {
    "a constant": ("v = Sigmoid(h) k = Add(v, one_each)", "REPEATS"),  # which cannot be as long as the batch
    "what mixes the batch": ("k = CumSum(h, zero)", "REPEATS"),
    "from last to first": ("k = Slice(h, last, first, zero_axis, minus)", "SHAPE_UNKNOWN"),
    "another order": (
        "a = Reshape(h, parts) b = Transpose<perm = [1, 0, 2]>(a) k = Reshape(b, there)",
        "SHAPE_UNKNOWN",
    ),
}


@pytest.mark.parametrize("between", REFUSED)
def test_what_does_not_let_repetitions_by(between: str) -> None:
    code = REFUSED[between][1]
    model = heads(REFUSED[between][0])
    result = driver.fold(model)
    assert [kept.not_hoisted.code for kept in result.batch_norms_kept] == [code]


def test_a_bias_that_a_product_of_matrices_might_get_is_not_as_long_either() -> None:
    """What repeats along the rows of [2*N, 4] @ V has no place in the bias of the Gemm that it may become."""
    body = "c = Sigmoid(X) h = Reshape(c, there) k = MatMul(h, V) o = Reshape(k, back) Y = Add(o, shift)"
    shift = np.repeat([1.0, 2.0], 4)
    model = build(body, "X[N,8]", "Y[N,8]", {"there": [-1, 4], "back": [-1, 8], "V": (4, 4), "shift": shift})
    assert [kept.not_hoisted.code for kept in driver.fold(model).kept] == ["REPEATS"]


N, M = symbol("N"), symbol("M")
FOUR_N = Product(4, ("N",))


def reshape() -> gs.Node:
    return gs.Node("Reshape", "r", inputs=[gs.Variable("x")], outputs=[gs.Variable("y")])


def test_along_axes_of_open_lengths_the_same_number_needs_no_length():
    affine = Affine.of(np.arange(1.0, 5).reshape(1, 1, 4))
    made = reflow(affine, reshape(), (N, M, 4), (None, 4))
    assert np.array_equal(made.scale, [[1, 2, 3, 4]])


@pytest.mark.parametrize(
    ("extent", "source", "target", "length"),
    [((3, 1), (FOUR_N, 5), (N, 4, 5), FOUR_N), ((3, 1, 1), (N, 4, 5), (FOUR_N, 5), FOUR_N)],
)
def test_what_does_not_repeat_along_an_axis_refuses(extent, source, target, length):
    affine = Affine.of(np.arange(1.0, 4).reshape(extent))
    words = f"does not repeat along an axis of {length} elements that Reshape 'r' reads or makes"
    with pytest.raises(Refused, match=re.escape(words)) as refused:
        reflow(affine, reshape(), source, target)
    assert refused.value.code == "VARIES"
