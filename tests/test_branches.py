"""The merge law: a sum of parallel branches is one convolution, or it is refused and says why."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import helper, numpy_helper

from bnfold.folding.driver import fold
from bnfold.system.limits import Limits, within
from tests.build import BN, assert_same, bn, build, operators
from tests.rows import Row

X, Y = "X[2,4,7,7]", "Y[2,4,7,7]"
DENSE, SMALL, DEPTH = {"W": (4, 4, 3, 3), "B": (4,)}, {"V": (4, 4, 1, 1)}, {"D": (4, 1, 3, 3)}
SAME = "Conv<pads=[1,1,1,1]>"


@dataclass(frozen=True)
class Branches(Row):
    """A sum of branches and what is left of it; `words` are those of the refusal where they stay apart."""

    inputs: str = X
    outputs: str = Y
    words: str = ""


MERGED = {
    "repvgg": Branches(f"a = {SAME}(X, W, B) p = {BN('a', 'p')} b = Conv(X, V) q = {BN('b', 'q')} r = {BN('X', 'r')} s = Add(p, q) Y = Add(s, r)",
        {**DENSE, **SMALL, **bn("p", 4), **bn("q", 4), **bn("r", 4)}),
    "repvgg, stride 2": Branches("a = Conv<pads=[1,1,1,1], strides=[2,2]>(X, W, B) b = Conv<strides=[2,2]>(X, V) Y = Add(b, a)", {**DENSE, **SMALL},
        outputs="Y[2,4,4,4]"),
    "the tensor itself": Branches(f"a = {SAME}(X, W, B) Y = Add(X, a)", DENSE),
    "the tensor itself, by groups": Branches("a = Conv<pads=[1,1,1,1], group=2>(X, G) Y = Add(a, X)", {"G": (4, 2, 3, 3)}),
    "depthwise of two sizes and itself": Branches(
        "a = Conv<pads=[2,2,2,2], group=4>(X, E) b = Conv<pads=[1,1,1,1], group=4>(X, D) c = Conv<group=4>(X, F) s = Add(a, b) t = Add(s, c) Y = Add(t, X)",
        {"E": (4, 1, 5, 5), **DEPTH, "F": (4, 1, 1, 1)}),
    "fastvit's token mixer": Branches(f"a = Conv<pads=[1,1,1,1], group=4>(X, D) n = {BN('X', 'p')} d = Sub(a, n) m = Mul(d, k) Y = Add(X, m)",
        {**DEPTH, **bn("p", 4), "k": (4, 1, 1)}),
    "kxk, 1xk, kx1": Branches(f"a = {SAME}(X, W, B) b = Conv<pads=[0,1,0,1]>(X, H) c = Conv<pads=[1,0,1,0]>(X, U) s = Add(a, b) Y = Add(s, c)",
        {**DENSE, "H": (4, 4, 1, 3), "U": (4, 4, 3, 1)}),
    "both dilated": Branches("a = Conv<pads=[2,2,2,2], dilations=[2,2]>(X, W, B) b = Conv(X, V) Y = Add(a, b)", {**DENSE, **SMALL}),
    "even and odd kernels": Branches("a = Conv<pads=[1,1,1,1]>(X, W, B) b = Conv<pads=[0,0,1,1]>(X, Q) Y = Add(a, b)", {**DENSE, "Q": (4, 4, 2, 2)}),
    "one dimension": Branches("a = Conv<pads=[1,1]>(X, W) b = Conv(X, V) Y = Sub(b, a)", {"W": (4, 4, 3), "V": (4, 4, 1)}, inputs="X[2,4,9]",
        outputs="Y[2,4,9]"),
    "two products": Branches("a = MatMul(X, P) b = MatMul(X, Q) Y = Sub(a, b)", {"P": (4, 4), "Q": (4, 4)}, inputs="X[2,3,4]", outputs="Y[2,3,4]",
        left="MatMul"),
    "a product and the tensor itself": Branches("a = MatMul(X, P) Y = Add(X, a)", {"P": (4, 4)}, inputs="X[2,3,4]", outputs="Y[2,3,4]", left="MatMul"),
    "two linear layers": Branches("a = Gemm<transB=1>(X, P, B) b = Gemm(X, Q, C) Y = Add(a, b)", {"P": (5, 4), "B": (5,), "Q": (4, 5), "C": (1, 5)},
        inputs="X[2,4]", outputs="Y[2,5]", left="Gemm"),
    "a linear layer and an affine": Branches(f"a = Gemm(X, P, B) b = {BN('X', 'p')} Y = Add(b, a)", {"P": (4, 4), "B": (4,), **bn("p", 4)}, inputs="X[2,4]",
        outputs="Y[2,4]", left="Gemm"),
    "a scale next to it": Branches(f"a = {SAME}(X, W, B) m = Mul(X, k) Y = Sub(a, m)", {**DENSE, "k": (4, 1, 1)}),
}  # fmt: skip
APART = {
    "dense 1x1 next to depthwise 3x3": Branches(f"a = Conv<pads=[1,1,1,1], group=4>(X, D) b = Conv(X, V) s = Add(a, b) Y = {BN('X', 'p')} Z = Sigmoid(s)",
        {**DEPTH, **SMALL, **bn("p", 4)}, outputs=f"{Y}; Z[2,4,7,7]", code="COST", words="would multiply 2.8 times as much"),
    "3x3 next to 1x5": Branches(f"a = {SAME}(X, W, B) b = Conv<pads=[0,2,0,2]>(X, H) Z = Add(a, b) Y = {BN('X', 'p')}",
        {**DENSE, "H": (4, 4, 1, 5), **bn("p", 4)}, outputs=f"{Y}; Z[2,4,7,7]", code="COST", words="1.1 times as much"),
    "another dilation": Branches(f"a = Conv<pads=[2,2,2,2], dilations=[2,2]>(X, W, B) b = {SAME}(X, U) Z = Add(a, b) Y = {BN('X', 'p')}",
        {**DENSE, "U": (4, 4, 3, 3), **bn("p", 4)}, outputs=f"{Y}; Z[2,4,7,7]", code="ALIGNMENT", words="differ in their dilations"),
    "taps between taps": Branches(f"a = Conv<pads=[2,2,2,2], dilations=[2,2]>(X, W, B) b = Conv<pads=[1,1,-1,-1]>(X, V) Z = Add(a, b) Y = {BN('X', 'p')}",
        {**DENSE, **SMALL, **bn("p", 4)}, outputs=f"{Y}; Z[2,4,7,7]", code="NO_BRANCHES", words="are not branches over one tensor"),
    "padding that goes by the kernel": Branches("a = Conv<auto_pad=\"SAME_UPPER\">(X, W, B) Y = Add(a, X)", DENSE, code="NO_BRANCHES",
        words="no operand of Add -> 'Y' is a convolution or product that nothing else reads"),
    "paddings of no axis": Branches("a = Conv<pads=[1,1,1]>(X, W, B) Y = Add(a, X)", DENSE, code="MALFORMED",
        words="the shapes or settings of Add -> 'Y' contradict what it reads or makes"),
    "groups that do not part the channels": Branches("a = Conv<pads=[1,1,1,1], group=3>(X, W, B) Y = Add(a, X)", DENSE, code="MALFORMED",
        words="Conv -> 'a' has 3 groups of 4 channels"),
    "groups of no channels": Branches("a = Conv<pads=[1,1,1,1], group=1001>(X, W) Y = Add(a, X)", {"W": (0, 1, 3, 3)}, code="TOO_LARGE",
        words="1001 numbers would have to be computed; the limit is 1000"),
    "more channels": Branches(f"a = {SAME}(X, W, B) b = Conv(X, V) Y = Add(a, b)", {**DENSE, "V": (1, 4, 1, 1)}, code="ALIGNMENT",
        words="differ in their channels"),
    "a product of stacks": Branches("a = MatMul(X, P) b = MatMul(X, Q) Y = Add(a, b)", {"P": (2, 4, 4), "Q": (4, 4)}, inputs="X[2,3,4]", outputs="Y[2,3,4]",
        code="NO_BRANCHES", words="are not branches over one tensor"),
    "a product with a shift next to it": Branches("a = MatMul(X, P) b = BatchNormalization(X, pg, pb, pm, pv) Y = Add(a, b)", {"P": (4, 4), **bn("p", 4)},
        inputs="X[2,4]", outputs="Y[2,4]", code="NO_BIAS", words="MatMul -> 'a' has no bias to take the shift"),
}  # fmt: skip


@pytest.mark.parametrize("name", MERGED)
def test_branches_become_one_convolution(name):
    row = MERGED[name]
    model = row.model()
    onnx.checker.check_model(model, full_check=True)
    result = fold(model)
    assert " ".join(operators(result.model)) == row.left
    assert_same(model, result.model)
    assert fold(result.model).model == result.model
    assert {f.direction for f in result.folded} >= {"merge"}


def test_a_branch_that_others_read_stays():
    model = build(
        f"a = {SAME}(X, W, B) b = Conv(X, V) Y = Add(a, b) Z = Sigmoid(b)", X, f"{Y}; Z[2,4,7,7]", {**DENSE, **SMALL}
    )
    assert fold(model).folded == ()


def test_a_branch_that_is_an_output_stays():
    model = build(f"A = {SAME}(X, W, B) b = Conv(X, V) Y = Add(A, b)", X, f"{Y}; A[2,4,7,7]", {**DENSE, **SMALL})
    assert fold(model).folded == ()


@pytest.mark.parametrize(
    "second",
    ["Gemm<alpha=0.5>(X, Q)", "Gemm<transA=1>(X, Q)", "Gemm(X, Q, M)", "Gemm(X, Q, C)", "MatMul(Q, X)", "Conv(F, V)"],
)
def test_a_product_with_factors_of_its_own_stays(second):
    constants = {"P": (4, 4), "Q": (4, 4), "M": (4, 4), "C": (4, 1), "F": (1, 4, 1, 1), "V": (4, 4, 1, 1)}
    shape = "[1,4,1,1]" if "Conv" in second else "[4,4]"
    if "Conv" in second:
        body = "a = MatMul(X, P) b = Conv(X, V) Y = Add(a, b)"
        model = build(body, "X[1,4,4,4]", "Y[1,4,4,4]", {k: constants[k] for k in "PV"})
    else:
        used = {k: v for k, v in constants.items() if k in f"P{second}"}
        model = build(f"a = Gemm(X, P) b = {second} Y = Add(a, b)", f"X{shape}", f"Y{shape}", used)
    assert fold(model).folded == ()


def test_branches_over_two_tensors_stay():
    model = build(f"n = Sigmoid(X) a = {SAME}(X, W, B) b = Conv(n, V) Y = Add(a, b)", X, Y, {**DENSE, **SMALL})
    assert fold(model).folded == ()


def test_weights_that_others_read_stay_as_they_are():
    model = build(
        f"a = {SAME}(X, W, B) b = Conv(X, V) Y = Add(a, b) n = Sigmoid(X) Z = {SAME}(n, W, B)",
        X,
        f"{Y}; Z[2,4,7,7]",
        {**DENSE, **SMALL},
    )
    result = fold(model)
    assert operators(result.model) == ["Conv", "Sigmoid", "Conv"]
    assert_same(model, result.model)


@st.composite
def convolutions(draw, channels: int):
    """(kernel, pads, dilations, group) of one branch whose output is as large as its input; None is the input itself."""
    kind = draw(st.sampled_from(["conv", "conv", "conv", "affine", "itself"]))
    if kind != "conv":
        return kind
    axes = []
    for _ in range(2):
        k, d = draw(st.integers(1, 4)), draw(st.sampled_from([1, 1, 2]))
        begin = draw(st.integers(0, (k - 1) * d))
        axes.append((k, d, begin, (k - 1) * d - begin))
    return (*zip(*axes, strict=True), draw(st.sampled_from([g for g in (1, 2, 4) if channels % g == 0])))


@settings(deadline=None, max_examples=150)
@given(st.data())
def test_merging_never_changes_what_a_sum_computes(data):
    """Whatever the two branches, the sum computes the same and costs no more."""
    channels = data.draw(st.sampled_from([2, 4]))
    rng = np.random.default_rng(data.draw(st.integers(0, 2**16)))
    nodes, initializers, names = [], [], []

    def const(*shape):
        name = f"c{len(initializers)}"
        initializers.append(numpy_helper.from_array(rng.standard_normal(shape), name))
        return name

    for spec in (data.draw(convolutions(channels)), data.draw(convolutions(channels))):
        name = f"t{len(nodes)}"
        if spec == "itself":
            names.append("X")
            continue
        if spec == "affine":
            nodes.append(helper.make_node("Mul", ["X", const(channels, 1, 1)], [name]))
        else:
            kernel, dilations, begin, end, group = spec
            bias = [const(channels)] if rng.random() < 0.5 else []
            weight = const(channels, channels // group, *kernel)
            nodes.append(
                helper.make_node(
                    "Conv", ["X", weight, *bias], [name], pads=[*begin, *end], dilations=list(dilations), group=group
                )
            )
        names.append(name)
    nodes.append(helper.make_node(data.draw(st.sampled_from(["Add", "Sub"])), names, ["Y"]))
    shape = [2, channels, 8, 9]
    info = helper.make_tensor_value_info
    graph = helper.make_graph(nodes, "g", [info("X", 11, shape)], [info("Y", 11, shape)], initializers)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    result = fold(model)
    assert_same(model, result.model)
    assert multiplies(result.model) <= multiplies(model)


def multiplies(model: onnx.ModelProto) -> int:
    """Products per output position."""
    sizes = {t.name: int(np.prod(t.dims)) for t in model.graph.initializer}
    return sum(sizes[n.input[1]] for n in model.graph.node if n.op_type in ("Conv", "Mul"))


@pytest.mark.parametrize("name", APART)
def test_what_cannot_merge_says_why(name):
    from bnfold.algebra.affine import Refused
    from bnfold.folding.branches import make_merge
    from bnfold.graph.editor import Editor

    row = APART[name]
    editor = Editor(row.model())
    sums = [n for n in editor.nodes() if n.op == "Add"]
    with within(Limits(elements=1000)), pytest.raises(Refused, match=row.words) as raised:
        make_merge(editor.visible, sums[0])
    assert raised.value.code == row.code
