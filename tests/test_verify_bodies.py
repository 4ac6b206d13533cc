"""Verification around bodies (If, and attributes of several graphs), and of inputs that are single numbers."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

import bnfold
from bnfold.errors import ModelProblem
from bnfold.folding import driver
from bnfold.runtime import loading
from bnfold.runtime.distinct_names import NOTE, make_distinct
from bnfold.verification.regions import edited
from tests import nested
from tests.test_wire import parsed

BEFORE = """z = If (c) <
  then_branch = t () => (float[2,3,8,8] p) { p = Relu (x) },
  else_branch = e () => (float[2,3,8,8] q) { q = If (c) <
    then_branch = t2 () => (float[2,3,8,8] r) { r = Neg (x) },
    else_branch = e2 () => (float[2,3,8,8] s) { s = Identity (x) }> }>"""
BEHIND = """y = If (c) <
  then_branch = t3 () => (float[2,4,6,6] u) { u = Relu (n) },
  else_branch = e3 () => (float[2,4,6,6] o) { o = Identity (n) }>"""
BN = "n = BatchNormalization (k, g, b, m, v)"


def weights() -> dict[str, np.ndarray]:
    rng = np.random.default_rng(0)
    return {"w": rng.standard_normal((4, 3, 3, 3)), **{k: rng.random(4) + 0.5 for k in "gbmv"}}


def verified(model: onnx.ModelProto, folder: Path, **options) -> bnfold.Verification:
    result = driver.fold(model)
    assert len(result.batch_norms_folded) == 1
    onnx.save(model, folder / "m.onnx")
    bnfold.save(result.model, folder / "f.onnx")
    return bnfold.verify(folder / "m.onnx", folder / "f.onnx", untouched=result.sites, **options)


def test_a_site_between_bodies_passes_and_a_fault_in_it_does_not(tmp_path: Path) -> None:
    model = parsed(
        f"(float[2,3,8,8] x, bool c) => (float[2,4,6,6] y) {{ {BEFORE} k = Conv (z, w) {BN} {BEHIND} }}", weights()
    )
    found = verified(model, tmp_path, effort="full")
    assert found.passed
    assert {"off", "isolated", "default", "algebra"} == {row[0] for row in found.rows()}
    folded = onnx.load(tmp_path / "f.onnx")
    bias = next(t for t in folded.graph.initializer if list(t.dims) == [4])
    wrong = onnx.numpy_helper.to_array(bias).copy()
    wrong[2] *= 1.01
    bias.CopyFrom(onnx.numpy_helper.from_array(wrong, bias.name))
    onnx.save(folded, tmp_path / "f.onnx")
    assert bnfold.verify(tmp_path / "m.onnx", tmp_path / "f.onnx").verdict == "FAIL"


UNREAD = """a = If (c) <
  then_branch = t () => (float[2,4,6,6] p) { p = Conv (x, w) },
  else_branch = e () => (float[2,4,6,6] q) { q = Conv (x, w) }>"""
LATER = """y = If (c) <
  then_branch = t3 () => (float[2,4,6,6] u) { p = Relu (n) u = Neg (p) },
  else_branch = e3 () => (float[2,4,6,6] o) { d = BatchNormalization (a, g, b, m, v) q = Identity (n) o = Relu (q) }>"""


def test_bodies_that_are_gone_with_their_node_leave_nothing_and_no_other_is_taken_for_them(tmp_path: Path) -> None:
    """The normalization that nobody reads goes into the bodies, which nobody reads then either."""
    model = parsed(
        f"(float[2,3,8,8] x, bool c) => (float[2,4,6,6] y) {{ {UNREAD} k = Conv (x, w) {BN} {LATER} }}", weights()
    )
    result = driver.fold(model)
    assert [node.op_type for node in result.model.graph.node] == ["Conv", "If"]
    assert len(result.model.graph.initializer) == 2
    assert bnfold.verify(model, result.model, untouched=result.sites).passed
    result.model.graph.node[1].attribute[0].g.node[0].op_type = "Abs"
    found = bnfold.verify(model, result.model, untouched=result.sites, levels=["off"])
    assert found.reasons[0] == "not untouched: node 'p' changed"


def test_a_body_may_call_a_tensor_of_its_own_like_one_inside_a_fold_site(tmp_path: Path) -> None:
    """`r` has other values by design in the folded model; the body reads a Constant that has the same name."""
    body = "then_branch = t () => (float[2,3,8,8] p) { r = Constant <value_float = 2.0> () p = Mul (x, r) }"
    before = f"z = If (c) <{body}, else_branch = e () => (float[2,3,8,8] q) {{ q = Identity (x) }}>"
    turned = "s = Transpose <perm = [0, 1, 3, 2]> (z) i = BatchNormalization (s, h, h, h, h)"
    model = parsed(
        f"(float[2,3,8,8] x, bool c) => (float[2,4,6,6] n, float[2,3,8,8] s) "
        f"{{ {before} {turned} r = Transpose <perm = [0, 1, 3, 2]> (i) k = Conv (r, w) {BN} }}",
        {**weights(), "h": np.array([0.5, 1.5, 2.0])},
    )
    result = driver.fold(model)
    assert len(result.batch_norms_folded) == 2
    assert bnfold.verify(model, result.model, untouched=result.sites, effort="full").passed


def test_a_constant_that_only_a_body_reads_makes_its_node_a_fold_site() -> None:
    """A site is judged channel by channel; in the whole tensor a wrong channel of small numbers may not show."""
    then, other = (f"{name} () => (float[2,4,6,6] {name}p) {{ {name}p = Mul (k, {name}w) }}" for name in "te")
    text = f"k = Conv (x, w) y = If (c) <then_branch = {then}, else_branch = {other}>"
    scales = {f"{name}w": np.ones((1, 4, 1, 1)) for name in "te"}
    original = parsed(f"(float[2,3,8,8] x, bool c) => (float[2,4,6,6] y) {{ {text} }}", {**weights(), **scales})
    folded = onnx.ModelProto()
    folded.CopyFrom(original)
    folded.graph.initializer[-1].raw_data = (np.ones(4, np.float32) * 2).tobytes()
    assert edited(original, original) == set()
    assert edited(original, folded) == {"y"}


def test_a_call_of_a_function_that_changed_is_a_fold_site() -> None:
    """`G` calls `F`, of which one scale is 1 % off: in the whole tensor, whose other channels are larger, it is lost."""
    made = []
    for scale in (1e-5, 1.01e-5):
        model = onnx.parser.parse_model(
            '<ir_version: 9, opset_import: ["" : 19, "my" : 1]> g (float[2,3,8,8] x) => (float[2,4,6,6] y) '
            "{ k = Conv (x, w) y = my.G (k) }"
            '<domain: "my", opset_import: ["" : 19, "my" : 1]> G (a) => (b) { i = my.F (a) b = Identity (i) }'
            '<domain: "my", opset_import: ["" : 19]> F (a) => (b) '
            f"{{ v = Constant <value = float[1,4,1,1] {{1.0, 1.0, {scale}, 1.0}}> () b = Mul (a, v) }}"
        )
        model.graph.initializer.append(onnx.numpy_helper.from_array(weights()["w"].astype(np.float32), "w"))
        made.append(model)
    assert edited(made[0], made[0]) == set()
    assert edited(*made) == {"y"}
    assert bnfold.verify(*made).verdict == "FAIL"


@pytest.mark.parametrize("kind", ["float", "double", "bool", "int64", "uint8"])
def test_an_input_may_be_a_single_number(tmp_path: Path, kind: str) -> None:
    model = parsed(
        f"(float[2,3,8,8] x, {kind} c) => (float[2,4,6,6] y, float d) "
        "{ k = Conv (x, w) y = BatchNormalization (k, g, b, m, v) d = Cast <to = 1> (c) }",
        weights(),
    )
    assert verified(model, tmp_path, effort="full").passed


def test_what_several_graphs_of_one_attribute_name_stays(tmp_path: Path) -> None:
    """No runtime knows such an operator: it may return any of these tensors."""
    model = parsed(
        "(float[2,3,8,8] x) => (float[2,4,6,6] n) { k = Conv (x, w) n = BatchNormalization (k, g, b, m, v) }", weights()
    )
    info = helper.make_tensor_value_info("k", TensorProto.FLOAT, [2, 4, 6, 6])
    inner = helper.make_node("If", ["c"], ["i"], then_branch=helper.make_graph([], "t", [], [info]))
    graph = helper.make_graph([inner], "g", [], [helper.make_tensor_value_info("i", TensorProto.FLOAT, None)])
    model.graph.node.append(helper.make_node("Many", ["x"], ["z"], domain="my", bodies=[graph, graph]))
    model.opset_import.append(helper.make_opsetid("my", 1))
    (kept,) = driver.fold(model).batch_norms_kept
    assert kept.not_hoisted.code == "SUBGRAPH"


@pytest.mark.parametrize(
    ("made", "words"),
    [
        (None, "a file of the model is missing"),
        (b"no model", "is not a readable ONNX model"),
        (onnx.ModelProto(ir_version=8).SerializeToString(), "holds no ONNX graph"),
    ],
)
def test_what_verification_cannot_read_is_said(tmp_path: Path, made: bytes | None, words: str) -> None:
    path = tmp_path / "m.onnx"
    if made is not None:
        path.write_bytes(made)
    with pytest.raises(ModelProblem, match=words):
        loading.load_to_run(str(path))


def sharing(inner: float = 3.0, name: str = "k") -> onnx.ModelProto:
    """A body that stores something under the name of a tensor around it, which the other body reads."""
    text = """<ir_version: 8, opset_import: ["" : 17]> g (float[N,3,6,6] x, bool on) => (float[N,4,O,O] y) {
        c = Conv (x, w) n = BatchNormalization (c, s, b, m, v) y = If (on) <
        then_branch = yes () => (float[N,4,O,O] p) { p = Mul (n, inner) },
        else_branch = no () => (float[N,4,O,O] q) { q = Mul (n, k) }> }"""
    made, random = onnx.parser.parse_model(text), np.random.default_rng(0)
    constants = {"w": random.standard_normal((4, 3, 3, 3)), "k": 2.0, **{x: random.random(4) + 0.5 for x in "sbmv"}}
    made.graph.initializer.extend(numpy_helper.from_array(np.float32(c), x) for x, c in constants.items())
    then = made.graph.node[-1].attribute[0].g
    then.node[0].input[1] = name
    then.initializer.append(numpy_helper.from_array(np.float32(inner), name))
    return made


@pytest.mark.parametrize("name", ["k", "own"])
def test_a_body_that_stores_under_a_name_from_around_it_is_not_given_what_another_reads(name: str) -> None:
    original = sharing(name=name)
    found = bnfold.verify(original, bnfold.fold(original).model)
    assert found.passed, found.reasons
    assert any(NOTE in note for note in found.notes) == (name == "k")
    assert not bnfold.verify(original, bnfold.fold(sharing(2.0, name)).model).passed


@pytest.mark.parametrize("seed", [72, 93])
def test_bodies_that_onnxruntime_mixes_up_are_no_fault_of_a_fold(seed: int) -> None:
    model = nested.Maker(seed).model()
    assert bnfold.verify(model, bnfold.fold(model).model).verdict != "FAIL"


def test_names_of_bodies_and_functions_are_changed_in_both_models_alike() -> None:
    pair = [sharing(), sharing(2.0)]
    assert make_distinct(pair)
    one, other = (model.graph.node[-1].attribute[0].g for model in pair)
    assert [*one.node[0].input] == [*other.node[0].input] == ["n", "y/then_branch/k"]
    assert one.initializer[0].name == "y/then_branch/k"
    assert one.output[0].name == one.node[0].output[0] == "y/then_branch/p"
    assert not make_distinct(pair)
