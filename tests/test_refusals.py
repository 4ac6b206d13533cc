"""Ring 3: one row per guard. A kept node says why in both directions, in words and as a code."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper

from bnfold import explain, fold
from bnfold.errors import ModelProblem
from bnfold.folding import Kept
from tests.build import BN, bn, build, operators

X, Y = "X[N,3,6,6]", "Y[N,4,4,4]"
W = {"W": (4, 3, 3, 3)}
GUARDS = {  # graph -> (code and words of the way back, code and words of the way on) of its first kept node
    "an input": (f"Y = {BN('X', 'p')}", X, "Y[N,3,6,6]", bn("p", 3), ("GRAPH_INPUT", "'X' is an input of the graph"), ("GRAPH_OUTPUT", "'Y' is an output of the graph")),
    "an output": (f"A = Conv(X, W) Y = {BN('A', 'p')}", X, f"{Y}; A[N,4,4,4]", {**W, **bn("p", 4)}, ("GRAPH_OUTPUT", "'A' is an output of the graph"), ("GRAPH_OUTPUT", "'Y' is")),
    "shared before": (f"a = Conv(X, W) b = {BN('a', 'p')} Y = Mul(a, b)", X, Y, {**W, **bn("p", 4)}, ("SHARED", "'a' is also read by Mul -> 'Y'"), ("MIXES", "Mul -> 'Y' multiplies the shift by a tensor that is not constant")),
    "shared after": (f"b = {BN('X', 'p')} Y = Add(b, b)", X, "Y[N,3,6,6]", bn("p", 3), ("GRAPH_INPUT", "'X' is"), ("SHARED", "Add -> 'Y' reads 'b' twice")),
    "nonlinear": (f"c = Sigmoid(X) b = {BN('c', 'p')} Y = Sigmoid(b)", X, "Y[N,3,6,6]", bn("p", 3), ("NONLINEAR", "Sigmoid -> 'c' is not linear"), ("NONLINEAR", "Sigmoid -> 'Y' is not linear")),
    "no rule": (f"c = CumSum(X, a) b = {BN('c', 'p')} Y = CumSum(b, a)", X, "Y[N,3,6,6]", {**bn("p", 3), "a": np.array(2)}, ("NO_RULE", "it cannot move back through CumSum -> 'c'"), ("NO_RULE", "it cannot move on through CumSum -> 'Y'")),
    "padding": (f"b = {BN('X', 'p')} Y = Conv<pads=[0,0,0,1]>(b, W)", X, "Y[N,4,4,5]", {**W, **bn("p", 3)}, ("GRAPH_INPUT", "'X' is"), ("PADDING", "Conv -> 'Y' pads its input with zeros, which a shift would have to cross")),
    "same padding": (f'b = {BN("X", "p")} Y = Conv<auto_pad="SAME_UPPER">(b, W)', X, "Y[N,4,6,6]", {**W, **bn("p", 3)}, ("GRAPH_INPUT", "'X' is"), ("PADDING", "pads its input")),
    "border": (f"b = {BN('X', 'p')} Y = ConvTranspose(b, W)", "X[N,4,6,6]", "Y[N,3,8,8]", {"W": (4, 3, 3, 3), **bn("p", 4)}, ("GRAPH_INPUT", "'X' is"), ("BORDER", "outputs of ConvTranspose -> 'Y' are reached by different taps of its kernel")),
    "no bias, beta": (f"c = Gemm<beta=0.0>(X, W, C) Y = {BN('c', 'p')}", "X[N,4]", "Y[N,5]", {"W": (4, 5), "C": (5,), **bn("p", 5)}, ("NO_BIAS", "Gemm -> 'c' ignores its bias (beta=0)"), ("GRAPH_OUTPUT", "'Y' is")),
    "no bias, rank 3": ("l = MatMul(W, X) Y = Add(l, k)", "X[N,3,7]", "Y[N,4,7]", {"W": (4, 3), "k": (4, 1)}, ("NO_BIAS", "MatMul -> 'l' has no bias to take the shift"), ("GRAPH_OUTPUT", "'Y' is")),
    "a vector": ("l = MatMul(X, W) Y = Mul(l, k)", "X[N,3]", "Y[N]", {"W": (3,), "k": (1,)}, ("VARIES", "MatMul -> 'l' multiplies by a vector"), ("GRAPH_OUTPUT", "'Y' is")),
    "another axis": ("l = MatMul(X, W) s = Sigmoid(l) m = MatMul(s, V) Y = Mul(m, k)", "X[2,3]", "Y[2,4]", {"W": (3, 3), "V": (3, 4), "k": (2, 4)}, ("VARIES", "it varies along axes that no one factor of MatMul -> 'm' has"), ("GRAPH_OUTPUT", "'Y' is")),
    "more than channels": ("c = Conv(X, W) Y = Mul(c, k)", X, Y, {**W, "k": (4, 4, 4)}, ("VARIES", "it varies on more than axis 1"), ("GRAPH_OUTPUT", "'Y' is")),
    "a computed weight": (f"b = {BN('X', 'p')} V = Sigmoid(U) Y = Conv(b, V)", "X[N,3,6,6]; U[4,3,3,3]", Y, bn("p", 3), ("GRAPH_INPUT", "'X' is"), ("NOT_CONSTANT", "'V', an input of Conv -> 'Y', is not a stored constant")),
    "a bias of Gemm": ("b = Mul(X, k) Y = Gemm(U, V, b)", "X[3,5]; U[3,4]; V[4,5]", "Y[3,5]", {"k": (5,)}, ("GRAPH_INPUT", "'X' is"), ("NOT_LINEAR", "it reaches Gemm -> 'Y' as its bias")),
    "a denominator": ("b = Mul(X, k) Y = Div(U, b)", "X[3,5]; U[3,5]", "Y[3,5]", {"k": (5,)}, ("GRAPH_INPUT", "'X' is"), ("NOT_LINEAR", "it reaches Div -> 'Y' as a setting")),
    "mixed by Add": ("b = Mul(X, k) Y = Add(b, U)", "X[3,5]; U[3,5]", "Y[3,5]", {"k": (5,)}, ("GRAPH_INPUT", "'X' is"), ("MIXES", "Add -> 'Y' adds a tensor to which the scale does not apply")),
    "zero taken out": ("b = Mul(X, k) Y = Add(b, c)", "X[3,5]", "Y[3,5]", {"k": [0.0], "c": (5,)}, ("GRAPH_INPUT", "'X' is"), ("ZERO_SCALE", "a scale of 0 cannot be taken out of Add -> 'Y'")),
    "a shift past Mul": ("d = Mul(X, U) Y = Add(d, k)", "X[3,5]; U[3,5]", "Y[3,5]", {"k": (5,)}, ("NO_BIAS", "Mul -> 'd' has nowhere to put a shift"), ("GRAPH_OUTPUT", "'Y' is")),
    "a shift past Div": ("d = Div(X, U) Y = Add(d, k)", "X[3,5]; U[3,5]", "Y[3,5]", {"k": (5,)}, ("NO_BIAS", "Div -> 'd' has nowhere to put a shift"), ("GRAPH_OUTPUT", "'Y' is")),
    "no operand to scale": ("d = Mul(X, U) Y = Mul(d, k)", "X[3,1]; U[1,5]", "Y[3,5]", {"k": (3, 5)}, ("VARIES", "it varies along axes that no one operand of Mul -> 'd' has"), ("GRAPH_OUTPUT", "'Y' is")),
    "a broadcast operand": ("a = Sigmoid(X) b = Sigmoid(U) d = Add(a, b) Y = Mul(d, k)", "X[3,5]; U[5]", "Y[3,5]", {"k": (3, 1)}, ("VARIES", "it varies along an axis on which 'b' is broadcast"), ("GRAPH_OUTPUT", "'Y' is")),
    "reshape mixes": (f"l = MatMul(X, W) t = Reshape(l, s) Y = {BN('t', 'p')}", "X[8,6]", "Y[2,4,2,2]", {"W": (6, 4), "s": [2, 4, 2, 2], **bn("p", 4)}, ("GRAPH_INPUT", "'X' is"), ("GRAPH_OUTPUT", "'Y' is")),
    "dynamic reshape": ("l = Sigmoid(X) t = Reshape(l, s) Y = Mul(t, k)", "X[M,N]", "Y[A,4]", {"s": [-1, 4], "k": (4,)}, ("SHAPE_UNKNOWN", "Reshape -> 't' turns [M, N] into [unk__0, 4], not all known before run time"), ("GRAPH_OUTPUT", "'Y' is")),
    "computed statistics": ("v = Sigmoid(V) c = Conv(X, W) Y = BatchNormalization(c, pg, pb, pm, v)", f"{X}; V[4]", Y, {**W, **bn("p", 4)}, ("NOT_CONSTANT", "'v', an input of BatchNormalization -> 'Y', is not a stored constant"), ("NOT_CONSTANT", "'v', an input of")),
    "negative variance": ("c = Conv(X, W) Y = BatchNormalization(c, pg, pb, pm, x)", X, Y, {**W, **bn("p", 4), "x": [-1.0, 1, 1, 1]}, ("NOT_FINITE", "var + epsilon of BatchNormalization -> 'Y' is not positive"), ("NOT_FINITE", "var + epsilon")),
    "a constant input": (f"Y = {BN('c', 'p')}", X, "Y[2,4]", {"c": (2, 4), **bn("p", 4)}, ("CONSTANT", "'c' is a constant, which nothing computes"), ("GRAPH_OUTPUT", "'Y' is")),
}  # fmt: skip


@pytest.mark.parametrize("name", GUARDS)
def test_the_reason_is_said(name):
    body, inputs, outputs, constants, back, on = GUARDS[name]
    model = build(body, inputs, outputs, constants)
    result = fold(model)
    kept = next(k for k in result.kept)
    assert (kept.not_hoisted.code, kept.not_sunk.code) == (back[0], on[0])
    assert back[1] in kept.not_hoisted.words
    assert on[1] in kept.not_sunk.words
    assert kept in [k for k in explain(model) if isinstance(k, Kept)]


def conv_bn(**attributes) -> onnx.ModelProto:
    model = build(f"c = Conv(X, W) Y = {BN('c', 'p')}", X, Y, {**W, **bn("p", 4)}, opset=attributes.pop("opset", 17))
    model.graph.node[1].attribute.extend(helper.make_attribute(k, v) for k, v in attributes.items())
    return model


def test_training_mode_is_an_error():
    model = conv_bn(training_mode=1)
    with pytest.raises(ModelProblem, match="is in training mode") as raised:
        fold(model)
    assert "model.eval()" in raised.value.hint


def test_five_outputs_are_training_mode():
    model = conv_bn(opset=9)
    model.graph.node[1].output.extend(["m2", "v2", "m3", "v3"])
    with pytest.raises(ModelProblem, match="is in training mode"):
        fold(model)


def test_trailing_empty_outputs_are_not():
    model = conv_bn(opset=9)
    model.graph.node[1].output.extend(["", "", "", ""])
    assert operators(fold(model).model) == ["Conv"]


@pytest.mark.parametrize("parameter", ["pg", "pb", "pm", "pv"])
@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_statistics_that_are_no_numbers_are_an_error(parameter, value):
    model = conv_bn()
    tensor = next(t for t in model.graph.initializer if t.name == parameter)
    tensor.CopyFrom(numpy_helper.from_array(np.array([1, value, 1, 1.0]), parameter))
    with pytest.raises(ModelProblem, match=r"holds NaN or infinity \(1 of 4 values\)"):
        fold(model)


def test_an_operator_of_another_domain_is_another_operator():
    model = conv_bn()
    model.graph.node[0].domain = "my.domain"
    model.opset_import.add(domain="my.domain", version=1)
    (kept,) = fold(model).kept
    assert kept.not_hoisted.code == "SHAPE_UNKNOWN"


def overridable(*names: str) -> onnx.ModelProto:
    model = conv_bn()
    for tensor in model.graph.initializer:
        if tensor.name in names:
            model.graph.input.append(helper.make_tensor_value_info(tensor.name, tensor.data_type, tensor.dims))
    return model


@pytest.mark.parametrize("name", ["W", "pv"])
def test_what_a_caller_may_override_is_left_alone(name):
    model = overridable(name)
    assert len(fold(model).kept) == 1
    assert fold(model).model == model
    frozen = fold(model, freeze_initializers=True)
    assert operators(frozen.model) == ["Conv"]
    assert [i.name for i in frozen.model.graph.input] == ["X"]
    assert "count as constants (as asked)" in frozen.notes[0]


def test_a_file_that_lists_every_initializer_means_none_of_them():
    result = fold(overridable("W", "pg", "pb", "pm", "pv"))
    assert operators(result.model) == ["Conv"]
    assert "the file lists every initializer as an input" in result.notes[0]


def test_ir_version_3_keeps_listing_initializers():
    model = overridable("W", "pg", "pb", "pm", "pv")
    model.ir_version = 3
    del model.opset_import[:]
    model.opset_import.add(domain="", version=8)
    folded = fold(model).model
    onnx.checker.check_model(folded)
    assert [i.name for i in folded.graph.input] == ["X", "W", "W.bias"]


def returning(name: str) -> onnx.GraphProto:
    """A body that reads or returns a tensor from around it."""
    value = helper.make_tensor_value_info
    if name == "inner":
        return helper.make_graph([helper.make_node("Identity", ["c"], ["inner"])], "b", [], [value("inner", 11, None)])
    return helper.make_graph([], "b", [], [value(name, 11, None)])


@pytest.mark.parametrize(("name", "code"), [("inner", "SHARED"), ("c", "SUBGRAPH")])
def test_what_a_subgraph_reads_is_left_alone(name, code):
    model = conv_bn()
    model.graph.initializer.append(numpy_helper.from_array(np.array(True), "yes"))
    bodies = {"then_branch": returning(name), "else_branch": returning(name)}
    model.graph.node.append(helper.make_node("If", ["yes"], ["Z"], **bodies))
    model.graph.output.append(helper.make_tensor_value_info("Z", 11, ["N", 4, 4, 4]))
    (kept,) = fold(model).batch_norms_kept
    assert kept.not_hoisted.code == code


@pytest.mark.parametrize("opset", [7, 8, 9, 11, 13, 14, 15, 17, 21])
def test_every_opset_of_batch_normalization(opset):
    assert operators(fold(conv_bn(opset=opset)).model) == ["Conv"]


def test_parameters_per_activation_reach_a_gemm():
    """spatial=0, which opsets up to 8 allow: one scale and shift per element of (C, H, W)."""
    model = build(
        f"b = {BN('X', 'p')} f = Flatten(b) Y = Gemm(f, W, C)",
        "X[N,2,3,4]",
        "Y[N,5]",
        {"W": (24, 5), "C": (5,), **{f"p{k}": (2, 3, 4) for k in "gbmv"}},
        opset=8,
    )
    model.graph.node[0].attribute.append(helper.make_attribute("spatial", 0))
    assert operators(fold(model).model) == ["Flatten", "Gemm"]
