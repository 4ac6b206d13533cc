"""Verification: what is the same in both models by induction, and faults that a careless proof would let pass."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import onnx
import onnx.parser
import pytest
from onnx import helper, numpy_helper

from bnfold.folding import driver
from bnfold.verification.proof import algebra, induction
from bnfold.verification.proof.algebra import Pair
from bnfold.verification.proof.examples import examples
from bnfold.verification.proof.induction import Induction
from bnfold.verification.regions import edited
from tests.verify_nets import NETS, Net


def proof(original: onnx.ModelProto, folded: onnx.ModelProto, *assumed: str) -> Induction:
    x = original.graph.input[0].type.tensor_type
    values = {
        v.name: np.zeros(
            [d.dim_value or 2 for d in v.type.tensor_type.shape.dim], helper.tensor_dtype_to_np_dtype(x.elem_type)
        )
        for v in original.graph.input
    }
    pair = Pair(original, folded, examples(original, values))
    return Induction(pair, edited(original, folded), assumed.__contains__).run()


def model(
    lines: str, outputs: str = "float[N,A,B] y", inputs: str = "float[N,4,6] x", **weights: tuple[int, ...]
) -> onnx.ModelProto:
    made = onnx.parser.parse_model(
        f'<ir_version: 8, opset_import: ["" : 17]> g ({inputs}) => ({outputs}) {{ {lines} }}'
    )
    rng = np.random.default_rng(5)
    stored = {name: rng.uniform(0.5, 1.5, shape).astype(np.float32) for name, shape in sorted(weights.items())}
    made.graph.initializer.extend(numpy_helper.from_array(value, name) for name, value in stored.items())
    return made


def changed(source: onnx.ModelProto, name: str, change: Callable[[np.ndarray], np.ndarray]) -> onnx.ModelProto:
    copy = onnx.ModelProto()
    copy.CopyFrom(source)
    tensor = next(t for t in copy.graph.initializer if t.name == name)
    tensor.CopyFrom(numpy_helper.from_array(change(numpy_helper.to_array(tensor)).astype(np.float32), name))
    return copy


BN = {"g": (5,), "b": (5,), "m": (5,), "v": (5,)}
SECOND = {"h": (3,), "c": (3,), "p": (3,), "q": (3,)}
TWO = (
    "f = Conv (x, w)  n = BatchNormalization (f, g, b, m, v)  r = Relu (n)"
    "  e = Conv (r, u)  k = BatchNormalization (e, h, c, p, q)  y = Relu (k)"
)
CHAIN = model(TWO, w=(5, 4, 3), u=(3, 5, 2), **BN, **SECOND)


@pytest.mark.parametrize("net", NETS.values(), ids=list(NETS))
def test_a_faultless_fold_is_proved(net: Net) -> None:
    made = net.weights(0)
    known = proof(net.original(made), net.folded(net.fold(made)))
    assert not known.open_tensors()
    assert [site.name for site in known.derived if site.proved] == ["n"]


def test_after_a_fault_nothing_counts_as_the_same() -> None:
    folded = driver.fold(CHAIN).model
    assert not proof(CHAIN, folded).open_tensors()
    wrong = changed(folded, folded.graph.node[0].input[1], lambda w: w * (1 + 1e-3))
    known = proof(CHAIN, wrong)
    assert {"n", "r", "k", "y"} <= known.open_tensors()
    assert not {"n", "r", "k", "y"} & known.same.keys()
    assert not known.derived[0].ok


def test_a_site_that_is_assumed_is_named_and_what_follows_is_derived() -> None:
    original = model(
        "f = Sin (x)  n = Mul (f, s)  r = Conv (n, w)  y = BatchNormalization (r, g, b, m, v)",
        s=(4, 1),
        w=(5, 4, 3),
        **BN,
    )
    folded = driver.fold(original).model
    wrong = model("n = Cos (x)  y = Conv (n, w, b)", w=(5, 4, 3), b=(5,))
    assert "y" in proof(original, wrong).open_tensors()
    assert proof(original, folded).assumed == []
    other = onnx.ModelProto()
    other.CopyFrom(original)
    other.graph.node[0].op_type = "Cos"
    known = proof(original, other, "f")
    assert known.assumed == ["f"]
    assert not known.open_tensors()
    assert "y" in proof(original, other).open_tensors()


def test_a_site_that_is_only_assumed_undoes_no_scale() -> None:
    """A channel that is 0.1 % off is related to what it should be; what follows may blur that, and agree."""
    lines = "n = Conv (x, w)  s = Sin (n)  z = Mul (s, k)  y = Abs (z)"
    original = model(lines, w=(5, 4, 3), k=())
    wrong = changed(changed(original, "w", lambda w: w * np.float32(1.001)), "k", lambda k: k * np.float32(1 + 1e-6))
    known = proof(original, wrong, "z")
    assert known.assumed == ["z"]
    assert "n" in known.related
    assert not known.open_tensors()
    assert induction._is_wrong(known, known.derived[0], known.open_tensors())


def test_a_response_that_is_only_drawn_proves_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    original = model("n = Conv (x, w)  y = Sum (n, n)", w=(5, 4, 3))
    folded = changed(model("y = Conv (x, w)", w=(5, 4, 3)), "w", lambda w: 2 * w)
    assert not proof(original, folded).open_tensors()
    monkeypatch.setitem(algebra.RESPONSES, "fast", 1)
    assert "y" in proof(original, folded).open_tensors()


def test_a_shape_that_is_computed_of_another_one_is_known() -> None:
    """As exporters write x.view(x.size(0), -1) and mean(dim): onnx's inference does not follow a Reshape of numbers."""
    lines = (
        "c = Conv (x, w)  s = Shape <start=0, end=1> (c)  i = Squeeze (s)  r = Reshape (i, one)  d = Concat <axis=0> (r, rest)"
        "  q = Sin (c)  f = Reshape (q, d)  n = MatMul (f, u)  k = Mul (n, h)  y = Cos (k)"
    )
    original = model(lines, "float[N,3] y", w=(5, 4, 3), u=(20, 3), h=(3,))
    numbers = {"one": np.array([-1]), "rest": np.array([-1])}
    original.graph.initializer.extend(numpy_helper.from_array(value, name) for name, value in numbers.items())
    folded = driver.fold(original).model
    assert "Mul" not in [node.op_type for node in folded.graph.node]
    known = proof(original, folded)
    assert known.pair.examples["f"].shape == (2, 20)
    assert not known.open_tensors()


def test_the_sizes_of_data_are_known_for_a_size_and_the_next_one_may_differ() -> None:
    """A shape that is looked up to reshape back says nothing; a factor that is the number of elements is no constant."""
    lines = "c = Conv (x, w)  s = Shape (c)  f = Flatten (c)  n = Mul (f, k)  y = Reshape (n, s)"
    original = model(lines, w=(5, 4, 3), k=())
    moved = "c = Conv (x, w)  s = Shape (c)  n = Flatten (c)  y = Reshape (n, s)"
    scaled = model(moved, w=(5, 4, 3))
    factor = numpy_helper.to_array(original.graph.initializer[0])
    folded = changed(scaled, "w", lambda _: factor * numpy_helper.to_array(original.graph.initializer[1]))
    assert not proof(original, folded).open_tensors()
    elements = model("s = Size (x)  f = Cast <to=1> (s)  n = Mul (x, f)  y = Relu (n)", "float[N,4,6] y")
    constant = model("n = Mul (x, k)  y = Relu (n)", "float[N,4,6] y", k=())
    constant = changed(constant, "k", lambda _: np.float32(2 * 4 * 6))
    assert "y" in proof(elements, constant).open_tensors()


def test_a_site_that_is_left_out_of_the_list_is_found_by_what_it_reads() -> None:
    """The list of edits is not trusted: a node that reads a changed constant through another node counts as changed."""
    original = model("t = Transpose <perm = [1, 0]> (w)  n = MatMul (x, t)  y = Relu (n)", w=(5, 6))
    wrong = changed(original, "w", lambda w: w * 1.01)
    known = Induction(Pair(original, wrong, {"x": np.zeros((2, 4, 6), np.float32)}), {"t"}, lambda _: False).run()
    assert {"n", "y"} <= known.open_tensors()
    assert {"n", "y"} <= proof(original, wrong).open_tensors()


BODY = """
   i = Identity (c)
   y = If (i) <
     then_branch = a () => (float[N,4,6] o) { o = Mul (x, w) },
     else_branch = d () => (float[N,4,6] z) { z = Relu (x) }
   >
"""


def test_a_constant_that_only_a_body_reads_counts() -> None:
    original = model(BODY, inputs="float[N,4,6] x, bool c", w=(4, 1))
    assert not proof(original, original).open_tensors()
    assert "y" in proof(original, changed(original, "w", lambda w: w + 1)).open_tensors()


def test_a_stored_tensor_that_is_returned_counts() -> None:
    original = model("y = Relu (x)", outputs="float[N,4,6] y, float[3] w", w=(3,))
    assert "w" in proof(original, changed(original, "w", lambda w: w + 1)).open_tensors()


FRAMES: dict[str, Callable[[onnx.ModelProto], object]] = {
    "operator set": lambda m: setattr(m.opset_import[0], "version", 12),
    "default of an input": lambda m: m.graph.input.append(helper.make_tensor_value_info("w", 1, [5, 4, 3])),
    "function": lambda m: m.functions.append(
        helper.make_function("local", "f", ["x"], ["y"], [helper.make_node("Neg", ["x"], ["y"])], m.opset_import)
    ),
}


@pytest.mark.parametrize("frame", FRAMES)
def test_equal_nodes_mean_nothing_where_the_frame_differs(frame: str) -> None:
    original = model("n = Conv (x, w)  y = Relu (n)", w=(5, 4, 3))
    other = (
        changed(original, "w", lambda w: w * 2) if frame == "default of an input" else changed(original, "w", np.copy)
    )
    FRAMES[frame](other)
    assert "y" in proof(original, other).open_tensors()


@pytest.mark.parametrize(("version", "is_same"), [(18, True), (21, True), (22, False), (13, False)])
def test_operator_sets_with_the_same_versions_of_all_operators_are_as_good_as_one(version: int, is_same: bool) -> None:
    """Relu is one operator from version 14 on, Conv another one from version 22 on."""
    original = model("n = Conv (x, w)  y = Relu (n)", w=(5, 4, 3))
    other = changed(original, "w", np.copy)
    other.opset_import[0].version = version
    assert ("y" not in proof(original, other).open_tensors()) == is_same


def test_tensors_are_matched_by_what_computes_them_not_by_name() -> None:
    """A fold gives the Relu the name of what the affine after it made: that is not the same tensor."""
    original = model("r = Relu (x)  a = Mul (r, s)  y = Conv (a, w)", s=(4, 1), w=(5, 4, 3))
    folded = model("a = Relu (x)  y = Conv (a, w)", w=(5, 4, 3))
    scale = numpy_helper.to_array(next(t for t in original.graph.initializer if t.name == "s"))
    weight = numpy_helper.to_array(next(t for t in original.graph.initializer if t.name == "w"))
    right = changed(folded, "w", lambda _: weight * scale.reshape(1, 4, 1))
    known = proof(original, right)
    assert known.same["a"] == "r"
    assert not known.open_tensors()
    swapped = model("r = Neg (x)  a = Relu (x)  y = Conv (r, w)", w=(5, 4, 3))
    assert "y" in proof(original, changed(swapped, "w", lambda _: weight * scale.reshape(1, 4, 1))).open_tensors()


def test_products_of_two_tensors_are_proved_by_the_operand_that_differs() -> None:
    lines = (
        "q = MatMul (x, w)  k = MatMul (x, u)  t = Transpose <perm = [0, 2, 1]> (k)  d = MatMul (q, t)  y = Mul (d, s)"
    )
    original = model(lines, w=(6, 5), u=(6, 5), s=())
    number = float(numpy_helper.to_array(next(t for t in original.graph.initializer if t.name == "s")))
    folded = model(lines.replace("d = MatMul", "y = MatMul").replace("  y = Mul (d, s)", ""), w=(6, 5), u=(6, 5))
    weight = numpy_helper.to_array(next(t for t in original.graph.initializer if t.name == "u"))
    same = changed(
        folded, "w", lambda _: numpy_helper.to_array(next(t for t in original.graph.initializer if t.name == "w"))
    )
    assert not proof(original, changed(same, "u", lambda _: weight * number)).open_tensors()
    assert "y" in proof(original, changed(same, "u", lambda _: weight * number * 1.001)).open_tensors()
    assert "y" in proof(original, changed(same, "u", lambda _: np.roll(weight * number, 1, axis=1))).open_tensors()


def test_an_operand_whose_shape_nobody_knows_stays_open() -> None:
    original = model("f = Conv (x, w)  n = BatchNormalization (f, g, b, m, v)  y = Sin (n)", w=(5, 4, 3), **BN)
    folded = driver.fold(original).model
    folded.graph.node[0].output[0] = folded.graph.node[1].input[0] = "another name"
    known = {
        name: value for name, value in examples(original, {"x": np.zeros((2, 4, 6), np.float32)}).items() if name != "n"
    }
    found = Induction(Pair(original, folded, known), edited(original, folded), lambda _: False).run()
    assert "y" in found.open_tensors()
    assert found.derived[-1].why
