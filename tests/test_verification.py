"""Planted faults must fail and faultless folds must pass.

The folds here are written by hand in numpy, so that this file does not depend on the code it is there to check. The
children's jobs run in this process, which is faster; test_verify_child.py runs them in real children.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import onnx
import pytest

from bnfold.verification import verify
from tests.verify_nets import CONV, EPSILON, GEMM, NETS, TRANSPOSE, Net, Weights, chain, one_channel, run_here, swapped


@pytest.fixture(autouse=True)
def _in_this_process(monkeypatch: pytest.MonkeyPatch) -> None:
    run_here(monkeypatch)


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("name", NETS)
def test_a_faultless_fold_passes(name: str, seed: int) -> None:
    net = NETS[name]
    weights = net.weights(seed)
    found = verify(net.original(weights), net.folded(net.fold(weights)), seed=seed)
    assert found.verdict == "PASS", found.reasons
    assert found.levels[0].worst(output=False).ratio < 4  # type: ignore[union-attr]


def wrong_groups(v: np.ndarray) -> np.ndarray:
    """As onnx's own reference and several folders lay it out: by W's first axis."""
    return np.repeat(v[:4], 1).reshape(4, 1, 1, 1)


Fault = Callable[[Net, Weights], Weights]
Change = Callable[[np.ndarray], np.ndarray]


def before(name: str, change: Change) -> Fault:
    """Fold correctly, but with one of the constants changed."""
    return lambda net, weights: net.fold({**weights, name: change(weights[name])})


def after(name: str, change: Change) -> Fault:
    """Change one of the folded constants."""
    return lambda net, weights: {**(folded := net.fold(weights)), name: change(folded[name])}


def bias_not_scaled(net: Net, weights: Weights) -> Weights:
    folded, zero = net.fold(weights), weights["mean"] * 0
    scaled = net.fold({**weights, "mean": zero, "shift": zero})["b"]
    return {**folded, "b": folded["b"] - scaled + weights["b"]}


def nan_in_one(values: np.ndarray) -> np.ndarray:
    return np.where(np.arange(len(values)) == 1, np.nan, values).astype(np.float32)


FAULTS: dict[str, Fault] = {
    "epsilon 1.1e-5": lambda net, weights: net.fold(weights, epsilon=1.1e-5),
    "epsilon left out": lambda net, weights: net.fold(weights, epsilon=0.0),
    "one channel of the weights x 1.001": after("w", one_channel),
    "one bias x 1.001": after("b", one_channel),
    "channels of the weights swapped": after("w", swapped),
    "biases swapped": after("b", swapped),
    "bias forgotten": lambda net, weights: net.fold(weights, bias=False),
    "bias not scaled": bias_not_scaled,
    "shift forgotten": before("shift", lambda v: v * 0),
    "mean with the wrong sign": before("mean", np.negative),
    "scale with the wrong sign": before("scale", np.abs),
    "variance instead of deviation": before("var", np.square),
    "weights rounded to float16": after("w", lambda v: v.astype(np.float16).astype(np.float32)),
    "NaN": after("b", nan_in_one),
    "the next layer is touched": after("w2", one_channel),
}


@pytest.mark.parametrize("fault", FAULTS)
@pytest.mark.parametrize("name", NETS)
def test_a_planted_fault_fails(name: str, fault: str) -> None:
    net = NETS[name]
    weights = net.weights(11)
    found = verify(net.original(weights), net.folded(FAULTS[fault](net, weights)))
    assert found.verdict == "FAIL", found.reasons
    site = "'y'" if fault == "the next layer is touched" else "'n'"
    assert site in found.reasons[0]


def test_a_wrong_group_layout_fails() -> None:
    weights = TRANSPOSE.weights(3)
    right = TRANSPOSE.fold(weights)
    s = weights["scale"] / np.sqrt(weights["var"] + EPSILON)
    wrong = {**right, "w": (weights["w"] * wrong_groups(s)).astype(np.float32)}
    assert verify(TRANSPOSE.original(weights), TRANSPOSE.folded(wrong)).verdict == "FAIL"


def test_a_fault_in_a_channel_that_the_next_relu_hides_fails() -> None:
    weights = CONV.weights(2)
    weights["shift"][3] = -1e4
    folded = CONV.fold(weights)
    folded["b"][3] *= 1.001
    found = verify(CONV.original(weights), CONV.folded(folded))
    assert found.verdict == "FAIL"
    assert "fold site 'n' (BatchNormalization) channel 3" in found.reasons[0]


HALF = (np.arange(8) > 3).astype(np.float32)
HARD: dict[str, Callable[[Weights], Weights]] = {
    "a mean far from zero": lambda w: {**w, "mean": w["mean"] + 3e3},
    "dead channels": lambda w: {**w, "scale": w["scale"] * HALF, "shift": w["shift"] * HALF},
    "integer weights": lambda w: {**w, "w": np.sign(w["w"])},
    "weights all alike": lambda w: {**w, "w": np.full_like(w["w"], 0.1)},
    "a tiny variance": lambda w: {**w, "var": w["var"] * 1e-12},
    "very unlike channels": lambda w: {**w, "scale": w["scale"] * 10.0 ** np.arange(-4, 4)},
    "statistics that change nothing": lambda w: {**w, "mean": 0 * HALF, "var": 1 + 0 * HALF, "scale": 1 + 0 * HALF},
}


@pytest.mark.parametrize("kind", HARD)
def test_a_faultless_fold_of_hard_numbers_passes(kind: str) -> None:
    for seed in range(3):
        weights = {k: v.astype(np.float32) for k, v in HARD[kind](CONV.weights(seed)).items()}
        found = verify(CONV.original(weights), CONV.folded(CONV.fold(weights)), seed=seed)
        assert found.verdict == "PASS", found.reasons


def test_float16_models() -> None:
    weights = CONV.weights(1, np.float16)
    original, folded = CONV.original(weights), CONV.fold(weights)
    assert verify(original, CONV.folded(folded)).verdict == "PASS"
    assert verify(original, CONV.folded({**folded, "w": (folded["w"] * np.float16(1.05))})).verdict == "FAIL"
    assert verify(original, CONV.folded({**folded, "b": swapped(folded["b"])})).verdict == "FAIL"


def test_float64_models() -> None:
    weights = GEMM.weights(1, np.float64)
    original, folded = GEMM.original(weights), GEMM.fold(weights)
    assert verify(original, GEMM.folded(folded)).verdict == "PASS"
    assert (
        verify(original, GEMM.folded({**folded, "w": folded["w"].astype(np.float32).astype(np.float64)})).verdict
        == "FAIL"
    )


def test_bfloat16_is_judged_where_onnxruntime_runs_it_and_inconclusive_where_not() -> None:
    ml_dtypes = pytest.importorskip("ml_dtypes")
    weights = GEMM.weights(1, ml_dtypes.bfloat16)
    found = verify(GEMM.original(weights), GEMM.folded(GEMM.fold(weights)))
    assert found.verdict in ("PASS", "INCONCLUSIVE"), found.reasons
    assert found.passed or "onnxruntime cannot run the original" in found.reasons[0]


def test_tensors_inside_a_chain_may_hold_other_values_but_only_there() -> None:
    r = np.random.default_rng(0)
    w, s, t = r.standard_normal((6, 6)), r.uniform(0.5, 2, 4), r.standard_normal(4)
    bn = {"s": s, "t": t, "m": np.zeros(4), "v": np.ones(4) - EPSILON}
    tail = "z = Relu (n)  y = Identity (z)"
    original = chain(
        f"a = Mul (x, k)  b = Identity (a)  n = BatchNormalization (b, s, t, m, v)  {tail}",
        {"k": np.ones((1, 4, 1)), **bn},
    )
    column = {"k": s.reshape(1, 4, 1), "t": t.reshape(1, 4, 1)}
    folded = chain(f"a = Mul (x, k)  b = Identity (a)  n = Add (b, t)  {tail}", column)
    found = verify(original, folded)
    assert found.verdict == "PASS", found.reasons
    assert {t.name for t in found.levels[0].tensors if t.moved} == {"a", "b"}
    wrong = chain(
        f"a = Mul (x, k)  b = Identity (a)  n = Add (b, t)  {tail}", {**column, "k": one_channel(column["k"][0])[None]}
    )
    assert verify(original, wrong).verdict == "FAIL"
    del w


def test_an_affine_may_move_past_a_tensor_whose_shape_is_read() -> None:
    r = np.random.default_rng(0)
    w, s = r.standard_normal((4, 4, 1)), r.uniform(0.5, 2, (4, 1))

    def model(scale: str, w: np.ndarray, **rest: np.ndarray) -> onnx.ModelProto:
        lines = f"{scale}  r = Relu (m)  q = Shape (r)  c = Conv (r, w)  y = Reshape (c, q)"
        return chain(lines, {"w": w, **rest})

    original = model("m = Mul (x, s)", w, s=s)
    found = verify(original, model("m = Identity (x)", w * s.reshape(1, 4, 1)))
    assert found.passed, found.reasons
    assert {t.name for t in found.levels[0].tensors if t.moved} == {"m", "r"}
    wrong = w * s.reshape(1, 4, 1) * np.array([1, 1, 1, 1.001]).reshape(1, 4, 1)
    assert verify(original, model("m = Identity (x)", wrong)).verdict == "FAIL"


def test_a_tensor_of_which_each_reader_selects_a_part_may_be_moved_in_a_part() -> None:
    r = np.random.default_rng(0)
    w, k = r.standard_normal((4, 4, 1)).astype(np.float32).astype(float), np.full((1, 1, 1), 0.25)
    tail = "a, b = Split <axis = 1> (c)  p = Transpose <perm = [0, 1, 2]> (a)"

    def model(w: np.ndarray, scale: str) -> onnx.ModelProto:
        rest = {"k": k} if scale else {}
        lines = f"c = Conv (x, w)  {tail}  {scale}  r = Relu (b)  y = Concat <axis = 1> (q, r)"
        return chain(lines if scale else lines.replace("p =", "q ="), {"w": w, **rest})

    original = model(w, "q = Mul (p, k)")
    part = np.array([0.25, 0.25, 1, 1]).reshape(4, 1, 1)
    found = verify(original, model(w * part, ""))
    assert found.passed, found.reasons
    assert {t.name for t in found.levels[0].tensors if t.moved} == {"c", "a"}
    assert verify(original, model(w * part * np.array([1, 1, 1, 1.001]).reshape(4, 1, 1), "")).verdict == "FAIL"
    assert verify(original, model(w * part * np.array([1, 1.001, 1, 1]).reshape(4, 1, 1), "")).verdict == "FAIL"


def chaotic(w: Weights) -> tuple[onnx.ModelProto, onnx.ModelProto]:
    """A normalized Conv, and the logistic map forty times over: what float32 leaves of the values there is chance."""
    steps = "".join(
        f"  f{i} = Sub (one, h{i})  g{i} = Mul (h{i}, f{i})  h{i + 1} = Mul (g{i}, four)" for i in range(40)
    )
    tail = f"h0 = Sigmoid (n){steps}  y = Identity (h40)"
    rest = {"one": np.ones(1), "four": np.full(1, 3.99)}
    numbers = dict(zip("stmv", (w["s"], w["t"], w["m"], w["v"]), strict=True))
    scale = w["s"] / np.sqrt(w["v"] + EPSILON)
    original = chain(
        f"c = Conv (x, w)  n = BatchNormalization (c, s, t, m, v)  {tail}", {"w": w["w"], **numbers, **rest}
    )
    folded = {"w": w["w"] * scale.reshape(4, 1, 1) * w.get("fault", 1), "b": w["t"] - w["m"] * scale, **rest}
    return original, chain(f"n = Conv (x, w, b)  {tail}", folded)


def test_a_chaotic_tail_hides_no_fault() -> None:
    r = np.random.default_rng(0)
    draws = {"w": (4, 4, 1), "t": 4, "m": 4}
    weights = {k: r.standard_normal(size) for k, size in draws.items()}
    weights |= {k: r.uniform(0.5, 2, 4) for k in "sv"}
    found = verify(*chaotic(weights))
    assert found.passed, found.reasons
    assert found.levels[0].worst(output=True).rms_original > 0.1  # type: ignore[union-attr]
    found = verify(*chaotic({**weights, "fault": np.array([1, 1, 1.001, 1]).reshape(4, 1, 1)}))
    assert found.verdict == "FAIL"
    assert "fold site 'n'" in found.reasons[0]


def test_what_was_moved_after_a_chaotic_part_is_no_fault() -> None:
    """Found on convmixer_768_32: the inside of a chain that no input could be compared at was judged on its own."""
    r = np.random.default_rng(0)
    s, t = r.uniform(0.5, 2, 4), r.standard_normal(4)
    steps = "".join(
        f"  f{i} = Sub (one, h{i})  g{i} = Mul (h{i}, f{i})  h{i + 1} = Mul (g{i}, four)" for i in range(40)
    )
    head = f"h0 = Sigmoid (x){steps}  a = Mul (h40, k)  b = Identity (a)"
    rest = {"one": np.ones(1), "four": np.full(1, 3.99)}
    bn = {"s": s, "t": t, "m": np.zeros(4), "v": np.ones(4) - EPSILON}
    original = chain(
        f"{head}  n = BatchNormalization (b, s, t, m, v)  y = Identity (n)", {**rest, **bn, "k": np.ones((1, 4, 1))}
    )
    column = {"k": s.reshape(1, 4, 1), "t": t.reshape(1, 4, 1)}
    found = verify(original, chain(f"{head}  n = Add (b, t)  y = Identity (n)", {**rest, **column}))
    assert found.verdict == "INCONCLUSIVE", found.reasons
    assert "too far to judge" in found.reasons[0]


def test_a_fault_after_a_channel_that_is_dead_for_every_input_fails() -> None:
    r = np.random.default_rng(0)
    a, w = r.standard_normal((4, 4, 3)), r.standard_normal((4, 4, 3))
    silent = {"a": a, "c": np.array([0, 0, -1e6, 0])}
    bn = {"s": r.uniform(0.5, 2, 4), "t": r.standard_normal(4), "m": np.zeros(4), "v": np.ones(4)}
    first = "h = Conv <pads = [1,1]> (x, a, c)  r = Relu (h)"
    second = "Conv <pads = [1,1]> (r, w"
    original = chain(f"{first}  q = {second})  y = BatchNormalization (q, s, t, m, v)", {**silent, "w": w, **bn})
    right = w * (bn["s"] / np.sqrt(1 + EPSILON)).reshape(4, 1, 1)
    wrong = right * (1 + 1e-3 * (np.arange(4) == 2)).reshape(1, 4, 1)
    assert verify(original, chain(f"{first}  y = {second}, t)", {**silent, "w": right, "t": bn["t"]})).passed
    found = verify(original, chain(f"{first}  y = {second}, t)", {**silent, "w": wrong, "t": bn["t"]}))
    assert found.verdict == "FAIL"
    assert found.reasons[0].startswith("optimization isolated: fold site 'y'")


HEAD = "c = Conv <pads = [1,1]> (x, a)  n = BatchNormalization (c, s, t, m, v)"
BOUNDED = [  # what computes r, within bounds, and what does nothing to it
    ("r = Relu (n)", "Relu (r)"),
    ("r = Sigmoid (n)", "Clip (r, zero, one)"),
    ("r = Softmax <axis = 1> (n)", "Clip (r, zero, one)"),
    ("r = Mul (n, n)", "Abs (r)"),
    ("e = Exp (n)  r = Mul (e, one)", "Relu (r)"),
    ("e = Relu (n)  f = Sigmoid (n)  r = Add (e, f)", "Relu (r)"),
    ("e = Relu (n)  r = MaxPool <kernel_shape = [1]> (e)", "Abs (r)"),
    ("e = Relu (n)  r = Concat <axis = 1> (e, e)", "Abs (r)"),
    ("e = Abs (n)  f = Add (e, one)  r = Div (n, f)", "Clip (r, minus, one)"),
    ("r = Max (n, zero)", "Abs (r)"),
]


@pytest.mark.parametrize(("bounded", "last"), BOUNDED)
def test_no_site_is_fed_what_the_operators_before_it_cannot_return(bounded: str, last: str) -> None:
    r = np.random.default_rng(0)
    a = r.standard_normal((4, 4, 3))
    bn = {"s": r.uniform(0.5, 2, 4), "t": r.standard_normal(4), "m": np.zeros(4), "v": np.ones(4)}
    scale = (bn["s"] / np.sqrt(1 + EPSILON)).reshape(4, 1, 1)
    numbers = {"zero": np.array(0.0), "one": np.array(1.0), "minus": np.array(-1.0)}
    original = chain(f"{HEAD}  {bounded}  y = {last}", {"a": a, **bn, **numbers})
    folded = f"n = Conv <pads = [1,1]> (x, a, t)  {bounded}  y = Identity (r)"
    found = verify(original, chain(folded, {"a": a * scale, "t": bn["t"], **numbers}))
    assert found.verdict != "FAIL", found.reasons
    assert "isolated" in {level.level for level in found.levels}


def test_a_fault_after_a_site_with_a_dead_channel_fails() -> None:
    """The output of the first site is cut, before the Relu that bounds what enters the second."""
    r = np.random.default_rng(0)
    a, w = r.standard_normal((4, 4, 3)), r.standard_normal((4, 4, 3))
    bn = {"s": r.uniform(0.5, 2, 4), "t": np.array([0, 0, -1e6, 0]), "m": np.zeros(4), "v": np.ones(4)}
    scale = (bn["s"] / np.sqrt(1 + EPSILON)).reshape(4, 1, 1)
    tail = "q = Conv <pads = [1,1]> (r, w)  y = BatchNormalization (q, s, t, m, v)"
    original = chain(f"{HEAD}  r = Relu (n)  {tail}", {"a": a, "w": w, **bn})
    folded = "n = Conv <pads = [1,1]> (x, a, t)  r = Relu (n)  y = Conv <pads = [1,1]> (r, w, t)"
    for factor, verdict in ((1, "PASS"), (1.001, "FAIL")):
        weights = w * scale * np.where(np.arange(4) == 2, factor, 1).reshape(1, 4, 1)
        found = verify(original, chain(folded, {"a": a * scale, "w": weights, "t": bn["t"]}))
        assert found.verdict == verdict, found.reasons


def test_what_only_rearranges_is_not_judged_channel_by_channel() -> None:
    """Of a flattened picture every element would be a channel, whose error is a matter of chance."""
    r = np.random.default_rng(0)
    bn = {"s": r.uniform(0.5, 2, 4), "t": r.standard_normal(4), "m": np.zeros(4), "v": np.ones(4)}
    a, scale = r.standard_normal((4, 4, 3)), (bn["s"] / np.sqrt(1 + EPSILON)).reshape(4, 1, 1)
    original = chain(f"{HEAD}  y = Flatten (n)", {"a": a, **bn})
    folded = chain("n = Conv <pads = [1,1]> (x, a, t)  y = Flatten <axis = -2> (n)", {"a": a * scale, "t": bn["t"]})
    found = verify(original, folded)
    axes = {entry.name: entry.by_channel is not None for entry in found.levels[0].tensors}
    assert axes == {"n": True, "y": False}
