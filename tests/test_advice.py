"""What can be done about a kept node: said by the command line, and by README.md in the same words."""

from __future__ import annotations

import ast
import re

import onnx

from bnfold.folding.advice import ADVICE
from bnfold_cli.main import run
from tests.build import BN, bn, build
from tests.shape_of_the_code import ROOT, files

ROW = re.compile(r"^\| ((?:`[A-Z_]+`(?:, )?)+) \| .* \| ?(.*?) ?\|$", re.MULTILINE)
CODE = re.compile(r"[A-Z_]{4,}")
README = (ROOT / "README.md").read_text()


def table() -> dict[str, str]:
    """The last column of the table in README.md, by code."""
    return {code: words for codes, words in ROW.findall(README) for code in re.findall(r"[A-Z_]+", codes)}


def codes() -> set[str]:
    """Every code that a rule or plan refuses with."""
    calls = (node for path in files() for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.Call))
    named = ((getattr(call.func, "id", ""), call.args) for call in calls)
    given = (args[1:2] if name == "require" else args[:1] for name, args in named if name in ("require", "Refused"))
    return {arg.value for args in given for arg in args if isinstance(arg, ast.Constant) and CODE.fullmatch(arg.value)}


def test_the_readme_gives_the_same_advice():
    assert {code: words for code, words in table().items() if words} == ADVICE


def test_the_readme_has_every_code():
    assert {code for code in codes() if f"`{code}`" not in README} == set()
    assert table().keys() <= codes()


def test_explain_says_what_can_be_done(tmp_path, capfd):
    model = build(f"d = Relu(X) Y = {BN('d', 'p')}", "X[N,3,6,6]", "Y[N,3,6,6]", bn("p", 3))
    onnx.save(model, tmp_path / "m.onnx")
    assert run(["explain", str(tmp_path / "m.onnx"), "-v"]) == 0
    said = capfd.readouterr().err.splitlines()
    assert said[1:3] == [f"{code}: {ADVICE[code]}" for code in ("NONLINEAR", "GRAPH_OUTPUT")]
    assert run(["fold", str(tmp_path / "m.onnx"), "--dry-run", "-v"]) == 0
    assert capfd.readouterr().err.splitlines()[:2] == said[1:3]
    assert run(["explain", str(tmp_path / "m.onnx")]) == 0
    assert capfd.readouterr().err.splitlines()[-1] == "-v adds the code of each reason, and what can be done about it"
