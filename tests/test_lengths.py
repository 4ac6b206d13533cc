"""What is said of ranks and lengths holds in every run, whatever names a file gives to lengths."""

from __future__ import annotations

import math
from collections import Counter

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import helper

from bnfold.folding import driver
from bnfold.graph.products import Dim, Product
from bnfold.graph.view import import_view, skeleton
from tests.build import build
from tests.symbolic_graphs import INPUTS, draw

RUNS = [  # sizes of N and M of each input: a file may lie, and give one name to different lengths
    {"X": (2, 3), "Z": (2, 3), "V": (2, 3)},
    {"X": (3, 2), "Z": (3, 2), "V": (3, 2)},
    {"X": (4, 6), "Z": (2, 1), "V": (5, 3)},
    {"X": (1, 1), "Z": (4, 1), "V": (1, 2)},
    {"X": (2, 1), "Z": (1, 1), "V": (6, 2)},
]


def claims(model: onnx.ModelProto) -> dict[str, tuple[Dim, ...]]:
    """The shapes that the view has, by name."""
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    view = import_view(skeleton(copy, set()))
    tensors = [*view.inputs, *(x for node in view.nodes for x in node.outputs)]
    return {x.name: tuple(x.shape) for x in tensors if x.shape is not None}


def check(said: dict[str, tuple[Dim, ...]], shapes: dict[str, tuple[int, ...]]) -> int:
    """Every length that is said is the one in a run, each symbol being one number; returns how many say something."""
    lengths = [(name, n, m) for name, shape in said.items() for n, m in zip(shape, shapes[name], strict=True)]
    symbols = {n.symbols[0]: m for _, n, m in lengths if isinstance(n, Product) and n.factor == len(n.symbols) == 1}
    for name, n, m in lengths:
        assert not isinstance(n, int) or n == m, (name, said[name], shapes[name])
        if isinstance(n, Product) and symbols.keys() >= set(n.symbols):
            value = n.factor * math.prod(symbols[s] for s in n.symbols)
            assert value == m, (name, list(map(str, said[name])), shapes[name])
    return sum(isinstance(n, Product) and (n.factor > 1 or len(n.symbols) > 1) for _, n, _ in lengths)


def run(model: onnx.ModelProto, sizes: dict[str, tuple[int, int]]) -> dict[str, tuple[int, ...]] | None:
    """The shapes of all tensors in a run; None where it does not run with these sizes."""
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.log_severity_level = 4
    feeds = {}
    for name, shape in INPUTS.items():
        of = dict(zip("NM", sizes[name], strict=True))
        feeds[name] = np.ones([n if isinstance(n, int) else of[n] for n in shape], np.float32)
    try:
        session = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
        found = session.run(None, {i.name: feeds[i.name] for i in session.get_inputs()})
    except Exception:  # sizes that do not fit
        return None
    return {n: np.shape(x) for n, x in feeds.items()} | {
        o.name: np.shape(x) for o, x in zip(session.get_outputs(), found, strict=True)
    }


@pytest.mark.parametrize("seeds", [range(i, i + 25) for i in range(0, 100, 25)], ids=str)
def test_what_is_said_of_lengths_holds_in_every_run(seeds: range) -> None:
    tally: Counter[str] = Counter()
    for seed in seeds:
        model = draw(seed)
        said = claims(model)
        for sizes in RUNS:
            shapes = run(model, sizes)
            if shapes is not None:
                tally["runs"] += 1
                tally["products"] += check(said, shapes)
    assert tally["runs"] > 2 * len(seeds)
    assert tally["products"] > len(seeds)


def kept(reshaped: str, inputs: str, stated: dict[str, list[int | str]] | None = None) -> list[str]:
    """Why a product with a constant for each channel is kept, in a file that says such shapes."""
    constants = {"W": (4, 4, 1), "k": (4, 1), "same": [0, 0, -1]}
    model = build(f"c = Conv(X, W) {reshaped} Y = Mul(t, k)", inputs, "Y[N,4,M]", constants)
    for name, shape in (stated or {}).items():
        model.graph.value_info.append(helper.make_tensor_value_info(name, onnx.TensorProto.DOUBLE, shape))
    return [k.not_hoisted.code for k in driver.fold(model).kept]


def test_what_a_file_says_of_lengths_is_not_believed_but_what_follows_is() -> None:
    """[M, 4, N] may lie under the names [N, 4, M]; two inputs, too, may have other lengths than their names say."""
    lie: dict[str, list[int | str]] = {"s": [3], "c": ["N", 4, "M"], "t": ["N", 4, "M"]}
    assert kept("s = Cast<to = 7>(S) t = Reshape(c, s)", "X[N,4,M]; S[3]", lie) == ["SHAPE_UNKNOWN"]
    assert kept("s = Shape(Z) t = Reshape(c, s)", "X[N,4,M]; Z[N,4,M]") == ["SHAPE_UNKNOWN"]
    assert kept("s = Shape(X) t = Reshape(c, s)", "X[N,4,M]; Z[N,4,M]") == []
    assert kept("t = Reshape(c, same)", "X[N,4,M]") == []


def test_a_length_that_may_be_zero_may_stand_for_another() -> None:
    """In [6, 4] reshaped to [N, -1], a run with N = 0 reads the 0 as: as many as before."""
    model = build(
        "s = Shape(Z) n = Concat<axis = 0>(s, o) t = Reshape(X, n) Y = Relu(t)", "X[6,4]; Z[N]", "Y[A,B]", {"o": [-1]}
    )
    claimed = claims(model)
    (length,) = claimed["Z"]
    assert length not in claimed["t"]
    model.graph.node[2].attribute.append(helper.make_attribute("allowzero", 1))
    assert length in claims(model)["t"]


RANKS = {  # what is made of a tensor of which nothing is known, and the rank that it must have
    "Transpose": ("Y = Transpose<perm = [0, 2, 1]>(x)", 3),
    "Conv": ("Y = Conv(x, W)", 3),
    "Relu, Conv": ("y = Relu(x) Y = Conv(y, W)", 3),
    "Einsum": ('Y = Einsum<equation = "nc,ck->nk">(x, V)', 2),
    "Unsqueeze": ("y = Unsqueeze(x, ones) Y = Transpose<perm = [0, 1, 2, 3]>(y)", 3),
    "Squeeze": ("y = Squeeze(x, ones) Y = Transpose<perm = [0, 1]>(y)", 3),
    "MatMul": ("y = MatMul(x, V) Y = Transpose<perm = [0, 2, 1]>(y)", 3),
    "Gather": ("y = Gather(x, zero) Y = Transpose<perm = [0, 1]>(y)", 3),
    "Concat": ("Y = Concat<axis = 0>(x, K)", 3),
    "Add": ("y = Add(x, b) Y = Transpose<perm = [0, 2, 1]>(y)", 3),
    "Pad": ("Y = Pad(x, pads)", 3),
    "Tile": ("Y = Tile(x, thrice)", 3),
    "ReduceMean": ("y = ReduceMean<axes = [1], keepdims = 0>(x) Y = Transpose<perm = [0, 1]>(y)", 3),
    "Gemm": ("Y = Gemm(x, V)", 2),
    "Split": ("y, z = Split<axis = 0>(x) w = Relu(z) Y = Conv(w, W)", 3),
    "Slice": ("y = Slice(x, zeros, ones) w = Identity(y) Y = Conv(w, W)", 3),
}
STORED = {
    "W": (4, 4, 1), "V": (4, 4), "K": (1, 4, 4), "b": (4,), "ones": [1], "zeros": [0], "zero": 0,
    "pads": [0, 0, 0, 0, 0, 0], "thrice": [1, 1, 1],
}  # fmt: skip


@pytest.mark.parametrize("operator", RANKS)
def test_the_rank_of_what_an_operator_reads_follows(operator: str) -> None:
    body, rank = RANKS[operator]
    model = build(f"x = my.unknown(X) {body}", "X[N,4]", "Y[A]", STORED)
    model.opset_import.add(domain="my", version=1)
    model.graph.output[0].type.tensor_type.ClearField("shape")
    model.graph.node[0].domain, model.graph.node[0].op_type = "my", "unknown"
    assert len(claims(model)["x"]) == rank


@pytest.mark.parametrize("body", ["n = Shape(X) Y = Reshape(x, n)", "Y = Reshape(x, thrice)", "Y = Flatten(x)"])
def test_the_rank_of_what_a_reshape_makes_is_how_many_lengths_it_reads(body: str) -> None:
    model = build(f"x = my.unknown(X) {body}", "X[N,4]", "Y[A]", STORED)
    model.opset_import.add(domain="my", version=1)
    model.graph.output[0].type.tensor_type.ClearField("shape")
    said = claims(model)
    assert "x" not in said
    assert len(said["Y"]) == (3 if "thrice" in body else 2)


def test_a_node_that_reads_a_tensor_twice_is_looked_at_once() -> None:
    model = build("x = my.unknown(X) y = Add(x, x) Y = Conv(x, W)", "X[N,4]", "Y[A]", STORED)
    model.opset_import.add(domain="my", version=1)
    model.graph.output[0].type.tensor_type.ClearField("shape")
    model.graph.node[0].domain, model.graph.node[0].op_type = "my", "unknown"
    assert len(claims(model)["y"]) == len(claims(model)["Y"]) == 3


INSIDE = "m = MatMul(r, W) t = Transpose<perm = [0, 2, 1]>(m) b = BatchNormalization(t, g, g, g, v) y = Relu(b)"
NUMBERS = "float[4,2] W = {1,2,3,4,5,6,7,8}, float[2] g = {2,3}, float[2] v = {2,3}"


def test_ranks_follow_in_bodies_and_functions_as_well() -> None:
    head = '<ir_version: 8, opset_import: ["": 18, "f": 1]> m (float[N,L,4] X, bool c, int64[K] s) => (float[A,B,D] Y)'
    branches = f"then_branch = g1 () => (y) {{ {INSIDE} }}, else_branch = g2 () => (z) {{ z = Identity(X) }}"
    body = onnx.parser.parse_model(f"{head} <{NUMBERS}> {{ r = Reshape(X, s) Y = If(c) <{branches}> }}")
    stored = " ".join(
        f"{n.split()[1]} = Constant<value = {n.replace(n.split()[1], '', 1)}>()" for n in NUMBERS.split(", ")
    )
    call = '{ r = Reshape(X, s) Y = f.block(r) } <domain: "f", opset_import: ["": 18]> block (r) => (y)'
    function = onnx.parser.parse_model(f"{head} {call} {{ {stored} {INSIDE} }}")
    for model in (body, function):
        assert not driver.fold(model).batch_norms_kept


def test_what_a_file_says_of_an_operator_that_nobody_knows_is_not_believed() -> None:
    model = build("y = my.unknown(X) Y = Relu(y)", "X[N,4]", "Y[N,4]", {})
    model.opset_import.add(domain="my", version=1)
    model.graph.node[0].domain, model.graph.node[0].op_type = "my", "unknown"
    model.graph.value_info.append(helper.make_tensor_value_info("y", onnx.TensorProto.DOUBLE, ["N", 4]))
    said = claims(model)
    assert said["X"][0] not in (*said["y"], *said["Y"])


@pytest.mark.parametrize("first", ["N", 3])
def test_numbers_that_are_squared_over_and_over_are_not_followed_for_ever(first: str | int) -> None:
    squares = " ".join(f"n{i + 1} = Mul(n{i}, n{i})" for i in range(60))
    body = f"s = Shape(X) n0 = Gather(s, zeros) {squares} t = Reshape(X, n60) z = Shape(Z) q = Mul(n60, z) Y = Reshape(t, q)"
    claimed = claims(build(body, f"X[{first},4]; Z[M]", "Y[A]", STORED))
    assert len(claimed["Y"]) == 1


def test_sums_that_are_doubled_over_and_over_neither() -> None:
    doubles = " ".join(f"x{i + 1} = Concat<axis = 0>(x{i}, x{i})" for i in range(100))
    claimed = claims(build(f"{doubles} Y = Relu(x100)", "x0[N,4]", "Y[A,4]", {}))
    assert claimed["x3"][0] == Product(8, ("N",))
    assert claimed["Y"][0] not in (None, 8)
