"""Where the original itself runs wrong, on a provider or by onnxruntime's own optimization: nothing wrong passes there."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from bnfold.folding.driver import fold
from bnfold.verification import verify
from bnfold.verification.measure import Tally
from tests.test_providers import Changed, _in_this_process, cpu_for_cuda, cuda_is_wrong, leaking
from tests.test_traps_judged import T5_ROW, in_float32, is_misfolded
from tests.verify_nets import EPSILON, chain

__all__ = ["_in_this_process", "cpu_for_cuda", "cuda_is_wrong"]  # fixtures
WORDS = "optimization default: both models run wrong from output "


def with_classes(model: onnx.ModelProto) -> onnx.ModelProto:
    """The model with ArgMax of its one output as its output."""
    output = model.graph.output[0].name
    model.graph.node.append(helper.make_node("ArgMax", [output], ["class"], axis=1, keepdims=0))
    del model.graph.output[:]
    model.graph.output.append(helper.make_tensor_value_info("class", TensorProto.INT64, None))
    return model


@pytest.mark.usefixtures("_in_this_process")
@pytest.mark.parametrize("classes", [False, True])
def test_what_onnxruntime_makes_wrong_in_both_models_alike_is_said(classes: bool) -> None:
    """The fold leaves a BatchNormalization there that onnxruntime (up to 1.31) folds wrongly by default."""
    model = in_float32(T5_ROW)
    misfolded = is_misfolded(model)
    model = with_classes(model) if classes else model
    found = verify(model, fold(model).model)
    assert found.passed
    notes = [note for note in found.notes if note.startswith(WORDS)]
    assert len(notes) == misfolded
    if misfolded:
        assert found.reasons[2].endswith("compared with the original alone, which is not what float64 makes of it")
        assert found.levels[1].tensors[0].miscomputed == "both"


def after_relu(epsilon: float) -> tuple[onnx.ModelProto, onnx.ModelProto]:
    """A BatchNormalization after a Relu, its scale folded with an epsilon; the outputs are classes."""
    r = np.random.default_rng(1)
    w, s, v, t = r.standard_normal((4, 4, 3)), r.uniform(0.5, 2, 4), r.uniform(0.01, 0.2, 4), np.ones(4)
    front = "p = Conv <pads = [1,1]> (x, u)  r = Relu (p)"
    bn = {"s": s, "t": t, "m": np.zeros(4), "v": v}
    original = chain(f"{front}  y = BatchNormalization (r, s, t, m, v)", {"u": w, **bn})
    moved = {"u": w * (s / np.sqrt(v + epsilon)).reshape(4, 1, 1), "t": t.reshape(4, 1)}
    return with_classes(original), with_classes(chain(f"{front}  y = Add (r, t)", moved))


def epsilon(number: float) -> Changed:
    def change(node: onnx.NodeProto) -> None:
        if node.op_type == "BatchNormalization":
            node.attribute.append(helper.make_attribute("epsilon", number))

    return change


@pytest.mark.parametrize("wrong", [0.1, 1e-4])
def test_a_fold_that_is_wrong_as_the_provider_is_does_not_pass(
    wrong: float, cuda_is_wrong: Callable[[Changed], None]
) -> None:
    """Both models run alike there, and classes say little of errors, be these large or small."""
    cuda_is_wrong(epsilon(wrong))
    assert verify(*after_relu(EPSILON), providers=["cuda"]).passed
    found = verify(*after_relu(wrong), providers=["cuda"])
    assert found.verdict == "FAIL"
    assert found.reasons[0].startswith("algebra: fold site 'y' (Add)")
    assert any("both models run wrong from fold site 'y' (BatchNormalization) on" in note for note in found.notes)


def test_of_a_fold_that_is_proved_it_is_said_that_both_models_run_wrong(
    cuda_is_wrong: Callable[[Changed], None],
) -> None:
    cuda_is_wrong(lambda node: leaking(node) if node.op_type == "Relu" else None)
    found = verify(*after_relu(EPSILON), providers=["cuda"])
    assert found.passed, found.reasons
    assert any("both models run wrong from tensor 'r' (Relu) on" in note for note in found.notes)


def tally(truth: np.ndarray, original: np.ndarray, folded: np.ndarray, on_cpu: np.ndarray) -> Tally:
    made = Tally("y")
    made.add(truth, original, folded, [original], on_cpu=on_cpu)
    return made


def test_a_cpu_that_knows_no_number_confirms_none() -> None:
    truth = np.linspace(1, 2, 64).astype(np.float32)
    wrong, nan = truth * np.float32(1.5), np.full_like(truth, np.nan)
    assert tally(truth, wrong, truth, truth).miscomputed == "original"
    assert tally(truth, wrong, truth, nan).miscomputed == ""
    assert tally(truth, wrong, truth, np.where(truth > 1.5, np.inf, truth)).miscomputed == ""


def test_integers_are_in_doubt_where_more_are_wrong_than_ties_make() -> None:
    truth = np.arange(64)
    few, wrong, other = np.where(truth < 3, 99, truth), truth + 1, truth + 2
    assert not tally(truth, few, few, truth).disputed
    assert [tally(truth, wrong, folded, truth).miscomputed for folded in (truth, wrong, other)] == [
        "original",
        "both",
        "both",
    ]
    assert tally(truth, wrong, truth, wrong).miscomputed == ""
    mostly = np.where(truth < 60, truth, 99)
    assert not tally(truth, wrong, truth, truth).tipped
    assert tally(truth, wrong, mostly, truth).tipped  # a wrong original excuses nothing
