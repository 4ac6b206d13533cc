"""Bombs, and what parses but means nothing sound: the documented exit code and words, right numbers, nothing left."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnxruntime as ort
import pytest

from bnfold.folding import driver
from bnfold.system.limits import Limits, within
from bnfold_cli.main import run
from tests.attacks import bombs, malformed
from tests.attacks.measured import measured

ROWS = {**bombs.ROWS, **malformed.ROWS}


@pytest.mark.parametrize("name", ROWS)
def test_refused_in_words_or_survived(name, folder, capsys):
    make, code, words = ROWS[name]
    path = make(folder)
    content, before = path.read_bytes(), sorted(folder.iterdir())
    assert run(["fold", str(path), "--verify", "off"]) == code, capsys.readouterr().err
    stderr = capsys.readouterr().err
    assert words in stderr
    assert len(stderr) < 10_000
    assert path.read_bytes() == content
    if code:
        assert [line.partition(": ")[0] for line in stderr.splitlines()] == ["error", "hint"]
        assert sorted(folder.iterdir()) == before
    else:
        assert sorted(p.name for p in folder.iterdir()) == ["m.folded.onnx", "m.onnx"]
        assert_same(path, folder / "m.folded.onnx")


def assert_same(path: Path, folded: Path) -> None:
    """Where onnxruntime runs the original, it gives the same numbers for the folded model."""
    true = answers(path) if path.stat().st_size < 1_000_000 else None
    if true is not None:
        for one, other in zip(true, answers(folded) or [], strict=True):
            np.testing.assert_allclose(other, one, rtol=1e-4, atol=1e-4)


def answers(path: Path) -> list[np.ndarray] | None:
    """The outputs for a random image; None where the model does not run on one."""
    options = ort.SessionOptions()
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.log_severity_level = 4
    image = np.random.default_rng(0).standard_normal((1, 3, 8, 8)).astype(np.float32)
    try:
        session = ort.InferenceSession(path, options, providers=["CPUExecutionProvider"])
        return list(session.run(None, {"x": image}))
    except Exception:  # of onnxruntime, which have no common base
        return None


@pytest.mark.parametrize("operator", bombs.UNDER)
def test_coefficients_without_end_are_refused(operator):
    with within(Limits(elements=1000)):
        (kept,) = driver.fold(bombs.UNDER[operator]).kept
    assert "TOO_LARGE" in (kept.not_hoisted.code, kept.not_sunk.code)


def test_fields_of_tomorrow_are_kept(folder):
    path = malformed.ROWS["fields of tomorrow"].make(folder)
    assert run(["fold", str(path), "--verify", "off"]) == 0
    assert (folder / "m.folded.onnx").read_bytes().count(malformed.UNKNOWN) == 4  # model, graph, Conv and its weight


@pytest.mark.parametrize("name", ["a Tile", "a Loop without end"])
def test_what_would_run_for_ever_is_stopped(name, folder):
    done = measured(bombs.VERIFIED[name], folder, "--limit", "seconds=4", "--limit", "memory=3GB")
    assert done.code == 5, done.stderr
    assert done.bytes < 3.2e9
    assert [path.name for path in folder.iterdir()] == ["m.onnx"]


@pytest.mark.slow
@pytest.mark.parametrize("name", bombs.VERIFIED)
def test_verification_is_bounded(name, folder):
    done = measured(bombs.VERIFIED[name], folder, "--limit", "seconds=60", "--limit", "memory=4GB")
    assert done.code == 5, done.stderr
    assert done.bytes < 4.2e9
    assert done.seconds < 200


@pytest.mark.slow
@pytest.mark.parametrize("name", bombs.LONG)
def test_large_files_are_folded_or_refused(name, folder):
    done = measured(bombs.LONG[name], folder, "--verify", "off", "--limit", "seconds=600")
    assert done.code == bombs.LONG[name].code, done.stderr
    assert bombs.LONG[name].words in done.stderr
