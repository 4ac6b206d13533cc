"""Every spelling of an affine: old and new BatchNormalization, chains of constants, constants after other nodes."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import onnx
import onnx_graphsurgeon as gs
import pytest
from onnx import helper, numpy_helper

from bnfold.errors import ModelProblem
from bnfold.folding.affine_nodes import affine_of
from bnfold.folding.driver import fold
from tests.build import BN, assert_same, bn, build, operators, values
from tests.rows import Graph
from tests.test_dtypes import in_type

X, Y, W = "X[N,3,6,6]", "Y[N,4,4,4]", {"W": (4, 3, 3, 3)}
SPELLINGS = {  # body, constants: all of it ends in the Conv
    "frozen, as torchvision writes it": Graph(
        "e = Add(pv, eps) r = Sqrt(e) i = Reciprocal(r) s = Mul(pg, i) n = Mul(pm, s) t = Sub(pb, n) c = Conv(X, W) m = Mul(c, s) Y = Add(m, t)",
        {f"p{k}": (4, 1, 1) for k in "gbmv"} | {"eps": [1e-5]}),
    "subtract, divide, multiply, add": Graph("e = Add(pv, eps) r = Sqrt(e) c = Conv(X, W) d = Sub(c, pm) q = Div(d, r) m = Mul(pg, q) Y = Add(pb, m)",
        {f"p{k}": (4, 1, 1) for k in "gbmv"} | {"eps": [1e-5]}),
    "a power of one half": Graph("e = Add(pv, eps) r = Pow(e, half) c = Conv(X, W) Y = Mul(c, r)", {"pv": (4, 1, 1), "eps": [1e-5], "half": [-0.5]}),
    "unsqueezed in the graph": Graph("s = Unsqueeze(k, axes) c = Conv(X, W) Y = Mul(c, s)", {"k": (4,), "axes": [1, 2]}),
    "reshaped in the graph": Graph("s = Reshape(k, shape) c = Conv(X, W) Y = Add(c, s)", {"k": (4,), "shape": [1, 4, 1, 1]}),
    "filled in the graph": Graph("s = ConstantOfShape<value = double[1] {2.5}>(shape) c = Conv(X, W) Y = Mul(c, s)", {"shape": [4, 1, 1]}),
    "cast in the graph": Graph("s = Cast<to=11>(k) c = Conv(X, W) Y = Mul(c, s)", {"k": np.array([[[2]], [[3]], [[4]], [[5]]])}),
    "joined in the graph": Graph("s = Concat<axis=0>(k, k) c = Conv(X, W) Y = Mul(c, s)", {"k": (2, 1, 1)}),
    "a sum of three": Graph("c = Conv(X, W) Y = Sum(k, c, j)", {"k": (4, 1, 1), "j": (1, 4, 1, 1)}),
    "a scalar": Graph("c = Conv(X, W) Y = Div(c, kv)", {"kv": ()}),
}  # fmt: skip


@pytest.mark.parametrize("name", SPELLINGS)
def test_a_spelling(name):
    row = SPELLINGS[name]
    model = replace(row, constants={**W, **row.constants}).model()
    onnx.checker.check_model(model, full_check=True)
    result = fold(model)
    assert operators(result.model) == ["Conv"]
    assert_same(model, result.model)
    left = {t.name for t in result.model.graph.initializer}
    assert left <= {"W", "W.bias"}, "constants that nothing reads any more are still there"


@pytest.mark.parametrize("kind", ["float16", "float32", "bfloat16"])
@pytest.mark.parametrize(
    "ends", ["d = Div(t, k) Y = Mul(k, d)", "d = Mul(k, t) Y = Div(d, k)", "d = Sub(t, k) Y = Add(d, k)"]
)
def test_what_is_neutral_once_it_is_stored_goes_in_the_same_fold(kind, ends):
    """49 * (1 / 49) is not 1 in float64, but in every narrower type it is."""
    result = fold(in_type(build(f"t = Relu(X) {ends}", "X[4]", "Y[4]", {"k": 49.0}), kind))
    assert operators(result.model) == ["Relu"]
    assert fold(result.model).folded == ()


def test_old_broadcasting_stands_at_an_axis():
    """Up to opset 6, Mul and Add align the second operand by attributes."""
    constants = values({**W, "k": (4,), "j": (4,)})
    node = helper.make_node
    nodes = [
        node("Conv", ["X", "W"], ["c"], kernel_shape=[3, 3]),
        node("Mul", ["c", "k"], ["m"], axis=1, broadcast=1),
        node("Add", ["m", "j"], ["Y"], axis=1, broadcast=1),
    ]
    info = helper.make_tensor_value_info
    stored = [numpy_helper.from_array(v.astype(np.float32), k) for k, v in constants.items()]
    listed = [info(t.name, t.data_type, t.dims) for t in stored]
    outputs = [info("Y", 1, [1, 4, 4, 4])]
    graph = helper.make_graph(nodes, "g", [info("X", 1, [1, 3, 6, 6]), *listed], outputs, stored)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 6)], ir_version=3)
    folded = fold(model).model
    assert operators(folded) == ["Conv"]
    onnx.checker.check_model(folded)
    made = {t.name: numpy_helper.to_array(t) for t in folded.graph.initializer}
    k, j = (constants[n].astype(np.float32).astype(np.float64) for n in "kj")
    weight = constants["W"].astype(np.float32) * k[:, None, None, None]
    np.testing.assert_array_equal(made["W"], weight.astype(np.float32))
    np.testing.assert_array_equal(made["W.bias"], j.astype(np.float32))


@pytest.mark.parametrize(("opset", "extent"), [(6, (1, 3, 1, 1)), (7, (1, 1, 1, 3))])
def test_from_opset_7_on_operands_are_aligned_as_numpy_does(opset, extent):
    read = [gs.Variable("x", np.dtype(np.float32), (2, 3, 4, 3)), gs.Constant("k", np.float32([2, 3, 4]))]
    node = gs.Node("Mul", "n", {"axis": 1, "broadcast": 1}, read, [gs.Variable("y")])
    node.opset = opset
    assert affine_of(node)[1].extent == extent


def old(**attributes) -> onnx.ModelProto:
    """Conv and a BatchNormalization of opset 6."""
    stored = [numpy_helper.from_array(v.astype(np.float32), k) for k, v in values({**W, **bn("p", 4)}).items()]
    info = helper.make_tensor_value_info
    listed = [info(t.name, t.data_type, t.dims) for t in stored]
    nodes = [
        helper.make_node("Conv", ["X", "W"], ["c"]),
        helper.make_node("BatchNormalization", ["c", "pg", "pb", "pm", "pv"], ["Y"], **attributes),
    ]
    outputs = [info("Y", 1, [1, 4, 4, 4])]
    graph = helper.make_graph(nodes, "g", [info("X", 1, [1, 3, 6, 6]), *listed], outputs, stored)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 6)], ir_version=3)


def test_opset_6_says_that_it_is_a_test():
    assert operators(fold(old(is_test=1)).model) == ["Conv"]
    with pytest.raises(ModelProblem, match="training mode"):
        fold(old())


def thinned(model: onnx.ModelProto, name: str, layout: str = "positions") -> tuple[onnx.ModelProto, onnx.ModelProto]:
    """The model with most of a weight 0, and the same with that weight as a sparse initializer."""
    whole, thin = onnx.ModelProto(), onnx.ModelProto()
    whole.CopyFrom(model)
    dense = next(t for t in whole.graph.initializer if t.name == name)
    array = numpy_helper.to_array(dense)
    array = array * (np.random.default_rng(0).random(array.shape) < 0.3)
    dense.CopyFrom(numpy_helper.from_array(array, name))
    indices = np.flatnonzero(array) if layout == "positions" else np.argwhere(array)
    sparse = onnx.SparseTensorProto(dims=array.shape)
    sparse.values.CopyFrom(numpy_helper.from_array(array[array != 0], name))
    sparse.indices.CopyFrom(numpy_helper.from_array(indices.astype(np.int64)))
    thin.CopyFrom(whole)
    del thin.graph.initializer[[t.name for t in whole.graph.initializer].index(name)]
    thin.graph.sparse_initializer.append(sparse)
    return whole, thin


@pytest.mark.parametrize("layout", ["positions", "rows"])
def test_a_sparse_initializer(layout):
    whole, thin = thinned(build(f"c = Conv(X, W) Y = {BN('c', 'p')}", X, Y, {**W, **bn("p", 4)}), "W", layout)
    result = fold(thin)
    assert operators(result.model) == ["Conv"]
    assert not result.model.graph.sparse_initializer
    assert_same(whole, result.model)


def test_shapes_go_on_after_a_sparse_initializer():
    body = f"c = Conv(X, W) d = Add(k, c) e = Identity(d) Y = {BN('e', 'p')}"
    whole, thin = thinned(build(body, X, "Y[A,B,C,D]", {**W, "k": (4, 4, 4), **bn("p", 4)}), "k")
    result = fold(thin)
    assert [k.not_hoisted.code for k in result.kept] == ["VARIES"]
    assert operators(result.model) == ["Conv", "Add", "Identity"]
    assert_same(whole, result.model)


def test_a_constant_that_would_be_enormous():
    body = "z = ConstantOfShape<value = double[1] {2.0}>(shape) c = Conv(X, W) Y = Mul(c, z)"
    model = build(body, "X[1,3,6,6]", "Y[65536,65536,4,4]", {**W, "shape": [65536, 65536, 1, 1]})
    assert fold(model).folded == ()
