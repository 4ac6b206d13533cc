"""Nodes that are not sorted, as converters that append their Casts leave them: onnxruntime runs such files."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import onnx.parser
import pytest
from onnx import helper, numpy_helper

from bnfold import verify
from bnfold.errors import ModelProblem
from bnfold.folding.driver import fold
from bnfold.folding.pipeline import fold_file
from bnfold.model.order import sort_nodes, topological
from tests.verify_nets import CONV, run_here


def shuffled(model: onnx.ModelProto, order: list[int]) -> onnx.ModelProto:
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    del copy.graph.node[:]
    copy.graph.node.extend(model.graph.node[i] for i in order)
    return copy


def outputs(model: onnx.ModelProto) -> list[str]:
    return [node.output[0] for node in model.graph.node]


def test_nodes_that_are_in_order_keep_it() -> None:
    model = CONV.original(CONV.weights(0))
    assert topological(model.graph.node) == range(4)
    assert not sort_nodes(model)
    moved = shuffled(model, [3, 1, 0, 2])
    assert sort_nodes(moved)
    assert moved == model


def test_what_is_folded_has_its_nodes_in_the_order_of_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run_here(monkeypatch)
    unsorted = shuffled(CONV.original(CONV.weights(0)), [3, 1, 2, 0])  # y, n, r, t
    onnx.save(unsorted, tmp_path / "m.onnx")
    report = fold_file(tmp_path / "m.onnx")
    assert report.verification
    assert report.verification.passed, report.verification.reasons
    assert not any("checker" in note for note in report.verification.notes)
    written = onnx.load(report.target)
    assert outputs(written) == ["y", "r", "n"]
    assert sort_nodes(written)
    want = fold(CONV.original(CONV.weights(0))).model
    assert list(written.graph.initializer) == list(want.graph.initializer)
    assert list(written.graph.node) == list(want.graph.node)


def test_an_unsorted_folded_model_that_the_checker_refuses_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    run_here(monkeypatch)
    weights = CONV.weights(0)
    original, folded = CONV.original(weights), CONV.folded(CONV.fold(weights))
    folded = shuffled(folded, [2, 1, 0])
    assert verify(original, folded).passed
    next(node for node in folded.graph.node if node.op_type == "Relu").op_type = "Rely"
    assert any("onnx.checker" in reason for reason in verify(original, folded).reasons)


BODY = """<ir_version: 8, opset_import: ["" : 17]> g (bool c, float[1,2,3] x) => (float[1,2,3] y) {
 y = If (c) <then_branch = t () => (float[1,2,3] a) { a = BatchNormalization (u, s, b, m, v) u = Conv (late, w) },
             else_branch = e () => (float[1,2,3] a) { a = Identity (late) }>
 late = Relu (x)
}"""


def in_bodies() -> onnx.ModelProto:
    model = onnx.parser.parse_model(BODY)
    r = np.random.default_rng(0)
    values = {"w": r.standard_normal((2, 2, 1))} | {k: r.uniform(0.5, 2, 2) for k in "sbmv"}
    model.graph.initializer.extend(numpy_helper.from_array(v.astype(np.float32), k) for k, v in values.items())
    return model


def test_bodies_are_sorted_too_and_what_they_read_comes_first() -> None:
    model = in_bodies()
    assert topological(model.graph.node) == [1, 0]
    folded = fold(model).model
    assert [node.op_type for node in folded.graph.node] == ["If", "Relu"]
    assert [node.op_type for node in folded.graph.node[0].attribute[0].g.node] == ["Conv"]
    assert sort_nodes(model)
    assert [node.op_type for node in model.graph.node[1].attribute[0].g.node] == ["Conv", "BatchNormalization"]


def test_a_cycle_through_a_body_is_refused() -> None:
    model = in_bodies()
    model.graph.node[1].input[0] = "y"
    with pytest.raises(ModelProblem, match="reads what is computed from its own output"):
        fold(model)


def test_a_name_that_a_body_makes_itself_is_no_cycle() -> None:
    model = in_bodies()
    for attribute in model.graph.node[0].attribute:
        inner = helper.make_node("Relu", ["x"], ["late"])
        attribute.g.node.append(inner)
    model.graph.node[1].input[0] = "y"
    assert topological(model.graph.node) == range(2)
