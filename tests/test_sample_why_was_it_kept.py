"""samples/02_why_was_it_kept: each model is kept for the reason it is named after, and once repaired folds and computes the same."""

from __future__ import annotations

import pytest

from bnfold.folding import driver
from tests.build import assert_same
from tests.samples import folder, module

REASONS = {
    "debug_output": "GRAPH_OUTPUT",
    "overridable": "GRAPH_INPUT",
    "unknown_size": "SHAPE_UNKNOWN",
    "training_dropout": "TRAINING",
    "too_large_for_float16": "OVERFLOW",
    "before_a_padded_conv": "PADDING",
    "after_a_relu": "NONLINEAR",
    "negative_scale": "NEGATIVE_SCALE",
    "read_twice": "SHARED",
}
FINAL = {"negative_scale", "read_twice"}


@pytest.fixture(scope="module")
def why():
    with module(folder("02_why_was_it_kept") / "why.py") as script:
        yield script


def test_every_example_has_its_reason(why):
    kept = {make.__name__: driver.fold(make().kept).kept for make in why.EXAMPLES}
    codes = {name: {k.not_hoisted.code, k.not_sunk.code} for name, (k,) in kept.items()}
    assert [*codes] == [*REASONS]
    assert all(REASONS[name] in both for name, both in codes.items()), codes


@pytest.mark.parametrize("name", sorted(REASONS.keys() - FINAL))
def test_what_is_mended_folds_and_computes_the_same(name, why):
    example = getattr(why, name)()
    repaired = example.repair(example.kept) if example.repair else example.kept
    result = driver.fold(repaired, freeze_initializers=example.freeze)
    assert result.kept == ()
    assert_same(repaired, result.model, tolerance=1e-5)
