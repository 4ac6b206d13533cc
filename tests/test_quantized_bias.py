"""Biases stored as int32 with the scale of data times weight: sign and size go into them, a shift makes them float."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper

import bnfold
from bnfold.folding import driver
from tests.quantized_layers import FORMS, layer, require_same, stored

NOTE = "quantized biases became floating point: the shift has no exact place among their integers"


def biased(form: str = "conv", rows: bool = True, shift: bool = True) -> onnx.ModelProto:
    """A layer with quantized weight and bias."""
    model = layer(form, rows=rows, shift=shift)
    scale = np.asarray(stored(model)["s"] * np.float32(0.03))
    made = {"bq": np.random.default_rng(5).integers(-5000, 5000, 6).astype(np.int32), "bs": scale}
    model.graph.initializer.extend(numpy_helper.from_array(value, name) for name, value in made.items())
    axis = {"axis": 0} if rows else {}
    node = helper.make_node("DequantizeLinear", ["bq", "bs"], ["bias"], name="dq_bias", **axis)
    nodes = [node, *model.graph.node]
    next(n for n in nodes if n.name == "layer").input.append("bias")
    order = [onnx.NodeProto.FromString(n.SerializeToString()) for n in nodes]
    del model.graph.node[:]
    model.graph.node.extend(order)
    return model


def folded(original: onnx.ModelProto) -> bnfold.FoldResult:
    result = driver.fold(original)
    assert not result.batch_norms_kept
    require_same(original, result.model)
    return result


FORMS_WITH_BIAS = [name for name, form in FORMS.items() if form.operator in ("Conv", "ConvTranspose", "Gemm")]


@pytest.mark.parametrize("rows", [True, False])
@pytest.mark.parametrize("form", FORMS_WITH_BIAS)
def test_without_a_shift_the_integers_stay_and_their_scale_follows_that_of_the_weight(form, rows):
    original = biased(form, rows, shift=False)
    result = folded(original)
    before, after = stored(original), stored(result.model)
    assert np.array_equal(after["bq"], np.sign(before["g"]).astype(int) * before["bq"])
    np.testing.assert_allclose(after["bs"], after["s"] * np.float32(0.03), rtol=3e-7)
    assert result.notes == ()


@pytest.mark.parametrize("rows", [True, False])
@pytest.mark.parametrize("form", FORMS_WITH_BIAS)
def test_a_shift_makes_a_float_bias(form, rows):
    original = biased(form, rows)
    result = folded(original)
    before = stored(original)
    size = before["g"] / np.sqrt(before["v"].astype(np.float64) + 1e-5)
    whole = size * (before["bq"] * before["bs"].astype(np.float64) - before["m"]) + before["b"]
    (node,) = (n for n in result.model.graph.node if n.name == "layer")
    np.testing.assert_allclose(stored(result.model)[node.input[2]].ravel(), whole, rtol=1e-6)
    assert result.notes == (NOTE,)
    assert "bq" not in stored(result.model)


def test_a_quantized_bias_with_another_reader_stays_for_it():
    original = biased()
    original.graph.node.append(helper.make_node("Identity", ["bias"], ["other"]))
    original.graph.output.append(helper.make_tensor_value_info("other", 1, [6]))
    assert np.array_equal(stored(folded(original).model)["bq"], stored(original)["bq"])


def test_a_bias_that_callers_may_override_stays():
    original = biased()
    original.graph.input.append(helper.make_tensor_value_info("bq", onnx.TensorProto.INT32, [6]))
    (left,) = driver.fold(original).batch_norms_kept
    assert (left.not_hoisted.code, left.not_hoisted.words) == (
        "INTEGERS",
        "DequantizeLinear 'dq_bias' reads integers at run time, among which a shift has no exact place",
    )


@pytest.mark.parametrize("shift", [True, False])
def test_onnxruntime_computes_the_folded_layer_in_integers(shift: bool, tmp_path: Path) -> None:
    """A BatchNormalization between Conv and QuantizeLinear keeps it from that."""
    import onnxruntime

    original = biased(shift=shift)
    conv = next(n for n in original.graph.node if n.name == "layer")
    data = ["x", "one_scale", "one_zero"]
    around = [
        helper.make_node("QuantizeLinear", data, ["xq"]),
        helper.make_node("DequantizeLinear", ["xq", *data[1:]], ["xd"]),
    ]
    conv.input[0] = "xd"
    after = [
        helper.make_node("QuantizeLinear", ["y", *data[1:]], ["yq"]),
        helper.make_node("DequantizeLinear", ["yq", *data[1:]], ["z1"]),
    ]
    nodes = [onnx.NodeProto.FromString(n.SerializeToString()) for n in (*around, *original.graph.node, *after)]
    del original.graph.node[:], original.graph.output[:]
    original.graph.node.extend(nodes)
    original.graph.output.append(helper.make_tensor_value_info("z1", 1, [None] * 4))
    numbers = {"one_scale": np.float32(0.03), "one_zero": np.uint8(128)}
    original.graph.initializer.extend(numpy_helper.from_array(np.asarray(v), n) for n, v in numbers.items())

    def operators(model: onnx.ModelProto) -> Counter[str]:
        options = onnxruntime.SessionOptions()
        options.optimized_model_filepath, options.log_severity_level = str(tmp_path / "m.onnx"), 3
        onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
        return Counter(node.op_type for node in onnx.load(tmp_path / "m.onnx").graph.node)

    assert operators(original)["QLinearConv"] == 0
    assert operators(driver.fold(original).model)["QLinearConv"] == 1
