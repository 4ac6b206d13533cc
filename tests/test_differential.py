"""bnfold next to its peers on random graphs; and what was wrong with bnfold that such graphs have found."""

from __future__ import annotations

import numpy as np
import onnx
import onnxruntime
import onnxslim
import pytest
from onnx import helper

from bnfold.folding import driver
from tests.benchmarks.peers import tools
from tests.build import BN, assert_same, bn, build, operators
from tests.differential.__main__ import shares
from tests.differential.judging import EXPLAINED, Trial, error, judged
from tests.differential.tally import findings, summary, table
from tests.differential.teams import Child
from tests.differential.wide import KINDS, draw


@pytest.fixture(scope="module")
def rows():
    return list(shares(tools(["bnfold", "onnxslim", "onnxruntime"]), graphs=40, seed=1))


def test_bnfold_is_faultless_and_folds_most(rows):
    labels = [tool.label for tool in tools(["bnfold", "onnxslim", "onnxruntime"])]
    own, *peers = labels
    assert (own, peers) == ("bnfold", [f"onnxslim {onnxslim.__version__}", f"onnxruntime {onnxruntime.__version__}"])
    figures = summary(rows, labels)
    assert [f for f in findings(rows, labels) if f["tool"] == "bnfold"] == []
    assert figures["unjudged"] == 0
    assert figures["worst_second_opinion"] < 1e-9
    totals = figures["tools"]
    assert totals["bnfold"]["folded"] >= 0.45 * figures["batch_normalizations"]
    assert totals["bnfold"]["folded"] > max(totals[peer]["folded"] for peer in peers) > 0
    assert totals[peers[0]]["agree"] > 10
    for peer in peers:
        assert totals[peer]["bnfold right"] == totals[peer]["disagree"]
    assert "| bnfold |" in table(figures)


def test_graphs_are_reproducible_valid_and_of_every_kind():
    seen = set()
    for index in range(40):
        drawn = draw(3, index)
        onnx.checker.check_model(drawn.stored, full_check=True)
        assert drawn.stored.SerializeToString() == draw(3, index).stored.SerializeToString()
        seen.add(drawn.kind)
    assert seen == set(KINDS)


def test_the_judge_sees_a_wrong_an_invalid_and_a_misshapen_model(tmp_path):
    index = next(i for i in range(50) if draw(0, i).kind == "float32" and draw(0, i).stored.graph.initializer)
    drawn = draw(0, index)
    onnx.save(drawn.stored, tmp_path / "m.onnx")
    trial = Trial(tmp_path / "m.onnx", drawn)
    assert "wrong" not in judged(trial, tmp_path / "m.onnx", "peer")
    off = onnx.ModelProto()
    off.CopyFrom(drawn.stored)
    for tensor in off.graph.initializer:
        if tensor.data_type == onnx.TensorProto.FLOAT:
            tensor.raw_data = (onnx.numpy_helper.to_array(tensor) * np.float32(1.01)).tobytes()
    onnx.save(off, tmp_path / "off.onnx")
    assert "wrong" in judged(trial, tmp_path / "off.onnx", "peer")
    off.graph.node[-1].input[0] = "nothing"
    onnx.save(off, tmp_path / "off.onnx")
    assert {"invalid", "does not run"} <= judged(trial, tmp_path / "off.onnx", "peer").keys()
    assert error({}, trial.truth) == float("inf")
    assert all(limit < 0.2 for limit in EXPLAINED.values())


def test_a_child_that_dies_or_hangs_is_replaced(tmp_path):
    child = Child("bnfold", tmp_path, 0, seconds=0.2)
    child.fresh = False
    child.command = [child.command[0], "-c", "import os; input(); os.abort()"]
    assert child.ask("0") == {"crashed": "SIGABRT"}
    child.command[-1] = "import time; time.sleep(60)"
    child.process = child._started()
    child.fresh = False
    assert "hung" in child.ask("0")
    child.command[-1] = "input(); print('{}')"
    assert child.ask("0") == {}
    child.close()


def in_node(model: onnx.ModelProto, name: str) -> onnx.ModelProto:
    """The same model with an initializer in a Constant node at its front."""
    tensor = next(t for t in model.graph.initializer if t.name == name)
    nodes = [helper.make_node("Constant", [], [name], value=tensor), *model.graph.node]
    model.graph.initializer.remove(tensor)
    del model.graph.node[:]
    model.graph.node.extend(nodes)
    return model


@pytest.mark.parametrize("join", ["Add", "Sub"])
def test_a_constant_node_that_two_convolutions_share_is_not_lost(join):
    """The first took a copy; the second the node itself, which went as if nobody read it: the result was invalid."""
    body = f"a = Conv (X, V, c)\n b = Conv (X, W, c)\n s = {join} (a, b)\n Y = {BN('s', 'n')}"
    constants = {"V": (4, 3, 1, 1), "W": (4, 3, 1, 1), "c": (4,), **bn("n", 4)}
    model = in_node(build(body, "X[N,3,5,5]", "Y[N,4,5,5]", constants), "c")
    result = driver.fold(model)
    assert "BatchNormalization" not in operators(result.model)
    assert_same(model, result.model)


def test_a_constant_node_that_one_node_reads_twice_is_not_lost():
    model = build(
        "a = BatchNormalization (X, g, g, m, v)\n t = Relu (X)\n s = Add (a, t)\n u = BatchNormalization (a, g, g, m, v)\n Y = Add (s, u)",
        "X[N,4,5,5]",
        "Y[N,4,5,5]",
        {"g": (4,), "m": (4,), "v": (4,)},
    )
    twice = build(f"a = BatchNormalization (X, g, g, m, v)\n Y = {BN('a', 'n')}", "X[N,4,5,5]", "Y[N,4,5,5]", {"g": (4,), "m": (4,), "v": (4,), **bn("n",
     4)})  # fmt: skip
    for each in (in_node(model, "g"), in_node(twice, "g")):
        assert_same(each, driver.fold(each).model)


def test_an_input_made_for_ir_3_goes_with_its_initializer():
    """A bias was made, listed as an input, as IR 3 wants it, and merged away; the input stayed and had to be fed."""
    parts = f"a = Conv (X, V)\n b = {BN('a', 'm')}\n c = Conv (X, W)\n d = {BN('c', 'n')}\n Y = Add (b, d)"
    constants = {"V": (4, 3, 1, 1), "W": (4, 3, 1, 1), **bn("m", 4), **bn("n", 4)}
    model = build(parts, "X[N,3,5,5]", "Y[N,4,5,5]", constants, opset=8, ir=3)
    model.graph.input.extend(
        helper.make_tensor_value_info(t.name, t.data_type, t.dims) for t in model.graph.initializer
    )
    folded = driver.fold(model).model
    assert operators(folded) == ["Conv"]
    stored = {t.name for t in folded.graph.initializer}
    assert [i.name for i in folded.graph.input if i.name not in stored] == ["X"]
    assert {i.name for i in folded.graph.input} - {"X"} == stored
    assert_same(model, folded)


@pytest.mark.parametrize("width", [4, 5])
def test_parameters_per_place_take_no_affine_per_channel(width):
    """spatial=0. Where an image is as wide as it has channels, the scale went along the width: wrong, and no error."""
    body = "a = BatchNormalization <spatial = 0> (X, g, b, m, v)\n Y = Mul (a, s)"
    places = {name: (4, 5, width) for name in "gbmv"}
    model = build(body, f"X[N,4,5,{width}]", f"Y[N,4,5,{width}]", {**places, "s": (4, 1, 1)}, opset=8)
    result = driver.fold(model)
    assert "rank 3, not 1" in result.kept[-1].reasons[0]
    assert_same(model, result.model)
