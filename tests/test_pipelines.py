"""bnfold as a gate: stable exit codes, JSON alone on stdout, a JUnit report in every case; and the sample's files."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import venv
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import onnx
import pytest
import yaml
from onnx import helper

from bnfold.errors import CheckFailed
from bnfold.folding import pipeline
from bnfold_cli.main import run
from tests import samples
from tests.build import BN, bn, build
from tests.shape_of_the_code import ROOT
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


@dataclass(frozen=True)
class Gate:
    """A call of `bnfold fold`, and what it leaves; `element` is the one of the JUnit report that says why it fails."""

    arguments: list[str]
    code: int = 0
    json: bool = True
    element: str | None = None
    written: bool = True


CASES = {
    "all folds": Gate(["folds.onnx"]),
    "all folds, strictly": Gate(["folds.onnx", "--strict"]),
    "one is kept": Gate(["keeps.onnx"]),
    "one is kept, strictly": Gate(["keeps.onnx", "--strict"], code=1, element="failure"),
    "nothing to fold": Gate(["bare.onnx", "--strict"]),
    "no file": Gate(["missing.onnx", "--strict"], code=3, json=False, element="error", written=False),
    "no model": Gate(["text.onnx", "--strict"], code=3, json=False, element="error", written=False),
    "not decided": Gate(["strange.onnx", "--strict"], code=5, json=False, element="error", written=False),
    "a folder that is not there": Gate(
        ["folds.onnx", "away/out.onnx", "--strict"], code=4, json=False, element="error", written=False
    ),
    "an unknown choice": Gate(["folds.onnx", "--verify", "perhaps"], code=2, json=False, written=False),
    "a dry run": Gate(["folds.onnx", "--strict", "--dry-run"], written=False),
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
    gate = CASES[case]
    assert run(["fold", *gate.arguments, "--json", "-", "--junit", "out.xml"]) == gate.code
    out, err = capfd.readouterr()
    if gate.json:
        assert json.loads(out)["schema"] == "bnfold.fold/1"
    else:
        assert out == ""
    assert ("error: " in err) == (gate.code != 0), err
    assert ("hint: " in err) == (gate.code != 0)
    assert "Traceback" not in err
    if gate.code != 2:
        suite = ElementTree.parse("out.xml").getroot()[0]
        assert (suite.get("failures"), suite.get("errors")) == (
            str(+(gate.element == "failure")),
            str(+(gate.element == "error")),
        )
        assert [found.tag for found in suite.iter() if found.tag in ("failure", "error")] == [gate.element] * bool(
            gate.element
        )
    assert bool(outputs(folder)) == gate.written


def test_a_failed_check(folder, capfd, monkeypatch):
    def fails(*_, **__):
        raise CheckFailed("the folded model computes something else", "Report it.")

    monkeypatch.setattr(pipeline, "verified", fails)
    assert run(["fold", "folds.onnx", "--strict", "--json", "-", "--junit", "out.xml"]) == 1
    assert capfd.readouterr().out == ""
    assert ElementTree.parse("out.xml").getroot()[0].get("failures") == "1"
    assert outputs(folder) == []


def test_a_model_that_changes_while_it_is_verified_is_to_blame_itself(folder, capfd, monkeypatch):
    """Not the fold, which was of what had been there before."""

    def changed(*arguments, **options):
        shutil.copy("keeps.onnx", "new")
        os.replace("new", "folds.onnx")
        return honest(*arguments, **options)

    honest = pipeline.verified
    monkeypatch.setattr(pipeline, "verified", changed)
    assert run(["fold", "folds.onnx"]) == 3
    assert "folds.onnx changed while it was read" in capfd.readouterr().err
    assert outputs(folder) == []


@pytest.mark.parametrize("command", [["fold", "folds.onnx"], ["verify", "folds.onnx", "keeps.onnx"]])
def test_two_reports_do_not_mingle_on_stdout(folder, capfd, command):
    assert run([*command, "--json", "-", "--junit", "-"]) == 2
    output = capfd.readouterr()
    assert output.out == ""
    assert "two reports cannot both go to stdout" in output.err
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


def sample(name: str) -> Any:
    return yaml.safe_load((SAMPLE / name).read_text())


IDENTITY = {f"GIT_{who}_{what}": "nobody@localhost" for who in ("AUTHOR", "COMMITTER") for what in ("NAME", "EMAIL")}


@pytest.fixture(scope="module")
def repository(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A repository with bnfold as it is here, in the words of pip."""
    if not shutil.which("git"):
        pytest.skip("git is not installed")
    place = tmp_path_factory.mktemp("repository") / "bnfold"
    for name, where in (("bnfold", "bnfold"), ("cli", "cli")):
        shutil.copytree(ROOT / where, place / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, place)
    for arguments in (["init", "--quiet"], ["add", "."], ["commit", "--quiet", "-m", "bnfold"]):
        subprocess.run(["git", *arguments], cwd=place, check=True, env={**os.environ, **IDENTITY})
    asked = subprocess.run(["git", "rev-parse", "HEAD"], cwd=place, check=True, capture_output=True, text=True)
    return f"git+file://localhost{place}@{asked.stdout.strip()}"


@pytest.fixture
def stranger(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """A checkout with models, and a machine with Python and no bnfold; what bnfold needs is taken from this one."""
    (folder / "models/deep").mkdir(parents=True)
    shutil.copy("folds.onnx", "models")
    shutil.copy("bare.onnx", "models/deep/folds.onnx")
    python = tmp_path_factory.mktemp("machine")
    venv.create(python, with_pip=True)
    packages = os.pathsep.join(path for path in sys.path if path.endswith("site-packages"))
    around = {key: value for key, value in os.environ.items() if key not in ("VIRTUAL_ENV", "PYTHONHOME")}
    there = {"PATH": f"{python / 'bin'}{os.pathsep}{os.environ['PATH']}", "PYTHONPATH": packages}
    return {**around, **there, "PIP_NO_BUILD_ISOLATION": "0"}  # which means: with the setuptools of this machine


def shell(script: str, environment: dict[str, str]) -> None:
    """As both services run a script: it ends where something fails."""
    done = subprocess.run(["bash", "-eo", "pipefail", "-c", script], env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


def require_folded(stranger: dict[str, str]) -> None:
    """By the bnfold that was installed, subfolders and all."""
    assert sorted(map(str, Path("folded").rglob("*.onnx"))) == [
        "folded/deep/folds.folded.onnx",
        "folded/folds.folded.onnx",
    ]
    assert json.loads(Path("fold.json").read_text())["exit_code"] == 0
    assert ElementTree.parse("fold.xml").getroot()[0].get("failures") == "0"
    assert Path(shutil.which("bnfold", path=stranger["PATH"]) or "").parent == Path(
        stranger["PATH"].split(os.pathsep)[0]
    )


def test_the_github_workflow_word_for_word(stranger: dict[str, str], repository: str):
    workflow = sample("github.yml")
    variables = {"${{ vars.BNFOLD_REPO }}": repository}
    environment = {**stranger, **{name: variables[value] for name, value in workflow["env"].items()}}
    steps = workflow["jobs"]["fold"]["steps"]
    for step in steps:
        shell(step.get("run", ":"), environment)
    assert [step["uses"].split("@")[0] for step in steps if "uses" in step] == [
        "actions/checkout",
        "actions/setup-python",
        "actions/upload-artifact",
    ]
    assert all(Path(path).exists() for path in steps[-1]["with"]["path"].split())
    require_folded(stranger)


def test_the_gitlab_job_word_for_word(stranger: dict[str, str], repository: str):
    job = sample("gitlab.yml")["fold"]
    shell("\n".join(job["script"]), {**stranger, "BNFOLD_REPO": repository})
    assert all(Path(path).exists() for path in (*job["artifacts"]["paths"], job["artifacts"]["reports"]["junit"]))
    require_folded(stranger)


def hook() -> dict[str, Any]:
    ((found,),) = (each["hooks"] for each in sample("pre-commit.yaml")["repos"])
    return dict(found)


def test_the_entry_of_the_hook_on_the_files_that_it_is_given(folder: Path):
    """Those that pre-commit would give it, by their paths: names repeat in different folders."""
    (folder / "models").mkdir()
    for name in ("folds.onnx", "bare.onnx", "folds.folded.onnx", "folds.failed.onnx", "notes.txt"):
        shutil.copy("folds.onnx", folder / "models" / name)
    asked = hook()
    names = [str(path) for path in sorted(Path().rglob("*")) if path.is_file() and path.stem in ("folds", "bare")]
    names += [f"models/{name}" for name in ("folds.folded.onnx", "folds.failed.onnx", "notes.txt")]
    given = [name for name in names if re.search(asked["files"], name) and not re.search(asked["exclude"], name)]
    assert given == ["bare.onnx", "folds.onnx", "models/bare.onnx", "models/folds.onnx"]
    program, *words = asked["entry"].split()
    assert program == "bnfold"
    before = outputs(folder)
    assert run([*words, *given]) == 0
    assert run([*words, *given, "keeps.onnx"]) == 1
    assert outputs(folder) == before


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
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    tool = shutil.which("pre-commit", path=path)
    if not tool or not shutil.which("git"):
        pytest.skip("pre-commit or git is not installed")
    shutil.copy(SAMPLE / "pre-commit.yaml", ".pre-commit-config.yaml")
    environment = {
        **os.environ,
        **IDENTITY,
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
