"""Quantized weights take any scale: the sign goes into the codes, the size into the scale, which stays positive."""

from __future__ import annotations

import numpy as np
import onnx
import pytest

import bnfold
from tests.quantized_layers import FORMS, KINDS, codes, layer, middle, require_same, stored

CODES = [*KINDS]


def folded(original: onnx.ModelProto) -> onnx.ModelProto:
    result = bnfold.fold(original)
    assert [kept.not_hoisted.words for kept in result.batch_norms_kept] == []
    require_same(original, result.model)
    values = stored(result.model)
    assert all((values[n.input[1]] > 0).all() for n in result.model.graph.node if n.op_type == "DequantizeLinear")
    return result.model


def kept(original: onnx.ModelProto) -> tuple[str, str]:
    result = bnfold.fold(original)
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
    assert not bnfold.fold(original, freeze_initializers=True).batch_norms_kept


def test_integers_of_the_data_are_not_turned():
    original = layer("conv")
    del original.graph.initializer[0]
    original.graph.input.append(onnx.helper.make_tensor_value_info("q", onnx.TensorProto.INT8, [6, 4, 3, 3]))
    assert kept(original) == ("NEGATIVE_SCALE", "the scale of DequantizeLinear 'dq' has to stay positive")


def test_codes_are_turned_before_they_are_gathered():
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
