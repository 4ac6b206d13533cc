"""Ring 7: whole messages are compared, so that nothing bnfold did not mean to change can change."""

from __future__ import annotations

import copy

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from bnfold import load, save
from bnfold.folding.driver import fold
from bnfold.folding.pipeline import Options, fold_file

F = TensorProto.FLOAT


def decorated() -> onnx.ModelProto:
    """Conv, BatchNormalization, Relu, Conv, a custom operator; every field that a message has is set somewhere."""

    def tensor(name, dims, start):
        values = (np.arange(np.prod(dims)) * 0.01 + start).astype(np.float32)
        made = helper.make_tensor(name, F, dims, values)
        made.doc_string = f"about {name}"
        made.metadata_props.add(key="origin", value=name)
        return made

    weight, second = tensor("W", [4, 3, 3, 3], 1), tensor("V", [2, 4, 1, 1], 2)
    parameters = [tensor(name, [4], 0.5) for name in "gbmv"]
    nodes = [
        helper.make_node("Conv", ["X", "W"], ["c"], name="conv", doc_string="line 3"),
        helper.make_node("BatchNormalization", ["c", "g", "b", "m", "v"], ["d"], name="bn"),
        helper.make_node("Relu", ["d"], ["e"], name="relu", doc_string="line 4"),
        helper.make_node("Conv", ["e", "V"], ["i"], name="conv2"),
        helper.make_node("Foo", ["i"], ["Y"], domain="my.dom", overload="v2", name="foo"),
    ]
    for node in nodes:
        node.metadata_props.add(key="scope", value=node.name)
    nodes[4].attribute.append(helper.make_attribute("tensors", [second], doc_string="several"))
    info = helper.make_tensor_value_info
    graph = helper.make_graph(
        nodes,
        "g",
        [info("X", F, ["N", 3, 8, 8])],
        [info("Y", F, None)],
        [weight, second, *parameters, tensor("unused", [1], 0)],
        doc_string="a graph",
        value_info=[info("c", F, ["N", 4, 6, 6], doc_string="c"), info("d", F, ["N", 4, 6, 6], doc_string="d")],
    )
    graph.metadata_props.add(key="classes", value="cat,dog")
    annotation = graph.quantization_annotation.add(tensor_name="e")
    annotation.quant_parameter_tensor_names.add(key="SCALE_TENSOR", value="unused")
    graph.input[0].type.denotation = "IMAGE"
    opsets = [helper.make_opsetid("", 17), helper.make_opsetid("my.dom", 1)]
    model = helper.make_model(graph, opset_imports=opsets, doc_string="a model", domain="org.x", model_version=7)
    model.metadata_props.add(key="author", value="me")
    model.training_info.add().initialization.name = "left alone"
    return model


def test_only_the_edit_shows():
    model = decorated()
    result = fold(model)
    made = {t.name: t for t in result.model.graph.initializer}
    expected = copy.deepcopy(model)  # and now by hand
    graph = expected.graph
    del graph.node[1]
    graph.node[0].input.append("W.bias")
    graph.node[0].output[0] = "d"
    graph.initializer[0].ClearField("float_data")
    graph.initializer[0].raw_data = made["W"].raw_data
    del graph.initializer[2:6]
    graph.initializer.append(made["W.bias"])
    del graph.value_info[0]
    assert result.model == expected
    assert result.model.SerializeToString(deterministic=True) == expected.SerializeToString(deterministic=True)


def test_the_numbers_are_those_of_the_formula():
    model = decorated()
    made = {t.name: numpy_helper.to_array(t) for t in fold(model).model.graph.initializer}
    old = {t.name: numpy_helper.to_array(t).astype(np.float64) for t in model.graph.initializer}
    factor = old["g"] / np.sqrt(old["v"] + np.float64(np.float32(1e-5)))
    np.testing.assert_array_equal(made["W"], (old["W"] * factor[:, None, None, None]).astype(np.float32))
    np.testing.assert_array_equal(made["W.bias"], (old["b"] - factor * old["m"]).astype(np.float32))


def test_nothing_to_fold_is_identical():
    model = decorated()
    del model.graph.node[1]
    model.graph.node[1].input[0] = "c"
    assert fold(model).model.SerializeToString(deterministic=True) == model.SerializeToString(deterministic=True)


def test_a_name_that_is_taken_is_not_taken_again():
    model = decorated()
    model.graph.initializer[-1].name = "W.bias"
    assert "W.bias_1" in {t.name for t in fold(model).model.graph.initializer}
    assert "W.bias" in {t.name for t in fold(model).model.graph.initializer}


def test_a_weight_that_the_graph_returns_is_copied():
    model = decorated()
    model.graph.output.append(helper.make_tensor_value_info("W", F, [4, 3, 3, 3]))
    folded = {t.name: t for t in fold(model).model.graph.initializer}
    assert folded["W"] == model.graph.initializer[0]
    assert "W_1" in folded


def test_saving_and_loading_is_lossless(tmp_path):
    save(decorated(), tmp_path / "m.onnx")
    assert load(tmp_path / "m.onnx") == decorated()
    assert [p.name for p in tmp_path.iterdir()] == ["m.onnx"]


def external(tmp_path) -> onnx.ModelProto:
    """`decorated` without its custom operator, its weights in a data file with room between them."""
    model = decorated()
    del model.graph.node[-1], model.training_info[:], model.graph.quantization_annotation[:]
    model.graph.output[0].CopyFrom(helper.make_tensor_value_info("i", F, ["N", 2, 6, 6]))
    data = bytearray(b"?" * 64)
    for tensor in model.graph.initializer:
        values = numpy_helper.to_array(tensor).tobytes()
        tensor.ClearField("float_data")
        tensor.data_location = TensorProto.EXTERNAL
        place = {"location": "weights.bin", "offset": str(len(data)), "length": str(len(values))}
        for key, value in place.items():
            tensor.external_data.add(key=key, value=value)
        data += values + b"?" * 8
    (tmp_path / "weights.bin").write_bytes(data)
    (tmp_path / "m.onnx").write_bytes(model.SerializeToString())
    return model


@pytest.mark.parametrize("where", [".", "elsewhere"])
def test_external_data_comes_along(tmp_path, where):
    model = external(tmp_path)
    out = tmp_path / where
    out.mkdir(exist_ok=True)
    before = {p.name: p.read_bytes() for p in tmp_path.iterdir() if p.is_file()}
    report = fold_file(tmp_path / "m.onnx", out / "f.onnx", Options(verify="off"))
    assert report.after.batch_normalizations == 0
    assert {name: (tmp_path / name).read_bytes() for name in before} == before
    expected = {t.name: t.raw_data for t in fold(onnx.load(tmp_path / "m.onnx")).model.graph.initializer}
    read = {t.name: numpy_helper.to_array(t).tobytes() for t in onnx.load(out / "f.onnx").graph.initializer}
    assert read == expected
    onnx.checker.check_model(str(out / "f.onnx"), full_check=True)
    assert {t.name: t.doc_string for t in load(out / "f.onnx").graph.initializer}["V"] == model.graph.initializer[
        1
    ].doc_string


def backend_models():
    from onnx.backend.test.loader import load_model_tests

    return [
        (case.name, case.model or onnx.load(f"{case.model_dir}/model.onnx")) for case in load_model_tests(kind="node")
    ]


@pytest.mark.filterwarnings("ignore::RuntimeWarning")  # onnx casts out of range on purpose
def test_every_onnx_backend_model_round_trips():
    """fold either refuses in words, or leaves the interface of the model as it was, and finishes in one call."""
    from bnfold.errors import ModelProblem

    seen = 0
    for name, model in backend_models():
        if "training_mode" in name and "batchnorm" in name:
            with pytest.raises(ModelProblem, match="training mode"):
                fold(model)
            continue
        seen += 1
        result = fold(model)
        if not result.folded:
            assert result.model.SerializeToString(deterministic=True) == model.SerializeToString(deterministic=True), (
                name
            )
        assert [*result.model.graph.input] == [*model.graph.input], name
        assert [*result.model.graph.output] == [*model.graph.output], name
        assert result.model.opset_import == model.opset_import, name
    assert seen > 1000
