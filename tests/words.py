"""Every sentence that bnfold can stop with, as it stands in the code: `python -m tests.words`"""

from __future__ import annotations

import ast
from collections.abc import Iterator
from typing import NamedTuple

from tests.shape_of_the_code import ROOT, files

KINDS = ("CheckFailed", "UsageProblem", "ModelProblem", "EnvironmentProblem", "Inconclusive", "Interrupted")


class Said(NamedTuple):
    """A message or a hint; what is filled in stands as {...}."""

    place: str
    message: str
    hint: str


def sentences() -> Iterator[Said]:
    """Of every error that is made on purpose, where the words stand at that place."""
    for path in files():
        tree = ast.parse(path.read_text(encoding="utf-8"))
        known = {
            t.id: n.value for n in tree.body if isinstance(n, ast.Assign) for t in n.targets if isinstance(t, ast.Name)
        }
        for node in ast.walk(tree):
            if (
                isinstance(node, ast.Call)
                and isinstance(node.func, ast.Name)
                and node.func.id in KINDS
                and len(node.args) == 2
            ):
                message, hint = (written(argument, known) for argument in node.args)
                yield Said(f"{path.relative_to(ROOT)}:{node.lineno}", message, hint)


def written(node: ast.AST, known: dict[str, ast.expr]) -> str:
    """The words of a literal, with {...} for what is computed."""
    if isinstance(node, ast.Constant):
        return str(node.value)
    if isinstance(node, ast.JoinedStr):
        return "".join(written(part, known) for part in node.values)
    if isinstance(node, ast.BinOp):
        return written(node.left, known) + written(node.right, known)
    if isinstance(node, ast.Name) and node.id in known:
        return written(known[node.id], {})
    return "{...}"


if __name__ == "__main__":
    for place, message, hint in sentences():
        print(f"{place}\n    {message}\n    {hint}")
