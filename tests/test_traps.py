"""Graphs on which folding goes wrong elsewhere, T1 to T7 and T11; the others are in test_traps_*.py.

Each row is a graph and the operators that must be left of it; where a node stays, the code of the reason for it. What is
left must compute the same in float64.
"""

from __future__ import annotations

import numpy as np
import onnx
import pytest

from bnfold import fold
from bnfold.folding.driver import FoldResult
from tests.build import BN, assert_same, bn, build, operators

X, Y, W, V = "X[N,3,6,6]", "Y[N,4,4,4]", {"W": (4, 3, 3, 3)}, {"V": (4, 3, 3, 3)}
P3, P4, P6, Q4 = bn("p", 3), bn("p", 4), bn("p", 6), bn("q", 4)
B3, B4 = BN("X", "p"), BN("c", "p")
LAID = np.array([0.5, 1.5, 2.0, 0.75])  # positive
MIXED = np.array([0.5, -1.5, 2.0, 0.75])


def folded(*row, **options) -> FoldResult:
    """Fold the graph of a row (body, inputs, outputs, constants); it is valid and computes the same."""
    model = build(*row[:4], **options)
    onnx.checker.check_model(model, full_check=True)
    result = fold(model)
    assert_same(model, result.model)
    assert fold(result.model).model == result.model
    return result


def left(result: FoldResult) -> str:
    return " ".join(operators(result.model))


def codes(result: FoldResult) -> set[str]:
    return {reason.code for kept in result.kept for reason in (kept.not_hoisted, kept.not_sunk)}


def check(row: tuple, **options) -> None:
    """The operators left are the row's last entry; or those before '!', and the codes of what stays hold what follows."""
    expected, _, code = row[4].partition(" ! ")
    result = folded(*row, **options)
    assert left(result) == expected
    assert code in codes(result) if code else not result.batch_norms_kept


def rows(table: dict[str, tuple]):
    return pytest.mark.parametrize("row", table.values(), ids=table)


T1 = {
    "pads": (f"b = {B3} Y = Conv<pads=[1,1,1,1]>(b, W)", X, "Y[N,4,6,6]", {**W, **P3}, "BatchNormalization Conv ! PADDING"),
    "asymmetric pads": (f"b = {B3} Y = Conv<pads=[0,0,1,0]>(b, W)", X, "Y[N,4,5,4]", {**W, **P3}, "BatchNormalization Conv ! PADDING"),
    "SAME_UPPER": (f'b = {B3} Y = Conv<auto_pad="SAME_UPPER">(b, W)', X, "Y[N,4,6,6]", {**W, **P3}, "BatchNormalization Conv ! PADDING"),
    "SAME_LOWER": (f'b = {B3} Y = Conv<auto_pad="SAME_LOWER">(b, W)', X, "Y[N,4,6,6]", {**W, **P3}, "BatchNormalization Conv ! PADDING"),
    "VALID": (f'b = {B3} Y = Conv<auto_pad="VALID">(b, W)', X, Y, {**W, **P3}, "Conv"),
    "pads absent": (f"b = {B3} Y = Conv(b, W)", X, Y, {**W, **P3}, "Conv"),
    "no shift": ("b = Mul(X, k) Y = Conv<pads=[0,0,1,0]>(b, W)", X, "Y[N,4,5,4]", {**W, "k": (3, 1, 1)}, "Conv"),
    "Pad of zeros": (f"b = {B3} d = Pad(b, n) Y = Conv(d, W)", X, "Y[N,4,6,6]", {**W, **P3, "n": [0, 0, 1, 1, 0, 0, 1, 1]}, "BatchNormalization Pad Conv ! GRAPH_INPUT"),
    "Pad of zeros, no shift": ("b = Mul(X, k) d = Pad(b, n) Y = Conv(d, W)", X, "Y[N,4,6,6]", {**W, "k": (3, 1, 1), "n": [0, 0, 1, 1, 0, 0, 1, 1]}, "Pad Conv"),
    "ConvTranspose, pads": (f"b = {B3} Y = ConvTranspose<pads=[1,1,1,1]>(b, W)", X, "Y[N,4,6,6]", {"W": (3, 4, 3, 3), **P3}, "BatchNormalization ConvTranspose ! BORDER"),
    "ConvTranspose, output_padding": (f"b = {B3} Y = ConvTranspose<strides=[2,2], output_padding=[1,1]>(b, W)", X, "Y[N,4,14,14]", {"W": (3, 4, 3, 3), **P3}, "BatchNormalization ConvTranspose ! BORDER"),
    "ConvTranspose, stride > kernel": (f"b = {B3} Y = ConvTranspose<strides=[3,3]>(b, W)", X, "Y[N,4,17,17]", {"W": (3, 4, 2, 2), **P3}, "BatchNormalization ConvTranspose ! BORDER"),
    "behind ConvTranspose, pads": (f"c = ConvTranspose<pads=[1,1,1,1]>(X, W) Y = {B4}", X, "Y[N,4,6,6]", {"W": (3, 4, 3, 3), **P4}, "ConvTranspose"),
    "behind ConvTranspose, output_padding": (f"c = ConvTranspose<strides=[2,2], output_padding=[1,1]>(X, W) Y = {B4}", X, "Y[N,4,14,14]", {"W": (3, 4, 3, 3), **P4}, "ConvTranspose"),
    "behind ConvTranspose, stride > kernel": (f"c = ConvTranspose<strides=[3,3]>(X, W, B) Y = {B4}", X, "Y[N,4,17,17]", {"W": (3, 4, 2, 2), "B": (4,), **P4}, "ConvTranspose"),
}  # fmt: skip
T2 = {
    "two groups": (f"c = ConvTranspose<group=2>(X, W) Y = {BN('c', 'p')}", "X[N,4,5,5]", "Y[N,6,6,6]", {"W": (4, 3, 2, 2), **P6}, "ConvTranspose"),
    "depthwise": (f"c = ConvTranspose<group=4>(X, W) Y = {B4}", "X[N,4,5,5]", "Y[N,4,6,6]", {"W": (4, 1, 2, 2), **P4}, "ConvTranspose"),
    "as many in as out": (f"c = ConvTranspose(X, W) Y = {B4}", "X[N,4,5,5]", "Y[N,4,6,6]", {"W": (4, 4, 2, 2), **P4}, "ConvTranspose"),
    "as many in as out, from the left": ("b = Mul(X, k) Y = ConvTranspose(b, W)", "X[N,4,5,5]", "Y[N,4,6,6]", {"W": (4, 4, 2, 2), "k": (4, 1, 1)}, "ConvTranspose"),
    "two groups, from the left": ("b = Mul(X, k) Y = ConvTranspose<group=2>(b, W)", "X[N,4,5,5]", "Y[N,6,6,6]", {"W": (4, 3, 2, 2), "k": (4, 1, 1)}, "ConvTranspose"),
}  # fmt: skip
T3 = {
    "two groups": (f"b = {B3} Y = Conv<group=2>(b, W)", "X[N,4,6,6]", Y, {"W": (4, 2, 3, 3), **P4}, "Conv"),
    "more out than in": (f"b = {B3} Y = Conv<group=2>(b, W, B)", "X[N,4,6,6]", "Y[N,6,4,4]", {"W": (6, 2, 3, 3), "B": (6,), **P4}, "Conv"),
    "depthwise": (f"b = {B3} Y = Conv<group=4>(b, W)", "X[N,4,6,6]", "Y[N,8,4,4]", {"W": (8, 1, 3, 3), **P4}, "Conv"),
}  # fmt: skip


@rows(T1)
def test_T1_a_shift_and_the_border(row):
    check(row)


@rows(T2)
def test_T2_the_axes_of_a_transposed_convolution(row):
    check(row)


@rows(T3)
def test_T3_groups_from_the_left(row):
    check(row)


BIASES = {"[N]": (4,), "[1]": (1,), "[1,N]": (1, 4), "[M,1]": (4, 1), "[M,N]": (4, 4), "scalar": (), "absent": None, "empty": ""}  # fmt: skip


@pytest.mark.parametrize("bias", BIASES)
@pytest.mark.parametrize("turned", [(0, 0), (0, 1), (1, 0), (1, 1)])
def test_T4_every_gemm(turned, bias):
    """All matrices are square, so that a mistaken axis shows in the numbers only."""
    shape = BIASES[bias]
    constants = {"W": (4, 4), **P4, **({"C": shape} if isinstance(shape, tuple) else {})}
    third = ", C" if "C" in constants else ', ""' if shape == "" else ""
    gemm = f"Gemm<alpha=0.5, beta=2.0, transA={turned[0]}, transB={turned[1]}>"
    check((f"c = {gemm}(X, W{third}) Y = {B4}", "X[4,4]", "Y[4,4]", constants, "Gemm"))
    summed = "BatchNormalization Gemm ! VARIES" if turned[0] else "Gemm"
    check((f"c = {B3} Y = {gemm}(c, W{third})", "X[4,4]", "Y[4,4]", constants, summed))


T5 = {
    "transposed": (f"l = MatMul(X, W) c = Transpose<perm=[1,0]>(l) Y = {B4}", "X[4,6]", "Y[4,4]", {"W": (6, 4), **P4}, "MatMul Transpose BatchNormalization ! GRAPH_INPUT"),
    "reshaped": (f"l = MatMul(X, W) c = Reshape(l, s) Y = {B4}", "X[8,6]", "Y[2,4,2,2]", {"W": (6, 4), "s": [2, 4, 2, 2], **P4}, "MatMul Reshape BatchNormalization ! GRAPH_INPUT"),
    "channels are rows": (f"c = MatMul(X, W) Y = {B4}", "X[2,4,6]", "Y[2,4,4]", {"W": (6, 4), **P4}, "MatMul BatchNormalization ! NO_BIAS"),
    "flattened to channels": (f"l = MatMul(X, W) c = Reshape(l, s) Y = {B4}", "X[2,5,6]", "Y[10,4]", {"W": (6, 4), "s": [-1, 4], **P4}, "MatMul Add Reshape"),
    "constant on the left": (f"c = MatMul(W, X) Y = {B4}", "X[N,3,7]", "Y[N,4,7]", {"W": (4, 3), **P4}, "MatMul Add"),
}  # fmt: skip


@rows(T5)
def test_T5_sizes_that_coincide(row):
    check(row)


SIZE = "double[2,4,4,4]"
BODIES = {  # how a body reads c
    "If": f"Z = If (yes) <then_branch = t () => ({SIZE} u) {{ u = Neg(c) }}, else_branch = e () => ({SIZE} w) {{ w = Abs(c) }}>",
    "Loop": f"Z = Loop (three, yes, start) <body = l (int64 i, bool go, {SIZE} s) => (bool on, {SIZE} r) {{ on = Identity(go) r = Add(s, c) }}>",
    "Scan": f"Z = Scan <num_scan_inputs = 1, body = s (double u) => ({SIZE} w) {{ w = Add(u, c) }}> (steps)",
}  # fmt: skip
MADE = {
    "Conv": "c = Conv(X, W)",
    "Reshape": "d = Conv(X, W) c = Reshape(d, same)",
    "Add": "d = Conv(X, W) c = Add(d, d)",
}
READ = {"yes": np.array(True), "three": np.array(3), "start": np.ones((2, 4, 4, 4)), "steps": np.arange(3.0), "same": [2, 4, 4, 4]}  # fmt: skip


@pytest.mark.parametrize("made", MADE)
@pytest.mark.parametrize("reader", BODIES)
def test_T6_what_a_body_reads(made, reader):
    constants = {k: v for k, v in READ.items() if k in BODIES[reader] or k in MADE[made]}
    outputs = f"Y[2,4,4,4]; Z[{'3,' * (reader == 'Scan')}2,4,4,4]"
    body = f"{MADE[made]} Y = {B4} {BODIES[reader]}"
    result = folded(body, "X[2,3,6,6]", outputs, {**W, **P4, **constants})
    assert [k.not_hoisted.code for k in result.batch_norms_kept] in (["SHARED"], ["SUBGRAPH"])


@pytest.mark.parametrize("made", MADE)
def test_T6_what_is_an_output(made):
    constants = {k: v for k, v in READ.items() if k in MADE[made]}
    body = f"{MADE[made].replace('c =', 'C =')} Y = {BN('C', 'p')}"
    result = folded(body, "X[2,3,6,6]", "Y[2,4,4,4]; C[2,4,4,4]", {**W, **P4, **constants})
    assert [k.not_hoisted.code for k in result.batch_norms_kept] == ["GRAPH_OUTPUT"]


T7 = {
    "one W, two convs, two bns": (f"c = Conv(X, W) Y = {B4} n = Abs(X) d = Conv(n, W) Z = {BN('d', 'q')}", X, f"{Y}; Z[N,4,4,4]", {**W, **P4, **Q4}, "Conv Abs Conv"),
    "W is read otherwise": (f"c = Conv(X, W) Y = {B4} Z = Abs(W)", X, f"{Y}; Z[4,3,3,3]", {**W, **P4}, "Conv Abs"),
    "W is an output": (f"c = Conv(X, W) Y = {B4} Z = Identity(W)", X, f"{Y}; Z[4,3,3,3]", {**W, **P4}, "Conv Identity"),
    "one bn for two convs": (f"c = Conv(X, W) Y = {B4} d = Conv(X, V) Z = {BN('d', 'p')}", X, f"{Y}; Z[N,4,4,4]", {**W, **V, **P4}, "Conv Conv"),
    "W is tied to Gather": (f"e = Gather(W, i) s = ReduceSum<keepdims=0>(e, one) c = Gemm<transB=1>(s, W) Y = {BN('c', 'p')}", "X[2,1]", "Y[2,6]; e[2,3,5]", {"W": (6, 5), "i": [[0, 2, 5], [1, 1, 3]], "one": [1], **P6}, "Gather ReduceSum Gemm"),
    "two bns of one conv": (f"c = Conv(X, W) Y = {B4} Z = {BN('c', 'q')}", X, f"{Y}; Z[N,4,4,4]", {**W, **P4, **Q4}, "Conv BatchNormalization BatchNormalization ! SHARED"),
}  # fmt: skip


@rows(T7)
def test_T7_constants_with_several_readers(row):
    check(row)


POOLS = {"MaxPool": ("MaxPool<kernel_shape=[3,3]>(c)", 2), "MaxPool, padded": ("MaxPool<kernel_shape=[3,3], pads=[1,1,1,1]>(c)", 4)}  # fmt: skip
GATES = {"Relu": "Relu(c)", "LeakyRelu": "LeakyRelu<alpha=0.1>(c)", "PRelu": "PRelu(c, a)", "Clip from 0": "Clip(c, z)", "HardSwish": "HardSwish(c)"}  # fmt: skip
SIGNS = {"positive": LAID, "negative": MIXED, "zero": np.array([0.5, 0, 2, 0.75]), "positive with a shift": LAID}
CROSSES = {"Relu": "positive zero", "LeakyRelu": "positive zero", "PRelu": "positive zero negative", "Clip from 0": "positive zero", "HardSwish": "", "MaxPool": "positive zero shift", "MaxPool, padded": "positive zero shift"}  # fmt: skip


@pytest.mark.parametrize("sign", SIGNS)
@pytest.mark.parametrize("gate", [*GATES, *POOLS])
def test_T11_the_sign_of_the_scale(gate, sign):
    """A scale crosses what keeps the sign or the order of numbers, from the right and from the left."""
    op, side = POOLS.get(gate) or (GATES[gate], 4)
    shift = np.arange(4.0) - 1 if sign.endswith("shift") else np.zeros(4)
    constants = {"k": SIGNS[sign].reshape(4, 1, 1), "h": shift.reshape(4, 1, 1), **W}
    constants |= {"a": np.full((4, 1, 1), 0.2)} if gate == "PRelu" else {"z": np.array(0.0)} if "Clip" in gate else {}
    after = folded(f"c = Conv(X, W) r = {op} m = Mul(r, k) Y = Add(m, h)", X, f"Y[N,4,{side},{side}]", constants)
    before = folded(f"d = Mul(X, k) c = Add(d, h) r = {op} Y = Conv(r, W)", "X[N,4,4,4]", f"Y[N,4,{side - 2},{side - 2}]" if side > 2 else "Y[N,5,2,2]", {**constants, "W": (4, 4, 3, 3) if side > 2 else (5, 4, 1, 1)})  # fmt: skip
    name = op.partition("<")[0].partition("(")[0]
    crosses = sign.split()[-1] in CROSSES[gate]
    assert ("Mul" in left(after)) == (not crosses and "shift" not in sign or name == "HardSwish")
    assert (left(before) == f"{name} Conv") == crosses


UNIFORM = {"k": np.array(1.5), "h": np.array(0.25)}
POOLED = {
    "zeros count": (f"a = Conv(X, W) c = AveragePool<kernel_shape=[3,3], pads=[1,1,1,1], count_include_pad=1>(a) Y = {B4}", X, Y, {**W, **P4}, "Conv AveragePool BatchNormalization ! PADDING"),
    "zeros count, no shift": ("a = Conv(X, W) c = AveragePool<kernel_shape=[3,3], pads=[1,1,1,1], count_include_pad=1>(a) Y = Mul(c, k)", X, Y, {**W, "k": (4, 1, 1)}, "Conv AveragePool"),
    "zeros do not count": (f"a = Conv(X, W) c = AveragePool<kernel_shape=[3,3], pads=[1,1,1,1]>(a) Y = {B4}", X, Y, {**W, **P4}, "Conv AveragePool"),
    "ceil_mode": (f"a = Conv(X, W) c = AveragePool<kernel_shape=[3,3], strides=[2,2], ceil_mode=1>(a) Y = {B4}", X, "Y[N,4,2,2]", {**W, **P4}, "Conv AveragePool"),
    "ceil_mode, zeros count": (f"a = Conv(X, W) c = AveragePool<kernel_shape=[3,3], strides=[2,2], ceil_mode=1, pads=[1,1,1,1], count_include_pad=1>(a) Y = {B4}", X, "Y[N,4,3,3]", {**W, **P4}, "Conv AveragePool BatchNormalization ! PADDING"),
    "global": (f"a = Conv(X, W) c = GlobalAveragePool(a) Y = {B4}", X, "Y[N,4,1,1]", {**W, **P4}, "Conv GlobalAveragePool"),
    "Pad of zeros": (f"a = Conv(X, W) c = Pad(a, n) Y = {B4}", X, "Y[N,4,6,5]", {**W, **P4, "n": [0, 0, 1, 1, 0, 0, 1, 0]}, "Conv Pad BatchNormalization ! PADDING"),
    "Pad of zeros, no shift": ("a = Conv(X, W) c = Pad(a, n) Y = Mul(c, k)", X, "Y[N,4,6,5]", {**W, "k": (4, 1, 1), "n": [0, 0, 1, 1, 0, 0, 1, 0]}, "Conv Pad"),
    "Pad of a number, one affine": ("a = Conv(X, W) b = Pad(a, n, v) c = Mul(b, k) Y = Add(c, h)", X, "Y[N,4,6,5]", {**W, **UNIFORM, "v": np.array(-2.0), "n": [0, 0, 1, 1, 0, 0, 1, 0]}, "Conv Pad"),
    "Pad of the edge": (f'a = Conv(X, W) c = Pad<mode="edge">(a, n) Y = {B4}', X, "Y[N,4,6,5]", {**W, **P4, "n": [0, 0, 1, 1, 0, 0, 1, 0]}, "Conv Pad"),
}  # fmt: skip


@rows(POOLED)
def test_T11_borders(row):
    check(row)
