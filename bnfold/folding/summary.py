"""Tables of what folds and of what is kept: a row for each node or, of many, for each reason."""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from itertools import takewhile

from ..display.display import Table
from .advice import advice_of
from .reasons import Folded, Kept

FOLDED = ("node", "operator", "folds into", "through")
KEPT = ("node", "operator", "why not towards the inputs", "why not towards the outputs", "what you can do")
LAW_WORDS = {"hoist": "to the inputs", "sink": "to the outputs", "merge": "branches merged"}
FEW = 6  # rows that are shown as they are
MOST_BLOCKS, FIRST = 8, 3  # named of a group
_Cells = tuple[object, ...]

READ = "several nodes read the tensor"
READERS = re.compile(r"'[^']*' is read by (.*)")
OPERATOR = re.compile(r"(\w+) (?:-> )?'")
NAME_OF_NODE = re.compile(r"(?<=\w) (?:-> )?'[^']*'")
LIST = re.compile(r"\b(\w+)(?:, \1\b)+")
DETAILS = (re.compile(r" and \d+ more\b"), re.compile(r" \(-?\d[-+.\de]*\)"))


def folded_table(folded: Iterable[Folded], detailed: bool = False) -> Table:
    """What folds: into whose constants, through which nodes on the way; if `detailed` node by node, and which way."""
    rows = [(f.node or f.output, f.operator, f.into, f.through, *[LAW_WORDS[f.direction]] * detailed) for f in folded]
    return _table("Folds", (*FOLDED, *["direction"] * detailed), rows, detailed)


def kept_table(kept: Iterable[Kept], detailed: bool = False) -> Table:
    """What is kept, why, by code and in words, and what can be done; if `detailed` node by node."""
    rows = [(k.node or k.output, k.operator, *k.coded, advice_of(k)) for k in kept]
    return _table("Kept", KEPT, rows, detailed)


def _table(title: str, columns: Sequence[str], rows: Sequence[_Cells], detailed: bool) -> Table:
    """Where all nodes are of one operator, it is the name of their column."""
    shown = rows if detailed or len(rows) <= FEW else grouped(rows)
    operators = {row[1] for row in shown}
    if len(operators) != 1:
        return Table(title, columns, shown)
    return Table(title, (*map(str, operators), *columns[2:]), [(row[0], *row[2:]) for row in shown])


def grouped(rows: Iterable[_Cells]) -> list[_Cells]:
    """One row for all that say the same but for names; one that says it alone stays as it is."""
    groups: dict[_Cells, list[_Cells]] = defaultdict(list)
    for row in rows:
        groups[(row[1], *map(general, row[2:]))].append(row)
    return [same[0] if len(same) == 1 else (in_blocks(same), *_with_readers(key, same)) for key, same in groups.items()]


def _with_readers(key: _Cells, same: Sequence[_Cells]) -> _Cells:
    """The same cells, which say of which operators the nodes are that read a tensor."""
    read = ("".join(READERS.findall(str(cell))) for row in same for cell in row)
    operators = sorted({operator for text in read for operator in OPERATOR.findall(text)})
    return tuple(str(cell).replace(READ, f"{READ} ({', '.join(operators[:FIRST])})") for cell in key)


def general(cell: object) -> object:
    """What a cell says of any node: operators without their names, and each once."""
    if isinstance(cell, tuple):
        return ", ".join(sorted({str(general(part)) for part in cell}))
    text = READERS.sub(READ, str(cell))
    text = NAME_OF_NODE.sub("", text)
    for detail in DETAILS:
        text = detail.sub("", text)
    return LIST.sub(r"\1", re.sub(r"'[^']*'", "a tensor", text))


def in_blocks(rows: Sequence[_Cells]) -> str:
    """How many nodes, and where: `62 in features: denseblock1 (6), denseblock2 (12), norm5`."""
    names = [str(row[0]) for row in rows]
    least = min(map(_depth, names))
    shared = sum(1 for _ in takewhile(lambda depth: len(_blocks(names, depth)) == 1, range(1, least)))
    outer = _block(names[0], shared)
    deeper = (_blocks(names, depth) for depth in range(shared + 1, max(map(_depth, names))))
    fitting = [blocks for blocks in deeper if len(blocks) <= min(MOST_BLOCKS, len(names) - 1)]
    if fitting:
        inside = [block + f" ({number})" * (number > 1) for block, number in fitting[-1].items()]
    else:
        inside = names[:FIRST]
    more = f" and {len(names) - FIRST} more" if names[FIRST:] and not fitting else ""
    listed = ", ".join(block[len(outer) :].lstrip("./" if outer else "") for block in inside)
    return f"{len(names)}{f' in {outer}' * bool(outer)}: {listed}{more}"


def _blocks(names: Sequence[str], depth: int) -> Counter[str]:
    return Counter(_block(name, depth) for name in names)


def _depth(name: str) -> int:
    return len(_pieces(name))


def _block(name: str, depth: int) -> str:
    return "".join(_pieces(name)[:depth])


def _pieces(name: str) -> list[str]:
    """`a.b/c` -> `a`, `.b`, `/c`"""
    return re.findall(r"[./]*[^./]+", name) or [name]
