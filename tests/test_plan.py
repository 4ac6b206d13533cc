"""The search: what edits are, and what it says where it ends."""

from __future__ import annotations

from dataclasses import FrozenInstanceError, fields

import numpy as np
import onnx_graphsurgeon as gs
import pytest

from bnfold import fold, plan
from bnfold.affine import Refused
from bnfold.plan import MANY, readers, require_in_range
from tests.build import BN, bn, build, operators

EDITS = ["SetConstant", "Retype", "Replace", "InsertAdd", "SetAttributes"]


@pytest.mark.parametrize("name", [*EDITS, "Visible"])
def test_what_a_plan_says_does_not_change(name):
    kind = getattr(plan, name)
    names = [f.name for f in fields(kind)]
    made = kind(*names)
    with pytest.raises(FrozenInstanceError):
        setattr(made, names[0], None)


@pytest.mark.parametrize("name", EDITS)
def test_edits_hold_arrays_and_are_told_apart_by_identity(name):
    kind = getattr(plan, name)
    values = [np.zeros(2) for _ in fields(kind)]
    assert kind(*values) != kind(*values)
    assert len({kind(*values), kind(*values)}) == 2


@pytest.mark.parametrize(
    ("number", "said", "more"),
    [(2, 2, ""), (MANY - 1, MANY - 1, ""), (MANY, MANY, ""), (MANY + 1, MANY, " and 1 more"), (250, MANY, " and 150 more")],
)  # fmt: skip
def test_readers_are_named_up_to_a_hundred(number, said, more):
    assert MANY == 100
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
