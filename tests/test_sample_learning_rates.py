"""samples/paper_learning_rates: it runs, and its README shows what results.json holds."""

from __future__ import annotations

import json
import runpy

from tests.samples import folder, run_quickly

SAMPLE = folder("paper_learning_rates")
SCRIPT = SAMPLE / "learning_rates.py"


def test_quick_run_measures_shows_and_draws(tmp_path, monkeypatch, capsys):
    run_quickly(SCRIPT, tmp_path, monkeypatch)
    out = capsys.readouterr().out
    assert [row.split()[0] for row in out.splitlines()[1:]] == ["Inception", "BN-x5", "BN-x5-Sigmoid"]
    assert "</svg>" in (tmp_path / "learning_rates.svg").read_text()
    curve = json.loads((tmp_path / "results.json").read_text())["runs"][1]["curve"]
    assert [point["step"] for point in curve] == [2, 4]


def test_readme_shows_results():
    sample = runpy.run_path(str(SCRIPT))
    results = json.loads((SAMPLE / "results.json").read_text())
    assert sample["table"](results) in (SAMPLE / "README.md").read_text()


def test_curves_are_compared_seed_by_seed():
    sample = runpy.run_path(str(SCRIPT))
    table = sample["table"](
        {
            "runs": [
                _run("Inception", 0, 0.1, 0.4),
                _run("Inception", 1, 0.1, 0.2),
                _run("BN-x5", 0, 0.4),
                _run("BN-x5", 1, 0.1),
            ]
        }
    )
    assert table.splitlines()[2].split("  ")[-1].strip() == "2.0, never"


def _run(name, seed, *accuracies):
    curve = [{"step": 50 * (i + 1), "accuracy": accuracy} for i, accuracy in enumerate(accuracies)]
    return {"name": name, "seed": seed, "curve": curve}
