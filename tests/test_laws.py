"""Rings 1 and 2: each rule obeys its law; and whatever the affine, a rule may refuse but never lie."""

from __future__ import annotations

import sys
from contextlib import suppress
from dataclasses import replace

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import helper, numpy_helper

from bnfold.algebra.affine import Affine, Refused
from bnfold.folding.plan import BECOMES
from bnfold.folding.rules import HOIST, OUT, SINK
from bnfold.folding.rules.nonlinear import NONLINEAR
from bnfold.folding.rules.pointwise import LETS_SHIFT_BY, TAKES_SHIFT
from bnfold.graph.view import import_view, skeleton
from tests import cases
from tests.case import Case
from tests.reference import evaluate_node

SEEDS = st.integers(0, 2**32 - 1)


def drawn(case: Case, rng: np.random.Generator) -> tuple[list, set[int]]:
    """The inputs of the node in order, and which of them are constant."""
    stock = [rng.standard_normal(c) if isinstance(c, tuple) else np.asarray(c) for c in (*case.x, *case.consts)]
    order = range(len(stock)) if case.order is None else case.order
    inputs = [None if i is None else stock[i] for i in order]
    return inputs, {p for p, i in enumerate(order) if i is not None and i >= len(case.x)}


def node_of(case: Case, inputs: list, constants: set[int]):
    """The node as the rules see it."""
    names = ["" if x is None else f"x{i}" for i, x in enumerate(inputs)]
    outputs = compute(case, inputs)
    made = [f"y{i}" for i in range(case.outputs)]
    graph = helper.make_graph(
        [helper.make_node(case.op, names, made, name="node", **case.attrs)],
        "g",
        [typed(names[i], x) for i, x in enumerate(inputs) if x is not None and i not in constants],
        [typed(name, y) for name, y in zip(made, outputs, strict=True)],
        [numpy_helper.from_array(inputs[i], names[i]) for i in sorted(constants)],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", case.opset)], ir_version=9)
    return import_view(skeleton(model, set())).nodes[0], outputs


def typed(name: str, value: np.ndarray) -> onnx.ValueInfoProto:
    return helper.make_tensor_value_info(name, helper.np_dtype_to_tensor_dtype(value.dtype), value.shape)


def compute(case: Case, inputs: list, operator: str = "") -> list[np.ndarray]:
    return evaluate_node(operator or case.op, inputs, case.attrs, case.opset, case.outputs)


def with_shares(case: Case, inputs: list, shares: dict[int, Affine]) -> list[np.ndarray]:
    """op(share[0](x0), .., share[n](xn)); an omitted input is a zero."""
    given = {i: x for i, x in enumerate(inputs) if x is not None}
    operator, settings = case.op, getattr(shares, "settings", {})
    for index, share in shares.items():
        if index <= OUT or (share.is_identity and not settings):
            continue
        if index not in given:
            operator = BECOMES.get(operator, operator)
            if not share.has_shift:
                continue
        given[index] = squeezed(share(given.get(index, np.zeros(()))), np.ndim(given.get(index, 0)))
    case = replace(case, attrs={**case.attrs, **settings})
    return compute(case, [given.get(i) for i in range(max(given) + 1)], operator)


def squeezed(value: np.ndarray, rank: int) -> np.ndarray:
    while value.ndim > max(rank, 1) and value.shape[0] == 1:
        value = value[0]
    return value


def law_affine(case: Case, shape: tuple[int, ...], rng: np.random.Generator) -> Affine:
    coefficients = [n if i == case.axis else 1 for i, n in enumerate(shape)]
    scale = {
        "any": rng.standard_normal(coefficients),
        "positive": rng.random(coefficients) + 0.1,
        "nonzero": (rng.random(coefficients) + 0.1) * rng.choice([-1, 1], coefficients),
        "one": np.ones(coefficients),
        "power": 2.0 ** rng.integers(-4, 5, coefficients),
    }[case.scale]
    return Affine.of(scale, rng.standard_normal(coefficients) if case.shift else 0.0)


def any_affine(shape: tuple[int, ...], rng: np.random.Generator) -> Affine:
    """Any sign, any shift, varying on any axes."""
    vary = [n if rng.random() < 0.4 else 1 for n in shape]
    uniform = np.full([1] * len(shape), rng.choice([1.0, 2.0, -2.0, 0.0]))
    scale = rng.choice([-1.5, -0.5, 0, 0.5, 1, 1, 2], size=vary) if rng.random() < 0.6 else uniform
    return Affine.of(scale, rng.standard_normal(vary) if rng.random() < 0.5 else 0.0)


def check(got: np.ndarray, want: np.ndarray) -> None:
    assert got.shape == want.shape
    np.testing.assert_allclose(got, want, rtol=1e-9, atol=1e-9)


def hoisted(case: Case, seed: int, draw) -> None:
    rng = np.random.default_rng(seed)
    inputs, constants = drawn(case, rng)
    node, outputs = node_of(case, inputs, constants)
    affine = draw(outputs[case.out].shape, rng)
    shares = HOIST[case.op](node, case.out, affine)
    left = shares.get(OUT, Affine.of(1.0))  # a shift for which the operator has no room
    for k, (got, want) in enumerate(zip(with_shares(case, inputs, shares), outputs, strict=True)):
        check(*((left(got), affine(want)) if k == case.out else (got, want)))


def sunk(case: Case, seed: int, draw) -> None:
    rng = np.random.default_rng(seed)
    inputs, constants = drawn(case, rng)
    node, _ = node_of(case, inputs, constants)
    affine = draw(inputs[case.port].shape, rng)
    shares = SINK[case.op](node, case.port, affine)
    moved = [affine(x) if i == case.port else x for i, x in enumerate(inputs)]
    for k, (got, want) in enumerate(zip(with_shares(case, inputs, shares), compute(case, moved), strict=True)):
        check(shares.get(OUT - k, Affine.of(1.0))(got), want)


@pytest.mark.parametrize("case", cases.HOIST, ids=str)
@settings(deadline=None, max_examples=3)
@given(seed=SEEDS)
def test_a_hoist_rule_obeys_its_law(case, seed):
    hoisted(case, seed, lambda shape, rng: law_affine(case, shape, rng))  # ends in check()


@pytest.mark.parametrize("case", cases.SINK, ids=str)
@settings(deadline=None, max_examples=3)
@given(seed=SEEDS)
def test_a_sink_rule_obeys_its_law(case, seed):
    sunk(case, seed, lambda shape, rng: law_affine(case, shape, rng))  # ends in check()


@pytest.mark.parametrize("case", cases.HOIST + cases.ODD_HOIST, ids=str)
@settings(deadline=None, max_examples=25)
@given(seed=SEEDS)
def test_a_hoist_rule_refuses_or_is_true(case, seed):
    with suppress(Refused):
        hoisted(case, seed, any_affine)  # ends in check()


@pytest.mark.parametrize("case", cases.SINK + cases.ODD_SINK, ids=str)
@settings(deadline=None, max_examples=25)
@given(seed=SEEDS)
def test_a_sink_rule_refuses_or_is_true(case, seed):
    with suppress(Refused):
        sunk(case, seed, any_affine)  # ends in check()


def test_every_rule_has_a_case_and_a_law():
    assert {c.op for c in cases.HOIST} == set(HOIST)
    assert {c.op for c in cases.SINK} == set(SINK)
    assert all(rule.__doc__ for rule in [*HOIST.values(), *SINK.values()])
    assert not {*HOIST, *SINK} & {*NONLINEAR}
    assert all(
        callable(getattr(sys.modules[rule.__module__], rule.__name__)) for rule in [*HOIST.values(), *SINK.values()]
    )
    assert {*TAKES_SHIFT, *LETS_SHIFT_BY} <= {*HOIST}


def test_what_is_never_linear_is_an_operator():
    later = {"CumProd", "Swish"}  # than the oldest onnx that bnfold runs with
    assert {*NONLINEAR} <= later | {schema.name for schema in onnx.defs.get_all_schemas() if not schema.domain}
