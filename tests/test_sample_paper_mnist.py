"""What the sample on MNIST measured, and that its README says just that; its quick run is in test_readme."""

from __future__ import annotations

import json
from collections.abc import Iterator
from statistics import fmean

import pytest

from tests.samples import folder, module

SAMPLE = folder("paper_mnist")
RESULTS = json.loads((SAMPLE / "results.json").read_text())


@pytest.fixture(scope="module")
def sample() -> Iterator[object]:
    with module(SAMPLE / "paper_mnist.py") as loaded:
        yield loaded


def test_the_readme_shows_what_was_measured(sample, capsys):
    sample.show(RESULTS)
    assert f"$ python paper_mnist.py\n{capsys.readouterr().out}```" in (SAMPLE / "README.md").read_text()


@pytest.mark.parametrize("pair", RESULTS["pairs"], ids=lambda pair: f"seed {pair['seed']}")
def test_what_section_4_1_claims(pair):
    """More accurate, sooner, and inputs of sigmoids that are steadier."""
    plain, bn = pair["plain"], pair["bn"]
    assert plain["steps"] == bn["steps"] == list(range(100, 50_001, 100))
    assert bn["final"]["sequential"] > plain["final"]["ema"] + 0.002
    assert bn["accuracies"][-1] == bn["final"]["ema"]
    assert pair["steps_to_plain_final"]["bn"] < pair["steps_to_plain_final"]["plain"] / 1.5
    assert bn["median_travel"] < plain["median_travel"] / 2


def test_by_population_statistics_the_mean_of_the_seeds_is_above_974():
    assert len(RESULTS["pairs"]) == 3
    assert fmean(pair["bn"]["final"]["sequential"] for pair in RESULTS["pairs"]) >= 0.974
    assert fmean(pair["plain"]["final"]["ema"] for pair in RESULTS["pairs"]) < 0.971


def test_the_first_step_that_is_good_enough(sample):
    curve = {"steps": [1, 2, 3], "accuracies": [0.1, 0.5, 0.4]}
    assert [sample.first_step(curve, goal) for goal in (0.0, 0.4, 0.5, 0.6)] == [1, 2, 2, None]


def test_the_typical_sigmoid_is_the_middle_one(sample):
    import numpy as np
    import torch

    medians = np.array([[0.0, 0, 0], [5, 1, 2]])  # three units travel by 5, 1 and 2
    percentiles = np.stack([medians - 1, medians, medians + 1], axis=1)
    probe = sample.Probe(torch.zeros(0), [1, 2], [0.5, 0.5], list(percentiles))
    typical = sample.typical_sigmoid(probe)
    assert (typical["typical_unit"], typical["median_travel"]) == (2, 2.0)
    assert typical["percentiles"] == [[-1, 0, 1], [1, 2, 3]]
