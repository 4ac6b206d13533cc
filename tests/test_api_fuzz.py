"""The fuzzer of bnfold.fold: some graphs of it, what it draws, and that its judge sees what is wrong."""

from __future__ import annotations

import numpy as np
import onnx
import onnx.parser
import pytest
from onnx import ModelProto, numpy_helper

from bnfold.folding import driver
from tests.api_fuzz import judge, reduce
from tests.api_fuzz.__main__ import one
from tests.api_fuzz.draw import Drawn, draw
from tests.api_fuzz.tally import summary, table
from tests.api_fuzz.team import rows

PLAIN = """<ir_version: 8, opset_import: ["": 17]> g (float[2,3,4,4] x) => (float[2,2,4,4] y)
<float[2,3,1,1] W = {1, 2, 3, 4, 5, 6}, float[2] g = {1.1, 2.2}, float[2] b = {3, 4}, float[2] m = {0.5, 0.1}, float[2] v = {1, 2}>
{ c = Conv (x, W)  r = Identity (c)  y = BatchNormalization (r, g, b, m, v) }"""


def given(text: str = PLAIN) -> Drawn:
    from collections import Counter

    return Drawn(onnx.parser.parse_model(text), [], [], Counter())


def test_some_graphs_have_no_fault():
    found = summary([*rows(seed=1, indices=range(120), jobs=1)])
    assert found["faults"] == []
    assert found["judged"] > 102
    assert found["folded"] > 40
    assert "| faults | 0 |" in table(found)


def test_a_graph_is_drawn_again_from_its_number(capsys):
    assert draw(0, 7).model.SerializeToString() == draw(0, 7).model.SerializeToString()
    assert one(0, 7, False, None) == 0
    assert "opset_import" in capsys.readouterr().out


def test_what_ordinary_generators_do_not_make_is_there():
    features = {name for index in range(300) for name, times in draw(2, index).features.items() if times}
    assert features >= {
        "If",
        "Loop",
        "Scan",
        "function",
        "shadowed name",
        "constant: cast_through",
        "constant: dequantized",
    }
    assert features >= {"input without elements", "operand without elements", "symbolic batch", "output in the middle"}
    assert features >= {f"opset {n}" for n in range(7, 27)}


def changed(model: ModelProto, name: str, times: float) -> ModelProto:
    for tensor in model.graph.initializer:
        if tensor.name == name:
            tensor.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(tensor) * np.float32(times), name))
    return model


FAULTS = {
    "wrong": lambda m: changed(m, "W", 1.0001),
    "infinite constant": lambda m: changed(m, "W", np.inf),
    "invalid": lambda m: m.graph.node[0].input.append("missing"),
    "lost": lambda m: m.metadata_props.add(key="k", value="v"),
    "miscounted": lambda m: m.graph.node.add(op_type="BatchNormalization", input=["x", *["W"] * 4], output=["z"]),
}


@pytest.mark.filterwarnings("ignore::RuntimeWarning")
@pytest.mark.parametrize("kind", FAULTS)
def test_the_judge_sees(kind, monkeypatch):
    right = driver.fold

    def wrong(model):
        result = right(model)
        if any(n.op_type == "Conv" and len(n.input) == 3 for n in result.model.graph.node):
            FAULTS[kind](result.model)
        return result

    assert judge.judged(given())["faults"] == []
    monkeypatch.setattr(driver, "fold", wrong)
    assert kind in {found for found, _ in judge.judged(given())["faults"]}


def test_the_judge_sees_exceptions_refusals_and_a_changed_argument(monkeypatch):
    def raises(why):
        def fold(model):
            model.doc_string = "changed"
            raise why

        return fold

    for why, kinds in (
        (KeyError("x"), {"exception", "argument mutated"}),
        (bnfold_error(), {"refused", "argument mutated"}),
    ):
        monkeypatch.setattr(driver, "fold", raises(why))
        assert {kind for kind, _ in judge.judged(given())["faults"]} == kinds


def bnfold_error() -> Exception:
    from bnfold.errors import ModelProblem

    return ModelProblem("no", "No.")


def test_what_is_near_and_what_is_not():
    a, more = np.array([1.0, 2.0], np.float32), [np.array([1.0, 2.001], np.float32)]
    assert judge.within(a, np.array([1.0, 2.002], np.float32), more, 1e-6, 16)
    assert not judge.within(a, np.array([1.0, 2.2], np.float32), more, 1e-6, 16)
    assert not judge.within(a, np.array([1.0, np.nan], np.float32), more, 1e-6, 16)
    whole = np.array([1, 2])
    assert judge.within(whole, np.array([1, 3]), [np.array([1, 3])], 1e-6, 16)
    assert not judge.within(whole, np.array([2, 2]), [np.array([1, 3])], 1e-6, 16)


def test_what_fails_is_made_smaller(monkeypatch):
    monkeypatch.setattr(
        reduce,
        "judged",
        lambda d: {"faults": [("odd", "")] if any(n.op_type == "Conv" for n in d.model.graph.node) else []},
    )
    assert [n.op_type for n in reduce.reduced(given()).model.graph.node] == ["Conv"]
