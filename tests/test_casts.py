"""Constants after Cast, CastLike and QuantizeLinear: the numbers that the operator says, of every element type."""

from __future__ import annotations

from dataclasses import dataclass, field
from fractions import Fraction

import ml_dtypes
import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper

from bnfold.algebra.affine import Refused
from bnfold.algebra.casting import cast, quantize
from bnfold.folding.driver import fold
from tests.verify_nets import evaluate

RNG = np.random.default_rng(0)
F8 = {"e4m3fn": 448.0, "e4m3fnuz": 240.0, "e5m2": 57344.0, "e5m2fnuz": 57344.0}  # and the largest number of each
KINDS = {f"float8_{name}": getattr(ml_dtypes, f"float8_{name}") for name in F8}
KINDS |= {"bfloat16": ml_dtypes.bfloat16, "float16": np.float16}


def numbers(kind: type) -> np.ndarray:
    """Every finite number of a type of at most 16 bits that is not negative, by its code."""
    codes = np.arange(1 << (8 * np.dtype(kind).itemsize - 1), dtype=f"u{np.dtype(kind).itemsize}")
    with np.errstate(invalid="ignore"):
        found = codes.view(kind).astype(np.float64)
    return found[np.isfinite(found)]


def brute(value: float, held: np.ndarray) -> float:
    """The nearest of all numbers; of two that are as near, the one with the even code."""
    distances = [abs(Fraction(value) - Fraction(float(x))) for x in held]
    return float(held[min(range(len(held)), key=lambda i: (distances[i], i % 2))])


def tricky(kind: type) -> np.ndarray:
    """Numbers of a type, those half way between them, and float64's neighbours of these."""
    held = numbers(kind)
    some = np.sort(RNG.choice(len(held) - 1, 40, replace=False))
    ties = (held[some] + held[some + 1]) / 2
    return np.concatenate([held[some], ties, np.nextafter(ties, 0), np.nextafter(ties, np.inf)])


@pytest.mark.parametrize("name", KINDS)
def test_a_float_is_rounded_once_to_the_nearest(name):
    held, values = numbers(KINDS[name]), tricky(KINDS[name])
    if name in ("float16", "bfloat16"):  # of 32,768 numbers those around
        want = [brute(x, held[max(0, i - 2) & ~1 : i + 3]) for x, i in zip(values, np.searchsorted(held, values), strict=True)]  # fmt: skip
    else:
        want = [brute(x, held) for x in values]
    got = cast(values, np.dtype(KINDS[name]))
    np.testing.assert_array_equal(got.astype(np.float64), want)
    np.testing.assert_array_equal(cast(-values, np.dtype(KINDS[name])).astype(np.float64), -np.array(want))


@pytest.mark.parametrize("name", F8)
def test_eight_bits_saturate_or_do_not(name):
    kind, most = np.dtype(KINDS[f"float8_{name}"]), F8[name]
    large = np.float32([np.inf, -np.inf, 1e30, -2 * most])
    np.testing.assert_array_equal(cast(large, kind).astype(np.float64), [most, -most, most, -most])
    beyond = cast(large, kind, saturate=False).astype(np.float64)
    np.testing.assert_array_equal(beyond, np.float64([1, -1, 1, -1]) * (np.inf if name == "e5m2" else np.nan))
    assert np.isnan(cast(np.float32([np.nan]), kind).astype(np.float64)).all()


INTEGERS = {  # values, their type, the type that is cast to, what comes out
    "a fraction is cut off": ([2.7, -2.7, 0.5, -0.5], "float32", "int8", [2, -2, 0, 0]),
    "a whole number": ([7, -8, 3], "float32", "int4", [7, -8, 3]),
    "high bits are lost": ([200, -129, 256, 9], "int16", "int8", [-56, 127, 0, 9]),
    "high bits are lost, four": ([200, -129, 9, -9], "int32", "int4", [-8, -1, -7, 7]),
    "high bits are lost, four without sign": ([200, -1, 9, -9], "int32", "uint4", [8, 15, 9, 7]),
    "high bits are lost, two": ([5, -3, 2], "int8", "int2", [1, 1, -2]),
    "four bits into eight": ([-8, 7], "int4", "uint8", [248, 7]),
    "the largest of 64 bits": ([2**64 - 1], "uint64", "int64", [-1]),
    "to truth": ([0.25, 0, -1], "float16", "bool", [1, 0, 1]),
    "from truth": ([1, 0], "bool", "int4", [1, 0]),
    "an integer that float32 rounds": ([2**24 + 1, 2**53 + 1], "int64", "float32", [2**24, 2**53]),
    "a float16 that overflows": ([70000, -70000], "int32", "float16", [np.inf, -np.inf]),
}


@pytest.mark.parametrize("name", INTEGERS)
def test_a_cast_of_or_to_integers(name):
    values, source, target, want = INTEGERS[name]
    kinds = {k: np.dtype(getattr(ml_dtypes, k, None) or k) for k in (source, target)}
    got = cast(np.array(values).astype(kinds[source]), kinds[target])
    assert got.dtype == kinds[target]
    np.testing.assert_array_equal(got.astype(np.float64), np.array(want, np.float64))


@pytest.mark.parametrize(("mode", "want"), [("up", [1, 2, 2, 4]), ("down", [1, 1, 1, 2]), ("nearest", [1, 1, 2, 4])])
def test_a_power_of_two(mode, want):
    got = cast(np.float32([1, 1.25, 1.5, 3]), np.dtype(ml_dtypes.float8_e8m0fnu), round_mode=mode)
    np.testing.assert_array_equal(got.astype(np.float64), want)


LEFT_OPEN = {  # what ONNX does not define, or runtimes do differently
    "out of range": ([300.5], "int8", "what it cannot hold"),
    "not a number": ([np.nan], "int32", "what it cannot hold"),
    "fractions in four bits": ([0.5], "int4", "some runtimes round and others cut off"),
    "a negative power of two": ([-1.0], "float8_e8m0fnu", "on which runtimes differ"),
    "four bits that overflow": ([7.0], "float4_e2m1fn", "what it cannot hold"),
    "text": ([1.0], "str", "strings"),
}


@pytest.mark.parametrize("name", LEFT_OPEN)
def test_what_is_left_open_is_refused(name):
    values, kind, words = LEFT_OPEN[name]
    with pytest.raises(Refused, match=words):
        cast(np.float32(values), np.dtype(getattr(ml_dtypes, kind, None) or kind))


def test_quotients_on_which_precisions_differ_are_refused():
    half, scale = np.float16([1.25, 0.75]), np.float16(0.1)
    assert quantize(half, np.float16(0.5), np.int8(1), np.dtype(np.float16)).tolist() == [3, 3]
    with pytest.raises(Refused, match="rounds in another way"):
        quantize(half, scale, np.int8(0), np.dtype(np.float16))
    with pytest.raises(Refused, match="by zero"):
        quantize(np.float32([1.0]), np.float32(0), np.int8(0), np.dtype(np.float32))


W = (2 * RNG.standard_normal((4, 3, 2, 2))).astype(np.float32)
HALF, ONE = np.float16([1]), np.float32(np.ones(1)).astype(ml_dtypes.float8_e5m2)
S, Z = RNG.uniform(0.02, 0.1, 4).astype(np.float32), np.int8([1, -2, 0, 7])


def to(kind: str, source: str = "W", target: str = "q", **more: object) -> onnx.NodeProto:
    return helper.make_node("Cast", [source], [target], to=getattr(TensorProto, kind), **more)


@dataclass(frozen=True)
class Chain:
    """Nodes from W to q with their constants, and whether the BatchNormalization folds."""

    nodes: list[onnx.NodeProto]
    constants: dict[str, np.ndarray] = field(default_factory=dict)
    folds: bool = True


CHAINS = {
    **{kind: Chain([to(kind)]) for kind in ("BFLOAT16", "FLOAT16", "INT8", "INT16", "INT32", "BOOL", "DOUBLE")},
    **{f"FLOAT8{k.upper()}": Chain([to(f"FLOAT8{k.upper()}")]) for k in F8},
    **{f"FLOAT8{k.upper()}, large": Chain([to(f"FLOAT8{k.upper()}")], {"W": 1e4 * W}) for k in F8},
    "FLOAT8E5M2, unsaturated": Chain([to("FLOAT8E5M2", saturate=0)]),
    "INT4 of whole numbers": Chain([to("INT4")], {"W": np.clip(np.round(W), -8, 7)}),
    "UINT4 of whole numbers": Chain([to("UINT4")], {"W": np.clip(np.abs(np.round(W)), 0, 15)}),
    "INT4 of integers": Chain([to("INT4")], {"W": np.round(9 * W).astype(np.int32)}),
    "INT4 of fractions": Chain([to("INT4")], folds=False),
    "INT8 out of range": Chain([to("INT8")], {"W": 1e3 * W}, folds=False),
    "CastLike to float16": Chain([helper.make_node("CastLike", ["W", "l"], ["q"])], {"l": HALF}),
    "CastLike to float8": Chain([helper.make_node("CastLike", ["W", "l"], ["q"])], {"l": ONE}),
    "twice": Chain([to("FLOAT16", target="h"), to("BFLOAT16", "h")]),
    "a float16 product": Chain([helper.make_node("Mul", ["W", "l"], ["q"])], {"W": W.astype(np.float16), "l": HALF * np.float16(0.3)}, folds=False),
    "a float16 product, moved": Chain([helper.make_node("Mul", ["W", "l"], ["m"]), helper.make_node("Identity", ["m"], ["q"])],
        {"W": W.astype(np.float16), "l": HALF * np.float16(0.3)}, folds=False),
    "a power of integers": Chain([helper.make_node("Pow", ["W", "l"], ["q"])], {"W": np.round(4 * W).astype(np.int32), "l": np.int32([3])}),
    "a power that int32 does not hold": Chain([helper.make_node("Pow", ["W", "l"], ["q"])], {"W": np.full(W.shape, 1000, np.int32), "l": np.int32([4])},
        folds=False),
    "a power that float64 rounds": Chain([helper.make_node("Pow", ["W", "l"], ["q"])], {"W": np.full(W.shape, -7, np.int64), "l": np.int64([21])},
        folds=False),
    "after a Relu": Chain([helper.make_node("Relu", ["W"], ["r"]), to("BFLOAT16", "r")], folds=False),
    "after a Clip in float16": Chain([helper.make_node("Clip", ["W", "l"], ["q"])], {"W": W.astype(np.float16), "l": HALF[0]}, folds=False),
    "quantized": Chain([helper.make_node("QuantizeLinear", ["W", "s", "z"], ["q"], axis=0)], {"s": S, "z": Z}),
    "quantized, four bits": Chain([helper.make_node("QuantizeLinear", ["W", "s"], ["q"], output_dtype=TensorProto.INT4, axis=0)], {"s": 4 * S}),
    "quantized in blocks": Chain([helper.make_node("QuantizeLinear", ["W", "s"], ["q"], output_dtype=TensorProto.INT8, axis=1, block_size=2)],
        {"s": RNG.uniform(0.02, 0.1, (4, 2, 2, 2)).astype(np.float32)}),
    "quantized to float8": Chain([helper.make_node("QuantizeLinear", ["W", "s"], ["q"], output_dtype=TensorProto.FLOAT8E4M3FN, axis=0)], {"s": S}),
    "what float32 loses": Chain([helper.make_node("Add", ["W", "l"], ["a"]), helper.make_node("Sub", ["a", "l"], ["b"]), to("DOUBLE", "b")],
        {"l": np.float32([1e6])}),
}  # fmt: skip


def chain(name: str) -> onnx.ModelProto:
    """X -> Conv -> BatchNormalization, with the weight of a row after a Cast to float32."""
    norm = {
        f"p{k}": RNG.uniform(0.5, 2, 4).astype(np.float32) * (1 if k == "v" else RNG.choice([-1, 1], 4)) for k in "gbmv"
    }
    value, stored = helper.make_tensor_value_info, {"W": W, **norm, **CHAINS[name].constants}
    nodes = [
        *CHAINS[name].nodes,
        to("FLOAT", "q", "w"),
        helper.make_node("Conv", ["X", "w"], ["c"]),
        helper.make_node("BatchNormalization", ["c", "pg", "pb", "pm", "pv"], ["Y"]),
    ]
    initializers = [numpy_helper.from_array(np.asarray(v), k) for k, v in stored.items()]
    initializers = [
        t if t.data_type != TensorProto.DOUBLE else numpy_helper.from_array(np.float32(stored[t.name]), t.name)
        for t in initializers
    ]
    graph = helper.make_graph(nodes, "g", [value("X", 1, [2, 3, 5, 5])], [value("Y", 1, [2, 4, 4, 4])], initializers)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)
    onnx.checker.check_model(model, full_check=True)
    return model


def run(model: onnx.ModelProto, x: np.ndarray) -> np.ndarray:
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.log_severity_level = 4
    session = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    return np.asarray(session.run(None, {"X": x})[0])


@pytest.mark.parametrize("name", CHAINS)
def test_the_folded_weight_is_made_of_the_rounded_one(name):
    model = chain(name)
    result = fold(model)
    assert len(result.folded) == CHAINS[name].folds
    x = RNG.standard_normal((2, 3, 5, 5)).astype(np.float32)
    want, got = run(model, x), run(result.model, x)
    np.testing.assert_allclose(got, want, rtol=0, atol=4e-6 * np.abs(want).max())
    if result.folded:
        true = evaluate(model, {"X": x})["Y"]
        np.testing.assert_allclose(evaluate(result.model, {"X": x})["Y"], true, rtol=0, atol=1e-6 * np.abs(true).max())


BACK = (  # how what follows the scale of mixed precision ends, and whether it is as few bits again
    ([], False),
    ([to("FLOAT16", "s", "b")], True),
    ([helper.make_node("Relu", ["s"], ["r"]), to("FLOAT16", "r", "b")], True),
    ([helper.make_node("Sigmoid", ["s"], ["r"]), to("FLOAT16", "r", "b")], False),
    ([to("BFLOAT16", "s", "b")], False),
    ([to("FLOAT16", "s", "a"), to("FLOAT", "s", "b")], False),
)


@pytest.mark.parametrize(("end", "folds"), BACK)
def test_activations_cross_a_cast_to_more_bits_where_they_get_few_again(end, folds):
    """In float32 an affine may make what float16 does not hold: hoisted past the Cast, 70000 would be infinite."""
    out = end[-1].output[0] if end else "s"
    nodes = [
        to("FLOAT16", "X", "h"),
        helper.make_node("Conv", ["h", "W"], ["c"]),
        to("FLOAT", "c", "f"),
        helper.make_node("Mul", ["f", "k"], ["s"]),
        *end,
        to("FLOAT", out, "Y") if end else helper.make_node("Identity", ["s"], ["Y"]),
    ]
    stored = {"W": W.astype(np.float16), "k": np.float32([[[2]], [[3]], [[0.5]], [[1.5]]])}
    value = helper.make_tensor_value_info
    initializers = [numpy_helper.from_array(v, k) for k, v in stored.items()]
    graph = helper.make_graph(nodes, "g", [value("X", 1, [2, 3, 5, 5])], [value("Y", 1, [2, 4, 4, 4])], initializers)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)
    result = fold(model)
    assert [n.op_type for n in result.model.graph.node].count("Mul") == (not folds)
    assert folds or result.kept[0].not_hoisted.code == "DTYPE"
