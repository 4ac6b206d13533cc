"""Random quantized graphs next to the peers: what is drawn, and that the judge sees what is wrong with integers."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from bnfold.folding import driver
from tests.differential.integers import changed_integers
from tests.differential.judging import Trial, judged
from tests.differential.quantized import draw
from tests.quantized_layers import KINDS, layer

RECORD = json.loads((Path(__file__).parent / "benchmarks" / "results" / "differential_quantized_cpu.json").read_text())
GRAPHS = 40


def test_a_graph_is_drawn_again_from_its_number():
    assert draw(0, 7).stored.SerializeToString() == draw(0, 7).stored.SerializeToString()


def test_every_kind_of_layer_is_drawn():
    graphs = [draw(1, index) for index in range(300)]
    seen = Counter(word for drawn in graphs for word in {*drawn.layers})
    assert {*KINDS} <= {*seen}
    forms = [
        "conv",
        "depthwise",
        "grouped",
        "transposed",
        "gemm",
        "transposed gemm",
        "product",
        "in graph",
        "blocks",
        "per channel",
    ]
    assert all(seen[form] > 5 for form in forms)
    assert {drawn.stored.opset_import[0].version for drawn in graphs} == {*range(10, 25)}


def test_folds_are_right_and_integers_are_what_they_were(tmp_path):
    folded = 0
    for index in range(GRAPHS):
        drawn = draw(2, index)
        onnx.save(drawn.stored, tmp_path / "m.onnx")
        trial = Trial(tmp_path / "m.onnx", drawn)
        result = driver.fold(drawn.stored)
        onnx.save(result.model, tmp_path / "m.bnfold.onnx")
        answer = judged(trial, tmp_path / "m.bnfold.onnx", "bnfold")
        assert not {"wrong", "invalid", "does not run"} & answer.keys(), (index, answer)
        folded += len(result.folded)
    assert folded > GRAPHS / 2


def with_codes(model: onnx.ModelProto, change) -> onnx.ModelProto:
    copy = onnx.ModelProto.FromString(model.SerializeToString())
    for tensor in copy.graph.initializer:
        if tensor.name == "q":
            values = numpy_helper.to_array(tensor).copy()
            tensor.CopyFrom(numpy_helper.from_array(change(values), "q"))
    return copy


def one_more(values: np.ndarray) -> np.ndarray:
    values.flat[0] += 1
    return values


@pytest.mark.parametrize("kind", ["int8", "uint8", "int4", "float8_e4m3fn"])
def test_the_judge_lets_signs_by_and_sees_other_codes(kind):
    original = layer(kind=kind)
    folded = driver.fold(original).model
    assert changed_integers(original, folded) == ""
    assert changed_integers(original, with_codes(folded, lambda v: np.roll(v, 1, 0))) == "dq"
    if "int" in kind:
        assert changed_integers(original, with_codes(folded, one_more)) == "dq"
    assert changed_integers(original, with_codes(folded, lambda v: v.astype(np.int16))) == "dq"


def test_the_record_has_no_fault_of_bnfold():
    summary = RECORD["summary"]
    assert (RECORD["kind"], summary["graphs"], summary["unjudged"]) == ("quantized", 2000, 0)
    own = summary["tools"]["bnfold"]
    assert own["graphs with a fault"] == 0
    assert own["folded"] > max(each["folded"] for name, each in summary["tools"].items() if name != "bnfold")
