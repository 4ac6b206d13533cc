"""The shape of the project: one-way imports, public names, short functions, style and types."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import bnfold
from tests import shape_of_the_code

ROOT = Path(__file__).resolve().parents[1]
ORDER = ["display", "errors", "installed", "progress", "limits", "files", "interrupts", "journal", "temporary", "staging", "plots", "junit", "moments", "processors", "native", "affine", "messages", "bounds", "datafiles", "wire", "tensors", "promises", "casting", "computing", "constants", "graph", "rules", "plan", "fates", "affine_nodes", "branches", "links", "shadows", "shapes", "view", "scopes", "workbench", "cleanup", "external", "validity", "models", "onnx_io", "inlining", "folding", "pipeline", "worker", "engines", "selection", "fleet", "demo", "recalibration", "report"]  # fmt: skip
APART = (
    "process",
    "runtime",
    "verification",
    "bench",
    "train",
    "feeds",
    "evaluation",
)  # rooms that know nothing of how folding works
BASE = "display errors installed progress limits files interrupts journal temporary staging plots messages bounds datafiles junit moments processors models onnx_io tensors"
CORE = {*ORDER} - {*BASE.split()}


def imports(path: Path) -> set[str]:
    """The rooms of bnfold that a file imports, wherever in it."""
    inside = len(path.relative_to(ROOT / "bnfold").parts)
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and node.level == inside:
            found |= {node.module.split(".")[0]} if node.module else {n.name for n in node.names}
        elif isinstance(node, ast.ImportFrom) and (node.module or "").startswith("bnfold."):
            found.add(node.module.split(".")[1])
    return found


def test_imports_go_one_way():
    for i, room in enumerate(ORDER):
        file = ROOT / "bnfold" / f"{room}.py"
        paths = [file] if file.exists() else sorted((ROOT / "bnfold" / room).glob("*.py"))
        assert paths
        for path in paths:
            late = imports(path) & set(ORDER[i + 1 :])
            assert not late, f"{path.name} imports {late}, which come after {room}"


@pytest.mark.parametrize("room", APART)
def test_the_checks_know_nothing_of_what_they_check(room):
    for path in sorted((ROOT / "bnfold" / room).glob("*.py")):
        assert not imports(path) & CORE, path


def test_public_names():
    assert bnfold.__all__ == [
        "Benchmark",
        "Explanation",
        "FoldResult",
        "Recalibration",
        "Verification",
        "benchmark",
        "explain",
        "fold",
        "load",
        "recalibrate",
        "save",
        "verify",
    ]
    assert all(getattr(bnfold, name).__doc__ for name in bnfold.__all__)
    with pytest.raises(AttributeError, match="no attribute 'nonsense'"):
        bnfold.nonsense  # noqa: B018


def test_importing_bnfold_imports_nothing_heavy():
    code = "import sys, bnfold; print([m for m in ('torch', 'onnxruntime', 'onnx', 'numpy') if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"


def test_functions_and_files_are_short():
    lengths = shape_of_the_code.functions()
    assert {name: n for name, n in lengths.items() if n > 30} == {}
    assert {str(p): n for p in shape_of_the_code.files() if (n := len(p.read_text().splitlines())) > 300} == {}


def test_everything_public_is_documented():
    """Modules, classes and functions without a leading underscore, in the rooms that users import from."""
    bare = []
    for path in sorted((ROOT / "bnfold").glob("*.py")):
        tree = ast.parse(path.read_text())
        parts = [tree, *(n for n in tree.body if isinstance(n, ast.ClassDef))]
        bare += [path.name for part in parts if not ast.get_docstring(part)]
    assert bare == []


def test_style():
    for arguments in (["check"], ["format", "--check"]):
        done = subprocess.run([sys.executable, "-m", "ruff", *arguments, str(ROOT)], capture_output=True, text=True)
        assert done.returncode == 0, done.stdout + done.stderr


def test_types():
    done = subprocess.run([sys.executable, "-m", "mypy"], capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 0, done.stdout


def test_versions_agree():
    from importlib.metadata import version

    assert bnfold.__version__ == version("bnfold")
    assert f"## {bnfold.__version__}" in (ROOT / "CHANGELOG.md").read_text()
