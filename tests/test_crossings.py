"""Ring 5, the operators in between: where an affine crosses them to a home, and which way it takes where there are two."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from bnfold.folding.driver import fold
from tests.build import BN, assert_same, bn, build, operators
from tests.rows import Row

X, X4, Y4 = "X[N,3,6,6]", "X[N,4,6,6]", "Y[N,4,4,4]"
W, U = {"W": (4, 3, 3, 3)}, {"U": (4, 4, 3, 3)}
P4, K = bn("p", 4), {"k": (4, 1, 1)}
LAID = {"k": np.array([0.5, 2, 3, 0.1])[:, None, None]}
GRAPHS = {  # graph -> the operators that must be left of it
    "relu, positive scale": Row("c = Conv(X, W) r = Relu(c) Y = Mul(r, k)", {**W, **LAID}, outputs=Y4, left="Conv Relu"),
    "pools": Row(f"c = Conv(X, W) a = AveragePool<kernel_shape=[2,2], pads=[1,1,1,1]>(c) Y = {BN('a', 'p')}", {**W, **P4}, outputs="Y[N,4,5,5]",
        left="Conv AveragePool"),
    "bn, pool, flatten, gemm": Row(f"b = {BN('X', 'p')} g = GlobalAveragePool(b) f = Flatten(g) Y = Gemm(f, G)", {**P4, "G": (4, 5)}, inputs=X4,
        outputs="Y[N,5]", left="GlobalAveragePool Flatten Gemm"),
    "bn, mean, gemm": Row(f"b = {BN('X', 'p')} m = ReduceMean<axes=[2,3], keepdims=0>(b) Y = Gemm(m, G)", {**P4, "G": (4, 5)}, inputs=X4,
        outputs="Y[N,5]", left="ReduceMean Gemm"),
    "bn after a part": Row(f"c = Conv(X, W) l, r = Split<axis=1>(c, n) b = {BN('r', 'p')} Y = Concat<axis=1>(b, l)", {**W, "n": [1, 3], **bn("p", 3)},
        outputs=Y4, left="Conv Split Concat"),
    "bn before parts": Row(f"b = {BN('X', 'p')} l, r = Split<axis=1>(b, n) c = Conv(l, L) d = Conv(r, R) Y = Add(c, d)",
        {**P4, "n": [1, 3], "L": (4, 1, 3, 3), "R": (4, 3, 3, 3)}, inputs=X4, outputs=Y4, left="Split Conv Conv Add"),
    "bn after a slice": Row(f"c = Conv(X, W) s = Slice(c, o, t, a) Y = {BN('s', 'p')}", {**W, "o": [1], "t": [3], "a": [1], **bn("p", 2)},
        outputs="Y[N,2,4,4]", left="Conv Slice"),
    "channels shuffled by Gather": Row(f"c = Conv(X, W) g = Gather<axis=1>(c, i) Y = {BN('g', 'p')}", {**W, "i": [2, 0, 3, 1], **P4}, outputs=Y4,
        left="Conv Gather"),
    "an embedding": Row("f = Abs(X) i = Cast<to=7>(f) e = Gather(T, i) Y = Add(e, j)", {"T": (9, 5), "j": (5,)}, inputs="X[N,3]", outputs="Y[N,3,5]",
        left="Abs Cast Gather"),
    "pad by copies": Row(f"c = Conv(X, W) d = Pad<mode=\"reflect\">(c, n) Y = {BN('d', 'p')}", {**W, **P4, "n": [0, 0, 1, 1, 0, 0, 1, 1]},
        outputs="Y[N,4,6,6]", left="Conv Pad"),
    "pixel shuffle": Row(f"c = Conv(X, W) d = DepthToSpace<blocksize=2, mode=\"CRD\">(c) Y = {BN('d', 'p')}", {**W, **bn("p", 1)}, outputs="Y[N,1,8,8]",
        left="Conv DepthToSpace"),
    "a mask": Row(f"c = Conv(X, W) m = Greater(X, z) n = Slice(m, o, t, a) w = Where(n, c, f) Y = {BN('w', 'p')}",
        {**W, **P4, "z": [0.0], "f": [0.0], "o": [0, 0, 0], "t": [1, 4, 4], "a": [1, 2, 3]}, outputs=Y4, left="Conv Greater Slice Where"),
    "bounds": Row("c = Conv(X, W) d = Clip(c, l, h) e = Div(d, six) Y = Sub(e, six)", {**W, "l": np.array(0.0), "h": np.array(6.0), "six": np.array(6.0)},
        outputs=Y4, left="Conv Clip"),
    "shape": Row(f"b = {BN('X', 'p')} s = Shape(b) z = ConstantOfShape(s) c = Conv(b, U) d = Cast<to=11>(z) e = Slice(d, o, t, a) Y = Add(c, e)",
        {**P4, **U, "o": [0, 0], "t": [4, 4], "a": [2, 3]}, inputs=X4, outputs=Y4, left="Shape ConstantOfShape Conv Cast Slice Add"),
    "the shape of what a bn reads": Row(f"c = Conv(X, W) s = Shape(c) f = Flatten<axis=2>(c) g = Reshape(f, s) b = {BN('g', 'p')} n = Size(b) "
        "h = Reshape(b, s) i = Cast<to=11>(n) Y = Add(h, i)", {**W, **P4}, outputs=Y4, left="Conv Shape Flatten Reshape Size Reshape Cast Add"),
    "a shape read next to a bn": Row(f"c = Conv(X, W) s = Shape(c) b = {BN('c', 'p')} f = Flatten<axis=2>(b) g = Reshape(f, s) Y = Relu(g)",
        {**W, **P4}, outputs=Y4, left="Conv Shape Flatten Reshape Relu"),
    "affine, bn": Row("a = Sigmoid(X) m = Add(a, k) d = Div(m, h) b = BatchNormalization(d, pg, pb, pm, pv) Y = Sigmoid(b)", {**K, **P4, "h": [2.5]},
        inputs=X4, outputs="Y[N,4,6,6]", left="Sigmoid BatchNormalization Sigmoid"),
    "the branch with a bias takes the shift": Row("a = Conv(X, W) r = Relu(a) b = Conv<pads=[1,1,1,1]>(r, U) s = Add(r, b) Y = Add(s, k)",
        {**W, **U, **K}, outputs=Y4, left="Conv Relu Conv"),
    "the branch that nobody else reads": Row("a = Conv(X, W) r = Relu(a) b = Conv<pads=[1,1,1,1]>(r, U) s = Add(a, b) Y = Add(s, k)", {**W, **U, **K},
        outputs=Y4, left="Conv Relu Conv Add"),
    "a branch with a bias, moved": Row("a = Sigmoid(X) b = Conv<pads=[1,1,1,1]>(X, U) p = Transpose<perm=[0,1,3,2]>(b) s = Add(a, p) Y = Add(s, k)",
        {**U, **K}, inputs=X4, outputs="Y[N,4,6,6]", left="Sigmoid Conv Transpose Add"),
    "the factor that is linear": Row("a = Conv(X, W) q = GlobalAveragePool(X) g = Conv(q, Q) h = Sigmoid(g) m = Mul(a, h) Y = Mul(m, k)",
        {**W, **K, "Q": (4, 3, 1, 1)}, outputs=Y4, left="Conv GlobalAveragePool Conv Sigmoid Mul"),
    "a scale of 0 past a negative slope": Row("a = Conv(X, W) c = PRelu(a, s) Y = Mul(c, k)",
        {**W, "s": np.array([-1.0, 1, 1, 1])[:, None, None], "k": np.array([0.0, 1, -2, 3])[:, None, None]}, outputs=Y4, left="Conv PRelu"),
    "a product scaled as a whole": Row("l = MatMul(X, V) Y = Mul(l, k)", {"V": (3, 5), "k": [2.0]}, inputs="X[N,3]", outputs="Y[N,5]", left="MatMul"),
    "a product of higher rank, scaled": Row("l = MatMul(X, V) Y = Mul(l, k)", {"V": (3, 5), "k": (5,)}, inputs="X[N,7,3]", outputs="Y[N,7,5]",
        left="MatMul"),
    "a reshape next to an unknown length": Row("c = Mul(X, g) t = Reshape(c, n) Y = Mul(t, k)", {"g": (2, 3, 1), "n": [6, -1], "k": (6, 1)},
        inputs="X[2,3,N]", outputs="Y[6,M]", left="Mul Reshape"),
}  # fmt: skip


@pytest.mark.parametrize("name", GRAPHS)
def test_what_is_left(name):
    row = GRAPHS[name]
    model = row.model()
    onnx.checker.check_model(model, full_check=True)
    result = fold(model)
    assert " ".join(operators(result.model)) == row.left
    assert_same(model, result.model)
    assert fold(result.model).model == result.model


def test_bn_before_an_lstm():
    rows = {"W": (2, 20, 4), "R": (2, 20, 5), "B": (2, 40)}
    body = f'b = {BN("X", "p")} t = Transpose<perm=[2,0,1]>(b) Y = LSTM<hidden_size=5, direction="bidirectional">(t, W, R, B)'
    model = build(body, "X[N,4,7]", "Y[7,2,N,5]", {**rows, **P4})
    result = fold(model)
    assert operators(result.model) == ["Transpose", "LSTM"]
    assert_same(model, result.model)


def test_integers_stay():
    """int8 weights, one scale per channel: only the four scales change."""
    rng = np.random.default_rng(0)
    stored = {"q": rng.integers(-128, 128, (4, 3, 3, 3)).astype(np.int8), "z": np.array([0, 1, -2, 3], np.int8)}
    floats = {"s": rng.random(4) + 0.1, "c": rng.standard_normal(4), "g": rng.random(4), "v": rng.random(4)}
    stored |= {k: v.astype(np.float32) for k, v in floats.items()}
    nodes = [
        helper.make_node("DequantizeLinear", ["q", "s", "z"], ["w"], axis=0),
        helper.make_node("Conv", ["X", "w"], ["y"]),
        helper.make_node("BatchNormalization", ["y", "g", "c", "c", "v"], ["Y"]),
    ]
    value = helper.make_tensor_value_info
    ends = [value("X", TensorProto.FLOAT, ["N", 3, 6, 6])], [value("Y", TensorProto.FLOAT, ["N", 4, 4, 4])]
    graph = helper.make_graph(nodes, "g", *ends, [numpy_helper.from_array(v, k) for k, v in stored.items()])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    folded = fold(model).model
    assert operators(folded) == ["DequantizeLinear", "Conv"]
    left = {t.name: t for t in folded.graph.initializer}
    assert left["q"] == model.graph.initializer[0]
    assert left["z"] == model.graph.initializer[1]
    assert left["s"] != model.graph.initializer[2]
    assert_same(model, folded, tolerance=1e-5)
