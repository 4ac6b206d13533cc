"""The self-test finds what it plants, and says so where a verifier finds nothing."""

from __future__ import annotations

import json
from dataclasses import replace

import onnx
import pytest

from bnfold.errors import ModelProblem
from bnfold.verification import self_test, selftest, verify
from bnfold_cli.main import run
from tests.verify_nets import CONV, NETS, run_here


@pytest.fixture(autouse=True)
def _in_this_process(monkeypatch: pytest.MonkeyPatch) -> None:
    run_here(monkeypatch)


@pytest.mark.parametrize("name", NETS)
def test_every_fault_is_found_by_both_tiers(name: str) -> None:
    net = NETS[name]
    weights = net.weights(2)
    found = self_test(net.original(weights), net.folded(net.fold(weights)))
    assert found.passed
    assert {p.fault for p in found.planted} >= {"epsilon forgotten", "channels of the weight swapped", "bias forgotten"}
    assert ("layout of the groups" in {p.fault for p in found.planted}) == (name == "transpose")
    assert all(p.algebra and p.numbers for p in found.planted if p.size is None or p.size > 1e-5)
    assert found.smallest("algebra") <= 1e-5


def test_a_verifier_that_finds_nothing_does_not_pass(monkeypatch: pytest.MonkeyPatch) -> None:
    weights = CONV.weights(2)
    original, folded = CONV.original(weights), CONV.folded(CONV.fold(weights))
    blind = replace(verify(original, folded), levels=(), derived=())
    monkeypatch.setattr(selftest, "verify", lambda *models, **how: blind)
    found = self_test(original, folded)
    assert not found.passed
    assert found.smallest("numbers") is None


def test_nothing_to_plant_a_fault_in() -> None:
    model = CONV.original(CONV.weights(2))
    with pytest.raises(ModelProblem, match="nothing to plant"):
        self_test(model, model)


def test_the_command_line(tmp_path, capsys) -> None:  # type: ignore[no-untyped-def]
    weights = CONV.weights(2)
    paths = [str(tmp_path / name) for name in ("a.onnx", "b.onnx")]
    for model, path in zip((CONV.original(weights), CONV.folded(CONV.fold(weights))), paths, strict=True):
        onnx.save(model, path)
    assert run(["verify", *paths, "--self-test", "--json", "-"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["self_test"]["smallest_found"]["algebra"] <= 1e-5
