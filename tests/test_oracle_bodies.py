"""Loops and branches in the float64 evaluation: onnxruntime says the same, where onnx's own reference does not."""

from __future__ import annotations

import numpy as np
import onnx
import onnx.parser
import pytest
from onnx import TensorProto, helper, numpy_helper

import bnfold
from bnfold.folding import driver
from tests import nested
from tests.verify_nets import evaluate

FLOAT, INT64, BOOL = TensorProto.FLOAT, TensorProto.INT64, TensorProto.BOOL
info = helper.make_tensor_value_info


def model(node: onnx.NodeProto, outputs: int, stored: dict[str, np.ndarray]) -> onnx.ModelProto:
    ends = [onnx.ValueInfoProto(name=name) for name in node.output[:outputs]]
    entering = [info("x", FLOAT, [2, 3]), info("s", FLOAT, [4, 2, 3])]
    tensors = [numpy_helper.from_array(value, name) for name, value in stored.items()]
    graph = helper.make_graph([node], "g", entering, ends, tensors)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def loop(most: str, goes_on: str) -> onnx.NodeProto:
    """Adds the number of the round, goes on while that is under 3, and collects; it stores a `k` of its own."""
    nodes = [
        helper.make_node("Cast", ["i"], ["r"], to=FLOAT),
        helper.make_node("Add", ["a", "r"], ["plus"]),
        helper.make_node("Mul", ["plus", "k"], ["b"]),
        helper.make_node("Add", ["b", "x"], ["row"]),
        helper.make_node("Less", ["r", "k"], ["more"]),
    ]
    entering = [info("i", INT64, []), info("go", BOOL, []), info("a", FLOAT, [2, 3])]
    leaving = [info("more", BOOL, []), info("b", FLOAT, [2, 3]), info("row", FLOAT, [2, 3])]
    body = helper.make_graph(nodes, "body", entering, leaving, [numpy_helper.from_array(np.float32(3), "k")])
    return helper.make_node("Loop", [most, goes_on, "x"], ["last", "rows"], body=body)


def scan(directions: list[int], axes: list[int]) -> onnx.NodeProto:
    nodes = [helper.make_node("Add", ["a", "slice"], ["b"]), helper.make_node("Mul", ["b", "slice"], ["row"])]
    entering, leaving = (
        [info("a", FLOAT, None), info("slice", FLOAT, None)],
        [info("b", FLOAT, None), info("row", FLOAT, None)],
    )
    body = helper.make_graph(nodes, "body", entering, leaving)
    how = {
        "scan_input_directions": directions[:1],
        "scan_output_directions": directions[1:],
        "scan_input_axes": axes[:1],
        "scan_output_axes": axes[1:],
    }
    return helper.make_node("Scan", ["zero", "s"], ["last", "rows"], body=body, num_scan_inputs=1, **how)


NODES = {
    **{
        f"Loop, most {most or 'absent'}, condition {on or 'absent'}": loop(most, on)
        for most in ("", "two", "none", "many")
        for on in ("", "yes", "no")
    },
    "Scan": scan([0, 0], [0, 0]),
    "Scan backwards": scan([1, 0], [0, 0]),
    "Scan, laid backwards": scan([0, 1], [0, 0]),
    "Scan along the second axis": scan([0, 0], [1, 1]),
    "Scan along the last axis": scan([1, 1], [-1, -1]),
}


@pytest.mark.parametrize("name", NODES)
def test_bodies_run_as_in_onnxruntime(name: str) -> None:
    node, rng = NODES[name], np.random.default_rng(0)
    numbers = {
        "two": np.array(2),
        "none": np.array(0),
        "many": np.array(9),
        "yes": np.array(True),
        "no": np.array(False),
    }
    x, s = (rng.standard_normal(shape).astype(np.float32) for shape in ((2, 3), (4, 2, 3)))
    axis = next((a.ints[0] for a in node.attribute if a.name == "scan_input_axes"), 0)
    state = np.zeros(np.take(s, 0, axis).shape, np.float32)
    whole = model(node, 2, {**{k: v for k, v in numbers.items() if k in node.input}, "zero": state, "k": np.float32(7)})
    want = nested.session(whole).run(None, {"x": x, "s": s})
    got = evaluate(whole, {"x": x, "s": s}, ["last", "rows"])
    for value, name in zip(want, ("last", "rows"), strict=True):
        assert got[name].shape == value.shape
        np.testing.assert_allclose(got[name], value, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("seed", [10, 11, 19, 30])
def test_nested_bodies_and_functions_agree_with_onnxruntime(seed: int) -> None:
    drawn = nested.distinct(nested.Maker(seed).model())
    names = [output.name for output in drawn.graph.output]
    opened = nested.session(drawn)
    for case in nested.feeds():
        got = evaluate(drawn, case, names)
        for name, value in zip(names, opened.run(None, case), strict=True):
            np.testing.assert_allclose(got[name], value, rtol=1e-3, atol=1e-4 * max(1.0, np.abs(value).max()))


@pytest.mark.parametrize("scalar", [False, True])
@pytest.mark.parametrize("inputs", [2, 3, 4, 5])
def test_limits_of_non_max_suppression_may_be_absent_or_numbers(inputs: int, scalar: bool) -> None:
    rng = np.random.default_rng(0)
    corners, sizes = rng.random((1, 20, 2)), rng.random((1, 20, 2)) * 0.5
    boxes = np.float32(np.concatenate([corners, corners + sizes], 2))
    scores, row = np.float32(rng.random((1, 2, 20))), () if scalar else (1,)
    limits = {"m": np.full(row, 5), "o": np.full(row, 0.3, np.float32), "l": np.full(row, 0.4, np.float32)}
    node = helper.make_node("NonMaxSuppression", ["b", "s", "m", "o", "l"][:inputs], ["y"])
    stored = [numpy_helper.from_array(limits[name], name) for name in node.input[2:]]
    graph = helper.make_graph(
        [node], "g", [info("b", FLOAT, [1, 20, 4]), info("s", FLOAT, [1, 2, 20])], [info("y", INT64, [None, 3])], stored
    )
    whole = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8)
    want = nested.session(whole).run(None, {"b": boxes, "s": scores})[0]
    np.testing.assert_array_equal(evaluate(whole, {"b": boxes, "s": scores})["y"], want)


@pytest.mark.parametrize("goes_on", ["", "yes"])
def test_a_batch_normalization_in_a_loop_without_a_condition_is_verified(goes_on: str) -> None:
    rng = np.random.default_rng(7)
    drawn = {"w": rng.standard_normal((4, 4, 3, 3)) * 0.2, **{k: rng.random(4) + 0.5 for k in "gbmv"}}
    stored = {**{name: np.float32(value) for name, value in drawn.items()}, "most": np.array(2), "yes": np.array(True)}
    nodes = [
        helper.make_node("Conv", ["a", "w"], ["c"], pads=[1] * 4),
        helper.make_node("BatchNormalization", ["c", *"gbmv"], ["n"]),
        helper.make_node("Relu", ["n"], ["b2"]),
        helper.make_node("Identity", ["go"], ["more"]),
    ]
    shape = [1, 4, 8, 8]
    entering = [info("i", INT64, []), info("go", BOOL, []), info("a", FLOAT, shape)]
    body = helper.make_graph(nodes, "body", entering, [info("more", BOOL, []), info("b2", FLOAT, shape)])
    node = helper.make_node("Loop", ["most", goes_on, "x"], ["y"], body=body)
    tensors = [numpy_helper.from_array(v, k) for k, v in stored.items() if k != "yes" or goes_on]
    graph = helper.make_graph([node], "g", [info("x", FLOAT, shape)], [info("y", FLOAT, shape)], tensors)
    original = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    folded = driver.fold(original)
    assert len(folded.folded) == 1
    assert bnfold.verify(original, folded.model, untouched=folded.sites).passed


def test_an_attribute_that_a_function_gets_from_its_call_is_evaluated() -> None:
    text = """<ir_version: 9, opset_import: ["": 18, "own": 1]> g (float[2,3] x) => (float[2,3] y) {
        h = own.act <k: float = 0.1> (x) y = own.act <k: float = 0.2> (h) }
        <domain: "own", opset_import: ["": 18]> act <k> (v) => (o) { o = LeakyRelu <alpha: float = @k> (v) }"""
    x = np.array([[-1.0, 2.0, -3.0], [0.0, -5.0, 1.0]], np.float32)
    want = np.where(x < 0, np.float32(0.1) * np.float32(0.2) * x.astype(np.float64), x)
    assert np.allclose(evaluate(onnx.parser.parse_model(text), {"x": x})["y"], want, rtol=1e-6)
