"""Is the verdict of `bnfold verify` right on any two models? `python -m tests.benchmarks.referee [--json PATH] [--only KIND...]`

Pairs that are known to differ, and pairs that are known to compute the same:

- faults: those of `tests.benchmarks.mutations` (graph optimization off, as there), and those of `referee_faults`,
  planted into faultless folds of small networks. Each is shown first: by inputs on which onnxruntime's outputs differ
  clearly more than those of the faultless fold, or in words where the interface is another one;
- right changes of `referee_right`, and the faultless folds themselves;
- what other tools make of real files, and torch of networks as it exports them. Whether they are right is decided here,
  by onnx's checker, the interface, and outputs on three inputs against a float64 evaluation (`referee_truth`).

A miss is PASS for a fault, a false alarm FAIL for what is right; either is exit code 1. The other tools may live in an
environment of their own: `--peers OTHER/bin/python`. With `--resume` pairs that the record has are not judged again.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from itertools import chain
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple

import bnfold
from bnfold.benchmarking.environment import environment
from bnfold.errors import BnfoldError
from bnfold.verification import FAIL, PASS
from tests.benchmarks import mutations, referee_folds, referee_nets, referee_truth
from tests.benchmarks.referee_edits import Edit
from tests.benchmarks.referee_faults import EXTERNAL, FAULTS, Bytes, external
from tests.benchmarks.referee_right import RIGHT
from tests.zoo import line

SCHEMA = "bnfold.referee/1"
FAULT, SAME = "fault", "right"
COLUMNS = ("kind", "truth", "cases", "FAIL", "INCONCLUSIVE", "PASS", "misses", "false alarms")
Row = dict[str, Any]
Judged = tuple[Any, Any, str, str]  # two models; whether it is a fault or right; how that is known


class Pair(NamedTuple):
    """Two models, made when they are judged, in a folder of their own."""

    kind: str
    name: str
    made: Callable[[Path], Judged]
    options: Mapping[str, Any] = {}


def edits() -> Iterator[Pair]:
    """What is planted into small networks, after their faultless folds."""
    changes = [(edit, FAULT) for edit in FAULTS] + [(edit, SAME) for edit in RIGHT]
    for name in dict.fromkeys(edit.net for edit, _ in changes):
        yield Pair("faultless folds", name, lambda folder, name=name: (*referee_nets.pair(name), SAME, "by bnfold"))
    for edit, truth in changes:
        yield Pair(edit.kind, f"{edit.name} ({edit.net})", partial(_edited, edit, truth))
    for name, change in EXTERNAL.items():
        yield Pair("external data", name, partial(_external, change))


def _edited(edit: Edit, truth: str, folder: Path) -> Judged:
    original, right = referee_nets.pair(edit.net)
    _, other = referee_nets.pair(edit.net)
    edit.change(other)
    if isinstance(edit.shows, str):
        return original, other, truth, edit.shows
    feeds = referee_truth.normal(original) if edit.shows is None else edit.shows
    seen = referee_truth.shows(original, right, other, feeds)
    if seen != (truth == FAULT):
        raise AssertionError(f"{edit.kind}, {edit.name}: outputs {'differ' if seen else 'do not differ'}")
    return original, other, truth, "outputs differ" if seen else "outputs are the same"


def _external(change: Bytes, folder: Path) -> Judged:
    original, right = referee_nets.pair("plain")
    one, other = external(change, original, right, folder)
    if not referee_truth.shows(original, right, other, referee_truth.normal(original)):
        raise AssertionError("outputs do not differ")
    return one, other, FAULT, "outputs differ"


def mutants(names: Sequence[str]) -> Iterator[Pair]:
    """The faults of `tests.benchmarks.mutations`, whose kinds are known to differ."""
    for name in names:
        for site, kind, original, wrong in mutations.faults(name):
            models = (original, wrong, FAULT, "by its kind")
            yield Pair(f"weights: {kind}", f"{name} {site}", lambda folder, m=models: m, {"levels": ["off"]})


def folds(python: str) -> Iterator[Pair]:
    """What other tools make, with the versions that the Python of an environment has, and torch."""
    for tool in referee_folds.TOOLS:
        for file in referee_folds.FILES:
            yield Pair(f"folds by {tool}", file, partial(_fold, partial(referee_folds.folded, file, tool, python=python)))
    for name in referee_folds.NETS:
        yield Pair("folds by torch", name, partial(_fold, partial(referee_folds.exported, name)))


def _fold(make: Callable[..., tuple[Path, Path]], folder: Path) -> Judged:
    original, other = make(folder=folder)
    why = referee_truth.wrong(original, other)
    return original, other, FAULT if why else SAME, why or "right on three inputs"


def judged(pair: Pair) -> Row:
    """The verdict on a pair, beside what is known of it."""
    with TemporaryDirectory(prefix="bnfold-referee-") as name:
        try:
            original, other, truth, known = pair.made(Path(name))
        except referee_folds.NoFold as words:
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


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path, metavar="PATH", help="write the record, after every pair")
    parser.add_argument("--resume", action="store_true", help="go on with the record at --json")
    parser.add_argument("--only", nargs="+", default=[""], metavar="KIND", help="kinds in whose name one of these is")
    parser.add_argument("--peers", default=sys.executable, metavar="PYTHON", help="of the environment of other tools")
    parser.add_argument("--jobs", type=int, default=1, help="pairs at a time")
    return parser.parse_args()


def main() -> int:
    options = arguments()
    known = json.loads(options.json.read_text())["rows"] if options.resume and options.json.exists() else []
    seen = {(row["kind"], row["name"]) for row in known}
    pairs = chain(edits(), folds(options.peers), mutants([*mutations.REAL, *mutations.ZOO]))
    chosen = (p for p in pairs if any(k in p.kind for k in options.only) and (p.kind, p.name) not in seen)
    record = {"schema": SCHEMA, "environment": environment(), "peers": referee_folds.versions(options.peers), "rows": known}
    for row in judgements(chosen, options.jobs):
        known.append(row)
        mark = "  MISS" * is_miss(row) + "  FALSE ALARM" * is_false_alarm(row)
        print(f"{row['kind']}: {row['name']}: {row['truth']}, {row['verdict']}{mark}", flush=True)
        if options.json:
            options.json.write_text(json.dumps(record, indent=1) + "\n")
    print(line(COLUMNS), line(["---"] * len(COLUMNS)), *map(line, table(known)), sep="\n")
    return int(any(is_miss(row) or is_false_alarm(row) for row in known))


if __name__ == "__main__":
    sys.exit(main())
