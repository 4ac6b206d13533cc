"""Every command in a README is run, and prints what the README says it prints."""

from __future__ import annotations

import ast
import os
import re
import shutil
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

from tests.data import DATA, data_path

ROOT = Path(__file__).resolve().parents[1]
NEEDED = {  # the data of samples; without them a sample downloads its own, which a test does not
    "06_recalibrate_for_a_new_domain": ("mnist", "onnx/burn_mnist.onnx"),
    "07_quantized": ("mnist",),
    "paper_mnist": ("mnist",),
}
PACKAGES = {"09_olive": "olive"}  # a package that a sample is about, which no extra but `dev` brings
SLOW = ("03_train_export_fold_verify_bench", "05_reparameterize_repvgg")  # each has a quick test of its own
BLOCK = re.compile(r"```(\w+)\n(.*?)```", re.S)
NUMBERS = re.compile(r"\d+(\.\d+)?(e-?\d+)?")
RULES = re.compile(r"[─━┃│┏┓┗┛┡┩╇┳┴┬┼├┤└┘┌┐ ]+")


def sessions(readme: Path) -> list[tuple[str, str]]:
    """The shell blocks of a README, each with the output printed under it ("" where none is)."""
    blocks = BLOCK.findall(readme.read_text())
    following = [*blocks[1:], ("", "")]
    return [(b[1], n[1] if n[0] == "text" else "") for b, n in zip(blocks, following, strict=True) if b[0] == "sh"]


def essence(text: str) -> list[str]:
    """What must agree: words, not measured numbers, nor how wide a table is drawn."""
    lines = [RULES.sub(" ", NUMBERS.sub("0", line)).strip() for line in text.splitlines()]
    return [line for line in lines if line]


def run(command: str, folder: Path) -> str:
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    environment = {**os.environ, "PATH": path, "COLUMNS": "100", "NO_COLOR": "1", "BNFOLD_DATA": str(DATA)}
    done = subprocess.run(["bash", "-ec", command], cwd=folder, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout


def all_samples() -> list[Any]:
    names = sorted(p.parent.name for p in ROOT.glob("samples/*/README.md"))
    return [pytest.param(name, marks=[pytest.mark.slow] * (name in SLOW)) for name in names]


@pytest.mark.parametrize("sample", all_samples())
def test_a_sample_does_what_its_readme_says(sample, tmp_path):
    for needed in NEEDED.get(sample, ()):
        data_path(needed)
    if sample in PACKAGES and find_spec(PACKAGES[sample]) is None:
        pytest.skip(f"the package {PACKAGES[sample]} is not installed")
    folder = tmp_path / sample
    shutil.copytree(ROOT / "samples" / sample, folder)
    shown = sessions(folder / "README.md")
    assert shown
    for command, output in shown:
        assert essence(run(command, folder)) == essence(output), command


def test_the_readme_fold_session(tmp_path):
    """The first commands of the README with output, on the model that the first sample makes."""
    command, output = next(pair for pair in sessions(ROOT / "README.md") if pair[1])
    subprocess.run(
        [sys.executable, str(ROOT / "samples/01_fold_a_model/fold_a_model.py")],
        cwd=tmp_path,
        check=True,
        capture_output=True,
    )
    assert essence(run(command, tmp_path)) == essence(output)


def test_the_readme_python_session(tmp_path):
    text = (ROOT / "README.md").read_text()
    code = next(body for kind, body in BLOCK.findall(text) if kind == "python")
    subprocess.run(
        [sys.executable, str(ROOT / "samples/01_fold_a_model/fold_a_model.py")],
        cwd=tmp_path,
        check=True,
        capture_output=True,
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_every_reason_code_is_in_the_docs():
    """A machine-readable reason that a user cannot look up would be none."""
    sources = [p for room in ("algebra", "graph", "folding") for p in ROOT.glob(f"bnfold/{room}/**/*.py")]
    calls = [n for p in sources for n in ast.walk(ast.parse(p.read_text())) if isinstance(n, ast.Call)]
    place = {"require": 1, "Refused": 0}
    said = [n.args[place[n.func.id]] for n in calls if isinstance(n.func, ast.Name) and n.func.id in place]
    codes = {a.value for a in said if isinstance(a, ast.Constant)}
    text = (ROOT / "docs/reasons.md").read_text()
    assert len(codes) > 15
    assert {c for c in codes if f"`{c}`" not in text} == set()


def test_the_index_lists_every_sample():
    listed = re.findall(r"\]\((\w+)\)", (ROOT / "samples" / "README.md").read_text())
    assert sorted(listed) == sorted(p.parent.name for p in ROOT.glob("samples/*/README.md"))
