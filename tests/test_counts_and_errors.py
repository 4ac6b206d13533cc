"""What a fold is said to have done: the same counts everywhere, errors in proportion, a PASS with its grade."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

import bnfold
from bnfold.folding.pipeline import Options, fold_file
from bnfold.reporting import of_fold, to_html
from bnfold_cli.main import run
from tests.build import BN, bn, build
from tests.test_cli import conv_bn, single, written

COUNTS = "BatchNormalization: 2 before, 1 after; other affine nodes: 2 before, 1 after"


@pytest.fixture
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


def mixed() -> onnx.ModelProto:
    """Two BatchNormalization and two other affine nodes; one of each is kept, between two Relus."""
    body = f"c = Conv(X, W) b = {BN('c', 'p')} r = Relu(b) n = {BN('r', 'q')} s = Relu(n) d = Neg(s) e = Relu(d)"
    end = " f = Conv(e, V) Y = Mul(f, k)"
    weights = {"W": (3, 3, 1, 1), "V": (3, 3, 1, 1), "k": (3, 1, 1), **bn("p", 3), **bn("q", 3)}
    return single(build(body + end, "X[N,3,6,6]", "Y[N,3,6,6]", weights))


def test_one_count_everywhere(here, capfd):
    written(Path("m.onnx"), mixed())
    assert run(["explain", "m.onnx"]) == 0
    assert COUNTS in capfd.readouterr().err
    assert run(["fold", "m.onnx", "--json", "r.json", "--junit", "r.xml"]) == 0
    shown = [line.split() for line in capfd.readouterr().out.splitlines()]
    assert ["BatchNormalization", "2", "1"] in shown
    assert ["other", "affine", "nodes", "2", "1"] in shown
    assert COUNTS in Path("r.xml").read_text()
    report = json.loads(Path("r.json").read_text())
    assert report["other_affine_nodes"] == {"before": 2, "after": 1}
    assert [report[when]["batch_normalizations"] for when in ("before", "after")] == [2, 1]
    assert COUNTS in repr(bnfold.fold("m.onnx"))
    assert run(["explain", "m.folded.onnx"]) == 0  # what is there after the fold is what is there
    assert "BatchNormalization: 1 before, 1 after; other affine nodes: 1 before, 1 after" in capfd.readouterr().err


def test_merged_branches_are_no_affine_nodes(here):
    body = "a = Conv(X, W) b = Conv(X, V) Y = Add(a, b)"
    result = bnfold.fold(build(body, "X[1,3,6,6]", "Y[1,3,6,6]", {"W": (3, 3, 1, 1), "V": (3, 3, 1, 1)}), verify=False)
    assert len(result.folded) == 2
    assert result.counts.others == (0, 0)


def large() -> onnx.ModelProto:
    """Outputs near 1e12: errors are large, too, but not in proportion."""
    model = conv_bn()
    weight = next(t for t in model.graph.initializer if t.name == "W")
    weight.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(weight) * np.float32(1e12), "W"))
    return model


@pytest.mark.parametrize("effort", ["fast", "full"])
def test_errors_are_in_proportion_and_absolute_only_in_detail(here, capfd, effort):
    written(Path("m.onnx"), large())
    assert run(["fold", "m.onnx", "--verify", effort, "--force"]) == 0
    out = capfd.readouterr().out
    (row,) = (line for line in out.splitlines() if "error" in line)
    assert row.startswith("error / size of the outputs, against ")
    assert float(row.split()[-1]) < 1e-5
    assert run(["fold", "m.onnx", "--verify", effort, "--force", "-v"]) == 0
    (row,) = (line for line in capfd.readouterr().out.splitlines() if line.startswith("largest error, against "))
    assert float(row.split()[-1]) > 1e3
    for detail, there in ((["-v"], True), ([], False)):
        assert run(["verify", "m.onnx", "m.folded.onnx", "--effort", effort, *detail]) == 0
        assert ("largest " in capfd.readouterr().out) == there


def test_a_pass_has_its_grade_and_an_unverified_fold_says_so(here, capfd):
    written(Path("m.onnx"), conv_bn())
    assert run(["fold", "m.onnx", "--verify", "off", "--junit", "r.xml"]) == 0
    assert "NOT VERIFIED (--verify off)\n" in capfd.readouterr().err
    assert 'message="NOT VERIFIED: --verify off"' in Path("r.xml").read_text()
    assert run(["fold", "m.onnx", "--out-dir", "many", "--jobs", "1"]) == 0
    assert "PASS, proved" in capfd.readouterr().out
    report = fold_file(Path("m.onnx"), options=Options(force=True))
    assert ">PASS, proved</span>" in to_html(of_fold(report))
