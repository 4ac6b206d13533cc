"""Verification: models that differ, for some inputs or sizes, may agree at the sizes tried; no proof covers them."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import onnx.parser
import pytest
from onnx import numpy_helper

from bnfold.verification.proof.algebra import RESPONSES, Pair
from bnfold.verification.proof.examples import examples
from bnfold.verification.proof.induction import Induction
from bnfold.verification.regions import edited

F = np.float32
RNG = np.random.default_rng(0)
W = RNG.standard_normal((4, 3, 3, 3)).astype(F)
V = RNG.standard_normal((4, 4, 1, 1)).astype(F)
S, T = np.array([[[2]], [[0.5]], [[1.5]], [[3]]], F), np.array([[[1]], [[-2]], [[0.5]], [[3]]], F)
WS = W * S[:, None]
Made = tuple[str, dict[str, Any]]  # the nodes of a model, and its constants


def ints(*values: int) -> np.ndarray:
    return np.array(values, np.int64)


def model(made: Made, x: str) -> onnx.ModelProto:
    lines, constants = made
    found = onnx.parser.parse_model(f'<ir_version: 8, opset_import: ["" : 17]> g ({x}) => (float[] y) {{ {lines} }}')
    stored = ((name, np.asarray(value)) for name, value in constants.items())
    found.graph.initializer.extend(numpy_helper.from_array(value, name) for name, value in stored)
    return found


def is_proved(first: Made, second: Made, x: str, size: int = 64) -> bool:
    """Whether all outputs are proved to be the same, with inputs of a batch of 2 and of `size`."""
    original, folded = model(first, x), model(second, x)
    stored = {tensor.name for tensor in original.graph.initializer}
    values = {
        v.name: np.zeros(
            [d.dim_value or (size if axis else 2) for axis, d in enumerate(v.type.tensor_type.shape.dim)],
            onnx.helper.tensor_dtype_to_np_dtype(v.type.tensor_type.elem_type),
        )
        for v in original.graph.input
        if v.name not in stored
    }
    known = Induction(Pair(original, folded, examples(original, values)), edited(original, folded), never)
    return not known.run().open_tensors()


def never(name: str) -> bool:
    return False


IMAGE, FIXED = "float[N,3,H,W] x", "float[2,3,64,64] x"
SAME = '<kernel_shape=[2,2], strides=[2,2], auto_pad="SAME_UPPER", count_include_pad=1>'
AS_IT_IS = "c = Conv (x, w)  y = Mul (c, s)", {"w": W, "s": S}
PADDED = "c = Conv <pads=[1,1,1,1]> (x, w)  "
TIMES_2 = "y = Mul (x, s)", {"s": F(2)}
FIRST = {"z": ints(0), "h": ints(200), "ax": ints(3)}  # for Slice: columns
ROWS = {"ax": ints(3), "last": ints(-1), "neg": ints(-1)}
BY_WIDTH = "h = Shape ({})  g = Gather (h, i)  k = Greater (g, big)  q = Where (k, two, one)  y = Mul (n, q)"
WIDTHS = {"w": W, "i": np.array(3), "big": np.array(100), "two": F(2), "one": F(1)}
SCAN = (
    "y = Scan <num_scan_inputs = 1, scan_input_axes = [1], scan_output_axes = [1], "
    "body = b (float[N,B,C] e) => (float[N,B,C] o) { o = Add (e, t) }>"
)
DIFFERENT: dict[str, tuple[Made, Made, str]] = {
    "a shift past padding that averages count, at odd sizes": (
        (f"c = Conv (x, w)  p = AveragePool {SAME} (c)  m = Mul (p, s)  y = Add (m, t)", {"w": W, "s": S, "t": T}),
        (f"c = Conv (x, w, b)  y = AveragePool {SAME} (c)", {"w": WS, "b": (T / S).ravel() * S.ravel()}),
        IMAGE,
    ),
    "a shift past such padding, towards the weights after it": (
        (f"q = Add (x, t)  p = AveragePool {SAME} (q)  y = Conv (p, v)", {"v": V, "t": T}),
        (f"p2 = AveragePool {SAME} (x)  y = Conv (p2, v, b)", {"v": V, "b": (V[..., 0, 0] @ T.ravel()).astype(F)}),
        "float[N,4,H,W] x",
    ),
    "a batch in a Reshape": (
        ("c = Conv (x, w)  p = Mul (c, s)  y = Reshape (p, r)", {"w": W, "s": S, "r": ints(0, 4, -1)}),
        ("c = Conv (x, w)  y = Reshape (c, r)", {"w": WS, "r": ints(2, 4, -1)}),
        IMAGE,
    ),
    "a size in a Reshape": (
        (f"{PADDED} p = Mul (c, s)  y = Reshape (p, r)", {"w": W, "s": S, "r": ints(0, 4, -1)}),
        (f"{PADDED} y = Reshape (c, r)", {"w": WS, "r": ints(-1, 4, 64 * 64)}),
        IMAGE,
    ),
    "the average of one size": (
        (f"{PADDED} p = GlobalAveragePool (c)  y = Mul (p, s)", {"w": W, "s": S}),
        (f"{PADDED} y = AveragePool <kernel_shape=[64,64]> (c)", {"w": WS}),
        IMAGE,
    ),
    "a constant of one size": (
        (f"{PADDED} p = Relu (c)  q = Mul (p, s)  y = Neg (q)", {"w": W, "s": S}),
        (f"{PADDED} p = Relu (c)  q = Mul (p, s)  y = Mul (q, n)", {"w": W, "s": S, "n": -np.ones((64, 64), F)}),
        IMAGE,
    ),
    "a slice that ends beyond the sizes tried": (
        ("c = Conv (x, w)  d = Slice (c, z, h, ax)  y = Mul (d, s)", {"w": W, "s": S, "z": ints(0), "h": ints(1 << 40), "ax": ints(3)}),
        ("c = Conv (x, w)  y = Slice (c, z, h, ax)", {"w": WS, "z": ints(0), "h": ints(200), "ax": ints(3)}),
        IMAGE,
    ),
    "a slice before padding and after": (
        ("l = Slice (x, z, h, ax)  p = Pad (l, e)  y = Mul (p, s)", {"s": F(2), "e": ints(0, 0, 0, 0, 0, 0, 0, 9), **FIRST}),
        ("p2 = Pad (x, e)  l2 = Slice (p2, z, h, ax)  y = Mul (l2, s)", {"s": F(2), "e": ints(0, 0, 0, 0, 0, 0, 0, 9), **FIRST}),
        IMAGE,
    ),
    "a slice of rows for one of columns": (
        ("l = Slice (x, z, h, ax)  p = Transpose <perm=[0,1,3,2]> (l)  y = Mul (p, s)", {"s": F(2), **FIRST}),
        ("p2 = Transpose <perm=[0,1,3,2]> (x)  l2 = Slice (p2, z, h, ax)  y = Mul (l2, s)", {"s": F(2), **FIRST}),
        IMAGE,
    ),
    "all axes of 1, or two of them": (
        ("p = GlobalAveragePool (x)  q = Mul (p, s)  y = Squeeze (q)", {"s": F(2)}),
        ("p2 = GlobalAveragePool (x)  q2 = Squeeze (p2, ax)  y = Mul (q2, s)", {"s": F(2), "ax": ints(2, 3)}),
        IMAGE,
    ),
    "data that is dropped at random": (
        ("d = Dropout (x, r, t)  y = Mul (d, s)", {"s": F(2), "r": F(0.5), "t": np.array(True)}),
        ("d2 = Mul (x, s)  y = Dropout (d2, r, t)", {"s": F(2), "r": F(0.5), "t": np.array(True)}),
        IMAGE,
    ),
    "a factor by size": (
        ("n = Conv (x, w)  " + BY_WIDTH.format("x"), WIDTHS),
        ("n2 = Conv (x, w)  y = Neg (n2)", {"w": -W}),
        IMAGE,
    ),
    "a factor by the size of the data itself": (
        ("n = Conv (x, w)  " + BY_WIDTH.format("n"), WIDTHS),
        ("y = Conv (x, w2)", {"w2": W}),
        IMAGE,
    ),
    "columns turned round": (
        TIMES_2,
        ("r = Slice (x, last, end, ax, neg)  y = Mul (r, s)", {"s": F(2), "end": ints(-(10**9)), **ROWS}),
        FIXED,
    ),
    "columns turned round beyond the sizes tried": (
        TIMES_2,
        (
            "l = Slice (x, z, h, ax)  r = Slice (x, last, g, ax, neg)  c = Concat <axis=3> (l, r)  y = Mul (c, s)",
            {"s": F(2), "z": ints(0), "h": ints(200), "g": ints(199), **ROWS},
        ),
        IMAGE,
    ),
    "one place for the mean": (
        ("p = GlobalAveragePool (x)  y = Mul (p, s)", {"s": F(2)}),
        ("p2 = Slice (x, z, h, ax)  y = Mul (p2, s)", {"s": F(2), "z": ints(0, 0), "h": ints(1, 1), "ax": ints(2, 3)}),
        FIXED,
    ),
    "data in float16": (
        AS_IT_IS,
        ("h = Cast <to=10> (x)  g = Cast <to=1> (h)  y = Conv (g, w)", {"w": WS}),
        FIXED,
    ),
    "weights in float16": (AS_IT_IS, ("g = Cast <to=1> (w)  y = Conv (x, g)", {"w": WS.astype(np.float16)}), FIXED),
    "data in integers": (
        ("y = Mul (x, s)", {"s": F(2)}),
        ("a = Mul (x, s)  i = Cast <to=7> (a)  y = Cast <to=1> (i)", {"s": F(2)}),
        FIXED,
    ),
    "integers that are divided": (
        ("d = Div (x, e)  k = Div (x, f)  j = Mul (k, two)  u = Sub (d, j)  y = Cast <to=1> (u)", {"e": ints(8), "f": ints(16), "two": ints(2)}),
        ("f = Cast <to=1> (x)  y = Mul (f, z)", {"z": F(0)}),
        "int64[N,3] x",
    ),
    "a CastLike of another type": (
        ("t = Cast <to=1> (i)  v = CastLike (x, t)  z = Cast <to=1> (v)  c = Conv (z, w)  y = Mul (c, s)", {"w": W, "s": S}),
        ("t = Cast <to=10> (i)  v = CastLike (x, t)  z = Cast <to=1> (v)  y = Conv (z, w)", {"w": WS}),
        f"{FIXED}, int64[1] i",
    ),
    "what a body reads besides its operands": (
        (f"c = Conv (x, w)  s = Mul (c, q)  t = Clip (z, lo, hi)  {SCAN} (s)", {"w": W, "q": S, "lo": F(-5), "hi": F(5)}),
        (f"s2 = Conv (x, w)  t = Clip (z, lo, hi)  {SCAN} (s2)", {"w": WS, "lo": F(-5), "hi": F(6)}),
        f"{FIXED}, float[1] z",
    ),
    "a default that callers may override": (AS_IT_IS, ("y = Conv (x, w)", {"w": WS, "s": S}), f"{FIXED}, float[4,1,1] s"),
    "a default of one that callers may override": (
        ("c = Conv (x, w)  y = Mul (c, s)", {"w": W, "s": np.ones(1, F)}),
        ("y = Conv (x, w)", {"w": W, "s": np.ones(1, F)}),
        f"{FIXED}, float[1] s",
    ),
    "numbers on the way that float32 has not": (
        ("y = Conv (x, w)", {"w": W}),
        ("e = Mul (x, k)  c = Conv (e, w)  y = Div (c, k)", {"w": W, "k": F(2.0**100)}),
        FIXED,
    ),
    "numbers on the way that float32 has not, by division": (
        ("y = Conv (x, w)", {"w": W}),
        ("e = Div (x, k)  c = Conv (e, w)  y = Mul (c, k)", {"w": W, "k": F(2.0**-100)}),
        FIXED,
    ),
    "padding of one size": (
        ('y = Conv <auto_pad="SAME_UPPER", strides=[2,2]> (x, w)', {"w": W}),
        ("y = Conv <pads=[0,0,1,1], strides=[2,2]> (x, w)", {"w": W}),
        IMAGE,
    ),
    "groups that do not divide": (AS_IT_IS, ("y = Conv <group=3> (x, w)", {"w": WS[:, :1]}), FIXED),
    "a kernel of another size than stated": (AS_IT_IS, ("y = Conv <kernel_shape=[2,2]> (x, w)", {"w": WS}), FIXED),
    "a group of none": (AS_IT_IS, ("y = Conv <group=0> (x, w)", {"w": WS}), FIXED),
    "data in integers before an affine": (AS_IT_IS, ("i = Cast <to=7> (x)  c = Cast <to=1> (i)  y = Conv (c, w)", {"w": WS}), FIXED),
    "numbers on the way that float16 has not": (
        ("y = Conv (x, w)", {"w": (W / 8).astype(np.float16)}),
        (
            "e = Mul (x, k)  c = Conv (e, w)  y = Mul (c, s)",
            {"w": (W / 8).astype(np.float16), "k": np.float16(4096), "s": np.float16(2.0**-12)},
        ),
        "float16[2,3,64,64] x",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", DIFFERENT)
def test_no_proof_of_models_that_differ(name: str) -> None:
    assert not any(is_proved(*DIFFERENT[name], size) for size in (64, 8))


BY_FEW = "c = Conv (x, w)  h = Shape (c)  n = Gather (h, i)  {}  k = Concat <axis=0> (q, rest)  y = Reshape (c, k)"
BOUNDED = {"w": W, "i": ints(0), "rest": ints(4, -1), "most": ints(100)}
FEW = (BY_FEW.format("q = Identity (n)"), BOUNDED), (BY_FEW.format("q = Min (n, most)"), BOUNDED)
SUM = "a = Add (x, u)  y = Mul (a, s)", {"s": F(2)}
SUM_OF_FIRST = "a = Add (x, u)  b = Slice (a, z, e, z)  y = Mul (b, s)", {"s": F(2), "z": ints(0), "e": ints(2)}
THREES = "r = Reshape (x, k)  y = Mul (r, s)"
JOINED = "a = Concat <axis=0> (x, u)  b = Add (a, v)  y = Mul (b, s)"
PRODUCT = "a = Mul (x, s)  b = Mul (u, t)  y = {} (a, b)"
FAR = {"s": F(2.0**-120), "t": F(2.0**120)}
OTHER_SIZES: dict[str, tuple[Made, Made, dict[str, tuple[str, tuple[int, ...]]]]] = {
    "a size in bounds": (*FEW, {"x": ("N,3,8,8", (2, 3, 8, 8))}),
    "two names of one size": (SUM, SUM_OF_FIRST, {"x": ("N,4", (2, 4)), "u": ("M,4", (2, 4))}),
    "a size that is a sum": (
        (JOINED, {"s": F(2)}),
        (JOINED, {"s": np.full((4, 1), 2, F)}),
        {"x": ("N,4", (2, 4)), "u": ("M,4", (2, 4)), "v": ("K,4", (4, 4))},
    ),
    "rows in threes": (
        (THREES, {"k": ints(-1, 3, 4), "s": np.ones((3, 1), F)}),
        (THREES, {"k": ints(-1, 3, 4), "s": np.ones((2, 3, 1), F)}),
        {"x": ("N,4", (6, 4))},
    ),
    "a shape that callers may override": (
        ("r = Reshape (x, k)  y = Mul (r, s)", {"k": ints(-1, 4), "s": F(2)}),
        ("r = Reshape (x, k)  y = Mul (r, s)", {"k": ints(-1, 4), "s": np.full((8, 4), 2, F)}),
        {"x": ("2,16", (2, 16)), "k": ("2", ())},
    ),
    "operands of a product that leave nothing": (
        ("y = MatMul (x, u)", {}),
        (PRODUCT.format("MatMul"), FAR),
        {"x": ("N,4,4", (2, 4, 4)), "u": ("N,4,4", (2, 4, 4))},
    ),
    "zeros of which one is none": (
        ("m = MatMul (x, u)  z = Gather (t, i)  y = Add (m, z)", {"t": np.eye(4, dtype=F)[None], "i": ints(0)}),
        ("y = MatMul (x, u)", {}),
        {"x": ("N,4,4", (2, 4, 4)), "u": ("N,4,4", (2, 4, 4))},
    ),
    "more zeros than a product has elements": (
        ("m = MatMul (x, u)  z = Gather (t, i)  y = Add (m, z)", {"t": np.zeros((3, 2, 1, 1, 1), F), "i": ints(1)}),
        ("y = MatMul (x, u)", {}),
        {"x": ("N,4,4", (2, 4, 4)), "u": ("N,4,4", (2, 4, 4))},
    ),
    "zeros taken off the wrong way round": (
        ("m = MatMul (x, u)  z = Gather (t, i)  y = Sub (z, m)", {"t": np.zeros((3, 1, 1), F), "i": ints(1)}),
        ("y = MatMul (x, u)", {}),
        {"x": ("N,4,4", (2, 4, 4)), "u": ("N,4,4", (2, 4, 4))},
    ),
    "factors that leave nothing": (
        ("y = Mul (x, u)", {}),
        (PRODUCT.format("Mul"), FAR),
        {"x": ("N,4", (2, 4)), "u": ("N,4", (2, 4))},
    ),
}


@pytest.mark.parametrize("name", OTHER_SIZES)
def test_no_proof_where_other_sizes_or_numbers_differ(name: str) -> None:
    """Sizes that have to be larger together, or by as many as there are, are found."""
    first, second, inputs = OTHER_SIZES[name]
    x = ", ".join(f"{'float' if sizes else 'int64'}[{dims}] {each}" for each, (dims, sizes) in inputs.items())
    pair = model(first, x), model(second, x)
    values = {each: np.zeros(sizes, F) for each, (_, sizes) in inputs.items() if sizes}
    known = Induction(Pair(*pair, examples(pair[0], values)), edited(*pair), never)
    assert known.run().open_tensors()


ADDED = "c = Conv (x, w)  m = Mul (c, x)  k = Constant <value = float {2.0}> ()  n = Mul (m, k)  z = Gather (t, i)"
HEADS = """m = ReduceMean <axes = [2,3], keepdims = 0> (x)
    p = Mul (m, s)  g = Gemm (p, a, c)  q = Add (m, t)  h = Gemm (q, b)  k = Add (g, h)  y = Div (k, two)"""
ADDENDS = {"s": S.ravel()[:3], "t": T.ravel()[:3], "a": W[:3, :, 0, 0], "b": W[:3, :, 1, 1], "c": F(0.5), "two": F(2)}
ONE = (np.diag(S.ravel()[:3]).astype(float) @ ADDENDS["a"] + ADDENDS["b"]) / 2
BOTH = (0.5 + T.ravel()[:3].astype(float) @ ADDENDS["b"]) / 2
B = np.array([90, -25, 16, 3], F)  # of which a ten-thousandth more is a hundred roundoffs off
TWO = "c = Conv (x, w, b)  y = Conv (c, v, d)"
MORE = F(1e-4) * np.array([0, 1, 0, 0], F)
MADE_UP_FOR = (V[..., 0, 0].astype(float) @ -MORE).astype(F)


ALIKE: dict[str, tuple[Made, Made, str]] = {
    "a fold": (AS_IT_IS, ("y = Conv (x, w)", {"w": WS}), IMAGE),
    "past a Reshape": (
        ("c = Conv (x, w)  r = Reshape (c, z)  y = Mul (r, s)", {"w": W, "s": S[..., 0], "z": ints(0, 4, -1)}),
        ("c = Conv (x, w)  y = Reshape (c, z)", {"w": WS, "z": ints(0, 4, -1)}),
        IMAGE,
    ),
    "a Reshape said otherwise": (
        ("c = Conv (x, w)  p = Mul (c, s)  y = Reshape (p, z)", {"w": W, "s": S, "z": ints(0, 4, -1)}),
        ("c = Conv (x, w)  y = Reshape (c, z)", {"w": WS, "z": ints(-1, 4, 62 * 62)}),
        "float[N,3,64,64] x",
    ),
    "sizes of a constant": (
        ("d = Shape <start=0, end=1> (w)  e = Expand (o, d)  c = Conv (x, w, e)  y = Mul (c, s)", {"w": W, "s": S, "o": np.zeros(1, F)}),
        ("d = Shape <start=0, end=1> (w)  e = Expand (o, d)  y = Conv (x, w, e)", {"w": WS, "o": np.zeros(1, F)}),
        IMAGE,
    ),
    "branches of other padding": (
        ("a = Conv <pads=[1,1,1,1], strides=[2,2]> (x, w)  c = Conv <strides=[2,2]> (x, v)  y = Add (a, c)", {"w": W, "v": W[..., 1:2, 1:2]}),
        ("y = Conv <pads=[1,1,1,1], strides=[2,2]> (x, w)", {"w": W + np.pad(W[..., 1:2, 1:2], [(0, 0), (0, 0), (1, 1), (1, 1)])}),
        IMAGE,
    ),
    "past an average": (
        (f"{PADDED} p = AveragePool <kernel_shape=[2,2], pads=[1,1,1,1]> (c)  m = Mul (p, s)  y = Add (m, t)", {"w": W, "s": S, "t": T}),
        ("c = Conv <pads=[1,1,1,1]> (x, w, b)  y = AveragePool <kernel_shape=[2,2], pads=[1,1,1,1]> (c)", {"w": WS, "b": T.ravel()}),
        IMAGE,
    ),
    "in mixed precision": (
        ("h = Cast <to=10> (x)  c = Conv (h, w)  f = Cast <to=1> (c)  m = Mul (f, s)  y = Cast <to=10> (m)", {"w": W.astype(np.float16), "s": S}),
        ("h = Cast <to=10> (x)  y = Conv (h, w)", {"w": (W.astype(np.float16) * S[:, None]).astype(np.float16)}),
        IMAGE,
    ),
    "a small shift that the next bias makes up for": (
        (TWO, {"w": W, "b": B, "v": V, "d": np.zeros(4, F)}),
        (TWO, {"w": W, "b": B + MORE, "v": V, "d": MADE_UP_FOR}),
        IMAGE,
    ),
    "zeros out of a table, added to a product times a number": (
        (f"{ADDED} y = Add (n, z)", {"w": W[:3, :, :1, :1], "t": np.zeros((5, 1, 1), F), "i": ints(3)}),
        ("c = Conv (x, w)  y = Mul (c, x)", {"w": 2 * W[:3, :, :1, :1]}),
        IMAGE,
    ),
    "two heads, as one": (
        (HEADS, ADDENDS),
        ("m = ReduceMean <axes = [2,3], keepdims = 0> (x)  y = Gemm (m, v, d)", {"v": ONE.astype(F), "d": BOTH.astype(F)}),
        "float[N,3,8,8] x",
    ),
    "scales of a product that undo one another": (
        ("c = Conv (x, w)  y = Mul (c, x)", {"w": W[:3, :, :1, :1]}),
        ("c = Conv (x, w)  a = Mul (c, s)  b = Mul (x, t)  y = Mul (a, b)", {"w": W[:3, :, :1, :1], "s": F(8), "t": F(0.125)}),
        IMAGE,
    ),
    "another slice of a size that is known": (
        ("c = Conv (x, w)  d = Slice (c, z, h, ax)  y = Mul (d, s)", {"w": W, "s": S, "z": ints(0), "h": ints(1 << 40), "ax": ints(3)}),
        ("c = Conv (x, w)  y = Slice (c, z, h, ax)", {"w": WS, "z": ints(0), "h": ints(200), "ax": ints(3)}),
        FIXED,
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", ALIKE)
def test_right_folds_are_still_proved(name: str) -> None:
    assert is_proved(*ALIKE[name])


@pytest.mark.parametrize("names", [("", ""), ("ai.onnx", ""), ("ai.onnx", "ai.onnx")])
def test_operators_of_another_version_are_not_the_same(names: tuple[str, str]) -> None:
    """Softmax is along axis 1 up to version 12, along the last one from 13 on."""
    pair = []
    for version, name in zip((12, 13), names, strict=True):
        made = onnx.parser.parse_model(
            '<ir_version: 8, opset_import: ["" : 13]> g (float[N,3,4] x) => (float[N,3,4] y) { y = Softmax (x) }'
        )
        made.opset_import[0].CopyFrom(onnx.helper.make_opsetid(name, version))
        pair.append(made)
    known = examples(pair[0], {"x": np.zeros((2, 3, 4), np.float32)})
    assert edited(*pair) == {"y"}
    assert not Induction(Pair(*pair, known), edited(*pair), lambda _: False).run().same


@pytest.mark.parametrize("changed", ["", *"stabc"])
def test_two_heads_are_one_without_impulses(changed: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(RESPONSES, "fast", 1)
    (lines, constants), second, x = ALIKE["two heads, as one"]
    other = {name: value + F(0.01) * (name == changed) for name, value in constants.items()}
    assert is_proved((lines, other), second, x) == (not changed)


def test_the_axes_of_a_mean_may_be_computed(monkeypatch: pytest.MonkeyPatch) -> None:
    """A shift before the mean is one after it, and the bias makes up for it."""
    monkeypatch.setitem(RESPONSES, "fast", 1)
    axes = "one = Constant <value = int64 {1}> ()  as = Reshape (one, row)  m = ReduceMean <keepdims=0> (a, as)"
    pair = []
    for shift in (np.zeros(4, F), T.ravel()):
        constants = {"u": shift, "row": ints(1), "d": (V[..., 0, 0].T.astype(float).T @ -shift).astype(F)}
        made = model(
            (f"a = Add (x, u)  {axes}  y = Gemm <transB=1> (m, v, d)", {"v": V[..., 0, 0], **constants}),
            "float[N,5,4] x",
        )
        made.opset_import[0].version = 18
        pair.append(made)
    known = examples(pair[0], {"x": np.zeros((2, 5, 4), F)})
    assert not Induction(Pair(*pair, known), edited(*pair), never).run().open_tensors()
