"""The quantized wing of the zoo: nothing is kept that has a place, and the record says what README.md claims."""

from __future__ import annotations

import json
from pathlib import Path

import onnx
import pytest

from tests import zoo_quantized
from tests.quantizing import KINDS
from tests.zoo_quantized import NAMES, PEERS, measured

RECORD = Path(__file__).parent / "benchmarks" / "results" / "quantized_zoo_cpu.json"
ROWS = {(row["name"], row["kind"]): row for row in json.loads(RECORD.read_text())["rows"]}
BATCH_NORMS = {"resnet18": 20, "mobilenetv2": 52, "repvgg_a0": 61, "U-Net": 12, "MLP": 3}
KEPT = {"repvgg_a0": 17, "U-Net": 2}  # the branches without a Conv; after a Concat with a Relu, before a rounding
SMALL = ("MLP", "U-Net")


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
    return tmp_path_factory.mktemp("quantized")


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind != "QLinear"])
@pytest.mark.parametrize("name", [*SMALL, *(pytest.param(n, marks=pytest.mark.zoo) for n in NAMES if n not in SMALL)])
def test_quantized_weights_keep_no_batch_normalization_that_has_a_place(name, kind, cache):
    row = measured(name, kind, cache)
    assert (row.before, row.after) == (BATCH_NORMS[name], KEPT.get(name, 0))
    assert row.verdict == "PASS proved"
    assert all("INTEGERS" in reason for reason in row.reasons)


def test_integer_operators_keep_all_for_one_reason(cache):
    """Their outputs are rounded before the BatchNormalization comes."""
    row = measured("MLP", "QLinear", cache)
    assert (row.before, row.after, row.verdict) == (3, 3, "")
    assert [*row.reasons] == ["INTEGERS/NONLINEAR"]


@pytest.mark.parametrize("kind", ["QDQ per tensor", "QAT", "QLinear"])
def test_the_forms_are_what_they_are_called(kind, cache):
    graph = onnx.load(zoo_quantized.source("MLP", kind, cache)).graph
    made = [node.op_type for node in graph.node]
    scales = {
        len(t.dims)
        for n in graph.node
        if n.op_type == "DequantizeLinear"
        for t in graph.initializer
        if t.name == n.input[1]
    }
    stored = {t.name for t in graph.initializer}
    assert ("QGemm" in made or "QLinearMatMul" in made) == (kind == "QLinear")
    assert any(n.op_type == "QuantizeLinear" and n.input[0] in stored for n in graph.node) == (kind == "QAT")
    assert scales == ({0, 1} if kind == "QAT" else {0})
    gammas = [
        t for n in graph.node if n.op_type == "BatchNormalization" for t in graph.initializer if t.name == n.input[1]
    ]
    signs = [x < 0 for t in gammas for x in onnx.numpy_helper.to_array(t)]
    assert 0.15 < sum(signs) / len(signs) < 0.45


def test_the_command_prints_its_table(capsys, cache):
    assert zoo_quantized.main(["MLP", "--kinds", "QAT", "QLinear", "--cache", str(cache)]) == 0
    said = capsys.readouterr().out.splitlines()
    assert said[2].startswith("| MLP | QAT | 3 | 0 |  | PASS proved |")
    assert said[3].startswith("| MLP | QLinear | 3 | 3 | 3 INTEGERS/NONLINEAR |")
    assert "- the activation scale of DequantizeLinear '..' is per tensor, and the affine varies over channels" in said


def test_the_record_has_every_network_in_every_form():
    assert {*ROWS} == {(name, kind) for name in NAMES for kind in KINDS}
    for (name, kind), row in ROWS.items():
        assert row["before"] == BATCH_NORMS[name]
        assert row["after"] == (row["before"] if kind == "QLinear" else KEPT.get(name, 0))
        assert row["verdict"] == ("" if row["after"] == row["before"] else "PASS proved")
        assert {*row["peers"]} == {*PEERS}
        assert sum(row["reasons"].values()) == row["after"]
