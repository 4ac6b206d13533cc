"""Where Batch Normalization can hide: bodies of If, Loop and Scan, with constants inside or around them; functions."""

from __future__ import annotations

import numpy as np
import onnx
import onnx.parser
import pytest
from onnx import helper, numpy_helper

from bnfold.errors import ModelProblem
from bnfold.folding.driver import fold
from tests.build import BN, assert_same, bn, values

D = onnx.TensorProto.DOUBLE
CHANNELS = {**bn("p", 4), "W": (4, 3, 1, 1)}


def parsed(text: str, constants: dict, opset: int = 17) -> onnx.ModelProto:
    """A model from text; constants become initializers of its main graph."""
    model = onnx.parser.parse_model(f'<ir_version: 8, opset_import: ["": {opset}, "my": 1]> {text}')
    model.graph.initializer.extend(numpy_helper.from_array(v, k) for k, v in values(constants).items())
    return model


def every_operator(nodes) -> list[str]:
    found = []
    for node in nodes:
        found.append(node.op_type)
        for attribute in node.attribute:
            found += every_operator(attribute.g.node) if attribute.HasField("g") else []
    return found


def run(model: onnx.ModelProto, folded: onnx.ModelProto) -> None:
    """Both compute the same, whichever branch is taken."""
    from tests.reference import evaluate

    onnx.checker.check_model(folded, full_check=True)
    rng = np.random.default_rng(0)
    for chosen in (True, False):
        feeds = {"X": rng.standard_normal((2, 3, 5, 5)), "yes": np.array(chosen)}
        feeds = {i.name: feeds[i.name] for i in model.graph.input}
        for want, got in zip(evaluate(model, feeds), evaluate(folded, feeds), strict=True):
            np.testing.assert_allclose(got, want, rtol=1e-9, atol=1e-9)


IF = "m (double[2,3,5,5] X, bool yes) => (double[2,4,5,5] Y)"


def test_a_body_with_constants_around_it():
    inside = f"{{ c = Conv(X, W) Y1 = {BN('c', 'p')} }}"
    text = (
        f"{IF} {{ Y = If (yes) <then_branch = t () => (double[2,4,5,5] Y1) {inside}, "
        "else_branch = e () => (double[2,4,5,5] Y2) { d = Conv(X, W) Y2 = Relu(d) }> }"
    )
    model = parsed(text, CHANNELS)
    result = fold(model)
    assert every_operator(result.model.graph.node) == ["If", "Conv", "Conv", "Relu"]
    run(model, result.model)
    assert fold(result.model).model == result.model


def with_own_constants(model: onnx.ModelProto, names: tuple[str, ...]) -> onnx.ModelProto:
    """The same with the constants moved into each body, under the same names in both."""
    stored = {t.name: t for t in model.graph.initializer}
    rng = np.random.default_rng(5)
    for attribute in model.graph.node[0].attribute:
        for name in names:
            fresh = numpy_helper.to_array(stored[name]) * rng.uniform(0.5, 2)
            attribute.g.initializer.append(numpy_helper.from_array(fresh, name))
    kept = [t for t in model.graph.initializer if t.name not in names]
    del model.graph.initializer[:]
    model.graph.initializer.extend(kept)
    return model


def test_two_bodies_with_constants_of_the_same_names():
    bodies = [f"{k} () => (double[2,4,5,5] {k}y) {{ {k}c = Conv(X, W) {k}y = {BN(f'{k}c', 'p')} }}" for k in "te"]
    text = f"{IF} {{ Y = If (yes) <then_branch = {bodies[0]}, else_branch = {bodies[1]}> }}"
    model = with_own_constants(parsed(text, CHANNELS), ("W", "pg", "pb", "pm", "pv"))
    result = fold(model)
    assert every_operator(result.model.graph.node) == ["If", "Conv", "Conv"]
    run(model, result.model)
    assert [[t.name for t in a.g.initializer] for a in result.model.graph.node[0].attribute] == [["W"], ["W"]]


def test_a_convolution_outside_and_its_normalization_inside():
    """The Conv has no other consumer, so that its output may be normalized before the body reads it."""
    text = (
        f"{IF} {{ c = Conv(X, W) Y = If (yes) "
        f"<then_branch = t () => (double[2,4,5,5] ty) {{ b = {BN('c', 'p')} ty = Relu(b) }}, "
        "else_branch = e () => (double[2,4,5,5] ey) { ey = Conv(X, W) }> }"
    )
    model = parsed(text, CHANNELS)
    result = fold(model)
    assert every_operator(result.model.graph.node) == ["Conv", "If", "Relu", "Conv"]
    run(model, result.model)


def test_what_a_body_returns_from_around_it_stays():
    text = (
        f"{IF} {{ c = Conv(X, W) b = {BN('c', 'p')} Y = If (yes) "
        "<then_branch = t () => (double[2,4,5,5] ty) { ty = Relu(b) }, "
        "else_branch = e () => (double[2,4,5,5] ey) { ey = Identity(c) }> }"
    )
    model = parsed(text, CHANNELS)
    result = fold(model)
    assert "BatchNormalization" in every_operator(result.model.graph.node)
    run(model, result.model)


def test_a_loop_body():
    body = f"l (int64 i, bool go, double[2,4,5,5] s) => (bool out, double[2,4,5,5] r) {{ out = Identity(go) c = Conv(X, W) b = {BN('c', 'p')} r = Add(s, b) }}"
    text = f"m (double[2,3,5,5] X) => (double[2,4,5,5] Y) {{ Y = Loop (n, yes, start) <body = {body}> }}"
    model = parsed(text, {**CHANNELS, "n": np.array(3), "yes": np.array(True), "start": np.ones((2, 4, 5, 5))})
    result = fold(model)
    assert every_operator(result.model.graph.node) == ["Loop", "Identity", "Conv", "Add"]
    run(model, result.model)


def test_a_loop_carries_values_that_may_not_change():
    """What goes round a loop is an input and an output of its body."""
    body = f"l (int64 i, bool go, double[2,4,5,5] s) => (bool out, double[2,4,5,5] r) {{ out = Identity(go) r = {BN('s', 'p')} }}"
    text = f"m (double[2,3,5,5] X) => (double[2,4,5,5] Y) {{ c = Conv(X, W) Y = Loop (n, yes, c) <body = {body}> }}"
    model = parsed(text, {**CHANNELS, "n": np.array(3), "yes": np.array(True)})
    result = fold(model)
    assert result.folded == ()
    assert [k.not_hoisted.code for k in result.batch_norms_kept] == ["GRAPH_INPUT"]


def literal(name: str, value: np.ndarray) -> onnx.NodeProto:
    return helper.make_node("Constant", [], [name], value=numpy_helper.from_array(value, ""))


def with_function(constants_inside: bool) -> onnx.ModelProto:
    """Conv and BatchNormalization in a function that is called twice."""
    names, stored = ["W", "pg", "pb", "pm", "pv"], values(CHANNELS)
    nodes = [
        helper.make_node("Conv", ["x", "W"], ["c"]),
        helper.make_node("BatchNormalization", ["c", *names[1:]], ["y"]),
    ]
    nodes = [literal(k, stored[k]) for k in names] + nodes if constants_inside else nodes
    inputs = ["x"] if constants_inside else ["x", *names]
    opsets = [helper.make_opsetid("", 17), helper.make_opsetid("my", 1)]
    block = helper.make_function("my", "Block", inputs, ["y"], nodes, opsets)
    arguments = [] if constants_inside else names
    calls = [helper.make_node("Block", ["X", *arguments], ["a"], domain="my"), helper.make_node("Relu", ["a"], ["Y"])]
    calls.append(helper.make_node("Block", ["X", *arguments], ["Z"], domain="my"))
    info = helper.make_tensor_value_info
    outputs = [info(name, D, [2, 4, 5, 5]) for name in "YZ"]
    initializers = [] if constants_inside else [numpy_helper.from_array(v, k) for k, v in stored.items()]
    graph = helper.make_graph(calls, "g", [info("X", D, [2, 3, 5, 5])], outputs, initializers)
    return helper.make_model(graph, opset_imports=opsets, functions=[block], ir_version=9)


def test_the_body_of_a_function():
    model = with_function(constants_inside=True)
    result = fold(model)
    (block,) = result.model.functions
    assert [n.op_type for n in block.node] == ["Constant", "Constant", "Conv"]
    assert result.model.graph == model.graph
    assert_same(model, result.model)
    assert fold(result.model).model == result.model


def test_a_function_that_is_given_its_constants_is_inlined():
    model = with_function(constants_inside=False)
    result = fold(model)
    assert [n.op_type for n in result.model.graph.node] == ["Conv", "Relu", "Conv"]
    assert not result.model.functions
    assert len(result.batch_norms_folded) == 2
    assert result.notes == ("inlined, because their callers hold their constants: my::Block",)
    assert_same(model, result.model)
    assert fold(result.model).model == result.model


def test_a_function_within_a_function_is_inlined_as_well():
    model = with_function(constants_inside=False)
    (block,) = model.functions
    call = helper.make_node("Block", list(block.input), ["y"], domain="my")
    outer = helper.make_function("my", "Outer", list(block.input), ["y"], [call], list(block.opset_import))
    model.functions.append(outer)
    for node in model.graph.node:
        node.op_type = node.op_type.replace("Block", "Outer")
    result = fold(model)
    assert [n.op_type for n in result.model.graph.node] == ["Conv", "Relu", "Conv"]
    assert_same(model, result.model)


def test_a_function_that_calls_itself_is_refused():
    model = with_function(constants_inside=False)
    (block,) = model.functions
    block.node.append(helper.make_node("Block", ["y", *block.input[1:]], ["q"], domain="my"))
    with pytest.raises(ModelProblem, match="calls itself"):
        fold(model)


def test_a_function_stays_where_inlining_would_not_help():
    model = with_function(constants_inside=False)
    (block,) = model.functions
    block.node.insert(1, helper.make_node("Sigmoid", ["c"], ["d"]))
    block.node[2].input[0] = "d"
    result = fold(model)
    assert result.model == model
    (kept,) = result.batch_norms_kept
    assert (kept.not_hoisted.code, result.notes) == ("NOT_CONSTANT", ())


@pytest.mark.parametrize("names", [("W",), ("pg", "pb", "pm", "pv")])
def test_constants_partly_inside(names):
    bodies = [f"{k} () => (double[2,4,5,5] {k}y) {{ {k}c = Conv(X, W) {k}y = {BN(f'{k}c', 'p')} }}" for k in "te"]
    text = f"{IF} {{ Y = If (yes) <then_branch = {bodies[0]}, else_branch = {bodies[1]}> }}"
    model = with_own_constants(parsed(text, CHANNELS), names)
    result = fold(model)
    assert every_operator(result.model.graph.node) == ["If", "Conv", "Conv"]
    run(model, result.model)
