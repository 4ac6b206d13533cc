"""Regions that do the same in other words are no change; those that differ for some numbers only are not let pass."""

from __future__ import annotations

import re
from collections.abc import Mapping

import numpy as np
import onnx
import onnx.parser
import pytest
from onnx import numpy_helper

from bnfold.verification import verify
from bnfold.verification.influence.at_random import compare_overflow
from tests.verify_nets import run_here

R = np.random.default_rng(0)
CONSTANTS = {
    "w": R.standard_normal((4, 3, 3, 3)), "nil": 0.0, "one": 1.0, "two": 2.0, "half": 0.5, "three": 3.0, "six": 6.0, "seven": 7.0,
    "far": 5000.0, "low": -5000.0, "eps": 1e-9, "inf": np.inf, "slopes": np.full((4, 1, 1), 0.1), "root": np.sqrt(2),
    "v": R.standard_normal((2, 4, 3, 3)), "large": 2.0**100, "small": 2.0**-100, "tiny": 2.0**-120, "huge": 2.0**120, "ones": np.ones(4),
    "milli": 1e-3, "edge": 27000.0, "edge2": 27000.01,
}  # fmt: skip


@pytest.fixture(autouse=True)
def _in_this_process(monkeypatch: pytest.MonkeyPatch) -> None:
    run_here(monkeypatch)


def model(body: str, kind: str = "float", opset: int = 20) -> onnx.ModelProto:
    text = f'<ir_version: 8, opset_import: ["" : {opset}]> g ({kind}[N,3,6,6] x) => ({kind} y) {{ {body} }}'
    made = onnx.parser.parse_model(text)
    made.graph.output[0].type.tensor_type.ClearField("shape")
    dtype = np.float16 if kind == "float16" else np.float32
    used = {name: value for name, value in CONSTANTS.items() if re.search(rf"\b{name}\b", body)}
    made.graph.initializer.extend(numpy_helper.from_array(np.asarray(v, dtype), name) for name, v in used.items())
    made.graph.initializer.append(numpy_helper.from_array(np.array([2, 3]), "axes"))
    return made


def on_a_conv(body: str, kind: str = "float") -> onnx.ModelProto:
    return model(f"c = Conv (x, w) {body} y = Sigmoid (r)", kind)


INDICES = " ".join(
    f"{name} = Constant <value_ints = [{number}]> ()"
    for name, number in {"n0": 0, "n1": 1, "n64": 64, "million": 10**6, "end": 2**62}.items()
)
NEAREST = (
    "k = Constant <value_floats = [1.0,1.0,2.0,2.0]> () "
    'r = Resize <mode = "nearest", coordinate_transformation_mode = "{}", nearest_mode = "{}"> (c, , k)'
)
NORM = "r = InstanceNormalization <epsilon = {}> (c, ones, ones)"
SAME = {
    "Relu as Max": ("r = Relu (c)", "r = Max (nil, c)"),
    "Relu as Clip": ("r = Relu (c)", "r = Clip (c, nil, inf)"),
    "Relu of a Relu": ("a = Relu (c) r = Relu (a)", "r = Relu (c)"),
    "Relu as LeakyRelu": ("r = Relu (c)", "r = LeakyRelu <alpha = 0.0> (c)"),
    "Relu6": ("r = Clip (c, nil, six)", "a = Relu (c) r = Min (a, six)"),
    "LeakyRelu as PRelu": ("r = LeakyRelu <alpha = 0.1> (c)", "r = PRelu (c, slopes)"),
    "HardSwish": ("a = HardSigmoid <alpha = 0.16666667, beta = 0.5> (c) r = Mul (a, c)", "r = HardSwish (c)"),
    "HardSwish of a Clip": ("a = Add (c, three) b = Clip (a, nil, six) d = Mul (c, b) r = Div (d, six)", "r = HardSwish (c)"),
    "Mish": ("a = Softplus (c) b = Tanh (a) r = Mul (c, b)", "r = Mish (c)"),
    "Gelu": ("a = Div (c, root) e = Erf (a) d = Add (e, one) q = Mul (c, d) r = Mul (q, half)", "r = Gelu (c)"),
    "a square": ("r = Pow (c, two)", "r = Mul (c, c)"),
    "a root": ("a = Abs (c) r = Sqrt (a)", "a = Abs (c) r = Pow (a, half)"),
    "a reciprocal": ("a = Sigmoid (c) e = Add (a, one) r = Reciprocal (e)", "a = Sigmoid (c) e = Add (a, one) r = Div (one, e)"),
    "a magnitude": ("r = Abs (c)", "a = Neg (c) r = Max (a, c)"),
    "a whole slice": ("r = Relu (c)", f"{INDICES} a = Slice (c, n0, end, n0) r = Relu (a)"),
    "a part": (f"{INDICES} r = Gather <axis = 1> (c, n0)", f"{INDICES} r = Slice (c, n0, n1, n1)"),
    "nearest neighbours": (
        NEAREST.format("half_pixel", "round_prefer_floor"), NEAREST.format("asymmetric", "floor"),
    ),
    "an average": ("r = GlobalAveragePool (c)", "r = ReduceMean <keepdims = 1> (c, axes)"),
    "a sigmoid": ("r = Sigmoid (c)", "n = Neg (c) e = Exp (n) a = Add (e, one) r = Reciprocal (a)"),
    "scales": ("r = Conv (c, v)", "a = Mul (c, two) b = Mul (a, half) r = Conv (b, v)"),
}  # fmt: skip
OTHER = {
    "rows from 64 on come first": (
        "r = Relu (c)", f"{INDICES} a = Slice (c, n0, n64, n0) b = Slice (c, n64, end, n0) d = Concat <axis = 0> (b, a) r = Relu (d)",
    ),
    "rows up to 64": ("r = Relu (c)", f"{INDICES} a = Slice (c, n0, n64, n0) r = Relu (a)"),
    "rows up to a million": ("r = Relu (c)", f"{INDICES} a = Slice (c, n0, million, n0) r = Relu (a)"),
    "a scale": (NEAREST.format("asymmetric", "floor"), NEAREST.format("asymmetric", "floor").replace("2.0,2.0", "2.0,2.0001")),
    "a bound that is hardly reached": ("r = Relu (c)", "r = Clip (c, nil, far)"),
    "a bound below": ("r = Identity (c)", "r = Max (c, low)"),
    "a bound by sums": ("r = Identity (c)", "a = Add (c, far) b = Relu (a) r = Sub (b, far)"),
    "a bound of another one": ("r = Clip (c, nil, far)", "a = Relu (c) r = Clip (a, nil, inf)"),
    "one value": ("r = Relu (c)", "t = Equal (c, seven) a = Relu (c) r = Where (t, one, a)"),
    "one value of a product": ("r = Relu (c)", "p = Mul (c, three) t = Equal (p, seven) a = Relu (c) r = Where (t, far, a)"),
    "a narrow interval": (
        "r = Relu (c)", "p = Mul (c, three) s = Add (p, far) l = Greater (s, edge) h = Less (s, edge2) t = And (l, h) a = Relu (c) r = Where (t, far, a)",
    ),
    "numbers near zero": ("r = Sigmoid (c)", "a = Abs (c) t = Less (a, eps) s = Sigmoid (c) r = Where (t, one, s)"),
    "no number": ("r = Sigmoid (c)", "t = IsNaN (c) s = Sigmoid (c) r = Where (t, one, s)"),
    "infinity": ("r = Sigmoid (c)", "t = IsInf (c) s = Sigmoid (c) r = Where (t, half, s)"),
    "a sigmoid that overflows": ("q = Mul (c, milli) r = Sigmoid (q)", "q = Mul (c, milli) e = Exp (q) a = Add (e, one) r = Div (e, a)"),
    "a softplus that overflows": ("q = Mul (c, milli) r = Softplus (q)", "q = Mul (c, milli) e = Exp (q) a = Add (e, one) r = Log (a)"),
    "a softmax that overflows": (
        "q = Mul (c, milli) r = Softmax <axis = 1> (q)", f"{INDICES} q = Mul (c, milli) e = Exp (q) s = ReduceSum <keepdims = 1> (e, n1) r = Div (e, s)",
    ),
    "scales that overflow": ("r = Conv (c, v)", "a = Mul (c, large) b = Mul (a, small) r = Conv (b, v)"),
    "scales that leave nothing": ("r = Conv (c, v)", "a = Mul (c, tiny) b = Mul (a, huge) r = Conv (b, v)"),
    "an epsilon": (NORM.format("0.000000000001"), NORM.format("0.000000001")),
    "a tie": ("t = Greater (c, nil) r = Where (t, c, one)", "t = GreaterOrEqual (c, nil) r = Where (t, c, one)"),
}  # fmt: skip


@pytest.mark.parametrize("kind", ["float", "float16"])
@pytest.mark.parametrize("words", SAME)
def test_what_does_the_same_in_other_words_passes(words: str, kind: str) -> None:
    found = verify(*(on_a_conv(body, kind) for body in SAME[words]))
    assert found.verdict == "PASS", found.reasons


@pytest.mark.parametrize(("rows", "passes"), [("end", True), ("n64", False)])
def test_a_slice_put_in_before_a_fold_takes_all_rows_or_is_named(rows: str, passes: bool) -> None:
    scale = np.array([0.5, 2, 1, 3], np.float32)
    first = model("c = Conv (x, w) r = Mul (c, slopes) y = Sigmoid (r)")
    other = model(f"{INDICES} a = Slice (x, n0, {rows}, n0) r = Conv (a, w) y = Sigmoid (r)")
    first.graph.initializer[1].CopyFrom(numpy_helper.from_array(scale.reshape(4, 1, 1), "slopes"))
    w = numpy_helper.to_array(other.graph.initializer[0]) * scale.reshape(4, 1, 1, 1)
    other.graph.initializer[0].CopyFrom(numpy_helper.from_array(w, "w"))
    assert verify(first, other).passed == passes


@pytest.mark.parametrize(("words", "number"), [
    ("a bound that is hardly reached", "of 5120.0 A makes 5120.0, B 5000.0"), ("no number", "of nan A makes nan, B 1.0"),
    ("one value of a product", "A makes 2.3333333, B 5000.0"),
])  # fmt: skip
def test_the_number_at_which_two_functions_differ_is_named(words: str, number: str) -> None:
    assert number in verify(*(on_a_conv(body) for body in OTHER[words])).reasons[0]


@pytest.mark.parametrize("words", OTHER)
def test_what_differs_for_some_numbers_does_not_pass(words: str) -> None:
    found = verify(*(on_a_conv(body) for body in OTHER[words]))
    assert found.verdict in ("INCONCLUSIVE", "FAIL"), found.reasons


def softmax(fed: Mapping[str, np.ndarray], shift: bool = True) -> np.ndarray:
    exponents = fed["c"] - fed["c"].max(axis=1, keepdims=True) * shift
    with np.errstate(all="ignore"):
        return np.exp(exponents) / np.exp(exponents).sum(axis=1, keepdims=True)


@pytest.mark.parametrize(("ours", "theirs", "words"), [
    (True, False, "of numbers of size 1000 only B makes infinite or undefined ones"), (False, True, ""), (True, True, ""),
])  # fmt: skip
def test_what_only_b_makes_infinite_is_a_difference(ours: bool, theirs: bool, words: str) -> None:
    examples = {"c": np.ones((2, 4, 3), np.float32)}
    found = compare_overflow(lambda fed: [softmax(fed, ours), softmax(fed, theirs)], examples, seed=0)
    assert (found.words if found else "") == words


INTEGERS = {
    "as it is": ("z = Identity (i)", "z = Identity (i)", True),
    "twice": ("z = Mul (i, n2)", "z = Add (i, i)", True),
    "through float32": ("z = Identity (i)", "f = Cast <to = 1> (i) z = Cast <to = 7> (f)", False),
    "through int32": ("z = Mul (i, i)", "f = Cast <to = 6> (i) g = Cast <to = 7> (f) z = Mul (g, g)", False),
    "by a quotient": ("z = Sub (i, n2)", "d = Div (i, i) e = Mul (d, i) z = Sub (e, n2)", False),
}  # fmt: skip


@pytest.mark.parametrize("words", INTEGERS)
def test_integers_are_compared_up_to_the_largest(words: str) -> None:
    *bodies, passes = INTEGERS[words]
    head = '<ir_version: 8, opset_import: ["" : 17]> g (int64[N,3] i) => (int64[N,3] z)'
    pair = [onnx.parser.parse_model(f"{head} {{ n2 = Constant <value = int64 {{2}}> () {body} }}") for body in bodies]
    assert verify(*pair).passed == passes


def recurrent(factor: float) -> onnx.ModelProto:
    """One of many weights times a factor."""
    text = '<ir_version: 8, opset_import: ["" : 17]> g (float[9,N,6] x) => (float[9,1,N,64] y)'
    made = onnx.parser.parse_model(f"{text} {{ y, h, c = LSTM <hidden_size = 64> (x, w, r) }}")
    random = np.random.default_rng(0)
    w, r = random.standard_normal((1, 256, 6)), random.standard_normal((1, 256, 64))
    r[0, 128, 0] *= factor
    made.graph.initializer.extend(numpy_helper.from_array(v.astype(np.float32), n) for n, v in (("w", w), ("r", r)))
    return made


@pytest.mark.parametrize(("factor", "passes"), [(1.00001, False), (1 + 1e-7, True)])
def test_a_weight_that_rounding_hides_is_another_number(factor: float, passes: bool) -> None:
    found = verify(recurrent(1.0), recurrent(factor))
    assert found.passed == passes
    assert passes or "node 'y' (LSTM) of B does with other numbers" in found.reasons[0]


def counting(limit: float) -> onnx.ModelProto:
    body = f"""body (int64 i, bool go, float[N,6] v) => (bool on, float[N,6] u) {{
        m = ReduceMax <keepdims = 0> (v) k = Constant <value = float {{{limit}}}> () on = Less (m, k) u = Tanh (v) }}"""
    text = '<ir_version: 8, opset_import: ["" : 17]> g (float[N,6] x) => (float[N,6] y)'
    start = "yes = Constant <value = bool {1}> () n = Constant <value = int64 {4}> ()"
    return onnx.parser.parse_model(f"{text} {{ {start} y = Loop (n, yes, x) <body = {body}> }}")


def test_a_bound_in_a_body_that_no_input_reaches_is_named() -> None:
    found = verify(counting(1e6), counting(5e5))
    assert found.verdict == "INCONCLUSIVE", found.reasons
    assert "'on' (Less) in body of Loop" in found.reasons[0]


def reading(folded: bool, wrong: int | None = None, rows: int = 300) -> onnx.ModelProto:
    """Rows of a table, doubled by a node or in the table."""
    body = "y = Gather (table, i)" if folded else "t = Gather (table, i) y = Mul (t, two)"
    text = f'<ir_version: 8, opset_import: ["" : 17]> g (int64[N,L] i) => (float[N,L,3] y) {{ {body} }}'
    made, table = onnx.parser.parse_model(text), np.random.default_rng(1).standard_normal((rows, 3)).astype(np.float32)
    table *= 1.7 if folded else 1
    if wrong is not None:
        table[wrong] += 1
    made.graph.initializer.append(numpy_helper.from_array(table, "table"))
    made.graph.initializer.extend([numpy_helper.from_array(np.float32(1.7), "two")] * (not folded))
    return made


def test_every_row_of_a_table_is_looked_up() -> None:
    assert verify(reading(False), reading(True)).passed


@pytest.mark.parametrize("wrong", [100, 299])
def test_a_wrong_row_of_a_table_that_was_scaled_does_not_pass(wrong: int) -> None:
    """Random indices are small: no input reads that row."""
    found = verify(reading(False), reading(True, wrong))
    assert found.verdict == "INCONCLUSIVE"
    assert "'y' (Gather) of B" in found.reasons[0]


def test_rows_of_a_table_are_also_counted_from_the_end() -> None:
    original, other = reading(False), reading(False)
    other.graph.node[0].input[1] = "j"
    other.graph.node.insert(0, onnx.helper.make_node("Abs", ["i"], ["j"]))
    assert verify(original, other).verdict == "INCONCLUSIVE"


@pytest.mark.parametrize("default", [1.5, 0.0])
def test_a_default_that_other_nodes_read_too_is_overridden(default: float) -> None:
    """Worked into one node, callers override it for the other one only."""
    pair = []
    for name in ("gain", "own"):
        made = model(f"c = Conv (x, w) m = Mul (c, {name}) k = Abs (gain) y = Add (m, k)")
        made.graph.input.append(onnx.helper.make_tensor_value_info("gain", 1, [1]))
        constants = (numpy_helper.from_array(np.float32([default]), each) for each in dict.fromkeys(["gain", name]))
        made.graph.initializer.extend(constants)
        pair.append(made)
    assert verify(*pair).verdict == "FAIL"
