"""Verification: the short answer, with which inputs it is given and when the whole networks have to be compared."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

import bnfold
from bnfold.runtime import sessions
from bnfold.runtime.detached import Skeleton
from bnfold.verification import confirm
from bnfold.verification.level_sessions import FOLDED
from tests.verify_nets import EPSILON, Weights, chain, run_here


@pytest.fixture(autouse=True)
def here(monkeypatch: pytest.MonkeyPatch) -> None:
    run_here(monkeypatch, short=True)


def pair(rest: str, far: float = 0.0, **constants: Any) -> tuple[onnx.ModelProto, onnx.ModelProto]:
    """A Conv with a BatchNormalization, folded in the second model, and what `rest` makes of their output `n`.

    The mean that is taken off is `far` from zero.
    """
    rng = np.random.default_rng(4)
    more = {name: np.asarray(value) for name, value in constants.items()}
    stored: Weights = {"w": rng.standard_normal((4, 4, 3)), "b": rng.standard_normal(4) + far, **more}
    norm = {name: rng.uniform(0.5, 1.5, 4).astype(np.float32) for name in ("scale", "shift", "mean", "var")}
    norm["mean"] += np.float32(far)
    original = chain(
        f"c = Conv (x, w, b)  n = BatchNormalization <epsilon = {EPSILON}> (c, scale, shift, mean, var)  {rest}",
        {**stored, **norm},
    )
    s = norm["scale"].astype(np.float64) / np.sqrt(norm["var"].astype(np.float64) + np.float32(EPSILON))
    w, b = (stored[name].astype(np.float32).astype(np.float64) for name in ("w", "b"))
    folded = {**stored, "w": w * s[:, None, None], "b": (b - norm["mean"]) * s + norm["shift"]}
    return original, chain(f"n = Conv (x, w, b)  {rest}", folded)


def references(found: bnfold.Verification) -> set[str]:
    return {level.reference for level in found.levels}


def test_one_input_of_each_size_that_was_asked_for_confirms() -> None:
    found = bnfold.verify(*pair("y = Relu (n)"), dims={"N": [1, 3]})
    assert found.passed, found.reasons
    assert references(found) == {"original"}
    assert [level.cases for level in found.levels] == [("normal, seed 0, N 1", "wide, seed 0, N 3")] * 2


def test_an_input_that_shows_nothing_gives_way_to_another_distribution() -> None:
    found = bnfold.verify(*pair("d = Sub (n, most)  y = Relu (d)", most=100))
    assert found.passed, found.reasons
    assert [level.cases for level in found.levels] == [("wide, seed 0, batch 1",)] * 2
    assert references(found) == {"original"}


def test_outputs_of_one_element_are_distinguished_by_several_inputs() -> None:
    original, folded = pair("m = GlobalMaxPool (n)  y = ReduceMean <axes = [1]> (m)")
    for model in (original, folded):
        model.graph.input[0].type.tensor_type.shape.dim[0].dim_value = 1
        del model.graph.output[0].type.tensor_type.shape.dim[:]
        model.graph.output[0].type.tensor_type.ClearField("shape")
    found = bnfold.verify(original, folded)
    assert found.passed, found.reasons
    assert references(found) == {"original"}
    assert [len(level.cases) for level in found.levels] == [3, 3]


def test_outputs_that_nothing_moves_leave_it_to_the_proof() -> None:
    original, folded = pair("d = Sub (n, most)  y = Relu (d)", most=1e5)
    for model in (original, folded):
        model.graph.input[0].type.tensor_type.shape.dim[0].dim_value = 2
    found = bnfold.verify(original, folded)
    assert found.passed, found.reasons
    assert found.grade == "proved"
    assert all(tensor.constant for level in found.levels for tensor in level.tensors)
    assert references(found) == {"original"}


def test_what_rounding_explains_needs_no_comparison_of_whole_networks() -> None:
    found = bnfold.verify(*pair("y = Relu (n)", far=1e5))
    assert found.passed, found.reasons
    assert references(found) == {"original"}
    assert {tensor.limit for level in found.levels for tensor in level.tensors} == {4.0}


@pytest.mark.parametrize("named", [True, False])
def test_the_folded_model_runs_as_it_is_served(named: bool, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """From its file, though it has constants in common with the original, or whole: constants are laid out anew."""
    opened: list[Any] = []
    real = sessions.session
    monkeypatch.setattr(sessions, "session", lambda model, *rest: opened.append(model) or real(model, *rest))
    wide = np.random.default_rng(5).standard_normal((2, 4096, 6))
    paths = [tmp_path / "a.onnx", tmp_path / "b.onnx"]
    for model, path in zip(
        pair("m = MatMul (n, v)  y = MatMul (m, u)", v=wide[0, :, :4].T, u=wide[1]), paths, strict=True
    ):
        for number, node in enumerate(model.graph.node):
            node.name = f"node{number}" if named else ""
        onnx.save(model, path)
    found = bnfold.verify(*paths)
    assert found.passed, found.reasons
    assert references(found) == {"original"}
    assert [type(model) for model in opened] == [Skeleton, Skeleton, str if named else bytes]
    assert not named or opened[2] == str(paths[1])


@pytest.mark.parametrize("by", [1e-3, np.nan])
def test_what_rounding_does_not_explain_does(by: float, monkeypatch: pytest.MonkeyPatch) -> None:
    real = confirm._run

    def run(trial: Any, model: Any, label: str, *rest: Any) -> Any:
        made = real(trial, model, label, *rest)
        if label != FOLDED:
            return made
        return replace(made, outputs=[[output * np.float32(1 + by) for output in each] for each in made.outputs])

    monkeypatch.setattr(confirm, "_run", run)
    found = bnfold.verify(*pair("y = Relu (n)"))
    assert found.passed, found.reasons
    assert references(found) == {"float64"}
