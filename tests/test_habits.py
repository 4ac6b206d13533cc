"""Code that could run what a file says is not in bnfold: the files we read come from strangers."""

from __future__ import annotations

import ast
import re
import sys
import tomllib
from collections.abc import Iterator

import pytest

from tests.shape_of_the_code import ROOT, files

FORBIDDEN_CALLS = {"eval", "exec", "compile", "__import__", "os.system", "os.popen", "tempfile.mktemp", "yaml.load"}
FORBIDDEN_MODULES = {"pickle", "cPickle", "dill", "cloudpickle", "joblib", "marshal", "shelve", "xmlrpc", "telnetlib"}
MUST_SAY = {  # a call that is safe only with this argument spelled out
    "torch.load": ("weights_only", True),
    "np.load": ("allow_pickle", False),
    "numpy.load": ("allow_pickle", False),
    "read_array": ("allow_pickle", False),
    "write_array": ("allow_pickle", False),
}
MUST_NOT_SAY = {"shell": True, "allow_pickle": True, "weights_only": False, "trust_remote_code": True}


def dotted(node: ast.AST) -> str:
    """`a.b.c` as it is written, `?.c` of what has no name."""
    if isinstance(node, ast.Attribute):
        return f"{dotted(node.value) or '?'}.{node.attr}"
    return node.id if isinstance(node, ast.Name) else ""


def offences(source: str) -> Iterator[str]:
    """What in it could run code or a shell that a file names."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            yield from (a.name for a in node.names if a.name.split(".")[0] in FORBIDDEN_MODULES)
        elif isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] in FORBIDDEN_MODULES:
            yield str(node.module)
        elif isinstance(node, ast.Call):
            yield from of_call(node)


def of_call(node: ast.Call) -> Iterator[str]:
    name = dotted(node.func)
    if name in FORBIDDEN_CALLS:
        yield name
    said = {k.arg: getattr(k.value, "value", ...) for k in node.keywords}
    for wanted, (word, value) in MUST_SAY.items():
        if (name == wanted or name.endswith(f".{wanted}")) and said.get(word, ...) is not value:
            yield f"{name} without {word}={value}"
    yield from (f"{word}={value}" for word, value in MUST_NOT_SAY.items() if said.get(word, ...) is value)


@pytest.mark.parametrize("path", files(), ids=lambda p: str(p.relative_to(ROOT)))
def test_nothing_runs_what_a_file_says(path):
    assert list(offences(path.read_text(encoding="utf-8"))) == []


@pytest.mark.parametrize(
    "source",
    [
        "eval(text)",
        "exec(text)",
        "exec(compile(text, name, 'exec'))",
        "__import__(name)",
        "import pickle",
        "from pickle import loads",
        "import os\nos.system('ls')",
        "torch.load(path)",
        "torch.load(path, weights_only=False)",
        "torch.load(path, weights_only=flag)",
        "np.load(path)",
        "np.load(path, allow_pickle=True)",
        "np.lib.format.read_array(file)",
        "subprocess.run(command, shell=True)",
        "yaml.load(text)",
    ],
)
def test_it_would_be_noticed(source):
    assert list(offences(source))


@pytest.mark.parametrize(
    "source",
    ["model.eval()", "re.compile(x)", "torch.load(p, weights_only=True)", "np.load(p, allow_pickle=False)", "load(p)"],
)
def test_what_is_harmless_is_not(source):
    assert list(offences(source)) == []


BROUGHT = {"google": "onnx", "PIL": "torchvision"}  # what a package cannot be without
NAMED = {"sklearn": "scikit-learn", "onnx_ir": "onnx-ir"}


def requirements() -> dict[str, str]:
    """Every package that pyproject.toml names, extras included, with its bounds."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    stated = [*project["dependencies"], *(r for extra in project["optional-dependencies"].values() for r in extra)]
    found = (re.match(r"([\w-]+)(?:\[[\w,]+\])?([^;]*)", each) for each in stated)
    return {match[1]: match[2].strip() for match in found if match[1] != "bnfold"}


def test_every_import_is_declared():
    known = {name.replace("-", "_") for name in requirements()}
    for path in files():
        nodes = [*ast.walk(ast.parse(path.read_text(encoding="utf-8")))]
        names = {a.name for n in nodes if isinstance(n, ast.Import) for a in n.names}
        names |= {str(n.module) for n in nodes if isinstance(n, ast.ImportFrom) and not n.level}
        tops = {name.split(".")[0] for name in names} - sys.stdlib_module_names - {"bnfold", "bnfold_cli"}
        packages = {BROUGHT.get(top, NAMED.get(top, top)).replace("-", "_") for top in tops}
        assert packages <= known, path


def test_every_requirement_has_a_lower_bound():
    assert {name: bounds for name, bounds in requirements().items() if ">=" not in bounds} == {}


ASKED = re.compile(r"\.(exists|is_dir|is_file|is_symlink)\(\)")


@pytest.mark.parametrize("path", files(), ids=lambda path: str(path.relative_to(ROOT)))
def test_what_a_path_leads_to_is_looked_up_without_an_error(path):
    """pathlib raises OSError for names that are too long and folders that are closed; os.path says no."""
    assert not ASKED.findall(path.read_text())
