"""The words of the package: every sentence that it can stop with, as it stands in the code (`python -m tests.words`),
and the words that neither its names nor its prose have."""

from __future__ import annotations

import ast
import io
import re
import tokenize
from collections.abc import Iterator
from typing import NamedTuple

from tests.shape_of_the_code import ROOT, files

KINDS = ("CheckFailed", "UsageProblem", "ModelProblem", "EnvironmentProblem", "Inconclusive", "Interrupted")

NOT_IN_NAMES = {  # of a word that no name of code has, what to say
    "ask": "options, call",
    "asked": "options",
    "asks": "options, call",
    "bars": "progress_bar",
    "behind": "after",
    "beside": "next to, in the same folder",
    "fat": "attach",
    "fate": "result",
    "fates": "results",
    "found": "what it is: result, report, answer, matches",
    "gathered": "what it is",
    "given": "what it is: options, arguments, stated",
    "heard": "report, notify",
    "held": "what it is: stored, kept",
    "opened": "open, or what it is",
    "promise": "what it is: deferred",
    "promises": "what it is: deferred",
    "settle": "finalize, compute",
    "tamed": "what was changed",
    "tell": "report, notify",
    "tells": "report, notify",
    "thin": "detach",
    "told": "what it is: result, report",
    "voice": "verbosity",
    "workbench": "editor",
}
NOT_IN_PROSE = {  # of words that no docstring, comment or message has, what to say
    r"\b(told|tells?)\b": "say, show, distinguish",
    r"\bbeside\b": "next to",
    r"\bbehind\b": "after",
    r"\bheld\b(?!-out| out)": "kept, stored",
    r"\bfates?\b": "result",
    r"\bgathered\b": "collected",
    r"\basked\b(?! for)": "called with, set",
    r"\b(voice|bars|thin|fat|tamed|workbench|settled?|promised?|promises)\b": "the table of words in CONTRIBUTING.md",
    r"\b(under the hammer|of one mind|last words)\b": "what it is, without an image",
}
CAMEL = re.compile(r"_|(?<=[a-z])(?=[A-Z])")


def words_of_names(source: str) -> Iterator[tuple[int, str, str]]:
    """Line, name and word of each name in the code, but for errors of Python and methods of its files."""
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type == tokenize.NAME and not token.string.endswith("Error") and token.string != "tell":
            yield from ((token.start[0], token.string, word.lower()) for word in CAMEL.split(token.string))


def prose(source: str) -> Iterator[tuple[int, str]]:
    """Line and text of each comment and string."""
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type in (tokenize.COMMENT, tokenize.STRING):
            yield from ((token.start[0] + i, line) for i, line in enumerate(token.string.splitlines()))


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
