"""The verdict of `bnfold verify` on a pair, next to what is known of it."""

from __future__ import annotations

import time
from collections import Counter, deque
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import bnfold
from bnfold.errors import BnfoldError
from bnfold.verification import FAIL, PASS

from .folds import NoFold
from .pairs import FAULT, SAME, Pair

COLUMNS = ("kind", "truth", "cases", "FAIL", "INCONCLUSIVE", "PASS", "misses", "false alarms")
Row = dict[str, Any]


def judged(pair: Pair) -> Row:
    """The verdict on a pair, next to what is known of it."""
    with TemporaryDirectory(prefix="bnfold-referee-") as name:
        try:
            original, other, truth, known = pair.made(Path(name))
        except NoFold as words:
            return {"kind": pair.kind, "name": pair.name, "truth": "no fold", "known": str(words), "verdict": ""}
        begin = time.perf_counter()
        verdict, reasons = verdict_of(original, other, pair.options)
    row = {"kind": pair.kind, "name": pair.name, "truth": truth, "known": known, "verdict": verdict}
    return row | {"reasons": reasons, "seconds": round(time.perf_counter() - begin, 1)}


def verdict_of(original: Any, other: Any, options: Mapping[str, Any]) -> tuple[str, list[str]]:
    """That of `bnfold verify`; a model that it cannot read is refused, which counts as FAIL."""
    try:
        found = bnfold.verify(original, other, **options)
    except BnfoldError as why:
        return FAIL, [f"exit {why.exit_code}: {why}"]
    return found.verdict, list(found.reasons[:3])


def judgements(pairs: Iterable[Pair], jobs: int) -> Iterator[Row]:
    """Rows in the order of the pairs, `jobs` at a time."""
    pending: deque[Future[Row]] = deque()
    with ThreadPoolExecutor(jobs) as pool:
        for pair in pairs:
            pending.append(pool.submit(judged, pair))
            if len(pending) >= jobs:
                yield pending.popleft().result()
        yield from (each.result() for each in pending)


def is_miss(row: Row) -> bool:
    return row["truth"] == FAULT and row["verdict"] == PASS


def is_false_alarm(row: Row) -> bool:
    return row["truth"] == SAME and row["verdict"] == FAIL


def table(rows: Iterable[Row]) -> Iterator[tuple[str, ...]]:
    """A line for each kind and truth, and their sums."""
    groups: dict[tuple[str, str], list[Row]] = {}
    for row in rows:
        groups.setdefault((row["kind"], row["truth"]), []).append(row)
    for truth in (FAULT, SAME):
        groups["all", truth] = [row for (_, known), some in groups.items() if known == truth for row in some]
    for (kind, truth), some in sorted(groups.items(), key=lambda item: (item[0][1], item[0][0] == "all")):
        verdicts = Counter(row["verdict"] for row in some)
        wrong = (sum(map(which, some)) for which in (is_miss, is_false_alarm))
        counts = (len(some), verdicts[FAIL], len(some) - verdicts[FAIL] - verdicts[PASS], verdicts[PASS], *wrong)
        yield (kind, truth, *map(str, counts))
