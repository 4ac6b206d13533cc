"""Weights that the graph quantizes, as tools for training with quantization export them: float, and codes of them."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper
from onnx.reference import ReferenceEvaluator

from bnfold.folding import driver
from tests.build import operators
from tests.quantized_layers import FORMS, KINDS, layer, middle, require_same, stored

KIND_NAMES = [name for name in KINDS if name not in ("float4_e2m1fn", "uint4", "uint16")]


def codes_of(model: onnx.ModelProto) -> np.ndarray:
    """What the quantizer of a layer makes, by the reference of onnx."""
    quantizer = next(node for node in model.graph.node if node.op_type == "QuantizeLinear")
    tensors = [t for t in model.graph.initializer if t.name in quantizer.input]
    made = [onnx.ValueInfoProto(name=quantizer.output[0])]
    graph = helper.make_graph([quantizer], "g", [], made, tensors)
    small = helper.make_model(graph, opset_imports=model.opset_import, ir_version=10)
    return ReferenceEvaluator(small).run(None, {})[0].astype(np.float64)


def parameters(model: onnx.ModelProto) -> dict[str, list[np.ndarray]]:
    """Scale and zero point of the quantizer and of the DequantizeLinear, by the operator."""
    values = stored(model)
    names = ("QuantizeLinear", "DequantizeLinear")
    return {n.op_type: [values[name] for name in n.input[1:]] for n in model.graph.node if n.op_type in names}


def folded(original: onnx.ModelProto) -> onnx.ModelProto:
    result = driver.fold(original)
    assert [kept.not_hoisted.words for kept in result.batch_norms_kept] == []
    require_same(original, result.model)
    return result.model


@pytest.mark.parametrize("rows", [True, False])
@pytest.mark.parametrize("kind", KIND_NAMES)
@pytest.mark.parametrize("form", FORMS)
def test_weight_and_both_scales_take_the_affine(form, kind, rows):
    original, f = layer(form, kind, rows, in_graph=True), FORMS[form]
    model = folded(original)
    scales = parameters(model)
    before, zero = stored(original), middle(KINDS[kind])
    lie = [-1 if i == f.axis else 1 for i in range(len(f.weight))]
    size = (np.abs(before["g"]) / np.sqrt(before["v"].astype(np.float64) + 1e-5)).astype(np.float64)
    sign = np.sign(before["g"]).reshape(lie)
    np.testing.assert_allclose(scales["QuantizeLinear"][0], size * before["s"], rtol=1e-6)
    assert all(map(np.array_equal, *scales.values()))
    weight = next(v for v in stored(model).values() if v.shape == f.weight)
    np.testing.assert_allclose(weight, before["W"] * size.reshape(lie) * sign, rtol=1e-6)
    assert np.array_equal(codes_of(model), zero + sign * (codes_of(original) - zero))


def with_weight(original: onnx.ModelProto, change) -> onnx.ModelProto:
    """The layer with some other numbers in its float weight."""
    for tensor in original.graph.initializer:
        if tensor.name == "W":
            values = numpy_helper.to_array(tensor).copy()
            change(values, stored(original)["s"])
            tensor.CopyFrom(numpy_helper.from_array(values, "W"))
    return original


def at_ties(values: np.ndarray, scale: np.ndarray) -> None:
    """Numbers half way between two codes, or as near to that as float32 comes."""
    halves = np.random.default_rng(3).integers(-100, 100, values.shape) + 0.5
    values[:] = halves * scale.reshape(-1, 1, 1, 1)
    values[:, 1] = np.nextafter(values[:, 1], np.float32(np.inf))


def test_where_rounding_would_make_another_code_the_scale_after_it_is_parted():
    original = with_weight(layer(in_graph=True), at_ties)
    model = folded(original)
    before, scales = stored(original), parameters(model)
    assert np.array_equal(scales["QuantizeLinear"][0], before["s"])
    size = np.abs(before["g"]) / np.sqrt(before["v"].astype(np.float64) + 1e-5)
    np.testing.assert_allclose(scales["DequantizeLinear"][0], size * before["s"], rtol=1e-6)
    sign = np.sign(before["g"]).reshape(-1, 1, 1, 1)
    assert np.array_equal(stored(model)["W"], sign * before["W"])
    assert np.array_equal(codes_of(model), sign * codes_of(original))


def test_a_positive_scale_leaves_such_a_weight_as_it_is():
    original = with_weight(layer(in_graph=True, gamma=np.linspace(0.5, 2, 6)), at_ties)
    model = folded(original)
    assert np.array_equal(stored(model)["W"], stored(original)["W"])
    assert not np.array_equal(*(values[0] for values in parameters(model).values()))


def test_a_weight_out_of_range_is_stored_as_codes_where_its_opposite_would_be_cut_off_elsewhere():
    """130 is cut off at 127, -130 at -128: the sign of that weight cannot change before it is quantized."""

    def too_large(values, scale):
        values[:, 0, 0, 0] = 130 * scale

    original = with_weight(layer(in_graph=True, gamma=-np.ones(6)), too_large)
    model = folded(original)
    assert operators(model) == ["DequantizeLinear", "Conv"]
    (made,) = (value for value in stored(model).values() if value.ndim == 4)
    assert np.array_equal(made, -codes_of(original))


def test_a_code_without_an_opposite_refuses():
    def least(values, scale):
        values[:, 0, 0, 0] = -128 * scale

    (left,) = driver.fold(with_weight(layer(in_graph=True, gamma=-np.ones(6)), least)).batch_norms_kept
    assert left.not_hoisted.code == "CODE_RANGE"


def test_a_channel_of_scale_zero_ends_in_the_weight():
    original = layer(in_graph=True, gamma=np.array([0, 1, -1, 2, 0, 1]))
    model = folded(original)
    assert not codes_of(model)[[0, 4]].any()
    assert all((scale > 0).all() for scale, _ in parameters(model).values())


def test_codes_with_another_reader_are_copied():
    original = layer(in_graph=True)
    original.graph.node.append(helper.make_node("DequantizeLinear", ["q", "s", "z"], ["other"], axis=0))
    original.graph.output.append(helper.make_tensor_value_info("other", 1, [6, 4, 3, 3]))
    model = folded(original)
    assert np.array_equal(codes_of(model), codes_of(original))
    assert np.array_equal(stored(model)["W"], stored(original)["W"])


@pytest.mark.parametrize(("gamma", "folds"), [(np.ones(6), True), (-np.ones(6), False)])
def test_codes_that_are_an_output_do_not_change(gamma, folds):
    original = layer(in_graph=True, gamma=gamma)
    original.graph.output.append(helper.make_tensor_value_info("q", onnx.TensorProto.INT8, [6, 4, 3, 3]))
    result = driver.fold(original)
    assert [kept.not_hoisted.code for kept in result.batch_norms_kept] == ["GRAPH_OUTPUT"] * (not folds)
    assert np.array_equal(codes_of(result.model), codes_of(original))


def test_a_weight_with_another_reader_is_copied():
    original = layer(in_graph=True)
    original.graph.node.append(helper.make_node("Identity", ["W"], ["other"]))
    original.graph.output.append(helper.make_tensor_value_info("other", 1, [6, 4, 3, 3]))
    model = folded(original)
    assert np.array_equal(stored(model)["W"], stored(original)["W"])


def test_a_weight_that_callers_may_override_keeps_its_quantizer():
    original = layer(in_graph=True)
    original.graph.input.append(helper.make_tensor_value_info("W", 1, [6, 4, 3, 3]))
    (left,) = driver.fold(original).batch_norms_kept
    assert left.not_hoisted.code == "NEGATIVE_SCALE"
    positive = layer(in_graph=True, gamma=np.linspace(0.5, 2, 6))
    positive.graph.input.append(helper.make_tensor_value_info("W", 1, [6, 4, 3, 3]))
    values = stored(folded(positive))
    assert np.array_equal(values["W"], stored(positive)["W"])
    assert np.array_equal(values["s"], stored(positive)["s"])


def test_a_quantizer_along_another_axis_stays_as_it_is():
    """Its scales are for channels of the data: the scale after it takes the affine alone, and the weight its sign."""
    original = layer(in_graph=True, rows=False)
    quantizer = original.graph.node[0]
    quantizer.input[1:] = ["across", "zeros"]
    scale, zeros = np.float32([0.05, 0.06, 0.04, 0.05]), np.zeros(4, np.int8)
    original.graph.initializer.extend(
        [numpy_helper.from_array(scale, "across"), numpy_helper.from_array(zeros, "zeros")]
    )
    result = driver.fold(original)
    assert not result.batch_norms_kept
    require_same(original, result.model)
    assert np.array_equal(parameters(result.model)["QuantizeLinear"][0], scale)


def test_integers_that_the_graph_quantizes_change_their_sign_as_codes():
    original = layer(in_graph=True, opset=19)
    whole = np.random.default_rng(5).integers(-1, 2, FORMS["conv"].weight).astype(np.int32)
    for tensor in original.graph.initializer:
        if tensor.name == "W":
            tensor.CopyFrom(numpy_helper.from_array(whole, "W"))
    folded(original)


def test_codes_that_a_cast_makes_of_constants_change_their_sign():
    original = layer()
    for tensor in original.graph.initializer:
        if tensor.name == "q":
            tensor.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(tensor).astype(np.float32), "real"))
    original.graph.node.insert(0, helper.make_node("Cast", ["real"], ["q"], to=onnx.TensorProto.INT8))
    folded(original)
