"""`bnfold demo`: every step runs after the other; here with less training and fewer launches."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from bnfold.reporting import demo
from bnfold_cli.main import run


def test_the_demo_trains_folds_verifies_and_measures(tmp_path: Path, monkeypatch) -> None:
    train, bench = demo.train, demo.bench
    monkeypatch.setattr(demo, "train", lambda options, watch: train(replace(options, steps=30), watch))
    monkeypatch.setattr(demo, "bench", lambda *paths: bench(*paths, launches=2, budget_s=1.0))
    said: list[str] = []
    result = demo.demo(tmp_path / "d", said.append)
    rows = {name: (before, after) for name, before, after in result.rows()}
    assert [words[:3] for words in said] == ["1/5", "2/5", "3/5", "4/5", "5/5"]
    assert result.verified.passed
    assert result.accuracy[0] == result.accuracy[1] > 0.1, "a fold changes nothing that the network says"
    before, after = rows["BatchNormalization"]
    assert int(before) > int(after) == 0
    assert rows["verification"] == ("", result.verified.verdict)
    assert {"digits.onnx", "digits.folded.onnx", "run"} <= {path.name for path in (tmp_path / "d").iterdir()}


def test_the_demo_leaves_a_folder_that_is_in_use_alone(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "mine").write_text("mine")
    assert run(["demo", "--dir", str(tmp_path)]) == 2
    words = capfd.readouterr().err
    assert f"error: {tmp_path} exists and is not empty\nhint: Name another folder with --dir" in words
    assert [path.name for path in tmp_path.iterdir()] == ["mine"]
