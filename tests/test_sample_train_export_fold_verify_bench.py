"""samples/03_train_export_fold_verify_bench: the whole way, with less training and a shorter measurement."""

from __future__ import annotations

import re

import onnx

from tests.build import operators
from tests.samples import folder, module

SCRIPT = folder("03_train_export_fold_verify_bench") / "whole_way.py"


def test_the_whole_way(monkeypatch, capsys, tmp_path):
    monkeypatch.setattr("sys.argv", ["script", "--epochs", "1", "--budget", "1", "--out", str(tmp_path)])
    with module(SCRIPT) as sample:
        sample.main()
    out = capsys.readouterr().out
    exported, folded = re.search(r"accuracy +(\S+) exported, (\S+) folded", out).groups()
    assert exported == folded
    assert float(folded) > 0.5, "it has learned something"
    same, of = re.search(r"answers +(\d+) of (\d+) the same", out).groups()
    assert same == of
    assert "verified   PASS" in out
    assert operators(onnx.load(tmp_path / "mine.onnx")).count("BatchNormalization") == 5
    left = operators(onnx.load(tmp_path / "mine.folded.onnx"))
    assert "BatchNormalization" not in left
    assert left.count("Conv") == 3, "two that are concatenated, and one for the block of three branches"
