"""The algebra tier: every weight of a fold site is derived from the original, and a wrong one is found."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import pytest

from bnfold.verification import Verification, verify
from bnfold.verification.proof.impulses import impulses
from bnfold.verification.results import Derived
from tests.test_verification import FAULTS
from tests.verify_nets import CONV, EPSILON, GEMM, NETS, Weights, chain, run_here


@pytest.fixture(autouse=True)
def _in_this_process(monkeypatch: pytest.MonkeyPatch) -> None:
    run_here(monkeypatch)


def site(found: Verification, name: str = "n") -> Derived:
    return next(each for each in found.derived if each.name == name)


@pytest.mark.parametrize("name", NETS)
@pytest.mark.parametrize("dtype", [np.float32, np.float16])
def test_every_weight_of_a_faultless_fold_is_the_correctly_rounded_one(name: str, dtype: type) -> None:
    net = NETS[name]
    weights = net.weights(5, dtype)
    found = verify(net.original(weights), net.folded(net.fold(weights)))
    derived = site(found)
    assert derived.exact
    assert derived.share == 1
    assert derived.responses >= np.count_nonzero(weights["w"])
    assert 0.5 < derived.ratio < 1.001
    assert "a proof for all inputs" in found.reasons[-1]


@pytest.mark.parametrize("fault", [fault for fault in FAULTS if fault != "the next layer is touched"])
@pytest.mark.parametrize("name", NETS)
def test_a_planted_fault_is_found_by_algebra_alone(name: str, fault: str) -> None:
    net = NETS[name]
    weights = net.weights(11)
    derived = site(verify(net.original(weights), net.folded(FAULTS[fault](net, weights))))
    assert not derived.why
    assert not derived.exact
    assert not derived.ok


@pytest.mark.parametrize("net", [CONV, GEMM], ids=lambda net: net.name)
def test_one_weight_off_by_one_unit_of_its_last_place_is_found(net) -> None:  # type: ignore[no-untyped-def]
    weights = net.weights(3)
    folded = net.fold(weights)
    w = folded["w"].copy()
    largest = np.unravel_index(np.abs(w).argmax(), w.shape)
    w[largest] = np.nextafter(w[largest], np.float32(9))
    found = verify(net.original(weights), net.folded({**folded, "w": w}))
    assert found.passed, "one unit is what a fold in float32 is allowed"
    assert not site(found).exact
    assert "a proof" not in found.reasons[-1]


def sunk(w: np.ndarray, parts: Weights) -> tuple[onnx.ModelProto, onnx.ModelProto]:
    """A normalization before two convolutions of other strides, which take it both."""
    tail = "y = Concat <axis = 2> (p, q)"
    convs = "p = Conv <strides = [2]> (n, w, b)  q = Conv <dilations = [2]> (n, w, b)"
    original = chain(f"n = BatchNormalization (x, s, t, m, v)  {convs}  {tail}", {"w": w, "b": np.zeros(4), **parts})
    scale = parts["s"] / np.sqrt(parts["v"] + float(np.float32(EPSILON)))
    shift = parts["t"] - parts["m"] * scale
    folded = {"w": w * scale[None, :, None], "b": (w * shift[None, :, None]).sum((1, 2))}
    return original, chain(f"{convs.replace('(n,', '(x,')}  {tail}", folded)


def rounded(values: np.ndarray) -> np.ndarray:
    return values.astype(np.float32).astype(np.float64)


def test_a_normalization_that_sank_is_derived_in_every_reader() -> None:
    r = np.random.default_rng(0)
    parts = {k: rounded(r.standard_normal(4)) for k in "stm"} | {"v": rounded(r.uniform(0.5, 2, 4))}
    found = verify(*sunk(rounded(r.standard_normal((4, 4, 3))), parts))
    assert found.passed, found.reasons
    assert [(d.name, d.exact, d.share) for d in found.derived] == [("p", True, 1), ("q", True, 1)]


def test_what_is_not_linear_is_said_not_to_be_derived() -> None:
    k = np.full((1, 1, 1), 0.3)
    original = chain("a = Conv (x, w)  r = Abs (a)  y = Mul (r, k)", {"w": np.ones((4, 4, 1)), "k": k})
    found = verify(original, chain("a = Conv (x, w)  y = Abs (a)", {"w": np.full((4, 4, 1), 0.3)}))
    assert found.passed, found.reasons
    assert "Abs" in site(found, "y").why
    assert "is not linear" in site(found, "y").why
    assert not any("algebra" in reason for reason in found.reasons)


def cancelling(ulps: int = 0) -> tuple[onnx.ModelProto, onnx.ModelProto]:
    """Two normalizations, the second worked into the first, whose bias and mean then all but cancel.

    That bias is right, or as many units of its last place too large.
    """
    r = np.random.default_rng(0)
    first = {k: rounded(r.uniform(0.5, 1.5, 4)) for k in "stmv"}
    factor = rounded(r.uniform(0.5, 1.5, 4))
    slope = first["s"] / np.sqrt(first["v"] + float(np.float32(EPSILON)))
    beyond = rounded((first["m"] * slope - first["t"]) * factor * (1 + 1e-4))
    original = chain(
        "a = BatchNormalization (x, s, t, m, v) r = Neg (a) h = Neg (r) g = Mul (h, k) y = Add (g, c)",
        {**first, "k": factor[:, None], "c": beyond[:, None]},
    )
    bias = (first["t"] * factor + beyond).astype(np.float32)
    bias = (bias.view(np.int32) + ulps).view(np.float32)
    folded = {**first, "s": first["s"] * factor, "t": bias}
    return original, chain("a = BatchNormalization (x, s, t, m, v) r = Neg (a) y = Neg (r)", folded)


def test_what_is_left_of_a_bias_and_a_mean_is_as_good_as_they_are() -> None:
    found = verify(*cancelling())
    assert found.passed, found.reasons
    assert site(found, "y").exact


@pytest.mark.parametrize("ulps", [40, -40])
def test_a_bias_that_is_wrong_is_found_where_it_all_but_cancels_too(ulps: int) -> None:
    found = verify(*cancelling(ulps))
    assert found.verdict == "FAIL"
    assert not site(found, "y").ok


PADS = [{"pads": [a, b]} for a, b in ((0, 0), (1, 1), (2, 0), (0, 3), (4, 4), (9, 2))]
PADS += [{"auto_pad": "SAME_UPPER"}, {"auto_pad": "SAME_LOWER"}, {"auto_pad": "VALID"}]


@pytest.mark.parametrize("pads", PADS, ids=str)
@pytest.mark.parametrize(("kernel", "stride", "dilation"), [(1, 1, 1), (3, 1, 1), (3, 2, 1), (2, 3, 1), (5, 2, 2)])
@pytest.mark.parametrize("operator", ["Conv", "ConvTranspose"])
def test_impulses_show_every_tap_alone(operator: str, kernel: int, stride: int, dilation: int, pads: Any) -> None:
    node = onnx.helper.make_node(operator, ["x", "w"], ["y"], strides=[stride], dilations=[dilation], group=2, **pads)
    shape = (4, 3, kernel) if operator == "Conv" else (6, 2, kernel)
    w = np.random.default_rng(0).standard_normal(shape).astype(np.float64)
    probe = impulses(node, 0, w.shape, (2, 6, 40))
    seen = [response(node, x, w) for x in probe.batch(np.arange(probe.count))]
    found = {float(v) for each in seen for v in each.ravel()}
    assert set(w.ravel().tolist()) <= found <= {*w.ravel().tolist(), 0.0}


def response(node: onnx.NodeProto, x: np.ndarray, w: np.ndarray) -> np.ndarray:
    from tests.verify_nets import evaluate

    values = [onnx.helper.make_tensor_value_info(n, onnx.TensorProto.DOUBLE, None) for n in "xy"]
    graph = onnx.helper.make_graph([node], "g", values[:1], values[1:], [onnx.numpy_helper.from_array(w, "w")])
    return evaluate(onnx.helper.make_model(graph), {"x": x[None]})["y"]  # type: ignore[no-any-return]
