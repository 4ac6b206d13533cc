"""bnfold and its peers on random graphs, judged in float64:

python -m tests.differential [--graphs 2000] [--seed 0] [--jobs 1] [--kind quantized] [--tools bnfold ...] [--also TOOL=PYTHON] [--json PATH]

Every tool works in a child process, which may crash or hang. What a tool writes is checked by onnx's checker (with
shape inference), run by onnxruntime with all optimizations off, and compared with a float64 evaluation of the original;
where onnxruntime has no kernel for the original (float64 and bfloat16 Conv), the result is evaluated in float64 as well.
Each tool is named with its version; `--also onnxruntime=OTHER/bin/python` adds another version, of another environment,
which needs no package but the tool. The judge is the onnxruntime of this environment.
"""

from __future__ import annotations

import argparse
import json
import queue
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from bnfold.benchmarking.environment import environment
from tests.benchmarks.peers import PEERS, Tool, add_also, chosen

from .judging import DRAWS
from .tally import findings, summary, table
from .teams import Team
from .work import Answer

TOOLS = ["bnfold", *PEERS]


def shares(
    tools: Sequence[Tool],
    graphs: int,
    seed: int,
    jobs: int = 1,
    known: Mapping[int, Answer] | None = None,
    kind: str = "any",
) -> Iterator[Answer]:
    """A row per graph, as soon as it is found, by `jobs` teams at a time; what is `known` is not done again."""
    known, found = known or {}, queue.SimpleQueue[Answer | None]()

    def work(first: int) -> None:
        with tempfile.TemporaryDirectory(prefix="bnfold-differential-") as folder:
            team = Team(tools, Path(folder), seed, kind)
            try:
                for index in range(first, graphs, jobs):
                    found.put(team.row(index, known.get(index)))
            finally:
                team.close()
                found.put(None)

    with ThreadPoolExecutor(jobs) as pool:
        running = [pool.submit(work, first) for first in range(jobs)]
        for _ in running:
            yield from iter(found.get, None)
        for each in running:
            each.result()


def kept(path: Path | None) -> dict[int, Answer]:
    """The rows of an earlier run; where there are two of a graph, the later."""
    if not path or not path.exists():
        return {}
    rows = map(json.loads, path.read_text().splitlines())
    return {row["index"]: row for row in rows}


def gathered(rows: Iterator[Answer], path: Path | None) -> list[Answer]:
    """All rows, each written to `path` at once."""
    done, started = [], time.monotonic()
    for row in rows:
        done.append(row)
        if path:
            with path.open("a") as sink:
                sink.write(json.dumps(row) + "\n")
        if len(done) % 100 == 0:
            print(f"{len(done)} graphs, {time.monotonic() - started:.0f} s", file=sys.stderr, flush=True)
    return sorted(done, key=lambda row: row["index"])


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--graphs", type=int, default=2000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--jobs", type=int, default=1)
    parser.add_argument("--tools", nargs="+", default=TOOLS, choices=TOOLS)
    parser.add_argument("--kind", choices=DRAWS, default="any", help="of graphs: of any layers, or quantized ones")
    parser.add_argument("--peers", default=sys.executable, metavar="PYTHON", help="of the environment of other tools")
    add_also(parser)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--rows", type=Path, help="where rows are kept; a run goes on where it stopped")
    options = parser.parse_args()
    tools = chosen(parser, options)
    labels = [tool.label for tool in tools]
    begun = time.monotonic()
    known = kept(options.rows)
    found = gathered(shares(tools, options.graphs, options.seed, options.jobs, known, options.kind), options.rows)
    told = summary(found, labels)
    print(table(told))
    record = {"schema": "bnfold.differential/2", "graphs": options.graphs, "seed": options.seed, "kind": options.kind}
    record |= {"seconds": round(time.monotonic() - begun), "known before": len(known), "environment": environment()}
    record |= {"summary": told, "findings": findings(found, labels)}
    if options.json:
        options.json.write_text(json.dumps(record, indent=1) + "\n")
    return int(any(finding["tool"] == "bnfold" for finding in record["findings"]))


if __name__ == "__main__":
    sys.exit(main())
