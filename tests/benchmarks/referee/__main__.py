"""Is the verdict of `bnfold verify` right on any two models? `python -m tests.benchmarks.referee [--json PATH] [--only KIND...]`

Pairs that are known to differ, and pairs that are known to compute the same:

- faults: those of `tests.benchmarks.mutations` (graph optimization off, as there), and those of `faults`, `rare` and `interface`,
  planted into faultless folds of small networks. Each is shown first: by inputs on which onnxruntime's outputs differ
  clearly more than those of the faultless fold, or in words where the interface is another one;
- right changes of `right`, and the faultless folds themselves;
- what other tools make of real files, and torch of networks as it exports them. Whether they are right is decided here,
  by onnx's checker, the interface, and outputs on three inputs against a float64 evaluation (`truth`).

A miss is PASS for a fault, a false alarm FAIL for what is right; either is exit code 1. The other tools may live in an
environment of their own: `--peers OTHER/bin/python`. With `--resume` pairs that the record has are not judged again.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Container, Iterator
from itertools import chain
from pathlib import Path

from bnfold.benchmarking.environment import environment
from tests.benchmarks import mutations
from tests.zoo import line

from . import folds
from .judging import COLUMNS, is_false_alarm, is_miss, judgements, table
from .pairs import Pair, edits, in_folds, of_mutations, of_tools

SCHEMA = "bnfold.referee/1"


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path, metavar="PATH", help="write the record, after every pair")
    parser.add_argument("--resume", action="store_true", help="go on with the record at --json")
    parser.add_argument("--only", nargs="+", default=[""], metavar="KIND", help="kinds in whose name one of these is")
    parser.add_argument("--peers", default=sys.executable, metavar="PYTHON", help="of the environment of other tools")
    parser.add_argument("--jobs", type=int, default=1, help="pairs at a time")
    return parser.parse_args()


def chosen(options: argparse.Namespace, known: Container[tuple[str, str]]) -> Iterator[Pair]:
    """The pairs of the kinds wanted whose verdicts are not known."""

    def wanted(kind: str) -> bool:
        return any(words in kind for words in options.only)

    models = (*mutations.REAL, *mutations.ZOO) if any(wanted(f"weights: {kind}") for kind in mutations.KINDS) else ()
    pairs = chain(edits(), of_tools(options.peers), in_folds(options.peers), of_mutations(models))
    return (pair for pair in pairs if wanted(pair.kind) and (pair.kind, pair.name) not in known)


def main() -> int:
    options = arguments()
    known = json.loads(options.json.read_text())["rows"] if options.resume and options.json.exists() else []
    record = {"schema": SCHEMA, "seed": 0, "environment": environment() | folds.versions(options.peers), "rows": known}
    for row in judgements(chosen(options, {(row["kind"], row["name"]) for row in known}), options.jobs):
        known.append(row)
        mark = "  MISS" * is_miss(row) + "  FALSE ALARM" * is_false_alarm(row)
        print(f"{row['kind']}: {row['name']}: {row['truth']}, {row['verdict']}{mark}", flush=True)
        if options.json:
            options.json.write_text(json.dumps(record, indent=1) + "\n")
    print(line(COLUMNS), line(["---"] * len(COLUMNS)), *map(line, table(known)), sep="\n")
    return int(any(is_miss(row) or is_false_alarm(row) for row in known))


if __name__ == "__main__":
    sys.exit(main())
