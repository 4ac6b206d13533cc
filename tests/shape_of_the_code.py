"""How long the functions and files of bnfold/ and cli/ are: `python -m tests.shape_of_the_code`"""

from __future__ import annotations

import ast
import statistics
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]


def functions() -> dict[str, int]:
    """Lines of each function, its docstring not counted."""
    found = {}
    for path in files():
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.FunctionDef):
                doc = node.body[0] if ast.get_docstring(node) else None
                length = node.end_lineno - node.lineno + 1 - (doc.end_lineno - doc.lineno + 1 if doc else 0)
                found[f"{path.relative_to(ROOT)}:{node.lineno} {node.name}"] = length
    return found


def files() -> list[Path]:
    return sorted([*ROOT.glob("bnfold/**/*.py"), *ROOT.glob("cli/*.py")])


def main() -> None:
    lengths = functions()
    longest = max(lengths, key=lengths.get)
    lines = {path: len(path.read_text().splitlines()) for path in files()}
    file = max(lines, key=lines.get)
    print(f"functions: {len(lengths)}, median length {statistics.median(lengths.values()):g} lines")
    print(f"longest function: {longest}, {lengths[longest]} lines")
    print(f"files: {len(lines)}, {sum(lines.values())} lines; longest: {file.relative_to(ROOT)}, {lines[file]} lines")


if __name__ == "__main__":
    main()
