"""Ring 5: named graphs, and what must be left of them."""

from __future__ import annotations

import onnx
import pytest

from bnfold.folding.driver import fold
from tests.build import BN, assert_same, bn, build, operators
from tests.rows import Row

X, W, V = "X[N,3,6,6]", {"W": (4, 3, 3, 3)}, {"V": (4, 3, 3, 3)}
Y = "Y[N,4,4,4]"
GRAPHS = {
    "conv, bn": Row(f"c = Conv<pads=[1,1,1,1]>(X, W) Y = {BN('c', 'p')}", {**W, **bn("p", 4)}, outputs="Y[N,4,6,6]"),
    "conv with an empty bias, bn": Row(f'c = Conv(X, W, "") Y = {BN("c", "p")}', {**W, **bn("p", 4)}),
    "conv, bn, bn": Row(f"c = Conv(X, W) d = {BN('c', 'p')} Y = {BN('d', 'q')}", {**W, **bn("p", 4), **bn("q", 4)}),
    "conv, mul, add": Row("c = Conv(X, W) d = Mul(c, k) Y = Add(d, j)", {**W, "k": (4, 1, 1), "j": (1, 4, 1, 1)}),
    "conv, constant first": Row("c = Conv(X, W) d = Mul(k, c) Y = Sub(j, d)", {**W, "k": (4, 1, 1), "j": (1, 4, 1, 1)}),
    "conv, sub, div, neg": Row("c = Conv(X, W) d = Sub(c, k) e = Div(d, kv) Y = Neg(e)", {**W, "k": (4, 1, 1), "kv": (1, 4, 1, 1)}),
    "bn, conv": Row(f"b = {BN('X', 'p')} Y = Conv(b, W)", {**W, **bn("p", 3)}),
    "bn, padded conv": Row(f"b = {BN('X', 'p')} Y = Conv<pads=[1,1,1,1]>(b, W)", {**W, **bn("p", 3)}, outputs="Y[N,4,6,6]", left="BatchNormalization Conv"),
    "mul, padded conv": Row("b = Mul(X, k) Y = Conv<pads=[1,1,1,1]>(b, W)", {**W, "k": (3, 1, 1)}, outputs="Y[N,4,6,6]"),
    "conv transpose by groups, bn": Row(f"c = ConvTranspose<group=2, strides=[2,2]>(X, W) Y = {BN('c', 'p')}", {"W": (4, 3, 3, 3), **bn("p", 6)},
        inputs="X[N,4,6,6]", outputs="Y[N,6,13,13]", left="ConvTranspose"),
    "gemm, bn": Row(f"c = Gemm<alpha=0.5, beta=2.0, transB=1>(X, W, C) Y = {BN('c', 'p')}", {"W": (4, 4), "C": (4,), **bn("p", 4)}, inputs="X[N,4]",
        outputs="Y[N,4]", left="Gemm"),
    "matmul, bn": Row(f"c = MatMul(X, W) Y = {BN('c', 'p')}", {"W": (4, 6), **bn("p", 6)}, inputs="X[N,4]", outputs="Y[N,6]", left="Gemm"),
    "bn, matmul": Row(f"c = {BN('X', 'p')} Y = MatMul(c, W)", {"W": (4, 6), **bn("p", 4)}, inputs="X[N,4]", outputs="Y[N,6]", left="Gemm"),
    "matmul, add, bn": Row(f"c = MatMul(X, W) d = Add(c, C) Y = {BN('d', 'p')}", {"W": (4, 6), "C": (6,), **bn("p", 6)}, inputs="X[N,4]",
        outputs="Y[N,6]", left="Gemm"),
    "matmul, add, bn, at rank 3": Row(f"t = Transpose<perm=[0,2,1]>(X) l = MatMul(t, W) a = Add(l, B) u = Transpose<perm=[0,2,1]>(a) Y = {BN('u', 'p')}",
        {"W": (3, 4), "B": (4,), **bn("p", 4)}, inputs="X[N,3,7]", outputs="Y[N,4,7]", left="Transpose MatMul Add Transpose"),
    "matmul, reshape, bn, reshape": Row(f"l = MatMul(X, W) f = Reshape(l, flat) b = {BN('f', 'p')} a = Reshape(b, back) Y = Add(a, j)",
        {"W": (3, 4), "flat": [-1, 4], "back": [-1, 5, 4], "j": (4,), **bn("p", 4)}, inputs="X[N,5,3]", outputs="Y[N,5,4]", left="MatMul Add"),
    "constant on the left of matmul, bn": Row(f"l = MatMul(W, X) a = Add(l, B) Y = {BN('a', 'p')}", {"W": (4, 3), "B": (4, 1), **bn("p", 4)},
        inputs="X[N,3,7]", outputs="Y[N,4,7]", left="MatMul Add"),
    "concat of convs, bn": Row(f"a = Conv(X, W) b = Conv(X, V) c = Concat<axis=1>(a, b) Y = {BN('c', 'p')}", {**W, **V, **bn("p", 8)},
        outputs="Y[N,8,4,4]", left="Conv Conv Concat"),
    "sum of convs, bn": Row(f"a = Conv(X, W) b = Conv(X, V) c = Add(a, b) Y = {BN('c', 'p')}", {**W, **V, **bn("p", 4)}),
    "bn, two convs": Row(f"b = {BN('X', 'p')} c = Conv(b, W) d = Conv(b, V) Y = Concat<axis=1>(c, d)", {**W, **V, **bn("p", 3)}, outputs="Y[N,8,4,4]",
        left="Conv Conv Concat"),
    "bn, flatten, gemm": Row(f"b = {BN('X', 'p')} f = Flatten(b) Y = Gemm(f, W)", {"W": (108, 5), **bn("p", 3)}, outputs="Y[N,5]", left="Flatten Gemm"),
    "bn, transpose, flatten, gemm": Row(f"b = {BN('X', 'p')} t = Transpose<perm=[0,2,3,1]>(b) f = Flatten(t) Y = Gemm(f, W)",
        {"W": (108, 5), **bn("p", 3)}, outputs="Y[N,5]", left="Transpose Flatten Gemm"),
    "weight transposed in the graph": Row(f"w = Transpose<perm=[1,0]>(W) l = MatMul(X, w) Y = {BN('l', 'p')}", {"W": (4, 3), **bn("p", 4)},
        inputs="X[N,3]", outputs="Y[N,4]", left="Gemm"),
    "bias expanded in the graph": Row(f"z = Expand(zero, four) c = Conv(X, W, z) Y = {BN('c', 'p')}", {**W, "zero": [0.5], "four": [4], **bn("p", 4)}),
    "bias of zeros as PyTorch writes it with optimize=False": Row(
        f"s = Shape<start=0, end=1>(W) d = Expand(s, one) k = CastLike(zero, X) z = Expand(k, d) c = Conv(X, W, z) Y = {BN('c', 'p')}",
        {**W, "zero": 0.5, "one": [1], **bn("p", 4)}),
    "parameters after Identity": Row("g = Identity(pg) v = Identity(pv) c = Conv(X, W) Y = BatchNormalization(c, g, pb, pm, v)", {**W, **bn("p", 4)}),
    "bn, bn": Row(f"r = Sigmoid(X) b = {BN('r', 'p')} Y = {BN('b', 'q')}", {**bn("p", 3), **bn("q", 3)}, outputs="Y[N,3,6,6]",
        left="Sigmoid BatchNormalization"),
    "the conv is an output too": Row(f"A = Conv(X, W) Y = {BN('A', 'p')}", {**W, **bn("p", 4)}, outputs=f"{Y}; A[N,4,4,4]", left="Conv BatchNormalization"),
    "the conv is read twice": Row(f"a = Conv(X, W) b = {BN('a', 'p')} Y = Mul(a, b)", {**W, **bn("p", 4)}, left="Conv BatchNormalization Mul"),
    "a shared weight": Row(f"a = Conv(X, W) Y = {BN('a', 'p')} n = Neg(X) Z = Conv(n, W)", {**W, **bn("p", 4)}, outputs=f"{Y}; Z[N,4,4,4]",
        left="Conv Conv"),
    "one weight, two convs, two bns": Row(f"a = Conv(X, W) Y = {BN('a', 'p')} n = Relu(X) b = Conv(n, W) Z = {BN('b', 'q')}",
        {**W, **bn("p", 4), **bn("q", 4)}, outputs=f"{Y}; Z[N,4,4,4]", left="Conv Relu Conv"),
    "one bn for two convs": Row(f"a = Conv(X, W) Y = {BN('a', 'p')} b = Conv(X, V) Z = {BN('b', 'p')}", {**W, **V, **bn("p", 4)},
        outputs=f"{Y}; Z[N,4,4,4]", left="Conv Conv"),
    "matmul, transpose, bn of a coinciding size": Row(f"l = MatMul(X, W) t = Transpose<perm=[1,0]>(l) Y = {BN('t', 'p')}", {"W": (6, 4), **bn("p", 4)},
        inputs="X[4,6]", outputs="Y[4,4]", left="MatMul Transpose BatchNormalization"),
    "matmul, reshape, bn of a coinciding size": Row(f"l = MatMul(X, W) t = Reshape(l, s) Y = {BN('t', 'p')}",
        {"W": (6, 4), "s": [2, 4, 2, 2], **bn("p", 4)}, inputs="X[8,6]", outputs="Y[2,4,2,2]", left="MatMul Reshape BatchNormalization"),
    "matmul at rank 3, bn of a coinciding size": Row(f"l = MatMul(X, W) Y = {BN('l', 'p')}", {"W": (6, 4), **bn("p", 4)}, inputs="X[2,4,6]",
        outputs="Y[2,4,4]", left="MatMul BatchNormalization"),
    "a shape that constants compute": Row(f"a = Gather(axes, last) s = Unsqueeze(k, a) c = Conv(X, W) d = Add(c, s) e = Identity(d) Y = {BN('e', 'p')}",
        {**W, "k": (4, 1), "axes": [3, 1], "last": [-1], **bn("p", 4)}, outputs="Y[A,B,C,D]", left="Conv Identity"),
    "a constant along H, not C": Row("c = Conv(X, W) Y = Mul(c, k)", {**W, "k": (4, 1)}, left="Conv Mul"),
    "a constant along W, not C": Row("c = Conv(X, W) Y = Add(c, k)", {**W, "k": (1, 1, 1, 4)}, left="Conv Add"),
    "a constant that enlarges": Row("c = Conv(X, W) Y = Mul(c, k)", {**W, "k": (5, 1, 1, 1)}, inputs="X[1,3,6,6]", outputs="Y[5,4,4,4]", left="Conv Mul"),
}  # fmt: skip


@pytest.mark.parametrize("name", GRAPHS)
def test_what_is_left(name):
    model = GRAPHS[name].model()
    onnx.checker.check_model(model, full_check=True)
    before = model.SerializeToString(deterministic=True)
    result = fold(model)
    assert model.SerializeToString(deterministic=True) == before, "fold changed its argument"
    assert " ".join(operators(result.model)) == GRAPHS[name].left
    assert_same(model, result.model)
    again = fold(result.model)
    assert again.folded == ()
    assert again.model == result.model


def test_a_batch_norm_that_nothing_reads_any_more_is_reported():
    """Its shape alone was read, and became a stored bias."""
    body = f"n = {BN('X', 'p')} s = Shape(n) b = Cast<to = 11>(s) c = Conv(X, W, b) Y = Mul(c, two)"
    model = build(body, "X[1,3,6,6]", "Y[1,4,4,4]", {**W, **bn("p", 3), "two": 2.0})
    result = fold(model)
    assert operators(result.model) == ["Conv"]
    assert {f.operator for f in result.folded} == {"BatchNormalization", "Mul"}
    assert result.kept == ()
    assert_same(model, result.model)
