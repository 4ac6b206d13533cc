"""A BatchNormalization before a layer with quantized weights: its scale goes along the other axis of the weight."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper

import bnfold
from bnfold.folding import driver
from tests.quantized_layers import FORMS, layer, require_same, stored

BEFORE = ("conv", "depthwise", "transposed", "gemm", "gemm as it is", "product")


def before(form: str, rows: bool, shift: bool, in_graph: bool = False, opset: int = 0) -> onnx.ModelProto:
    """The layer of `quantized_layers` without padding, after a BatchNormalization."""
    model = layer(form, rows=rows, in_graph=in_graph, opset=opset)
    channels = FORMS[form].x[1]
    rng = np.random.default_rng(3)
    made = {"g": np.array([1.5, -0.5, 2, -1, 0.7, 1][:channels]), "b": shift * rng.standard_normal(channels),
            "m": shift * rng.standard_normal(channels), "v": rng.random(channels) + 0.5}  # fmt: skip
    for tensor in (t for t in model.graph.initializer if t.name in made):
        tensor.CopyFrom(numpy_helper.from_array(np.float32(made[tensor.name]), tensor.name))
    nodes = {node.name: node for node in model.graph.node}
    norm, linear = nodes["bn"], nodes["layer"]
    norm.input[0], norm.output[0] = "x", "n"
    linear.input[0], linear.output[0] = "n", "y"
    kept = [a for a in linear.attribute if a.name != "pads"]
    del linear.attribute[:]
    linear.attribute.extend(kept)
    order = [
        helper.make_node("Relu", ["u"], ["x"]),
        norm,
        *(n for n in model.graph.node if n.name not in ("bn", "layer")),
        linear,
    ]
    copies = [onnx.NodeProto.FromString(node.SerializeToString()) for node in order]
    del model.graph.node[:]
    model.graph.node.extend(copies)
    model.graph.input[0].name = "u"
    return model


@pytest.mark.parametrize("in_graph", [False, True])
@pytest.mark.parametrize("form", BEFORE)
def test_one_scale_becomes_one_for_each_channel_that_enters(form, in_graph):
    original = before(form, rows=False, shift=form != "transposed", in_graph=in_graph)
    result = driver.fold(original)
    assert [kept.not_sunk for kept in result.batch_norms_kept] == []
    values, made = stored(result.model), next(n for n in result.model.graph.node if n.op_type == "DequantizeLinear")
    assert values[made.input[1]].shape == (FORMS[form].x[1],)
    assert (values[made.input[1]] > 0).all()
    copy = onnx.ModelProto.FromString(result.model.SerializeToString())
    for model in (original, copy):
        model.graph.input[0].name = model.graph.node[[n.op_type for n in model.graph.node].index("Relu")].input[0] = (
            "x0"
        )
        rename(model)
    require_same(original, copy)
    assert bnfold.verify(original, copy).passed


def rename(model: onnx.ModelProto) -> None:
    """What the tests feed is called x."""
    for node in model.graph.node:
        node.input[:] = [{"x0": "x", "x": "r"}.get(name, name) for name in node.input]
        node.output[:] = [{"x": "r"}.get(name, name) for name in node.output]
    model.graph.input[0].name = "x"


@pytest.mark.parametrize("form", ["conv", "gemm", "product"])
def test_a_scale_for_each_output_leaves_none_for_inputs(form):
    (kept,) = driver.fold(before(form, rows=True, shift=False)).batch_norms_kept
    assert kept.not_sunk.code == "VARIES"


def test_opsets_without_a_scale_for_each_channel_refuse():
    (kept,) = driver.fold(before("conv", rows=False, shift=False, opset=12)).batch_norms_kept
    assert kept.not_sunk.code == "OLD_OPSET"
