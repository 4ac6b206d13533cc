"""The shape of the project: one-way imports, public names, short functions, style and types."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import bnfold
from tests import rooms, shape_of_the_code

ROOT = Path(__file__).resolve().parents[1]
ORDER = [  # a room imports those before it
    "errors", "system", "process", "display", "algebra", "model", "runtime", "verification",
    "benchmarking", "train", "graph", "folding", "passes", "recalibration", "reporting",
]  # fmt: skip
OFFERED = {"bnfold", *ORDER[1:6], "graph", "folding"}  # all that is public in them is documented
# What proves, measures and trains knows of a model what its file says, and nothing of how folding works.
INNER = tuple(f"verification.{room}" for room in ("float64", "influence", "proof", "quantized"))
APART = (
    "process",
    "runtime",
    "verification",
    *INNER,
    "benchmarking",
    "train",
    "recalibration.feeds",
    "recalibration.evaluation",
)
KNOWN = {
    "algebra": {"moments"},
    "model": {"messages", "bounds", "datafiles", "models", "onnx_io", "order", "tensors", "wire"},
}


def imports(path: Path) -> set[str]:
    """What a file imports from the package, wherever in it, as `room.module` (or `room`)."""
    name = ".".join(path.relative_to(ROOT).with_suffix("").parts)
    return {".".join(other.split(".")[1:3]) for other in rooms.imported(name, path) if rooms.room(other)}


def test_imports_go_one_way():
    files = {name: path for name, path in rooms.modules().items() if rooms.room(name) not in ("", "cli")}
    assert {rooms.room(name) for name in files} == set(ORDER)
    for name, path in files.items():
        late = {found.split(".")[0] for found in imports(path)} & set(ORDER[ORDER.index(rooms.room(name)) + 1 :])
        assert not late, f"{name} imports {late}, which come after {rooms.room(name)}"


@pytest.mark.parametrize("room", APART)
def test_the_checks_know_nothing_of_what_they_check(room):
    paths = sorted((ROOT / "bnfold" / room.replace(".", "/")).glob("*.py"))
    assert paths
    for path in paths:
        for where, _, module in (found.partition(".") for found in imports(path)):
            assert where not in ("graph", "folding"), path
            assert module in KNOWN.get(where, {module}), path


def test_nobody_reaches_a_module_by_its_name_in_a_string():
    """A job of a child is passed as the function that it is."""
    known = set(rooms.modules())
    for path in shape_of_the_code.files():
        strings = {n.value for n in ast.walk(ast.parse(path.read_text())) if isinstance(n, ast.Constant)}
        assert not strings & known, path


def test_public_names():
    assert bnfold.__all__ == [
        "Benchmark",
        "Evaluation",
        "Explanation",
        "FoldResult",
        "Recalibration",
        "Verification",
        "bench",
        "evaluate",
        "explain",
        "fold",
        "load",
        "recalibrate",
        "report",
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
    for path in sorted([p for p in shape_of_the_code.files() if p.parent.name in OFFERED]):
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
