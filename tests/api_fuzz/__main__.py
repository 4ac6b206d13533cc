"""bnfold.fold, in Python, on graphs that ordinary generators do not make:

python -m tests.api_fuzz [--graphs 10000] [--seed 0] [--jobs 1] [--first 0] [--rows PATH] [--json PATH]
python -m tests.api_fuzz --graph 1234 [--seed 0] [--reduce] [--save PATH]

Each graph is drawn from the seed and its number alone. It must pass onnx's full check and run in onnxruntime with every
optimization off; the rest is dropped, and counted. What is folded must be valid, run, and compute the same, for several
inputs, both answers to every condition and several numbers of iterations, but for what moving the original's constants
and inputs by one roundoff does; folding it again must fold nothing and give the same bytes; the argument must be left as
it was; no exception but BnfoldError, and this only for what `fold` says it refuses. With --rows a run goes on where it
stopped. The exit code is 1 where there is a fault.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import onnx

from bnfold.benchmarking.environment import environment

from .draw import draw
from .judge import Dropped, judged
from .reduce import reduced
from .tally import summary, table
from .team import Row, rows


def known(path: Path | None) -> list[Row]:
    """The rows of a run that was stopped."""
    if not path or not path.exists():
        return []
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def gathered(found: Iterator[Row], path: Path | None) -> Iterator[Row]:
    """Each row is written to `path` at once, and each fault to stderr."""
    for row in found:
        if path:
            with path.open("a", encoding="utf-8") as sink:
                sink.write(json.dumps(row) + "\n")
        for kind, words in row.get("faults", []):
            print(f"graph {row['index']}: {kind}: {words!a}", file=sys.stderr, flush=True)
        yield row


def one(seed: int, index: int, smaller: bool, save: Path | None) -> int:
    """One graph again, in text, with what is wrong with it."""
    drawn = draw(seed, index)
    drawn = reduced(drawn) if smaller else drawn
    print(onnx.printer.to_text(drawn.model).encode("unicode_escape").decode().replace("\\n", "\n"))
    if save:
        onnx.save(drawn.model, save)
    try:
        found = judged(drawn)
    except Dropped as why:
        print(f"dropped: {why}")
        return 0
    print({k: v for k, v in found.items() if k != "faults"})
    for kind, words in found["faults"]:
        print(f"{kind}: {words!a}")
    return int(bool(found["faults"]))


def run(options: argparse.Namespace) -> int:
    """Many graphs, a table, and a record."""
    begun = time.monotonic()
    before = known(options.rows)
    there = {row["index"] for row in before}
    wanted = [i for i in range(options.first, options.first + options.graphs) if i not in there]
    done = [*before, *gathered(rows(options.seed, wanted, options.jobs), options.rows)]
    found = summary(done)
    print(table(found))
    record = {"schema": "bnfold.api_fuzz/1", "graphs": options.graphs, "first": options.first, "seed": options.seed}
    record |= {"seconds": round(time.monotonic() - begun), "known before": len(before), "environment": environment()}
    if options.json:
        options.json.write_text(json.dumps(record | found, indent=1) + "\n", encoding="utf-8")
    return int(bool(found["faults"]))


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--graphs", type=int, default=10_000)
    parser.add_argument("--first", type=int, default=0, help="the number of the first graph")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--jobs", type=int, default=1)
    parser.add_argument("--rows", type=Path, help="where rows are kept; a run goes on where it stopped")
    parser.add_argument("--json", type=Path)
    parser.add_argument("--graph", type=int, help="this one alone, in text")
    parser.add_argument("--reduce", action="store_true", help="made smaller, as long as it fails in the same way")
    parser.add_argument("--save", type=Path, help="write this one to a file")
    options = parser.parse_args()
    if options.graph is not None:
        return one(options.seed, options.graph, options.reduce, options.save)
    return run(options)


if __name__ == "__main__":
    sys.exit(main())
