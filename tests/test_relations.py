"""Verification: tensors that a fold scales and shifts are cuts of the proof as such, and a fault there is no relation.

Each case is an original, a faultless fold of it, which is proved, and faults of this fold, none of which is: one at each
constant, where the relation would be another one, and others that a careless law would let pass.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import onnx
import onnx.parser
import pytest
from onnx import numpy_helper

from bnfold.verification.proof.algebra import Pair
from bnfold.verification.proof.examples import examples
from bnfold.verification.proof.induction import Induction
from bnfold.verification.regions import edited

F = np.float32
RNG = np.random.default_rng(11)
Values = np.ndarray
Constants = dict[str, Values]


def numbers(*shape: int) -> Values:
    return RNG.uniform(0.5, 1.5, shape).astype(F)


def ints(*values: int) -> Values:
    return np.array(values, np.int64)


def model(lines: str, constants: Constants, x: str) -> onnx.ModelProto:
    made = onnx.parser.parse_model(f'<ir_version: 8, opset_import: ["" : 18]> g ({x}) => (float[] y) {{ {lines} }}')
    used = {name for node in made.graph.node for name in node.input}
    stored = ((name, np.asarray(value)) for name, value in constants.items() if name in used)
    made.graph.initializer.extend(numpy_helper.from_array(value, name) for name, value in stored)
    return made


def known(original: onnx.ModelProto, folded: onnx.ModelProto) -> Induction:
    values = {
        v.name: np.zeros([d.dim_value or 2 for d in v.type.tensor_type.shape.dim], F) for v in original.graph.input
    }
    pair = Pair(original, folded, examples(original, values))
    return Induction(pair, edited(original, folded), lambda name: False).run()


class Case(NamedTuple):
    """The nodes of both models, the constants of the original, and those that the fold makes of them."""

    original: str
    folded: str
    constants: Constants
    fold: Callable[[Constants], Constants]
    x: str = "float[N,6,8] x"

    def model(self) -> onnx.ModelProto:
        return model(self.original, self.constants, self.x)

    def fold_with(self, **other: Values) -> onnx.ModelProto:
        return model(self.folded, {**self.constants, **self.fold(self.constants), **other}, self.x)


HEADS = "v = Reshape ({0}, four)  "  # [N, 6, 4, 4]: heads of queries and keys
ATTENTION = (
    "q, k = Split <axis = 3, num_outputs = 2> (v)  r = Transpose <perm = [0, 2, 1, 3]> (q)"
    "  t = Transpose <perm = [0, 2, 3, 1]> (k)  "
)
KEYS = np.where(np.arange(16) % 4 >= 2, 1, 0)
BN = {"g": (16,), "b": (16,), "m": (16,), "e": (16,)}
FLAT = "c = MatMul (x, w)  f = Reshape (c, rows)  n = BatchNormalization (f, g, b, m, e)  s = Reshape (n, three)  "


def scale_of(c: Constants, names: str = "gbme") -> Values:
    return (c[names[0]] / np.sqrt(c[names[3]].astype(np.float64) + 1e-5)).astype(np.float64)


def normalized(c: Constants, weight: str, names: str = "gbme") -> tuple[Values, Values]:
    """A weight and bias with a BatchNormalization worked in, of a product; in float64."""
    scale = scale_of(c, names)
    return c[weight] * scale, c[names[1]] - c[names[2]] * scale


def queries(c: Constants) -> Constants:
    weight, bias = normalized(c, "w")
    factor = np.where(KEYS, float(c["s1"]), 1)
    return {"w": (weight * factor).astype(F), "z": (bias * factor).astype(F)}


def gate(c: Constants) -> Constants:
    return {"w": (c["w"] / np.float64(c["six"])).astype(F)}


def stream(c: Constants) -> Constants:
    """The shift of the first layer is left out, and made good in the bias of whatever reads the stream."""
    w, shift = normalized(c, "w", "gbme")
    u, bias = normalized(c, "u", "hcpq")
    return {"w": w.astype(F), "u": u.astype(F), "z": (bias + shift @ u).astype(F), "o": shift.astype(F)}


def means(c: Constants) -> Constants:
    scale = scale_of(c)
    shift = c["b"] - c["m"] * scale
    u = (c["u"] + c["i"]) / 2
    return {"u": (scale[:, None] * u).astype(F), "j": ((c["j"] + c["l"]) / 2 + shift @ u).astype(F)}


def in_batch(c: Constants) -> Constants:
    scale = scale_of(c)
    return {"w": (c["w"] * scale).astype(F), "z": (c["b"] - c["m"] * scale).astype(F)[:, None, None]}


def by_head(c: Constants) -> Constants:
    return {"w": (c["w"] * scale_of(c)).astype(F), "z": (c["b"] - c["m"] * scale_of(c)).astype(F)}


CASES = {
    "keys scaled by the number that their product is": Case(
        FLAT + HEADS.format("s") + ATTENTION + "p = MatMul (r, t)  y = Mul (p, s1)",
        "c2 = MatMul (x, w)  c = Add (c2, z)  " + HEADS.format("c") + ATTENTION + "y = MatMul (r, t)",
        {"w": numbers(8, 16), "rows": ints(-1, 16), "three": ints(-1, 6, 16), "four": ints(-1, 6, 4, 4), "s1": F(0.3)}
        | {name: numbers(*shape) for name, shape in BN.items()},
        queries,
    ),
    "a gate on what was divided": Case(
        "h = Relu (x)  d = Div (h, six)  a = Sigmoid (x)  p = Mul (d, a)  n = MatMul (p, w)  y = Tanh (n)",
        "d = Relu (x)  a = Sigmoid (x)  p = Mul (d, a)  n = MatMul (p, w)  y = Tanh (n)",
        {"six": F(6), "w": numbers(8, 5)},
        gate,
    ),
    "a shift that travels along sums": Case(
        "c = MatMul (x, w)  f = Reshape (c, rows)  n = BatchNormalization (f, g, b, m, e)  s = Reshape (n, three)"
        "  a = Add (x, s)  d = MatMul (a, u)  k = Reshape (d, rows)  l = BatchNormalization (k, h, c1, p, q)"
        "  i = Reshape (l, three)  j = Tanh (i)  o1 = Add (a, j)  y = Mul (o1, two)",
        "c2 = MatMul (x, w)  a = Add (x, c2)  d2 = MatMul (a, u)  d = Add (d2, z)  j = Tanh (d)  o2 = Add (a, j)"
        "  o1 = Add (o2, o)  y = Mul (o1, two)",
        {"w": numbers(8, 8), "u": numbers(8, 8), "rows": ints(-1, 8), "three": ints(-1, 6, 8), "two": F(2)}
        | {name: numbers(8) for name in ("g", "b", "m", "e", "h", "c1", "p", "q")},
        lambda c: stream({**c, "c": c["c1"]}),
    ),
    "a mean of what was normalized, read twice": Case(
        "r = Relu (x)  n = BatchNormalization (r, g, b, m, e)  a = ReduceMean <keepdims = 0> (n, axes)"
        "  f = Gemm (a, u, j)  k = Gemm (a, i, l)  s = Add (f, k)  y = Div (s, two)",
        "r = Relu (x)  a = ReduceMean <keepdims = 0> (r, axes)  y = Gemm (a, u, j)",
        {"axes": ints(2), "u": numbers(6, 5), "i": numbers(6, 5), "j": numbers(5), "l": numbers(5), "two": F(2)}
        | {name: numbers(6) for name in BN},
        means,
    ),
    "values of heads in the batch": Case(
        "c = MatMul (w, x)  h = Reshape (c, heads)  k = Softmax (h)  t = Transpose <perm = [0, 2, 1]> (h)  o = MatMul (k, t)"
        "  i = Reshape (o, back)  y = Sin (i)",
        "c = MatMul (w, x)  h = Reshape (c, heads)  k = Softmax (h)  t = Transpose <perm = [0, 2, 1]> (h)  o = MatMul (k, t)"
        "  i = Reshape (o, back)  y = Sin (i)",
        {"w": numbers(6, 6), "heads": ints(-1, 3, 8), "back": ints(-1, 6, 3)},
        lambda c: {},
    ),
    "a scale for each head of the batch": Case(
        "c = Conv (x, w)  h = Reshape (c, heads)  k = Relu (x)  j = Reshape (k, half)  o = MatMul (h, j)"
        "  i = Reshape (o, back)  n = BatchNormalization (i, g, b, m, e)  y = Sin (n)",
        "c = Conv (x, w)  h = Reshape (c, heads)  k = Relu (x)  j = Reshape (k, half)  o = MatMul (h, j)"
        "  i = Reshape (o, back)  n = Add (i, z)  y = Sin (n)",
        {"w": numbers(6, 6, 1), "heads": ints(-1, 3, 8), "half": ints(-1, 8, 3), "back": ints(-1, 6, 3)}
        | {name: numbers(6) for name in BN},
        lambda c: {
            "w": (c["w"] * scale_of(c)[:, None, None]).astype(F),
            "z": (c["b"] - c["m"] * scale_of(c)).astype(F)[:, None],
        },
    ),
    "a tensor that only the fold calls so": Case(
        "c = MatMul (x, w)  f = Reshape (c, rows)  n = BatchNormalization (f, g, b, m, e)  s = Reshape (n, three)"
        "  d = MatMul (s, u)  y = Tanh (d)",
        "other = MatMul (x, w)  d2 = MatMul (other, u)  d = Add (d2, z)  y = Tanh (d)",
        {"w": numbers(8, 16), "u": numbers(16, 5), "rows": ints(-1, 16), "three": ints(-1, 6, 16)}
        | {name: numbers(*shape) for name, shape in BN.items()},
        lambda c: {"w": normalized(c, "w")[0].astype(F), "z": (normalized(c, "w")[1] @ c["u"]).astype(F)},
    ),
    "rows that are picked of a shifted tensor": Case(
        "r = Relu (x)  a = Add (r, t)  d = Slice (a, from, to, axis, by)  e = Gather <axis = 1> (d, which)  n = MatMul (e, w)"
        "  y = Tanh (n)",
        "a = Relu (x)  d = Slice (a, from, to, axis, by)  e = Gather <axis = 1> (d, which)  n2 = MatMul (e, w)  n = Add (n2, z)"
        "  y = Tanh (n)",
        {"t": numbers(8), "from": ints(0), "to": ints(6), "axis": ints(1), "by": ints(2), "which": ints(2, 0, 0), "w": numbers(8, 5)},
        lambda c: {"z": (c["t"].astype(np.float64) @ c["w"]).astype(F)},
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", CASES)
def test_a_faultless_fold_is_proved(name: str) -> None:
    case = CASES[name]
    found = known(case.model(), case.fold_with())
    assert not found.open_tensors(), [(site.name, site.why, site.ratio) for site in found.derived if not site.covered]


@pytest.mark.parametrize(
    ("name", "constant"), [(name, constant) for name, case in CASES.items() for constant in case.fold(case.constants)]
)
def test_a_constant_that_is_wrong_is_seen(name: str, constant: str) -> None:
    """One number by 0.1 %, all by 0.1 %, and all the numbers in another order: none of them is undone further on."""
    case = CASES[name]
    right = case.fold(case.constants)[constant]
    one = right.copy()
    one.reshape(-1)[0] *= F(1.001)
    rolled = np.roll(right.reshape(-1), 1).reshape(right.shape)
    for wrong in (one, right * F(1.001), rolled):
        assert known(case.model(), case.fold_with(**{constant: wrong})).open_tensors(), constant


S, T, W = numbers(6, 1), numbers(6, 1), numbers(6, 6, 3)
POSITIVE = np.array([[1.5], [0.5], [2], [3], [0.25], [1]], F)
NEGATIVE = POSITIVE * F(-1)
EACH = {"s": S, "t": T, "w": W, "pos": POSITIVE, "neg": NEGATIVE, "half": F(0.5), "two": F(2)}
WRONG = {  # an original, and a model that a careless law takes for the same
    "a negative scale past a Relu": (
        "c = Conv (x, w)  r = Relu (c)  n = Mul (r, neg)  y = Tanh (n)",
        "c2 = Conv (x, w)  c = Mul (c2, neg)  n = Relu (c)  y = Tanh (n)",
    ),
    "a negative scale past a maximum": (
        "c = Mul (x, neg)  y = MaxPool <kernel_shape = [2]> (c)",
        "c = MaxPool <kernel_shape = [2]> (x)  y = Mul (c, neg)",
    ),
    "a shift past padding": (
        "c = Add (x, t)  p = Pad (c, pads)  n = Conv (p, w)  y = Tanh (n)",
        "p = Pad (x, pads)  n2 = Conv (p, w)  n = Add (n2, z)  y = Tanh (n)",
    ),
    "a sum of what is scaled otherwise": (
        "a = Relu (x)  c = Sin (x)  d = Add (a, c)  y = Mul (d, two)",
        "a2 = Relu (x)  a = Mul (a2, two)  c = Sin (x)  y = Add (a, c)",
    ),
    "a product of matrices over what is scaled otherwise": (
        "a = Relu (x)  k = Transpose <perm = [0, 2, 1]> (x)  d = MatMul (k, a)  y = Mul (d, half)",
        "a2 = Relu (x)  a = Mul (a2, pos)  k = Transpose <perm = [0, 2, 1]> (x)  d = MatMul (k, a)  y = Mul (d, half)",
    ),
    "a number on what is divided by": (
        "a = Exp (x)  c = Sin (x)  d = Div (c, a)  y = Mul (d, two)",
        "a2 = Exp (x)  a = Mul (a2, two)  c = Sin (x)  y = Div (c, a)",
    ),
    "a product of what is shifted": (
        "a = Relu (x)  c = Sin (x)  d = Mul (a, c)  y = Add (d, t)",
        "a2 = Relu (x)  a = Add (a2, t)  c = Sin (x)  y = Mul (a, c)",
    ),
    "a scale that differs among copies of an element": (
        "c = Conv (x, w)  e = Gather <axis = 1> (c, twice)  y = Mul (e, s)",
        "c2 = Conv (x, w)  c = Mul (c2, one6)  e = Gather <axis = 1> (c, twice)  y = Mul (e, last)",
    ),
    "one scale for another in the name of a tensor": (
        "r = Relu (x)  a = Mul (r, two)  n = Conv (a, w)  y = Tanh (n)",
        "a = Relu (x)  n = Conv (a, w)  y = Tanh (n)",
    ),
    "other parts of a Split": (
        "a = Mul (x, two)  p, q = Split <axis = 1, num_outputs = 2> (a)  n = Sin (p)  k = Cos (q)  y = Add (n, k)",
        "a = Mul (x, two)  q, p = Split <axis = 1, num_outputs = 2> (a)  n = Sin (p)  k = Cos (q)  y = Add (n, k)",
    ),
}  # fmt: skip
MORE = {
    "pads": ints(0, 0, 1, 0, 0, 1),
    "z": (W.sum(axis=2) @ T).astype(F),
    "twice": ints(0, 1, 2, 0, 1, 2),
    "one6": np.ones((6, 1), F),
    "last": np.concatenate([S[3:], S[3:]]),
}


@pytest.mark.parametrize("name", WRONG)
def test_what_is_not_the_same_is_not_proved(name: str) -> None:
    original, other = (model(lines, {**EACH, **MORE}, "float[N,6,8] x") for lines in WRONG[name])
    assert not known(original, original).open_tensors()
    assert "y" in known(original, other).open_tensors()


def test_a_tensor_that_only_has_the_name_of_another_is_no_site() -> None:
    """A pool of what is normalized takes the place of one of what is not, which others read, too."""
    lines = (
        "c = Conv (x, w)  n = BatchNormalization (c, g, b, m, e)  p = AveragePool <kernel_shape = [2]> (n)  r = Neg (p)"
    )
    last = "q = AveragePool <kernel_shape = [2]> (c)  k = Sin (q)  y = Add (r, k)"
    constants = {"w": W, "s": numbers(6, 1), "z": np.zeros((6, 1), F), **{name: numbers(6) for name in BN}}
    scale = scale_of(constants)
    constants |= {"a": -scale.astype(F)[:, None], "z": (constants["m"] * scale - constants["b"]).astype(F)[:, None]}
    original = model(f"{lines}  {last}", constants, "float[N,6,8] x")
    other = "c = Conv (x, w)  p = AveragePool <kernel_shape = [2]> (c)  h = Mul (p, a)  r = Add (h, z)  k = Sin (p)"
    found = known(original, model(f"{other}  y = Add (r, k)", constants, "float[N,6,8] x"))
    assert found.same["p"] == "q"
    assert not found.open_tensors()
    assert all(site.ok for site in found.derived if site.name in found.same)


LAYERS = 24


def residual(shifts: bool) -> str:
    """Many layers on one stream, whose shifts travel to the last layer where they are not added at once."""
    lines = []
    for i in range(LAYERS):
        stream = "x" if i == 0 else f"a{i - 1}"
        made = (
            f"f{i} = MatMul (r{i}, w)  p{i} = Add (f{i}, t)  s{i} = Sub (p{i}, u)"
            if shifts
            else f"s{i} = MatMul (r{i}, w)"
        )
        lines.append(f"r{i} = Sin (x)  {made}  a{i} = Add ({stream}, s{i})")
    last = f"d = MatMul (a{LAYERS - 1}, w)"
    return "  ".join([*lines, f"{last}  y = Relu (d)" if shifts else f"{last}  e = Add (d, z)  y = Relu (e)"])


@pytest.mark.parametrize("off", [1, 1.001, 0.999])
def test_a_bias_that_all_shifts_of_a_stream_came_to_is_judged_by_its_size(off: float) -> None:
    """Not by sizes that grow from one layer to the next: 0.1 % is seen after many of them."""
    w, t, u = numbers(8, 8), numbers(8), numbers(8) / 2
    z = (LAYERS * (t.astype(np.float64) - u)) @ w
    z[0] *= off
    original = model(residual(True), {"w": w, "t": t, "u": u}, "float[N,6,8] x")
    found = known(original, model(residual(False), {"w": w, "z": z.astype(F)}, "float[N,6,8] x"))
    assert bool(found.open_tensors()) == (off != 1)
    assert found.relations[f"a{LAYERS - 1}"].size.max() < 2 * LAYERS * (t.max() + u.max())


OPEN = {  # of each kind of site that stays open: a model, a faultless fold of it, and why it is open
    "a nonlinear operator": (
        "c = Conv (x, w)  d = Clip (c, low)  y = Mul (d, two)",
        "c2 = Conv (x, w)  c = Mul (c2, two)  y = Clip (c, low)",
        "is not linear",
    ),
    "a product of what is shifted": (
        "a = Relu (x)  c = Sin (x)  d = Add (a, t)  y = Mul (d, c)",
        "a = Relu (x)  c = Sin (x)  e = Mul (a, c)  f = Mul (c, t)  y = Add (e, f)",
        "multiplies tensors",
    ),
    "channels in another order": (
        "c = Conv (x, w)  y = Conv (c, w)",
        "c2 = Conv (x, turned)  y = Conv (c2, back)",
        "sums what another one summed",
    ),
    "input weights of an LSTM": (
        "c = Mul (x, two)  y, h, i = LSTM <hidden_size = 2> (c, lw, lr)",
        "y, h, i = LSTM <hidden_size = 2> (x, lw2, lr)",
        "LSTM",
    ),
    "arithmetic with sizes": (
        "s = Shape (x)  f = Cast <to = 1> (s)  a = Mul (f, zero)  b = ReduceSum <keepdims = 0> (a)  c = Add (x, b)  y = Mul (c, two)",
        "s = Shape (x)  f = Cast <to = 1> (s)  b = ReduceSum <keepdims = 0> (f)  e = Mul (b, zero)  c = Add (x, e)  y = Mul (c, two)",
        "with sizes",
    ),
    "pads in another order": (
        "c = Pad (x, pads)  d = AveragePool <kernel_shape = [3], strides = [2]> (c)  y = Mul (d, two)",
        "d = AveragePool <kernel_shape = [3], strides = [2], pads = [1,1], count_include_pad = 1> (x)  y = Mul (d, two)",
        "sizes",
    ),
}  # fmt: skip
ODD = {
    "low": F(-1),
    "zero": F(0),
    "turned": W[[1, 0, *range(2, 6)]],
    "back": W[:, [1, 0, *range(2, 6)]],
    "lw": numbers(1, 8, 8),
    "lr": numbers(1, 8, 2),
}


@pytest.mark.parametrize("name", OPEN)
def test_a_kind_of_site_that_stays_open_says_why(name: str) -> None:
    original, folded, why = OPEN[name]
    constants = {**EACH, **MORE, **ODD, "lw2": ODD["lw"] * F(2)}
    x = "float[N,6,W] x" if "pads" in name else "float[N,6,8] x"
    found = known(*(model(lines, constants, x) for lines in (original, folded)))
    assert "y" in found.open_tensors()
    assert any(why in site.why for site in found.derived), [site.why for site in found.derived]


def test_a_tensor_that_a_kernel_is_too_long_for_has_no_example() -> None:
    made = model("c = Conv (x, w)  y = Conv (c, w)", {"w": W}, "float[N,6,8] x")
    assert "y" not in examples(made, {"x": np.zeros((2, 6, 2), F)})
