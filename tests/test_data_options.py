"""Data for any model: images without metadata, too few of them, arrays with channels last, statistics that fit exactly."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import helper

from bnfold.errors import CheckFailed, UsageProblem
from bnfold.recalibration.feeds.image_options import ImageOptions, parse_numbers
from bnfold_cli.main import run
from tests.build import BN, bn, build
from tests.test_cli import here, single, written  # noqa: F401

pytest.importorskip("PIL")
BODY = f"c = Conv(X, W) b = {BN('c', 'p')} r = Relu(b) g = GlobalAveragePool(r) Y = Flatten(g)"
PRESET = ["--preset", "imagenet"]


def network(shape: str = "N,3,8,8", body: str = BODY) -> onnx.ModelProto:
    return single(build(body, f"X[{shape}]", "Y[N,4]", {"W": (4, 3, 3, 3), **bn("p", 4)}))


def images(folder: Path, number: int, size: int = 12) -> None:
    from PIL import Image

    rng = np.random.default_rng(0)
    for i in range(number):
        place = folder / f"class{i % 4}"
        place.mkdir(parents=True, exist_ok=True)
        Image.fromarray(rng.integers(0, 256, (size, size + 2, 3), np.uint8)).save(place / f"{i}.png")


def test_a_model_without_metadata_takes_images(here, capfd):  # noqa: F811
    written(Path("m.onnx"), network())
    images(Path("data"), 20)
    assert run(["recalibrate", "m.onnx", "--data", "data"]) == 3
    assert "--preset imagenet, clip or none" in capfd.readouterr().err
    for how in (PRESET, ["--mean", "0.5", "--std", "0.25"], [*PRESET, "--resize", "10", "--images", "16"]):
        assert run(["recalibrate", "m.onnx", "--data", "data", "-f", *how]) == 0
    assert "16 samples" in capfd.readouterr().out
    assert run(["evaluate", "m.onnx", "--data", "data", *PRESET, "--resize", "10"]) == 0
    assert "data" in capfd.readouterr().out


def test_what_images_become_is_what_numpy_makes_of_them(here):  # noqa: F811
    from PIL import Image

    from bnfold.recalibration.feeds.calibration import from_path
    from bnfold.recalibration.feeds.card import Card

    images(Path("data"), 1, size=8)
    model = network()
    card = Card.of(model).taking(ImageOptions(mean=(0.1, 0.2, 0.3), std=(0.5, 0.6, 0.7)))
    (feed,) = from_path(Path("data"), card)
    pixels = np.asarray(Image.open("data/class0/0.png"))[:, 1:-1] / 255
    expected = ((pixels - [0.1, 0.2, 0.3]) / [0.5, 0.6, 0.7]).transpose(2, 0, 1)[None]
    np.testing.assert_allclose(feed["X"], expected, atol=1e-5)
    last = Card.of(channels_last()).taking(ImageOptions(mean=(0.1, 0.2, 0.3), std=(0.5, 0.6, 0.7)))
    (feed,) = from_path(Path("data"), last)
    np.testing.assert_allclose(feed["X"], expected.transpose(0, 2, 3, 1), atol=1e-5)


def channels_last() -> onnx.ModelProto:
    model = network("N,8,8,3", BODY.replace("Conv(X, W)", "Conv(t, W)"))
    model.graph.node.insert(0, helper.make_node("Transpose", ["X"], ["t"], perm=[0, 3, 1, 2]))
    return model


def test_channels_may_be_last_and_sides_open(here, capfd):  # noqa: F811
    images(Path("data"), 16)
    written(Path("last.onnx"), channels_last())
    assert run(["recalibrate", "last.onnx", "--data", "data", *PRESET]) == 0
    written(Path("open.onnx"), network("N,3,H,V"))
    assert run(["recalibrate", "open.onnx", "--data", "data", *PRESET]) == 3
    assert "--crop SIZE" in capfd.readouterr().err
    assert run(["recalibrate", "open.onnx", "--data", "data", *PRESET, "--crop", "8"]) == 0


def test_too_few_samples_are_refused_with_the_number_needed(here, capfd):  # noqa: F811
    written(Path("m.onnx"), network())
    for number in (1, 15):
        np.savez("d.npz", X=np.random.default_rng(0).normal(size=(number, 3, 8, 8)).astype(np.float32))
        assert run(["recalibrate", "m.onnx", "--data", "d.npz"]) == 3
        assert "hint: Give at least 16" in capfd.readouterr().err
    assert not Path("m.recalibrated.onnx").exists()


def test_arrays_with_channels_last_get_a_sentence(here, capfd):  # noqa: F811
    written(Path("m.onnx"), network())
    np.savez("d.npz", X=np.zeros((20, 8, 8, 3), np.uint8))
    assert run(["recalibrate", "m.onnx", "--data", "d.npz", *PRESET]) == 3
    err = capfd.readouterr().err
    assert err.startswith("error: d.npz holds images of [8, 8, 3], channels last")
    assert "transpose(0, 3, 1, 2)" in err


def test_statistics_of_these_very_data_fit(here, capfd):  # noqa: F811
    written(Path("m.onnx"), network())
    np.savez("d.npz", X=np.random.default_rng(0).normal(size=(16, 3, 8, 8)).astype(np.float32))
    assert run(["recalibrate", "m.onnx", "r.onnx", "--data", "d.npz"]) == 0
    assert run(["recalibrate", "r.onnx", "--data", "d.npz", "--check", "--threshold", "0.01"]) == 0
    assert capfd.readouterr().out.endswith("PASS\n")


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"preset": "clip", "mean": (0.0,), "std": (1.0,)}, "exclude each other"),
        ({"mean": (0.0, 0.0)}, "not of as many channels"),
        ({"mean": (0.0,), "std": (0.0,)}, "--std"),
        ({"crop": -1}, "--crop"),
    ],
)
def test_what_makes_no_sense_is_a_usage_problem(options, words):
    with pytest.raises(UsageProblem, match=words):
        ImageOptions(**options)


def test_numbers():
    assert parse_numbers("--mean", "0.5,1") == (0.5, 1.0)
    with pytest.raises(UsageProblem, match="--mean 'x'"):
        parse_numbers("--mean", "x")


def test_a_loss_beyond_measure_is_diverged(tmp_path):
    from bnfold.train import TrainOptions, train

    with pytest.raises(CheckFailed, match="the loss reached|parameters|the loss became"):
        train(TrainOptions(arch="mlp", batch_norm=False, lr=1e30, steps=200, out=tmp_path / "r"))
