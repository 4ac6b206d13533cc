"""Inputs for models, the copies that are run, and the geometry of the graph comparison."""

from __future__ import annotations

import numpy as np
import onnx
import onnx.parser
import pytest
from onnx import TensorProto, helper, numpy_helper

from bnfold.errors import UsageProblem
from bnfold.runtime.copies import exposed, jittered
from bnfold.runtime.dimensions import candidates, dynamic
from bnfold.runtime.inputs import Case, cases, feeds
from bnfold.runtime.randomness import without_randomness
from bnfold.runtime.sessions import CPU, CUDA, checked_options, options
from bnfold.verification import verify
from bnfold.verification.measure import Tally
from bnfold.verification.regions import edited, shape_of_graph, shared, undone


def parse(
    body: str, inputs: str = "float[N,3,H,W] x", outputs: str = "float y", **stored: np.ndarray
) -> onnx.ModelProto:
    model = onnx.parser.parse_model(
        f'<ir_version: 8, opset_import: ["" : 17]> g ({inputs}) => ({outputs}) {{ {body} }}'
    )
    model.graph.initializer.extend(numpy_helper.from_array(v, k) for k, v in stored.items())
    return model


def test_the_same_case_gives_the_same_values_and_fixed_dimensions_are_kept() -> None:
    graph = parse("y = Relu (x)").graph
    first, again = (feeds(graph, Case("wide", 3, 2), {"*": 8})["x"] for _ in range(2))
    np.testing.assert_array_equal(first, again)
    assert first.shape == (2, 3, 8, 8)
    assert first.dtype == np.float32
    assert feeds(graph, Case("wide", 3, 1, larger=32), {"*": 8})["x"].shape == (1, 3, 40, 40)
    assert feeds(graph, Case("normal", 0, 1), {"N": 5, "W": 9, "*": 8})["x"].shape == (5, 3, 8, 9)


def test_wide_inputs_are_wide_and_of_either_sign() -> None:
    x = feeds(parse("y = Relu (x)").graph, Case("wide", 0, 2), {"*": 64})["x"]
    assert np.abs(x).min() < 0.01
    assert np.abs(x).max() > 500
    assert 0.45 < (x > 0).mean() < 0.55


def test_weights_show_the_size_of_a_channel_axis() -> None:
    conv = parse("y = Conv <group = 2> (x, w)", "float[N,C,H,W] x", w=np.zeros((4, 3, 1, 1), np.float32))
    assert feeds(conv.graph, Case("normal", 0, 1), {"*": 5})["x"].shape == (1, 6, 5, 5)
    gemm = parse("y = Gemm <transB = 1> (x, w)", "float[N,C] x", w=np.zeros((4, 7), np.float32))
    assert feeds(gemm.graph, Case("normal", 0, 2), {})["x"].shape == (2, 7)
    matmul = parse("y = MatMul (x, w)", "float[N,T,C] x", w=np.zeros((7, 2), np.float32))
    assert feeds(matmul.graph, Case("normal", 0, 1), {"T": 4})["x"].shape == (1, 4, 7)
    assert dynamic(matmul.graph) == ["N", "T"]


def test_an_input_without_a_shape_takes_its_rank_from_the_weights() -> None:
    model = parse("y = Conv (x, w)", "float[1] x", w=np.zeros((4, 3, 1, 1), np.float32))
    model.graph.input[0].type.tensor_type.ClearField("shape")
    assert feeds(model.graph, Case("normal", 0, 2), next(iter(candidates(model.graph))))["x"].shape == (2, 3, 64, 64)


def test_integers_stay_below_the_table_they_index_also_after_a_cast() -> None:
    model = parse("c = Cast <to = 7> (x)  y = Gather (t, c)", "int32[N,50] x", t=np.zeros((5, 2), np.float32))
    x = feeds(model.graph, Case("normal", 0, 2), {})["x"]
    assert x.dtype == np.int32
    assert set(np.unique(x)) == set(range(5))


@pytest.mark.parametrize(
    ("kind", "low", "high"), [("uint8", 200, 256), ("int8", 100, 128), ("int64", 5, 8), ("bool", 1, 2)]
)
def test_other_types_are_drawn_from_their_range(kind: str, low: int, high: int) -> None:
    x = feeds(parse("y = Identity (x)", f"{kind}[4,100] x").graph, Case("normal", 0, 1), {})["x"]
    assert low <= int(x.max()) < high
    assert int(x.min()) == 0


def test_full_effort_has_more_of_everything() -> None:
    fast, full = cases("fast", 7), cases("full", 7)
    assert {case.distribution for case in fast} == {"normal", "wide", "uniform"}
    assert {case.batch for case in fast} == {1, 2}
    assert full[: len(fast)] == fast
    assert any(case.larger for case in full)
    assert {case.seed for case in full} > {7}


def test_jitter_moves_constants_by_one_unit_in_the_last_place_and_zeros_not() -> None:
    w = np.array([[1.0, -2.0, 0.0, 1e-30], [np.inf, 0.1, 0.1, -0.1]], np.float32)
    model = parse("y = MatMul (x, w)", "float[N,2] x", w=w)
    moved = numpy_helper.to_array(jittered(model, 1).graph.initializer[0])
    steps = np.abs(moved.view(np.int32) - w.view(np.int32))
    assert steps.tolist() == [[1, 1, 0, 1], [0, 1, 1, 1]]
    assert moved[1, 1] == moved[1, 2]
    assert numpy_helper.to_array(model.graph.initializer[0]).tobytes() == w.tobytes()


@pytest.mark.parametrize("kind", [TensorProto.FLOAT16, TensorProto.BFLOAT16, TensorProto.DOUBLE])
def test_jitter_knows_every_floating_point_type(kind: int) -> None:
    model = parse("y = MatMul (x, w)", "float[N,2] x")
    model.graph.initializer.append(helper.make_tensor("w", kind, [64], np.linspace(0.1, 9, 64)))
    before, after = (numpy_helper.to_array(m.graph.initializer[0]) for m in (model, jittered(model, 0)))
    unit = {TensorProto.FLOAT16: 2.0**-10, TensorProto.BFLOAT16: 2.0**-7, TensorProto.DOUBLE: 2.0**-52}[kind]
    change = np.abs(after.astype(np.float64) / before.astype(np.float64) - 1)
    assert change.min() >= unit / 2 * 0.99
    assert change.max() <= unit * 1.01


def test_jitter_leaves_constants_of_other_operators_and_of_size_arithmetic() -> None:
    body = """s = Shape (x)  f = Cast <to = 1> (s)  h = Mul (f, two)  i = Cast <to = 7> (h)
              r = Reshape (x, i)  c = Clip (r, low)  y = Mul (c, k)"""
    one = {name: np.array(2.0, np.float32) for name in ("two", "low", "k")}
    model = parse(body, **one)
    changed = {
        t.name for t, old in zip(jittered(model, 0).graph.initializer, model.graph.initializer, strict=True) if t != old
    }
    assert changed == {"k"}


def test_random_operators_are_replaced_and_named() -> None:
    model, notes = without_randomness(
        parse("r = RandomNormalLike <dtype = 1> (x)  u = RandomUniform <shape = [2,3]> ()  y = Add (x, r)")
    )
    assert [node.op_type for node in model.graph.node] == [
        "Shape",
        "ConstantOfShape",
        "Constant",
        "ConstantOfShape",
        "Add",
    ]
    assert notes == ["random operators were replaced by 0.5: r, u"]


NOISE = "a = RandomNormalLike <dtype = 1> (x)  b = RandomNormalLike <dtype = 1> (x)  "


@pytest.mark.parametrize(("body", "other", "verdict"), [
    (f"{NOISE} c = Sub (a, b)  y = Add (x, c)", f"{NOISE} c = Sub (a, a)  y = Add (x, c)", "FAIL"),
    (f"{NOISE} c = Sub (a, b)  y = Add (x, c)", f"{NOISE} c = Sub (b, a)  y = Add (x, c)", "FAIL"),
    ("p = Sigmoid (x)  q = Bernoulli (p)  y = Mul (q, x)", "p = Sigmoid (x)  q = Bernoulli (p)  y = Mul (x, q)", "PASS"),
    ("p = Sigmoid (x)  q = Bernoulli (p)  y = Mul (q, x)", "p = Exp (x)  q = Bernoulli (p)  y = Mul (q, x)", "FAIL"),
    (
        "q = Multinomial <sample_size = 3> (x)  y = Cast <to = 1> (q)",
        "q = Multinomial <sample_size = 3> (x)  z = Cast <to = 11> (q)  y = Cast <to = 1> (z)", "PASS",
    ),
])  # fmt: skip
def test_what_is_made_of_random_numbers_is_compared(body: str, other: str, verdict: str) -> None:
    text = '<ir_version: 8, opset_import: ["" : 17]> g (float[N,5] x) => (float[N,M] y) {{ {} }}'
    found = verify(*(onnx.parser.parse_model(text.format(each)) for each in (body, other)))
    assert found.verdict == verdict, found.reasons


def test_exposing_adds_outputs_once() -> None:
    model = exposed(parse("a = Relu (x)  y = Neg (a)"), ["a", "y"])
    assert [output.name for output in model.graph.output] == ["y", "a"]


CHAIN = "t = Conv (x, w)  n = BatchNormalization (t, s, s, s, s)  r = Relu (n)  y = Conv (r, v)"
ONE = np.ones(1, np.float32)


def test_what_is_shared_and_what_is_edited() -> None:
    old = parse(CHAIN, w=ONE, s=ONE, v=ONE)
    new = parse("n = Conv (x, w, b)  r = Relu (n)  y = Conv <group = 1> (r, v)", w=2 * ONE, b=ONE, v=ONE)
    assert shared(old.graph, new.graph) == ["n", "r", "y"]
    assert edited(old, new) == {"n"}
    assert edited(old, old) == set()


@pytest.mark.parametrize("constant", ["v = Transpose (w)", "v = Constant <value_floats = [{}]> ()"])
def test_what_reads_a_constant_that_nodes_compute_is_edited_with_it(constant: str) -> None:
    text = f"{constant}  c = Identity (v)  y = PRelu (x, c)  z = Relu (y)"
    old, new = (parse(text.format(scale), w=scale * ONE) for scale in (1.0, 2.0))
    assert edited(old, new) == {"v", "c", "y"}


@pytest.mark.parametrize(
    ("good", "edits", "excused"),
    [
        ({"n": False, "r": True, "y": True}, {"n"}, set()),  # hidden by an unedited Relu: no excuse
        ({"n": False, "r": True, "y": True}, {"n", "r"}, {"n"}),  # made good by an edited node
        ({"n": False, "r": False, "y": True}, {"n", "y"}, {"n", "r"}),  # passed on, then made good
        ({"n": False, "r": False, "y": False}, {"n", "r", "y"}, set()),  # an output is never excused
    ],
)
def test_only_an_edited_node_excuses_what_is_before_it(
    good: dict[str, bool], edits: set[str], excused: set[str]
) -> None:
    graph = parse("n = Neg (x)  r = Relu (n)  y = Abs (r)").graph
    assert undone(graph, good, edits) == excused


@pytest.mark.parametrize("reader", ["s = Shape (n)", "s = Size (n)", "s = CastLike (k, n)"])
def test_who_reads_only_a_shape_or_a_type_does_not_bar_the_excuse(reader: str) -> None:
    """A fold of BatchNormalization, Relu, Conv was refused where exporters had put a Shape or CastLike next to the Conv."""
    graph = parse(f"n = Neg (x)  {reader}  y = Abs (n)", k=ONE).graph
    assert undone(graph, {"n": False, "s": True, "y": True}, {"y"}) == {"n"}
    assert undone(graph, {"n": False, "s": True, "y": True}, set()) == set()


def test_what_nobody_reads_does_not_bar_the_excuse() -> None:
    """A fold by hand past a Relu6 was refused where a Relu stood next to it, which no output depends on."""
    graph = parse("n = Neg (x)  dead = Relu (n)  gone = Exp (dead)  y = Abs (n)", k=ONE).graph
    wrong = {"n": False, "dead": False, "gone": False}
    assert undone(graph, {**wrong, "y": True}, {"y"}) == {*wrong}
    assert undone(graph, {**wrong, "y": False}, {"y"}) == {"dead", "gone"}


def test_who_is_read_for_a_type_is_no_value() -> None:
    graph = parse("n = Neg (x)  s = CastLike (n, k)  y = Abs (n)", k=ONE).graph
    assert undone(graph, {"n": False, "s": True, "y": True}, {"y"}) == set(), "CastLike hands on its first input"


def test_the_shape_of_a_graph_ignores_names_and_numbers_but_not_wiring() -> None:
    one = parse("a = Mul (x, k)  y = Add (a, x)", k=ONE)
    same = parse("b = Mul (x, c)  y = Add (b, x)", c=3 * ONE)
    assert shape_of_graph(one) == shape_of_graph(same)
    assert shape_of_graph(one) != shape_of_graph(parse("a = Mul (x, k)  y = Add (x, a)", k=ONE))
    assert shape_of_graph(one) != shape_of_graph(parse("a = Mul (x, k)  y = Add (a, a)", k=ONE))


def tally(truth: np.ndarray, original: np.ndarray, folded: np.ndarray, jitter: np.ndarray, **options: object) -> Tally:
    found = Tally("t", **options)  # type: ignore[arg-type]
    found.add(truth, original, folded, [jitter])
    return found


def test_the_ratio_is_the_folded_error_over_the_largest_of_what_is_allowed() -> None:
    truth = np.ones((1, 4, 10))
    o, f, j = ((truth + e).astype(np.float32) for e in (2e-6, 8e-6, 3e-6))
    found = tally(truth, o, f, j, axes=(1,))
    assert found.ratios(None)[0] == pytest.approx(4.0, rel=0.05)
    assert tally(truth, o, o, j).ratios(None)[0] == pytest.approx(1.0)
    exact = truth.astype(np.float32)
    assert tally(truth, exact, exact, exact).ratios(None)[0] == 0.0
    assert tally(truth, exact, f, exact).ratios(None)[0] == pytest.approx(8e-6 * 2**24, rel=0.05)


def test_new_nan_is_broken_and_shared_nan_is_left_out() -> None:
    truth = np.array([1.0, 2.0, np.nan, np.inf])
    original = np.array([1.0, np.inf, np.nan, np.inf], np.float32)
    assert tally(truth, original, original, original).broken == 0
    assert tally(truth, original, original, original).excluded == 3
    assert tally(truth, original, np.array([np.nan, 2, np.nan, np.inf], np.float32), original).broken == 1
    assert tally(truth, original, np.array([1, 2, 5.0, np.inf], np.float32), original).broken == 1
    assert tally(truth, original, np.array([1, 2, np.nan, -np.inf], np.float32), original).broken == 1


def test_integers_may_tip_over_only_where_the_original_does() -> None:
    truth = np.zeros(1000, np.int64)
    near, far = truth.copy(), truth.copy()
    near[:2], far[:9] = 1, 1
    assert not tally(truth, near, near, truth).tipped
    assert tally(truth, near, far, truth).tipped
    assert tally(truth, truth, near, truth).tipped


def test_another_shape_or_type_is_said() -> None:
    found = tally(np.ones(3), np.ones(3, np.float32), np.ones(4, np.float32), np.ones(3, np.float32))
    assert found.misshapen == "float32[3] became float32[4]"


def test_an_original_far_from_the_oracle_is_disputed_and_judged_by_drift() -> None:
    truth = np.ones(100)
    original = np.full(100, 1.5, np.float32)
    found = tally(truth, original, original, np.nextafter(original, np.float32(2)))
    assert found.disputed
    assert found.ratios(None)[0] == 0.0
    assert (
        tally(truth, original, original * np.float32(1.001), np.nextafter(original, np.float32(2))).ratios(None)[0]
        > 1000
    )


def test_options_that_onnxruntime_would_swallow_are_refused() -> None:
    assert checked_options(CUDA, {"use_tf32": "0"}) == {"use_tf32": "0"}
    for provider, names in ((CUDA, {"use_tf23": "0"}), (CPU, {"use_tf32": "0"}), ("CudaExecutionProvider", {})):
        with pytest.raises(UsageProblem):
            checked_options(provider, names)
    with pytest.raises(UsageProblem, match="session.typo"):
        options("off", entries={"session.typo": "1"})
