"""Pictures of results: whole or not there, the same bytes each time, refused before anything is computed."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

from bnfold.display import plots
from bnfold.errors import EnvironmentProblem, UsageProblem
from bnfold.recalibration.drift import Drift
from bnfold.recalibration.picture import draw_drifts
from bnfold.system.installed import install_command
from bnfold_cli.main import run
from tests.test_cli import conv_bn, here, written  # noqa: F401

START = {".png": b"\x89PNG", ".svg": b"<?xml", ".pdf": b"%PDF"}
LARGEST = sys.float_info.max


def drift(number: int, **more: object) -> Drift:
    usual = {
        "node": f"/block.{number}/$norm/BatchNormalization",
        "output": "o",
        "level": 0,
        "channels": 4,
        "values": 100,
    }
    usual |= {"shift": 0.3 * number, "ratio_low": 0.5, "ratio_high": 1.5 + number, "dead": 0, "constant": 0}
    return Drift(**{**usual, **more})  # type: ignore[arg-type]


CASES = {
    "one": [drift(1)],
    "few": [drift(number) for number in range(5)],
    "many": [drift(number) for number in range(60)],
    "none": [],
    "without a name, beyond all bounds": [drift(1, node="", shift=LARGEST, ratio_low=0.0, ratio_high=LARGEST)],
    "nothing moved": [drift(0, shift=0.0, ratio_low=1.0, ratio_high=1.0)],
}


@pytest.mark.parametrize("name", CASES)
def test_drifts_can_be_drawn_whatever_they_are(tmp_path, name):
    path = tmp_path / "drift.png"
    draw_drifts(CASES[name], "title", path, 0.5)
    assert path.read_bytes().startswith(START[".png"])


@pytest.mark.parametrize("suffix", plots.FORMATS)
def test_a_picture_is_the_same_each_time(tmp_path, suffix):
    for name in "ab":
        draw_drifts(CASES["few"], "title", tmp_path / f"{name}{suffix}")
    first, second = ((tmp_path / f"{name}{suffix}").read_bytes() for name in "ab")
    assert first.startswith(START[suffix])
    assert first == second


def test_what_cannot_be_drawn_is_said_first(tmp_path, monkeypatch):
    with pytest.raises(UsageProblem, match=r"'\.gif' is not a format of pictures"):
        plots.require_plot(tmp_path / "a.gif")
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(EnvironmentProblem, match="a picture needs the package matplotlib") as raised:
        plots.require_plot(tmp_path / "a.png")
    assert raised.value.hint == install_command("plot")


def test_recalibrate_draws(here, capfd):  # noqa: F811
    import numpy as np

    written(Path("m.onnx"), conv_bn())
    np.savez("data.npz", X=np.random.default_rng(0).normal(size=(100, 3, 6, 6)).astype(np.float32))
    assert run(["recalibrate", "m.onnx", "--data", "data.npz", "--plot", "d.gif"]) == 2
    assert not Path("m.recalibrated.onnx").exists()
    assert run(["recalibrate", "m.onnx", "--data", "data.npz", "--plot", "d.svg"]) == 0
    assert Path("d.svg").read_bytes().startswith(START[".svg"])
    assert "wrote d.svg\nwrote m.recalibrated.onnx\n" in capfd.readouterr().err
    assert run(["recalibrate", "m.onnx", "--data", "data.npz", "--check", "--plot", "d.png"]) == 1
    assert Path("d.png").read_bytes().startswith(START[".png"])


def test_curves_of_a_run_that_is_finished_or_not(tmp_path):
    from bnfold.train.curves import PICTURE, draw_curves

    rows = [{"step": s, "loss": 1 / s, "lr": 0.1, "accuracy_moving_average": 0.5} for s in (1, 2, 3)]
    for end in ([], [{"step": 3, "accuracy": 0.6, "accuracy_moving_average": 0.5}]):
        (tmp_path / "metrics.jsonl").write_text("".join(f"{json.dumps(row)}\n" for row in rows + end))
        assert draw_curves(tmp_path) == tmp_path / PICTURE
        assert (tmp_path / PICTURE).read_bytes().startswith(START[".png"])


def test_train_without_a_picture(here, capfd):  # noqa: F811
    assert run(["train", "--arch", "mlp", "--steps", "3", "--no-plot", "-q"]) == 0
    assert capfd.readouterr().err == ""
    assert not Path("runs/digits-mlp/curves.png").exists()


def test_train_goes_without_matplotlib(here, capfd, monkeypatch):  # noqa: F811
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    assert run(["train", "--arch", "mlp", "--steps", "3"]) == 0
    assert "note: no curves: a picture needs the package matplotlib" in capfd.readouterr().err
