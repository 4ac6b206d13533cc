"""What the benchmark says of a model against itself: `python -m tests.benchmarks.a_a [--runs 20] [--model PATH] [--json PATH]`

Exits 1 if it ever says anything but EQUIVALENT or INCONCLUSIVE.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections import Counter
from pathlib import Path
from typing import Any

from bnfold.benchmarking import bench
from bnfold.benchmarking.environment import environment

ALLOWED = {"EQUIVALENT", "INCONCLUSIVE"}


def once(model: Path, seed: int, budget: float) -> dict[str, Any]:
    """One whole benchmark, seven launches at the most."""
    cell = bench(model, model, levels=["default"], threads=1, budget_s=budget, seed=seed).headline
    interval = cell.speedup
    return {"verdict": cell.verdict, "ratio": interval.estimate, "low": interval.low, "high": interval.high}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=20)
    parser.add_argument("--budget", type=float, default=10.0)
    parser.add_argument("--model", type=Path, default=Path("/tmp/zoo2/mobilenetv3_small_100.onnx"))
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    found = []
    for seed in range(options.runs):
        found.append(once(options.model, seed, options.budget))
        print(seed, found[-1], flush=True)
    counts = dict(Counter(each["verdict"] for each in found))
    print(counts)
    if options.json:
        answer = {"model": options.model.stem, "counts": counts, "runs": found, "environment": environment()}
        options.json.write_text(json.dumps(answer, indent=1) + "\n")
    return int(not ALLOWED.issuperset(counts))


if __name__ == "__main__":
    sys.exit(main())
