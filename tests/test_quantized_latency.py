"""The table of latencies of quantized networks: what it counts, and that its record is whole."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.benchmarks import quantized_latency
from tests.benchmarks.quantized_faults import FORMS
from tests.zoo_quantized import NAMES, source

RECORD = Path(__file__).parent / "benchmarks" / "results" / "quantized_latency_cpu.json"


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
    return tmp_path_factory.mktemp("latency")


def test_integer_layers_are_counted(cache, tmp_path):
    """All of integer operators, and none where a layer makes what nothing rounds."""
    counts = [
        quantized_latency.integer_layers(source("MLP", kind, cache), tmp_path / "o.onnx") for kind in ("QLinear", "QAT")
    ]
    assert counts[0] >= 4
    assert counts[1] == 0


def test_a_row_says_what_was_measured(cache, monkeypatch, capsys, tmp_path):
    path = tmp_path / "latency.json"
    arguments = [
        "MLP",
        "--forms",
        "QAT",
        "--launches",
        "2",
        "--budget",
        "1",
        "--cache",
        str(cache),
        "--json",
        str(path),
    ]
    monkeypatch.setattr("sys.argv", ["latency", *arguments, "--note", "a test"])
    quantized_latency.main()
    assert "| MLP | QAT | 3 | 0 |" in capsys.readouterr().out
    record = json.loads(path.read_text())
    (row,) = record["rows"]
    assert record["note"] == "a test"
    assert row["low"] <= row["ratio"] <= row["high"]


def test_the_record_has_every_network_in_every_form():
    rows = json.loads(RECORD.read_text())["rows"]
    assert {(row["name"], row["form"]) for row in rows} == {(name, form) for name in NAMES for form in FORMS}
    assert all(row["batch_normalization"]["folded"] < row["batch_normalization"]["original"] for row in rows)
