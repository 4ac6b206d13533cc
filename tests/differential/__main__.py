"""bnfold and its peers on random graphs, judged in float64:

python -m tests.differential [--graphs 2000] [--seed 0] [--jobs 1] [--tools bnfold ...] [--json PATH]

Every tool works in a child process, which may crash or hang. What a tool writes is checked by onnx's checker (with
shape inference), run by onnxruntime with all optimizations off, and compared with a float64 evaluation of the original;
where onnxruntime has no kernel for the original (float64 and bfloat16 Conv), the result is evaluated in float64 as well.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from importlib.metadata import version
from pathlib import Path

from bnfold.bench.environment import environment

from .tally import PEERS, TOOLS, findings, summary, table
from .teams import Team
from .work import Answer

WHEELS = {"onnxruntime": "onnxruntime-gpu"}


def rows(tools: Sequence[str], indices: Sequence[int], seed: int) -> Iterator[Answer]:
    """What is found about each graph, as soon as it is."""
    with tempfile.TemporaryDirectory(prefix="bnfold-differential-") as folder:
        team = Team(tools, Path(folder), seed)
        try:
            for index in indices:
                yield team.row(index)
        finally:
            team.close()


def shares(tools: Sequence[str], graphs: int, seed: int, jobs: int) -> list[Answer]:
    """All rows, from `jobs` teams at a time."""
    done: list[Answer] = []
    started = time.monotonic()

    def work(first: int) -> None:
        for row in rows(tools, range(first, graphs, jobs), seed):
            done.append(row)
            if len(done) % 100 == 0:
                print(f"{len(done)} graphs, {time.monotonic() - started:.0f} s", file=sys.stderr, flush=True)

    with ThreadPoolExecutor(jobs) as pool:
        for future in as_completed([pool.submit(work, first) for first in range(jobs)]):
            future.result()
    return sorted(done, key=lambda row: row["index"])


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--graphs", type=int, default=2000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--jobs", type=int, default=1)
    parser.add_argument("--tools", nargs="+", default=TOOLS, choices=TOOLS)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--rows", type=Path, help="also write every row, for a closer look")
    options = parser.parse_args()
    begun = time.monotonic()
    found = shares(options.tools, options.graphs, options.seed, options.jobs)
    told = summary(found, options.tools)
    print(table(told))
    record = {"schema": "bnfold.differential/1", "graphs": options.graphs, "seed": options.seed}
    record |= {"seconds": round(time.monotonic() - begun), "jobs": options.jobs, "environment": environment()}
    record |= {"versions": {t: version(WHEELS.get(t, t)) for t in PEERS if t in options.tools}}
    record |= {"summary": told, "findings": findings(found)}
    if options.json:
        options.json.write_text(json.dumps(record, indent=1) + "\n")
    if options.rows:
        options.rows.write_text("".join(json.dumps(row) + "\n" for row in found))
    return int(any(finding["tool"] == "bnfold" for finding in record["findings"]))


if __name__ == "__main__":
    sys.exit(main())
