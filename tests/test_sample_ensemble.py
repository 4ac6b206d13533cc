"""samples/paper_ensemble: it runs, and its README shows what results.json holds."""

from __future__ import annotations

import json
import runpy

from tests.samples import folder, run_quickly

SAMPLE = folder("paper_ensemble")
SCRIPT = SAMPLE / "ensemble.py"


def test_quick_run_folds_evaluates_and_draws(tmp_path, monkeypatch, capsys):
    run_quickly(SCRIPT, tmp_path, monkeypatch)
    out = capsys.readouterr().out
    assert "folded and unfolded files have the same errors: True" in out
    assert "</svg>" in (tmp_path / "ensemble.svg").read_text()
    results = json.loads((tmp_path / "results.json").read_text())
    assert [network["batch_norms"] for network in results["networks"]] == [[7, 0], [7, 0]]
    assert {crops: len(scores["top1"]) for crops, scores in results["margin"].items()} == {"1": 3, "5": 3, "10": 3}
    assert results["margin"]["1"] == results["enlarged"]["1"]  # one crop is the image itself, either way


def test_readme_shows_results():
    sample = runpy.run_path(str(SCRIPT))
    results = json.loads((SAMPLE / "results.json").read_text())
    assert sample["table"](results) in (SAMPLE / "README.md").read_text()
