"""`bnfold verify` between any two models: a pair of each kind of `tests.benchmarks.referee`, and what is known of them."""

from __future__ import annotations

import numpy as np
import pytest
from onnx import ModelProto

from tests.benchmarks.referee import nets, pairs, truth
from tests.benchmarks.referee.edits import of_input, put
from tests.benchmarks.referee.judging import is_false_alarm, is_miss, judged, table
from tests.data import data_path
from tests.verify_nets import run_here

EVERY = list(pairs.edits())
ONE_OF_EACH = {pair.kind: pair for pair in reversed(EVERY)}


def require_data(kind: str) -> None:
    if kind in ("real files", "faultless folds"):  # of real files, too
        data_path("onnx")


@pytest.mark.parametrize("kind", ONE_OF_EACH)
def test_the_verdict_on_one_of_each_kind(kind, monkeypatch):
    require_data(kind)
    run_here(monkeypatch)
    row = judged(ONE_OF_EACH[kind])
    assert not is_miss(row), row
    assert not is_false_alarm(row), row


@pytest.mark.parametrize("tool", ["onnxruntime", "onnxslim", "onnxscript"])
def test_the_verdict_on_the_fold_of_another_tool(tool, monkeypatch):
    data_path("onnx", "burn_mnist.onnx")
    pytest.importorskip(tool)
    pair = next(p for p in pairs.of_tools() if p.kind == f"folds by {tool}" and p.name == "burn_mnist")
    run_here(monkeypatch, short=True)
    row = judged(pair)
    assert (row["truth"], row["verdict"]) == ("right", "PASS"), row


@pytest.mark.parametrize("kind", ONE_OF_EACH)
def test_faults_show_and_right_changes_do_not(kind, tmp_path):
    """Making a pair raises where inputs do not show what is said of it."""
    require_data(kind)
    for number, pair in enumerate(each for each in EVERY if each.kind == kind):
        folder = tmp_path / str(number)
        folder.mkdir()
        _, _, known, why = pair.made(folder)
        assert known in (pairs.FAULT, pairs.SAME)
        assert why


def test_what_is_shown_is_more_than_the_fold_rounds():
    original, right = nets.pair("wide")
    feeds = truth.normal(original)
    for size, seen in ((1e-8, False), (1e-4, True)):
        other = ModelProto()
        other.CopyFrom(right)
        of_input("Conv", 1, lambda w, size=size: w * (1 + size), 1)(other)
        assert truth.shows(original, right, other, feeds) is seen
    put("Conv", 1, group=3)(other)
    assert truth.shows(original, right, other, feeds), "a model that does not run is not the same"


def test_distances():
    values = {"y": np.array([1.0, np.nan, np.inf, 4.0], np.float32)}
    assert truth.distance(values, values) == 0
    assert truth.distance(values, {"y": values["y"].astype(np.float64)}) == np.inf
    assert truth.distance(values, {"y": values["y"][:3]}) == np.inf
    assert truth.distance(values, {}) == np.inf
    assert truth.distance(values, {"y": np.array([1.0, 0.0, np.inf, 4.0], np.float32)}) == np.inf
    assert truth.distance(values, {"y": np.array([1.0, np.nan, np.inf, 5.0], np.float32)}) == 0.25
    assert truth.distance({"i": np.array([1, 2])}, {"i": np.array([1, 3])}) == 1


def test_the_table_counts_misses_and_false_alarms():
    rows = [
        {"kind": "Pad", "truth": "fault", "verdict": verdict} for verdict in ("FAIL", "PASS", "INCONCLUSIVE", "VACUOUS")
    ]
    rows += [{"kind": "Pad", "truth": "right", "verdict": verdict} for verdict in ("FAIL", "PASS", "PASS")]
    assert [*table(rows)] == [
        ("Pad", "fault", "4", "1", "2", "1", "1", "0"),
        ("all", "fault", "4", "1", "2", "1", "1", "0"),
        ("Pad", "right", "3", "1", "0", "2", "0", "1"),
        ("all", "right", "3", "1", "0", "2", "0", "1"),
    ]
