"""Faults that most inputs do not show: other bounds, ties, branches hardly taken, rows of large batches."""

from __future__ import annotations

import numpy as np
from onnx import AttributeProto, ModelProto, helper

from .edits import Change, Edit, become, both, find, image, insert, instead, of_input, one, put, sized, tensor, values
from .right import relu_as_clip

LATE = """zero = Constant <value = int64 {0}> () two = Constant <value = float {2.0}> () step = Constant <value = int64 {1}> ()
    shape = Shape (x) axis = Constant <value = int64 {%d}> () size = Gather (shape, axis) i = Range (zero, size, step)
    late = GreaterOrEqual (i, from%d) as = Constant <value_ints = [%s]> () l = Reshape (late, as) d = Mul (x, two) out = Where (l, d, x)"""


PARTS = """n64 = Constant <value_ints = [64]> () n0 = Constant <value_ints = [0]> () far = Constant <value_ints = [1099511627776]> ()
    a = Slice (x, n0, n64, n0) b = Slice (x, n64, far, n0) two = Constant <value = float {2.0}> () d = Mul (b, two) out = Concat <axis = 0> (a, d)"""
BRANCH = """shape = Shape (x) first = Constant <value = int64 {0}> () size = Gather (shape, first) many = Greater (size, n64)
    out = If (many) < then_branch = t () => (float[N,3,8,8] p) { p = Neg (x) }, else_branch = e () => (float[N,3,8,8] q) { q = Identity (x) } >"""
CLAMPED = """zero = Constant <value = int64 {0}> () step = Constant <value = int64 {1}> () last = Constant <value = int64 {63}> () shape = Shape (x)
    size = Gather (shape, zero) i = Range (zero, size, step) c = Min (i, last) out = Gather <axis = 0> (x, c)"""
EIGHTH = """zero = Constant <value = int64 {0}> () step = Constant <value = int64 {1}> () shape = Shape (x) size = Gather (shape, zero)
    i = Range (zero, size, step) m = Mod (i, n8) late = Equal (m, n7) as = Constant <value_ints = [-1,1,1,1]> () l = Reshape (late, as)
    d = Neg (x) out = Where (l, d, x)"""


def late(axis: int, rank: int, start: int) -> Change:
    """Everything from an index of an axis on times two."""
    form = ",".join("-1" if a == axis else "1" for a in range(rank))
    return insert("x", LATE % (axis, start, form), **{f"from{start}": np.array(start)})


def in_loop(most: int) -> Change:
    """The counter of the Loop stops to count."""

    def change(model: ModelProto) -> None:
        body = next(a.g for a in find(model, "Loop").attribute if a.type == AttributeProto.GRAPH)
        find(model, "CastLike").input[0] = "i_new"
        body.node.insert(0, helper.make_node("Min", ["i", "most"], ["i_new"]))
        model.graph.initializer.append(tensor(np.array(most), "most"))

    return change


def floor_of_half(model: ModelProto) -> None:
    node = find(model, "Round")
    at = list(model.graph.node).index(node)
    model.graph.node.insert(at, helper.make_node("Add", [node.input[0], "half"], ["x_half"]))
    node = find(model, "Round")
    node.op_type, node.input[0] = "Floor", "x_half"
    model.graph.initializer.append(tensor(np.array(0.5), "half"))


def never(model: ModelProto) -> None:
    """Both branches of the If are the one that random inputs take."""
    one, two = find(model, "If").attribute
    rare, usual = (one, two) if one.name == "then_branch" else (two, one)
    rare.g.CopyFrom(usual.g)


FLAT = {"x": np.ones((1, 6), np.float32)}
WORD = {"ids": np.array([[4711]])}
SCORES = np.random.default_rng(3).random((1, 2, 9)).astype(np.float32)
CORNERS = np.arange(9, dtype=np.float32)[:, None] + np.array([0, 0, 0.5, 0.5], np.float32)
BOXES = FLAT | {"at": CORNERS[None], "scores": SCORES}
OVERLAPPING = FLAT | {
    "at": (np.array([0, 0, 1, 1]) + np.arange(9)[:, None] * np.array([0, 0, 0.065, 0]))[None].astype(np.float32),
    "scores": SCORES,
}
WHOLE = {"x": np.ones((1, 6), np.float32), "i": np.full((1, 6), -4)}
LARGE = {"x": np.random.default_rng(3).standard_normal((2, 6)).astype(np.float32) * 500}
_NUMBERS = "large and small numbers"
_EXP = instead("Softmax", "e = Exp (x) s = ReduceSum (e, last) out = Div (e, s)", last=np.array([1]))
_OVERFLOW = insert("r", "m = Mul (x, big) out = Mul (m, less)", big=2.0**100, less=2.0**-100)
_UNDERFLOW = insert("r", "m = Mul (x, less) out = Mul (m, big)", big=2.0**120, less=2.0**-120)
_AS_FLOAT, _AS_INT = (insert("i", f"f = Cast <to = {kind}> (x) out = Cast <to = 7> (f)") for kind in (1, 6))
EXTREME = (
    Edit(_NUMBERS, "Softmax without its maximum", "classes", _EXP, LARGE),
    Edit(_NUMBERS, "Softplus by Exp", "softplus", instead("Softplus", "e = Exp (x) a = Add (e, uno) out = Log (a)", uno=1.0), LARGE),
    Edit(_NUMBERS, "Sigmoid by Exp", "sigmoid", instead("Sigmoid", "e = Exp (x) a = Add (e, uno) out = Div (e, a)", uno=1.0), LARGE),
    Edit(_NUMBERS, "scales that overflow between", "plain", _OVERFLOW, image(1e12)),
    Edit(_NUMBERS, "scales that leave nothing", "plain", _UNDERFLOW, "numbers below 1e-9 become 0"),
    Edit(_NUMBERS, "epsilon 1e-9 for 1e-12", "small epsilon", put("InstanceNormalization", epsilon=1e-9), "other images of little contrast"),
    Edit(_NUMBERS, "integers through float32", "indices", _AS_FLOAT, WHOLE | {"i": np.full((1, 6), 2**24 + 1)}),
    Edit(_NUMBERS, "integers through int32", "indices", _AS_INT, WHOLE | {"i": np.full((1, 6), 2**33 + 1)}),
)  # fmt: skip
_FEWER = """first = Constant <value = int64 {0}> () shape = Shape (x) size = Gather (shape, first) most = Constant <value = int64 {100}> ()
    few = Min (size, most) one = Constant <value_ints = [1]> () row = Reshape (few, one) rest = Constant <value_ints = [-1]> ()
    as = Concat <axis = 0> (row, rest) out = Reshape (x, as)"""
_HUNDREDS = """first = Constant <value = int64 {0}> () shape = Shape (x) size = Gather (shape, first) many = Constant <value = int64 {300}> ()
    few = Div (size, many)"""
_BORDER = f"""{_HUNDREDS} rows = Constant <value_ints = [1]> () z = Constant <value_ints = [0]> ()
    n = Reshape (few, rows) p = Concat <axis = 0> (z, z, n, z) out = Pad (x, p)"""
_ONE_MORE = f"{_HUNDREDS} f = Cast <to = 1> (few) out = Add (x, f)"
_FIRST_TWO = insert("h", "out = Slice (x, n0, n2, n0)", n0=np.array([0]), n2=np.array([2]))
_APART = both(insert("a", "out = Mul (x, less)", less=2.0**-120), insert("v", "out = Mul (x, big)", big=2.0**120))
_TINY = sized(1, 2, 6, name="u") | {"x": np.full((1, 2, 6), 1e-8, np.float32)}
LEAST = (
    Edit("least sizes", "a Reshape that no empty batch passes", "plain", insert("r", "out = Reshape (x, k)", k=np.array([0, 4, 8, -1])), image(1.0, 0)),
    Edit("least sizes", "two rows of numbers for one", "dense", insert("r", "out = Mul (x, two)", two=np.ones((2, 1))), sized(1, 6)),
)  # fmt: skip
RARE = (
    *EXTREME,
    *LEAST,
    Edit(_NUMBERS, "scales of a product's operands that leave nothing", "two sizes", _APART, _TINY),
    Edit("large batches", "at most 100 rows", "dense", insert("r", _FEWER), sized(200, 6)),
    Edit("large batches", "a border from 300 rows on", "dense", insert("r", _BORDER), sized(300, 6)),
    Edit("large batches", "one more from 300 rows on", "dense", insert("r", _ONE_MORE), sized(300, 6)),
    Edit("large batches", "two rows of two inputs of one size", "two names of one size", _FIRST_TWO, sized(3, 6) | sized(3, 6, name="u")),
    Edit("rare inputs", "bound of a Loop's condition", "loop until", values("most", lambda v: v / 2), "rows whose maximum is between both"),
    Edit("rare inputs", "one row of a table of 8 bits", "words of 8 bits", values("table", lambda t: t + 5 * (np.arange(5000) == 4711)[:, None]), WORD),
    Edit("rare inputs", "one row of a table of tables", "words by numbers", values("hashes", lambda t: (t + (np.arange(5000) == 4711)) % 50), WORD),
    Edit("rare inputs", "Max(x, -5000) put before the Conv", "plain", insert("x", "out = Max (x, cap)", cap=-5000.0), image(-1e4)),
    Edit("rare inputs", "Clip of x at 1e6", "plain", insert("x", "out = Clip (x, lo, hi)", lo=np.array(-1e6), hi=np.array(1e6)), image(-1e7)),
    Edit("rare inputs", "Min(r, 1e5) put inside", "plain", insert("r", "out = Min (x, cap)", cap=1e5), image(1e6)),
    Edit("rare inputs", "upper bound 6e5 for 1e6", "rare clip", values("high", lambda v: v * 0.6), image(1e7)),
    Edit("rare inputs", "Relu as Clip up to 1e5", "plain", relu_as_clip(1e5), image(1e6)),
    Edit("rare inputs", "Where on x > 1e4", "plain", insert("x", "c = Greater (x, cap) out = Where (c, cap, x)", cap=1e4), image(1e5)),
    Edit("rare inputs", "Where on x == 0", "plain", insert("x", "c = Equal (x, nil) out = Where (c, uno, x)", nil=0.0, uno=1.0), image(0.0)),
    Edit("rare inputs", "Where on |x| < 1e-9", "plain", insert("x", "m = Abs (x) c = Less (m, eps) out = Where (c, uno, x)", eps=1e-9, uno=1.0), image(0.0)),
    Edit("rare inputs", "NaN becomes 0", "plain", insert("x", "c = IsNaN (x) out = Where (c, nil, x)", nil=0.0), image(np.nan)),
    Edit("rare inputs", "Inf becomes 0", "plain", insert("x", "c = IsInf (x) out = Where (c, nil, x)", nil=0.0), image(np.inf)),
    Edit("rare inputs", "rare branch: Relu for Tanh", "if rare body", become("Softsign", "Relu"), image(1e3)),
    Edit("rare inputs", "constant of a rare branch", "if rare", values("k", lambda k: k * 1.1), image(1e3)),
    Edit("rare inputs", "rare condition 1e4 for 2e4", "if rare", values("big", lambda k: k / 2), image(80.0)),
    Edit("rare inputs", "the rare branch becomes the usual one", "if rare", never, image(1e3)),
    Edit("rare inputs", "one row of a table of 5000 words", "words", of_input("Gather", 0, one(1.5, 4711)), WORD),
    Edit("rare inputs", "rows of a table that are counted from the end", "words", insert("ids", "out = Abs (x)"), {"ids": np.array([[-3]])}),
    Edit("rare inputs", "the last row of a table", "words", of_input("Gather", 0, lambda t: t[:-1]), {"ids": np.array([[4999]])}),
    Edit("rare inputs", "one word becomes another", "words", insert("ids", "c = Equal (x, odd) out = Where (c, nil, x)", odd=4711, nil=0), WORD),
    Edit("rare inputs", "fmod: negative numbers only", "whole numbers", put("Mod", fmod=1), WHOLE),
    Edit("rare inputs", "Cast to int8 for int32", "narrow", put("Cast", to=3), WHOLE | {"i": np.full((1, 6), 300)}),
    Edit("rare inputs", "Cast to uint8 for int32", "narrow", put("Cast", to=2), WHOLE),
    Edit("ties", "Greater becomes GreaterOrEqual", "tie of bounds", become("Greater", "GreaterOrEqual"), image(0.5)),
    Edit("ties", "of whole numbers", "threshold", become("Greater", "GreaterOrEqual"), WHOLE | {"i": np.full((1, 6), 3)}),
    Edit("ties", "Round becomes Floor(x + 0.5)", "rounded", floor_of_half, image(0.5)),
    Edit("ties", "select_last_index, few ties", "tie of classes", put("ArgMax", select_last_index=1), image(0.0)),
    Edit("half rare", "upper bound of a Clip whose lower one shows", "one bound", values("high", lambda v: v / 2), image(1e6)),
    Edit("half rare", "one of two conditions", "two conditions", values("big", lambda v: v / 2), image(80.0)),
    Edit("half rare", "most boxes 8 for 100", "boxes", values("most", lambda v: v * 0 + 8), BOXES),
    Edit("half rare", "overlap 0.95 for 0.9", "boxes", values("overlap", lambda v: v + 0.05), OVERLAPPING),
    Edit("large batches", "rows from 4 on", "plain", late(0, 4, 4), sized(8, 3, 8, 8)),
    Edit("large batches", "rows from 64 on", "plain", late(0, 4, 64), sized(70, 3, 8, 8)),
    Edit("large batches", "rows from 64 on, by Slice and Concat", "plain", insert("x", PARTS), sized(70, 3, 8, 8)),
    Edit("large batches", "rows from 64 on come first", "plain", insert("x", PARTS.replace("(a, d)", "(b, a)")), sized(70, 3, 8, 8)),
    Edit("large batches", "rows from 64 on come first, at the end", "dense", insert("r", PARTS.replace("(a, d)", "(b, a)")), sized(70, 6)),
    Edit("large batches", "rows from 64 on are the last one", "dense", insert("r", CLAMPED), sized(70, 6)),
    Edit("large batches", "a branch for more than 64 rows", "plain", insert("x", BRANCH, n64=64), sized(70, 3, 8, 8)),
    Edit("large batches", "every eighth row", "plain", insert("x", EIGHTH, n8=8, n7=7), sized(8, 3, 8, 8)),
    Edit("large batches", "positions from 300 on", "any length", late(1, 3, 300), sized(1, 310, 6)),
    Edit("large batches", "position 400 of 512", "positions", values("pos", one(1.5, 400)), sized(1, 410, 6)),
    Edit("large batches", "a Loop from its round 50 on", "loop over rows", in_loop(50), sized(60, 6)),
)  # fmt: skip
