"""What goes into a body of If, Loop or Scan, out of it, or past it: names stay those of their graphs."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import onnx
import onnx_graphsurgeon as gs
import pytest
from onnx import helper, numpy_helper

import bnfold
from bnfold.algebra.affine import Affine, Refused
from bnfold.folding.driver import fold
from bnfold.folding.pipeline import Options, fold_file
from bnfold.folding.rules.control import RETURN
from bnfold.model.messages import counts
from tests.build import BN, bn
from tests.nested import outcome, session
from tests.test_scopes import IF, every_operator, parsed, run

CHANNELS = {**bn("p", 4), "W": (4, 3, 1, 1), "V": (4, 3, 1, 1)}
OUT = "(double[2,4,5,5]"
NORM = BN("c", "p")


def branching(then: str, other: str, before: str = "", after: str = "", result: str = "Y") -> onnx.ModelProto:
    """An If over two bodies that return ty and ey."""
    bodies = f"then_branch = t () => {OUT} ty) {{ {then} }}, else_branch = e () => {OUT} ey) {{ {other} }}"
    return parsed(f"{IF} {{ {before} {result} = If (yes) <{bodies}> {after} }}", CHANNELS)


def checked(model: onnx.ModelProto) -> bnfold.FoldResult:
    """The fold, which computes the same whichever branch is taken, and is the same when it is folded again."""
    result = fold(model)
    run(model, result.model)
    assert fold(result.model).model == result.model
    return result


def names(model: onnx.ModelProto) -> list[str]:
    return [x for n in model.graph.node for x in n.output]


def test_what_a_body_returns_is_no_tensor_of_another_graph():
    model = branching(f"ty = {NORM}", "d = Conv(X, W) ey = Relu(d)", "c = Conv(X, V)")
    result = checked(model)
    assert every_operator(result.model.graph.node) == ["Conv", "If", "Identity", "Conv", "Relu"]
    assert names(result.model) == names(model)


def test_a_name_that_both_branches_use_stays_in_each():
    model = branching(f"t = {NORM} ty = Relu(t)", "t = Sigmoid(d) ey = Relu(t)", "c = Conv(X, V) d = Conv(X, W)")
    result = checked(model)
    assert len(result.batch_norms_folded) == 1
    assert names(result.model) == names(model)


def test_a_sum_over_two_graphs_becomes_one_convolution():
    model = branching("r = Conv(X, W) s = Add(r, c) ty = Relu(s)", "ey = Conv(X, W)", "c = Conv(X, V)")
    assert every_operator(checked(model).model.graph.node) == ["If", "Conv", "Relu", "Conv"]


def test_what_undoes_itself_over_two_graphs_goes():
    inside = f"n = {BN('f', 'p')} g = Transpose<perm=[0,1,3,2]>(n) ty = Relu(g)"
    model = branching(inside, "ey = Conv(X, W)", "c = Conv(X, V) f = Transpose<perm=[0,1,3,2]>(c)")
    assert every_operator(checked(model).model.graph.node) == ["Conv", "If", "Relu", "Conv"]


@pytest.mark.parametrize(
    ("then", "other"),
    [
        ("ty = Conv(X, W)", "ey = Conv(X, V)"),
        ("ty = Conv(X, W)", "ey = Conv(X, W)"),
        ("u = Conv(X, W) ty = Transpose<perm=[0,1,2,3]>(u)", "u = Conv(X, V) v = Conv(X, W) ey = Add(u, v)"),
        (
            "ty = Conv(X, W)",
            f"ey = If (yes) <then_branch = i () => {OUT} iy) {{ iy = Conv(X, V) }}, else_branch = j () => {OUT} jy) {{ jy = Conv(X, W) }}>",
        ),
    ],
)
def test_what_follows_an_if_goes_into_both_branches(then, other):
    model = branching(then, other, after=f"Y = {NORM}", result="c")
    result = checked(model)
    assert counts(result.model)[1] == 0
    assert any("If -> 'Y'" in folded.through or "If -> 'c'" in folded.through for folded in result.folded)


@pytest.mark.parametrize(
    ("other", "code", "words"),
    [
        ("u = Conv(X, V) ey = Relu(u)", "NONLINEAR", "Relu -> 'ey' is not linear: a scale may cross it, but no shift"),
        ("ey = Identity(d)", "GRAPH_OUTPUT", "'d' is an output of the graph"),
        ("ey = Conv(X, V) k = Relu(ey)", "SHARED", "'ey', which a body returns, is read in it"),
        ("ey = Constant<value = double[2,4,5,5] {0.0}>()", "", ""),
    ],
)
def test_into_one_branch_alone_nothing_goes(other, code, words):
    model = branching("ty = Conv(X, W)", other, "d = Conv(X, V)", f"Y = {NORM}", "c")
    if not code:
        zeros = numpy_helper.from_array(np.zeros((2, 4, 5, 5)))
        node = next(n for n in model.graph.node if n.op_type == "If").attribute[1].g.node[0]
        node.CopyFrom(helper.make_node("Constant", [], ["ey"], value=zeros))
        code, words = "CONSTANT", "'ey' is a constant, which nothing computes"
    model.graph.output.append(helper.make_tensor_value_info("d", onnx.TensorProto.DOUBLE, [2, 4, 5, 5]))
    result = fold(model)
    assert result.model == model
    assert (result.kept[-1].not_hoisted.code, result.kept[-1].not_hoisted.words) == (code, words)


STACKED = {**CHANNELS, "n": np.array(3), "on": np.array(True), "k": (1, 1, 4, 1, 1), "s": (3, 1, 1, 1, 1)}
LOOP = "m (double[2,3,5,5] X) => (double[2,3,5,5] Z, double[3,2,4,5,5] Y)"


def single(text: str) -> onnx.ModelProto:
    """In float32, which onnxruntime computes: onnx's reference does not stack what a Loop collects."""
    model = parsed(text.replace("double", "float"), STACKED)
    for tensor in model.graph.initializer:
        value = numpy_helper.to_array(tensor)
        kind = np.float32 if value.dtype == np.float64 else value.dtype
        tensor.CopyFrom(numpy_helper.from_array(value.astype(kind), tensor.name))
    return model


def looping(after: str, inside: str = "o = Conv(a, W)", before: str = "") -> onnx.ModelProto:
    """A Loop that hands `a` on, and collects `o`."""
    body = f"b (int64 i, bool go, double[2,3,5,5] a) => (bool on_, double[2,3,5,5] a_, {OUT[1:]} o) {{ on_ = Identity(go) a_ = Relu(a) {inside} }}"
    return single(f"{LOOP} {{ {before} Z, c = Loop (n, on, X) <body = {body}> Y = {after} }}")


def scanning(after: str) -> onnx.ModelProto:
    body = f"b (double[2,3,5,5] a) => {OUT} o) {{ o = Conv(a, W) }}"
    scan = f"c = Scan<body = {body}, num_scan_inputs = 1>(X)"
    return single(f"m (double[3,2,3,5,5] X) => (double[3,2,4,5,5] Y) {{ {scan} Y = {after} }}")


def same(model: onnx.ModelProto, folded: onnx.ModelProto) -> None:
    onnx.checker.check_model(folded, full_check=True)
    shape = [d.dim_value for d in model.graph.input[0].type.tensor_type.shape.dim]
    feeds = {"X": np.random.default_rng(0).standard_normal(shape).astype(np.float32)}
    for want, got in zip(session(model).run(None, feeds), session(folded).run(None, feeds), strict=True):
        np.testing.assert_allclose(got, want, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("make", [looping, scanning])
@pytest.mark.parametrize("after", ["Mul(c, k)", "Add(c, k)"])
def test_what_is_collected_is_folded_where_every_step_is_treated_alike(make, after):
    model = make(after)
    result = fold(model)
    same(model, result.model)
    assert len(result.folded) == 1


def test_what_is_collected_stays_where_steps_differ():
    (kept,) = fold(scanning("Mul(c, s)")).kept
    words = "it varies along axis 0, whose elements Scan -> 'c' mixes"
    assert (kept.not_hoisted.code, kept.not_hoisted.words) == ("VARIES", words)


def test_what_goes_round_a_loop_stays():
    model = looping("Identity(c)")
    model.graph.node.append(helper.make_node("Mul", ["Z", "v"], ["Q"]))
    model.graph.initializer.append(numpy_helper.from_array(np.full((1, 1, 1, 1), 2.0, np.float32), "v"))
    model.graph.value_info.add().CopyFrom(model.graph.output[0])
    model.graph.output[0].name = "Q"
    (kept,) = fold(model).kept
    words = "'Z' goes round Loop -> 'Z': each step reads what the one before made"
    assert (kept.not_hoisted.code, kept.not_hoisted.words) == ("SUBGRAPH", words)


@pytest.mark.parametrize("inside", [f"o = {BN('d', 'p')}", f"t = {BN('d', 'p')} o = Relu(t)"])
def test_a_body_executed_often_normalizes_what_is_around_it(inside):
    model = looping("Identity(c)", inside, "d = Conv(X, V)")
    result = fold(model)
    same(model, result.model)
    assert counts(result.model)[1] == 0


def shadowing(stored: bool) -> onnx.ModelProto:
    """A body stores `k`, a name that the main graph gives to another constant: an initializer, or one made later."""
    other = numpy_helper.from_array(np.array([7.0, 0.5, 0.25, 9.0]), "k")
    norm, convs = "t = BatchNormalization(c, k, k, k, k) ty = Relu(t)", "c = Conv(X, V) c2 = Conv(X, V)"
    model = branching(norm, "ey = Relu(c2)", convs, "Y = Mul(z, kk)", "z")
    body = next(n for n in model.graph.node if n.op_type == "If").attribute[0].g
    body.initializer.append(numpy_helper.from_array(np.array([1.0, 2.0, 3.0, 4.0]), "k"))
    if stored:
        model.graph.initializer.append(other)
    else:
        model.graph.node.insert(3, helper.make_node("Constant", [], ["k"], value=other))
    shape = numpy_helper.from_array(np.array([1, 4, 1, 1]), "shape")
    model.graph.initializer.append(shape)
    model.graph.node.insert(len(model.graph.node) - 1, helper.make_node("Reshape", ["k", "shape"], ["kk"]))
    return model


@pytest.mark.parametrize("stored", [True, False])
def test_a_name_means_what_its_graph_says(stored):
    """The body's `k` is 1, 2, 3, 4; what the main graph calls so is another constant."""
    model = shadowing(stored)
    result = fold(model)
    apart = onnx.ModelProto.FromString(model.SerializeToString())
    body = next(n for n in apart.graph.node if n.op_type == "If").attribute[0].g
    body.initializer[0].name = "own"
    body.node[0].input[1:] = ["own"] * 4
    run(apart, result.model)
    assert counts(result.model)[1] == 0


def test_an_input_stays_where_a_body_has_a_weight_of_its_name():
    model = branching(f"c = Conv(X, yes_) ty = {NORM}", "ey = Conv(X, W)")
    model.graph.input.append(helper.make_tensor_value_info("yes_", onnx.TensorProto.DOUBLE, [1]))
    body = model.graph.node[0].attribute[0].g
    weight = np.random.default_rng(3).standard_normal((4, 3, 1, 1))
    body.initializer.append(numpy_helper.from_array(weight, "yes_"))
    result = fold(model)
    assert counts(result.model)[1] == 0
    assert [i.name for i in result.model.graph.input] == ["X", "yes", "yes_"]
    assert result.model.graph.input == model.graph.input


def test_a_tensor_that_a_body_cannot_name_is_named_by_an_identity():
    """The body stores something else as `c`, and reads the normalized one: it cannot read `c` itself."""
    model = branching("s = Conv(b, U) ty = Max(s, c)", "ey = Conv(b, U)", "c = Relu(X)", "", "Y")
    model.graph.node.insert(1, helper.make_node("BatchNormalization", ["c", *(f"q{k}" for k in "gbmv")], ["b"]))
    rng = np.random.default_rng(4)
    for name, shape in {**{f"q{k}": 3 for k in "gbmv"}, "U": (4, 3, 1, 1)}.items():
        model.graph.initializer.append(numpy_helper.from_array(rng.uniform(0.5, 1, shape), name))
    body = next(n for n in model.graph.node if n.op_type == "If").attribute[0].g
    body.initializer.append(numpy_helper.from_array(rng.standard_normal((1, 4, 1, 1)), "c"))
    result = fold(model)
    assert every_operator(result.model.graph.node) == ["Relu", "Identity", "If", "Conv", "Max", "Conv"]
    assert result.model.graph.node[1].output == ["b"]


def test_a_body_in_a_function_is_given_constants_in_it():
    """What it shares is copied into the function: it cannot see what the main graph stores."""
    model = branching(f"c = Conv(X, W) ty = {NORM}", f"c = Conv(X, W) ey = {NORM}")
    stored = {t.name: t for t in model.graph.initializer}
    literals = [helper.make_node("Constant", [], [k], value=stored[k]) for k in (*bn("p", 4), "W")]
    opsets = list(model.opset_import)
    inner = helper.make_function("my", "F", ["X", "yes"], ["Y"], [*literals, *model.graph.node], opsets)
    del model.graph.node[:], model.graph.initializer[:]
    model.graph.node.append(helper.make_node("F", ["X", "yes"], ["Y"], domain="my"))
    model.functions.append(inner)
    result = fold(model)
    assert counts(result.model)[1] == 0
    assert not result.model.graph.initializer
    run(model, result.model)


def kept_inside(function: bool) -> onnx.ModelProto:
    model = branching(f"c = Sigmoid(d) ty = {NORM}", "ey = Relu(d)", "d = Conv(X, W)")
    if function:
        nodes = [helper.make_node("Sigmoid", ["c"], ["s"]), helper.make_node("Relu", ["b"], ["y"])]
        stored = {t.name: t for t in model.graph.initializer}
        literals = [helper.make_node("Constant", [], [k], value=stored[k]) for k in bn("p", 4)]
        nodes.insert(1, helper.make_node("BatchNormalization", ["s", *bn("p", 4)], ["b"]))
        model.functions.append(helper.make_function("my", "F", ["c"], ["y"], [*literals, *nodes], model.opset_import))
        del model.graph.node[1:]
        model.graph.node.append(helper.make_node("F", ["d"], ["Y"], domain="my"))
    return model


@pytest.mark.parametrize("function", [False, True])
def test_a_normalization_that_stays_inside_is_counted(tmp_path: Path, function: bool):
    path = tmp_path / "m.onnx"
    onnx.save(kept_inside(function), path)
    report = fold_file(path, options=Options(verify="off"))
    assert len(report.result.batch_norms_kept) == 1
    found = report.to_json()
    assert [found[when]["batch_normalizations"] for when in ("before", "after")] == [1, 1]
    strict = {check.name: check.outcome for check in report.checks(strict=True)}
    assert [outcome for name, outcome in strict.items() if name.startswith("kept: ")] == ["failure"]
    verified = bnfold.verify(path, report.target)
    assert verified.structure.original["batch_normalization"] == 1


def test_what_bodies_call_by_one_name_stays_distinct(tmp_path: Path):
    """One branch loses its normalization, the other keeps one with parameters of the same names."""
    model = branching(f"c = Conv(X, W) ty = {NORM}", f"u = Conv(X, W) c = Relu(u) ey = {NORM}")
    stored = {t.name: t for t in model.graph.initializer}
    for attribute in model.graph.node[0].attribute:
        attribute.g.initializer.extend(stored[k] for k in bn("p", 4))
    kept = [stored["W"]]
    del model.graph.initializer[:]
    model.graph.initializer.extend(kept)
    result = fold(model)
    assert [len(a.g.initializer) for a in result.model.graph.node[0].attribute] == [0, 4]
    from bnfold.verification.untouched import Messages

    assert list(Messages(model, result.model).undeclared(result.sites)) == []
    del result.model.graph.node[0].attribute[1].g.initializer[:]
    assert list(Messages(model, result.model).undeclared(result.sites)) == [
        ("initializer", f"initializer '{k}' is gone") for k in sorted(bn("p", 4))
    ]


def test_random_models_of_nested_bodies():
    """If, Loop, Scan and functions in each other; some of these onnxruntime itself does not take."""
    found = [outcome(seed) for seed in range(120)]
    words = {word for word, *_ in found if not word.startswith("not valid")}
    assert words == {"right"}
    assert sum(folded for *_, folded in found) > 300


def control(operator: str, rank: int, opset: int = 21, **attributes) -> gs.Node:
    """A node with one output of some rank, whose bodies return tensors of rank 4."""
    body = gs.Graph(outputs=[gs.Variable("o", np.float32, (1, 4, 3, 3))] * 2)
    bodies = {name: body for name in ("then_branch", "else_branch", "body")}
    out = gs.Variable("c", np.float32, (1,) * rank)
    node = gs.Node(operator, "n", {**bodies, **attributes}, [gs.Variable("x")] * 2, [out])
    node.opset = opset
    return node


@pytest.mark.parametrize(
    ("node", "code", "words"),
    [
        (control("If", 5), "MALFORMED", "'o', which If 'n' returns, has another shape outside"),
        (control("If", 4, else_branch=1), "MALFORMED", "If 'n' has no else_branch"),
        (control("Scan", 5, opset=8), "OLD_OPSET", "Scan 'n' is of opset 8, where a Scan has batches"),
        (control("Scan", 5), "SUBGRAPH", "'c' goes round Scan 'n': each step reads what the one before made"),
    ],
)
def test_nodes_that_are_not_what_they_should_be_are_refused(node, code, words):
    affine = Affine.of(np.full((1,) * len(node.outputs[0].shape), 2.0))
    with pytest.raises(Refused, match=re.escape(words)) as refused:
        RETURN[node.op](node, 0, affine)
    assert refused.value.code == code


def test_a_scan_has_no_batches_from_opset_9_on():
    affine = Affine.of(np.full((1,) * 5, 2.0))
    ((tensor, share),) = RETURN["Scan"](control("Scan", 5, opset=9, num_scan_inputs=2), 0, affine)
    assert (tensor.name, share.extent) == ("o", (1, 1, 1, 1))


@pytest.mark.parametrize(("shape", "fits"), [((1, 4, 3, 3), True), ((1, "C", 3, 3), True), ((1, 5, 3, 3), False)])
def test_what_a_body_returns_has_the_lengths_of_the_affine(shape, fits):
    affine = Affine.of(np.arange(1.0, 5).reshape(1, 4, 1, 1))
    node = control("If", 4)
    for body in node.attrs.values():
        body.outputs = [gs.Variable("o", np.float32, shape)]
    if fits:
        assert [share.extent for _, share in RETURN["If"](node, 0, affine)] == [affine.extent] * 2
    else:
        with pytest.raises(Refused, match="'o', which If 'n' returns, has another shape outside"):
            RETURN["If"](node, 0, affine)


def test_what_a_loop_begins_with_stays():
    model = looping("Identity(c)", before="b = Neg(X)")
    next(n for n in model.graph.node if n.op_type == "Loop").input[2] = "b"
    (kept,) = fold(model).kept
    assert (kept.not_sunk.code, kept.not_sunk.words) == ("NO_RULE", "it cannot move on through Loop -> 'Z'")
