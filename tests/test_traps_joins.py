"""Graphs on which folding goes wrong elsewhere, T12 to T15 and T17: constants, joins and branches."""

from __future__ import annotations

import numpy as np
import pytest

from bnfold.folding.driver import fold
from tests.build import BN, bn, build
from tests.rows import Graph, Row
from tests.test_traps import B3, B4, P3, P4, P6, Q4, V, W, Y, check, codes, folded, left, rows


@pytest.mark.parametrize(
    "shape", [(4,), (1, 4), (4, 1), (1, 1, 4), (1, 4, 1), (1, 1, 1, 4), (2, 1, 1, 1), (2, 4, 1, 1)]
)
@pytest.mark.parametrize("op", ["Mul(c, k)", "Mul(k, c)", "Add(c, k)", "Sub(k, c)", "Div(c, kv)"])
def test_T12_a_constant_along_another_axis(op, shape):
    """The convolution has 4 channels and makes 4 x 4 images of a batch of 2: every shape fits, none is per channel."""
    name = "kv" if "kv" in op else "k"
    result = folded(Graph(f"c = Conv(X, W) Y = {op}", {**W, name: shape}, "X[2,3,6,6]", "Y[2,4,4,4]"))
    assert left(result) == f"Conv {op.partition('(')[0]}"
    assert codes(result) == {"VARIES", "GRAPH_OUTPUT"}


T12 = {
    **{f"per channel, {op}": Row(f"c = Conv(X, W) Y = {op}", {**W, "k": (4, 1, 1)}) for op in ("Mul(k, c)", "Sub(k, c)", "Sub(c, k)")},
    "per channel, Div(c, kv)": Row("c = Conv(X, W) Y = Div(c, kv)", {**W, "kv": (4, 1, 1)}),
    "one number": Row("c = Conv(X, W) Y = Sub(k, c)", {**W, "k": (1, 1, 1, 1)}),
    "a larger batch": Row("c = Conv(X, W) Y = Mul(c, k)", {**W, "k": (5, 1, 1, 1)}, inputs="X[1,3,6,6]", outputs="Y[5,4,4,4]", left="Conv Mul"),
    "a larger batch and channels": Row("c = Conv(X, W) Y = Add(k, c)", {**W, "k": (5, 4, 1, 1)}, inputs="X[1,3,6,6]", outputs="Y[5,4,4,4]",
        left="Conv Add"),
    "a higher rank": Row("c = Conv(X, W) Y = Mul(c, k)", {**W, "k": (1, 1, 4, 1, 1)}, outputs="Y[1,N,4,4,4]", left="Conv Mul"),
    "a constant over x": Row("c = Conv(X, W) d = Exp(c) Y = Div(k, d)", {**W, "k": (4, 1, 1)}, left="Conv Exp Div"),
}  # fmt: skip


@rows(T12)
def test_T12_constants_of_every_shape(row):
    check(row)


AB, XU = "a = Conv(X, W) b = Conv(U, V)", "X[2,3,6,6]; U[2,3,6,6]"
T13 = {
    "axis 1": Row(f"{AB} c = Concat<axis=1>(a, b) Y = {BN('c', 'p')}", {**W, **V, **bn("p", 8)}, inputs=XU, outputs="Y[2,8,4,4]", left="Conv Conv Concat"),
    "axis 0": Row(f"{AB} c = Concat<axis=0>(a, b) Y = {B4}", {**W, **V, **P4}, inputs=XU, outputs="Y[4,4,4,4]", left="Conv Conv Concat"),
    "axis 2": Row(f"{AB} c = Concat<axis=-2>(a, b) Y = {B4}", {**W, **V, **P4}, inputs=XU, outputs="Y[2,4,8,4]", left="Conv Conv Concat"),
    "a branch that cannot": Row(f"a = Conv(X, W) c = Concat<axis=1>(a, U) Y = {BN('c', 'p')}", {**W, **bn("p", 7)}, inputs="X[2,3,6,6]; U[2,3,4,4]",
        outputs="Y[2,7,4,4]", left="Conv Concat BatchNormalization", code="GRAPH_INPUT"),
    "one conv twice": Row(f"a = Conv(X, W) c = Concat<axis=1>(a, a) Y = {BN('c', 'p')}", {**W, **bn("p", 8)}, outputs="Y[N,8,4,4]",
        left="Conv Concat BatchNormalization", code="SHARED"),
    "a sum": Row(f"{AB} c = Add(a, b) Y = {B4}", {**W, **V, **P4}, inputs=XU, outputs="Y[2,4,4,4]", left="Conv Conv Add"),
    "a difference": Row(f"{AB} c = Sub(a, b) Y = {B4}", {**W, **V, **P4}, inputs=XU, outputs="Y[2,4,4,4]", left="Conv Conv Sub"),
    "a sum of three": Row(f"{AB} d = Conv(T, W) c = Sum(a, b, d) Y = {B4}", {**W, **V, **P4}, inputs=f"{XU}; T[2,3,6,6]", outputs="Y[2,4,4,4]",
        left="Conv Conv Conv Sum"),
    "a sum with itself": Row(f"a = Conv(X, W) c = Add(a, a) Y = {B4}", {**W, **P4}, left="Conv Add BatchNormalization", code="SHARED"),
    "one place for all": Row(f"{AB} c = Add(a, b) Y = {B4}", {**W, **V, **P4}, inputs="X[2,3,6,6]; U[2,3,3,3]", outputs="Y[2,4,4,4]", left="Conv Conv Add"),
    "one channel for all": Row(f"{AB} c = Add(a, b) Y = {B4}", {**W, "V": (1, 3, 3, 3), **P4}, inputs=XU, outputs="Y[2,4,4,4]",
        left="Conv Conv Add BatchNormalization", code="VARIES"),
    "split after": Row(f"b = {B3} s, t = Split<axis=1>(b, n) d = Conv(s, W) e = Conv(t, V) Y = Add(d, e)",
        {"W": (4, 1, 3, 3), "V": (4, 3, 3, 3), "n": [1, 3], **P4}, inputs="X[2,4,6,6]", outputs="Y[2,4,4,4]", left="Split Conv Conv Add"),
    "split before": Row(f"a = Conv(X, W) c, s = Split<axis=1>(a, n) d = {BN('c', 'p')} t = Exp(s) Y = Concat<axis=1>(t, d)", {**W, "n": [3, 1], **P3},
        left="Conv Split Exp Concat"),
}  # fmt: skip


@rows(T13)
def test_T13_joins_and_parts(row):
    check(row)


F = {"W": (48, 5), **P3}
T14 = {
    "flatten": Row(f"b = {B3} f = Flatten(b) Y = Gemm(f, W)", F, inputs="X[N,3,4,4]", outputs="Y[N,5]", left="Flatten Gemm"),
    "flatten at axis 2": Row(f"b = {B3} f = Flatten<axis=2>(b) Y = Gemm(f, W)", {"W": (16, 5), **P3}, inputs="X[2,3,4,4]", outputs="Y[6,5]",
        left="BatchNormalization Flatten Gemm", code="VARIES"),
    "channels last": Row(f"b = {B3} t = Transpose<perm=[0,2,3,1]>(b) f = Flatten(t) Y = Gemm<transB=1>(f, W)", {"W": (5, 48), **P3}, inputs="X[N,3,4,4]",
        outputs="Y[N,5]", left="Transpose Flatten Gemm"),
    "reshape 0, -1": Row(f"b = {B3} f = Reshape(b, s) Y = Gemm(f, W)", {**F, "s": [0, -1]}, inputs="X[N,3,4,4]", outputs="Y[N,5]", left="Reshape Gemm"),
    "reshape -1, C": Row(f"b = {B3} f = Reshape(b, s) Y = Gemm(f, W)", {**F, "s": [-1, 48]}, inputs="X[N,3,4,4]", outputs="Y[N,5]", left="Reshape Gemm"),
    "reshape 0, -1, W": Row(f"b = {B3} f = Reshape(b, s) Y = MatMul(f, W)", {"W": (4, 5), **P3, "s": [0, -1, 4]}, inputs="X[N,3,4,4]",
        outputs="Y[N,12,5]", left="BatchNormalization Reshape MatMul", code="VARIES"),
}  # fmt: skip


@rows(T14)
def test_T14_flattening(row):
    check(row)


T15 = {
    "a conv and a gate": Row(f"b = {B3} Y = Conv(b, W) Z = Relu(b)", {**W, **P3}, outputs=f"{Y}; Z[N,3,6,6]", left="BatchNormalization Conv Relu",
        code="NONLINEAR"),
    "a conv and a sigmoid": Row(f"b = {B3} c = Conv(b, W) Y = Neg(c) Z = Sigmoid(b)", {**W, **P3}, outputs=f"{Y}; Z[N,3,6,6]",
        left="BatchNormalization Conv Sigmoid", code="NONLINEAR"),
    "two convs": Row(f"b = {B3} Y = Conv(b, W) Z = Conv(b, V)", {**W, **V, **P3}, outputs=f"{Y}; Z[N,4,4,4]", left="Conv Conv"),
    "two convs, one padded": Row(f"b = {B3} Y = Conv(b, W) Z = Conv<pads=[0,0,1,1]>(b, V)", {**W, **V, **P3}, outputs=f"{Y}; Z[N,4,5,5]",
        left="BatchNormalization Conv Conv", code="PADDING"),
}  # fmt: skip


@rows(T15)
def test_T15_several_consumers(row):
    check(row)


T15_BIASES = {
    "of a conv": Row("b = Mul(U, k) Y = Conv(X, W, b)", {"W": (4, 4, 3, 3), "k": (4,)}, inputs="X[2,4,6,6]; U[4]", outputs="Y[2,4,4,4]", left="Mul Conv",
        code="NOT_LINEAR"),
    "of a transposed conv": Row("b = Mul(U, k) Y = ConvTranspose(X, W, b)", {"W": (4, 4, 3, 3), "k": (4,)}, inputs="X[2,4,6,6]; U[4]",
        outputs="Y[2,4,8,8]", left="Mul ConvTranspose", code="NOT_LINEAR"),
    "a scale of BatchNormalization": Row(f"b = Mul(U, k) Y = {BN('X', 'p').replace('pg', 'b')}", {"k": (4,), **{f"p{i}": (4,) for i in "bmv"}},
        inputs="X[2,4,4,4]; U[4]", outputs="Y[2,4,4,4]", left="Mul BatchNormalization", code="NOT_LINEAR"),
    "the number of a Pad": Row("u = ReduceSum<keepdims=0>(U) b = Mul(u, k) Y = Pad(X, n, b)", {"k": (), "n": [0, 0, 1, 1]}, inputs="X[4,4]; U[3]",
        outputs="Y[5,5]", left="ReduceSum Mul Pad", code="GRAPH_INPUT"),
    "a bound of a Clip": Row("u = ReduceSum<keepdims=0>(U) b = Mul(u, kv) Y = Clip(X, b)", {"kv": np.array(2.0)}, inputs="X[4,4]; U[3]", outputs="Y[4,4]",
        left="ReduceSum Mul Clip", code="GRAPH_INPUT"),
    "a scale of LayerNormalization": Row("b = Mul(U, k) Y = LayerNormalization(X, b)", {"k": (4,)}, inputs="X[2,4]; U[4]", outputs="Y[2,4]",
        left="Mul LayerNormalization", code="NOT_LINEAR"),
    "of a gemm": Row("b = Mul(U, k) Y = Gemm(X, W, b)", {"W": (4, 4), "k": (4,)}, inputs="X[4,4]; U[4]", outputs="Y[4,4]", left="Mul Gemm",
        code="NOT_LINEAR"),
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
    "a Dropout that drops": Row(f"a = Conv(X, W) c = Dropout(a, r, t) Y = {B4}", {**W, **P4, "r": np.array(0.0), "t": np.array(True)},
        left="Conv Dropout BatchNormalization", code="TRAINING"),
    "a Cast from integers": Row(f"a = Conv(X, W) i = Cast<to=7>(a) c = Cast<to=11>(i) Y = {B4}", {**W, **P4}, left="Conv Cast Cast BatchNormalization",
        code="DTYPE"),
    "a Pad along the channels": Row(f"a = Conv(X, W) c = Pad(a, n) Y = {BN('c', 'p')}", {**W, **P6, "n": [0, 1, 0, 0, 0, 1, 0, 0]}, outputs="Y[N,6,4,4]",
        left="Conv Pad BatchNormalization", code="VARIES"),
}  # fmt: skip


@rows(T13_CROSSINGS)
def test_T13_what_is_in_the_way(row):
    check(row)


T14_UNKNOWN = {
    "from unknown lengths": Row(f"b = {BN('X', 'p')} Y = Reshape(b, s)", {"s": [8], **P4}, inputs="X[M,4]", outputs="Y[8]",
        left="BatchNormalization Reshape", code="SHAPE_UNKNOWN"),
    "back to unknown lengths": Row(f"e = Exp(X) c = Reshape(e, s) Y = {B4}", {"s": [1, 4], **P4}, inputs="X[M,N]", outputs="Y[1,4]",
        left="Exp Reshape BatchNormalization", code="SHAPE_UNKNOWN"),
}  # fmt: skip


@rows(T14_UNKNOWN)
def test_T14_lengths_that_are_not_known(row):
    check(row)


R, SAME = "X[2,4,7,7]", "Conv<pads=[1,1,1,1]>"
D, S = {"W": (4, 4, 3, 3), "B": (4,)}, {"V": (4, 4, 1, 1)}
BLOCK = f"p = {BN('a', 'p')} q = {BN('b', 'q')} s = Add(p, q)"
T17 = {
    "RepVGG": Row(f"a = {SAME}(X, W) b = Conv(X, V) {BLOCK} r = {BN('X', 'r')} Y = Add(s, r)", {"W": (4, 4, 3, 3), **S, **P4, **Q4, **bn("r", 4)},
        inputs=R, outputs="Y[2,4,7,7]"),
    "stride 2, no identity": Row(f"a = Conv<pads=[1,1,1,1], strides=[2,2]>(X, W, B) b = Conv<strides=[2,2]>(X, V) {BLOCK} Y = Neg(s)",
        {**D, **S, **P4, **Q4}, inputs=R, outputs="Y[2,4,4,4]"),
    "groups": Row(f"a = Conv<pads=[1,1,1,1], group=2>(X, W, B) b = Conv<group=2>(X, V) {BLOCK} r = {BN('X', 'r')} Y = Add(r, s)",
        {"W": (4, 2, 3, 3), "B": (4,), "V": (4, 2, 1, 1), **P4, **Q4, **bn("r", 4)}, inputs=R, outputs="Y[2,4,7,7]"),
    "dilation": Row(f"a = Conv<pads=[2,2,2,2], dilations=[2,2]>(X, W) b = Conv(X, V, B) {BLOCK} Y = Add(X, s)", {**D, **S, **P4, **Q4}, inputs=R,
        outputs="Y[2,4,7,7]"),
    "depthwise 5x5 and 3x3": Row(f"a = Conv<pads=[2,2,2,2], group=4>(X, W, B) b = Conv<pads=[1,1,1,1], group=4>(X, V) {BLOCK} Y = Add(s, X)",
        {"W": (4, 1, 5, 5), "B": (4,), "V": (4, 1, 3, 3), **P4, **Q4}, inputs=R, outputs="Y[2,4,7,7]"),
    "another stride": Row("a = Conv<pads=[1,1,1,1], strides=[2,2]>(X, W) b = Conv(X, V) Y = Add(a, b)", {"W": (4, 4, 3, 3), "V": (4, 4, 4, 4)}, inputs=R,
        outputs="Y[2,4,4,4]", left="Conv Conv Add"),
    "a product": Row(f"a = {SAME}(X, W) b = Conv(X, V) Y = Mul(a, b)", {"W": (4, 4, 3, 3), **S}, inputs=R, outputs="Y[2,4,7,7]", left="Conv Conv Mul"),
    "one channel next to four": Row(f"a = {SAME}(X, W) b = Conv(X, V) Y = Add(a, b)", {"W": (4, 4, 3, 3), "V": (1, 4, 1, 1)}, inputs=R,
        outputs="Y[2,4,7,7]", left="Conv Conv Add"),
    "SAME_UPPER": Row(f'a = {SAME}(X, W) b = Conv<auto_pad="SAME_UPPER">(X, V) Y = Add(a, b)', {"W": (4, 4, 3, 3), "V": (4, 4, 3, 3)}, inputs=R,
        outputs="Y[2,4,7,7]", left="Conv Conv Add"),
    "SAME on either side": Row('a = Conv<auto_pad="SAME_UPPER">(X, W) b = Conv<auto_pad="SAME_LOWER">(X, V) Y = Add(a, b)',
        {"W": (4, 4, 2, 2), "V": (4, 4, 2, 2)}, inputs=R, outputs="Y[2,4,7,7]", left="Conv Conv Add"),
    "a product and an affine": Row("a = MatMul(X, W) b = Add(X, k) Y = Add(a, b)", {"W": (4, 4), "k": (4,)}, inputs="X[2,3,4]", outputs="Y[2,3,4]",
        left="MatMul Add Add"),
    "a computed weight": Row(f"a = {SAME}(X, W) v = Exp(U) b = Conv(X, v) Y = Add(a, b)", {"W": (4, 4, 3, 3)}, inputs=f"{R}; U[4,4,1,1]",
        outputs="Y[2,4,7,7]", left="Conv Exp Conv Add"),
    "products by a stack": Row("a = MatMul(X, W) b = MatMul(X, V) Y = Add(a, b)", {"W": (2, 4, 5), "V": (4, 5)}, inputs="X[2,3,4]", outputs="Y[2,3,5]",
        left="MatMul MatMul Add"),
    "another place": Row("a = Conv<pads=[0,0,2,2]>(X, W) b = Conv<pads=[2,2,0,0]>(X, V) Y = Add(a, b)", {"W": (4, 4, 3, 3), "V": (4, 4, 3, 3)}, inputs=R,
        outputs="Y[2,4,7,7]", left="Conv Conv Add"),
    "broadcast over places": Row(f"a = {SAME}(X, W) b = Conv(X, V) Y = Add(a, b)", {"W": (4, 4, 3, 3), "V": (4, 4, 7, 7)}, inputs=R, outputs="Y[2,4,7,7]",
        left="Conv Conv Add"),
}  # fmt: skip


@rows(T17)
def test_T17_parallel_branches(row):
    check(row)
