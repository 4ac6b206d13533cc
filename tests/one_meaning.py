"""Names that several places of the package have: files, and public functions, classes and constants of modules.

`python -m tests.one_meaning` prints them. One name has one meaning: what a second place may have is in ALLOWED_FILES and
ALLOWED_NAMES, each with the meaning that all of them share.
"""

from __future__ import annotations

import ast
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

from tests.rooms import ROOT

ALLOWED_FILES = {
    "__init__": "of every package",
    "norms": "the normalizations whose statistics are computed: nodes of ONNX, layers of PyTorch",
    "options": "what the function of this room is called with",
    "pipeline": "the command of this room on files: IN is read, OUT appears whole or not at all",
    "copies": "changed copies of a model, made to be run by onnxruntime",
    "results": "what the function of this room returns",
    "windows": "the windows that convolutions and pools slide over a tensor",
}
OPERATORS = {  # the functions for ONNX's operators, one or several, in modules that have one for each
    *("branches", "broadcast", "cast", "concat", "convolution", "einsum", "elementwise", "expand", "flatten", "gather"),
    *("matmul", "pad", "reduction", "reshape", "resize", "squeeze", "tile", "transpose", "unsqueeze"),
}
ALLOWED_NAMES = {
    **dict.fromkeys(OPERATORS, "of an operator: its values, numbers, lengths or ranks, by the module"),
    "Array": "an array of NumPy",
    "B": "which input of a node is the bias",
    "BROADCAST": "operators that broadcast what they read",
    "EPSILON": "the epsilon of a normalization that states none",
    "FOLDED": "the name of the folded model, or of a folded node, in a report",
    "GRADES": "what a verification that passes has shown: proved, or measured",
    "INCONCLUSIVE": "the verdict of that name",
    "LEVELS": "levels of onnxruntime's graph optimization",
    "MEAN": "which input of BatchNormalization is the mean",
    "METHODS": "ways to take population statistics",
    "ORIGINAL": "the name of the original model in a report",
    "Options": "what the function of this room is called with",
    "Plain": "plain data, as JSON has it",
    "Place": "where in a file the data of a tensor lie",
    "SCALE": "which input of a node is the scale",
    "SCHEMA": "the schema of the JSON that this module writes",
    "Statistics": "mean and variance that one normalization subtracts and divides by",
    "T": "the type variable",
    "VAR": "which input of BatchNormalization is the variance",
    "W": "which input of a node is the weight",
    "Watch": "what is called with the progress of the work",
    "attribute": "an attribute of a node, or its default",
    "fold": "fold a model: without a proof in `driver`, with one as Python calls it",
    "report": "show what is going on or what came of it, as the name of a function that many call",
    "default_target": "the name of OUT for a command, by that of IN",
    "is_floating": "whether a tensor is of a floating-point type",
    "opset": "the version of ONNX's operators that a node, or a model, is of",
    "overridable": "the initializers that callers may replace, because they are inputs as well",
    "sequential": "population statistics by the method sequential",
    "shape": "the lengths of the axes of a tensor",
    "sweep": "remove what killed processes have left",
}


def twice(places: Iterator[tuple[str, str]]) -> dict[str, list[str]]:
    """Names that more than one place has, each with its places."""
    known: dict[str, list[str]] = defaultdict(list)
    for name, place in places:
        known[name].append(place)
    return {name: where for name, where in sorted(known.items()) if len(where) > 1}


def files() -> Iterator[tuple[str, str]]:
    """Every file of the package, by its name. A file of the command line has the name of the command that it is."""
    for path in sorted((ROOT / "bnfold").rglob("*.py")):
        yield path.stem, path.relative_to(ROOT).as_posix()


def names() -> Iterator[tuple[str, str]]:
    """Every public name that a module of the package defines, with the module."""
    for _, path in files():
        yield from ((name, path) for name in dict.fromkeys(defined(ROOT / path)))


def defined(path: Path) -> Iterator[str]:
    """The public functions, classes and constants of a module."""
    for node in ast.parse(path.read_text(encoding="utf-8")).body:
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            made = [node.name]
        else:
            made = [name.id for target in targets(node) for name in ast.walk(target) if isinstance(name, ast.Name)]
        yield from (name for name in made if not name.startswith("_"))


def targets(node: ast.stmt) -> list[ast.expr]:
    """What an assignment gives names to."""
    return node.targets if isinstance(node, ast.Assign) else [node.target] if isinstance(node, ast.AnnAssign) else []


def main() -> None:
    for name, places in [*twice(files()).items(), *twice(names()).items()]:
        print(f"{name}: {', '.join(places)}")


if __name__ == "__main__":
    main()
