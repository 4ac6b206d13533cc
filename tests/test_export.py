"""Export: every BatchNormalization a node, and the file is the network."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from torch import nn

from bnfold.errors import BnfoldError, CheckFailed, ModelProblem, UsageProblem
from bnfold.train import Interrupted, TrainOptions, TrainResult, runs, to_onnx, train
from bnfold.train.data import load_dataset
from bnfold.train.export import ExportResult, export
from bnfold.train.pixels import Normalization
from bnfold.train.runs import VERSION


def trained(folder: Path, **options: Any) -> TrainResult:
    return train(TrainOptions(**{"steps": 60, "out": folder / "run"} | options))


@pytest.fixture(scope="module")
def convnet(tmp_path_factory: pytest.TempPathFactory) -> TrainResult:
    return trained(tmp_path_factory.mktemp("convnet"))


@pytest.fixture(scope="module")
def mlp(tmp_path_factory: pytest.TempPathFactory) -> TrainResult:
    return trained(tmp_path_factory.mktemp("mlp"), arch="mlp")


@pytest.fixture(scope="module")
def exported(convnet: TrainResult) -> ExportResult:
    return export(convnet.run, convnet.run.parent / "digits.onnx")


@pytest.fixture
def copy(mlp: TrainResult, tmp_path: Path) -> Path:
    """A run to damage."""
    return Path(shutil.copytree(mlp.run, tmp_path / "copy"))


def operators(path: Path) -> list[str]:
    return [node.op_type for node in onnx.load(path).graph.node]


def test_every_batch_norm_of_the_convnet_is_a_node(exported: ExportResult) -> None:
    stage = ["Conv", "Conv", "Concat", "BatchNormalization", "Relu"]
    assert operators(exported.path) == [*stage, *stage, *stage, "ReduceMean", "Reshape", "Gemm"]
    assert (exported.batch_norms, exported.nodes, exported.opset) == (3, 18, 20)
    assert exported.bytes == exported.path.stat().st_size


def test_every_batch_norm_of_the_mlp_follows_a_gemm(mlp: TrainResult, tmp_path: Path) -> None:
    result = export(mlp.run, tmp_path / "mlp.onnx")
    hidden = ["Gemm", "BatchNormalization", "Sigmoid"]
    assert operators(result.path) == ["Reshape", *hidden, *hidden, *hidden, "Gemm"]
    assert result.batch_norms == 3


def test_batch_norms_hold_the_population_statistics_under_their_own_names(
    convnet: TrainResult, exported: ExportResult
) -> None:
    model = onnx.load(exported.path)
    stored = {tensor.name: onnx.numpy_helper.to_array(tensor) for tensor in model.graph.initializer}
    statistics = runs.load_checkpoint(convnet.run).statistics
    assert len(statistics) == 6
    assert all(np.array_equal(stored[name], value.numpy()) for name, value in statistics.items())
    inputs = [name for node in model.graph.node for name in node.input if name in stored]
    assert len(inputs) == len(set(inputs)), "no two nodes share an initializer"


def norms(model: onnx.ModelProto) -> list[onnx.NodeProto]:
    return [node for node in model.graph.node if node.op_type == "BatchNormalization"]


def test_batch_norms_are_called_as_their_modules(exported: ExportResult) -> None:
    assert [node.name for node in norms(onnx.load(exported.path))] == ["stage1.norm", "stage2.norm", "stage3.norm"]


def test_no_two_nodes_have_one_name() -> None:
    """Not where a BatchNorm is used twice, nor where a module is called as some other node is."""
    shared = nn.BatchNorm1d(4)
    net = nn.Sequential(nn.Linear(4, 4), shared, nn.ReLU(), shared, nn.Linear(4, 3)).eval()
    names = [node.name for node in to_onnx.converted(net, (4,), 20, {}).graph.node]
    assert len(names) == len({*names}) == 5
    assert "3" in names, "of its two places PyTorch names the last"
    net = nn.Sequential()
    net.add_module("node_relu", nn.BatchNorm1d(4))
    net.add_module("act", nn.ReLU())
    names = [node.name for node in to_onnx.converted(net.append(nn.Linear(4, 3)).eval(), (4,), 20, {}).graph.node]
    assert names[1] == "node_relu", "what PyTorch calls it"
    assert len({*names}) == 3


def test_a_deployer_gets_the_accuracy_of_the_run_from_the_file_alone(
    convnet: TrainResult, exported: ExportResult
) -> None:
    session = onnxruntime.InferenceSession(exported.path, providers=["CPUExecutionProvider"])
    properties = session.get_modelmeta().custom_metadata_map
    normalize = Normalization.from_stored(json.loads(properties["bnfold.normalization"]))
    test = load_dataset("digits", None).test
    logits = session.run(None, {"image": normalize(test.images)})[0]
    record = json.loads(properties["bnfold.training"])
    assert np.mean(logits.argmax(1) == test.labels) == convnet.accuracy == record["accuracy"]
    assert json.loads(properties["bnfold.classes"]) == list("0123456789")
    assert record["steps"] == 60
    assert record["statistics"] == "sequential"


def test_the_comparison_is_with_the_file_as_it_is(exported: ExportResult) -> None:
    level = to_onnx._session(exported.path).get_session_options().graph_optimization_level
    assert level == onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL, (
        "else onnxruntime folds BatchNormalization first"
    )


def test_the_batch_is_free(exported: ExportResult) -> None:
    session = onnxruntime.InferenceSession(exported.path, providers=["CPUExecutionProvider"])
    x = np.random.default_rng(0).standard_normal((9, 1, 8, 8)).astype(np.float32)
    whole = session.run(None, {"image": x})[0]
    single = np.concatenate([session.run(None, {"image": x[i : i + 1]})[0] for i in range(9)])
    np.testing.assert_allclose(whole, single, atol=1e-5)


def test_the_file_is_alone_and_says_nothing_of_this_machine(exported: ExportResult) -> None:
    assert {path.name for path in exported.path.parent.iterdir()} == {"run", "digits.onnx"}
    content = exported.path.read_bytes()
    assert not any(word in content for word in (b"site-packages", b".py", str(exported.path.parent).encode()))


def test_exporting_twice_gives_the_same_bytes(convnet: TrainResult, exported: ExportResult, tmp_path: Path) -> None:
    assert export(convnet.run, tmp_path / "again.onnx").path.read_bytes() == exported.path.read_bytes()


@pytest.mark.parametrize("opset", [18])
def test_the_opset_of_the_options_is_that_of_the_file(mlp: TrainResult, tmp_path: Path, opset: int) -> None:
    result = export(mlp.run, tmp_path / "mlp.onnx", opset=opset)
    assert [entry.version for entry in onnx.load(result.path).opset_import] == [opset]
    assert result.batch_norms == 3


def test_float16(convnet: TrainResult, tmp_path: Path) -> None:
    result = export(convnet.run, tmp_path / "half.onnx", dtype="float16")
    model = onnx.load(result.path)
    floats = [t for t in model.graph.initializer if t.data_type != onnx.TensorProto.INT64]
    assert {t.data_type for t in floats} == {onnx.TensorProto.FLOAT16}
    assert model.graph.input[0].type.tensor_type.elem_type == onnx.TensorProto.FLOAT16
    assert result.batch_norms == 3
    assert 1e-5 < result.worst_error < 1e-1


def test_a_network_without_batch_norm(tmp_path: Path) -> None:
    run = trained(tmp_path, arch="mlp", batch_norm=False, steps=5).run
    assert export(run, tmp_path / "plain.onnx").batch_norms == 0


def test_the_checkpoint_file_names_its_run_too(mlp: TrainResult, tmp_path: Path) -> None:
    assert export(mlp.run / runs.CHECKPOINT, tmp_path / "mlp.onnx").run == mlp.run


def test_the_newest_run_is_the_default(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UsageProblem, match="there is no run under"):
        export(None, Path("x.onnx"))
    for seed in (0, 1):
        train(TrainOptions(arch="mlp", steps=1, seed=seed, out=Path("runs") / str(seed)))
    assert export(None, Path("x.onnx")).run == Path("runs/1")


REQUESTS: dict[str, tuple[dict[str, Any], type[BnfoldError], str]] = {
    "opset 15, which PyTorch turns into 18": ({"opset": 15}, UsageProblem, "cannot export opset 15: it is too old"),
    "opset 99, which PyTorch turns into 18": ({"opset": 99}, UsageProblem, "cannot export opset 99: it is too new"),
    "dtype": ({"dtype": "int8"}, UsageProblem, "unknown dtype"),
    "no run": ({"run": Path("nowhere")}, ModelProblem, "nowhere is not a run"),
    "folder": ({"out": Path()}, UsageProblem, "is a folder"),
    "no folder": ({"out": Path("nowhere") / "x.onnx"}, UsageProblem, "there is no folder nowhere"),
}


@pytest.mark.parametrize(("changed", "kind", "words"), REQUESTS.values(), ids=REQUESTS.keys())
def test_a_request_that_cannot_be_met_leaves_nothing(
    mlp: TrainResult,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    changed: dict[str, Any],
    kind: type[BnfoldError],
    words: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(kind, match=words):
        export(**{"run": mlp.run, "out": Path("x.onnx")} | changed)
    assert list(tmp_path.iterdir()) == []


def test_an_existing_file_stays_unless_forced(mlp: TrainResult, tmp_path: Path) -> None:
    out = tmp_path / "x.onnx"
    out.write_text("precious")
    with pytest.raises(UsageProblem, match="exists") as caught:
        export(mlp.run, out)
    assert "--force" in caught.value.hint
    assert out.read_text() == "precious"
    assert export(mlp.run, out, force=True).bytes > 1000


def test_an_unfinished_run_is_refused(tmp_path: Path) -> None:
    def stop(event: object) -> None:
        raise KeyboardInterrupt

    with pytest.raises(Interrupted):
        train(TrainOptions(arch="mlp", steps=5, out=tmp_path / "run"), stop)
    with pytest.raises(ModelProblem, match="is not finished") as caught:
        export(tmp_path / "run", tmp_path / "x.onnx")
    assert "--resume" in caught.value.hint


def edit(run: Path, **changed: Any) -> None:
    torch.save({"version": VERSION, **vars(runs.load_checkpoint(run)) | changed}, run / runs.CHECKPOINT)


def test_a_checkpoint_of_another_architecture(copy: Path, convnet: TrainResult, tmp_path: Path) -> None:
    shutil.copy(convnet.run / runs.CHECKPOINT, copy / runs.CHECKPOINT)
    with pytest.raises(ModelProblem, match="the weights of another architecture than mlp"):
        export(copy, tmp_path / "x.onnx")


def test_a_checkpoint_of_an_unknown_architecture(copy: Path, tmp_path: Path) -> None:
    text = (copy / "config.json").read_text()
    (copy / "config.json").write_text(text.replace('"mlp"', '"resnet-999"'))
    with pytest.raises(ModelProblem, match="architecture unknown here: resnet-999"):
        export(copy, tmp_path / "x.onnx")


def test_a_checkpoint_whose_weights_are_no_weights(copy: Path, tmp_path: Path) -> None:
    for model in ({}, {"output.weight": 3}):
        edit(copy, model=model)
        with pytest.raises(ModelProblem, match="another architecture"):
            export(copy, tmp_path / "x.onnx")


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_statistics_that_are_not_finite(copy: Path, tmp_path: Path, value: float) -> None:
    statistics = runs.load_checkpoint(copy).statistics
    statistics["hidden2.norm.running_var"][3] = value
    edit(copy, statistics=statistics)
    with pytest.raises(ModelProblem, match=r"NaN or infinity in hidden2\.norm\.running_var"):
        export(copy, tmp_path / "x.onnx")


def test_a_weight_that_float16_cannot_hold(copy: Path, tmp_path: Path) -> None:
    model = runs.load_checkpoint(copy).model
    model["output.weight"][0, 0] = 1e6
    edit(copy, model=model)
    with pytest.raises(ModelProblem, match=r"float16 cannot hold output\.weight"):
        export(copy, tmp_path / "x.onnx", dtype="float16")


def tamper(proto: onnx.ModelProto, how: str) -> onnx.ModelProto:
    """What a faulty exporter could do."""
    last = proto.graph.node[-1]
    if how == "wrong weight":
        weight = next(t for t in proto.graph.initializer if t.name == last.input[1])
        values = onnx.numpy_helper.to_array(weight).copy()
        values[0, 0] += 1e-2
        weight.CopyFrom(onnx.numpy_helper.from_array(values, weight.name))
    elif how == "not a number":
        bias = next(t for t in proto.graph.initializer if t.name == last.input[2])
        bias.CopyFrom(onnx.numpy_helper.from_array(np.full(10, np.nan, np.float32), bias.name))
    elif how == "invalid":
        last.op_type = "NoSuchOperator"
    else:
        norm = next(n for n in proto.graph.node if n.op_type == "BatchNormalization")
        norm.CopyFrom(onnx.helper.make_node("Identity", norm.input[:1], norm.output))
    return proto


FAULTS = {
    "wrong weight": "differs from PyTorch by",
    "not a number": "differs from PyTorch by nan",
    "invalid": "is not valid ONNX",
    "lost": "exported 2 of 3 BatchNormalization",
}


@pytest.mark.parametrize(("how", "words"), FAULTS.items(), ids=FAULTS.keys())
def test_a_faulty_export_is_not_announced(
    mlp: TrainResult, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, how: str, words: str
) -> None:
    real = to_onnx.converted
    monkeypatch.setattr(to_onnx, "converted", lambda *a: tamper(real(*a), how))
    with pytest.raises(CheckFailed, match=words):
        export(mlp.run, tmp_path / "x.onnx")
    assert list(tmp_path.iterdir()) == []


def test_a_network_in_training_mode_is_never_exported() -> None:
    with pytest.raises(AssertionError, match="silently"):
        to_onnx.converted(nn.Sequential(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2)).train(), (1, 8, 8), 20, {})


SINGLES: dict[str, tuple[nn.Module, tuple[int, ...]]] = {
    "grouped transposed": (nn.Sequential(nn.ConvTranspose2d(4, 6, 3, groups=2), nn.BatchNorm2d(6)), (4, 5, 5)),
    "three dimensions": (nn.Sequential(nn.Conv3d(1, 2, 2), nn.BatchNorm3d(2, eps=1e-3)), (1, 3, 4, 5)),
    "first": (nn.Sequential(nn.BatchNorm2d(2), nn.Flatten(), nn.Linear(18, 3)), (2, 3, 3)),
    "no affine": (nn.Sequential(nn.Conv1d(2, 3, 2), nn.BatchNorm1d(3, affine=False)), (2, 7)),
}


@pytest.mark.parametrize(("net", "shape"), SINGLES.values(), ids=SINGLES.keys())
def test_other_networks_keep_their_batch_norm_too(net: nn.Module, shape: tuple[int, ...], tmp_path: Path) -> None:
    proto = to_onnx.converted(net.eval(), shape, 20, {})
    assert [node.op_type for node in proto.graph.node].count("BatchNormalization") == 1
    onnx.save(proto, tmp_path / "x.onnx")
    error, largest = to_onnx.worst_difference(net, tmp_path / "x.onnx", shape, "float32")
    assert error <= 1e-5 * max(1.0, largest)
