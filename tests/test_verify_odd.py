"""Verification of models of an unusual make: what can be judged is judged, and what cannot be is a sentence."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from bnfold.errors import ModelProblem
from bnfold.folding import driver
from bnfold.model import external, onnx_io
from bnfold.model.messages import all_nodes
from bnfold.runtime import loading
from bnfold.runtime.copies import jittered
from bnfold.verification import Verification, choosing, comparison, self_test, verify
from bnfold.verification.proof import algebra
from bnfold.verification.results import Derived
from tests.test_verify_inputs import parse
from tests.verify_nets import GEMM, run_here

RNG = np.random.default_rng(0)


@pytest.fixture(autouse=True)
def _in_this_process(monkeypatch: pytest.MonkeyPatch) -> None:
    run_here(monkeypatch)


def f32(*shape: int) -> np.ndarray:
    return RNG.standard_normal(shape).astype(np.float32)


def bn(channels: int, prefix: str = "") -> dict[str, np.ndarray]:
    return {prefix + name: np.abs(f32(channels)) + np.float32(0.5) for name in "sbmv"}


def folded(model: onnx.ModelProto, **options: object) -> tuple[onnx.ModelProto, Verification]:
    """What bnfold makes of a model that has something to fold, and what verification says of it."""
    result = driver.fold(model)
    assert result.folded
    return result.model, verify(model, result.model, untouched=result.sites, **options)  # type: ignore[arg-type]


def derived(found: Verification, name: str) -> Derived:
    return next(each for each in found.derived if each.name == name)


# Algebra: what is derived, and why a site is not.


def test_a_site_that_reads_whole_numbers_is_compared_but_not_derived() -> None:
    body = "d = DequantizeLinear (x, e, z) n = BatchNormalization (d, s, t, t, v) y = Relu (n)"
    stored = {"e": np.full(3, 0.1, np.float32), "z": np.zeros(3, np.int8), "t": np.zeros(3, np.float32), **bn(3)}
    _, found = folded(parse(body, "int8[N,3,4,4] x", **stored), effort="full")
    assert found.passed, found.reasons
    assert derived(found, "n").why == "DequantizeLinear 'd' is not linear"
    assert "isolated" not in {level.level for level in found.levels}


def moved_along(between: str = "", last: str = "w2") -> tuple[onnx.ModelProto, onnx.ModelProto]:
    """A factor that was moved from one linear operator to the next by hand, exactly: 2 is a power of two."""
    stored = {"w1": f32(4, 4), "w2": f32(4, 4), "k": np.float32(2), "h": np.float32(0.5)}
    before = parse(f"a = MatMul (x, w1) {between} y = MatMul (a, {last})", "float[N,4] x", **stored)
    after = parse(f"a = MatMul (x, w1) {between} y = MatMul (a, {last})", "float[N,4] x", **stored)
    for name, factor in (("w1", 2), (last, 0.5)):
        tensor = next(t for t in after.graph.initializer if t.name == name)
        tensor.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(tensor) * np.float32(factor), name))
    return before, after


def test_a_factor_that_was_moved_from_one_product_to_the_next_is_derived() -> None:
    found = verify(*moved_along())
    assert found.passed, found.reasons
    assert derived(found, "y").proved
    before, after = moved_along()
    tensor = next(t for t in after.graph.initializer if t.name == "w2")
    tensor.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(tensor) * np.float32(1.001), "w2"))
    assert verify(before, after).verdict == "FAIL"


def test_weights_that_are_summed_twice_are_not_derived_but_compared() -> None:
    """The channels between two products in another order: no scale and shift of each channel is that."""
    before, after = moved_along()
    for name, factor, order in (("w1", 0.5, np.s_[:, [1, 0, 3, 2]]), ("w2", 2, np.s_[[1, 0, 3, 2]])):
        tensor = next(t for t in after.graph.initializer if t.name == name)
        swapped = numpy_helper.to_array(tensor)[order] * np.float32(factor)
        tensor.CopyFrom(numpy_helper.from_array(swapped, name))
    found = verify(before, after)
    assert found.passed, found.reasons
    assert "sums what another one summed" in derived(found, "y").why


def test_what_multiplies_data_by_data_is_not_derived_but_compared() -> None:
    stored = {"k": np.float32([2, 3]), "j": np.float32([0.5, 4])}
    before = parse("p = Mul (x, k) q = Mul (p, x) y = Mul (q, j)", "float[N,2] x", **stored)
    after = parse("p = Mul (x, k) y = Mul (p, x)", "float[N,2] x", k=stored["k"] * stored["j"])
    found = verify(before, after)
    assert found.passed, found.reasons
    assert "multiplies tensors that both depend on data" in derived(found, "y").why


def test_one_branch_is_fed_while_the_other_is_silent() -> None:
    body = "t = Conv (a, w) u = Conv (x, w2) z = Add (t, u) y = BatchNormalization (z, s, b, m, v)"
    model = parse(body, "float[N,3,8,8] a, float[N,2,8,8] x", w=f32(4, 3, 3, 3), w2=f32(4, 2, 3, 3), **bn(4))
    _, found = folded(model)
    assert found.passed, found.reasons
    assert all(each.proved for each in found.derived), found.derived


def test_a_site_after_a_tensor_that_was_turned_is_derived_element_by_element() -> None:
    body = "n = BatchNormalization (x, s, o, o, v) t = Transpose <perm = [0,2,1]> (n) y = MatMul (t, w)"
    made, found = folded(parse(body, "float[N,4,6] x", w=f32(4, 5), o=np.zeros(4, np.float32), **bn(4)))
    assert found.passed, found.reasons
    assert [node.op_type for node in made.graph.node][:2] == ["Transpose", "MatMul"]
    assert derived(found, "y").proved


def test_a_product_by_as_many_matrices_as_samples_is_derived_element_by_element() -> None:
    stored = {"w": f32(2, 4, 5), "k": np.float32([2, 3, 5, 7, 0.1])}
    before = parse("m = MatMul (x, w) y = Mul (m, k)", "float[2,3,4] x", **stored)
    found = verify(before, parse("y = MatMul (x, w)", "float[2,3,4] x", w=stored["w"] * stored["k"]))
    assert found.passed, found.reasons
    assert derived(found, "y").why or derived(found, "y").exact


def test_of_many_weights_a_share_is_drawn_and_nothing_is_proved(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(algebra.RESPONSES, "fast", 1)
    w = f32(4, 3, 3, 3)
    found = verify(
        parse("c = Conv (x, w) n = Sum (c, c) y = Relu (n)", "float[N,3,8,8] x", w=w),
        parse("n = Conv (x, w) y = Relu (n)", "float[N,3,8,8] x", w=2 * w),
    )
    assert found.passed, found.reasons
    assert 0 < derived(found, "n").share < 1
    assert not derived(found, "n").proved


def test_a_site_that_is_made_for_one_size_of_batch_is_derived_at_this_size() -> None:
    body = "n = BatchNormalization (x, s, b, m, v) r = Reshape (n, d) y = MatMul (r, w)"
    model = parse(body, "float[1,4,6] x", w=f32(24, 5), d=np.array([1, -1]), **bn(4))
    _, found = folded(model)
    assert found.passed, found.reasons
    assert derived(found, "y").exact


# What the numbers are taken from.


def test_constants_that_are_filled_in_the_graph_are_moved_by_rounding_as_well() -> None:
    model = parse("k = ConstantOfShape <value = float[1] {0.1}> (d) y = Mul (x, k)", "float[N,3] x", d=np.array([2, 3]))
    moved = jittered(model, 0)
    (made, _) = moved.graph.node
    values = numpy_helper.to_array(made.attribute[0].t)
    assert (made.op_type, values.shape) == ("Constant", (2, 3))
    np.testing.assert_array_equal(np.abs(values.view(np.int32) - np.float32(0.1).view(np.int32)), 1)
    assert model.graph.node[0].op_type == "ConstantOfShape"


def test_a_batch_that_the_model_does_not_take_becomes_a_batch_of_one() -> None:
    body = "c = Gemm (r, w) n = BatchNormalization (c, s, b, m, v) y = Relu (n)"
    model = parse(f"r = Reshape (x, d) {body}", "float[N,4] x", w=f32(4, 5), d=np.array([1, 4]), **bn(5))
    _, found = folded(model, effort="full")
    assert found.passed, found.reasons
    assert all("batch 1" in case for case in found.levels[0].cases), found.levels[0].cases


def test_a_model_that_never_runs_is_inconclusive() -> None:
    model = parse("r = Reshape (x, d) y = Gemm (r, w)", "float[N,4] x", w=f32(7, 5), d=np.array([1, 7]))
    other = parse("r = Reshape (x, d) y = Gemm (r, w)", "float[N,4] x", w=f32(7, 5), d=np.array([1, 7]))
    found = verify(model, other)
    assert found.verdict == "INCONCLUSIVE"
    assert found.reasons[0].startswith("onnxruntime cannot run the original: ")


def test_an_input_that_is_text_is_inconclusive() -> None:
    def model(k: float) -> onnx.ModelProto:
        return parse("c = Cast <to = 1> (x) y = Mul (c, k)", "string[N,3] x", k=np.float32(k))

    found = verify(model(1), model(2))
    assert found.verdict == "INCONCLUSIVE"
    assert "input 'x' is not a tensor of numbers" in found.reasons[0]


def test_what_the_oracle_cannot_evaluate_on_the_way_is_named() -> None:
    """onnx's reference evaluation finds out when it comes to it."""
    mode = 'coordinate_transformation_mode = "tf_half_pixel_for_nn", mode = "linear"'
    body = f"c = Conv (x, w) n = BatchNormalization (c, s, b, m, v) y = Resize <{mode}> (n, , f)"
    model = parse(body, "float[1,1,3,3] x", w=f32(1, 1, 2, 2), f=np.float32([1, 1, 2, 2]), **bn(1))
    _, found = folded(model)
    assert found.verdict == "INCONCLUSIVE"
    assert found.reasons[0].startswith("the float64 oracle cannot evaluate Resize: ")


def test_outputs_that_are_no_tensors_are_judged_by_what_they_are_made_of() -> None:
    """The dictionaries that classifiers of other tools end in."""
    body = (
        "c = Gemm (x, w) n = BatchNormalization (c, s, b, m, v) p = Softmax (n) "
        "y = ai.onnx.ml.ZipMap <classlabels_int64s = [0,1,2]> (p) l = ArgMax <axis = 1> (p)"
    )
    model = parse(body, "float[N,4] x", "int64 l, seq(map(int64, float)) y", w=f32(4, 3), **bn(3))
    model.opset_import.append(helper.make_opsetid("ai.onnx.ml", 1))
    made, found = folded(model)
    assert found.passed, found.reasons
    weight = next(t for t in made.graph.initializer if list(t.dims) == [4, 3])
    weight.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(weight) * np.float32(1.001), weight.name))
    assert verify(model, made).verdict == "FAIL"


def deep(layers: int) -> onnx.ModelProto:
    body = " ".join(f"c{i} = Relu ({f'c{i - 1}' if i else 'n'})" for i in range(layers))
    head = "g = Gemm (x, w) n = BatchNormalization (g, s, b, m, v)"
    return parse(f"{head} {body} y = Gemm (c{layers - 1}, w2)", "float[N,8] x", w=f32(8, 8), w2=f32(8, 3), **bn(8))


def test_of_a_large_model_fewer_inputs_and_fewer_tensors_are_taken_and_it_says_so(monkeypatch) -> None:  # type: ignore[no-untyped-def]
    monkeypatch.setitem(comparison.WORK, "full", 1)
    monkeypatch.setitem(choosing.ELEMENTS, "full", 3 * choosing.ALONE)
    model = deep(12)
    _, found = folded(model, effort="full")
    assert found.passed, found.reasons
    assert any("inputs were used, to save time" in note for note in found.notes)
    assert any("tensors between the sites one in" in note for note in found.notes)
    assert len(found.levels[0].cases) == 1
    assert {"n", "y"} <= {tensor.name for tensor in found.levels[0].tensors}
    assert len(found.levels[0].tensors) < 14


# What is wrong is said in words.


def test_an_output_of_another_shape_is_said() -> None:
    before = parse("y = Mul (x, k)", "float[N,3] x", k=np.float32([1, 2, 3]))
    after = parse("y = Mul (x, k)", "float[N,3] x", k=np.float32([[[1, 2, 3]]]))
    found = verify(before, after)
    assert found.verdict == "FAIL"
    assert any("its type or shape changed: float32[2, 3] became float32[1, 2, 3]" in reason for reason in found.reasons)


def test_whole_numbers_that_are_wrong_are_said() -> None:
    weights = f32(6, 9)
    before = parse("g = Gemm (x, w) y = ArgMax <axis = 1> (g)", "float[N,6] x", "int64 y", w=weights)
    after = parse("g = Gemm (x, w) y = ArgMax <axis = 1> (g)", "float[N,6] x", "int64 y", w=weights[:, ::-1].copy())
    found = verify(before, after)
    assert found.verdict == "FAIL"
    assert any("integers are wrong" in reason for reason in found.reasons)


def test_a_name_that_is_defined_twice_is_said() -> None:
    model = GEMM.original(GEMM.weights(0))
    twice = GEMM.folded(GEMM.fold(GEMM.weights(0)))
    twice.graph.initializer.append(twice.graph.initializer[0])
    found = verify(model, twice)
    assert found.verdict == "FAIL"
    assert "the name 'w' is defined more than once" in "; ".join(found.reasons)


def test_before_ir_version_4_no_initializer_can_be_overridden_and_none_is_missed() -> None:
    weights = GEMM.weights(0)
    before, after = GEMM.original(weights), GEMM.folded(GEMM.fold(weights))
    for model in (before, after):
        model.ir_version = 3
        for tensor in model.graph.initializer:
            model.graph.input.append(helper.make_tensor_value_info(tensor.name, tensor.data_type, tensor.dims))
    found = verify(before, after)
    assert found.passed, found.reasons


def test_a_way_that_was_not_run_is_a_row_and_a_check() -> None:
    model = parse("r = Reshape (x, d) y = Gemm (r, w)", "float[N,4] x", w=f32(4, 5), d=np.array([-1, 4]))
    broken = parse("r = Reshape (x, d) y = Gemm (r, w)", "float[N,4] x", w=f32(7, 5), d=np.array([1, 7]))
    found = verify(model, broken)
    assert found.verdict == "FAIL"
    (level, *_) = found.levels
    assert level.row()[4] == "not run"
    assert (level.check().outcome, level.check().words) == ("failure", level.why)


# Parts.


def test_nodes_in_bodies_in_functions_are_nodes() -> None:
    inner = helper.make_graph(
        [helper.make_node("Relu", ["x"], ["r"])], "b", [], [helper.make_tensor_value_info("r", TensorProto.FLOAT, None)]
    )
    choice = helper.make_node("If", ["c"], ["y"], then_branch=inner, else_branch=inner)
    model = parse("y = my.F (x, c)", "float[2] x, bool c")
    model.functions.append(helper.make_function("my", "F", ["x", "c"], ["y"], [choice], [helper.make_opsetid("", 17)]))
    assert [node.op_type for node in all_nodes(model)] == ["F", "If", "Relu", "Relu"]


def test_a_copy_that_protobuf_cannot_hold_is_given_as_a_file(tmp_path: Path) -> None:
    class Large(onnx.ModelProto.__bases__[0]):  # type: ignore[misc, name-defined]
        """Stands for a model of more than 2 GiB."""

    model = GEMM.original(GEMM.weights(0))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(loading, "bytes", lambda data: (_ for _ in ()).throw(ValueError("too large")), raising=False)
        patch.setattr(onnx_io, "LIMIT", model.ByteSize())
        patch.setattr(external, "DETACHED_FROM", 100)
        before = model.SerializeToString()
        where = loading.for_onnxruntime(model, str(tmp_path))
    assert model.SerializeToString() == before  # it lost its weights
    assert Path(f"{where}.data").exists()
    again = onnx.load(str(where))
    assert len(again.graph.initializer) == len(model.graph.initializer)
    assert again.graph.node == model.graph.node


def test_a_self_test_of_a_site_of_one_channel_without_a_bias() -> None:
    stored = {"w": f32(6, 1), "s": np.float32([1.5]), "zero": np.zeros(1, np.float32), "v": np.float32([0.3])}
    model = parse("c = MatMul (x, w) y = BatchNormalization (c, s, zero, zero, v)", "float[N,6] x", **stored)
    made = driver.fold(model).model
    found = self_test(model, made)
    assert found.passed
    assert {p.fault for p in found.planted if p.size is None} == {"epsilon forgotten"}
    assert len(found.rows()) == len(found.planted)


@pytest.mark.parametrize("places", [("output",), ("input",), ("input", "output")])
def test_inputs_and_outputs_of_unknown_rank_are_folded_and_verified(places: tuple[str, ...]) -> None:
    """ONNX allows them, and onnxruntime runs them; onnx's checker does not."""
    body = "c = Conv (x, w)  n = BatchNormalization (c, s, b, m, v)  y = Relu (n)"
    model = parse(body, outputs="float[N,4,a,d] y", w=f32(4, 3, 3, 3), **bn(4))
    for place in places:
        getattr(model.graph, place)[0].type.tensor_type.ClearField("shape")
    assert folded(model)[1].passed


@pytest.mark.parametrize("places", [[0, 2, 3], [[0, 0], [0, 2], [1, 0]]], ids=["row-major", "one row each"])
def test_a_sparse_initializer_is_compared_as_the_tensor_that_it_is(places: list[Any]) -> None:
    """onnx's reference reads none."""
    text = '<ir_version: 9, opset_import: ["" : 19]> g (float[5,2] x) => (float[5,3] y) { k = MatMul (x, w) y = Mul (k, s) }'
    models = []
    for scale in (1.0, 1.0 + 1e-5):
        model = onnx.parser.parse_model(text)
        numbers = numpy_helper.from_array(np.array([1.0, 3.0, scale], np.float32), "w")
        model.graph.sparse_initializer.append(
            helper.make_sparse_tensor(numbers, numpy_helper.from_array(np.array(places), ""), [2, 3])
        )
        model.graph.initializer.append(numpy_helper.from_array(np.array([1.0, 2.0, 3.0], np.float32), "s"))
        models.append(model)
    same = onnx.ModelProto()
    same.CopyFrom(models[0])
    same.graph.node[1].name = "other"
    assert verify(models[0], same, effort="full").passed
    assert verify(*models).verdict == "FAIL"


def test_tensors_of_a_sequence_may_have_different_shapes() -> None:
    """As PyTorch writes a split into parts of several lengths, where it does not optimize the graph."""
    body = """k = Conv (x, w) n = BatchNormalization (k, s, m, b, v) p = SplitToSequence <axis=1> (n, l)
        first = SequenceAt (p, zero) second = SequenceAt (p, one)
        y = Relu (second) z = Sigmoid (first) o = Concat <axis=1> (z, y)"""
    stored = {"w": f32(3, 2, 1, 1), "l": np.array([1, 2]), "zero": np.array(0), "one": np.array(1), **bn(3)}
    _, found = folded(parse(body, "float[N,2,4,4] x", outputs="float[N,3,4,4] o", **stored), effort="full")
    assert found.passed, found.reasons


@pytest.mark.parametrize("which", [0, 1])
def test_numbers_that_do_not_fit_their_shape_are_a_problem_of_the_file(which: int) -> None:
    text = '<ir_version: 8, opset_import: ["" : 17]> g (float[N,3,6,6] x) => (float[N,4,4,4] y) { y = Conv (x, w) }'
    pair = [onnx.parser.parse_model(text) for _ in range(2)]
    for made in pair:
        made.graph.initializer.append(numpy_helper.from_array(np.ones((4, 3, 3, 3), np.float32), "w"))
    pair[which].graph.initializer[0].raw_data = b"123"
    with pytest.raises(ModelProblem, match="the values of 'w' cannot be read"):
        verify(*pair)
