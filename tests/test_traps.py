"""Graphs on which folding goes wrong elsewhere, T1 to T7 and T11; the others are in test_traps_*.py.

Each row is a graph and the operators that must be left of it; where a node stays, the code of the reason for it. What is
left must compute the same in float64.
"""

from __future__ import annotations

import numpy as np
import onnx
import pytest

from bnfold.folding.driver import FoldResult, fold
from tests.build import BN, assert_same, bn, operators
from tests.rows import Graph, Row

X, Y, W, V = "X[N,3,6,6]", "Y[N,4,4,4]", {"W": (4, 3, 3, 3)}, {"V": (4, 3, 3, 3)}
P3, P4, P6, Q4 = bn("p", 3), bn("p", 4), bn("p", 6), bn("q", 4)
B3, B4 = BN("X", "p"), BN("c", "p")
LAID = np.array([0.5, 1.5, 2.0, 0.75])  # positive
MIXED = np.array([0.5, -1.5, 2.0, 0.75])


def folded(graph: Graph, **options) -> FoldResult:
    """Fold the graph; the result is valid and computes the same."""
    model = graph.model(**options)
    onnx.checker.check_model(model, full_check=True)
    result = fold(model)
    assert_same(model, result.model)
    assert fold(result.model).model == result.model
    return result


def left(result: FoldResult) -> str:
    return " ".join(operators(result.model))


def codes(result: FoldResult) -> set[str]:
    return {reason.code for kept in result.kept for reason in (kept.not_hoisted, kept.not_sunk)}


def check(row: Row, **options) -> None:
    """The operators left are those of the row; with its code, a node stays for that reason, without, no BatchNormalization."""
    result = folded(row, **options)
    assert left(result) == row.left
    assert row.code in codes(result) if row.code else not result.batch_norms_kept


def rows(table: dict[str, Graph]):
    return pytest.mark.parametrize("row", table.values(), ids=table)


T1 = {
    "pads": Row(f"b = {B3} Y = Conv<pads=[1,1,1,1]>(b, W)", {**W, **P3}, outputs="Y[N,4,6,6]", left="BatchNormalization Conv", code="PADDING"),
    "asymmetric pads": Row(f"b = {B3} Y = Conv<pads=[0,0,1,0]>(b, W)", {**W, **P3}, outputs="Y[N,4,5,4]", left="BatchNormalization Conv", code="PADDING"),
    "SAME_UPPER": Row(f'b = {B3} Y = Conv<auto_pad="SAME_UPPER">(b, W)', {**W, **P3}, outputs="Y[N,4,6,6]", left="BatchNormalization Conv", code="PADDING"),
    "SAME_LOWER": Row(f'b = {B3} Y = Conv<auto_pad="SAME_LOWER">(b, W)', {**W, **P3}, outputs="Y[N,4,6,6]", left="BatchNormalization Conv", code="PADDING"),
    "VALID": Row(f'b = {B3} Y = Conv<auto_pad="VALID">(b, W)', {**W, **P3}),
    "pads absent": Row(f"b = {B3} Y = Conv(b, W)", {**W, **P3}),
    "no shift": Row("b = Mul(X, k) Y = Conv<pads=[0,0,1,0]>(b, W)", {**W, "k": (3, 1, 1)}, outputs="Y[N,4,5,4]"),
    "Pad of zeros": Row(f"b = {B3} d = Pad(b, n) Y = Conv(d, W)", {**W, **P3, "n": [0, 0, 1, 1, 0, 0, 1, 1]}, outputs="Y[N,4,6,6]",
        left="BatchNormalization Pad Conv", code="GRAPH_INPUT"),
    "Pad of zeros, no shift": Row("b = Mul(X, k) d = Pad(b, n) Y = Conv(d, W)", {**W, "k": (3, 1, 1), "n": [0, 0, 1, 1, 0, 0, 1, 1]},
        outputs="Y[N,4,6,6]", left="Pad Conv"),
    "ConvTranspose, pads": Row(f"b = {B3} Y = ConvTranspose<pads=[1,1,1,1]>(b, W)", {"W": (3, 4, 3, 3), **P3}, outputs="Y[N,4,6,6]",
        left="BatchNormalization ConvTranspose", code="BORDER"),
    "ConvTranspose, output_padding": Row(f"b = {B3} Y = ConvTranspose<strides=[2,2], output_padding=[1,1]>(b, W)", {"W": (3, 4, 3, 3), **P3},
        outputs="Y[N,4,14,14]", left="BatchNormalization ConvTranspose", code="BORDER"),
    "ConvTranspose, stride > kernel": Row(f"b = {B3} Y = ConvTranspose<strides=[3,3]>(b, W)", {"W": (3, 4, 2, 2), **P3}, outputs="Y[N,4,17,17]",
        left="BatchNormalization ConvTranspose", code="BORDER"),
    "after ConvTranspose, pads": Row(f"c = ConvTranspose<pads=[1,1,1,1]>(X, W) Y = {B4}", {"W": (3, 4, 3, 3), **P4}, outputs="Y[N,4,6,6]",
        left="ConvTranspose"),
    "after ConvTranspose, output_padding": Row(f"c = ConvTranspose<strides=[2,2], output_padding=[1,1]>(X, W) Y = {B4}", {"W": (3, 4, 3, 3), **P4},
        outputs="Y[N,4,14,14]", left="ConvTranspose"),
    "after ConvTranspose, stride > kernel": Row(f"c = ConvTranspose<strides=[3,3]>(X, W, B) Y = {B4}", {"W": (3, 4, 2, 2), "B": (4,), **P4},
        outputs="Y[N,4,17,17]", left="ConvTranspose"),
}  # fmt: skip
T2 = {
    "two groups": Row(f"c = ConvTranspose<group=2>(X, W) Y = {BN('c', 'p')}", {"W": (4, 3, 2, 2), **P6}, inputs="X[N,4,5,5]", outputs="Y[N,6,6,6]",
        left="ConvTranspose"),
    "depthwise": Row(f"c = ConvTranspose<group=4>(X, W) Y = {B4}", {"W": (4, 1, 2, 2), **P4}, inputs="X[N,4,5,5]", outputs="Y[N,4,6,6]",
        left="ConvTranspose"),
    "as many in as out": Row(f"c = ConvTranspose(X, W) Y = {B4}", {"W": (4, 4, 2, 2), **P4}, inputs="X[N,4,5,5]", outputs="Y[N,4,6,6]",
        left="ConvTranspose"),
    "as many in as out, from the left": Row("b = Mul(X, k) Y = ConvTranspose(b, W)", {"W": (4, 4, 2, 2), "k": (4, 1, 1)}, inputs="X[N,4,5,5]",
        outputs="Y[N,4,6,6]", left="ConvTranspose"),
    "two groups, from the left": Row("b = Mul(X, k) Y = ConvTranspose<group=2>(b, W)", {"W": (4, 3, 2, 2), "k": (4, 1, 1)}, inputs="X[N,4,5,5]",
        outputs="Y[N,6,6,6]", left="ConvTranspose"),
}  # fmt: skip
T3 = {
    "two groups": Row(f"b = {B3} Y = Conv<group=2>(b, W)", {"W": (4, 2, 3, 3), **P4}, inputs="X[N,4,6,6]"),
    "more out than in": Row(f"b = {B3} Y = Conv<group=2>(b, W, B)", {"W": (6, 2, 3, 3), "B": (6,), **P4}, inputs="X[N,4,6,6]", outputs="Y[N,6,4,4]"),
    "depthwise": Row(f"b = {B3} Y = Conv<group=4>(b, W)", {"W": (8, 1, 3, 3), **P4}, inputs="X[N,4,6,6]", outputs="Y[N,8,4,4]"),
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
    square = {"inputs": "X[4,4]", "outputs": "Y[4,4]"}
    check(Row(f"c = {gemm}(X, W{third}) Y = {B4}", constants, **square, left="Gemm"))
    summed = {"left": "BatchNormalization Gemm", "code": "VARIES"} if turned[0] else {"left": "Gemm"}
    check(Row(f"c = {B3} Y = {gemm}(c, W{third})", constants, **square, **summed))


T5 = {
    "transposed": Row(f"l = MatMul(X, W) c = Transpose<perm=[1,0]>(l) Y = {B4}", {"W": (6, 4), **P4}, inputs="X[4,6]", outputs="Y[4,4]",
        left="MatMul Transpose BatchNormalization", code="GRAPH_INPUT"),
    "reshaped": Row(f"l = MatMul(X, W) c = Reshape(l, s) Y = {B4}", {"W": (6, 4), "s": [2, 4, 2, 2], **P4}, inputs="X[8,6]", outputs="Y[2,4,2,2]",
        left="MatMul Reshape BatchNormalization", code="GRAPH_INPUT"),
    "channels are rows": Row(f"c = MatMul(X, W) Y = {B4}", {"W": (6, 4), **P4}, inputs="X[2,4,6]", outputs="Y[2,4,4]", left="MatMul BatchNormalization",
        code="NO_BIAS"),
    "flattened to channels": Row(f"l = MatMul(X, W) c = Reshape(l, s) Y = {B4}", {"W": (6, 4), "s": [-1, 4], **P4}, inputs="X[2,5,6]", outputs="Y[10,4]",
        left="MatMul Add Reshape"),
    "constant on the left": Row(f"c = MatMul(W, X) Y = {B4}", {"W": (4, 3), **P4}, inputs="X[N,3,7]", outputs="Y[N,4,7]", left="MatMul Add"),
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
    result = folded(Graph(body, {**W, **P4, **constants}, "X[2,3,6,6]", outputs))
    assert [k.not_hoisted.code for k in result.batch_norms_kept] in (["SHARED"], ["SUBGRAPH"])


@pytest.mark.parametrize("made", MADE)
def test_T6_what_is_an_output(made):
    constants = {k: v for k, v in READ.items() if k in MADE[made]}
    body = f"{MADE[made].replace('c =', 'C =')} Y = {BN('C', 'p')}"
    result = folded(Graph(body, {**W, **P4, **constants}, "X[2,3,6,6]", "Y[2,4,4,4]; C[2,4,4,4]"))
    assert [k.not_hoisted.code for k in result.batch_norms_kept] == ["GRAPH_OUTPUT"]


T7 = {
    "one W, two convs, two bns": Row(f"c = Conv(X, W) Y = {B4} n = Abs(X) d = Conv(n, W) Z = {BN('d', 'q')}", {**W, **P4, **Q4},
        outputs=f"{Y}; Z[N,4,4,4]", left="Conv Abs Conv"),
    "W is read otherwise": Row(f"c = Conv(X, W) Y = {B4} Z = Abs(W)", {**W, **P4}, outputs=f"{Y}; Z[4,3,3,3]", left="Conv Abs"),
    "W is an output": Row(f"c = Conv(X, W) Y = {B4} Z = Identity(W)", {**W, **P4}, outputs=f"{Y}; Z[4,3,3,3]", left="Conv Identity"),
    "one bn for two convs": Row(f"c = Conv(X, W) Y = {B4} d = Conv(X, V) Z = {BN('d', 'p')}", {**W, **V, **P4}, outputs=f"{Y}; Z[N,4,4,4]",
        left="Conv Conv"),
    "W is tied to Gather": Row(f"e = Gather(W, i) s = ReduceSum<keepdims=0>(e, one) c = Gemm<transB=1>(s, W) Y = {BN('c', 'p')}",
        {"W": (6, 5), "i": [[0, 2, 5], [1, 1, 3]], "one": [1], **P6}, inputs="X[2,1]", outputs="Y[2,6]; e[2,3,5]", left="Gather ReduceSum Gemm"),
    "two bns of one conv": Row(f"c = Conv(X, W) Y = {B4} Z = {BN('c', 'q')}", {**W, **P4, **Q4}, outputs=f"{Y}; Z[N,4,4,4]",
        left="Conv BatchNormalization BatchNormalization", code="SHARED"),
}  # fmt: skip


@rows(T7)
def test_T7_constants_with_several_readers(row):
    check(row)


POOLS = {"MaxPool": ("MaxPool<kernel_shape=[3,3]>(c)", 2), "MaxPool, padded": ("MaxPool<kernel_shape=[3,3], pads=[1,1,1,1]>(c)", 4)}  # fmt: skip
GATES = {
    "Relu": "Relu(c)",
    "LeakyRelu": "LeakyRelu<alpha=0.1>(c)",
    "PRelu": "PRelu(c, a)",
    "Clip from 0": "Clip(c, z)",
    "HardSwish": "HardSwish(c)",
}
SIGNS = {"positive": LAID, "negative": MIXED, "zero": np.array([0.5, 0, 2, 0.75]), "positive with a shift": LAID}
CROSSES = {
    "Relu": "positive zero",
    "LeakyRelu": "positive zero",
    "PRelu": "positive zero negative",
    "Clip from 0": "positive zero",
    "HardSwish": "",
    "MaxPool": "positive zero shift",
    "MaxPool, padded": "positive zero shift",
}


@pytest.mark.parametrize("sign", SIGNS)
@pytest.mark.parametrize("gate", [*GATES, *POOLS])
def test_T11_the_sign_of_the_scale(gate, sign):
    """A scale crosses what keeps the sign or the order of numbers, from the right and from the left."""
    op, side = POOLS.get(gate) or (GATES[gate], 4)
    shift = np.arange(4.0) - 1 if sign.endswith("shift") else np.zeros(4)
    constants = {"k": SIGNS[sign].reshape(4, 1, 1), "h": shift.reshape(4, 1, 1), **W}
    constants |= {"a": np.full((4, 1, 1), 0.2)} if gate == "PRelu" else {"z": np.array(0.0)} if "Clip" in gate else {}
    after = folded(
        Graph(f"c = Conv(X, W) r = {op} m = Mul(r, k) Y = Add(m, h)", constants, outputs=f"Y[N,4,{side},{side}]")
    )
    weight, y = ((4, 4, 3, 3), f"Y[N,4,{side - 2},{side - 2}]") if side > 2 else ((5, 4, 1, 1), "Y[N,5,2,2]")
    body = f"d = Mul(X, k) c = Add(d, h) r = {op} Y = Conv(r, W)"
    before = folded(Graph(body, {**constants, "W": weight}, "X[N,4,4,4]", y))
    name = op.partition("<")[0].partition("(")[0]
    crosses = sign.split()[-1] in CROSSES[gate]
    assert ("Mul" in left(after)) == (not crosses and "shift" not in sign or name == "HardSwish")
    assert (left(before) == f"{name} Conv") == crosses


UNIFORM = {"k": np.array(1.5), "h": np.array(0.25)}
POOLED = {
    "zeros count": Row(f"a = Conv(X, W) c = AveragePool<kernel_shape=[3,3], pads=[1,1,1,1], count_include_pad=1>(a) Y = {B4}", {**W, **P4},
        left="Conv AveragePool BatchNormalization", code="PADDING"),
    "zeros count, no shift": Row("a = Conv(X, W) c = AveragePool<kernel_shape=[3,3], pads=[1,1,1,1], count_include_pad=1>(a) Y = Mul(c, k)",
        {**W, "k": (4, 1, 1)}, left="Conv AveragePool"),
    "zeros do not count": Row(f"a = Conv(X, W) c = AveragePool<kernel_shape=[3,3], pads=[1,1,1,1]>(a) Y = {B4}", {**W, **P4}, left="Conv AveragePool"),
    "ceil_mode": Row(f"a = Conv(X, W) c = AveragePool<kernel_shape=[3,3], strides=[2,2], ceil_mode=1>(a) Y = {B4}", {**W, **P4}, outputs="Y[N,4,2,2]",
        left="Conv AveragePool"),
    "ceil_mode, zeros count": Row(
        f"a = Conv(X, W) c = AveragePool<kernel_shape=[3,3], strides=[2,2], ceil_mode=1, pads=[1,1,1,1], count_include_pad=1>(a) Y = {B4}", {**W, **P4},
        outputs="Y[N,4,3,3]", left="Conv AveragePool BatchNormalization", code="PADDING"),
    "global": Row(f"a = Conv(X, W) c = GlobalAveragePool(a) Y = {B4}", {**W, **P4}, outputs="Y[N,4,1,1]", left="Conv GlobalAveragePool"),
    "Pad of zeros": Row(f"a = Conv(X, W) c = Pad(a, n) Y = {B4}", {**W, **P4, "n": [0, 0, 1, 1, 0, 0, 1, 0]}, outputs="Y[N,4,6,5]",
        left="Conv Pad BatchNormalization", code="PADDING"),
    "Pad of zeros, no shift": Row("a = Conv(X, W) c = Pad(a, n) Y = Mul(c, k)", {**W, "k": (4, 1, 1), "n": [0, 0, 1, 1, 0, 0, 1, 0]},
        outputs="Y[N,4,6,5]", left="Conv Pad"),
    "Pad of a number, one affine": Row("a = Conv(X, W) b = Pad(a, n, v) c = Mul(b, k) Y = Add(c, h)",
        {**W, **UNIFORM, "v": np.array(-2.0), "n": [0, 0, 1, 1, 0, 0, 1, 0]}, outputs="Y[N,4,6,5]", left="Conv Pad"),
    "Pad of the edge": Row(f'a = Conv(X, W) c = Pad<mode="edge">(a, n) Y = {B4}', {**W, **P4, "n": [0, 0, 1, 1, 0, 0, 1, 0]}, outputs="Y[N,4,6,5]",
        left="Conv Pad"),
}  # fmt: skip


@rows(POOLED)
def test_T11_borders(row):
    check(row)
