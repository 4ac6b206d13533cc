"""A node or body of which no input shows what it does is named, and the verdict is INCONCLUSIVE."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import onnx
import onnx.parser
import pytest
from onnx import TensorProto, helper, numpy_helper

from bnfold.folding.driver import fold
from bnfold.verification import verify
from bnfold.verification.influence.changed_nodes import Neutral
from bnfold.verification.influence.meaning import Meanings
from tests.verify_nets import CONV, Weights, run_here

R = np.random.default_rng(0)


@pytest.fixture(autouse=True)
def _in_this_process(monkeypatch: pytest.MonkeyPatch) -> None:
    run_here(monkeypatch)


def model(lines: str, **constants: object) -> onnx.ModelProto:
    text = f'<ir_version: 8, opset_import: ["" : 17]> g (float[N,3,6,6] x) => (float[N,4,O,O] y) {{ {lines} }}'
    made = onnx.parser.parse_model(text)
    w = R.standard_normal((4, 3, 3, 3))
    stored: Weights = {"w": w, **{k: np.asarray(v) for k, v in constants.items()}}
    kept = {k: v if v.dtype == np.int64 else v.astype(np.float32) for k, v in stored.items()}
    made.graph.initializer.extend(numpy_helper.from_array(v, k) for k, v in kept.items())
    return made


def copied(original: onnx.ModelProto) -> onnx.ModelProto:
    copy = onnx.ModelProto()
    copy.CopyFrom(original)
    return copy


BRANCH = "g () => (float[N,4,O,O] {0}) {{ {0} = {1} (c) }}"


def branching() -> onnx.ModelProto:
    """A branch that no random input takes, after a BatchNormalization."""
    parameters = {k: R.uniform(0.5, 2, 4) for k in ("scale", "shift", "mean", "var")}
    made = model(
        "p = Conv (x, w) c = BatchNormalization (p, scale, shift, mean, var) s = ReduceSum <keepdims = 0> (x) "
        "b = Greater (s, big) y = Identity (c)",
        big=20000.0,
        **parameters,
    )
    bodies = {
        f"{name}_branch": onnx.parser.parse_graph(BRANCH.format(name, op))
        for name, op in (("then", "Relu"), ("else", "Tanh"))
    }
    made.graph.node[-1].CopyFrom(helper.make_node("If", ["b"], ["y"], name="which", **bodies))
    return made


def then_does(operator: str, made: onnx.ModelProto) -> onnx.ModelProto:
    next(a for a in made.graph.node[-1].attribute if a.name == "then_branch").g.node[0].op_type = operator
    return made


def test_a_faithful_fold_in_front_of_a_rare_branch_is_proved() -> None:
    original = branching()
    found = verify(original, fold(original).model)
    assert (found.verdict, found.grade) == ("PASS", "proved"), found.reasons


def test_a_rare_branch_that_changed_is_named() -> None:
    original = branching()
    found = verify(original, then_does("Neg", fold(original).model))
    assert found.verdict == "INCONCLUSIVE"
    assert "node 'then' (Neg) in then_branch of If 'which' of B" in " ".join(found.reasons)


def test_a_changed_branch_that_runs_is_wrong() -> None:
    original = branching()
    folded = fold(original).model
    next(a for a in folded.graph.node[-1].attribute if a.name == "else_branch").g.node[0].op_type = "Neg"
    assert verify(original, folded).verdict == "FAIL"


CONVOLVES = "g () => (float[N,4,O,O] {0}) {{ {0} = Conv (x, {1}) }}"


@pytest.mark.parametrize("taken", ["both", "one"])
def test_branches_that_make_other_shapes_are_shown_by_inputs_that_take_them(taken: str) -> None:
    """Their input, of another shape, cannot stand in for what they make: it stops the model where they run."""
    parameters = {k: R.uniform(0.5, 2, 4) for k in ("scale", "shift", "mean", "var")}
    w = R.standard_normal((4, 3, 3, 3))
    made = model(
        "s = ReduceSum <keepdims = 0> (x) b = Greater (s, big) p = Identity (b) "
        "c = BatchNormalization (p, scale, shift, mean, var) y = Tanh (c)",
        big=50.0 if taken == "both" else 20000.0, v=w, **parameters,
    )  # fmt: skip
    bodies = {
        f"{name}_branch": onnx.parser.parse_graph(CONVOLVES.format(name, weight))
        for name, weight in (("then", "w"), ("else", "v"))
    }
    made.graph.node[2].CopyFrom(helper.make_node("If", ["b"], ["p"], name="which", **bodies))
    found = verify(made, fold(made).model)
    unseen = [] if taken == "both" else ["then_branch"] * 2
    assert [word for reason in found.reasons for word in reason.split() if word.endswith("_branch")] == unseen
    assert found.verdict == ("PASS" if taken == "both" else "INCONCLUSIVE")


PLAIN = "c = Conv (x, w) y = Tanh (c)"
RARE: dict[str, tuple[str, str, dict[str, object], str]] = {
    "a cap put in front": (PLAIN, "m = Max (x, k) c = Conv (m, w) y = Tanh (c)", {"k": -5000.0}, "node 'm' (Max) of B"),
    "a cap taken away": ("m = Max (x, k) c = Conv (m, w) y = Tanh (c)", PLAIN, {"k": -5000.0}, "node 'm' (Max) of A"),
    "a cap at the end taken away": (
        "p = Conv (x, w) c = Max (p, k) y = Tanh (c)", PLAIN, {"k": -5e6}, "node 'c' (Max) of A",
    ),
    "another bound": (
        "p = Conv (x, w) c = Clip (p, z, k) y = Tanh (c)", "p = Conv (x, w) c = Clip (p, z, q) y = Tanh (c)",
        {"z": 0.0, "k": 6e6, "q": 7e6}, "node 'c' (Clip) compares with in A and in B",
    ),
    "another remainder": (
        "p = Conv (x, w) i = Cast <to = 7> (p) a = Abs (i) r = Mod (a, k) c = Cast <to = 1> (r) y = Tanh (c)",
        "p = Conv (x, w) i = Cast <to = 7> (p) a = Abs (i) r = Mod <fmod = 1> (a, k) c = Cast <to = 1> (r) y = Tanh (c)",
        {"k": np.int64(3)}, "the attributes of node 'r' (Mod) do that are others in B",
    ),
    "ties": (
        "p = Conv (x, w) g = Greater (p, z) c = Cast <to = 1> (g) y = Tanh (c)",
        "p = Conv (x, w) g = GreaterOrEqual (p, z) c = Cast <to = 1> (g) y = Tanh (c)",
        {"z": 0.0}, "node 'g' (Greater) of A differs from node 'g' (GreaterOrEqual) of B",
    ),
    "high rows of a batch": (
        PLAIN,
        "s = Shape <start = 0, end = 1> (x) h = Squeeze (s) o = Constant <value_int = 0> () i = Constant <value_int = 1> () "
        "r = Range (o, h, i) t = Constant <value_int = 64> () l = Less (r, t) a = Constant <value_ints = [1,2,3]> () "
        "u = Unsqueeze (l, a) c = Conv (x, w) e = Where (u, c, z) y = Tanh (e)",
        {"z": 0.0}, "node 'e' (Where) of B",
    ),
}  # fmt: skip


@pytest.mark.parametrize("kind", RARE)
def test_what_acts_on_rare_inputs_only_is_named(kind: str) -> None:
    first, second, constants, words = RARE[kind]
    original = model(first, **constants)
    other = model(second, **constants)
    next(t for t in other.graph.initializer if t.name == "w").CopyFrom(original.graph.initializer[0])
    found = verify(original, other)
    assert found.verdict == "INCONCLUSIVE", (found.verdict, found.reasons)
    assert words in " ".join(found.reasons)


def test_the_body_of_a_loop_without_trips_is_named() -> None:
    """It runs as often as a number that random inputs never make positive."""
    loop = "body (int64 i, bool on, float[N,4,O,O] a) => (bool more, float[N,4,O,O] b) {{ more = Identity (on) b = {} (a) }}"
    models = []
    for operator in ("Relu", "Neg"):
        made = model(
            "c = Conv (x, w) s = ReduceMax <keepdims = 0> (x) f = Div (s, k) t = Cast <to = 7> (f) y = Tanh (c)", k=1e9
        )
        body = onnx.parser.parse_graph(loop.format(operator))
        made.graph.node[-1].CopyFrom(helper.make_node("Loop", ["t", "", "c"], ["y"], name="again", body=body))
        models.append(made)
    models[1].graph.initializer[0].CopyFrom(models[0].graph.initializer[0])
    found = verify(*models)
    assert found.verdict == "INCONCLUSIVE", (found.verdict, found.reasons)
    assert "(Neg) in body of Loop 'again' of B" in " ".join(found.reasons)


def test_an_output_that_nobody_reads_is_not_compared() -> None:
    """The order of the places that MaxPool gives is another; nobody reads them."""
    original = model(
        "c = Conv (x, w) p, i = MaxPool <kernel_shape = [2,2], strides = [2,2]> (c) y = Add (p, k)",
        k=R.random((4, 2, 2)),
    )
    other = copied(original)
    other.graph.node[1].attribute.append(helper.make_attribute("storage_order", 1))
    other.graph.node[1].output[1] = "places"
    found = verify(original, other)
    assert (found.verdict, found.grade) == ("PASS", "proved"), found.reasons


SAME: dict[str, Callable[[onnx.ModelProto], object]] = {
    "a node renamed": lambda m: setattr(m.graph.node[0], "name", "other"),
    "a default written out": lambda m: m.graph.node[0].attribute.append(helper.make_attribute("group", 1)),
    "a constant in another encoding": lambda m: m.graph.initializer[0].CopyFrom(
        helper.make_tensor("w", TensorProto.FLOAT, [4, 3, 3, 3], numpy_helper.to_array(m.graph.initializer[0]).ravel())
    ),
    "an opset that leaves the operators alone": lambda m: setattr(m.opset_import[0], "version", 18),
    "an unused initializer": lambda m: m.graph.initializer.append(numpy_helper.from_array(np.float32([1]), "more")),
}


@pytest.mark.parametrize("how", SAME)
def test_what_means_the_same_is_proved(how: str) -> None:
    original = model(PLAIN)
    other = copied(original)
    SAME[how](other)
    found = verify(original, other)
    assert (found.verdict, found.grade) == ("PASS", "proved"), found.reasons
    assert "proved for all inputs" in found.in_a_line()


@pytest.mark.parametrize("width", [0, 1])
def test_padding_by_nothing_leaves_everything_alone(width: int) -> None:
    pads = np.array([0] * 7 + [width])
    made = model("c = Conv (x, w) q = Pad (c, k) y = Tanh (q)", k=pads)
    older = helper.make_node("Pad", ["c"], ["q"], pads=pads.tolist())
    neutral = Neutral(Meanings(made))
    assert [neutral.leave_alone(node) for node in (made.graph.node[1], older)] == [not width] * 2
    assert not neutral.leave_alone(made.graph.node[0])


def test_a_pass_by_numbers_alone_is_measured_and_may_not_be_enough() -> None:
    softsign = model("c = Conv (x, w) a = Abs (c) b = Add (a, one) y = Div (c, b)", one=1.0)
    direct = model("c = Conv (x, w) y = Softsign (c)")
    direct.graph.initializer[0].CopyFrom(softsign.graph.initializer[0])
    found = verify(direct, softsign)
    assert (found.verdict, found.grade) == ("PASS", "measured"), found.reasons
    assert found.said == "PASS, measured on 3 inputs"
    strict = verify(direct, softsign, require="proved")
    assert (strict.verdict, strict.grade) == ("INCONCLUSIVE", "")
    assert strict.reasons[0] == "the models agree, but that is measured on 3 inputs, not proved for all"


def test_a_fold_in_float32_is_judged_by_its_effect() -> None:
    """Where a bias and a mean cancel, the correctly rounded bias is far better than one computed in float32."""
    weights = CONV.weights(0)
    weights["mean"] = weights["b"] + np.float32(1e-3) * R.standard_normal(8).astype(np.float32)
    weights["shift"] = np.zeros(8, np.float32)
    s = weights["scale"] / np.sqrt(weights["var"] + np.float32(1e-5))
    rounded = {
        **CONV.fold(weights),
        "b": weights["b"] * s - weights["mean"] * s,
        "w": weights["w"] * s[:, None, None, None],
    }
    found = verify(CONV.original(weights), CONV.folded(rounded))
    assert found.passed, found.reasons
    (site,) = found.derived
    assert site.ratio > 8 * site.roundings > site.effect
    assert "rounded on the way" in " ".join(found.reasons)
    wrong = verify(CONV.original(weights), CONV.folded({**rounded, "b": rounded["b"] * np.float32(1.01)}))
    assert wrong.verdict == "FAIL"


def test_a_fold_without_the_name_of_what_it_replaces_is_judged() -> None:
    """As other tools fold: the Conv keeps its name, so that what the original calls `c` is in no list of both models."""
    parameters = {k: R.uniform(0.5, 2, 4) for k in ("scale", "shift", "mean", "var")}
    original = model("p = Conv (x, w) c = BatchNormalization (p, scale, shift, mean, var) y = Relu (c)", **parameters)
    stored = {t.name: numpy_helper.to_array(t).astype(np.float64) for t in original.graph.initializer}
    s = stored["scale"] / np.sqrt(stored["var"] + 1e-5)
    for factor, verdict in ((1.0, "PASS"), (1.001, "FAIL")):
        folded = model("p = Conv (x, w, b) y = Relu (p)", b=stored["shift"] - stored["mean"] * s)
        weights = stored["w"] * (s * factor)[:, None, None, None]
        folded.graph.initializer[0].CopyFrom(numpy_helper.from_array(weights.astype(np.float32), "w"))
        found = verify(original, folded)
        assert found.verdict == verdict, found.reasons
        assert any(site.responses for site in found.derived)


POOLED = '<ir_version: 8, opset_import: ["" : 17]> g (float[N,3,H,W] x) => (float[N,3,P,Q] y) {{ {} }}'
OF_SIZES = {
    "ceil_mode": [f"y = MaxPool <kernel_shape = [2,2], strides = [2,2], ceil_mode = {mode}> (x)" for mode in (0, 1)],
    "auto_pad": [f"y = MaxPool <kernel_shape = [3,3], strides = [2,2], {pads}> (x)" for pads in ('auto_pad = "SAME_UPPER"', "pads = [0,0,1,1]")],
}  # fmt: skip


@pytest.mark.parametrize("kind", OF_SIZES)
def test_what_only_odd_sizes_show_is_wrong(kind: str) -> None:
    found = verify(*(onnx.parser.parse_model(POOLED.format(lines)) for lines in OF_SIZES[kind]))
    assert found.verdict == "FAIL"
    assert "sizes +1" in " ".join(str(case) for level in found.levels for case in level.cases)


def test_a_bound_that_no_input_reaches_is_named() -> None:
    original = model("c = Conv (x, w) y = Clip (c, low, high)", low=-0.5, high=1e6)
    other = copied(original)
    other.graph.initializer[2].CopyFrom(numpy_helper.from_array(np.float32(6e5), "high"))
    found = verify(original, other)
    assert found.verdict == "INCONCLUSIVE", found.reasons
    assert "'y'" in found.reasons[0]


@pytest.mark.parametrize("rows", [slice(0, -1), slice(0, None)])
def test_a_row_of_a_table_that_no_input_reads_is_named(rows: slice) -> None:
    head = '<ir_version: 8, opset_import: ["" : 17]> g (int64[N,L] i) => (float[N,L,3] y)'
    table = R.standard_normal((4000, 3)).astype(np.float32)
    pair = [onnx.parser.parse_model(f"{head} {{ t = Gather (table, i) y = Tanh (t) }}") for _ in range(2)]
    changed = table.copy()
    changed[3999] += 1
    for each, values in zip(pair, (table, changed[rows]), strict=True):
        each.graph.initializer.append(numpy_helper.from_array(values, "table"))
    found = verify(*pair)
    assert found.verdict == "INCONCLUSIVE", found.reasons
    assert "do differently at node 't' (Gather)" in found.reasons[0]


def test_what_keeps_a_tensor_in_bounds_that_it_keeps_anyway_may_be_gone() -> None:
    """Alone, the site that reads it would meet numbers that no Sigmoid makes."""
    w2 = R.standard_normal((4, 4, 1, 1))
    original = model("c = Conv (x, w) s = Sigmoid (c) k = Clip (s, low, high) y = Conv (k, v)", low=0, high=1, v=w2)
    other = copied(original)
    del other.graph.node[2]
    other.graph.node[2].input[0] = "s"
    assert verify(original, other).verdict != "FAIL"


def test_an_output_that_contradicts_its_declaration_fails() -> None:
    original = model("c = Conv (x, w) y = Relu (c)")
    other = copied(original)
    other.graph.output[0].type.tensor_type.shape.dim[0].dim_value = 1
    assert verify(original, other).verdict == "FAIL"


TIES = {
    "at a bound": ("b = Greater (x, k) y = Where (b, x, z)", "b = GreaterOrEqual (x, k) y = Where (b, x, z)"),
    "of rounding": ("r = Round (x) y = Add (r, z)", "h = Add (x, k) r = Floor (h) y = Add (r, z)"),
}


@pytest.mark.parametrize("how", TIES)
def test_what_only_ties_show_fails(how: str) -> None:
    head = '<ir_version: 8, opset_import: ["" : 17]> g (float[N,6] x) => (float[N,6] y)'
    pair = [onnx.parser.parse_model(f"{head} {{ {lines} }}") for lines in TIES[how]]
    for each in pair:
        each.graph.initializer.extend(numpy_helper.from_array(np.float32(v), k) for k, v in (("k", 0.5), ("z", 7)))
    assert verify(*pair).verdict == "FAIL"


@pytest.mark.parametrize(("epsilon", "verdict"), [(1e-8, "INCONCLUSIVE"), (1e-3, "FAIL")])
def test_an_epsilon_that_rounding_hides_is_named_where_it_is_gone(epsilon: float, verdict: str) -> None:
    """Its absence is wrong by numbers that no input showed."""
    original = model("c = Conv (x, w) p = Sigmoid (c) s = ReduceSum (p) a = Add (s, k) y = Div (p, a)", k=epsilon)
    other = copied(original)
    del other.graph.node[3]
    other.graph.node[3].input[1] = "s"
    result = verify(original, other)
    assert result.verdict == verdict
    assert verdict == "FAIL" or "Add" in result.reasons[0]


BY_SIZE = {
    "a border": "o = Concat <axis=0> (nil, nil, nil, nil, nil, nil, nil, d) p = Pad (x, o) c = Conv (p, w) y = Relu (c)",
    "one more": "f = Cast <to=1> (d) p = Add (x, f) c = Conv (p, w) y = Relu (c)",
}


@pytest.mark.parametrize("name", BY_SIZE)
def test_what_only_large_sizes_do_is_named(name: str) -> None:
    """How many hundreds of rows there are is 0 for all inputs that are tried."""
    numbers = {"i": np.array([0]), "many": np.array([300]), "nil": np.array([0])}
    original = model("c = Conv (x, w) y = Relu (c)")
    other = model(f"h = Shape (x) n = Gather (h, i) d = Div (n, many) {BY_SIZE[name]}", **numbers)
    other.graph.initializer[0].CopyFrom(original.graph.initializer[0])
    result = verify(original, other)
    assert result.verdict == "INCONCLUSIVE"
    assert "sizes" in result.reasons[0]
