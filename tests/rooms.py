"""The rooms of the package and how they stand on one another, from the imports: `python -m tests.rooms`

A room is a folder of bnfold/, a file at its root, or cli/. Exits with 1 at a cycle and over a cap.
"""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterator
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
MOST = {"entries": 15, "floors": 10, "arrows": 130}
APART = ("__init__", "__main__")  # the public surface, which imports what it offers when that is first used


def modules() -> dict[str, Path]:
    """Every module of the package and of the command line, by its dotted name."""
    paths = [*(ROOT / "bnfold").rglob("*.py"), *(ROOT / "cli").glob("*.py")]
    return {".".join(path.relative_to(ROOT).with_suffix("").parts): path for path in sorted(paths)}


def imported(name: str, path: Path) -> Iterator[str]:
    """The dotted names that a module imports from the package, wherever in it: modules, or names in modules."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom):
            base = name.split(".")[: -node.level] if node.level else []
            whole = [*base, *(node.module or "").split(".")] if node.module else base
            yield from (".".join([*whole, alias.name]) for alias in node.names)
        elif isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)


def room(dotted: str) -> str:
    """The room that a dotted name lies in; '' for none, and for the public surface."""
    first, *rest = dotted.split(".")
    if first == "cli":
        return "cli"
    known = first == "bnfold" and rest and rest[0] not in APART
    return rest[0] if known and ((ROOT / "bnfold" / rest[0]).is_dir() or is_file(rest[0])) else ""


def is_file(name: str) -> bool:
    return (ROOT / "bnfold" / f"{name}.py").exists()


def arrows() -> dict[str, set[str]]:
    """Each room with those that it imports."""
    found: dict[str, set[str]] = {}
    for name, path in modules().items():
        if here := room(name):
            found.setdefault(here, set()).update({room(other) for other in imported(name, path)} - {here, ""})
    return found


def floors(below: dict[str, set[str]]) -> dict[str, int]:
    """On which floor each room is, the first being 1. Raises CycleError."""
    found: dict[str, int] = {}
    for name in TopologicalSorter(below).static_order():
        found[name] = 1 + max((found[other] for other in below[name]), default=0)
    return found


def main() -> int:
    below = arrows()
    try:
        heights = floors(below)
    except CycleError as why:
        print("rooms import one another in a circle:", " -> ".join(why.args[1]))
        return 1
    for name in sorted(below, key=lambda name: (heights[name], name)):
        print(f"{heights[name]:2d} {name}: {', '.join(sorted(below[name])) or '-'}")
    counts = {
        "entries": len(below.keys() - {"cli"}),
        "floors": max(heights.values()),
        "arrows": sum(map(len, below.values())),
    }
    print(f"rooms: {len(below)};", ", ".join(f"{name}: {n} (at most {MOST[name]})" for name, n in counts.items()))
    return int(any(n > MOST[name] for name, n in counts.items()))


if __name__ == "__main__":
    sys.exit(main())
