"""bnfold as a gate: stable exit codes, JSON alone on stdout, a JUnit report in every case; and the sample's files."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from xml.etree import ElementTree

import onnx
import pytest
from onnx import helper

from bnfold import pipeline
from bnfold.errors import CheckFailed
from bnfold_cli.main import run
from tests import samples
from tests.build import BN, bn, build
from tests.test_dtypes import in_type

SAMPLE = samples.folder("04_in_a_pipeline")


def convolution(body: str = f"t = Conv (X, W)\n Y = {BN('t', 'n')}") -> onnx.ModelProto:
    return in_type(build(body, "X[N,3,6,6]", "Y[N,4,4,4]", {"W": (4, 3, 3, 3), **bn("n", 4)}), "float32")


def unknown_operator() -> onnx.ModelProto:
    """Neither onnxruntime nor the oracle can run it: nothing can be decided."""
    model = convolution()
    model.graph.node.append(helper.make_node("Strange", ["Y"], ["Z"], domain="some.where"))
    model.opset_import.append(helper.make_opsetid("some.where", 1))
    model.graph.output[0].name = "Z"
    return model


MODELS = {
    "folds.onnx": convolution,
    "keeps.onnx": lambda: convolution(f"t = Conv (X, W)\n u = Sigmoid (t)\n Y = {BN('u', 'n')}"),
    "bare.onnx": lambda: convolution("Y = Conv (X, W)"),
    "strange.onnx": unknown_operator,
}
CASES = {  # arguments, exit code, whether there is JSON, the element of the JUnit report that says so, OUT is written
    "all folds": (["folds.onnx"], 0, True, None, True),
    "all folds, strictly": (["folds.onnx", "--strict"], 0, True, None, True),
    "one is kept": (["keeps.onnx"], 0, True, None, True),
    "one is kept, strictly": (["keeps.onnx", "--strict"], 1, True, "failure", True),
    "nothing to fold": (["bare.onnx", "--strict"], 0, True, None, True),
    "no file": (["missing.onnx", "--strict"], 3, False, "error", False),
    "no model": (["text.onnx", "--strict"], 3, False, "error", False),
    "not decided": (["strange.onnx", "--strict"], 5, False, "error", False),
    "a folder that is not there": (["folds.onnx", "away/out.onnx", "--strict"], 4, False, "error", False),
    "an unknown choice": (["folds.onnx", "--verify", "perhaps"], 2, False, None, False),
    "a dry run": (["folds.onnx", "--strict", "--dry-run"], 0, True, None, False),
}


@pytest.fixture
def folder(tmp_path, monkeypatch):
    for name, make in MODELS.items():
        onnx.save(make(), tmp_path / name)
    (tmp_path / "text.onnx").write_text("not a model, but long enough to be one")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def outputs(folder: Path) -> list[str]:
    return [path.name for path in folder.rglob("*.onnx") if path.name not in {*MODELS, "text.onnx"}]


@pytest.mark.parametrize("case", CASES)
def test_the_gate(case, folder, capfd):
    arguments, code, has_json, element, written = CASES[case]
    assert run(["fold", *arguments, "--json", "-", "--junit", "out.xml"]) == code
    told = capfd.readouterr()
    if has_json:
        assert json.loads(told.out)["schema"] == "bnfold.fold/1"
    else:
        assert told.out == ""
    assert ("error: " in told.err) == (code != 0), told.err
    assert ("hint: " in told.err) == (code != 0)
    assert "Traceback" not in told.err
    if code != 2:
        suite = ElementTree.parse("out.xml").getroot()[0]
        assert (suite.get("failures"), suite.get("errors")) == (
            str(+(element == "failure")),
            str(+(element == "error")),
        )
        assert [found.tag for found in suite.iter() if found.tag in ("failure", "error")] == [element] * bool(element)
    assert bool(outputs(folder)) == written


def test_a_failed_check(folder, capfd, monkeypatch):
    def fails(*_):
        raise CheckFailed("the folded model computes something else", "Report it.")

    monkeypatch.setattr(pipeline, "verified", fails)
    assert run(["fold", "folds.onnx", "--strict", "--json", "-", "--junit", "out.xml"]) == 1
    assert capfd.readouterr().out == ""
    assert ElementTree.parse("out.xml").getroot()[0].get("failures") == "1"
    assert outputs(folder) == []


@pytest.mark.parametrize("command", [["fold", "folds.onnx"], ["verify", "folds.onnx", "keeps.onnx"]])
def test_two_reports_do_not_mingle_on_stdout(folder, capfd, command):
    assert run([*command, "--json", "-", "--junit", "-"]) == 2
    told = capfd.readouterr()
    assert told.out == ""
    assert "two reports cannot both go to stdout" in told.err
    assert outputs(folder) == []


def test_an_output_in_the_way(folder, capfd):
    shutil.copy("keeps.onnx", "folds.folded.onnx")
    before = Path("folds.folded.onnx").read_bytes()
    assert run(["fold", "folds.onnx", "--strict", "--json", "-"]) == 2
    assert capfd.readouterr().out == ""
    assert Path("folds.folded.onnx").read_bytes() == before


def test_the_worst_of_many_decides(folder, capfd):
    """In the order 70, 1, 5, 4, 3, 2, 0."""
    wanted = {("folds", "bare"): 0, ("text", "bare"): 3, ("bare", "keeps"): 1, ("strange", "bare"): 5}
    for names, code in wanted.items():
        models = [f"{name}.onnx" for name in names]
        options = ["--out-dir", f"out-{names[0]}", "--strict", "--json", "-", "--junit", "out.xml"]
        assert run(["fold", *models, *options]) == code
        assert len(json.loads(capfd.readouterr().out)["models"]) == 2
        ElementTree.parse("out.xml")


def test_the_exit_codes_of_the_sample_are_those_of_the_help():
    from bnfold_cli.main import EXIT_CODES

    rows = re.findall(r"^\| (\d+) \|", (SAMPLE / "README.md").read_text(), re.M)
    assert {*rows} == {*re.findall(r"\b\d+\b", EXIT_CODES)}


@pytest.mark.parametrize("name", ["github.yml", "gitlab.yml", "pre-commit.yaml"])
def test_a_pipeline_is_yaml_and_its_commands_are_ours(name, folder):
    yaml = pytest.importorskip("yaml")
    text = (SAMPLE / name).read_text()
    assert isinstance(yaml.safe_load(text), dict)
    (Path("models")).mkdir()
    shutil.copy("folds.onnx", "models")
    (command,) = re.findall(r"bnfold (fold .+)$", text.replace("run: ", ""), re.M)
    models = ["models/folds.onnx"] if name == "pre-commit.yaml" else []
    assert run([*command.split(" #")[0].split(), *models]) == 0


def test_the_container_is_pinned_and_not_root():
    lines = (SAMPLE / "Dockerfile").read_text().splitlines()
    bases = [line.split()[1] for line in lines if line.startswith("FROM")]
    assert all(re.fullmatch(r"python:3\.\d+\.\d+-slim-\w+", base) for base in bases)
    assert any(re.fullmatch(r"USER [1-9]\d*", line) for line in lines)
    asked = (SAMPLE / "README.md").read_text()
    assert all(word in asked for word in ("--network none", "--read-only", "--cap-drop ALL", "--tmpfs /tmp"))
    for line in lines:  # what it copies is there
        source = re.match(r"COPY (?!--from)(.+) \S+$", line)
        assert all((SAMPLE.parents[1] / name).exists() for name in (source[1].split() if source else []))


def test_the_hook_in_a_repository(folder):
    """pre-commit itself runs the hook: what folds is committed, what does not is refused."""
    tool = shutil.which("pre-commit")
    if not tool or not shutil.which("git"):
        pytest.skip("pre-commit or git is not installed")
    shutil.copy(SAMPLE / "pre-commit.yaml", ".pre-commit-config.yaml")
    identity = {
        f"GIT_{who}_{what}": "nobody@localhost" for who in ("AUTHOR", "COMMITTER") for what in ("NAME", "EMAIL")
    }
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    environment = {
        **os.environ,
        **identity,
        "PATH": path,
        "PRE_COMMIT_HOME": str(folder / "cache"),
        "HOME": str(folder),
    }

    def git(*arguments: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(["git", *arguments], env=environment, capture_output=True, text=True)

    assert git("init", "--quiet").returncode == 0
    assert subprocess.run([tool, "install"], env=environment, capture_output=True).returncode == 0
    git("add", ".pre-commit-config.yaml", "folds.onnx", "bare.onnx")
    done = git("commit", "-m", "folds")
    assert done.returncode == 0, done.stdout + done.stderr
    git("add", "keeps.onnx")
    done = git("commit", "-m", "keeps")
    assert done.returncode == 1
    assert "keeps.onnx: 1 BatchNormalization kept" in done.stdout + done.stderr
    assert outputs(folder) == []
