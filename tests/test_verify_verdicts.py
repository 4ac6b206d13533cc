"""What is neither right nor wrong must say so, and a model's surroundings must be as they were."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import onnx.parser
import pytest
from onnx import TensorProto, helper, numpy_helper

from bnfold.errors import ModelProblem, UsageProblem
from bnfold.verification import Verification, verify
from bnfold.verification.judge import judge
from bnfold.verification.level_results import Compared, Level
from bnfold.verification.results import Numbers
from tests.test_verify_inputs import parse
from tests.verify_nets import CONV, GEMM, Weights, chain, run_here


@pytest.fixture(autouse=True)
def _in_this_process(monkeypatch: pytest.MonkeyPatch) -> None:
    run_here(monkeypatch)


def test_identical_models_pass_and_say_so() -> None:
    model = CONV.original(CONV.weights(0))
    found = verify(model, model)
    assert found.passed
    assert found.reasons == ("the two models are the same, stored numbers included: there is nothing to compare",)


def test_the_same_file_with_other_external_data_is_not_the_same_model(tmp_path: Path) -> None:
    weights = CONV.weights(0)
    folded = CONV.fold(weights)
    for name, numbers in (("a", folded), ("b", {**folded, "w": folded["w"] * np.float32(1.01)})):
        (tmp_path / name).mkdir()
        path = tmp_path / name / "m.onnx"
        onnx.save(CONV.folded(numbers), path, save_as_external_data=True, location="m.data", size_threshold=0)
    a, b = (tmp_path / name / "m.onnx" for name in "ab")
    assert a.read_bytes() == b.read_bytes()
    assert verify(a, a).passed
    assert verify(a, b).verdict == "FAIL"


def test_comparing_only_what_onnxruntime_made_identical_is_vacuous() -> None:
    weights = CONV.weights(0)
    found = verify(CONV.original(weights), CONV.folded(CONV.fold(weights)), levels=["default"])
    assert found.levels[0].same_graph
    assert found.verdict == "VACUOUS"
    assert not found.passed


def level(name: str, **changes: object) -> Level:
    measured = {"name": "y", "operator": "Conv", "output": True, "site": True, "ok": True, "why": "", "ratio": 1.0}
    measured |= {"tensor_ratio": 1.0, "limit": 4.0, "axis": None, "channel": None, "elements": 8, "excluded": 0}
    measured |= dict.fromkeys(("max_abs_original", "max_abs_folded", "rms_original", "rms_folded"), 1e-7)
    measured |= {"disputed": False, "usable": True, "clear": True, "constant": False, "moved": False}
    one = Compared(**measured)  # type: ignore[arg-type]
    plain = Level(name, ran=True, why="", broken=False, same_graph=False, cases=("normal",), tensors=(one,))
    return replace(plain, **changes)  # type: ignore[arg-type]


OFF, SAME = level("off"), level("default", same_graph=True)
NOT_RUN = level("off", ran=False, why="the original does not load", tensors=(), cases=())
JUDGED = {
    "both levels": ([OFF, SAME], [], "PASS"),
    "only optimized, and made the same": ([SAME], [], "VACUOUS"),
    "as written it does not run": ([NOT_RUN, SAME], [], "VACUOUS"),
    "as written it does not run, optimized it differs": ([NOT_RUN, level("default")], [], "INCONCLUSIVE"),
    "nothing runs": ([NOT_RUN], [], "INCONCLUSIVE"),
    "nothing at all": ([], [], "INCONCLUSIVE"),
    "no oracle": ([OFF, SAME], ["the float64 oracle cannot evaluate Mystery"], "INCONCLUSIVE"),
    "no oracle, and made the same": ([SAME], ["the float64 oracle cannot evaluate Mystery"], "VACUOUS"),
    "only the folded model fails": ([replace(NOT_RUN, broken=True), SAME], [], "FAIL"),
    "the oracle is disputed": ([replace(OFF, tensors=(replace(OFF.tensors[0], disputed=True),))], [], "INCONCLUSIVE"),
    "a bad tensor, and no oracle": (
        [replace(OFF, tensors=(replace(OFF.tensors[0], ok=False),))],
        ["no oracle"],
        "FAIL",
    ),
    "a fold site that rounding blurs": (
        [replace(OFF, tensors=(replace(OFF.tensors[0], clear=False),))],
        [],
        "INCONCLUSIVE",
    ),
    "no output is a tensor": ([replace(OFF, tensors=())], [], "INCONCLUSIVE"),
}


@pytest.mark.parametrize("case", JUDGED)
def test_the_verdict_never_says_yes_to_what_could_not_say_no(case: str) -> None:
    levels, blocked, expected = JUDGED[case]
    verdict, reasons = judge(None, Numbers(tuple(levels), tuple(blocked)))
    assert verdict == expected
    assert reasons


def test_an_overflow_that_both_optimized_graphs_share_is_caught() -> None:
    def model(lines: str, constants: Weights) -> onnx.ModelProto:
        text = f'<ir_version: 8, opset_import: ["" : 17]> g (float[1,1,4,4] x) => (float[1,1,4,4] y) {{ {lines} }}'
        made = onnx.parser.parse_model(text)
        made.graph.initializer.extend(numpy_helper.from_array(v.astype(np.float32), k) for k, v in constants.items())
        return made

    one = np.ones(1)
    bn = {"w": np.full((1, 1, 1, 1), 1e20), "s": one * 1e20, "b": one, "m": one * 0, "v": one, "q": one * 1e-25}
    original = model("h = Mul (x, q)  c = Conv (h, w)  y = BatchNormalization (c, s, b, m, v)", bn)
    with np.errstate(over="ignore"):
        folded = model("h = Mul (x, q)  y = Conv (h, w, b)", {"w": bn["w"] * 1e20, "b": one, "q": bn["q"]})
    found = verify(original, folded)
    assert found.verdict == "FAIL"
    assert "NaN or Inf" in found.reasons[0]


def test_a_custom_operator_is_inconclusive_and_named() -> None:
    def model(k: float) -> onnx.ModelProto:
        text = (
            f'<ir_version: 8, opset_import: ["" : 17, "acme" : 1]> g (float[2] x) => (float[2] y) '
            f"{{ k = Constant <value = float[1] {{{k}}}> ()  h = acme.Mystery (x)  y = Mul (h, k) }}"
        )
        return onnx.parser.parse_model(text)

    found = verify(model(1.0), model(2.0))
    assert found.verdict == "INCONCLUSIVE"
    assert "acme::Mystery" in found.reasons[0]


def test_an_operator_only_onnxruntime_knows_is_inconclusive_but_a_fault_still_fails() -> None:
    def model(w: np.ndarray) -> onnx.ModelProto:
        nodes = [
            helper.make_node("Gelu", ["x"], ["h"], domain="com.microsoft"),
            helper.make_node("MatMul", ["h", "w"], ["y"]),
        ]
        values = [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["N", 3]) for name in "xy"]
        graph = helper.make_graph(
            nodes, "g", values[:1], values[1:], [numpy_helper.from_array(w.astype(np.float32), "w")]
        )
        opsets = [helper.make_opsetid("", 17), helper.make_opsetid("com.microsoft", 1)]
        return helper.make_model(graph, opset_imports=opsets, ir_version=8)

    w = np.random.default_rng(0).standard_normal((3, 3)).astype(np.float32)
    same = verify(model(w), model(np.nextafter(w, np.float32(9))))
    assert same.verdict == "INCONCLUSIVE"
    assert "com.microsoft::Gelu" in same.reasons[0]
    assert verify(model(w), model(w * 1.001)).verdict == "FAIL"


CONSTANT = {"one constant": np.zeros(1), "NaN or Inf": np.full(1, np.nan)}  # what an output is multiplied by


@pytest.mark.parametrize("words", CONSTANT)
def test_outputs_that_never_change_show_no_difference(words: str) -> None:
    lines = "{0} = {0} <axes = [1]> (x)  b = Mul ({0}, z)  y = Add (b, k)"
    constants = {"k": np.ones(1), "z": CONSTANT[words]}
    found = verify(*(chain(lines.format(operator), constants) for operator in ("ReduceMax", "ReduceMin")))
    assert found.verdict == "INCONCLUSIVE"
    assert words in found.reasons[0]


@pytest.mark.parametrize("words", CONSTANT)
def test_outputs_that_never_change_have_no_difference_to_show_where_all_is_proved(words: str) -> None:
    lines = "a = Mul (x, k)  b = Mul (a, z)  y = Add (b, k)"
    models = (chain(lines, {"k": np.ones(shape), "z": CONSTANT[words]}) for shape in (1, (1, 1)))
    found = verify(*models)
    assert (found.verdict, found.grade) == ("PASS", "proved"), found.reasons


def change(model: onnx.ModelProto, how: str) -> onnx.ModelProto:
    if how == "an output renamed":
        model.graph.node[-1].output[0] = model.graph.output[0].name = "other"
    elif how == "a dimension fixed":
        model.graph.input[0].type.tensor_type.shape.dim[0].dim_value = 1
    elif how == "metadata lost":
        del model.metadata_props[:]
    elif how == "another opset":
        model.opset_import[0].version = 16
    elif how == "another IR version":
        model.ir_version = 9
    elif how == "a doc string":
        model.doc_string = "changed"
    else:
        model.graph.node.add(op_type="Missing", output=["stray"])
    return model


CHANGES = {
    "an output renamed": "the outputs changed from y to other",
    "a dimension fixed": "input 'x' changed from FLOAT[N,3,9,9] to FLOAT[1,3,9,9]",
    "an invalid node": "onnx.checker accepts the original but not the folded model",
}
IN_THE_FILE = {
    "metadata lost": ("metadata", "metadata 'names' is gone"),
    "another opset": ("operator sets", "the operator set ai.onnx changed from 17 to 16"),
    "another IR version": ("version", "ir_version changed from 8 to 9"),
    "a doc string": ("documentation", "doc_string changed from '' to 'changed'"),
}


def with_metadata() -> tuple[onnx.ModelProto, onnx.ModelProto]:
    weights = CONV.weights(0)
    models = CONV.original(weights), CONV.folded(CONV.fold(weights))
    for model in models:
        helper.set_model_props(model, {"names": "cat dog"})
    return models


@pytest.mark.parametrize("how", CHANGES)
def test_what_callers_run_into_fails(how: str) -> None:
    original, folded = with_metadata()
    found = verify(original, change(folded, how))
    assert found.verdict == "FAIL"
    assert CHANGES[how] in found.reasons[0]


@pytest.mark.parametrize("how", IN_THE_FILE)
def test_what_else_changed_in_the_file_is_listed_and_fails_where_it_must_be_untouched(how: str) -> None:
    original, folded = with_metadata()
    kind, words = IN_THE_FILE[how]
    found = verify(original, change(folded, how))
    assert found.passed, found.reasons
    assert found.structure
    assert [(each.kind, each.count, each.words) for each in found.structure.changes] == [(kind, 1, (words,))]
    assert [*found.to_json()["structure"]["changes"]] == [{"kind": kind, "count": 1, "words": (words,)}]
    for untouched in (True, None):  # the sites of a fold that inlined functions
        strict = verify(original, folded, untouched=untouched)
        assert strict.verdict == "FAIL"
        assert strict.reasons[0] == f"not untouched: {words}"


def test_a_provenance_stamp_is_no_change() -> None:
    weights = CONV.weights(0)
    folded = CONV.folded(CONV.fold(weights))
    helper.set_model_props(folded, {"bnfold": "0.1"})
    assert verify(CONV.original(weights), folded).passed


def test_trailing_empty_outputs_of_batch_normalization_do_not_crash_it() -> None:
    weights = CONV.weights(0)
    original = CONV.original(weights)
    original.opset_import[0].version = 9
    original.graph.node[1].output.extend(["", "", "", ""])
    folded = CONV.folded(CONV.fold(weights))
    folded.opset_import[0].version = 9
    assert verify(original, folded).verdict == "PASS"


def test_json_is_plain_and_named() -> None:
    weights = GEMM.weights(0)
    found: Verification = verify(GEMM.original(weights), GEMM.folded(GEMM.fold(weights)))
    text = json.dumps(found.to_json(), allow_nan=False)
    answer = json.loads(text)
    assert answer["schema"] == "bnfold.verify/1"
    assert answer["verdict"] == "PASS"
    assert answer["structure"]["original"]["batch_normalization"] == 1
    assert answer["structure"]["folded"]["batch_normalization"] == 0
    assert 0 < answer["worst_error"]["folded"] < 1e-2
    assert {t["name"] for t in answer["levels"][0]["tensors"]} == {"n", "y"}


BAD_FILES = {"missing": None, "empty": b"", "text": b"hello, this is no model", "truncated": b"\x08\x08\x12\x07"}


@pytest.mark.parametrize("kind", BAD_FILES)
def test_unreadable_files_are_model_problems(kind: str, tmp_path: Path) -> None:
    path, good = tmp_path / "bad.onnx", tmp_path / "good.onnx"
    content = BAD_FILES[kind]
    if content is not None:
        path.write_bytes(content)
    onnx.save(CONV.original(CONV.weights(0)), good)
    with pytest.raises(ModelProblem, match="bad.onnx") as caught:
        verify(good, path)
    assert caught.value.hint


def test_a_folder_is_a_model_problem(tmp_path: Path) -> None:
    with pytest.raises(ModelProblem, match="folder"):
        verify(tmp_path, tmp_path)


def test_lost_external_data_is_a_model_problem(tmp_path: Path) -> None:
    path = tmp_path / "m.onnx"
    onnx.save(CONV.original(CONV.weights(0)), path, save_as_external_data=True, location="m.data", size_threshold=0)
    (tmp_path / "m.data").unlink()
    with pytest.raises(ModelProblem, match="m.data"):
        verify(path, CONV.original(CONV.weights(0)))


@pytest.mark.parametrize("wrong", [{"effort": "huge"}, {"levels": ["extreme"]}, {"levels": []}])
def test_options_it_does_not_know_are_usage_problems(wrong: dict[str, object]) -> None:
    model = CONV.original(CONV.weights(0))
    with pytest.raises(UsageProblem):
        verify(model, model, **wrong)  # type: ignore[arg-type]


def test_live_channels_are_counted_and_what_is_not_finite_anyway_is_noted() -> None:
    weight = np.random.default_rng(0).standard_normal((4, 3)).astype(np.float32)
    weight[2] = 0
    stored = {"w": weight, "c": np.float32([1, 2, 3, 4]), "zero": np.float32([1, 1, 1, 0])}
    before = parse(
        "h = Gemm <transB = 1> (x, w) i = Mul (h, c) k = Add (i, c) y = Div (k, zero)", "float[N,3] x", **stored
    )
    folded = {"w": weight * stored["c"][:, None], "c": stored["c"], "zero": stored["zero"]}
    after = parse("k = Gemm <transB = 1> (x, w, c) y = Div (k, zero)", "float[N,3] x", **folded)
    found = verify(before, after)
    assert found.passed, found.reasons
    site = next(tensor for tensor in found.levels[0].tensors if tensor.name == "k")
    assert (site.live, site.channels) == (3, 4)
    assert found.levels[0].row()[3] == "3/4"
    assert any("elements are NaN or Inf in the original as well" in note for note in found.notes)


def test_an_original_that_onnxruntime_itself_optimizes_wrongly_is_named() -> None:
    """onnxruntime 1.31 works a BatchNormalization into a MatMul across a Transpose, along the wrong axis."""
    r = np.random.default_rng(0)
    w, s, b, m, v = r.standard_normal((6, 4)), r.uniform(0.5, 2, 4), *r.standard_normal((2, 4)), r.uniform(0.5, 2, 4)
    k = s / np.sqrt(v + 1e-5)
    ends = {
        "y = BatchNormalization (t, s, b, m, v)": {"s": s, "b": b, "m": m, "v": v},
        "p = Mul (t, k) y = Add (p, c)": {"k": k, "c": b - m * k},
    }
    first, second = (
        parse(
            f"h = MatMul (x, w) t = Transpose <perm = [1,0]> (h) {end}",
            "float[4,6] x",
            "float[4,4] y",
            **{name: value.astype(np.float32) for name, value in {"w": w, **constants}.items()},
        )
        for end, constants in ends.items()
    )
    found = verify(first, second)
    assert found.passed, found.reasons
    default = found.levels[1].tensors[0]
    if default.rms_original < 1e-5:
        pytest.skip("this onnxruntime does it right")
    assert default.miscomputed == "original"
    assert default.ratio < default.limit
    (words,) = (note for note in found.notes if "runs wrong" in note)
    assert words.startswith("optimization default: the original runs wrong from output 'y' (BatchNormalization) on")
    wrong = onnx.ModelProto()
    wrong.CopyFrom(second)
    wrong.graph.node[-1].op_type = "Sub"
    assert verify(first, wrong, levels=["default"]).verdict == "FAIL"
