"""Ring 5: named graphs, and what must be left of them."""

from __future__ import annotations

import onnx
import pytest

from bnfold import fold
from tests.build import BN, assert_same, bn, build, operators

X, W, V = "X[N,3,6,6]", {"W": (4, 3, 3, 3)}, {"V": (4, 3, 3, 3)}
Y = "Y[N,4,4,4]"
GRAPHS = {
    "conv, bn": (f"c = Conv<pads=[1,1,1,1]>(X, W) Y = {BN('c', 'p')}", X, "Y[N,4,6,6]", {**W, **bn("p", 4)}, "Conv"),
    "conv with an empty bias, bn": (f'c = Conv(X, W, "") Y = {BN("c", "p")}', X, Y, {**W, **bn("p", 4)}, "Conv"),
    "conv, bn, bn": (
        f"c = Conv(X, W) d = {BN('c', 'p')} Y = {BN('d', 'q')}",
        X,
        Y,
        {**W, **bn("p", 4), **bn("q", 4)},
        "Conv",
    ),
    "conv, mul, add": (
        "c = Conv(X, W) d = Mul(c, k) Y = Add(d, j)",
        X,
        Y,
        {**W, "k": (4, 1, 1), "j": (1, 4, 1, 1)},
        "Conv",
    ),
    "conv, constant first": (
        "c = Conv(X, W) d = Mul(k, c) Y = Sub(j, d)",
        X,
        Y,
        {**W, "k": (4, 1, 1), "j": (1, 4, 1, 1)},
        "Conv",
    ),
    "conv, sub, div, neg": (
        "c = Conv(X, W) d = Sub(c, k) e = Div(d, kv) Y = Neg(e)",
        X,
        Y,
        {**W, "k": (4, 1, 1), "kv": (1, 4, 1, 1)},
        "Conv",
    ),
    "bn, conv": (f"b = {BN('X', 'p')} Y = Conv(b, W)", X, Y, {**W, **bn("p", 3)}, "Conv"),
    "bn, padded conv": (
        f"b = {BN('X', 'p')} Y = Conv<pads=[1,1,1,1]>(b, W)",
        X,
        "Y[N,4,6,6]",
        {**W, **bn("p", 3)},
        "BatchNormalization Conv",
    ),
    "mul, padded conv": (
        "b = Mul(X, k) Y = Conv<pads=[1,1,1,1]>(b, W)",
        X,
        "Y[N,4,6,6]",
        {**W, "k": (3, 1, 1)},
        "Conv",
    ),
    "conv transpose by groups, bn": (
        f"c = ConvTranspose<group=2, strides=[2,2]>(X, W) Y = {BN('c', 'p')}",
        *("X[N,4,6,6]", "Y[N,6,13,13]", {"W": (4, 3, 3, 3), **bn("p", 6)}, "ConvTranspose"),
    ),
    "gemm, bn": (
        f"c = Gemm<alpha=0.5, beta=2.0, transB=1>(X, W, C) Y = {BN('c', 'p')}",
        "X[N,4]",
        "Y[N,4]",
        {"W": (4, 4), "C": (4,), **bn("p", 4)},
        "Gemm",
    ),
    "matmul, bn": (f"c = MatMul(X, W) Y = {BN('c', 'p')}", "X[N,4]", "Y[N,6]", {"W": (4, 6), **bn("p", 6)}, "Gemm"),
    "bn, matmul": (f"c = {BN('X', 'p')} Y = MatMul(c, W)", "X[N,4]", "Y[N,6]", {"W": (4, 6), **bn("p", 4)}, "Gemm"),
    "matmul, add, bn": (
        f"c = MatMul(X, W) d = Add(c, C) Y = {BN('d', 'p')}",
        "X[N,4]",
        "Y[N,6]",
        {"W": (4, 6), "C": (6,), **bn("p", 6)},
        "Gemm",
    ),
    "matmul, add, bn, at rank 3": (
        f"t = Transpose<perm=[0,2,1]>(X) l = MatMul(t, W) a = Add(l, B) u = Transpose<perm=[0,2,1]>(a) Y = {BN('u', 'p')}",
        *("X[N,3,7]", "Y[N,4,7]", {"W": (3, 4), "B": (4,), **bn("p", 4)}, "Transpose MatMul Add Transpose"),
    ),
    "matmul, reshape, bn, reshape": (
        f"l = MatMul(X, W) f = Reshape(l, flat) b = {BN('f', 'p')} a = Reshape(b, back) Y = Add(a, j)",
        *("X[N,5,3]", "Y[N,5,4]", {"W": (3, 4), "flat": [-1, 4], "back": [-1, 5, 4], "j": (4,), **bn("p", 4)}),
        "MatMul Add",
    ),
    "constant on the left of matmul, bn": (
        f"l = MatMul(W, X) a = Add(l, B) Y = {BN('a', 'p')}",
        *("X[N,3,7]", "Y[N,4,7]", {"W": (4, 3), "B": (4, 1), **bn("p", 4)}, "MatMul Add"),
    ),
    "concat of convs, bn": (
        f"a = Conv(X, W) b = Conv(X, V) c = Concat<axis=1>(a, b) Y = {BN('c', 'p')}",
        *(X, "Y[N,8,4,4]", {**W, **V, **bn("p", 8)}, "Conv Conv Concat"),
    ),
    "sum of convs, bn": (
        f"a = Conv(X, W) b = Conv(X, V) c = Add(a, b) Y = {BN('c', 'p')}",
        X,
        Y,
        {**W, **V, **bn("p", 4)},
        "Conv",
    ),
    "bn, two convs": (
        f"b = {BN('X', 'p')} c = Conv(b, W) d = Conv(b, V) Y = Concat<axis=1>(c, d)",
        *(X, "Y[N,8,4,4]", {**W, **V, **bn("p", 3)}, "Conv Conv Concat"),
    ),
    "bn, flatten, gemm": (
        f"b = {BN('X', 'p')} f = Flatten(b) Y = Gemm(f, W)",
        X,
        "Y[N,5]",
        {"W": (108, 5), **bn("p", 3)},
        "Flatten Gemm",
    ),
    "bn, transpose, flatten, gemm": (
        f"b = {BN('X', 'p')} t = Transpose<perm=[0,2,3,1]>(b) f = Flatten(t) Y = Gemm(f, W)",
        *(X, "Y[N,5]", {"W": (108, 5), **bn("p", 3)}, "Transpose Flatten Gemm"),
    ),
    "weight transposed in the graph": (
        f"w = Transpose<perm=[1,0]>(W) l = MatMul(X, w) Y = {BN('l', 'p')}",
        *("X[N,3]", "Y[N,4]", {"W": (4, 3), **bn("p", 4)}, "Gemm"),
    ),
    "bias expanded in the graph": (
        f"z = Expand(zero, four) c = Conv(X, W, z) Y = {BN('c', 'p')}",
        *(X, Y, {**W, "zero": [0.5], "four": [4], **bn("p", 4)}, "Conv"),
    ),
    "bias of zeros as PyTorch writes it with optimize=False": (
        f"s = Shape<start=0, end=1>(W) d = Expand(s, one) k = CastLike(zero, X) z = Expand(k, d) c = Conv(X, W, z) Y = {BN('c', 'p')}",
        *(X, Y, {**W, "zero": 0.5, "one": [1], **bn("p", 4)}, "Conv"),
    ),
    "parameters behind Identity": (
        "g = Identity(pg) v = Identity(pv) c = Conv(X, W) Y = BatchNormalization(c, g, pb, pm, v)",
        *(X, Y, {**W, **bn("p", 4)}, "Conv"),
    ),
    "bn, bn": (
        f"r = Sigmoid(X) b = {BN('r', 'p')} Y = {BN('b', 'q')}",
        X,
        "Y[N,3,6,6]",
        {**bn("p", 3), **bn("q", 3)},
        "Sigmoid BatchNormalization",
    ),
    "the conv is an output too": (
        f"A = Conv(X, W) Y = {BN('A', 'p')}",
        X,
        f"{Y}; A[N,4,4,4]",
        {**W, **bn("p", 4)},
        "Conv BatchNormalization",
    ),
    "the conv is read twice": (
        f"a = Conv(X, W) b = {BN('a', 'p')} Y = Mul(a, b)",
        X,
        Y,
        {**W, **bn("p", 4)},
        "Conv BatchNormalization Mul",
    ),
    "a shared weight": (
        f"a = Conv(X, W) Y = {BN('a', 'p')} n = Neg(X) Z = Conv(n, W)",
        X,
        f"{Y}; Z[N,4,4,4]",
        {**W, **bn("p", 4)},
        "Conv Conv",
    ),
    "one weight, two convs, two bns": (
        f"a = Conv(X, W) Y = {BN('a', 'p')} n = Relu(X) b = Conv(n, W) Z = {BN('b', 'q')}",
        *(X, f"{Y}; Z[N,4,4,4]", {**W, **bn("p", 4), **bn("q", 4)}, "Conv Relu Conv"),
    ),
    "one bn for two convs": (
        f"a = Conv(X, W) Y = {BN('a', 'p')} b = Conv(X, V) Z = {BN('b', 'p')}",
        *(X, f"{Y}; Z[N,4,4,4]", {**W, **V, **bn("p", 4)}, "Conv Conv"),
    ),
    "matmul, transpose, bn of a coinciding size": (
        f"l = MatMul(X, W) t = Transpose<perm=[1,0]>(l) Y = {BN('t', 'p')}",
        *("X[4,6]", "Y[4,4]", {"W": (6, 4), **bn("p", 4)}, "MatMul Transpose BatchNormalization"),
    ),
    "matmul, reshape, bn of a coinciding size": (
        f"l = MatMul(X, W) t = Reshape(l, s) Y = {BN('t', 'p')}",
        *("X[8,6]", "Y[2,4,2,2]", {"W": (6, 4), "s": [2, 4, 2, 2], **bn("p", 4)}, "MatMul Reshape BatchNormalization"),
    ),
    "matmul at rank 3, bn of a coinciding size": (
        f"l = MatMul(X, W) Y = {BN('l', 'p')}",
        *("X[2,4,6]", "Y[2,4,4]", {"W": (6, 4), **bn("p", 4)}, "MatMul BatchNormalization"),
    ),
    "a shape that constants compute": (
        f"a = Gather(axes, last) s = Unsqueeze(k, a) c = Conv(X, W) d = Add(c, s) e = Identity(d) Y = {BN('e', 'p')}",
        *(X, "Y[A,B,C,D]", {**W, "k": (4, 1), "axes": [3, 1], "last": [-1], **bn("p", 4)}, "Conv Identity"),
    ),
    "a constant along H, not C": ("c = Conv(X, W) Y = Mul(c, k)", X, Y, {**W, "k": (4, 1)}, "Conv Mul"),
    "a constant along W, not C": ("c = Conv(X, W) Y = Add(c, k)", X, Y, {**W, "k": (1, 1, 1, 4)}, "Conv Add"),
    "a constant that enlarges": (
        "c = Conv(X, W) Y = Mul(c, k)",
        "X[1,3,6,6]",
        "Y[5,4,4,4]",
        {**W, "k": (5, 1, 1, 1)},
        "Conv Mul",
    ),
}


@pytest.mark.parametrize("name", GRAPHS)
def test_what_is_left(name):
    body, inputs, outputs, constants, expected = GRAPHS[name]
    model = build(body, inputs, outputs, constants)
    onnx.checker.check_model(model, full_check=True)
    before = model.SerializeToString(deterministic=True)
    result = fold(model)
    assert model.SerializeToString(deterministic=True) == before, "fold changed its argument"
    assert " ".join(operators(result.model)) == expected
    assert_same(model, result.model)
    again = fold(result.model)
    assert again.folded == ()
    assert again.model == result.model


def test_a_batch_norm_that_nothing_reads_any_more_is_told():
    """Its shape alone was read, and became a stored bias."""
    body = f"n = {BN('X', 'p')} s = Shape(n) b = Cast<to = 11>(s) c = Conv(X, W, b) Y = Mul(c, two)"
    model = build(body, "X[1,3,6,6]", "Y[1,4,4,4]", {**W, **bn("p", 3), "two": 2.0})
    result = fold(model)
    assert operators(result.model) == ["Conv"]
    assert {f.operator for f in result.folded} == {"BatchNormalization", "Mul"}
    assert result.kept == ()
    assert_same(model, result.model)
