"""Latency of quantized networks, folded against unfolded, on onnxruntime's CPU provider at its default optimization:

python -m tests.benchmarks.quantized_latency [NAMES...] [--forms FORM ...] [--launches 7] [--budget 20] [--threads 1] [--json PATH]

Networks of the quantized zoo (tests/zoo_quantized.py). Next to the ratio, with its 95 % interval, stands how many
layers onnxruntime computes in integers, before and after: it does so where a layer reads and makes rounded data, and has
no bias in floating point.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from pathlib import Path
from typing import Any

import onnx

import bnfold
from bnfold.benchmarking.environment import environment
from bnfold.folding import driver
from tests.benchmarks.latency import ratio, words
from tests.benchmarks.quantized_faults import FORMS
from tests.benchmarks.tools import onnxruntime_extended
from tests.zoo import line
from tests.zoo_quantized import CACHE, NAMES, source

COLUMNS = (
    "network",
    "form",
    "BN before",
    "after",
    "integer layers before",
    "after",
    "ms before",
    "after",
    "times as fast [95 %]",
    "verdict",
)
INTEGER = ("QLinear", "QGemm", "MatMulInteger", "ConvInteger", "DynamicQuantizeMatMul")


def measured(name: str, form: str, cache: Path, **how: Any) -> dict[str, Any]:
    """One row of the table."""
    original = source(name, form, cache)
    with tempfile.TemporaryDirectory() as folder:
        folded = Path(folder, "folded.onnx")
        bnfold.save(driver.fold(original).model, folded)
        found = bnfold.bench(original, folded, levels=["default"], **how)
        integers = [integer_layers(path, Path(folder, "optimized.onnx")) for path in (original, folded)]
    counts = {"batch_normalization": found.batch_normalization, "integer_layers": integers}
    return {"name": name, "form": form, **counts, **ratio(found), "environment": found.environment}


def integer_layers(path: Path, target: Path) -> int:
    """Layers that onnxruntime turns into integer operators."""
    onnxruntime_extended(str(path), str(target))
    return sum(node.op_type.startswith(INTEGER) for node in onnx.load(target).graph.node)


def cells(row: dict[str, Any]) -> list[str]:
    norms, times = row["batch_normalization"], [f"{ms:.2f}" for ms in row["ms"]]
    counts = [norms["original"], norms["folded"], *row["integer_layers"]]
    return [row["name"], row["form"], *map(str, counts), *times, words(row), row["verdict"]]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", default=list(NAMES), metavar="NAME", help=f"default: {', '.join(NAMES)}")
    parser.add_argument("--forms", nargs="+", choices=FORMS, default=list(FORMS))
    parser.add_argument("--threads", type=int, default=1, help="of an operator")
    parser.add_argument("--launches", type=int, default=7)
    parser.add_argument("--budget", type=float, default=20.0, metavar="SECONDS", help="of each comparison")
    parser.add_argument("--cache", type=Path, default=CACHE, metavar="FOLDER", help="of the quantized files")
    parser.add_argument("--note", default="", help="goes into the record: what else ran on the machine, say")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    how = {"threads": options.threads, "launches": options.launches, "budget_s": options.budget}
    print(line(COLUMNS), line(["---"] * len(COLUMNS)), sep="\n", flush=True)
    rows = []
    for name in options.names:
        for form in options.forms:
            rows.append(measured(name, form, options.cache, **how))
            print(line(cells(rows[-1])), flush=True)
            if options.json:
                record = {
                    "schema": "bnfold.quantized_latency/1",
                    "note": options.note,
                    "environment": environment(),
                    "rows": rows,
                }
                options.json.write_text(json.dumps(record, indent=1) + "\n")


if __name__ == "__main__":
    main()
