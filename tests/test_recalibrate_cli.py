"""`bnfold recalibrate`: what it writes, what it says, and every way it can be misused."""

from __future__ import annotations

import json
import os
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from bnfold.recalibration import recalibrate
from bnfold.recalibration.feeds import pictures
from bnfold.train.pixels import Normalization
from bnfold_cli.main import run
from tests.build import BN, bn, build
from tests.test_cli import BAD_FILES, conv_bn, here, listing, single, without_bn, written  # noqa: F401
from tests.test_recalibrate import bits, data, statistics

IMAGES = Normalization(255, (0.5, 0.4, 0.3), (0.2, 0.25, 0.3))


def with_metadata(model: onnx.ModelProto, normalization: Normalization = IMAGES) -> onnx.ModelProto:
    helper.set_model_props(model, {"bnfold.normalization": normalization.to_json(), "bnfold.classes": '["a", "b"]'})
    return model


def samples(path: str = "data.npz", **arrays: np.ndarray) -> str:
    np.savez(path, **arrays or {"X": data(conv_bn())})
    return path


def said(capfd) -> list[str]:
    out, err = capfd.readouterr()
    assert out == ""
    return err.strip().splitlines()


def refused(folder: Path, capfd, where: str, code: int, message: str) -> None:
    """One error and one hint, and nothing is written."""
    before = listing(folder)
    assert run(["recalibrate", "m.onnx", "--data", where]) == code
    error, hint = said(capfd)
    assert error.startswith(f"error: {message}")
    assert hint.startswith("hint: ")
    assert listing(folder) == before


def test_it_writes_a_model_and_a_report(here, capfd):  # noqa: F811
    model = conv_bn()
    written(Path("m.onnx"), model)
    assert run(["recalibrate", "m.onnx", "--data", samples(), "--json", "r.json"]) == 0
    found = onnx.load("m.recalibrated.onnx")
    wanted = recalibrate(model, [data(model)])
    assert bits(found) == bits(wanted.model)
    out, err = capfd.readouterr()
    assert "Statistics of 150 samples (sequential)" in out
    assert err == "wrote m.recalibrated.onnx\n"
    report = json.loads(Path("r.json").read_text())
    assert report["batch_normalizations"] == [drift.to_json() for drift in wanted.drifts]
    assert (report["schema"], report["target"]) == ("bnfold.recalibrate/1", "m.recalibrated.onnx")


def test_it_replaces_nothing_without_force(here, capfd):  # noqa: F811
    written(Path("m.onnx"), conv_bn())
    Path("out.onnx").write_text("precious")
    before = listing(here) | {"data.npz": None}
    samples()
    for out, words in (("out.onnx", "error: out.onnx exists"), ("m.onnx", "error: m.onnx is the input itself")):
        assert run(["recalibrate", "m.onnx", out, "--data", "data.npz"]) == 2
        assert said(capfd)[0] == words
    os.symlink("data.npz", "link")
    for out in ("data.npz", "link"):
        assert run(["recalibrate", "m.onnx", out, "--data", "data.npz", "--force"]) == 2
        assert said(capfd)[0] == f"error: {out} is a file that is read"
    os.remove("link")
    assert listing(here).keys() == before.keys()
    assert Path("out.onnx").read_text() == "precious"
    assert run(["recalibrate", "m.onnx", "out.onnx", "--data", "data.npz", "--force"]) == 0
    assert onnx.load("out.onnx").graph


def test_check_writes_nothing_and_its_exit_code_is_the_answer(here, capfd):  # noqa: F811
    written(Path("m.onnx"), conv_bn())
    samples()
    assert run(["recalibrate", "m.onnx", "--data", "data.npz"]) == 0
    np.savez("two.npz", X=data(conv_bn(), 2))
    before = listing(here)
    assert run(["recalibrate", "m.onnx", "--data", "data.npz", "--check"]) == 1
    assert "FAIL\n" in capfd.readouterr().out
    assert run(["recalibrate", "m.recalibrated.onnx", "--data", "data.npz", "--check"]) == 0
    assert "PASS\n" in capfd.readouterr().out
    assert run(["recalibrate", "m.recalibrated.onnx", "--data", "two.npz", "--check"]) == 5
    assert "2 samples cannot distinguish a drift below " in capfd.readouterr().err
    assert run(["recalibrate", "m.onnx", "--data", "data.npz", "--check", "--threshold", "1e6", "--json", "-"]) == 0
    assert json.loads(capfd.readouterr().out)["verdict"] == "PASS"
    assert listing(here) == before


def test_external_data_follows(here):  # noqa: F811
    model = conv_bn()
    wanted = recalibrate(model, [data(model)]).model
    onnx.save(model, "m.onnx", save_as_external_data=True, location="w.bin", size_threshold=0)
    before = Path("w.bin").read_bytes()
    assert run(["recalibrate", "m.onnx", "out.onnx", "--data", samples()]) == 0
    assert Path("out.onnx.data").exists()
    found = {t.name: numpy_helper.to_array(t) for t in onnx.load("out.onnx").graph.initializer}
    for tensor in wanted.graph.initializer:
        np.testing.assert_array_equal(found[tensor.name], numpy_helper.to_array(tensor))
    assert Path("w.bin").read_bytes() == before


def large() -> onnx.ModelProto:
    """Weights so large that they stay in the file."""
    constants = {"W": (64, 3, 9, 9), **bn("p", 64), "V": (64, 64, 3, 3), **bn("q", 64)}
    body = f"c = Conv(X, W) d = {BN('c', 'p')} e = Relu(d) f = Conv(e, V) Y = {BN('f', 'q')}"
    return single(build(body, "X[N,3,12,12]", "Y[N,64,2,2]", constants))


def test_large_tensors_stay_in_the_file(here):  # noqa: F811
    model = large()
    written(Path("m.onnx"), model)
    assert run(["recalibrate", "m.onnx", "--data", samples(X=data(model))]) == 0
    assert bits(onnx.load("m.recalibrated.onnx")) == bits(recalibrate(model, [data(model)]).model)


def drawn(folder: Path, count: int, size: tuple[int, int] = (6, 6)) -> np.ndarray:
    from PIL import Image

    rng, found = np.random.default_rng(3), []
    for i in range(count):
        place = folder / "ab"[i % 2]
        place.mkdir(parents=True, exist_ok=True)
        found.append(rng.integers(0, 256, (*size, 3), np.uint8))
        Image.fromarray(found[-1]).save(place / f"{i}.png")
    return np.stack(found).transpose(0, 3, 1, 2)


def test_a_folder_of_images_is_normalized_as_the_metadata_say(here):  # noqa: F811
    model = with_metadata(conv_bn())
    written(Path("m.onnx"), model)
    pixels = drawn(Path("images"), 40)
    wanted = statistics(recalibrate(model, [IMAGES(pixels)]).model)
    assert run(["recalibrate", "m.onnx", "--data", "images"]) == 0
    np.testing.assert_array_equal(statistics(onnx.load("m.recalibrated.onnx")), wanted)
    samples(X=pixels)  # and so are pixels in an archive
    assert run(["recalibrate", "m.onnx", "p.onnx", "--data", "data.npz"]) == 0
    np.testing.assert_array_equal(statistics(onnx.load("p.onnx")), wanted)


def test_images_of_any_size_are_brought_to_that_of_the_model(here):  # noqa: F811
    written(Path("m.onnx"), with_metadata(conv_bn()))
    drawn(Path("images"), 10, (9, 14))
    drawn(Path("images/more"), 10, (5, 4))
    assert run(["recalibrate", "m.onnx", "--data", "images"]) == 0
    image = np.arange(2 * 3 * 4, dtype=np.float32).reshape(2, 3, 4)
    assert pictures.resized(image, 6, 8).shape == (2, 6, 8)
    assert pictures.shorter_to(image, 6).shape == (2, 6, 8)
    np.testing.assert_array_equal(pictures.middle(image, 3, 2), image[:, :, 1:3])


def corrupt(path: str) -> str:
    content = bytearray(Path(samples()).read_bytes())
    content[200:400] = bytes(200)
    Path(path).write_bytes(content)
    return path


def stored(name: str, content: bytes | str) -> str:
    Path(name).parent.mkdir(parents=True, exist_ok=True)
    Path(name).write_bytes(content if isinstance(content, bytes) else content.encode())
    return name


def folder(name: str, files: dict[str, bytes]) -> str:
    Path(name).mkdir()
    for file, content in files.items():
        stored(f"{name}/{file}", content)
    return name


X = np.ones((20, 3, 6, 6), np.float32)
BAD_DATA = {  # what --data names -> exit code, error
    "nothing there": (lambda: "none.npz", 3, "no data at none.npz"),
    "no archive": (lambda: stored("d.npz", "hello"), 3, "d.npz cannot be read: File is not a zip file"),
    "an archive cut off": (lambda: stored("d.npz", Path(samples()).read_bytes()[:900]), 3, "d.npz cannot be read: File is not a zip file"),
    "an archive with a hole": (lambda: corrupt("d.npz"), 3, "d.npz cannot be read: "),
    "another name": (lambda: samples(Z=X), 3, "data.npz has no X"),
    "one name too many": (lambda: samples(X=X, Z=X), 3, "data.npz has Z, which no input is called"),
    "objects": (lambda: samples(X=np.array([None, 1])), 3, "data.npz cannot be read: X holds Python objects"),
    "another size": (lambda: samples(X=X[:, :, :5]), 3, "data.npz: 'X' has the shape [20, 3, 5, 6]"),
    "another rank": (lambda: samples(X=X[0]), 3, "data.npz: 'X' has the shape [3, 6, 6]"),
    "another type": (lambda: samples(X=X.astype(np.int32)), 3, "data.npz: 'X' is int32"),
    "no samples": (lambda: samples(X=X[:0]), 3, "data.npz holds no samples"),
    "values beyond the metadata": (lambda: samples(X=X * 100), 3, "data.npz holds values from 100 to 100; by the model's metadata they lie in -2.5 to 2.5"),
    "NaN": (lambda: samples(X=X * np.nan), 3, "data.npz: 'X' holds NaN"),
    "an empty folder": (lambda: folder("images", {}), 3, "images has no images"),
    "a broken image": (lambda: folder("images", {"a/1.png": b"hello"}), 3, "images/a/1.png is not a readable image: it is of no known format"),
}  # fmt: skip


@pytest.mark.parametrize("name", BAD_DATA)
def test_bad_data_is_one_error_and_one_hint(here, capfd, name):  # noqa: F811
    make, code, message = BAD_DATA[name]
    written(Path("m.onnx"), with_metadata(conv_bn()))
    refused(here, capfd, make(), code, message)


def test_values_beyond_the_metadata_are_taken_with_any_range(here):  # noqa: F811
    written(Path("m.onnx"), with_metadata(conv_bn()))
    where = samples(X=data(conv_bn()) * 100)
    assert run(["recalibrate", "m.onnx", "--data", where, "--any-range"]) == 0


def test_two_inputs_of_different_lengths(here, capfd):  # noqa: F811
    written(Path("m.onnx"), single(build(f"c = Add(X, Z) Y = {BN('c', 'p')}", "X[N,4]; Z[N,4]", "Y[N,4]", bn("p", 4))))
    assert run(["recalibrate", "m.onnx", "--data", samples(X=np.ones((700, 4), "f4"), Z=np.ones((200, 4), "f4"))]) == 3
    assert "different numbers of samples" in said(capfd)[0]


def quantizing() -> onnx.ModelProto:
    model = conv_bn()
    model.graph.node.append(helper.make_node("QuantizeLinear", ["Y", "s", "z"], ["q"]))
    model.graph.initializer.extend([helper.make_tensor("s", 1, [], [1.0]), helper.make_tensor("z", 3, [], [0])])
    return model


def in_a_body() -> onnx.ModelProto:
    model = conv_bn()
    node = model.graph.node.pop()
    node.output[0] = "inner"
    body = helper.make_graph([node], "body", [], [onnx.ValueInfoProto(name="inner")])
    model.graph.node.append(helper.make_node("If", ["yes"], ["Y"], then_branch=body, else_branch=body))
    model.graph.initializer.append(helper.make_tensor("yes", TensorProto.BOOL, [], [True]))
    return model


def from_an_input() -> onnx.ModelProto:
    model = conv_bn()
    for name in ("pm", "pv"):
        stored = next(t for t in model.graph.initializer if t.name == name)
        model.graph.input.append(helper.make_tensor_value_info(name, 1, stored.dims))
        model.graph.initializer.remove(stored)
    return model


def of_opset_6() -> onnx.ModelProto:
    model = conv_bn(is_test=1)
    model.opset_import[0].version = 6
    return model


BAD_MODELS = {
    **{k: (v[0], v[1], v[2]) for k, v in BAD_FILES.items() if k not in ("NaN", "training mode", "five outputs")},
    "training mode": (conv_bn(training_mode=1), 3, "BatchNormalization 'Y' is in training mode"),
    "no BatchNormalization": (without_bn(), 3, "the model has no BatchNormalization"),
    "five outputs": (BAD_FILES["five outputs"][0], 3, "BatchNormalization 'Y' is in training mode"),
    "quantized": (quantizing(), 3, "the model quantizes activations (QuantizeLinear)"),
    "in a body": (in_a_body(), 3, "BatchNormalization 'inner' is in a body of If"),
    "statistics from an input": (from_an_input(), 3, "no BatchNormalization of the model normalizes data by statistics"),
    "opset 6": (of_opset_6(), 3, "the model is of opset 6"),
}  # fmt: skip


@pytest.mark.parametrize("name", BAD_MODELS)
def test_a_bad_model_is_one_error_and_one_hint(here, capfd, name):  # noqa: F811
    content, code, message = BAD_MODELS[name]
    Path("m.onnx").write_bytes(content if isinstance(content, bytes) else content.SerializeToString())
    refused(here, capfd, samples(), code, message)


BAD_OPTIONS = {
    "--method ema": "invalid value for '--method': 'ema' is not one of 'sequential', 'alg2', 'pooled'",
    "--memory-limit much": "--memory-limit 'much' is not a size",
    "--threshold -1": "--threshold is -1.0",
    "out.onnx --check": "--check writes nothing, and OUT was given",
    "--batch-size 0": "invalid value for '--batch-size'",
    "none/out.onnx": "none/out.onnx cannot be written: no folder none",
}


@pytest.mark.parametrize("options", BAD_OPTIONS)
def test_bad_options(here, capfd, options):  # noqa: F811
    written(Path("m.onnx"), conv_bn())
    assert run(["recalibrate", "m.onnx", *options.split(), "--data", samples()]) == (4 if "none/" in options else 2)
    assert said(capfd)[0].startswith(f"error: {BAD_OPTIONS[options]}")


def test_a_full_temporary_folder(here, capfd, monkeypatch):  # noqa: F811
    def full(*args, **kwargs):
        raise OSError(28, "No space left on device")

    model = large()
    written(Path("m.onnx"), model)
    where = samples(X=data(model))
    before = listing(here)
    monkeypatch.setattr("numpy.lib.format.write_array", full)
    assert run(["recalibrate", "m.onnx", "--data", where, "--memory-limit", "1K"]) == 4
    assert "cannot hold what lies between two layers: No space left on device" in said(capfd)[0]
    assert listing(here) == before
