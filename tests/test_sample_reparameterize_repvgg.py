"""samples/05_reparameterize_repvgg: branches become one convolution, and its README counts them right."""

from __future__ import annotations

import re
import sys

import onnx
import pytest
from torch import nn

import bnfold
from bnfold.folding import driver
from tests.build import operators
from tests.samples import folder, module

SAMPLE = folder("05_reparameterize_repvgg")
COUNTED = re.compile(r"(?:exported|folded|timm's|bnfold's) +\d+ +\d+ +\d+ +\d+")


@pytest.fixture
def script(monkeypatch):
    """The modules of the sample, which import each other."""
    with module(SAMPLE / "networks.py") as networks:
        monkeypatch.setitem(sys.modules, "networks", networks)
        with module(SAMPLE / "reparameterize.py") as script:
            monkeypatch.setitem(sys.modules, "reparameterize", script)
            yield script


@pytest.mark.parametrize(("optimize", "batch_norms"), [(True, 1), (False, 8)])
def test_each_block_is_one_convolution(optimize, batch_norms, script, tmp_path):
    block = script.networks.Branches
    blocks = block((3, 1), 3, 8, 2), block((3, 3, 1), 8, 8, 1, 8), block((1, 1), 8, 16)
    script.export(script.networks.trained(lambda: nn.Sequential(*blocks)), tmp_path / "m.onnx", optimize)
    assert operators(onnx.load(tmp_path / "m.onnx")).count("BatchNormalization") == batch_norms
    bnfold.save(driver.fold(tmp_path / "m.onnx").model, tmp_path / "f.onnx")
    assert operators(onnx.load(tmp_path / "f.onnx")) == ["Conv", "Relu"] * 3
    assert bnfold.verify(tmp_path / "m.onnx", tmp_path / "f.onnx").passed


@pytest.mark.slow
def test_the_readme_counts_what_is_there(script, monkeypatch, capsys, tmp_path):
    pytest.importorskip("timm")
    monkeypatch.setattr("sys.argv", ["script", "--out", str(tmp_path)])
    monkeypatch.setattr(script, "speed", lambda before, after: "not timed")
    script.main()
    with module(SAMPLE / "against_timm.py") as against_timm:
        against_timm.main()
    assert COUNTED.findall(capsys.readouterr().out) == COUNTED.findall((SAMPLE / "README.md").read_text())
