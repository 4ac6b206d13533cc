"""Graphs on which folding goes wrong elsewhere, T12 to T15 and T17: constants, joins and branches."""

from __future__ import annotations

import numpy as np
import pytest

from bnfold import fold
from tests.build import BN, bn, build
from tests.test_traps import B3, B4, P3, P4, P6, Q4, V, W, X, Y, check, codes, folded, left, rows


@pytest.mark.parametrize(
    "shape", [(4,), (1, 4), (4, 1), (1, 1, 4), (1, 4, 1), (1, 1, 1, 4), (2, 1, 1, 1), (2, 4, 1, 1)]
)
@pytest.mark.parametrize("op", ["Mul(c, k)", "Mul(k, c)", "Add(c, k)", "Sub(k, c)", "Div(c, kv)"])
def test_T12_a_constant_along_another_axis(op, shape):
    """The convolution has 4 channels and makes 4 x 4 images of a batch of 2: every shape fits, none is per channel."""
    name = "kv" if "kv" in op else "k"
    result = folded(f"c = Conv(X, W) Y = {op}", "X[2,3,6,6]", "Y[2,4,4,4]", {**W, name: shape})
    assert left(result) == f"Conv {op.partition('(')[0]}"
    assert codes(result) == {"VARIES", "GRAPH_OUTPUT"}


T12 = {
    **{f"per channel, {op}": (f"c = Conv(X, W) Y = {op}", X, Y, {**W, "kv" if "kv" in op else "k": (4, 1, 1)}, "Conv") for op in ("Mul(k, c)", "Sub(k, c)", "Sub(c, k)", "Div(c, kv)")},
    "one number": ("c = Conv(X, W) Y = Sub(k, c)", X, Y, {**W, "k": (1, 1, 1, 1)}, "Conv"),
    "a larger batch": ("c = Conv(X, W) Y = Mul(c, k)", "X[1,3,6,6]", "Y[5,4,4,4]", {**W, "k": (5, 1, 1, 1)}, "Conv Mul"),
    "a larger batch and channels": ("c = Conv(X, W) Y = Add(k, c)", "X[1,3,6,6]", "Y[5,4,4,4]", {**W, "k": (5, 4, 1, 1)}, "Conv Add"),
    "a higher rank": ("c = Conv(X, W) Y = Mul(c, k)", X, "Y[1,N,4,4,4]", {**W, "k": (1, 1, 4, 1, 1)}, "Conv Mul"),
    "a constant over x": ("c = Conv(X, W) d = Exp(c) Y = Div(k, d)", X, Y, {**W, "k": (4, 1, 1)}, "Conv Exp Div"),
}  # fmt: skip


@rows(T12)
def test_T12_constants_of_every_shape(row):
    check(row)


AB, XU = "a = Conv(X, W) b = Conv(U, V)", "X[2,3,6,6]; U[2,3,6,6]"
T13 = {
    "axis 1": (f"{AB} c = Concat<axis=1>(a, b) Y = {BN('c', 'p')}", XU, "Y[2,8,4,4]", {**W, **V, **bn("p", 8)}, "Conv Conv Concat"),
    "axis 0": (f"{AB} c = Concat<axis=0>(a, b) Y = {B4}", XU, "Y[4,4,4,4]", {**W, **V, **P4}, "Conv Conv Concat"),
    "axis 2": (f"{AB} c = Concat<axis=-2>(a, b) Y = {B4}", XU, "Y[2,4,8,4]", {**W, **V, **P4}, "Conv Conv Concat"),
    "a branch that cannot": (f"a = Conv(X, W) c = Concat<axis=1>(a, U) Y = {BN('c', 'p')}", "X[2,3,6,6]; U[2,3,4,4]", "Y[2,7,4,4]", {**W, **bn("p", 7)}, "Conv Concat BatchNormalization ! GRAPH_INPUT"),
    "one conv twice": (f"a = Conv(X, W) c = Concat<axis=1>(a, a) Y = {BN('c', 'p')}", X, "Y[N,8,4,4]", {**W, **bn("p", 8)}, "Conv Concat BatchNormalization ! SHARED"),
    "a sum": (f"{AB} c = Add(a, b) Y = {B4}", XU, "Y[2,4,4,4]", {**W, **V, **P4}, "Conv Conv Add"),
    "a difference": (f"{AB} c = Sub(a, b) Y = {B4}", XU, "Y[2,4,4,4]", {**W, **V, **P4}, "Conv Conv Sub"),
    "a sum of three": (f"{AB} d = Conv(T, W) c = Sum(a, b, d) Y = {B4}", f"{XU}; T[2,3,6,6]", "Y[2,4,4,4]", {**W, **V, **P4}, "Conv Conv Conv Sum"),
    "a sum with itself": (f"a = Conv(X, W) c = Add(a, a) Y = {B4}", X, Y, {**W, **P4}, "Conv Add BatchNormalization ! SHARED"),
    "one place for all": (f"{AB} c = Add(a, b) Y = {B4}", "X[2,3,6,6]; U[2,3,3,3]", "Y[2,4,4,4]", {**W, **V, **P4}, "Conv Conv Add"),
    "one channel for all": (f"{AB} c = Add(a, b) Y = {B4}", XU, "Y[2,4,4,4]", {**W, "V": (1, 3, 3, 3), **P4}, "Conv Conv Add BatchNormalization ! VARIES"),
    "split behind": (f"b = {B3} s, t = Split<axis=1>(b, n) d = Conv(s, W) e = Conv(t, V) Y = Add(d, e)", "X[2,4,6,6]", "Y[2,4,4,4]", {"W": (4, 1, 3, 3), "V": (4, 3, 3, 3), "n": [1, 3], **P4}, "Split Conv Conv Add"),
    "split before": (f"a = Conv(X, W) c, s = Split<axis=1>(a, n) d = {BN('c', 'p')} t = Exp(s) Y = Concat<axis=1>(t, d)", X, Y, {**W, "n": [3, 1], **P3}, "Conv Split Exp Concat"),
}  # fmt: skip


@rows(T13)
def test_T13_joins_and_parts(row):
    check(row)


F = {"W": (48, 5), **P3}
T14 = {
    "flatten": (f"b = {B3} f = Flatten(b) Y = Gemm(f, W)", "X[N,3,4,4]", "Y[N,5]", F, "Flatten Gemm"),
    "flatten at axis 2": (f"b = {B3} f = Flatten<axis=2>(b) Y = Gemm(f, W)", "X[2,3,4,4]", "Y[6,5]", {"W": (16, 5), **P3}, "BatchNormalization Flatten Gemm ! VARIES"),
    "channels last": (f"b = {B3} t = Transpose<perm=[0,2,3,1]>(b) f = Flatten(t) Y = Gemm<transB=1>(f, W)", "X[N,3,4,4]", "Y[N,5]", {"W": (5, 48), **P3}, "Transpose Flatten Gemm"),
    "reshape 0, -1": (f"b = {B3} f = Reshape(b, s) Y = Gemm(f, W)", "X[N,3,4,4]", "Y[N,5]", {**F, "s": [0, -1]}, "Reshape Gemm"),
    "reshape -1, C": (f"b = {B3} f = Reshape(b, s) Y = Gemm(f, W)", "X[N,3,4,4]", "Y[N,5]", {**F, "s": [-1, 48]}, "Reshape Gemm"),
    "reshape 0, -1, W": (f"b = {B3} f = Reshape(b, s) Y = MatMul(f, W)", "X[N,3,4,4]", "Y[N,12,5]", {"W": (4, 5), **P3, "s": [0, -1, 4]}, "BatchNormalization Reshape MatMul ! VARIES"),
}  # fmt: skip


@rows(T14)
def test_T14_flattening(row):
    check(row)


T15 = {
    "a conv and a gate": (f"b = {B3} Y = Conv(b, W) Z = Relu(b)", X, f"{Y}; Z[N,3,6,6]", {**W, **P3}, "BatchNormalization Conv Relu ! NONLINEAR"),
    "a conv and a sigmoid": (f"b = {B3} c = Conv(b, W) Y = Neg(c) Z = Sigmoid(b)", X, f"{Y}; Z[N,3,6,6]", {**W, **P3}, "BatchNormalization Conv Sigmoid ! NONLINEAR"),
    "two convs": (f"b = {B3} Y = Conv(b, W) Z = Conv(b, V)", X, f"{Y}; Z[N,4,4,4]", {**W, **V, **P3}, "Conv Conv"),
    "two convs, one padded": (f"b = {B3} Y = Conv(b, W) Z = Conv<pads=[0,0,1,1]>(b, V)", X, f"{Y}; Z[N,4,5,5]", {**W, **V, **P3}, "BatchNormalization Conv Conv ! PADDING"),
}  # fmt: skip


@rows(T15)
def test_T15_several_consumers(row):
    check(row)


T15_BIASES = {
    "of a conv": ("b = Mul(U, k) Y = Conv(X, W, b)", "X[2,4,6,6]; U[4]", "Y[2,4,4,4]", {"W": (4, 4, 3, 3), "k": (4,)}, "Mul Conv ! NOT_LINEAR"),
    "of a transposed conv": ("b = Mul(U, k) Y = ConvTranspose(X, W, b)", "X[2,4,6,6]; U[4]", "Y[2,4,8,8]", {"W": (4, 4, 3, 3), "k": (4,)}, "Mul ConvTranspose ! NOT_LINEAR"),
    "a scale of BatchNormalization": (f"b = Mul(U, k) Y = {BN('X', 'p').replace('pg', 'b')}", "X[2,4,4,4]; U[4]", "Y[2,4,4,4]", {"k": (4,), **{f"p{i}": (4,) for i in "bmv"}}, "Mul BatchNormalization ! NOT_LINEAR"),
    "the number of a Pad": ("u = ReduceSum<keepdims=0>(U) b = Mul(u, k) Y = Pad(X, n, b)", "X[4,4]; U[3]", "Y[5,5]", {"k": (), "n": [0, 0, 1, 1]}, "ReduceSum Mul Pad ! GRAPH_INPUT"),
    "a bound of a Clip": ("u = ReduceSum<keepdims=0>(U) b = Mul(u, kv) Y = Clip(X, b)", "X[4,4]; U[3]", "Y[4,4]", {"kv": np.array(2.0)}, "ReduceSum Mul Clip ! GRAPH_INPUT"),
    "a scale of LayerNormalization": ("b = Mul(U, k) Y = LayerNormalization(X, b)", "X[2,4]; U[4]", "Y[2,4]", {"k": (4,)}, "Mul LayerNormalization ! NOT_LINEAR"),
    "of a gemm": ("b = Mul(U, k) Y = Gemm(X, W, b)", "X[4,4]; U[4]", "Y[4,4]", {"W": (4, 4), "k": (4,)}, "Mul Gemm ! NOT_LINEAR"),
}  # fmt: skip


@rows(T15_BIASES)
def test_T15_the_consumer_reads_it_as_a_bias(row):
    check(row)


@pytest.mark.parametrize("op", ["Add", "Sub", "Mul", "Div"])
def test_T13_operators_that_broadcast_otherwise(op):
    """Up to opset 6 the second operand is aligned by an attribute, of which the rules know nothing."""
    for body in (f"{AB} c = {op}(a, b) Y = {B4}", f"c = Conv(X, W) d = {BN('c', 'p')} Z = Exp(c) e = Conv(U, V) Y = {op}(d, e)"):  # fmt: skip
        outputs = "Y[2,4,4,4]; Z[2,4,4,4]" if "Z" in body else "Y[2,4,4,4]"
        assert "OLD_OPSET" in codes(
            fold(build(body.replace("tion(", "tion<is_test=1>("), XU, outputs, {**W, **V, **P4}, opset=6))
        )


T13_CROSSINGS = {
    "a Dropout that drops": (f"a = Conv(X, W) c = Dropout(a, r, t) Y = {B4}", X, Y, {**W, **P4, "r": np.array(0.0), "t": np.array(True)}, "Conv Dropout BatchNormalization ! TRAINING"),
    "a Cast from integers": (f"a = Conv(X, W) i = Cast<to=7>(a) c = Cast<to=11>(i) Y = {B4}", X, Y, {**W, **P4}, "Conv Cast Cast BatchNormalization ! DTYPE"),
    "a Pad along the channels": (f"a = Conv(X, W) c = Pad(a, n) Y = {BN('c', 'p')}", X, "Y[N,6,4,4]", {**W, **P6, "n": [0, 1, 0, 0, 0, 1, 0, 0]}, "Conv Pad BatchNormalization ! VARIES"),
}  # fmt: skip


@rows(T13_CROSSINGS)
def test_T13_what_is_in_the_way(row):
    check(row)


T14_UNKNOWN = {
    "from unknown lengths": (f"b = {BN('X', 'p')} Y = Reshape(b, s)", "X[M,4]", "Y[8]", {"s": [8], **P4}, "BatchNormalization Reshape ! SHAPE_UNKNOWN"),
    "back to unknown lengths": (f"e = Exp(X) c = Reshape(e, s) Y = {B4}", "X[M,N]", "Y[1,4]", {"s": [1, 4], **P4}, "Exp Reshape BatchNormalization ! SHAPE_UNKNOWN"),
}  # fmt: skip


@rows(T14_UNKNOWN)
def test_T14_lengths_that_are_not_known(row):
    check(row)


R, SAME = "X[2,4,7,7]", "Conv<pads=[1,1,1,1]>"
D, S = {"W": (4, 4, 3, 3), "B": (4,)}, {"V": (4, 4, 1, 1)}
BLOCK = f"p = {BN('a', 'p')} q = {BN('b', 'q')} s = Add(p, q)"
T17 = {
    "RepVGG": (f"a = {SAME}(X, W) b = Conv(X, V) {BLOCK} r = {BN('X', 'r')} Y = Add(s, r)", R, "Y[2,4,7,7]", {"W": (4, 4, 3, 3), **S, **P4, **Q4, **bn("r", 4)}, "Conv"),
    "stride 2, no identity": (f"a = Conv<pads=[1,1,1,1], strides=[2,2]>(X, W, B) b = Conv<strides=[2,2]>(X, V) {BLOCK} Y = Neg(s)", R, "Y[2,4,4,4]", {**D, **S, **P4, **Q4}, "Conv"),
    "groups": (f"a = Conv<pads=[1,1,1,1], group=2>(X, W, B) b = Conv<group=2>(X, V) {BLOCK} r = {BN('X', 'r')} Y = Add(r, s)", R, "Y[2,4,7,7]", {"W": (4, 2, 3, 3), "B": (4,), "V": (4, 2, 1, 1), **P4, **Q4, **bn("r", 4)}, "Conv"),
    "dilation": (f"a = Conv<pads=[2,2,2,2], dilations=[2,2]>(X, W) b = Conv(X, V, B) {BLOCK} Y = Add(X, s)", R, "Y[2,4,7,7]", {**D, **S, **P4, **Q4}, "Conv"),
    "depthwise 5x5 and 3x3": (f"a = Conv<pads=[2,2,2,2], group=4>(X, W, B) b = Conv<pads=[1,1,1,1], group=4>(X, V) {BLOCK} Y = Add(s, X)", R, "Y[2,4,7,7]", {"W": (4, 1, 5, 5), "B": (4,), "V": (4, 1, 3, 3), **P4, **Q4}, "Conv"),
    "another stride": ("a = Conv<pads=[1,1,1,1], strides=[2,2]>(X, W) b = Conv(X, V) Y = Add(a, b)", R, "Y[2,4,4,4]", {"W": (4, 4, 3, 3), "V": (4, 4, 4, 4)}, "Conv Conv Add"),
    "a product": (f"a = {SAME}(X, W) b = Conv(X, V) Y = Mul(a, b)", R, "Y[2,4,7,7]", {"W": (4, 4, 3, 3), **S}, "Conv Conv Mul"),
    "one channel beside four": (f"a = {SAME}(X, W) b = Conv(X, V) Y = Add(a, b)", R, "Y[2,4,7,7]", {"W": (4, 4, 3, 3), "V": (1, 4, 1, 1)}, "Conv Conv Add"),
    "SAME_UPPER": (f'a = {SAME}(X, W) b = Conv<auto_pad="SAME_UPPER">(X, V) Y = Add(a, b)', R, "Y[2,4,7,7]", {"W": (4, 4, 3, 3), "V": (4, 4, 3, 3)}, "Conv Conv Add"),
    "SAME on either side": ('a = Conv<auto_pad="SAME_UPPER">(X, W) b = Conv<auto_pad="SAME_LOWER">(X, V) Y = Add(a, b)', R, "Y[2,4,7,7]", {"W": (4, 4, 2, 2), "V": (4, 4, 2, 2)}, "Conv Conv Add"),
    "a product and an affine": ("a = MatMul(X, W) b = Add(X, k) Y = Add(a, b)", "X[2,3,4]", "Y[2,3,4]", {"W": (4, 4), "k": (4,)}, "MatMul Add Add"),
    "a computed weight": (f"a = {SAME}(X, W) v = Exp(U) b = Conv(X, v) Y = Add(a, b)", f"{R}; U[4,4,1,1]", "Y[2,4,7,7]", {"W": (4, 4, 3, 3)}, "Conv Exp Conv Add"),
    "products by a stack": ("a = MatMul(X, W) b = MatMul(X, V) Y = Add(a, b)", "X[2,3,4]", "Y[2,3,5]", {"W": (2, 4, 5), "V": (4, 5)}, "MatMul MatMul Add"),
    "another place": ("a = Conv<pads=[0,0,2,2]>(X, W) b = Conv<pads=[2,2,0,0]>(X, V) Y = Add(a, b)", R, "Y[2,4,7,7]", {"W": (4, 4, 3, 3), "V": (4, 4, 3, 3)}, "Conv Conv Add"),
    "broadcast over places": (f"a = {SAME}(X, W) b = Conv(X, V) Y = Add(a, b)", R, "Y[2,4,7,7]", {"W": (4, 4, 3, 3), "V": (4, 4, 7, 7)}, "Conv Conv Add"),
}  # fmt: skip


@rows(T17)
def test_T17_parallel_branches(row):
    check(row)
