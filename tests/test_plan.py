"""The search: what edits are, and what it says where it ends."""

from __future__ import annotations

from dataclasses import FrozenInstanceError, fields

import numpy as np
import onnx_graphsurgeon as gs
import pytest

from bnfold.algebra.affine import Affine, Refused
from bnfold.folding import branches, plan
from bnfold.folding.driver import fold
from bnfold.folding.plan import MOST_NAMED, readers, require_in_range
from bnfold.folding.rules import linear, pooling
from bnfold.graph import edits
from tests.build import BN, assert_same, bn, build, operators

EDITS = ["SetConstant", "Retype", "Replace", "InsertAdd", "SetAttributes"]


def kind_of(name: str) -> type:
    return {**vars(edits), **vars(plan), **vars(branches)}[name]


@pytest.mark.parametrize("name", [*EDITS, "Visible", "Branch"])
def test_what_a_plan_says_does_not_change(name):
    kind = kind_of(name)
    names = [f.name for f in fields(kind)]
    made = kind(*names)
    with pytest.raises(FrozenInstanceError):
        setattr(made, names[0], None)


@pytest.mark.parametrize("name", [*EDITS, "Branch"])
def test_edits_hold_arrays_and_are_compared_by_identity(name):
    kind = kind_of(name)
    values = [np.zeros(2) for _ in fields(kind)]
    assert kind(*values) != kind(*values)
    assert len({kind(*values), kind(*values)}) == 2


@pytest.mark.parametrize(
    ("number", "said", "more"),
    [(2, 2, ""), (3, 3, ""), (4, 3, " and 1 more"), (250, 3, " and 247 more")],
)  # fmt: skip
def test_readers_are_named_up_to_three(number, said, more):
    assert MOST_NAMED == 3
    tensor = gs.Variable("x")
    nodes = [gs.Node("Abs", f"n{i:03}", inputs=[tensor], outputs=[gs.Variable(f"y{i}")]) for i in range(number)]
    assert len(tensor.outputs) == len(nodes)
    assert readers(tensor) == ", ".join(f"Abs 'n{i:03}'" for i in range(said)) + more


SHAPE = "[N,3,6,6]"
ENDS = {  # graph -> (direction, code, words) of its first kept node
    "nobody reads it": (f"b = {BN('X', 'p')} Y = Sigmoid(X)", "not_sunk", "GRAPH_OUTPUT", "'b' is read by nothing"),
    "read twice": (f"b = {BN('X', 'p')} Y = Mul(b, b)", "not_sunk", "SHARED", "Mul -> 'Y' reads 'b' twice"),
}


@pytest.mark.parametrize("name", ENDS)
def test_where_the_search_ends_is_said(name):
    body, way, code, words = ENDS[name]
    reason = getattr(fold(build(body, f"X{SHAPE}", f"Y{SHAPE}", bn("p", 3))).kept[0], way)
    assert (reason.code, reason.words) == (code, words)


def test_a_product_takes_the_scale_and_leaves_the_shift_in_an_add():
    body = f"a = Sigmoid(X) d = Mul(a, U) Y = {BN('d', 'p')}"
    model = build(body, "X[2,4,3,3]; U[2,4,3,3]", "Y[2,4,3,3]", bn("p", 4))
    assert operators(fold(model).model) == ["Sigmoid", "Mul", "BatchNormalization"]
    body, constants = (
        f"c = Conv(X, W) a = Sigmoid(U) d = Mul(c, a) Y = {BN('d', 'p')}",
        {"W": (4, 4, 1, 1), **bn("p", 4)},
    )
    model = build(body, "X[2,4,3,3]; U[2,4,3,3]", "Y[2,4,3,3]", constants)
    result = fold(model)
    assert operators(result.model) == ["Conv", "Sigmoid", "Mul", "Add"]
    assert_same(model, result.model)


def test_shifts_for_two_products_of_one_sum_need_two_homes():
    """A product of higher rank has no bias; one Add takes the place of the one that goes, and no second one is made."""
    body = "a = MatMul(X, U) b = MatMul(X, V) s = Concat<axis=2>(a, b) Y = Add(s, k)"
    model = build(body, "X[N,3,4]", "Y[N,3,4]", {"U": (4, 2), "V": (4, 2), "k": (4,)})
    result = fold(model)
    assert operators(result.model) == ["MatMul", "MatMul", "Concat", "Add"]
    assert result.kept[0].not_hoisted.code == "NO_BIAS"
    assert result.kept[0].not_hoisted.words.endswith(
        "has no bias to take the shift, and a Gemm, which has one, multiplies matrices only"
    )


@pytest.mark.parametrize(
    ("stored", "scale", "code", "words"),
    [
        (np.full((2, 2), 60000, np.float16), 2.0, "OVERFLOW", "the folded constant of Conv 'n' would overflow float16 or is not a number"),
        (np.full((2, 2), np.nan, np.float32), 2.0, "OVERFLOW", "the folded constant of Conv 'n' would overflow float32 or is not a number"),
        (np.full((2, 2), 3), 2.0, "DTYPE", "the constant of Conv 'n' holds int64, which is not floating point"),
    ],
)  # fmt: skip
def test_what_a_constant_cannot_hold_is_said(stored, scale, code, words):
    node = gs.Node("Conv", "n", inputs=[gs.Variable("x"), gs.Constant("w", stored)])
    with pytest.raises(Refused) as raised:
        require_in_range(node, 1, stored.astype(np.float64) * scale)
    assert (raised.value.code, str(raised.value)) == (code, words)


def test_the_largest_number_fits():
    largest = np.full((2, 2), np.finfo(np.float16).max)
    require_in_range(
        gs.Node("Conv", "n", inputs=[gs.Variable("x"), gs.Constant("w", largest)]), 1, largest
    )  # says nothing


def node(operator: str, *inputs: object, **attrs: object) -> gs.Node:
    """A node 'n' that reads constants where arrays are given, and variables of the shapes that are."""
    read = [gs.Constant(f"c{i}", x) if isinstance(x, np.ndarray) else gs.Variable(f"x{i}", np.float32, x) for i, x in enumerate(inputs)]  # fmt: skip
    return gs.Node(operator, "n", attrs=attrs, inputs=read, outputs=[gs.Variable("y", np.float32)])


def refusal(call, *arguments) -> tuple[str, str]:
    with pytest.raises(Refused) as raised:
        call(*arguments)
    return raised.value.code, str(raised.value)


@pytest.mark.parametrize("group", [0, -1, 3, 8])
def test_channels_that_cannot_be_parted_into_groups(group):
    words = f"Conv 'n' has {group} groups of 4 channels"
    assert refusal(linear.groups, node("Conv", (1, 4), group=group), 4) == ("MALFORMED", words)


def test_channels_that_can():
    assert [linear.groups(node("Conv", (1, 4), group=group), 4) for group in (1, 2, 4)] == [1, 2, 4]
    assert linear.groups(node("Conv", (1, 4)), 4) == 1


SHIFTED, SCALED = Affine.of(np.full((1, 1), 2.0), np.ones((1, 1))), Affine.of(np.full((1, 1), 2.0), np.zeros((1, 1)))


def test_the_factor_of_a_bias():
    assert [linear.bias_factor(node("Gemm", (1, 4), beta=beta), SHIFTED) for beta in (0.5, -1.0)] == [0.5, -1.0]
    assert linear.bias_factor(node("Gemm", (1, 4)), SHIFTED) == 1.0
    assert linear.bias_factor(node("Gemm", (1, 4), beta=0.0), SCALED) == 1.0
    assert refusal(linear.bias_factor, node("Gemm", (1, 4), beta=0.0), SHIFTED)[0] == "NO_BIAS"
    for beta in (float("nan"), float("inf"), -float("inf")):
        words = f"beta of Gemm 'n' is {beta}"
        assert refusal(linear.bias_factor, node("Gemm", (1, 4), beta=beta), SCALED) == ("NOT_FINITE", words)


@pytest.mark.parametrize(("opset", "shapes", "home"), [
    (6, [(2, 3), (3, 4)], linear.OUT), (7, [(2, 3), (3, 4)], 2), (8, [(2, 3), (3, 4)], 2),
    (17, [(1, 2, 3), (3, 4)], linear.OUT), (17, [(2, 3), (1, 3, 4)], linear.OUT),
])  # fmt: skip
def test_where_a_shift_after_a_product_goes(opset, shapes, home):
    """Up to opset 6 the bias of a Gemm does not broadcast unless its attribute says so."""
    product = node("MatMul", *shapes)
    product.outputs[0].shape = [2, 4] if max(map(len, shapes)) == 2 else [1, 2, 4]
    graph = gs.Graph([product], opset=opset)
    for each in graph.nodes:
        each.opset = opset
    (found,) = linear.shifted(product, np.ones((1, 4)))
    assert found == home


@pytest.mark.parametrize("body", ["r = Relu(X) l = MatMul(r, W) Y = Mul(l, k)", "r = Relu(X) l = MatMul(W, r) Y = Mul(l, k)"])  # fmt: skip
def test_a_scale_that_either_factor_could_take_goes_to_the_stored_one(body):
    """After the Relu there is nowhere to go."""
    model = build(body, "X[4,4]", "Y[4,4]", {"W": (4, 4), "k": (1,)})
    result = fold(model)
    assert operators(result.model) == ["Relu", "MatMul"]


def test_a_constant_is_reached_once():
    conv, other = node("Conv", (1, 4)), node("Conv", (1, 4))
    twice = [
        plan.SetConstant(conv, 1, SCALED),
        plan.InsertAdd(conv, np.ones(1), np.dtype(np.float32)),
        plan.SetConstant(conv, 1, SCALED),
    ]
    words = "it would reach the same constant on two ways"
    assert refusal(plan.require_once, plan.Plan(twice)) == ("SHARED", words)
    apart = [plan.SetConstant(conv, 1, SCALED), plan.SetConstant(conv, 2, SCALED), plan.SetConstant(other, 1, SCALED)]
    assert plan.require_once(plan.Plan(apart)) is None


def test_what_other_graphs_return_is_not_private():
    visible = plan.Visible({}, frozenset(["x"]))
    words = "'x' is returned from the subgraph of another node"
    assert refusal(visible.require_private, gs.Variable("x")) == ("SUBGRAPH", words)
    assert visible.require_private(gs.Variable("y")) is None
    assert (gs.Variable("x") in visible, gs.Variable("y") in visible) == (True, False)


def test_nothing_that_is_left_needs_no_room():
    made = plan.Plan()
    plan.leave(made, node("MatMul", (1, 2, 3), (3, 4)), Affine.of(np.ones((1, 1, 1)), np.zeros((1, 1, 1))))
    assert (made.edits, made.room) == ([], 0)


@pytest.mark.parametrize(("stored", "fits"), [((4, 1), True), ((1, 1), True), ((), True), ((3, 1), False), ((4, 7), True)])  # fmt: skip
def test_a_constant_has_the_lengths_of_what_it_receives(stored, fits):
    share = Affine.of(np.arange(1.0, 5).reshape(4, 1), np.zeros((1, 1)))
    gemm = node("Gemm", (1, 4), np.ones(stored, np.float32))
    if fits:
        assert plan.require_fitting(gemm, 1, share) is None
    else:
        words = "input 1 of Gemm 'n' does not have the shape that the operator needs"
        assert refusal(plan.require_fitting, gemm, 1, share) == ("MALFORMED", words)


def test_a_bias_that_is_not_there_is_of_the_type_of_the_weight():
    share = Affine.of(np.ones(1), np.array([1e5]))
    conv = node("Conv", (1, 4), np.ones((4, 4), np.float16))
    assert refusal(plan.require_representable, conv, 2, share)[0] == "OVERFLOW"
    assert plan.require_representable(conv, 2, Affine.of(np.ones(1), np.array([6e4]))) is None
    assert refusal(plan.require_representable, node("Conv", (1, 4), np.ones((4, 4), np.int8)), 2, share)[0] == "DTYPE"


def test_a_normalization_takes_an_affine_by_its_scale():
    affine = Affine.of(np.arange(1.0, 5).reshape(1, 4), np.zeros((1, 4)))
    laid = node("BatchNormalization", (1, 4), np.ones((4, 1)), np.ones(4))
    words = "the parameters of BatchNormalization 'n' have rank 2, not 1"
    assert refusal(linear.hoist_batch_normalization, laid, 0, affine) == ("VARIES", words)
    shares = linear.hoist_batch_normalization(node("BatchNormalization", (1, 4), np.ones(4), np.ones(1)), 0, affine)
    assert shares[1].scale.tolist() == shares[2].scale.tolist() == [1, 2, 3, 4]


@pytest.mark.parametrize("channels", [3, "C"])
def test_an_axis_of_unknown_length_keeps_it_where_its_scale_says_so(channels):
    upsampled = node("Upsample", ("N", channels, "H", "W"), scales=[1.0, 1.0, 2.0, 2.0])
    upsampled.opset, upsampled.outputs[0].shape = 7, ("N", channels, "A", "B")
    assert pooling.resized_axes(upsampled) == [2, 3]
