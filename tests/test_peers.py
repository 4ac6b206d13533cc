"""Other tools next to bnfold, each by its version: of this environment, and of others."""

from __future__ import annotations

import argparse
import json
import sys
from functools import partial
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest

from tests.benchmarks import against_peers, latency, peers
from tests.build import BN, bn, build
from tests.differential.__main__ import shares
from tests.test_dtypes import in_type


@pytest.fixture
def elsewhere(tmp_path: Path) -> str:
    """The Python of an environment with an onnxruntime 9.9 that makes the same file of every model."""
    package = tmp_path / "site" / "onnxruntime"
    package.mkdir(parents=True)
    package.joinpath("__init__.py").write_text(
        "__version__ = '9.9'\n"
        "class SessionOptions: pass\n"
        "class GraphOptimizationLevel: ORT_ENABLE_BASIC = 1\n"
        "def InferenceSession(source, options, providers):\n"
        "    open(options.optimized_model_filepath, 'w').write('no model')\n"
    )
    python = tmp_path / "python"
    python.write_text(f'#!/bin/sh\nPYTHONPATH={tmp_path}/site exec {sys.executable} "$@"\n')
    python.chmod(0o755)
    return str(python)


def test_two_versions_stand_side_by_side(elsewhere):
    found = peers.tools(["bnfold", "onnxruntime", "onnxslim"], [("onnxruntime", elsewhere)])
    labels = [tool.label for tool in found]
    assert labels[:3] == ["bnfold", f"onnxruntime {onnxruntime.__version__}", "onnxruntime 9.9"]
    assert labels[3].startswith("onnxslim 0.")
    assert [tool.python == elsewhere for tool in found] == [False, False, True, False]


def test_random_graphs_go_to_both(elsewhere):
    own, other = peers.tools(["onnxruntime"], [("onnxruntime", elsewhere)])
    for row in shares([own, other], graphs=3, seed=0):
        assert "invalid" not in row["tools"][own.label]
        assert row["tools"][other.label]["invalid"].startswith("DecodeError")


def test_the_cost_of_both_is_measured(elsewhere, tmp_path):
    model = in_type(build(f"t = Conv (X, W)\n Y = {BN('t', 'n')}", "X[2,3,6,6]", "Y[2,4,4,4]", {"W": (4, 3, 3, 3), **bn("n", 4)}), "float32")  # fmt: skip
    onnx.save(model, tmp_path / "m.onnx")
    tools = [*peers.tools(["onnxruntime"], [("onnxruntime", elsewhere)]), against_peers.CP]
    own, other, cp = against_peers.compared(tmp_path / "m.onnx", 1, tmp_path, tools)
    assert (own["tool"], own["batch_normalizations"]) == (f"onnxruntime {onnxruntime.__version__}", 0)
    assert other["tool"] == "onnxruntime 9.9"
    assert "DecodeError" in other["unusable"]
    assert (cp["tool"], cp["batch_normalizations"]) == ("cp", 1)
    assert f"| m | {own['tool']} |" in against_peers.line(own)


def options(*arguments: str) -> list[peers.Tool]:
    parser = argparse.ArgumentParser()
    parser.add_argument("--tools", nargs="+", default=["bnfold", "onnxruntime"])
    peers.add_also(parser)
    return peers.chosen(parser, parser.parse_args(arguments))


def test_a_relative_path_is_one_of_where_it_was_written(elsewhere, monkeypatch):
    monkeypatch.chdir(Path(elsewhere).parent)
    assert [tool.python for tool in options("--also", "onnxruntime=./python")][2] == elsewhere


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--also", "torch=python"], "'torch=python' is not of the form TOOL=PYTHON"),
        (["--also", "onnxruntime"], "'onnxruntime' is not of the form TOOL=PYTHON"),
        (["--also", "onnxslim=python"], "--also names onnxslim, which --tools leaves out"),
        (["--also", "onnxruntime=/no/python"], "/no/python cannot be started: No such file or directory"),
        (["--also", f"onnxruntime={sys.executable}"], "is in both environments"),
        (["--also", "onnxruntime=/bin/false"], "/bin/false has no onnxruntime: no reason given"),
    ],
)
def test_what_cannot_be_compared_is_said_before_the_work(arguments, words, capsys):
    with pytest.raises(SystemExit) as stopped:
        options(*arguments)
    assert stopped.value.code == 2
    assert words in capsys.readouterr().err


def test_latencies_are_kept_by_runtime(tmp_path, monkeypatch, capsys):
    """A model that was measured with another onnxruntime is measured again, and both rows stay."""
    monkeypatch.setattr("sys.argv", ["latency", "resnet18", "--json", str(tmp_path / "both.json")])
    for runtime in ("onnxruntime 1.31.1", "onnxruntime 1.32.0", "onnxruntime 1.32.0"):
        monkeypatch.setattr(latency, "environment", partial(dict, onnxruntime=runtime))
        monkeypatch.setattr(latency, "measured", partial(row, runtime))
        latency.main()
    kept = json.loads((tmp_path / "both.json").read_text())
    assert [latency.runtime(row) for row in kept["rows"]] == ["onnxruntime 1.31.1", "onnxruntime 1.32.0"]
    assert [part["models"] for part in kept["summary"].values()] == [1, 1]
    np.testing.assert_allclose(kept["summary"]["onnxruntime 1.32.0"]["geometric_mean_of_speedup"]["all"], 1.5)
    assert "| resnet18 | onnxruntime 1.32.0 | 3 | 1 | 3.00 / 2.00 |" in capsys.readouterr().out


def row(runtime, name, cache, **how):
    ratio = {"ratio": 1.5, "low": 1.4, "high": 1.6, "ms": [3.0, 2.0]}
    two = {"original_over_folded": ratio, "bare_over_folded": ratio}
    norms = {"original": 3, "folded": 0}
    environment = {"onnxruntime": runtime}
    return {"name": name, "batch_normalization": norms, "left_by_onnxruntime": 1, "environment": environment, **two}
