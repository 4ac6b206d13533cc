"""Ring 6: whatever the graph, folding changes nothing that it computes, and one call finishes the work."""

from __future__ import annotations

from collections import Counter

import onnx
import pytest
from hypothesis import HealthCheck, given, settings

from bnfold.folding.driver import Folded, fold
from tests.build import assert_same
from tests.graphs import models

FLOOR = 0.6  # share of the affine nodes that fold; below it the laws would be green because nothing moves


def is_affine(folded: Folded) -> bool:
    """Not one of the sums and branches that went where convolutions merged."""
    return folded.direction != "merge" or folded.operator == "BatchNormalization"


def run(examples: int) -> Counter[str]:
    tally: Counter[str] = Counter()

    @settings(
        deadline=None, max_examples=examples, suppress_health_check=list(HealthCheck), derandomize=examples < 1000
    )
    @given(models())
    def folding_never_changes_what_a_model_computes(model: onnx.ModelProto) -> None:
        onnx.checker.check_model(model, full_check=True)
        result = fold(model)
        assert_same(model, result.model, tolerance=1e-7)
        again = fold(result.model)
        assert again.folded == ()
        assert again.model == result.model
        tally["folded"] += sum(map(is_affine, result.folded))
        tally["kept"] += len(result.kept)

    folding_never_changes_what_a_model_computes()
    return tally


@pytest.mark.filterwarnings("ignore::RuntimeWarning")  # activations may overflow, in the reference as well
def test_random_graphs():
    tally = run(200)
    assert tally["folded"] >= FLOOR * (tally["folded"] + tally["kept"]), tally


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::RuntimeWarning")
def test_many_random_graphs():
    tally = run(5000)
    assert tally["folded"] >= FLOOR * (tally["folded"] + tally["kept"]), tally
