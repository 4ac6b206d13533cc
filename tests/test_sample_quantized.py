"""samples/07_quantized: what it measured, and that its README says just that; its quick run is in test_readme."""

from __future__ import annotations

import json

import pytest

from tests.samples import folder, module

SAMPLE = folder("07_quantized")
RESULTS = json.loads((SAMPLE / "results.json").read_text())
ROWS = RESULTS["rows"]


def test_the_readme_shows_what_was_measured(capsys):
    with module(SAMPLE / "quantized.py") as sample:
        sample.show(RESULTS)
    assert f"$ python quantized.py\n{capsys.readouterr().out}```" in (SAMPLE / "README.md").read_text()


def test_what_the_readme_claims():
    norms = {name: row["batch_norms"] for name, row in ROWS.items()}
    assert norms == {
        "trained": 4, "folded": 0, "folded, quantized": 0, "quantized": 4, "quantized, folded": 4, "inputs quantized": 4,
        "inputs quantized, folded": 0,
    }  # fmt: skip
    for slow, fast in (("quantized", "folded, quantized"), ("inputs quantized", "inputs quantized, folded")):
        assert ROWS[fast]["times as fast"][1] > ROWS[slow]["times as fast"][2]
    assert ROWS["quantized"]["times as fast"][2] < 1


@pytest.mark.parametrize("before", ["trained", "quantized", "inputs quantized"])
def test_folding_costs_no_accuracy(before):
    after = "folded" if before == "trained" else f"{before}, folded"
    assert abs(ROWS[before]["accuracy"] - ROWS[after]["accuracy"]) < 0.002
