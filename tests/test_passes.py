"""`bnfold.passes`: the fold among passes of onnx_ir."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper

import bnfold
from bnfold.errors import CheckFailed, ModelProblem
from tests.build import BN, assert_same, bn, build
from tests.data import data_path
from tests.test_cli import conv_bn, single

ir = pytest.importorskip("onnx_ir")
common = pytest.importorskip("onnx_ir.passes.common")
FoldBatchNormalization = bnfold.passes.FoldBatchNormalization

TWO = f"c = Conv(X, W) n = {BN('c', 'p')} r = Relu(n) d = Conv(r, V) Y = Relu(d)"
SIZES = {"W": (4, 3, 3, 3), "V": (4, 4, 3, 3), **bn("p", 4)}


def two_convs() -> onnx.ModelProto:
    """Conv -> BatchNormalization -> Relu -> Conv -> Relu, whose nodes have names."""
    model = single(build(TWO, "X[N,3,8,8]", "Y[N,4,4,4]", SIZES))
    for node, name in zip(model.graph.node, ("first", "norm", "relu", "second", "last"), strict=True):
        node.name = name
    return model


def names(model) -> list[str]:
    return [node.op_type for node in model.graph]


def test_a_model_is_folded_in_place_and_the_pass_says_so():
    model, fold = ir.from_proto(two_convs()), FoldBatchNormalization()
    done = fold(model)
    assert done.model is model
    assert done.modified
    assert names(model) == ["Conv", "Relu", "Conv", "Relu"]
    graph = model.graph
    again = fold(model)
    assert not again.modified
    assert again.model.graph is graph
    assert [len(result.folded) for result in fold.results] == [1, 0]
    assert fold.results[0].verification.grade == "proved"


@pytest.mark.parametrize(
    "name",
    ["polygraphy_residual_block", "ultraface_slim320_nopost", "gtcrn_stream_simple", "ppocr_v2_cls", "fsanet_1x1"],
)
def test_what_is_not_folded_is_as_it_was(name):
    """The model that is folded as an object of onnx_ir is the one that is folded as a message."""
    model = ir.load(data_path("onnx", f"{name}.onnx"))
    message = ir.serde.serialize_model(model)
    FoldBatchNormalization(verify=False)(model)
    folded = bnfold.fold(message, verify=False).model
    expected = ir.serde.serialize_model(ir.serde.deserialize_model(folded))
    assert ir.serde.serialize_model(model) == expected
    assert expected.graph.node == folded.graph.node


def test_tensors_that_did_not_change_are_the_same_objects(tmp_path):
    onnx.save(two_convs(), tmp_path / "m.onnx", save_as_external_data=True, size_threshold=0, location="m.data")
    model = ir.load(tmp_path / "m.onnx")
    before = {name: value.const_value for name, value in model.graph.initializers.items()}
    FoldBatchNormalization()(model)
    after = {name: value.const_value for name, value in model.graph.initializers.items()}
    assert after["V"] is before["V"]
    assert isinstance(after["V"], ir.ExternalTensor)
    assert after["W"] is not before["W"]
    ir.save(model, tmp_path / "f.onnx")
    assert_same(two_convs(), onnx.load(tmp_path / "f.onnx"), tolerance=1e-5)


def test_what_passes_noted_stays_with_its_node_and_value():
    model = ir.from_proto(two_convs())
    model.meta["of"], model.graph.meta["of"] = "model", "graph"
    for node in model.graph:
        node.meta["of"] = node.name
        node.outputs[0].meta["of"] = node.outputs[0].name
    FoldBatchNormalization()(model)
    assert (model.meta["of"], model.graph.meta["of"]) == ("model", "graph")
    assert [node.meta["of"] for node in model.graph] == ["first", "relu", "second", "last"]
    assert [node.outputs[0].meta["of"] for node in model.graph] == ["n", "r", "d", "Y"]


def test_nodes_that_share_a_name_do_not_get_notes_of_one_another():
    model = ir.from_proto(two_convs())
    for number, node in enumerate(model.graph):
        node.name = ("", "", "same", "same", "other")[number]
        node.meta["number"] = number
    FoldBatchNormalization(verify=False)(model)
    assert [dict(node.meta) for node in model.graph] == [{}, {}, {}, {"number": 4}]


def test_it_stands_in_a_pass_manager_next_to_others():
    optimizer, rewriter = pytest.importorskip("onnxscript.optimizer"), pytest.importorskip("onnxscript.rewriter")
    fold, model = FoldBatchNormalization(), ir.from_proto(two_convs())
    passes = [
        optimizer._optimizer._constant_folding.FoldConstantsPass(
            shape_inference=True, input_size_limit=1024, output_size_limit=1024
        ),
        fold,
        rewriter.RewritePass(rewriter._DEFAULT_REWRITE_RULES),
        common.RemoveUnusedNodesPass(),
        common.ShapeInferencePass(),
        common.CheckerPass(full_check=True),
    ]
    done = ir.passes.PassManager(passes, steps=3, early_stop=True)(model)
    assert (done.model is model, done.modified) == (True, True)
    assert [len(result.folded) for result in fold.results][:2] == [1, 0]
    assert_same(two_convs(), ir.serde.serialize_model(model), tolerance=1e-5)


def test_functionalized_it_leaves_its_input_as_it_was():
    model = ir.from_proto(two_convs())
    before = ir.serde.serialize_model(model)
    done = ir.passes.functionalize(FoldBatchNormalization())(model)
    assert ir.serde.serialize_model(model) == before
    assert names(done.model) == ["Conv", "Relu", "Conv", "Relu"]


def test_a_fold_that_fails_its_check_leaves_the_model_as_it_was(monkeypatch):
    from bnfold import verification

    real = verification.verify
    monkeypatch.setattr(verification, "verify", lambda original, folded, **k: real(original, wrong(folded), **k))
    model = ir.from_proto(two_convs())
    before = ir.serde.serialize_model(model)
    with pytest.raises(CheckFailed):
        FoldBatchNormalization()(model)
    assert ir.serde.serialize_model(model) == before
    with pytest.raises(ir.passes.PassError) as raised:
        ir.passes.Sequential(FoldBatchNormalization())(model)
    assert isinstance(raised.value.__cause__, CheckFailed)
    assert ir.serde.serialize_model(model) == before
    assert FoldBatchNormalization(verify=False)(model).modified


def wrong(model: onnx.ModelProto) -> onnx.ModelProto:
    model = onnx.ModelProto.FromString(model.SerializeToString())
    (weight,) = (tensor for tensor in model.graph.initializer if tensor.name == "W")
    weight.CopyFrom(numpy_helper.from_array(1.25 * numpy_helper.to_array(weight), "W"))
    return model


def test_a_model_in_training_mode_is_refused_with_the_words_of_fold():
    model = conv_bn(training_mode=1)
    model.graph.node[1].output.extend(["m", "v"])
    with pytest.raises(ModelProblem, match="training"):
        FoldBatchNormalization()(ir.from_proto(model))


def test_overridable_weights_are_frozen_only_when_the_pass_may():
    message = two_convs()
    message.graph.input.append(helper.make_tensor_value_info("W", onnx.TensorProto.FLOAT, (4, 3, 3, 3)))
    message.graph.input.append(helper.make_tensor_value_info("V", onnx.TensorProto.FLOAT, (4, 4, 3, 3)))
    assert not FoldBatchNormalization()(ir.from_proto(message)).modified
    assert FoldBatchNormalization(freeze_initializers=True)(ir.from_proto(message)).modified


def test_functions_with_a_normalization_are_inlined_and_others_stay():
    message = single(build(f"c = Conv(X, W) n = {BN('c', 'p')} Y = Relu(n)", "X[N,3,6,6]", "Y[N,4,4,4]", SIZES))
    opsets = [*message.opset_import]
    norm = helper.make_node("BatchNormalization", ["c", *message.graph.node[1].input[1:]], ["n"])
    message.functions.append(helper.make_function("my", "Norm", norm.input, ["n"], [norm], opsets))
    message.functions.append(
        helper.make_function("my", "Act", ["n"], ["Y"], [helper.make_node("Relu", ["n"], ["Y"])], opsets)
    )
    for node, name in zip(message.graph.node[1:], ("Norm", "Act"), strict=True):
        node.domain, node.op_type = "my", name
    message.opset_import.append(helper.make_opsetid("my", 1))
    model = ir.from_proto(message)
    act = model.functions["my", "Act", ""]
    assert FoldBatchNormalization()(model).modified
    assert names(model) == ["Conv", "Act"]
    assert [*model.functions.values()] == [act]
    assert model.functions["my", "Act", ""] is act


def test_without_onnx_ir_the_error_says_what_to_install():
    code = "import sys; sys.modules['onnx_ir'] = None; import bnfold; bnfold.passes"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 1
    assert "ImportError: bnfold.passes needs the package onnx_ir" in done.stderr
    assert "install onnx-ir`" in done.stderr


def test_tables_of_strings_and_empty_tensors_pass_through():
    message = two_convs()
    message.graph.initializer.append(numpy_helper.from_array(np.array(["a", "b"], object), "words"))
    message.graph.initializer.append(numpy_helper.from_array(np.zeros((0, 3), np.float32), "nothing"))
    model = ir.from_proto(message)
    assert FoldBatchNormalization()(model).modified
    assert model.graph.initializers["words"].const_value.numpy().tolist() == [b"a", b"b"]
    assert model.graph.initializers["nothing"].const_value.shape == [0, 3]
