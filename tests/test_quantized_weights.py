"""Quantized weights take any scale: the sign goes into the codes, the size into the scale, which stays positive."""

from __future__ import annotations

import ml_dtypes
import numpy as np
import onnx
import pytest

from bnfold.folding import driver
from bnfold.folding.pipeline import Options, fold_file
from bnfold.verification import verify
from tests.quantized_layers import FORMS, GROUPED, KINDS, Form, codes, layer, middle, require_same, stored

CODES = [*KINDS]


def folded(original: onnx.ModelProto) -> onnx.ModelProto:
    result = driver.fold(original)
    assert [kept.not_hoisted.words for kept in result.batch_norms_kept] == []
    require_same(original, result.model)
    values = stored(result.model)
    assert all((values[n.input[1]] > 0).all() for n in result.model.graph.node if n.op_type == "DequantizeLinear")
    return result.model


def kept(original: onnx.ModelProto) -> tuple[str, str]:
    result = driver.fold(original)
    (left,) = result.batch_norms_kept
    assert result.model.SerializeToString() == original.SerializeToString()
    return left.not_hoisted.code, left.not_hoisted.words


@pytest.mark.parametrize("kind", CODES)
@pytest.mark.parametrize("form", FORMS)
def test_the_sign_goes_into_the_codes(form, kind):
    original = layer(form, kind)
    model, before = folded(original), stored(original)
    after, f = stored(model), FORMS[form]
    sign = np.sign(before["g"]).reshape([-1 if i == f.axis else 1 for i in range(len(f.weight))])
    zero = middle(KINDS[kind])
    assert np.array_equal(after["q"].astype(np.float64), zero + sign * (before["q"].astype(np.float64) - zero))
    assert after["q"].dtype == KINDS[kind]
    assert np.array_equal(after["z"], before["z"])


@pytest.mark.parametrize("kind", ["float8_e4m3fnuz", "float8_e5m2fnuz"])
def test_zero_stays_zero_where_the_other_zero_is_no_number(kind):
    model = folded(layer(kind=kind, values=np.zeros((6, 4, 3, 3)), gamma=-np.ones(6), shift=True))
    assert not stored(model)["q"].view(np.uint8).any()


@pytest.mark.parametrize("kind", ["int8", "int16", "int4"])
def test_a_code_without_an_opposite_refuses(kind):
    original, least = layer(kind=kind), {"int8": -128, "int16": -32768, "int4": -8}[kind]
    values = stored(original)["q"].astype(np.int64)
    values[int(np.argmax(stored(original)["g"] < 0)), 0, 0, 0] = least
    words = f"an integer of DequantizeLinear 'dq' would change its sign, and so leave the range of {kind}"
    assert kept(layer(kind=kind, values=values)) == ("CODE_RANGE", words)
    folded(layer(kind=kind, values=values, gamma=np.ones(6)))  # where the sign stays it may stand


@pytest.mark.parametrize("kind", ["uint8", "uint16", "uint4"])
@pytest.mark.parametrize("zero", [3, [0, 1, 2, 3, 4, 5]])
def test_unsigned_codes_are_mirrored_where_one_has_no_opposite(kind, zero):
    """q -> max - q with z -> max - z, in the channels of negative scale alone."""
    rng = np.random.default_rng(0)
    original = layer(kind=kind, values=codes((6, 4, 3, 3), KINDS[kind], rng, narrow=False), zero=zero)
    before, after = stored(original), stored(folded(original))
    most, negative = {"uint8": 255, "uint16": 65535, "uint4": 15}[kind], before["g"] < 0
    for name in ("q", "z"):
        old, new = (values[name].astype(np.int64) for values in (before, after))
        assert np.array_equal(new[negative], most - old[negative])
        assert np.array_equal(new[~negative], old[~negative])


def test_unsigned_codes_keep_their_zero_point_where_they_can():
    original = layer(kind="uint8")
    before, after = stored(original), stored(folded(original))
    assert np.array_equal(before["z"], after["z"])


@pytest.mark.parametrize("kind", ["int8", "uint8", "float8_e4m3fn"])
def test_a_channel_of_scale_zero_ends_in_its_codes(kind):
    """The scale of the quantization stays what it is, for one of zero is no quantization."""
    gamma = np.array([1, 0, -1, 0.5, 0, 2])
    original = layer(kind=kind, gamma=gamma)
    before, after = stored(original), stored(folded(original))
    dead = gamma == 0
    assert (after["q"][dead].astype(np.float64) == middle(KINDS[kind])).all()
    assert np.array_equal(after["s"][dead], before["s"][dead])


def test_codes_that_others_read_are_copied():
    original = layer(shift=False)
    original.graph.node.append(onnx.helper.make_node("DequantizeLinear", ["q", "s", "z"], ["w2"], axis=0))
    original.graph.node.append(onnx.helper.make_node("Conv", ["x", "w2"], ["other"], pads=[1] * 4))
    original.graph.output.append(onnx.helper.make_tensor_value_info("other", 1, [None] * 4))
    model = folded(original)
    assert np.array_equal(stored(model)["q"], stored(original)["q"])
    assert len([name for name in stored(model) if name.startswith("q")]) == 2


def test_codes_that_callers_may_override_are_not_touched():
    original = layer()
    original.graph.input.append(onnx.helper.make_tensor_value_info("q", onnx.TensorProto.INT8, [6, 4, 3, 3]))
    assert kept(original)[0] == "NEGATIVE_SCALE"
    assert not driver.fold(original, freeze_initializers=True).batch_norms_kept


def test_integers_of_the_data_are_not_turned():
    original = layer("conv")
    del original.graph.initializer[0]
    original.graph.input.append(onnx.helper.make_tensor_value_info("q", onnx.TensorProto.INT8, [6, 4, 3, 3]))
    assert kept(original) == ("NEGATIVE_SCALE", "the scale of DequantizeLinear 'dq' has to stay positive")


def test_codes_are_turned_before_a_Gather_reads_them():
    """A table from which rows are taken as integers."""
    original = layer("table")
    dq, gather, _ = original.graph.node
    gather.input[0], gather.output[0], dq.input[0], dq.output[0] = "q", "row", "row", "c"
    nodes = [gather, dq, original.graph.node[2]]
    order = [onnx.NodeProto.FromString(node.SerializeToString()) for node in nodes]
    del original.graph.node[:]
    original.graph.node.extend(order)
    before, after = stored(original), stored(folded(original))
    assert np.array_equal(after["q"], np.sign(before["g"]).astype(np.int8) * before["q"])


@pytest.mark.parametrize("kind", CODES)
@pytest.mark.parametrize("form", FORMS)
def test_one_scale_for_all_channels_becomes_one_for_each(form, kind):
    original = layer(form, kind, rows=False)
    model, f = folded(original), FORMS[form]
    before, after = stored(original), stored(model)
    (node,) = (node for node in model.graph.node if node.op_type == "DequantizeLinear")
    size = np.abs(before["g"]) / np.sqrt(before["v"].astype(np.float64) + 1e-5)
    np.testing.assert_allclose(after["s"], size * before["s"], rtol=1e-6)
    assert [a.i for a in node.attribute if a.name == "axis"] == [f.axis]
    assert after["z"].tolist() == [before["z"].item()] * f.channels
    assert after["z"].dtype == KINDS[kind]


def test_a_scale_that_is_one_number_in_a_list_becomes_one_for_each():
    original = layer(rows=False)
    for tensor in original.graph.initializer:
        if tensor.name in ("s", "z"):
            tensor.dims[:] = [1]
    assert stored(folded(original))["s"].shape == (6,)


def test_the_sign_alone_needs_no_scale_for_each_channel():
    gamma = np.array([1, -1, 1, -1, 1, -1.0])
    original = layer(rows=False, gamma=gamma)
    for tensor in original.graph.initializer:
        if tensor.name == "v":
            tensor.CopyFrom(onnx.numpy_helper.from_array(np.ones(6, np.float32), "v"))
    assert stored(folded(original))["s"].shape == ()


def test_a_zero_point_for_all_channels_is_mirrored_in_some():
    rng = np.random.default_rng(0)
    values = codes((6, 4, 3, 3), KINDS["uint8"], rng, narrow=False)
    original = layer(kind="uint8", rows=False, values=values, zero=3)
    before, after = stored(original), stored(folded(original))
    assert after["z"].tolist() == np.where(before["g"] < 0, 252, 3).tolist()


@pytest.mark.parametrize("opset", [10, 12])
def test_older_opsets_have_no_scale_for_each_channel(opset):
    words = f"DequantizeLinear 'dq' of opset {opset} has one scale for all channels"
    assert kept(layer(rows=False, opset=opset)) == ("OLD_OPSET", words)
    converted = onnx.version_converter.convert_version(layer(rows=False, opset=opset), 13)
    assert not driver.fold(converted).batch_norms_kept


@pytest.mark.parametrize(
    ("gamma", "folds"), [([1, 2, 3, 1, 2, 3], True), ([1, -2, 3, -1, 2, -3], True), ([1, 2, 3, 4, 5, 6], False)]
)
@pytest.mark.parametrize("rows", [True, False])
def test_groups_of_a_transposed_convolution_have_to_agree(gamma, folds, rows):
    """One scale of its weight is for a channel of every group. Signs may differ: they go into single codes."""
    original = layer("grouped", rows=rows, gamma=gamma)
    for tensor in original.graph.initializer:
        if tensor.name == "v":
            tensor.CopyFrom(onnx.numpy_helper.from_array(np.ones(6, np.float32), "v"))
    if folds:
        folded(original)
    else:
        assert kept(original)[0] == "VARIES"


@pytest.mark.parametrize("axis", [0, 1])
@pytest.mark.parametrize("kind", ["int8", "int4", "float8_e5m2"])
def test_blocks_have_scales_of_their_own(kind, axis):
    """Along the sum, where each channel has several; or along the channels, if those of a block agree."""
    original = layer("gemm as it is", kind, rows=False, opset=21)
    rng, shape = np.random.default_rng(1), (2, 6) if axis == 0 else (4, 3)
    for tensor in original.graph.initializer:
        if tensor.name in ("s", "z"):
            kept_kind = np.float32 if tensor.name == "s" else KINDS[kind]
            values = rng.random(shape) + 0.1 if tensor.name == "s" else np.zeros(shape)
            tensor.CopyFrom(onnx.numpy_helper.from_array(values.astype(np.float32).astype(kept_kind), tensor.name))
        if axis == 1 and tensor.name in "gbmv":
            tensor.CopyFrom(
                onnx.numpy_helper.from_array(
                    np.float32([-1, -1, 2, 2, 3, 3]) ** (2 if tensor.name == "v" else 1), tensor.name
                )
            )
    original.graph.node[0].attribute.extend(
        [onnx.helper.make_attribute("axis", axis), onnx.helper.make_attribute("block_size", 2)]
    )
    folded(original)
    if axis == 1:
        for tensor in original.graph.initializer:
            if tensor.name == "g":
                tensor.CopyFrom(onnx.numpy_helper.from_array(np.float32([-1, 1.5, 2, 2, 3, 3]), "g"))
        words = "it varies along axis 1, on which DequantizeLinear 'dq' has one scale for 2 elements"
        assert kept(original) == ("VARIES", words)


def test_data_keeps_one_scale_for_all_channels():
    """Integers that a run computes: kernels know one scale for those."""
    nodes = [
        onnx.helper.make_node("QuantizeLinear", ["x", "s", "z"], ["q"]),
        onnx.helper.make_node("DequantizeLinear", ["q", "s", "z"], ["d"], name="dq"),
        onnx.helper.make_node("Mul", ["d", "k"], ["y"]),
    ]
    made = {"s": np.float32(0.1), "z": np.uint8(3), "k": np.float32([1, 2, 3, 4]).reshape(4, 1, 1)}
    tensors = [onnx.numpy_helper.from_array(value, name) for name, value in made.items()]
    info = onnx.helper.make_tensor_value_info
    graph = onnx.helper.make_graph(nodes, "g", [info("x", 1, [1, 4, 2, 2])], [info("y", 1, [1, 4, 2, 2])], tensors)
    model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 17)], ir_version=8)
    (left,) = driver.fold(model).kept
    words = "the activation scale of DequantizeLinear 'dq' is per tensor, and the affine varies over channels"
    assert (left.not_hoisted.code, left.not_hoisted.words) == ("INTEGERS", words)


def drawn(seed: int) -> onnx.ModelProto:
    """A layer of any form: kinds, gammas of any sign and zero, zero points, codes without an opposite, opsets."""
    rng = np.random.default_rng(seed)
    form, kind = str(rng.choice([*FORMS, "grouped"])), str(rng.choice(CODES))
    opset = int(rng.choice([12, 13, 19, 21, 23])) if kind in ("int8", "uint8") else 0
    rows, f, dtype = bool(rng.integers(2)) and not 0 < opset < 13, FORMS.get(form, GROUPED), KINDS[kind]
    values = zero = None
    if "int" in kind:
        values = codes(f.weight, dtype, rng, narrow=bool(rng.integers(2)))
        limits = ml_dtypes.iinfo(dtype)
        anywhere = rng.integers(int(limits.min), int(limits.max) + 1, f.weight[f.axis] if rows else ())
        zero = anywhere if rng.random() < 0.4 else None
    gamma = rng.choice([-1.5, -1, 0, 0.5, 1, 2, -0.3], 6)
    return layer(form, kind, rows, gamma, values, zero, opset, seed, in_graph=bool(rng.integers(3) == 0))


@pytest.mark.parametrize("first", range(0, 300, 50))
def test_random_layers_fold_to_the_same_or_say_why_not(first):
    reasons = [refused for seed in range(first, first + 50) for refused in outcome(drawn(seed))]
    assert {*reasons} <= {"CODE_RANGE", "VARIES", "OLD_OPSET", "NO_BIAS", "NOT_CONSTANT"}
    assert len(reasons) < 20


def outcome(original: onnx.ModelProto) -> list[str]:
    """The codes of what is kept; what is folded computes the same, with scales that are positive."""
    result = driver.fold(original)
    require_same(original, result.model)
    values = stored(result.model)
    quantizing = [n for n in result.model.graph.node if n.op_type in ("QuantizeLinear", "DequantizeLinear")]
    assert all((values[node.input[1]] > 0).all() for node in quantizing)
    return [left.not_hoisted.code for left in result.batch_norms_kept]


@pytest.mark.parametrize("external", [False, True])
@pytest.mark.parametrize("kind", ["int4", "uint8", "float8_e4m3fn"])
def test_large_codes_are_computed_when_the_file_is_written(kind, external, tmp_path, monkeypatch):
    """Packed, where they are of less than a byte; and where their data file was."""
    monkeypatch.setitem(FORMS, "large", Form("Conv", (1, 64, 9, 9), (6, 64, 10, 10), 0, {"pads": [5] * 4}))
    original = layer("large", kind, rows=False)
    onnx.save(original, tmp_path / "m.onnx", save_as_external_data=external, location="m.data", size_threshold=99)
    fold_file(tmp_path / "m.onnx", tmp_path / "f.onnx", Options(verify="off"))
    require_same(layer("large", kind, rows=False), onnx.load(tmp_path / "f.onnx"))
    assert (tmp_path / "f.onnx.data").exists() == external


def test_a_batch_normalization_with_quantized_parameters_folds():
    """As onnxruntime's quantizer leaves it: its scale is stored as int8."""
    original = layer()
    stored_scale = {"gq": np.int8([100, -50, 127, -127, 30, 60]), "gs": np.float32(0.01)}
    original.graph.initializer.extend(
        onnx.numpy_helper.from_array(np.asarray(v), name) for name, v in stored_scale.items()
    )
    original.graph.node.insert(0, onnx.helper.make_node("DequantizeLinear", ["gq", "gs"], ["gamma"]))
    original.graph.node[-1].input[1] = "gamma"
    result = driver.fold(original)
    assert [node.op_type for node in result.model.graph.node] == ["DequantizeLinear", "Conv"]
    require_same(original, result.model)
    assert verify(original, result.model, untouched=result.sites).grade == "proved"
