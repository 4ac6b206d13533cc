"""Every command that bnfold prints for a person to run is run; every option that it names is one."""

from __future__ import annotations

import ast
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import onnx
import pytest
import typer

from bnfold_cli.main import COMMANDS, parser, run
from tests.shape_of_the_code import files
from tests.test_cli import conv_bn, here  # noqa: F401
from tests.test_fleet import stuck_bn
from tests.words import written

QUOTED = re.compile(r"`([^`]+)`")
BARE = re.compile(rf"\b(bnfold (?:{'|'.join(COMMANDS)}) .+)")
OPTION = re.compile(r"(?<![\w-])--[a-z][a-z-]+")
FOREIGN = {
    "--nproc-per-node",
    "--no-deps",
    "--force-reinstall",
    "--upgrade",
    "--gpus",
    "--help",
}  # of torchrun, pip, docker, all commands


def texts() -> Iterator[str]:
    """Every text in the code but docstrings, with {...} for what is filled in."""
    for path in files():
        tree = ast.parse(path.read_text(encoding="utf-8"))
        documented = (ast.Module, ast.ClassDef, ast.FunctionDef)
        not_said = {id(n.body[0]) for n in ast.walk(tree) if isinstance(n, documented) and ast.get_docstring(n)}
        parts = {id(part) for n in ast.walk(tree) if isinstance(n, ast.JoinedStr) for part in n.values}
        parts |= {id(n.value) for n in ast.walk(tree) if isinstance(n, ast.Expr) and id(n) in not_said}
        for node in ast.walk(tree):
            if isinstance(node, ast.Constant | ast.JoinedStr) and id(node) not in parts:
                yield written(node, {}) if isinstance(getattr(node, "value", ""), str) else ""


def commands() -> set[str]:
    """What stands in texts as a command of bnfold: in backticks, or after `next: `, or alone."""
    quoted = {words for text in texts() for words in QUOTED.findall(text)}
    bare = {match[1] for text in texts() if "`" not in text and (match := BARE.search(text))}
    return {each for each in quoted | bare if re.match(r"(bnfold|torchrun) ", each)}


MENTIONS = {each for each in commands() if len(each.split()) == 2}
ARGUED = {  # with arguments: what stands for each that is filled in
    "bnfold bench A B --json bench.json --raw FILE": (),
    "bnfold bench A B --json bench.json --raw runs.jsonl": (),
    "bnfold bench {a} {b} --json bench.json && bnfold report {a} {b} --bench bench.json --force": (),
    "bnfold report {a} {b} --verify fast --force": (),
    "bnfold report {a} {b} --verify full --force": (),
    "bnfold report A B": (),
    "bnfold bench IN OUT": (),
    "bnfold explain {...}": ("A",),
    "bnfold explain {...} -v": ("A",),
    "bnfold explain --code {...}": ("NO_BIAS",),
    "bnfold explain --help": (),
    "bnfold fold {...}": ("C",),
    "bnfold fold {...} --out-dir folded": (".",),
    "bnfold {...} {...} --json {...}": ("fold", "A --force", "fold.json"),
    "bnfold export model.onnx --checkpoint {...}": ("RUN",),
    "bnfold train --resume --out {...}": ("RUN",),
    "torchrun --nproc-per-node {...} -m bnfold_cli {...}": ("1", "train --resume --out RUN"),
}
INCOMPLETE = {  # of which an option alone is meant
    "bnfold fold --allow-external-outside",
    "bnfold bench --json",
    "bnfold {...} --json",
}
TRAINED = {each for each, values in ARGUED.items() if "RUN" in " ".join(values)}


def test_every_command_is_known():
    assert commands() == MENTIONS | ARGUED.keys() | INCOMPLETE
    assert {each.split()[1] for each in MENTIONS} <= {*COMMANDS}


def known_options() -> set[str]:
    group = typer.main.get_command(parser([]))
    params = [each for command in group.commands.values() for each in command.params]
    return {flag for each in params for flag in (*each.opts, *each.secondary_opts)}


def test_every_option_is_known():
    said = {option for text in texts() for option in OPTION.findall(text)}
    assert said - known_options() - FOREIGN - {"--version", "--install-completion"} == set()


def filled(template: str) -> str:
    """The command as a person would read it, about the files of `models`."""
    values = iter(ARGUED[template])
    text = re.sub(r"\{\.\.\.\}", lambda _: next(values), template)
    names = {
        "A": "a.onnx",
        "B": "b.onnx",
        "C": "c.onnx",
        "IN": "a.onnx",
        "OUT": "b.onnx",
        "{a}": "a.onnx",
        "{b}": "b.onnx",
        "FILE": "r.jsonl",
        "RUN": "run",
    }
    return " ".join(names.get(word, word) for word in text.split())


@pytest.fixture
def models(here: Path) -> Path:  # noqa: F811
    """What there is where these hints are given: two models, the page and the files of an earlier time."""
    for name in ("a.onnx", "c.onnx"):
        onnx.save(conv_bn(), name)
    assert run(["fold", "a.onnx", "--verify", "off"]) == 0
    shutil.copy("a.folded.onnx", "b.onnx")
    for name in ("b.html", "bench.json", "fold.json", "runs.jsonl", "r.jsonl"):
        Path(name).write_text("of an earlier time")
    return here


@pytest.mark.parametrize("template", sorted(ARGUED.keys() - TRAINED))
def test_a_command_of_a_hint_does_what_it_should(template: str, models: Path):
    for part in filled(template).split(" && "):
        if part.startswith("bnfold bench"):
            part += " --quick"
        if part == "bnfold report a.onnx b.onnx":
            Path("b.html").unlink()
        assert run(shlex.split(part)[1:]) in ((0, 5) if "bench " in part else (0,)), part


def test_a_command_about_a_run_does_what_it_should(models: Path):
    pytest.importorskip("torch")
    assert run(["train", "--data", "digits", "--steps", "2", "--out", "run", "--no-plot"]) == 0
    for template in sorted(TRAINED):
        words = shlex.split(filled(template))
        if words[0] == "torchrun":
            words = [sys.executable, "-m", "torch.distributed.run", *words[1:]]
            assert subprocess.run(words, cwd=models, capture_output=True).returncode == 0, template
        else:
            assert run(words[1:]) == 0, template


def test_a_command_of_a_hint_can_be_pasted_whatever_a_file_is_called(here: Path, capfd: pytest.CaptureFixture[str]):  # noqa: F811
    name = "my model; it's $HOME.onnx"
    onnx.save(stuck_bn(), name)
    assert run(["fold", name, "--strict"]) == 1
    assert run(["fold", name, "--strict", "--out-dir", "out"]) == 1
    hints = QUOTED.findall(capfd.readouterr().err)
    assert len(hints) == 2
    for hint in hints:
        assert run(shlex.split(hint)[1:]) == 0, hint


def test_no_hint_asks_an_index_for_bnfold():
    assert [text for text in texts() if re.search(r"pip install .*bnfold", text)] == []
