"""The script for GPU machines, on this machine: the CPU stands in for the GPU."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import onnx
import pytest

from bnfold.runtime.doctor import examine
from tests.benchmarks import leases, on_gpu
from tests.verify_nets import CONV


@pytest.fixture
def words(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """A small network in both sizes of pictures, and the start of a command line that knows it."""
    model = CONV.original(CONV.weights(0))
    for folder in ("zoo", str(on_gpu.SIDE)):
        (tmp_path / "models" / folder).mkdir(parents=True)
        onnx.save(model, tmp_path / "models" / folder / "net.onnx")
    monkeypatch.setattr(on_gpu, "TIMED", ("net",))
    options = ["--models", str(tmp_path / "models"), "--results", str(tmp_path), "--budget", "2", "--stand-in"]
    return [str(tmp_path / "answers"), "net", *options]


def test_it_verifies_and_times_and_goes_on_where_it_stopped(
    words: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert on_gpu.main([*words, "--seconds", "0"]) == 1
    assert "the time is over" in capsys.readouterr().out
    assert on_gpu.main([*words, "--only", "verify"]) == 0
    assert on_gpu.main(words) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[:4] for line in lines] == [[kind, "net", "exit", "0"] for kind in on_gpu.KINDS]
    assert "PASS" in lines[0]
    assert on_gpu.main(words) == 0
    assert capsys.readouterr().out == ""
    assert on_gpu.main([*words, "--record"]) == 0
    latency = leases.read(tmp_path / "latency_cuda.json")
    settings = {(row["name"], row["precision"], row["batch"]) for row in latency}
    assert settings == {("net", precision, batch) for precision in ("float32", "float16") for batch in (1, 32)}
    assert all(row["low"] <= row["ratio"] <= row["high"] and row["difference"] < 1e-2 for row in latency)
    (verified,) = leases.read(tmp_path / "verify_cuda.json")
    assert verified["verdict"] == "PASS"
    assert verified["seconds"] > 0
    assert verified["lease"]["environment"]["onnx"] == onnx.__version__
    assert str(tmp_path) not in (tmp_path / "verify_cuda.json").read_text()


def entry(name: str, lease: str, **more: Any) -> dict[str, Any]:
    return {"name": name, "lease": {"date": lease}, **more}


def test_a_record_grows_over_leases_and_what_is_measured_again_replaces_what_was_there(tmp_path: Path) -> None:
    path = tmp_path / "latency_cuda.json"
    leases.merge(path, [entry("a", "monday", ms=1), entry("b", "monday", ms=2)], ["name"])
    leases.merge(path, [entry("b", "tuesday", ms=3), entry("c", "tuesday", ms=4)], ["name"])
    assert leases.read(path) == [entry("a", "monday", ms=1), entry("b", "tuesday", ms=3), entry("c", "tuesday", ms=4)]
    leases.merge(path, [entry("a", "tuesday", ms=5)], ["name"])
    assert json.loads(path.read_text())["leases"] == [{"date": "tuesday"}]
    leases.merge(path, [entry("a", "friday", ms=6, side=224)], ["name", "side"])
    assert [row["ms"] for row in leases.read(path)] == [5, 3, 4, 6]


def test_a_job_that_takes_too_long_is_stopped_and_the_next_one_begun(
    words: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert on_gpu.main([*words, "--limit-verify", "0.1", "--limit-bench", "0.1"]) == 1
    assert capsys.readouterr().out.count("stopped after") == 2


def test_how_cudnn_searches_is_said_on_cuda(words: list[str]) -> None:
    for more, search in ([], "heuristic"), (["--cudnn-search", "exhaustive"], "exhaustive"):
        said = on_gpu.command("bench", "net", on_gpu.arguments([*words, *more]))
        assert said[said.index("--cudnn-search") + 1] == search


def test_it_says_where_there_is_no_gpu(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    if examine("cuda").works:
        pytest.skip("there is a GPU")
    assert on_gpu.main([str(tmp_path / "answers"), "net"]) == 4
    assert "error: CUDAExecutionProvider cannot run here" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []
