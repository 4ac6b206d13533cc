"""Quantized networks: honest folds pass, whole steps apart or not, and faults of scale, zero point, sign, axis do not."""

from __future__ import annotations

import re
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from bnfold.folding import driver
from bnfold.runtime import sessions
from bnfold.verification import comparison, verify, verifying
from bnfold.verification.level_results import Level
from bnfold.verification.measure import Tally
from bnfold.verification.quantized import kernels
from bnfold.verification.quantized.steps import either_neighbour, is_step, rounds, steps
from bnfold.verification.tensor_records import record
from bnfold.verification.trial import MORE_JITTERS, Trial
from bnfold_cli.main import run
from tests import quantized, quantized_layers
from tests.test_providers import _in_this_process

__all__ = ["_in_this_process"]
pytestmark = pytest.mark.usefixtures("_in_this_process")
# What each was before: FAIL at the default level, FAIL at ties with optimization off, no input, does not load, FAIL.
HONEST = {6: "uint8", 17: "uint16", 3: "int4", 18: "float8", 49: "int8", 46: "int16", 47: "int8"}


@pytest.mark.parametrize(("seed", "code"), HONEST.items())
def test_an_honest_fold_of_a_quantized_network_passes(seed: int, code: str) -> None:
    maker = quantized.Maker(seed)
    original = maker.model()
    assert maker.code == code
    folded = driver.fold(original)
    assert folded.folded
    found = verify(original, folded.model, untouched=folded.sites)
    assert (found.verdict, found.reasons[:1]) == ("PASS", found.reasons[:1])


@pytest.mark.parametrize("seed", [100, 104, 109, 121])
def test_an_honest_fold_with_negative_scales_passes(seed: int) -> None:
    """Signs in codes, scales for each channel, weights that the graph quantizes."""
    original = quantized.Maker(seed, negative=0.3).model()
    folded = driver.fold(original)
    assert not folded.batch_norms_kept
    assert verify(original, folded.model, untouched=folded.sites).verdict == "PASS"


FOLDED_LAYERS = [("conv", "int8", False, False), ("depthwise", "int8", False, True), ("conv", "uint8", False, False)]


@pytest.mark.parametrize(("form", "kind", "rows", "in_graph"), [*FOLDED_LAYERS, ("gemm as it is", "int4", True, False)])
def test_a_fault_in_scale_sign_code_zero_point_or_axis_fails(form: str, kind: str, rows: bool, in_graph: bool) -> None:
    values, shape = None, quantized_layers.FORMS[form].weight
    if kind == "uint8":  # zero points are mirrored
        values = quantized_layers.codes(shape, np.dtype(np.uint8), np.random.default_rng(1), narrow=False)
    original = quantized_layers.layer(form, kind, rows, values=values, in_graph=in_graph)
    folded = driver.fold(original)
    assert verify(original, folded.model, untouched=folded.sites).grade == "proved"
    verdicts = {
        fault: verify(original, model, untouched=folded.sites, levels=["off"]).verdict
        for fault, model in quantized.faults(original, folded.model)
    }
    assert len(verdicts) > 10
    assert {*verdicts.values()} == {"FAIL"}


@pytest.mark.parametrize("seed", [0, 6, 49])
def test_a_planted_fault_does_not(seed: int) -> None:
    original = quantized.Maker(seed).model()
    folded = driver.fold(original)
    for fault, model in islice(quantized.faults(original, folded.model), 8):
        found = verify(original, model, untouched=folded.sites, levels=["off"])
        assert (fault, found.verdict) == (fault, "FAIL")


def layer(fault: float = 1.0, code: int = TensorProto.UINT8) -> tuple[onnx.ModelProto, onnx.ModelProto]:
    """Conv -> Mul by a number -> Q -> DQ -> Relu, and the number worked into the scale of Q by hand."""
    r = np.random.default_rng(0)
    zero = np.array(0, helper.tensor_dtype_to_np_dtype(code))
    stored = {"w": np.float32(r.standard_normal((4, 3, 3, 3))), "k": np.float32(2), "s": np.float32(0.1), "z": zero}
    made = []
    for scaled in (False, True):
        values = {**stored, "s": np.float32(stored["s"] / 2 * fault)} if scaled else stored
        nodes = [helper.make_node("Conv", ["x", "w"], ["c"])]
        nodes += [] if scaled else [helper.make_node("Mul", ["c", "k"], ["m"])]
        nodes += [helper.make_node("QuantizeLinear", ["c" if scaled else "m", "s", "z"], ["q"])]
        nodes += [helper.make_node("DequantizeLinear", ["q", "t", "z"], ["d"]), helper.make_node("Relu", ["d"], ["y"])]
        used = {name for node in nodes for name in node.input}
        tensors = [
            numpy_helper.from_array(np.asarray(v), n) for n, v in {**values, "t": stored["s"]}.items() if n in used
        ]
        info = helper.make_tensor_value_info
        ends = [info("x", TensorProto.FLOAT, ["N", 3, 8, 8])], [info("y", TensorProto.FLOAT, ["N", 4, 6, 6])]
        graph = helper.make_graph(nodes, "g", *ends, tensors)
        made.append(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10))
    return made[0], made[1]


@pytest.mark.parametrize("code", [TensorProto.UINT8, TensorProto.INT4, TensorProto.FLOAT8E4M3FN])
def test_a_quantizer_whose_scale_the_fold_changed_is_compared_by_what_it_rounds(code: int) -> None:
    assert verify(*layer(code=code), levels=["off"]).passed
    found = verify(*layer(1 + 1e-5, code=code), levels=["off"])  # too little for most codes to flip
    assert found.verdict == "FAIL"


def test_the_default_level_alone_is_no_judge_of_whole_steps() -> None:
    assert {level.level for level in verify(*layer(), levels=["default"]).levels} >= {"off", "default"}
    assert verify(*layer(1 + 1e-5), levels=["default"]).verdict == "FAIL"


def saturating(
    monkeypatch: pytest.MonkeyPatch,
    steps_off: float,
    cure: str,
    few: bool = False,
    original: float = 0,
    cured: float = 0,
) -> None:
    """An onnxruntime whose default level is so many steps of 0.1 off in the folded model, and in the original.

    With the session entry `cure` it is so many off that are `cured`, in the folded model.
    """
    session, outputs, wrong = sessions.session, sessions.outputs, dict[int, tuple[Any, float]]()

    def loaded(model: bytes | str, made: Any, *rest: Any) -> Any:
        running = session(model, made, *rest)
        is_folded = isinstance(model, bytes) and not any(
            n.op_type == "Mul" for n in onnx.load_from_string(model).graph.node
        )
        try:
            is_cured = made.get_session_config_entry(cure) == "1"
        except RuntimeError:
            is_cured = False
        if made.graph_optimization_level.name == "ORT_ENABLE_ALL":
            off = steps_off if is_folded else original
            wrong[id(running)] = running, off if not is_cured else cured * is_folded
        return running

    def run(running: Any, *rest: Any) -> list[Any]:
        found = outputs(running, *rest)
        if id(running) not in wrong:
            return found
        off = [np.zeros(value.shape, np.float32) for value in found]
        for value in off:
            value.reshape(-1)[: 1 if few else None] = 0.1 * wrong[id(running)][1]
        return [a + b for a, b in zip(found, off, strict=True)]

    monkeypatch.setattr(sessions, "session", loaded)
    monkeypatch.setattr(sessions, "outputs", run)


@pytest.mark.parametrize("few", [False, True])
def test_saturating_kernels_are_named_with_their_size_in_steps(monkeypatch: pytest.MonkeyPatch, few: bool) -> None:
    """Seen for real on processors with AVX2 and without VNNI: there a few elements are 192 steps off."""
    saturating(monkeypatch, 7, kernels.PRECISE, few)
    found = verify(*layer())
    assert found.passed
    warnings = [note for note in found.notes if note.startswith("warning: ")]
    assert len(warnings) == 1
    assert "7 quantization steps (0.7)" in warnings[0]
    assert "session.x64quantprecision=1" in warnings[0]


@pytest.mark.parametrize(
    ("steps", "words"),
    [
        (
            (14, 0, 0),
            "saturate on this processor: .* up to 14 quantization steps .* Folding is what makes it choose them",
        ),
        (
            (14, 2, 0),
            r"saturate on this processor: .* up to 14 .* off, of the original up to 2 quantization steps \(0.2\)\. ",
        ),
        (
            (3, 0, 1.9),
            r"differ from float64 by more than rounding explains: .* up to 3 quantization steps \(0.3\) off\. The",
        ),
    ],
)
def test_a_warning_claims_what_the_run_with_the_entry_shows(
    monkeypatch: pytest.MonkeyPatch, steps: tuple[float, float, float], words: str
) -> None:
    saturating(monkeypatch, steps[0], kernels.PRECISE, original=steps[1], cured=steps[2])
    (warning,) = (note for note in verify(*layer()).notes if note.startswith("warning: "))
    assert re.search(words, warning)
    assert ("Folding" in warning) is (steps == (14, 0, 0))


def test_a_runtime_that_is_as_far_off_whatever_the_entry_is_no_pass(monkeypatch: pytest.MonkeyPatch) -> None:
    saturating(monkeypatch, 7, kernels.IN_FLOAT)
    assert verify(*layer()).verdict == "FAIL"


def test_one_step_by_integer_kernels_passes_and_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    saturating(monkeypatch, 1, kernels.PRECISE)
    found = verify(*layer())
    assert found.passed
    assert any("up to 1 quantization step (0.1) off" in note for note in found.notes)


def test_either_neighbour_is_a_neighbour() -> None:
    node = helper.make_node("QuantizeLinear", ["x", "s", "z"], ["q"])
    x, s, z = np.linspace(-20, 20, 4001), np.array(0.1), np.array(3, np.int8)
    exact = np.clip(rounds(node, x, s, z), -128, 127)
    codes = either_neighbour(0)(node, [x, s, z], [np.zeros(4001, np.int8)])[0]
    assert codes.dtype == np.int8
    assert np.abs(codes - exact).max() < 1
    assert np.mean(np.abs(codes - exact) > 0.5) > 0.2


@pytest.mark.parametrize(
    ("node", "is_one"),
    [
        (helper.make_node("Cast", ["x"], ["y"], to=TensorProto.INT64), True),
        (helper.make_node("Cast", ["x"], ["y"], to=TensorProto.FLOAT16), False),
        (helper.make_node("ArgMax", ["x"], ["y"]), True),
        (helper.make_node("ArgMax", ["x"], ["y"], domain="mine"), False),
        (helper.make_node("Relu", ["x"], ["y"]), False),
    ],
)
def test_what_makes_steps(node: onnx.NodeProto, is_one: bool) -> None:
    assert is_step(node) is is_one


def test_weights_that_are_quantized_in_the_graph_are_no_steps() -> None:
    original = quantized.Maker(0).model()
    found = steps(original.graph, original.graph, ())
    assert found
    assert not any(
        name.startswith("w") for node in original.graph.node if node.output[0] in found for name in node.input
    )


@pytest.mark.parametrize(("ratio", "better", "ok"), [(5.0, 1.0, True), (5.0, 6.0, False), (33.0, 1.0, False)])
def test_an_error_close_to_its_limit_is_measured_with_many_copies(
    monkeypatch: pytest.MonkeyPatch, ratio: float, better: float, ok: bool
) -> None:
    """mobilenetv3_small with one seed: 4.9 of 4 by four copies, all of which moved the network in one direction."""
    asked = list[int]()

    def measured(trial: Any, level: str, names: Any) -> Level:
        asked.append(trial.copies)
        found = better if trial.copies else ratio
        entry = record(Tally("y"), "Conv", output=True, site=False)
        return Level(level, tensors=(replace(entry, ok=found <= 4, ratio=found),))

    monkeypatch.setattr(comparison, "_measured", measured)
    trial = Trial(onnx.ModelProto(), onnx.ModelProto(), "fast", 0, "")
    assert comparison._level(trial, "off", ["y"]).tensors[0].ok is ok
    assert asked == ([0, MORE_JITTERS] if ratio < 32 else [0])


def test_a_fold_says_of_what_its_verification_warns(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Folding is what makes onnxruntime choose the kernels: whoever folds has to know, not only who verifies."""
    path = tmp_path / "m.onnx"
    onnx.save(quantized.Maker(6).model(), path)
    monkeypatch.setattr(verifying, "run_wrong", lambda levels: ("warning: kernels saturate", "another note"))
    assert run(["fold", str(path), str(tmp_path / "f.onnx")]) == 0
    words = capsys.readouterr().err
    assert "\nwarning: kernels saturate\n" in words
    assert "another note" not in words
