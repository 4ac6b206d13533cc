"""Folded constants against exact arithmetic: rational numbers, and square roots to 200 bits.

Shares no code with bnfold: the formulas are written out here once more, in `fractions.Fraction`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from fractions import Fraction
from math import isqrt

import ml_dtypes
import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper

from bnfold.folding.driver import fold

TYPES = {"float16": np.float16, "bfloat16": ml_dtypes.bfloat16, "float32": np.float32, "float64": np.float64}
FORMATS = {"float16": (11, -14), "bfloat16": (8, -126), "float32": (24, -126), "float64": (53, -1022)}  # bits, exponent
U = Fraction(1, 2**53)  # half an ulp of 1 in float64
EPSILON = Fraction(float(np.float32(1e-5)))
exact = np.vectorize(lambda x: Fraction(float(x)), otypes=[object])


def root(q: Fraction) -> Fraction:
    """sqrt(q) to 200 bits or more, by integer arithmetic."""
    bits = 2 * (200 + q.denominator.bit_length())
    return Fraction(isqrt((q.numerator << bits) // q.denominator), 1 << (bits // 2))


def ulp(value: Fraction, kind: str) -> Fraction:
    """The distance of representable numbers around a value."""
    bits, smallest = FORMATS[kind]
    exponent = abs(value.numerator).bit_length() - value.denominator.bit_length()
    exponent -= abs(value) < Fraction(2) ** exponent
    return Fraction(2) ** (max(exponent, smallest) - bits + 1)


@dataclass(frozen=True)
class Fold:
    """One operator before (or after) a BatchNormalization, and what its constants become in exact arithmetic.

    `formula` takes the weight, the bias, and s and t of the BatchNormalization; all arrays of Fraction.
    """

    operator: str
    x: tuple[int, ...]
    weight: tuple[int, ...]
    bias: tuple[int, ...] | None
    formula: Callable[..., tuple[np.ndarray, np.ndarray]]
    channels: int
    attributes: dict = field(default_factory=dict)
    before: bool = False  # whether the BatchNormalization comes first


def column(c: np.ndarray, rank: int) -> np.ndarray:
    return c.reshape(-1, *[1] * (rank - 1))


def conv(w, b, s, t):
    return w * column(s, w.ndim), s * b + t


def conv_transpose(w, b, s, t):
    """Row i of W, in group i // 2, holds output channels 3 * group .. 3 * group + 2."""
    rows = np.stack([s[3 * (i // 2) : 3 * (i // 2) + 3] for i in range(len(w))])
    return w * rows[:, :, None, None], s * b + t


def gemm(w, b, s, t):
    return w * s[:, None], s * b + t / Fraction(float(np.float32(0.3)))


def matmul(w, b, s, t):
    return w * s, t


def sunk(w, b, s, t):
    """Output channel o of 2 groups reads input channels 2 * group, 2 * group + 1."""
    into = [slice(2 * (o // 3), 2 * (o // 3) + 2) for o in range(len(w))]
    scaled = np.stack([w[o] * column(s[into[o]], 3) for o in range(len(w))])
    return scaled, b + np.array([(w[o] * column(t[into[o]], 3)).sum() for o in range(len(w))])


FOLDS = {
    "Conv": Fold("Conv", (1, 3, 5, 5), (8, 3, 3, 3), (8,), conv, 8),
    "ConvTranspose": Fold("ConvTranspose", (1, 4, 5, 5), (4, 3, 2, 2), (6,), conv_transpose, 6, {"group": 2}),
    "Gemm": Fold("Gemm", (2, 6), (8, 6), (8,), gemm, 8, {"alpha": 0.7, "beta": 0.3, "transB": 1}),
    "MatMul": Fold("MatMul", (2, 6), (6, 8), None, matmul, 8),
    "into Conv": Fold("Conv", (1, 4, 5, 5), (6, 2, 3, 3), (6,), sunk, 4, {"group": 2}, before=True),
}


def ordinary(fold: Fold, rng: np.random.Generator) -> dict[str, np.ndarray]:
    c = fold.channels
    made = {"g": rng.standard_normal(c), "h": rng.standard_normal(c), "m": rng.standard_normal(c), "v": rng.random(c)}
    bias = rng.standard_normal(fold.bias) if fold.bias else np.zeros(c)
    return {"W": rng.standard_normal(fold.weight) / 8, "B": bias, **made}


def cancelling(fold: Fold, rng: np.random.Generator) -> dict[str, np.ndarray]:
    """|mean| >> sigma; where the BatchNormalization is after the operator, the bias nearly is the mean."""
    made = ordinary(fold, rng)
    mean = 5 * rng.standard_normal(fold.channels)
    bias = made["B"] if fold.before else mean + 0.01 * rng.standard_normal(fold.channels)
    return {**made, "B": bias, "m": mean, "v": 1e-4 * rng.random(fold.channels)}


def far_off(fold: Fold, rng: np.random.Generator) -> dict[str, np.ndarray]:
    """The same at a distance for which float16 has no room."""
    made = cancelling(fold, rng)
    return {**made, "m": 1000 * made["m"], "B": made["B"] if fold.before else made["B"] + 999 * made["m"]}


def typed(constants: dict[str, np.ndarray], kind: str) -> dict[str, np.ndarray]:
    return {k: v.astype(TYPES[kind]) for k, v in constants.items()}


def model_of(fold: Fold, constants: dict[str, np.ndarray], **attributes: float) -> onnx.ModelProto:
    weights = ["W", "B"] if fold.bias else ["W"]
    first, second = ("n", "Y") if fold.before else ("Y", "c")
    normalize = ["X" if fold.before else second, "g", "h", "m", "v"]
    nodes = [
        helper.make_node(fold.operator, [first if fold.before else "X", *weights], [second], **fold.attributes),
        helper.make_node("BatchNormalization", normalize, [first], **attributes),
    ]
    kind = helper.np_dtype_to_tensor_dtype(constants["W"].dtype)
    info = helper.make_tensor_value_info
    stored = [numpy_helper.from_array(v, k) for k, v in constants.items() if k != "B" or fold.bias]
    output = info("Y", kind, [None] * len(fold.x))
    graph = helper.make_graph(nodes[::-1] if fold.before else nodes, "g", [info("X", kind, fold.x)], [output], stored)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def folded_constants(model: onnx.ModelProto) -> list[np.ndarray]:
    """Weight and bias of the one node left."""
    (node,) = (result := fold(model).model).graph.node
    stored = {t.name: numpy_helper.to_array(t) for t in result.graph.initializer}
    return [stored[name] for name in node.input[1:]]


def truth(fold: Fold, constants: dict[str, np.ndarray], epsilon: Fraction = EPSILON) -> tuple[np.ndarray, np.ndarray]:
    w, b, g, h, m, v = (exact(constants[k]) for k in "WBghmv")
    s = np.array([gi / root(vi + epsilon) for gi, vi in zip(g, v, strict=True)])
    return fold.formula(w, b, s, h - s * m)


def worst(got: np.ndarray, want: np.ndarray, kind: str) -> tuple[float, float]:
    """The largest error in ulp, and the value that has it."""
    errors = [(abs(a - b) / ulp(b, kind), b) for a, b in zip(exact(got).flat, want.flat, strict=True)]
    return tuple(map(float, max(errors)))


DRAWN = [(k, draw) for k in ("float16", "bfloat16", "float32") for draw in (ordinary, cancelling, far_off)]


@pytest.mark.parametrize(("kind", "draw"), [pair for pair in DRAWN if pair != ("float16", far_off)])
@pytest.mark.parametrize("name", FOLDS)
def test_constants_are_within_half_an_ulp(name, kind, draw):
    for seed in range(5):
        constants = typed(draw(FOLDS[name], np.random.default_rng(seed)), kind)
        want = truth(FOLDS[name], constants)
        for got, right in zip(folded_constants(model_of(FOLDS[name], constants)), want, strict=True):
            assert got.dtype == TYPES[kind]
            assert worst(got, right, kind)[0] <= 0.5


@pytest.mark.parametrize("draw", [ordinary, cancelling])
@pytest.mark.parametrize("name", FOLDS)
def test_float64_constants_are_as_good_as_float64_arithmetic(name, draw):
    """A weight passes a sum (half its error under the root), a root, a quotient and a product: 3.5 roundings of 2^-53.

    A bias is a sum of products: the same and two roundings more, relative to the largest that its parts can be.
    """
    for seed in range(5):
        constants = typed(draw(FOLDS[name], np.random.default_rng(seed)), "float64")
        weight, bias = truth(FOLDS[name], constants)
        parts = truth(FOLDS[name], {k: (-1 if k == "m" else 1) * np.abs(v) for k, v in constants.items()})[1]
        got = folded_constants(model_of(FOLDS[name], constants))
        assert np.all(abs(exact(got[0]) - weight) <= Fraction(7, 2) * U * abs(weight))
        sums = FOLDS[name].weight[1] * 9 if FOLDS[name].before else 1
        assert np.all(abs(exact(got[1]) - bias) <= (Fraction(11, 2) + sums) * U * parts)


def near_ties(kind: str) -> tuple[np.ndarray, np.ndarray]:
    """Weights w in `kind` and factors g in float32 whose product, exact in float64, almost lies half way.

    On its way through float32 it would be rounded to half way first, and then perhaps to the wrong side.
    """
    bits, found = FORMATS[kind][0], []
    for w in (1 + np.arange(1, 2 ** (bits - 1), max(1, 2 ** (bits - 8)))) / 2 ** (bits - 1) + 1:
        for odd in (1, 3, 77):
            tie = 1 + odd / 2**bits
            g = np.float32(tie / w)
            for near in (np.nextafter(g, np.float32(0)), g, np.nextafter(g, np.float32(4))):
                product = float(TYPES[kind](w)) * float(near)
                if product != tie and np.float32(product) == tie:
                    found.append((w, near))
    w, g = map(np.array, zip(*found, strict=True))
    return w.astype(TYPES[kind]), g.astype(np.float32)


@pytest.mark.parametrize("kind", ["float16", "bfloat16"])
def test_there_is_one_rounding_only(kind):
    w, g = near_ties(kind)
    assert len(w) >= 20
    fold = Fold("Conv", (1, 1, 2, 2), (len(w), 1, 1, 1), (len(w),), conv, len(w))
    zeros = np.zeros(len(w), np.float32)
    statistics = {"g": g, "h": zeros, "m": zeros, "v": np.ones_like(zeros)}
    constants = {"W": w.reshape(-1, 1, 1, 1), "B": zeros.astype(TYPES[kind]), **statistics}
    got = folded_constants(model_of(fold, constants, epsilon=0.0))[0]
    error, value = worst(got, truth(fold, constants, epsilon=Fraction(0))[0], kind)
    assert error <= 0.5, f"{value!r} is off by {error!r} ulp of {kind}"


def test_a_shift_that_all_but_vanishes():
    """The bias is within half an ulp of what float64 can show: of parts that cancel, 2^-53 of each is noise.

    Beta is s * mean rounded to float32, so that of the shift only the rounding error is left.
    """
    rng = np.random.default_rng(0)
    constants = typed(ordinary(FOLDS["Conv"], rng), "float32")
    s = constants["g"] / np.sqrt(constants["v"].astype(np.float64) + float(EPSILON))
    constants["h"] = (s * constants["m"]).astype(np.float32)
    constants["B"] = np.zeros_like(constants["B"])
    bias = truth(FOLDS["Conv"], constants)[1]
    got = exact(folded_constants(model_of(FOLDS["Conv"], constants))[1])
    noise = [Fraction(9, 2) * U * abs(Fraction(float(h))) for h in constants["h"]]
    bounds = [ulp(value, "float32") / 2 + extra for value, extra in zip(bias, noise, strict=True)]
    assert np.any(bias != 0)
    assert np.all(abs(got - bias) <= bounds)
