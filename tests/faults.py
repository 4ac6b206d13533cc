"""The small faults that tests/mutants.py makes in a file: where, what stands there instead, and how it is named."""

from __future__ import annotations

import ast
import copy
import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

from tests.delete_guards import Guard, extent, offset

OTHER = {
    **{
        ast.Eq: ast.NotEq,
        ast.NotEq: ast.Eq,
        ast.Is: ast.IsNot,
        ast.IsNot: ast.Is,
        ast.In: ast.NotIn,
        ast.NotIn: ast.In,
    },
    **{ast.Lt: ast.LtE, ast.LtE: ast.Lt, ast.Gt: ast.GtE, ast.GtE: ast.Gt, ast.And: ast.Or, ast.Or: ast.And},
    **{ast.Add: ast.Sub, ast.Sub: ast.Add, ast.Mult: ast.Div, ast.Div: ast.Mult, ast.FloorDiv: ast.Div},
    **{ast.Mod: ast.Div, ast.Pow: ast.Mult, ast.MatMult: ast.Mult, ast.LShift: ast.RShift, ast.RShift: ast.LShift},
    **{ast.BitAnd: ast.BitOr, ast.BitOr: ast.BitAnd},
}
NAMES = {"any": "all", "all": "any", "min": "max", "max": "min"}
HAS_OTHER = (ast.Compare, ast.BoolOp, ast.UnaryOp)  # conditions that have faults of their own
TYPES = ("annotation", "returns", "type_params")  # fields of the syntax tree that only a type checker reads


@dataclass(frozen=True)
class Fault(Guard):
    """A piece of source with something else in its place; a test may notice it that reaches one of the lines."""

    lines: range

    @property
    def name(self) -> str:
        return f"{self.file} {self.function}: {self.words}"

    def is_reached(self, place: str) -> bool:
        file, _, line = place.rpartition(":")
        return file == self.file and int(line) in self.lines


@dataclass(frozen=True)
class Place:
    """A node of the syntax tree: in which function, and which lines run when it does."""

    node: ast.AST
    function: str
    lines: range
    is_condition: bool = False


@cache
def source_of(path: Path) -> bytes:
    """A file as it was when it was first read, whoever edits it meanwhile."""
    return path.read_bytes()


def faults(project: Path, file: str) -> Iterator[Fault]:
    """Every fault of a file; of those with the same name in a function, the later ones are numbered."""
    source = source_of(project / file)
    names: Counter[str] = Counter()
    for place in places(ast.parse(source), "", range(1, 1 << 30)):
        for at, to, instead, words in changes(place):
            start, end = offset(source, *at), offset(source, *to)
            fault = Fault(file, place.function, place.node.lineno, start, end, instead, words, place.lines)  # type: ignore[attr-defined]
            names[fault.name] += 1
            number = names[fault.name]
            yield fault if number == 1 else replace(fault, words=f"{words} ({number})")


def places(node: ast.AST, function: str, lines: range) -> Iterator[Place]:
    """The nodes below one, but for documentation, types, imports and the parts of a text."""
    for name, value in ast.iter_fields(node):
        for child in value if isinstance(value, list) else [value]:
            if not isinstance(child, ast.AST) or name in TYPES or is_left_alone(child):
                continue
            inner, reach = function, lines
            if isinstance(child, ast.stmt) and not isinstance(child, ast.FunctionDef | ast.ClassDef) and function:
                reach = header(child)
            if isinstance(child, ast.FunctionDef):
                inner, reach = child.name, range(child.body[0].lineno, (child.end_lineno or 0) + 1)
            yield Place(child, inner, reach, name in ("test", "ifs"))
            if not isinstance(child, ast.JoinedStr) and not is_negative(child):
                yield from places(child, inner, reach)


def is_left_alone(node: ast.AST) -> bool:
    if isinstance(node, ast.Expr):
        return isinstance(node.value, ast.Constant)
    if isinstance(node, ast.Assign):
        return re.match("__all__|[A-Z][a-z]", ast.unparse(node.targets[0])) is not None  # or the name of a type
    literal = isinstance(node, ast.Subscript) and ast.unparse(node.value) == "Literal"
    return literal or isinstance(node, ast.Import | ast.ImportFrom)


def is_negative(node: ast.AST) -> bool:
    """Whether it is a number with a sign, which is one number."""
    return isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.USub) and isinstance(node.operand, ast.Constant)


def header(statement: Any) -> range:
    """The lines of a statement without those of its body."""
    body = getattr(statement, "body", None)
    return range(statement.lineno, body[0].lineno if body else statement.end_lineno + 1)


Change = tuple[tuple[int, int], tuple[int, int], str, str]


def changes(place: Place) -> Iterator[Change]:
    """(start, end, replacement, words) of each fault of one node."""
    node: Any = place.node
    negated = [ast.UnaryOp(ast.Not(), node)] if place.is_condition and not isinstance(node, HAS_OTHER) else []
    for instead in [*statements(node), *expressions(node), *negated]:
        if instead is not None:
            spelled = instead if isinstance(instead, str) else ast.unparse(instead)
            start, end = extent(node)
            text = spelled if isinstance(node, ast.stmt) else f"({spelled})"
            yield start, end, text, f"{shortened(ast.unparse(node))} -> {shortened(spelled)}"


def shortened(text: str) -> str:
    text = re.sub(r"\s+", " ", text)
    return text if len(text) <= 90 else f"{text[:60]} .. {text[-26:]}"


def statements(node: Any) -> Iterator[str | None]:
    """What stands instead of a statement."""
    if isinstance(node, ast.Expr | ast.Raise | ast.Delete | ast.Assert):
        yield "pass"
    if isinstance(node, ast.Return) and node.value is not None and ast.unparse(node.value) != "None":
        yield "return None"
    if isinstance(node, ast.Return) and node.value is None:
        yield "pass"
    if isinstance(node, ast.Assign | ast.AnnAssign) and node.value and ast.unparse(node.value) != "None":
        target = node.targets[0] if isinstance(node, ast.Assign) else node.target
        yield f"{ast.unparse(target)} = None" if not isinstance(target, ast.Tuple) else None
    if isinstance(node, ast.AugAssign):
        yield ast.unparse(ast.Assign([node.target], node.value, lineno=0))
        yield from (ast.unparse(n) for n in operators(node))
    if isinstance(node, ast.Break | ast.Continue):
        yield "continue" if isinstance(node, ast.Break) else "break"


def expressions(node: Any) -> Iterator[ast.AST | str | None]:
    """What stands instead of an expression."""
    if isinstance(node, ast.Compare):
        yield from comparisons(node)
    if isinstance(node, ast.BoolOp | ast.BinOp):
        yield from operators(node)
    if isinstance(node, ast.UnaryOp) and not is_negative(node):
        yield node.operand
    if isinstance(node, ast.Constant | ast.JoinedStr) or is_negative(node):
        yield constant(node)
    if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Load):
        yield NAMES.get(node.id)
    if isinstance(node, ast.Lambda):
        yield changed(node, body=ast.Constant(None))
    if isinstance(node, ast.Call):
        yield from calls(node)


def changed(node: Any, **fields: Any) -> Any:
    made = copy.copy(node)
    for name, value in fields.items():
        setattr(made, name, value)
    return made


def comparisons(node: ast.Compare) -> Iterator[ast.AST]:
    for i, op in enumerate(node.ops):
        yield changed(node, ops=[*node.ops[:i], OTHER[type(op)](), *node.ops[i + 1 :]])


def operators(node: Any) -> Iterator[ast.AST]:
    yield changed(node, op=OTHER[type(node.op)]())


def constant(node: Any) -> str:
    """One more, the other truth value, 0 for None, an empty text for one with words."""
    value = "an f-string" if isinstance(node, ast.JoinedStr) else ast.literal_eval(node)
    if isinstance(value, bool):
        return str(not value)
    if isinstance(value, int | float):
        return str(value + 1)
    return "0" if value is None else repr(type(value)()) if value else repr("XX")


def calls(node: ast.Call) -> Iterator[ast.AST]:
    """Two neighbouring arguments swapped where their order means something, or a keyword left out."""
    for i, (a, b) in enumerate(zip(node.args, node.args[1:], strict=False)):
        names = isinstance(a, ast.Constant) and isinstance(b, ast.Constant)
        if (
            not names
            and ast.unparse(node.func) not in ("min", "max")
            and not isinstance(a, ast.Starred)
            and not isinstance(b, ast.Starred)
        ):
            yield changed(node, args=[*node.args[:i], b, a, *node.args[i + 2 :]])
    for i, keyword in enumerate(node.keywords):
        if keyword.arg:
            yield changed(node, keywords=[*node.keywords[:i], *node.keywords[i + 1 :]])
