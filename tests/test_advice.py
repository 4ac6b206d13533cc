"""What can be done about a kept node: said by the command line, and by docs/reasons.md in the same words."""

from __future__ import annotations

import ast
import re
from pathlib import Path
from xml.etree import ElementTree

import onnx
import pytest

from bnfold.folding.advice import ADVICE, FINAL, MEANING, advice_of
from bnfold.folding.driver import explain, fold
from bnfold.folding.reasons import Kept, Reason
from bnfold.folding.summary import FEW, general, in_blocks, kept_table
from bnfold_cli.main import run
from tests.build import BN, bn, build
from tests.shape_of_the_code import ROOT, files

ROW = re.compile(r"^\| `([A-Z_]+)` \| (.*) \| (.*) \|$", re.MULTILINE)
CODE = re.compile(r"[A-Z_]{4,}")
PAGE = (ROOT / "docs/reasons.md").read_text()


def codes() -> set[str]:
    """Every code that a rule or plan refuses with."""
    calls = (node for path in files() for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.Call))
    named = ((getattr(call.func, "id", ""), call.args) for call in calls)
    given = (args[1:2] if name == "require" else args[:1] for name, args in named if name in ("require", "Refused"))
    return {arg.value for args in given for arg in args if isinstance(arg, ast.Constant) and CODE.fullmatch(arg.value)}


def test_the_page_says_the_same():
    assert {code: (meaning, advice) for code, meaning, advice in ROW.findall(PAGE)} == {
        code: (MEANING[code], ADVICE[code]) for code in MEANING
    }
    assert MEANING.keys() == ADVICE.keys()


def test_every_code_has_a_row():
    assert codes() == MEANING.keys()


def dense(layers: int) -> onnx.ModelProto:
    """BatchNormalization before Relu over what later layers read, too, as in DenseNet: all are kept for one reason."""
    body, joined = "c0 = Conv(X, W)", "c0"
    weights = {"W": (3, 3, 1, 1), **bn("p", 3)}
    for i in range(layers):
        body += f" b{i} = {BN(f'c{i}', 'p')} r{i} = Relu(b{i}) c{i + 1} = Conv(r{i}, W)"
        joined += f", c{i + 1}"
    model = build(f"{body} Y = Concat<axis=1>({joined})", "X[N,3,6,6]", f"Y[N,{3 * layers + 3},6,6]", weights)
    for node in model.graph.node:
        if node.op_type == "BatchNormalization":
            node.name = f"net.block{int(node.output[0][1:]) // 4}.layer{node.output[0][1:]}.norm"
    return model


def saved(path: Path, model: onnx.ModelProto) -> str:
    onnx.save(model, path)
    return str(path)


def test_many_nodes_with_one_reason_share_a_row(tmp_path, capfd, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    path = saved(tmp_path / "m.onnx", dense(40))
    assert run(["explain", path]) == 0
    out, err = capfd.readouterr()
    assert len([*out.splitlines(), *err.splitlines()]) <= 8
    assert "40: net.block0 (4)" not in out
    assert "NONLINEAR: Relu is not linear: a scale may cross it, but no shift" in out
    assert "SHARED: several nodes read the tensor (BatchNormalization, Concat)" in out
    assert run(["explain", path, "-v"]) == 0
    assert sum("net.block" in line for line in capfd.readouterr().out.splitlines()) == 40


def test_few_nodes_are_listed_as_they_are():
    few, many = (kept_table(explain(dense(n)).kept).rows for n in (FEW, FEW + 1))
    assert [row[0] for row in few] == [f"net.block{i // 4}.layer{i}.norm" for i in range(FEW)]
    assert [row[0] for row in many] == ["7 in net: block0 (4), block1 (3)"]


@pytest.mark.parametrize(
    ("names", "words"),
    [
        (["a/b/x", "a/b/y", "a/c/z"], "3 in a: b (2), c"),
        ([f"Conv_{i}" for i in range(20)], "20: Conv_0, Conv_1, Conv_2 and 17 more"),
        ([f"f.block{i % 2}.l{i}" for i in range(20)], "20 in f: block0 (10), block1 (10)"),
        (["same", "same"], "2: same, same"),
        ([f"a.l{i}" for i in range(9)], "9 in a: l0, l1, l2 and 6 more"),
    ],
)
def test_nodes_are_named_by_their_blocks(names, words):
    assert in_blocks([(name,) for name in names]) == words


@pytest.mark.parametrize(
    ("words", "of_any"),
    [
        ("'x' is read by Concat 'a', Concat 'b', Concat 'c' and 9 more", "several nodes read the tensor"),
        ("Relu 'r' is not linear", "Relu is not linear"),
        ("Relu -> 'r' is not linear", "Relu is not linear"),
        ("'s', an input of MatMul 'm', is not a stored constant", "a tensor, an input of MatMul, is not a stored constant"),
        ("MaxPool 'm' goes by sign or order, and a scale is negative (-1.4)", "MaxPool goes by sign or order, and a scale is negative"),
    ],
)  # fmt: skip
def test_what_is_said_of_any_node_has_no_names(words, of_any):
    assert general(words) == of_any


def kept(one: str, other: str) -> Kept:
    return Kept("n", "BatchNormalization", "y", Reason(one, "a"), Reason(other, "b"))


def test_advice_is_what_helps_in_either_direction_or_final():
    assert advice_of(kept("SHARED", "NO_BIAS")) == "final"
    assert advice_of(kept("NEGATIVE_SCALE", "REPEATS")) == ADVICE["REPEATS"]
    assert advice_of(kept("NONLINEAR", "PADDING")) == ADVICE["NONLINEAR"]
    assert FINAL.endswith("final")


def test_a_row_says_what_can_be_done(tmp_path, capfd):
    model = build(f"d = Relu(X) Y = {BN('d', 'p')}", "X[N,3,6,6]", "Y[N,3,6,6]", bn("p", 3))
    path = saved(tmp_path / "m.onnx", model)
    for command in (["explain", path], ["fold", path, "--dry-run"]):
        assert run(command) == 0
        assert f"{ADVICE['NONLINEAR']}; {ADVICE['GRAPH_OUTPUT']}" in capfd.readouterr().out


def test_explain_says_more_about_a_code(capfd):
    for code in MEANING:
        assert run(["explain", "--code", code.lower()]) == 0
        out = capfd.readouterr().out
        assert out.startswith(f"{code}\n")
        assert MEANING[code] in out
        assert ADVICE[code] in out


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--code", "NOTHING"], "NOTHING is not the code of a reason"),
        (["m.onnx", "--code", "SHARED"], "--code needs no model"),
        ([], "missing argument 'IN.onnx'"),
    ],
)
def test_what_is_no_code_or_no_model_is_an_error(options, words, capfd):
    assert run(["explain", *options]) == 2
    assert capfd.readouterr().err.startswith(f"error: {words}\nhint: ")


def test_a_silu_is_not_linear():
    """Its Mul has no bias, but would not be helped by one."""
    model = build(
        f"c = Conv(X, W) s = Sigmoid(c) m = Mul(c, s) b = {BN('m', 'p')} Y = Relu(b)",
        *("X[N,3,6,6]", "Y[N,3,6,6]", {"W": (3, 3, 1, 1), **bn("p", 3)}),
    )
    assert fold(model).kept[0].not_hoisted.code == "NONLINEAR"


def test_junit_has_a_case_for_each_kept_node_with_a_short_message(tmp_path):
    path = saved(tmp_path / "m.onnx", dense(9))
    assert run(["fold", path, "--strict", "--verify", "off", "--junit", str(tmp_path / "r.xml")]) == 1
    cases = [
        case for case in ElementTree.parse(tmp_path / "r.xml").iter("testcase") if case.find("failure") is not None
    ]
    assert [case.get("name") for case in cases] == [f"kept: net.block{i // 4}.layer{i}.norm" for i in range(9)]
    messages = [case.find("failure").get("message") for case in cases]
    assert all(message.startswith("SHARED: 'c") and len(message) <= 200 for message in messages)
