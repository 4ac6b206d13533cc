"""Faults planted in folded quantized networks: each is one, and verification calls it FAIL."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

import bnfold
from bnfold.folding import driver
from tests.benchmarks.quantized_faults import FORMS, KINDS, layers, with_fault
from tests.zoo_quantized import source

RECORD = json.loads((Path(__file__).parent / "benchmarks" / "results" / "quantized_faults_cpu.json").read_text())
HARMLESS = {"one zero point by one", "one scale with the wrong sign"}  # where one tensor is that of both, Q and DQ


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
    return tmp_path_factory.mktemp("faults")


@pytest.mark.parametrize("form", FORMS)
def test_a_fault_changes_what_a_layer_reads(form, cache):
    folded = driver.fold(source("MLP", form, cache)).model
    every = layers(folded)
    assert [layer.output for layer in every][-1] == "logits"
    made = {kind: with_fault(folded, every[0], kind) for kind in KINDS}
    missing = {kind for kind, wrong in made.items() if wrong is None}
    assert missing <= {"another axis", "scale of the quantizer x 1.02"} | (HARMLESS if form == "QAT" else set())
    before = {t.name: numpy_helper.to_array(t) for t in folded.graph.initializer}
    for wrong in filter(None, made.values()):
        after = {t.name: numpy_helper.to_array(t) for t in wrong.graph.initializer}
        assert sum(not np.array_equal(before[name], after[name]) for name in before) == 1


def test_scales_along_another_axis_are_a_fault(cache):
    folded = driver.fold(source("MLP", "QDQ per channel", cache)).model
    (square,) = (layer for layer in layers(folded) if with_fault(folded, layer, "another axis") is not None)
    wrong = with_fault(folded, square, "another axis")
    (node,) = (n for n in wrong.graph.node if n.output[0] == square.weight)
    (kept,) = (n for n in folded.graph.node if n.output[0] == square.weight)
    assert [a.i for a in node.attribute] != [a.i for a in kept.attribute]
    assert bnfold.verify(source("MLP", "QDQ per channel", cache), wrong).verdict == "FAIL"


@pytest.mark.parametrize(
    "kind", ["one scale x 1.001", "signs of one channel", "one code by one", "one zero point by one"]
)
def test_a_fault_fails(kind, cache):
    path = source("MLP", "QDQ per tensor", cache)
    folded = driver.fold(path).model
    wrong = with_fault(folded, layers(folded)[1], kind)
    assert isinstance(wrong, onnx.ModelProto)
    assert bnfold.verify(path, wrong).verdict == "FAIL"


def test_the_record_has_none_that_was_missed():
    assert len(RECORD["rows"]) >= 200
    assert {row["verdict"] for row in RECORD["rows"]} == {"FAIL"}
    assert {row["fault"] for row in RECORD["rows"]} >= {*KINDS} - {"another axis"}
