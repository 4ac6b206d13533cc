"""What the sample on domains measured, and that its README says just that; its quick run is in test_readme."""

from __future__ import annotations

import json
from collections.abc import Iterator

import numpy as np
import pytest

from tests.samples import folder, module

SAMPLE = folder("06_recalibrate_for_a_new_domain")
RESULTS = json.loads((SAMPLE / "results.json").read_text())
ROWS = [(model, name, row) for model, domains in RESULTS["models"].items() for name, row in domains.items()]


@pytest.fixture(scope="module")
def sample() -> Iterator[object]:
    with module(SAMPLE / "new_domain.py") as loaded:
        yield loaded


def test_the_readme_shows_what_was_measured(sample, capsys):
    sample.show(RESULTS)
    assert f"$ python new_domain.py\n{capsys.readouterr().out}```" in (SAMPLE / "README.md").read_text()


@pytest.mark.parametrize(("model", "name", "row"), ROWS, ids=lambda part: part if isinstance(part, str) else "")
def test_what_the_readme_claims(model, name, row):
    home = RESULTS["models"][model]["as in training"]
    assert row["check"] == ("PASS" if name == "as in training" else "FAIL")
    assert row["folded"] == row["after"]
    assert row["batch_norms"][1] == 0 < row["batch_norms"][0]
    if name == "as in training":
        assert row["after"] > row["before"] - 0.001
    elif name == "inverted":
        assert row["after"] < home["before"] / 2, "statistics cannot repair it"
    else:
        assert home["before"] - row["after"] < (home["before"] - row["before"]) / 2, "most of what was lost"


def test_all_domains_are_there(sample):
    for domains in RESULTS["models"].values():
        assert [*domains] == [*sample.CAMERAS, *sample.FORGOTTEN]


def test_domains_are_pixels_that_the_model_normalizes(sample):
    images = np.random.default_rng(0).integers(0, 256, (2, 1, 28, 28)).astype(np.uint8)
    usual = sample.USUAL
    for name in sample.CAMERAS:
        pixels = sample.domain(name, images, None)
        assert pixels.dtype == np.uint8
        np.testing.assert_array_equal(sample.domain(name, images, usual), usual(pixels))
    np.testing.assert_array_equal(sample.domain("inverted", images, None), 255 - images)
    for name, scale in (("0 to 1, not normalized", 255), ("0 to 255, not normalized", 1)):
        np.testing.assert_allclose(sample.domain(name, images, usual), images / scale, rtol=1e-6)


def test_blur_keeps_what_is_flat_and_the_light_of_what_is_not(sample):
    point = np.zeros((1, 1, 28, 28))
    point[0, 0, 10, 10] = 25
    assert sample.blurred(point)[0, 0, 8:13, 8:13].tolist() == [[1.0] * 5] * 5
    assert sample.blurred(point).sum() == 25
