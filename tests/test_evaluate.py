"""Accuracy over crops and models: by hand on small ones, on real data, and every way it can be misused."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper

from bnfold.errors import BnfoldError
from bnfold.folding.driver import fold
from bnfold.recalibration.evaluation import evaluate
from bnfold.recalibration.evaluation.crops import crops
from bnfold.train.pixels import Normalization
from bnfold_cli.main import run
from tests.build import BN, bn, build
from tests.data import data_path
from tests.test_cli import here, single, written  # noqa: F401

pytestmark = pytest.mark.usefixtures("here")
RNG = np.random.default_rng(0)
HALVES = Normalization(255, (0.5,) * 3, (0.25,) * 3)


def classifier(
    seed: int = 0,
    softmax: bool = False,
    normalization: Normalization | None = None,
    classes: int = 7,
    size: int | str = 16,
) -> onnx.ModelProto:
    """Conv, BatchNormalization, Relu, mean, Gemm."""
    body = f"c = Conv(X, W) d = {BN('c', 'p')} r = Relu(d) m = GlobalAveragePool(r) f = Flatten(m) {'l' if softmax else 'Y'} = Gemm(f, V)"
    body += " Y = Softmax(l)" if softmax else ""
    rng = np.random.default_rng(seed)
    constants = {"W": rng.normal(0, 0.3, (8, 3, 3, 3)), "V": rng.normal(0, 1, (8, classes)), **bn("p", 8)}
    model = single(
        build(body, f"X[N,3,{size if isinstance(size, str) else f'{size},{size}'}]", f"Y[N,{classes}]", constants)
    )
    if normalization:
        helper.set_model_props(model, {"bnfold.normalization": normalization.to_json()})
    return model


def saved(path: str, **arrays: np.ndarray) -> str:
    np.savez(path, **arrays)
    return path


def probabilities(model: onnx.ModelProto, x: np.ndarray, apply: bool = True) -> np.ndarray:
    import onnxruntime as ort

    y = ort.InferenceSession(model.SerializeToString()).run(None, {"X": x})[0].astype(np.float64)
    powers = np.exp(y - y.max(1, keepdims=True))
    return powers / powers.sum(1, keepdims=True) if apply else y


def tops(p: np.ndarray, labels: np.ndarray) -> tuple[float, float]:
    order = np.argsort(-p, axis=1, kind="stable")
    return float((order[:, 0] == labels).mean()), float((order[:, :5] == labels[:, None]).any(1).mean())


X = RNG.normal(0, 1, (150, 3, 16, 16)).astype(np.float32)
LABELS = RNG.integers(0, 7, 150)


def test_an_ensemble_is_the_mean_of_probabilities():
    a, b = classifier(0), classifier(1, softmax=True)
    paths = [written(Path("a.onnx"), a), written(Path("b.onnx"), b)]
    found = evaluate(paths, saved("d.npz", X=X, labels=LABELS))
    each = probabilities(a, X), probabilities(b, X, apply=False)
    for score, wanted in zip((*found.models, found.ensemble), (*each, np.mean(each, axis=0)), strict=True):
        assert (score.top1, score.top5) == tops(wanted, LABELS), score.model
    assert found.notes == ("a.onnx answers with logits: softmax was applied", "b.onnx answers with probabilities")
    assert found.samples == 150


def test_a_folded_model_scores_the_same():
    model = classifier()
    paths = [written(Path("a.onnx"), model), written(Path("b.onnx"), fold(model).model)]
    found = evaluate(paths, saved("d.npz", X=X, labels=LABELS))
    assert (found.models[0].top1, found.models[0].top5) == (found.models[1].top1, found.models[1].top5)


def test_a_classifier_of_rows_of_numbers():
    model = of_numbers()
    found = evaluate([written(Path("a.onnx"), model)], saved("d.npz", X=ROWS, labels=LABELS))
    assert (found.models[0].top1, found.models[0].top5) == tops(probabilities(model, ROWS), LABELS)


def test_a_fixed_batch():
    model = classifier()
    wanted = evaluate([written(Path("a.onnx"), model)], saved("d.npz", X=X, labels=LABELS))
    model.graph.input[0].type.tensor_type.shape.dim[0].dim_value = 4
    model.graph.output[0].type.tensor_type.shape.dim[0].dim_value = 4
    assert evaluate([written(Path("a.onnx"), model)], "d.npz").models == wanted.models


def test_pixels_are_normalized_as_each_model_says():
    pixels = RNG.integers(0, 256, (50, 3, 16, 16), np.uint8)
    for name, normalization in (("a.onnx", HALVES), ("b.onnx", Normalization(255, (0.1,) * 3, (0.9,) * 3))):
        written(Path(name), classifier(normalization=normalization))
    found = evaluate(["a.onnx", "b.onnx"], saved("d.npz", X=pixels, labels=LABELS[:50]))
    assert (found.models[0].top1, found.models[0].top5) == tops(
        probabilities(classifier(), HALVES(pixels)), LABELS[:50]
    )
    assert found.models[0].top1 != found.models[1].top1 or found.models[0].top5 != found.models[1].top5


@pytest.mark.parametrize("number", [1, 5, 10, 144])
@pytest.mark.parametrize("shape", [(3, 40, 60), (3, 60, 40), (3, 16, 16), (1, 16, 17)])
def test_crops_have_the_size_of_the_network(number, shape):
    image = RNG.random(shape).astype(np.float32)
    found = crops(image, number, 16, 16)
    assert found.shape == (number, shape[0], 16, 16)
    assert image.min() - 1e-6 <= found.min() <= found.max() <= image.max() + 1e-6


@pytest.mark.parametrize("shape", [(3, 20, 20), (3, 9, 30), (3, 30, 9)])
def test_a_network_of_wide_images_sees_the_middle_of_the_least_image_that_covers_them(shape):
    image = np.broadcast_to(np.linspace(0, 1, shape[1])[None, :, None], shape).astype(np.float32)
    found = crops(image, 1, 16, 48)
    assert found.shape == (1, 3, 16, 48)
    assert abs(found.mean() - 0.5) < 0.05
    np.testing.assert_allclose(found, found[..., :1].repeat(48, -1), atol=1e-5)


def test_where_crops_are_cut():
    image = np.arange(3 * 256 * 300, dtype=np.float32).reshape(3, 256, 300)
    five = crops(image, 5, 224, 224)
    corners = (
        image[:, :224, :224],
        image[:, :224, 76:],
        image[:, 32:, :224],
        image[:, 32:, 76:],
        image[:, 16:240, 38:262],
    )
    for crop, wanted in zip(five, corners, strict=True):
        np.testing.assert_array_equal(crop, wanted)
    np.testing.assert_array_equal(crops(image, 1, 224, 224)[0], five[4])
    np.testing.assert_array_equal(crops(image, 10, 224, 224), np.concatenate([five, five[..., ::-1]]))
    many = crops(image, 144, 224, 224)
    np.testing.assert_array_equal(many[0], image[:, :224, :224])  # the left square of 256, its upper left corner
    np.testing.assert_array_equal(many[1::2], many[::2, :, :, ::-1])
    np.testing.assert_array_equal(many[12 + 2], image[:, :224, 22 + 32 : 278])  # the middle square, upper right
    assert len({crop.tobytes() for crop in many}) == 144


def test_the_mean_over_crops():
    model = classifier(normalization=HALVES)
    pixels = RNG.integers(0, 256, (20, 3, 24, 20), np.uint8)
    found = evaluate([written(Path("a.onnx"), model)], saved("d.npz", X=pixels, labels=LABELS[:20]), crops=10)
    each = [probabilities(model, HALVES(crops(image, 10, 16, 16))).mean(0) for image in pixels]
    assert (found.models[0].top1, found.models[0].top5) == tops(np.stack(each), LABELS[:20])
    assert found.notes[0] == "the shorter side of every image is brought to 18 before crops of 16x16 are cut"


def drawn(folder: str, classes: str, count: int = 12) -> str:
    from PIL import Image

    for i in range(count):
        place = Path(folder) / classes[i % len(classes)]
        place.mkdir(parents=True, exist_ok=True)
        Image.fromarray(RNG.integers(0, 256, (16, 16, 3), np.uint8)).save(place / f"{i}.png")
    return folder


def test_a_data_set_states_what_a_model_does_not_say_of_normalization():
    found = evaluate([written(Path("a.onnx"), of_digits())], "digits")
    assert found.notes[1] == "a.onnx says nothing of normalization: that of digits was used"


def test_a_folder_of_class_folders():
    from PIL import Image

    model = classifier(normalization=HALVES)
    folder = drawn("images", "abcdefg", 21)
    files = sorted(Path(folder).rglob("*.png"))
    pixels = np.stack([np.asarray(Image.open(f)).transpose(2, 0, 1) for f in files])
    labels = np.array(["abcdefg".index(f.parent.name) for f in files])
    found = evaluate([written(Path("a.onnx"), model)], folder)
    assert (found.models[0].top1, found.models[0].top5) == tops(probabilities(model, HALVES(pixels)), labels)


def test_a_data_set_by_name_needs_no_torch():
    import subprocess
    import sys

    model = onnx.load(data_path("onnx", "burn_mnist.onnx"))
    helper.set_model_props(model, {"bnfold.normalization": Normalization(255, (0.1307,), (0.3081,)).to_json()})
    written(Path("m.onnx"), model)
    code = (
        "import sys; sys.modules['torch'] = sys.modules['torchvision'] = None\n"
        "from pathlib import Path; from bnfold.recalibration.evaluation import evaluate\n"
        f"found = evaluate(['m.onnx'], 'mnist', data_dir=Path({str(data_path('mnist'))!r}))\n"
        "print(found.samples, found.models[0].top1)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    samples, top1 = done.stdout.split()
    assert (samples, float(top1) > 0.99) == ("10000", True), done.stderr


def test_the_command(capfd):
    written(Path("a.onnx"), classifier(0))
    written(Path("b.onnx"), classifier(1))
    saved("d.npz", X=X, labels=LABELS)
    assert run(["evaluate", "a.onnx", "b.onnx", "--data", "d.npz", "--json", "r.json"]) == 0
    out, err = capfd.readouterr()
    assert "Accuracy on 150 samples of d.npz\n" in out
    assert "ensemble" in out
    assert "note: a.onnx answers with logits: softmax was applied" in err
    found = json.loads(Path("r.json").read_text())
    assert found["ensemble"]["top1"] == evaluate(["a.onnx", "b.onnx"], "d.npz").ensemble.top1
    assert found["schema"] == "bnfold.evaluate/1"


def named(model: onnx.ModelProto, classes: str) -> onnx.ModelProto:
    helper.set_model_props(model, {"bnfold.classes": json.dumps([*classes]), "bnfold.normalization": HALVES.to_json()})
    return model


def of_numbers(kind: str = "Gemm") -> onnx.ModelProto:
    """A classifier of rows of numbers, not of images."""
    body = {
        "Gemm": "Y = Gemm(X, W)",
        "Log": "l = Gemm(X, W) Y = Log(l)",
        "Reshape": "l = Gemm(X, W) Y = Reshape(l, S)",
    }[kind]
    constants = {"W": (5, 7), **({"S": np.array([30, 35])} if kind == "Reshape" else {})}
    return single(build(body, "X[N,5]", "Y[N,7]" if kind != "Reshape" else "Y[30,35]", constants))


def unloadable() -> onnx.ModelProto:
    model = classifier()
    model.graph.node[-1].domain = "acme"
    model.opset_import.append(helper.make_opsetid("acme", 1))
    return model


def answering(rank: int) -> onnx.ModelProto:
    model = classifier()
    model.graph.initializer.append(numpy_helper.from_array(np.array([2] if rank == 3 else []), "axes"))
    kind = "Unsqueeze" if rank == 3 else "ReduceMean"
    model.graph.node[-1].output[0] = "l"
    model.graph.node.append(helper.make_node(kind, ["l", "axes"] if rank == 3 else ["l"], ["Y"]))
    if rank != 3:
        model.graph.node[-1].attribute.append(helper.make_attribute("keepdims", 0))
    model.graph.output[0].type.tensor_type.ClearField("shape")
    return model


def with_props(model: onnx.ModelProto, **props: str) -> onnx.ModelProto:
    helper.set_model_props(model, props)
    return model


def of_digits(**props: str) -> onnx.ModelProto:
    """For scikit-learn's handwritten digits."""
    body = "f = Flatten(X) Y = Gemm(f, W)"
    return with_props(single(build(body, "X[N,1,8,8]", "Y[N,10]", {"W": (64, 10)})), **props)


GOOD = {"X": X, "labels": LABELS}
ROWS = RNG.normal(0, 1, (150, 5)).astype(np.float32)
BAD = {  # models, data, options -> exit code, error
    "no labels": ([classifier()], {"X": X}, [], 3, "d.npz has no 'labels', but X"),
    "no input": ([classifier()], {"Z": X, "labels": LABELS}, [], 3, "d.npz has no X"),
    "fewer labels": ([classifier()], {"X": X, "labels": LABELS[:9]}, [], 3, "d.npz must hold as many samples as whole-number labels"),
    "fractions as labels": ([classifier()], {"X": X, "labels": LABELS / 2}, [], 3, "d.npz must hold as many samples as whole-number labels"),
    "no samples": ([classifier()], {"X": X[:0], "labels": LABELS[:0]}, [], 3, "d.npz must hold as many samples"),
    "a label too large": ([classifier()], {"X": X, "labels": LABELS + 1}, [], 3, "d.npz has labels from 1 to 7; the model has classes 0 to 6"),
    "a negative label": ([classifier()], {"X": X, "labels": LABELS - 1}, [], 3, "d.npz has labels from -1 to 5; the model has classes 0 to 6"),
    "another shape": ([classifier()], {"X": X[:, :2], "labels": LABELS}, [], 3, "d.npz: 'X' has the shape [64, 2, 16, 16]"),
    "pixels without normalization": ([classifier()], {"X": (X > 0).astype(np.uint8), "labels": LABELS}, [], 3,
     "the model does not say how the pixels of d.npz are normalized"),
    "models of other widths": ([classifier(), classifier(classes=6)], GOOD, [], 3, "the models have different numbers of classes: [7, 6]"),
    "models of other classes": ([named(classifier(), "abcdefg"), named(classifier(), "bacdefg")], GOOD, [], 3, "m0.onnx and m1.onnx have different classes"),
    "models of other inputs": ([classifier(), classifier(size=18)], GOOD, [], 3, "m0.onnx and m1.onnx take different inputs"),
    "a number of crops nobody knows": ([classifier()], GOOD, ["--crops", "7"], 2, "--crops is 7"),
    "crops of tiny images": ([classifier(size=3)], {"X": X[..., :3, :3], "labels": LABELS}, ["--crops", "10"], 2, "images of 3x3 are too small for 10 crops"),
    "no such model": ([], GOOD, ["none.onnx"], 3, "no model at none.onnx"),
    "no classifier": ([answering(1)], GOOD, [], 3, "the first output of m0.onnx has the shape []"),
    "a damaged archive": ([classifier()], b"hello", [], 3, "d.npz cannot be read"),
    "an unknown data set": ([classifier()], None, ["--data", "cifar11"], 2, "unknown data set 'cifar11'"),
    "an empty folder": ([classifier()], None, ["--data", "empty"], 3, "empty has no images"),
    "a folder without classes": ([named(classifier(), "abcdefg")], None, ["--data", "images/a"], 3, "images/a has no sub-folders of images"),
    "a class the model does not know": ([named(classifier(), "bcdefgh")], None, ["--data", "images"], 3,
     "images has the class 'a', which the model does not know"),
    "crops of no images": ([of_numbers()], {"X": ROWS, "labels": LABELS}, ["--crops", "10"], 3,
     "the model does not take one batch of images of one size, but X [?, 5]"),
    "144 crops of no square": ([classifier(size="32,48")], GOOD, ["--crops", "144"], 2, "144 crops are cut from squares, and the model takes 32x48"),
    "an operator that nobody knows": ([unloadable()], GOOD, [], 3, "onnxruntime cannot load m0.onnx: "),
    "data that it cannot run on": ([of_numbers("Reshape")], {"X": ROWS, "labels": LABELS}, [], 3, "m0.onnx cannot run on this data: "),
    "answers that are no numbers": ([of_numbers("Log")], {"X": ROWS, "labels": LABELS}, [], 3, "m0.onnx answers with NaN or infinity"),
    "damaged metadata": ([with_props(classifier(), **{"bnfold.normalization": "{"})], GOOD, [], 3, "the metadata bnfold.normalization of the model is damaged"),
    "damaged classes": ([with_props(classifier(), **{"bnfold.classes": "7"})], GOOD, [], 3, "the metadata bnfold.classes of the model is damaged"),
    "classes of other data": ([of_digits(**{"bnfold.classes": json.dumps([*"abcdefghij"])})], None, ["--data", "digits"], 3,
     "m0.onnx knows the classes a, b, c, d, e, and more; digits has 0, 1, 2, 3, 4, and more"),
    "NaN": ([classifier()], {"X": X * np.nan, "labels": LABELS}, [], 3, "d.npz: 'X' holds NaN"),
}  # fmt: skip


@pytest.mark.parametrize("name", BAD)
def test_bad_input_is_one_error_and_one_hint(capfd, name):
    models, data, options, code, message = BAD[name]
    paths = [str(written(Path(f"m{i}.onnx"), model)) for i, model in enumerate(models)]
    Path("empty").mkdir()
    drawn("images", "ab")
    if isinstance(data, dict):
        saved("d.npz", **data)
    elif data:
        Path("d.npz").write_bytes(data)
    arguments = options if "--data" in options else [*options, "--data", "d.npz"]
    assert run(["evaluate", *paths, *arguments]) == code
    out, err = capfd.readouterr()
    error, hint = err.strip().splitlines()
    assert out == ""
    assert error.startswith(f"error: {message}")
    assert hint.startswith("hint: ")


def test_nothing_is_evaluated_by_no_model():
    with pytest.raises(BnfoldError, match="no model was given"):
        evaluate([], "d.npz")
