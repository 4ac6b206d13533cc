"""The script for GPU machines, on this machine: the CPU stands in for the GPU."""

from __future__ import annotations

import json
from pathlib import Path

import onnx
import pytest

from bnfold.runtime.doctor import examined
from tests.benchmarks import on_gpu
from tests.verify_nets import CONV


@pytest.fixture
def words(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """A small network in both sizes of pictures, and the start of a command line that knows it."""
    model = CONV.original(CONV.weights(0))
    for folder in ("zoo", str(on_gpu.SIDE)):
        (tmp_path / "models" / folder).mkdir(parents=True)
        onnx.save(model, tmp_path / "models" / folder / "net.onnx")
    monkeypatch.setattr(on_gpu, "TIMED", ("net",))
    monkeypatch.setattr(on_gpu, "RESULTS", tmp_path)
    return [str(tmp_path / "answers"), "net", "--models", str(tmp_path / "models"), "--budget", "2", "--stand-in"]


def test_it_verifies_and_times_and_goes_on_where_it_stopped(
    words: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert on_gpu.main([*words, "--seconds", "0"]) == 1
    assert "the time is over" in capsys.readouterr().out
    assert on_gpu.main(words) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[:4] for line in lines] == [[kind, "net", "exit", "0"] for kind in on_gpu.KINDS]
    assert "PASS" in lines[0]
    assert on_gpu.main(words) == 0
    assert capsys.readouterr().out == ""
    assert on_gpu.main([*words, "--record"]) == 0
    latency = json.loads((tmp_path / "latency_cuda.json").read_text())
    settings = {(row["name"], row["precision"], row["batch"]) for row in latency["rows"]}
    assert settings == {("net", precision, batch) for precision in ("float32", "float16") for batch in (1, 32)}
    assert all(row["low"] <= row["ratio"] <= row["high"] and row["difference"] < 1e-2 for row in latency["rows"])
    (verified,) = json.loads((tmp_path / "verify_cuda.json").read_text())["models"]
    assert verified["verdict"] == "PASS"
    assert verified["seconds"] > 0


def test_a_job_that_takes_too_long_is_stopped_and_the_next_one_begun(
    words: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(on_gpu, "LIMITS", {"verify": 0.1, "bench": 0.1})
    assert on_gpu.main(words) == 1
    assert capsys.readouterr().out.count("stopped after") == 2


def test_it_says_where_there_is_no_gpu(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    if examined("cuda").works:
        pytest.skip("there is a GPU")
    assert on_gpu.main([str(tmp_path / "answers"), "net"]) == 4
    assert "error: CUDAExecutionProvider cannot run here" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []
