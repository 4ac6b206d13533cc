"""The sample on Bjorck et al. 2018 goes its whole way, and draws what it holds."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

SAMPLE = Path(__file__).resolve().parents[1] / "samples" / "paper_understanding"
FIGURES = ("learning_rates.svg", "at_the_start.svg")


def run(*arguments: str) -> str:
    command = [sys.executable, str(SAMPLE / "understanding.py"), *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout


def test_quick_measures_everything_and_draws_it(tmp_path):
    text = run("--quick", "--out", str(tmp_path))
    results = json.loads((tmp_path / "results.json").read_text())
    assert results.keys() == json.loads((SAMPLE / "results.json").read_text()).keys()
    assert [len(row["variance"]) for row in results["moments"]] == [7, 7, 7]  # convolutions of resnet-8
    assert [row["kind"] for row in results["sweep"]] == ["none", "last", "everywhere"]
    assert "resnet-20, 0.003" in text
    assert all("<svg" in (tmp_path / name).read_text() for name in FIGURES)


def test_what_is_kept_is_small():
    assert max((SAMPLE / name).stat().st_size for name in FIGURES) < 150_000
    assert (SAMPLE / "results.json").stat().st_size < 200_000
