"""Ring 3: one row per guard. A kept node says why in both directions, in words and as a code."""

from __future__ import annotations

from dataclasses import dataclass

import ml_dtypes
import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper

from bnfold import explain
from bnfold.algebra.affine import Affine
from bnfold.errors import ModelProblem
from bnfold.folding.driver import Kept, fold
from bnfold.folding.rules.parts import shared_out
from bnfold.system.limits import Limits, within
from tests.build import BN, bn, build, operators
from tests.rows import Graph

X, Y = "X[N,3,6,6]", "Y[N,4,4,4]"
W = {"W": (4, 3, 3, 3)}
X3, P3, B0, B3 = "Y[N,3,6,6]", bn("p", 3), BN("X", "p"), BN("c", "p")
SIGNS, LAID = np.array([1.0, -2, 3])[:, None, None], np.array([0.5, 2, 3])[:, None, None]


@dataclass(frozen=True)
class Guard(Graph):
    """A graph, and the code and words with which its first kept node is not hoisted and not sunk."""

    outputs: str = X3
    hoist: tuple[str, str] = ("GRAPH_INPUT", "'X' is an input of the graph")
    sink: tuple[str, str] = ("GRAPH_OUTPUT", "'Y' is an output of the graph")


GUARDS = {
    "an input": Guard(f"Y = {BN('X', 'p')}", bn("p", 3)),
    "an output": Guard(f"A = Conv(X, W) Y = {BN('A', 'p')}", {**W, **bn("p", 4)}, outputs=f"{Y}; A[N,4,4,4]",
        hoist=("GRAPH_OUTPUT", "'A' is an output of the graph")),
    "shared before": Guard(f"a = Conv(X, W) b = {BN('a', 'p')} Y = Mul(a, b)", {**W, **bn("p", 4)}, outputs=Y,
        hoist=("SHARED", "'a' is read by BatchNormalization -> 'b', Mul -> 'Y'"),
        sink=("MIXES", "Mul -> 'Y' multiplies the shift by a tensor that is not constant")),
    "shared after": Guard(f"b = {BN('X', 'p')} Y = Add(b, b)", bn("p", 3), sink=("SHARED", "Add -> 'Y' reads 'b' twice")),
    "nonlinear": Guard(f"c = Sigmoid(X) b = {BN('c', 'p')} Y = Sigmoid(b)", bn("p", 3), hoist=("NONLINEAR", "Sigmoid -> 'c' is not linear"),
        sink=("NONLINEAR", "Sigmoid -> 'Y' is not linear")),
    "no rule": Guard(f"c = CumSum(X, a) b = {BN('c', 'p')} Y = CumSum(b, a)", {**bn("p", 3), "a": np.array(2)},
        hoist=("NO_RULE", "it cannot move back through CumSum -> 'c'"), sink=("NO_RULE", "it cannot move on through CumSum -> 'Y'")),
    "padding": Guard(f"b = {BN('X', 'p')} Y = Conv<pads=[0,0,0,1]>(b, W)", {**W, **bn("p", 3)}, outputs="Y[N,4,4,5]",
        sink=("PADDING", "Conv -> 'Y' pads its input with zeros, which a shift would have to cross")),
    "same padding": Guard(f'b = {BN("X", "p")} Y = Conv<auto_pad="SAME_UPPER">(b, W)', {**W, **bn("p", 3)}, outputs="Y[N,4,6,6]",
        sink=("PADDING", "pads its input")),
    "border": Guard(f"b = {BN('X', 'p')} Y = ConvTranspose(b, W)", {"W": (4, 3, 3, 3), **bn("p", 4)}, inputs="X[N,4,6,6]", outputs="Y[N,3,8,8]",
        sink=("BORDER", "outputs of ConvTranspose -> 'Y' are reached by different taps of its kernel")),
    "no bias, beta": Guard(f"c = Gemm<beta=0.0>(X, W, C) Y = {BN('c', 'p')}", {"W": (4, 5), "C": (5,), **bn("p", 5)}, inputs="X[N,4]", outputs="Y[N,5]",
        hoist=("NO_BIAS", "Gemm -> 'c' ignores its bias (beta=0)")),
    "no bias, rank 3": Guard("l = MatMul(W, X) Y = Add(l, k)", {"W": (4, 3), "k": (4, 1)}, inputs="X[N,3,7]", outputs="Y[N,4,7]",
        hoist=("NO_BIAS", "MatMul -> 'l' has no bias to take the shift")),
    "a vector": Guard("l = MatMul(X, W) Y = Mul(l, k)", {"W": (3,), "k": (1,)}, inputs="X[N,3]", outputs="Y[N]",
        hoist=("VARIES", "MatMul -> 'l' multiplies by a vector")),
    "another axis": Guard("l = MatMul(X, W) s = Sigmoid(l) m = MatMul(s, V) Y = Mul(m, k)", {"W": (3, 3), "V": (3, 4), "k": (2, 4)}, inputs="X[2,3]",
        outputs="Y[2,4]", hoist=("VARIES", "it varies along axes that no one factor of MatMul -> 'm' has")),
    "more than channels": Guard("c = Conv(X, W) Y = Mul(c, k)", {**W, "k": (4, 4, 4)}, outputs=Y, hoist=("VARIES", "it varies on more than axis 1")),
    "a computed weight": Guard(f"b = {BN('X', 'p')} V = Sigmoid(U) Y = Conv(b, V)", bn("p", 3), inputs="X[N,3,6,6]; U[4,3,3,3]", outputs=Y,
        sink=("NOT_CONSTANT", "'V', an input of Conv -> 'Y', is not a stored constant")),
    "a bias of Gemm": Guard("b = Mul(X, k) Y = Gemm(U, V, b)", {"k": (5,)}, inputs="X[3,5]; U[3,4]; V[4,5]", outputs="Y[3,5]",
        sink=("NOT_LINEAR", "it reaches Gemm -> 'Y' as its bias")),
    "a denominator": Guard("b = Mul(X, k) Y = Div(U, b)", {"k": (5,)}, inputs="X[3,5]; U[3,5]", outputs="Y[3,5]",
        sink=("NOT_LINEAR", "it reaches Div -> 'Y' as a setting")),
    "mixed by Add": Guard("b = Mul(X, k) Y = Add(b, U)", {"k": (5,)}, inputs="X[3,5]; U[3,5]", outputs="Y[3,5]",
        sink=("MIXES", "Add -> 'Y' adds a tensor to which the scale does not apply")),
    "zero taken out": Guard("b = Mul(X, k) Y = Add(b, c)", {"k": [0.0], "c": (5,)}, inputs="X[3,5]", outputs="Y[3,5]",
        sink=("ZERO_SCALE", "a scale of 0 cannot be taken out of Add -> 'Y'")),
    "a shift past Mul": Guard("d = Mul(X, U) Y = Add(d, k)", {"k": (5,)}, inputs="X[3,5]; U[3,5]", outputs="Y[3,5]",
        hoist=("NONLINEAR", "Mul -> 'd' of computed tensors is not linear: a scale may cross it, but no shift")),
    "a shift past Div": Guard("d = Div(X, U) Y = Add(d, k)", {"k": (5,)}, inputs="X[3,5]; U[3,5]", outputs="Y[3,5]",
        hoist=("NONLINEAR", "Div -> 'd' of computed tensors is not linear: a scale may cross it, but no shift")),
    "no operand to scale": Guard("d = Mul(X, U) Y = Mul(d, k)", {"k": (3, 5)}, inputs="X[3,1]; U[1,5]", outputs="Y[3,5]",
        hoist=("VARIES", "it varies along axes that no one operand of Mul -> 'd' has")),
    "a broadcast operand": Guard("a = Sigmoid(X) b = Sigmoid(U) d = Add(a, b) Y = Mul(d, k)", {"k": (3, 1)}, inputs="X[3,5]; U[5]", outputs="Y[3,5]",
        hoist=("VARIES", "it varies along an axis on which 'b' is broadcast")),
    "reshape mixes": Guard(f"l = MatMul(X, W) t = Reshape(l, s) Y = {BN('t', 'p')}", {"W": (6, 4), "s": [2, 4, 2, 2], **bn("p", 4)}, inputs="X[8,6]",
        outputs="Y[2,4,2,2]"),
    "dynamic reshape": Guard("l = Sigmoid(X) t = Reshape(l, s) Y = Mul(t, k)", {"s": [-1, 4], "k": (4,)}, inputs="X[M,N]", outputs="Y[A,4]",
        hoist=("SHAPE_UNKNOWN", "Reshape -> 't' turns [M, N] into [?, 4], not all known before run time")),
    "computed statistics": Guard("v = Sigmoid(V) c = Conv(X, W) Y = BatchNormalization(c, pg, pb, pm, v)", {**W, **bn("p", 4)}, inputs=f"{X}; V[4]",
        outputs=Y, hoist=("NOT_CONSTANT", "'v', an input of BatchNormalization -> 'Y', is not a stored constant"),
        sink=("NOT_CONSTANT", "'v', an input of")),
    "negative variance": Guard("c = Conv(X, W) Y = BatchNormalization(c, pg, pb, pm, x)", {**W, **bn("p", 4), "x": [-1.0, 1, 1, 1]}, outputs=Y,
        hoist=("NOT_FINITE", "var + epsilon of BatchNormalization -> 'Y' is not positive"), sink=("NOT_FINITE", "var + epsilon")),
    "a constant input": Guard(f"Y = {BN('c', 'p')}", {"c": (2, 4), **bn("p", 4)}, outputs="Y[2,4]",
        hoist=("CONSTANT", "'c' is a constant, which nothing computes")),
    "a shift past Relu": Guard(f"c = Relu(X) Y = {B3}", P3, hoist=("NONLINEAR", "Relu -> 'c' is not linear: a scale may cross it, but no shift")),
    "a negative scale past Relu": Guard("c = Relu(X) Y = Mul(c, k)", {"k": SIGNS},
        hoist=("NEGATIVE_SCALE", "Relu -> 'c' goes by sign or order, and a scale is negative (-2)")),
    "a negative scale before MaxPool": Guard("b = Mul(X, k) Y = MaxPool<kernel_shape=[2,2]>(b)", {"k": SIGNS}, outputs="Y[N,3,5,5]",
        sink=("NEGATIVE_SCALE", "MaxPool -> 'Y' goes by sign")),
    "a negative scale past ReduceMax": Guard("c = ReduceMax<axes=[2]>(X) Y = Mul(c, k)", {"k": SIGNS}, outputs="Y[N,3,1,6]",
        hoist=("NEGATIVE_SCALE", "ReduceMax -> 'c' goes by")),
    "a negative scale before ReduceMin": Guard("b = Mul(X, k) Y = ReduceMin<axes=[2]>(b)", {"k": SIGNS}, outputs="Y[N,3,1,6]",
        sink=("NEGATIVE_SCALE", "ReduceMin -> 'Y' goes by")),
    "a negative scale past ReduceL2": Guard("c = ReduceL2<axes=[2]>(X) Y = Mul(c, k)", {"k": SIGNS}, outputs="Y[N,3,1,6]",
        hoist=("NEGATIVE_SCALE", "ReduceL2 -> 'c' goes by")),
    "a negative scale past Abs": Guard("c = Abs(X) Y = Mul(c, k)", {"k": SIGNS}, hoist=("NEGATIVE_SCALE", "Abs -> 'c' goes by")),
    "a shift before Abs": Guard(f"b = {B0} Y = Abs(b)", P3, sink=("NONLINEAR", "Abs -> 'Y' is not linear")),
    "a shift past ReduceL1": Guard(f"c = ReduceL1<axes=[2]>(X) Y = {B3}", P3, outputs="Y[N,3,1,6]", hoist=("NONLINEAR", "ReduceL1 -> 'c' is not linear")),
    "a shift before ReduceL2": Guard(f"b = {B0} Y = ReduceL2<axes=[2]>(b)", P3, outputs="Y[N,3,1,6]", sink=("NONLINEAR", "ReduceL2 -> 'Y' is not linear")),
    "a shift past LpPool": Guard(f"c = LpPool<kernel_shape=[2,2]>(X) Y = {B3}", P3, outputs="Y[N,3,5,5]",
        hoist=("NONLINEAR", "LpPool -> 'c' is not linear")),
    "a negative scale past LpPool": Guard("c = LpPool<kernel_shape=[2,2]>(X) Y = Mul(c, k)", {"k": SIGNS}, outputs="Y[N,3,5,5]",
        hoist=("NEGATIVE_SCALE", "LpPool -> 'c' goes by")),
    "a shift past PRelu": Guard(f"c = PRelu(X, a) Y = {B3}", {**P3, "a": (3, 1, 1)}, hoist=("NONLINEAR", "PRelu -> 'c' is not linear")),
    "a negative slope": Guard("c = PRelu(X, a) Y = Mul(c, k)", {"k": SIGNS, "a": SIGNS},
        hoist=("NEGATIVE_SCALE", "a scale and a slope of PRelu -> 'c' are negative")),
    "a slope as data": Guard("b = Mul(U, k) Y = PRelu(X, b)", {"k": SIGNS}, inputs="X[N,3,6,6]; U[3,1,1]", hoist=("GRAPH_INPUT", "'U' is"),
        sink=("NOT_LINEAR", "it reaches PRelu -> 'Y' as a setting")),
    "a bound for all channels": Guard(f"c = Clip(X, a, b) Y = {B3}", {**P3, "a": np.array(0.0), "b": np.array(6.0), "pg": [1.0, 2, 3]},
        hoist=("NONLINEAR", "Clip -> 'c' has the same number 0 for all channels, which it would part")),
    "a bound on the way on": Guard("b = Mul(X, k) Y = Clip(b, a)", {"a": np.array(0.5), "k": LAID},
        sink=("NONLINEAR", "Clip -> 'Y' has the same number 0.5 for all channels")),
    "a negative scale past Clip": Guard("c = Clip(X, a) Y = Mul(c, k)", {"a": np.array(0.0), "k": SIGNS}, hoist=("NEGATIVE_SCALE", "Clip -> 'c' goes by")),
    "a negative scale past Max": Guard("c = Max(X, a) Y = Mul(c, k)", {"a": (3, 1, 1), "k": SIGNS}, hoist=("NEGATIVE_SCALE", "Max -> 'c' goes by")),
    "a negative scale before Min": Guard("b = Mul(X, k) Y = Min(b, a)", {"a": (3, 1, 1), "k": SIGNS}, sink=("NEGATIVE_SCALE", "Min -> 'Y' goes by")),
    "zero taken out of Max": Guard("b = Mul(X, k) Y = Max(b, a)", {"a": (3, 1, 1), "k": [0.0]},
        sink=("ZERO_SCALE", "a scale of 0 cannot be taken out of Max -> 'Y'")),
    "an infinite branch": Guard("w = Greater(X, z) c = Where(w, X, a) Y = Mul(c, k)", {"z": [0.0], "a": [-np.inf], "k": SIGNS},
        hoist=("NOT_FINITE", "a number that Where -> 'c' fills in is infinite")),
    "a Cast to integers": Guard("b = Mul(X, k) i = Cast<to=7>(b) Y = Cast<to=11>(i)", {"k": LAID},
        sink=("DTYPE", "Cast -> 'i' does not convert between floating point types")),
    "a Cast from integers": Guard("i = Floor(X) j = Cast<to=7>(i) c = Cast<to=11>(j) Y = Mul(c, k)", {"k": LAID},
        hoist=("DTYPE", "Cast -> 'c' does not convert")),
    "a Cast to fewer bits": Guard("b = Mul(X, k) h = Cast<to=10>(b) Y = Cast<to=11>(h)", {"k": LAID},
        sink=("DTYPE", "Cast -> 'h' goes to float16, which may not hold what has not been scaled yet")),
    "a CastLike to another range": Guard("d = Cast<to=16>(X) b = Mul(d, k) h = CastLike(b, i) Y = Cast<to=11>(h)",
        {"k": np.ones(1, ml_dtypes.bfloat16) * 2, "i": np.float16([3])}, sink=("DTYPE", "CastLike -> 'h' goes to float16")),
    "a slope whose reciprocal is too small": Guard("c = Conv(X, W) h = PRelu(c, a) Y = Mul(h, k)", {**W, "a": [1e308], "k": [-1.0]}, outputs=Y,
        hoist=("OVERFLOW", "the folded constant of PRelu -> 'h' would be too small")),
    "a numerator that becomes too small": Guard("d = Div(c, X) Y = Mul(d, k)", {"c": [1e-300], "k": [1e-20]},
        hoist=("OVERFLOW", "the folded constant of Div -> 'd' would be too small for float64")),
    "a CastLike to integers": Guard("b = Mul(X, k) j = CastLike(b, i) Y = Cast<to=11>(j)", {"k": LAID, "i": [3]},
        sink=("DTYPE", "CastLike -> 'j' does not convert")),
    "a CastLike from integers": Guard("i = Floor(X) j = Cast<to=7>(i) c = CastLike(j, X) Y = Mul(c, k)", {"k": LAID},
        hoist=("DTYPE", "CastLike -> 'c' does not convert")),
    "what Tile repeats": Guard("c = Tile(X, r) Y = Mul(c, k)", {"r": [1, 2], "k": (6,)}, inputs="X[2,3]", outputs="Y[2,6]",
        hoist=("VARIES", "it varies over what Tile -> 'c' repeats")),
    "what Gather repeats": Guard("c = Gather<axis=1>(X, i) Y = Mul(c, k)", {"i": [1, 1], "k": (2,)}, inputs="X[2,3]", outputs="Y[2,2]",
        hoist=("VARIES", "it varies over what Gather -> 'c' repeats")),
    "a border of zeros": Guard(f"c = Pad(X, n, z) Y = {B3}", {**P3, "n": [0, 0, 1, 1, 0, 0, 1, 1], "z": np.array(0.0)}, outputs="Y[N,3,8,8]",
        hoist=("PADDING", "Pad -> 'c' has the same number 0 for all channels")),
    "a border before a Conv": Guard(f"b = {B0} Y = Pad(b, n, z)", {**P3, "n": [0, 0, 1, 1, 0, 0, 1, 1], "z": np.array(0.0)}, outputs="Y[N,3,8,8]",
        sink=("PADDING", "Pad -> 'Y' has the same number 0 for all channels")),
    "a border that is not given": Guard("c = Pad(X, n) Y = Add(c, k)", {"k": [0.5], "n": [0, 0, 1, 1, 0, 0, 1, 1]}, outputs="Y[N,3,8,8]",
        hoist=("NO_INPUT", "Pad -> 'c' has no input for the number that 0 would become")),
    "channels padded": Guard("b = Mul(X, k) Y = Pad(b, n)", {"k": LAID, "n": [0, 1, 0, 0, 0, 1, 0, 0]}, outputs="Y[N,5,6,6]",
        sink=("VARIES", "it varies along an axis that Pad -> 'Y' pads with one number, or cuts")),
    "channels cut": Guard("c = Pad<mode=\"edge\">(X, n) Y = Mul(c, k)", {"k": (2, 1, 1), "n": [0, -1, 0, 0, 0, 0, 0, 0]}, outputs="Y[N,2,6,6]",
        hoist=("VARIES", "it varies along an axis that Pad -> 'c' pads with one number, or cuts")),
    "zeros averaged": Guard(f"c = AveragePool<kernel_shape=[3,3], pads=[1,1,1,1], count_include_pad=1>(X) Y = {B3}", P3,
        hoist=("PADDING", "AveragePool -> 'c' averages the zeros of its padding")),
    "windows cut off": Guard(f"b = {B0} Y = AveragePool<kernel_shape=[3,3], strides=[2,2], ceil_mode=1, count_include_pad=1>(b)", P3,
        outputs="Y[N,3,3,3]", sink=("PADDING", "AveragePool -> 'Y' averages the zeros")),
    "a window of padding": Guard("c = MaxPool<kernel_shape=[2,2], dilations=[3,3], pads=[1,1,1,1]>(X) Y = Mul(c, k)", {"k": LAID}, inputs="X[N,3,2,2]",
        outputs="Y[N,3,1,1]", hoist=("PADDING", "a window of MaxPool -> 'c' may hold nothing but padding")),
    "a window of padding, sizes unknown": Guard("b = Mul(X, k) Y = MaxPool<kernel_shape=[2,2], dilations=[3,3], pads=[1,1,1,1]>(b)", {"k": LAID},
        inputs="X[N,3,H,W]", outputs="Y[N,3,A,B]", sink=("PADDING", "a window of MaxPool -> 'Y' may hold nothing but padding")),
    "back to where it starts": Guard("b = Mul(X, k) l, r = Split<axis=1>(b, n) m = Max(l, r) Y = Conv(m, W)",
        {"k": np.array([2.0, 2, 1, 1])[:, None, None], "n": [2, 2], "W": (4, 2, 3, 3)}, inputs="X[2,4,6,6]", outputs="Y[2,4,4,4]",
        sink=("SHARED", "it would come back to 'b', where it starts")),
    "one constant on two ways": Guard(
        "b = BatchNormalization<epsilon=0.0>(X, pg, pb, pm, pv) l, r = Split<axis=1>(b, n) c = Conv(l, V, B) m = Max(c, r) Y = Conv(m, W)",
        {"pg": [1.0, 1, 2, 2], "pb": [5.0, 5, 0, 0], "pm": [0.0] * 4, "pv": [1.0] * 4, "n": [2, 2], "V": (2, 2, 1, 1), "B": (2,), "W": (4, 2, 3, 3)},
        inputs="X[2,4,6,6]", outputs="Y[2,4,4,4]", sink=("SHARED", "it would reach the same constant on two ways")),
    "a picture without elements": Guard("b = Mul(X, k) Y = GlobalMaxPool(b)", {"k": LAID}, inputs="X[N,3,0,6]", outputs="Y[N,3,1,1]",
        sink=("PADDING", "a window of GlobalMaxPool -> 'Y' may hold nothing but padding")),
    "nothing to reduce": Guard("b = Mul(X, k) Y = ReduceMax<axes=[1]>(b)", {"k": [0.5]}, inputs="X[2,0]", outputs="Y[2,1]",
        sink=("PADDING", "ReduceMax -> 'Y' has a number of its own for a tensor without elements")),
    "the largest of nothing": Guard("c = ReduceMax<axes=[1]>(X) Y = Mul(c, k)", {"k": [0.5]}, inputs="X[2,0]", outputs="Y[2,1]",
        hoist=("PADDING", "ReduceMax -> 'c' has a number of its own for a tensor without elements")),
    "the mean of a picture without elements": Guard(f"b = {B0} Y = GlobalAveragePool(b)", P3, inputs="X[N,3,0,6]", outputs="Y[N,3,1,1]",
        sink=("PADDING", "a window of GlobalAveragePool -> 'Y' may hold nothing but padding")),
    "nothing to act on": Guard("Y = Mul(X, k)", {"k": (0,)}, inputs="X[2,0]", outputs="Y[2,0]",
        hoist=("VARIES", "it varies along an axis on which 'X' has no elements"), sink=("VARIES", "it varies along an axis on which 'Y' has no elements")),
    "a known weight that is rounded": Guard(f"r = Relu(W) h = Cast<to=10>(r) w = Cast<to=11>(h) c = Conv(X, w) Y = {BN('c', 'p')}", {**W, **bn("p", 4)},
        outputs=Y, hoist=("DTYPE", "Cast -> 'w' rounds what is known before run time, and would round it otherwise")),
    "a weight that no int8 holds": Guard(f"h = Cast<to=3>(w) d = Cast<to=11>(h) c = Conv(X, d) Y = {BN('c', 'p')}",
        {"w": np.full((4, 3, 3, 3), 300.5), **bn("p", 4)}, outputs=Y,
        hoist=("NOT_CONSTANT", "the constant 'h' is a Cast to int8 of what it cannot hold, which ONNX leaves undefined")),
    "a weight computed in float16": Guard(f"h = Cast<to=10>(W) m = Mul(h, h) d = Cast<to=11>(m) c = Conv(X, d) Y = {BN('c', 'p')}", {**W, **bn("p", 4)},
        outputs=Y, hoist=("NOT_CONSTANT", "the constant 'd' is made by arithmetic in float16, on which runtimes differ")),
    "a Slice back to the largest integer": Guard("b = Mul(X, k) Y = Slice(b, z, m, o, n)", {"k": LAID, "z": [2], "m": [2**63 - 1], "o": [1], "n": [-1]},
        outputs="Y[N,A,6,6]", sink=("MALFORMED", "a Slice goes back to the largest integer: runtimes differ on that")),
    "places averaged": Guard("b = Mul(X, k) Y = GlobalAveragePool(b)", {"k": (1, 6)}, outputs="Y[N,3,1,1]",
        sink=("VARIES", "it varies along axis 3, whose elements GlobalAveragePool -> 'Y' mixes")),
    "channels averaged": Guard("b = Mul(X, k) Y = ReduceMean<axes=[1]>(b)", {"k": LAID}, outputs="Y[N,1,6,6]",
        sink=("VARIES", "it varies along axis 1, whose elements ReduceMean -> 'Y' mixes")),
    "indices of zeros": Guard("c, i = MaxPool<kernel_shape=[2,2]>(X) j = Cast<to=11>(i) d = Mul(c, k) Y = Concat<axis=1>(d, j)", {"k": [0.0]},
        outputs="Y[N,6,5,5]", hoist=("ZERO_SCALE", "a scale of 0 would make the indices arbitrary that MaxPool -> 'c' puts out")),
    "indices as data": Guard("b = Mul(X, k) c, i = MaxPool<kernel_shape=[2,2]>(b) j = Cast<to=11>(i) d = Mul(j, q) Y = Concat<axis=1>(d, c)",
        {"k": [0.0], "q": [2.0]}, outputs="Y[N,6,5,5]", sink=("ZERO_SCALE", "a scale of 0 would make the indices arbitrary")),
    "a grid beyond the border": Guard(f"c = GridSample(X, G) Y = {B3}", P3, inputs="X[N,3,6,6]; G[N,4,4,2]", outputs="Y[N,3,4,4]",
        hoist=("PADDING", "GridSample -> 'c' takes zeros from beyond the border")),
    "a block of channels": Guard("b = Mul(X, k) Y = DepthToSpace<blocksize=2>(b)", {"k": (8, 1, 1)}, inputs="X[N,8,3,3]", outputs="Y[N,2,6,6]",
        sink=("VARIES", "it varies inside the blocks of DepthToSpace -> 'Y'")),
    "a block of places": Guard("c = SpaceToDepth<blocksize=2>(X) Y = Mul(c, k)", {"k": (8, 1, 1)}, inputs="X[N,2,6,6]", outputs="Y[N,8,3,3]",
        hoist=("VARIES", "it varies inside the blocks of SpaceToDepth -> 'c'")),
    "a scale before InstanceNormalization": Guard("b = Mul(X, k) Y = InstanceNormalization(b, g, h)", {"k": LAID, "g": (3,), "h": (3,)},
        sink=("NONLINEAR", "InstanceNormalization -> 'Y' divides by a deviation to which epsilon is added")),
    "a scale before LayerNormalization": Guard("b = Mul(X, k) Y = LayerNormalization(b, g)", {"k": LAID, "g": (6,)},
        sink=("NONLINEAR", "LayerNormalization -> 'Y' divides by")),
    "a shift from place to place": Guard("b = Add(X, k) Y = InstanceNormalization(b, g, h)", {"k": (1, 6), "g": (3,), "h": (3,)},
        sink=("VARIES", "it varies along axis 3, whose elements InstanceNormalization -> 'Y' mixes")),
    "a shift of what is normalized": Guard("b = Add(X, k) Y = LayerNormalization(b, g)", {"k": (6,), "g": (6,)},
        sink=("VARIES", "it varies along axis 3, whose elements LayerNormalization -> 'Y' mixes")),
    "more than is normalized": Guard("c = LayerNormalization(X, g) Y = Mul(c, k)", {"k": LAID, "g": (6,)},
        hoist=("VARIES", "it varies along axis 1, whose elements LayerNormalization -> 'c' mixes")),
    "an LSTM without a bias": Guard("b = Add(X, k) h = LSTM<hidden_size=2>(b, W, R) Y = Sigmoid(h)", {"k": (3,), "W": (1, 8, 3), "R": (1, 8, 2)},
        inputs="X[5,N,3]", outputs="Y[5,1,N,2]", sink=("NO_BIAS", "LSTM -> 'h' has no B to take the shift")),
    "a state of a GRU": Guard("b = Mul(H, k) h = GRU<hidden_size=2>(X, W, R, B, \"\", b) Y = Sigmoid(h)",
        {"k": (2,), "W": (1, 6, 3), "R": (1, 6, 2), "B": (1, 12)}, inputs="X[5,N,3]; H[1,N,2]", outputs="Y[5,1,N,2]", hoist=("GRAPH_INPUT", "'H' is"),
        sink=("NOT_LINEAR", "it reaches GRU -> 'h' as a setting")),
    "a Dropout in training": Guard("c = Dropout(X, r, t) Y = Mul(c, k)", {"k": LAID, "r": np.array(0.5), "t": np.array(True)},
        hoist=("TRAINING", "Dropout -> 'c' is in training mode")),
    "a number of Pad as data": Guard("b = Mul(U, k) Y = Pad(X, n, b)", {"k": [2.0], "n": [0, 0, 1, 1, 0, 0, 1, 1]}, inputs="X[N,3,6,6]; U[1]",
        outputs="Y[N,3,8,8]", hoist=("GRAPH_INPUT", "'U' is"), sink=("NOT_CONSTANT", "'b', an input of Pad -> 'Y', is not a stored constant")),
}  # fmt: skip
EARLIER = {  # as opset 5 has them
    "a negative slope of opset 5": Guard(f"b = {B0} Y = PRelu(b, a)", {"a": LAID, "pg": [1.0, -2, 3], "pb": [0.0] * 3, "pm": [0.0] * 3, "pv": (3,)},
        sink=("OLD_OPSET", "PRelu -> 'Y' is of opset 5, which aligns its slope otherwise")),
    "a Dropout of opset 5 in training": Guard(f"b = {B0} Y = Dropout(b)", P3, sink=("TRAINING", "Dropout -> 'Y' is in training mode")),
    "a Tile of one axis": Guard(f"b = {B0} Y = Tile(b, n, a)", {**P3, "n": np.array(2.0), "a": np.array(3.0)}, outputs="Y[N,3,6,12]",
        sink=("OLD_OPSET", "Tile -> 'Y' is of opset 5, which repeats one axis only")),
}  # fmt: skip
LATER = {  # operators of opset 21 and 23
    "a shift within a group": Guard("b = Add(X, k) Y = GroupNormalization<num_groups=1>(b, g, h)", {"k": LAID, "g": (3,), "h": (3,)},
        sink=("VARIES", "it varies within the groups of GroupNormalization -> 'Y'")),
    "a mean of padding": Guard(f"c = AveragePool<kernel_shape=[2,2], dilations=[3,3], pads=[1,1,1,1]>(X) Y = {B3}", P3, inputs="X[N,3,2,2]",
        outputs="Y[N,3,1,1]", hoist=("PADDING", "a window of AveragePool -> 'c' may hold nothing but padding")),
    "a weight of four bits that had fractions": Guard(f"q = Cast<to=22>(W) d = Cast<to=11>(q) c = Conv(X, d) Y = {BN('c', 'p')}", {**W, **bn("p", 4)},
        outputs=Y, hoist=("NOT_CONSTANT", "the constant 'q' is a Cast of fractions to int4, which some runtimes round and others cut off")),
    "a shift past RMSNormalization": Guard("c = RMSNormalization(X, g) Y = Add(c, k)", {"k": (6,), "g": (6,)},
        hoist=("NO_BIAS", "RMSNormalization -> 'c' has nowhere to put a shift")),
}  # fmt: skip
OF_1600, OF_2000 = (f"{n} numbers would have to be computed; the limit is 1000" for n in (1600, 2000))
ENDLESS = "an axis would have 3298534883328 elements"  # 3 * 2**40
SQUARE = {"inputs": "X[40,40]", "outputs": "Y[40,40]"}
LARGE = {  # where 1000 numbers may be computed
    "what is cut away": Guard("c = Slice(X, o, t, a) Y = Mul(c, k)", {"o": [0], "t": [3], "a": [1], "k": LAID}, inputs="X[N,2000,6,6]",
        hoist=("TOO_LARGE", OF_2000)),
    "repeated without end": Guard("b = Mul(X, k) Y = Tile(b, n)", {"k": LAID, "n": [1, 2**40, 1, 1]}, outputs="Y[N,A,6,6]", sink=("TOO_LARGE", ENDLESS)),
    "repeated along two axes": Guard("b = Mul(X, k) Y = Tile(b, n)", {"k": (20, 20), "n": [2, 2]}, inputs="X[20,20]", outputs="Y[40,40]",
        sink=("TOO_LARGE", OF_1600)),
    "padded without end": Guard("b = Mul(X, k) Y = Pad<mode=\"edge\">(b, n)", {"k": LAID, "n": [0, 2**40, 0, 0, 0, 2**41 - 3, 0, 0]}, outputs="Y[N,A,6,6]",
        sink=("TOO_LARGE", ENDLESS)),
    "padded along two axes": Guard("b = Mul(X, k) Y = Pad<mode=\"edge\">(b, n)", {"k": (20, 20), "n": [40, 40, 40, 40]}, inputs="X[20,20]",
        outputs="Y[100,100]", sink=("TOO_LARGE", OF_2000)),
    "laid out whole": Guard("b = Mul(X, k) Y = Reshape(b, s)", {"k": (40, 1), "s": [50, 40]}, inputs="X[40,50]", outputs="Y[50,40]",
        sink=("TOO_LARGE", OF_2000)),
    "laid out as indices are": Guard("c = Gather<axis=1>(X, i) Y = Mul(c, k)", {"i": np.zeros((40, 40), int), "k": (40, 1)}, inputs="X[3,7]",
        outputs="Y[3,40,40]", hoist=("TOO_LARGE", OF_1600)),
    "taken again and again": Guard("b = Mul(X, k) Y = Gather<axis=1>(b, i)", {"i": np.zeros((40, 40), int), "k": (7,)}, inputs="X[3,7]",
        outputs="Y[3,40,40]", sink=("TOO_LARGE", OF_1600)),
    "a row that receives a column": Guard("b = Mul(X, k) Y = Mul(b, r)", {"k": (40, 1), "r": (40,)}, **SQUARE, sink=("TOO_LARGE", OF_1600)),
    "a column times a row": Guard("b = Add(X, k) Y = Mul(b, r)", {"k": (40, 1), "r": (40,)}, **SQUARE, sink=("TOO_LARGE", OF_1600)),
    "a column divided by a row": Guard("b = Add(X, k) Y = Div(b, r)", {"k": (40, 1), "r": (40,)}, **SQUARE, sink=("TOO_LARGE", OF_1600)),
    "a column compared with a row": Guard("b = Mul(X, kv) Y = Max(b, r)", {"kv": (40, 1), "r": [0.0] * 40}, **SQUARE, sink=("TOO_LARGE", OF_1600)),
    "signs of a column, slopes of a row": Guard("b = Mul(X, k) Y = PRelu(b, rv)", {"k": (40, 1), "rv": (40,)}, **SQUARE, sink=("TOO_LARGE", OF_1600)),
    "blocks without end": Guard("b = Mul(X, k) Y = SpaceToDepth<blocksize=4096>(b)", {"k": LAID}, inputs="X[N,3,H,V]", outputs="Y[N,A,B,C]",
        sink=("TOO_LARGE", "an axis would have 50331648 elements")),
}  # fmt: skip
TABLES: dict[int, dict[str, Guard]] = {17: GUARDS | LARGE, 5: EARLIER, 23: LATER}  # by opset


@pytest.mark.parametrize(("opset", "name"), [(opset, name) for opset, rows in TABLES.items() for name in rows])
def test_the_reason_is_said(opset, name):
    guard = TABLES[opset][name]
    model = guard.model(opset=opset)
    if name in EARLIER:
        norm = next(n for n in model.graph.node if n.op_type == "BatchNormalization")
        norm.attribute.append(helper.make_attribute("is_test", 1))
    with within(Limits(elements=1000) if name in LARGE else Limits()):
        kept, explained = fold(model).kept[0], explain(model)
    assert (kept.not_hoisted.code, kept.not_sunk.code) == (guard.hoist[0], guard.sink[0])
    assert guard.hoist[1] in kept.not_hoisted.words
    assert guard.sink[1] in kept.not_sunk.words
    assert kept in [k for k in explained if isinstance(k, Kept)]


def test_a_sum_of_a_column_and_a_row_is_an_affine_if_there_is_room_for_it():
    model = build("Y = Sum(X, c, r)", "X[40,40]", "Y[40,40]", {"c": (40, 1), "r": (40,)})
    assert len(fold(model).kept) == 1
    with within(Limits(elements=1000)):
        assert fold(model).kept == ()


def test_parameters_of_each_place_are_said():
    """Before opset 9, a BatchNormalization might have parameters for each element."""
    body = f"c = Sigmoid(X) b = {B0.replace('X', 'c')} Y = BatchNormalization<spatial=0>(b, qg, qb, qm, qv)"
    model = build(body, X, X3, {**P3, **{f"q{p}": (3, 6, 6) for p in "gbmv"}}, opset=8)
    words = "the parameters of BatchNormalization -> 'Y' have rank 3, not 1"
    assert ("VARIES", words) in [(k.not_sunk.code, k.not_sunk.words) for k in fold(model).kept]


@pytest.mark.parametrize(("rounding", "kept"), [("ceil", 1), ("floor", 0)])
def test_a_resize_that_takes_the_next_channel_is_said(rounding, kept):
    """Rounded up, half a place beyond each is the next one, even where the length stays."""
    how = f'coordinate_transformation_mode="tf_half_pixel_for_nn", nearest_mode="{rounding}"'
    body = f'c = Conv(X, W) r = Resize<{how}>(c, "", "", sizes) Y = {BN("r", "p")}'
    constants = {**W, "sizes": [2, 4, 8, 8], **bn("p", 4)}
    result = fold(build(body, "X[2,3,6,6]", "Y[2,4,8,8]", constants))
    words = "it varies along axis 1, whose elements Resize -> 'r' mixes"
    assert [(k.not_hoisted.code, k.not_hoisted.words) for k in result.kept] == [("VARIES", words)] * kept


def conv_bn(**attributes) -> onnx.ModelProto:
    model = build(f"c = Conv(X, W) Y = {BN('c', 'p')}", X, Y, {**W, **bn("p", 4)}, opset=attributes.pop("opset", 17))
    model.graph.node[1].attribute.extend(helper.make_attribute(k, v) for k, v in attributes.items())
    return model


def test_training_mode_is_an_error():
    model = conv_bn(training_mode=1)
    with pytest.raises(ModelProblem, match="is in training mode") as raised:
        fold(model)
    assert "model.eval()" in raised.value.hint
    assert "track_running_stats=True" in raised.value.hint  # without, eval() changes nothing


def test_five_outputs_are_training_mode():
    model = conv_bn(opset=9)
    model.graph.node[1].output.extend(["m2", "v2", "m3", "v3"])
    with pytest.raises(ModelProblem, match="is in training mode"):
        fold(model)


def test_trailing_empty_outputs_are_not():
    model = conv_bn(opset=9)
    model.graph.node[1].output.extend(["", "", "", ""])
    assert operators(fold(model).model) == ["Conv"]


@pytest.mark.parametrize("parameter", ["pg", "pb", "pm", "pv"])
@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_statistics_that_are_no_numbers_are_an_error(parameter, value):
    model = conv_bn()
    tensor = next(t for t in model.graph.initializer if t.name == parameter)
    tensor.CopyFrom(numpy_helper.from_array(np.array([1, value, 1, 1.0]), parameter))
    with pytest.raises(ModelProblem, match=r"holds NaN or infinity \(1 of 4 values\)"):
        fold(model)


@pytest.mark.parametrize("parameter", ["pg", "pb", "pm", "pv"])
def test_statistics_of_other_lengths_are_an_error(parameter):
    """One number would broadcast."""
    model = conv_bn()
    tensor = next(t for t in model.graph.initializer if t.name == parameter)
    tensor.CopyFrom(numpy_helper.from_array(np.array([1.0]), parameter))
    with pytest.raises(ModelProblem, match=r"scale, B, mean and var of .* have .*1.* values"):
        fold(model)


def test_an_operator_of_another_domain_is_another_operator():
    model = conv_bn()
    model.graph.node[0].domain = "my.domain"
    model.opset_import.add(domain="my.domain", version=1)
    (kept,) = fold(model).kept
    assert kept.not_hoisted.code == "NO_RULE"


def overridable(*names: str) -> onnx.ModelProto:
    model = conv_bn()
    for tensor in model.graph.initializer:
        if tensor.name in names:
            model.graph.input.append(helper.make_tensor_value_info(tensor.name, tensor.data_type, tensor.dims))
    return model


@pytest.mark.parametrize("name", ["W", "pv"])
def test_what_a_caller_may_override_is_left_alone(name):
    model = overridable(name)
    assert len(fold(model).kept) == 1
    assert fold(model).model == model
    assert "--freeze-initializers" in fold(model).notes[0]
    frozen = fold(model, freeze_initializers=True)
    assert operators(frozen.model) == ["Conv"]
    assert [i.name for i in frozen.model.graph.input] == ["X"]
    assert "count as constants (by --freeze-initializers)" in frozen.notes[0]


def test_a_file_that_lists_every_initializer_means_none_of_them():
    result = fold(overridable("W", "pg", "pb", "pm", "pv"))
    assert operators(result.model) == ["Conv"]
    assert "the file lists every initializer as an input" in result.notes[0]


def test_ir_version_3_keeps_listing_initializers():
    model = overridable("W", "pg", "pb", "pm", "pv")
    model.ir_version = 3
    del model.opset_import[:]
    model.opset_import.add(domain="", version=8)
    folded = fold(model).model
    onnx.checker.check_model(folded)
    assert [i.name for i in folded.graph.input] == ["X", "W", "W.bias"]


def returning(name: str) -> onnx.GraphProto:
    """A body that reads or returns a tensor from around it."""
    value = helper.make_tensor_value_info
    if name == "inner":
        return helper.make_graph([helper.make_node("Identity", ["c"], ["inner"])], "b", [], [value("inner", 11, None)])
    return helper.make_graph([], "b", [], [value(name, 11, None)])


@pytest.mark.parametrize(("name", "code"), [("inner", "SHARED"), ("c", "SUBGRAPH")])
def test_what_a_subgraph_reads_is_left_alone(name, code):
    model = conv_bn()
    model.graph.initializer.append(numpy_helper.from_array(np.array(True), "yes"))
    bodies = {"then_branch": returning(name), "else_branch": returning(name)}
    model.graph.node.append(helper.make_node("If", ["yes"], ["Z"], **bodies))
    model.graph.output.append(helper.make_tensor_value_info("Z", 11, ["N", 4, 4, 4]))
    (kept,) = fold(model).batch_norms_kept
    assert kept.not_hoisted.code == code


@pytest.mark.parametrize("opset", [7, 8, 9, 11, 13, 14, 15, 17, 21])
def test_every_opset_of_batch_normalization(opset):
    assert operators(fold(conv_bn(opset=opset)).model) == ["Conv"]


def test_parameters_per_activation_reach_a_gemm():
    """spatial=0, which opsets up to 8 allow: one scale and shift per element of (C, H, W)."""
    model = build(
        f"b = {BN('X', 'p')} f = Flatten(b) Y = Gemm(f, W, C)",
        "X[N,2,3,4]",
        "Y[N,5]",
        {"W": (24, 5), "C": (5,), **{f"p{k}": (2, 3, 4) for k in "gbmv"}},
        opset=8,
    )
    model.graph.node[0].attribute.append(helper.make_attribute("spatial", 0))
    assert operators(fold(model).model) == ["Flatten", "Gemm"]


@dataclass(frozen=True)
class OfIntegers:
    """An operator with a constant after a DequantizeLinear, and the code and words with which it stays."""

    operator: str
    k: list[float]
    code: str
    words: str


INTEGERS = {
    "a shift": OfIntegers("Add", [0.5], "INTEGERS",
        "DequantizeLinear 'n' reads integers at run time, among which a shift has no exact place"),
    "a negative scale": OfIntegers("Mul", [-0.5], "NEGATIVE_SCALE", "the scale of DequantizeLinear 'n' has to stay positive"),
    "a scale of zero": OfIntegers("Mul", [0], "NEGATIVE_SCALE", "the scale of DequantizeLinear 'n' has to stay positive"),
    "a scale per channel": OfIntegers("Mul", [1, 2, 3], "INTEGERS",
        "the activation scale of DequantizeLinear 'n' is per tensor, and the affine varies over channels"),
}  # fmt: skip


def between_floats(
    node: onnx.NodeProto, after: str, k: np.ndarray, kind: int, **constants: np.ndarray
) -> onnx.ModelProto:
    """A float32 model: an operator on X, and after it one with a constant."""
    value = helper.make_tensor_value_info
    nodes = [node, helper.make_node(after, ["c", "k"], ["Y"])]
    stored = [numpy_helper.from_array(v, name) for name, v in {"k": k, **constants}.items()]
    graph = helper.make_graph(nodes, "g", [value("X", kind, [2, 3, 4])], [value("Y", 1, None)], stored)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


@pytest.mark.parametrize("name", INTEGERS)
def test_a_scale_of_integers(name):
    row = INTEGERS[name]
    node = helper.make_node("DequantizeLinear", ["X", "s"], ["c"], "n")
    k = np.float32(row.k).reshape(-1, 1)
    model = between_floats(node, row.operator, k, onnx.TensorProto.INT8, s=np.float32(0.1))
    (kept,) = fold(model).kept
    assert (kept.not_hoisted.code, kept.not_hoisted.words) == (row.code, row.words)


def test_a_known_weight_stays_with_its_integers():
    """Half way between two integers the other one would do as well: a scale that is moved decides which."""
    value = helper.make_tensor_value_info
    nodes = [
        helper.make_node("Tanh", ["W"], ["r"]),
        helper.make_node("Mul", ["r", "k"], ["m"]),
        helper.make_node("QuantizeLinear", ["m", "s"], ["q"], "n"),
        helper.make_node("DequantizeLinear", ["q", "s"], ["w"]),
        helper.make_node("MatMul", ["X", "w"], ["Y"]),
    ]
    constants = {"W": np.ones((4, 4), np.float32), "k": np.float32([0.5]), "s": np.float32(0.1)}
    stored = [numpy_helper.from_array(v, name) for name, v in constants.items()]
    graph = helper.make_graph(nodes, "g", [value("X", 1, [2, 4])], [value("Y", 1, [2, 4])], stored)
    (kept,) = fold(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)).kept
    words = "QuantizeLinear 'n' rounds what is known before run time to integers"
    assert (kept.not_sunk.code, kept.not_sunk.words) == ("DTYPE", words)


def test_a_crop_fills_in_a_number_of_its_own():
    attributes = {"coordinate_transformation_mode": "tf_crop_and_resize"}
    node = helper.make_node("Resize", ["X", "r", "s"], ["c"], "n", **attributes)
    region, scales = np.float32([0, 0, 0, 1, 1, 2]), np.float32([1, 1, 2])
    model = between_floats(node, "Mul", np.float32([2]), onnx.TensorProto.FLOAT, r=region, s=scales)
    (kept,) = fold(model).kept
    assert kept.not_hoisted.code == "PADDING"
    assert kept.not_hoisted.words == "Resize 'n' fills in a number of its own outside its input"


@pytest.mark.parametrize("ends", [[0, 2, 5], [0, 1, 2]])
def test_parts_that_are_not_all_of_it_get_no_shares(ends: list[int]) -> None:
    affine = Affine.of(np.array([[2.0, 1.0, 1.0]]))
    with pytest.raises(ValueError, match="parts"):
        shared_out(affine, 1, ends)
