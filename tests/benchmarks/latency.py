"""Latency of the zoo on onnxruntime's CPU provider, at its default optimization: what folding buys, and what is left.

python -m tests.benchmarks.latency [NAMES...] [--launches 7] [--budget 20] [--threads 1] [--json PATH]

Each model as exported, as folded, and with every BatchNormalization taken out, which no fold can beat by folding alone.
Ratios are paired, with 95 % intervals. A model that the JSON file already holds, measured with the onnxruntime of this
environment, is not measured again: another environment, with another onnxruntime, adds its rows to the same file (with
exports in the cache it needs no PyTorch).
"""

from __future__ import annotations

import argparse
import json
import math
import os
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import fmean
from typing import Any

import onnx

import bnfold
from bnfold.benchmarking import Benchmark, bench
from bnfold.benchmarking.environment import environment
from bnfold.folding import driver

RESULT = Path(__file__).parent / "results" / "latency_cpu.json"
NAMES = [
    "levit_128s",
    "repvgg_a0",
    "densenet121",
    "mobileone_s0",
    "repghostnet_050",
    "mixnet_s",
    "repvit_m0_9",
    "fastvit_t8",
    "visformer_tiny",
    "lambda_resnet26t",
    "swiftformer_xs",
    "efficientformerv2_s0",
    "efficientvit_m0",
    "shvit_s1",
    "starnet_s1",
    "dpn68",
    "resnetv2_50",
    "xcit_nano_12_p8_224",
    "botnet26t_256",
    "haloregnetz_b",
    "resnet18",
    "efficientnet_b0",
    "mobilenetv3_small_100",
    "ghostnet_100",
]


def bypassed(model: onnx.ModelProto) -> onnx.ModelProto:
    """The same graph without its BatchNormalizations; an output of the graph keeps its name by an Identity."""
    bare = onnx.ModelProto()
    bare.CopyFrom(model)
    outputs, passed = {value.name for value in bare.graph.output}, {}
    for node in [node for node in bare.graph.node if node.op_type == "BatchNormalization"]:
        if node.output[0] in outputs:
            node.op_type = "Identity"
            del node.input[1:], node.attribute[:]
        else:
            passed[node.output[0]] = node.input[0]
            bare.graph.node.remove(node)
    for node in bare.graph.node:
        node.input[:] = [behind(name, passed) for name in node.input]
    return bare


def behind(name: str, passed: Mapping[str, str]) -> str:
    """What stands for a tensor once the nodes that made it are gone."""
    while name in passed:
        name = passed[name]
    return name


def source(name: str, cache: Path) -> Path:
    """The export in the cache; only one that is not there yet needs PyTorch."""
    path = cache / f"{name}.onnx"
    if not path.exists():
        from tests.zoo_models import exported

        return exported(name, cache)
    return path


def measured(name: str, cache: Path, **how: Any) -> dict[str, Any]:
    """One row of the table: the folded model over the original, and the bare one over the folded."""
    original = source(name, cache)
    with tempfile.TemporaryDirectory() as folder:
        folded, bare = Path(folder, "folded.onnx"), Path(folder, "bare.onnx")
        bnfold.save(driver.fold(original).model, folded)
        onnx.save(bypassed(onnx.load(original)), bare)
        won = bench(original, folded, levels=["default"], **how)
        lost = bench(bare, folded, levels=["default"], **how)
    return {
        "name": name,
        "batch_normalization": won.batch_normalization,
        "left_by_onnxruntime": won.left_by_onnxruntime["original"],
        "nodes": {**won.nodes, "bare": lost.nodes["original"]},
        "same_graph": won.same_graph,
        "original_over_folded": ratio(won),
        "bare_over_folded": ratio(lost),
        "environment": won.environment,
    }


def ratio(found: Benchmark) -> dict[str, Any]:
    cell = found.headline
    interval = cell.speedup
    bounds = {"ratio": interval.estimate, "low": interval.low, "high": interval.high}
    return {**bounds, "verdict": cell.verdict, "ms": list(cell.ms), "launches": found.launches}


def runtime(row: Mapping[str, Any]) -> str:
    """`onnxruntime-gpu 1.31.1`"""
    return row["environment"]["onnxruntime"]


def summaries(rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """A summary for each onnxruntime."""
    return {each: summary([row for row in rows if runtime(row) == each]) for each in dict.fromkeys(map(runtime, rows))}


def summary(rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Geometric means, and the models that folding slows beyond their interval."""
    left = [row for row in rows if row["left_by_onnxruntime"]]
    kinds = {"onnxruntime leaves some": left, "all": rows}
    return {
        "models": len(rows),
        "geometric_mean_of_speedup": {key: mean(some, "original_over_folded") for key, some in kinds.items()},
        "geometric_mean_over_bound": {key: mean(some, "bare_over_folded") for key, some in kinds.items()},
        "slower": [row["name"] for row in rows if row["original_over_folded"]["high"] < 1],
    }


def mean(rows: Sequence[Mapping[str, Any]], key: str) -> float | None:
    return math.exp(fmean(math.log(row[key]["ratio"]) for row in rows)) if rows else None


def words(entry: Mapping[str, Any]) -> str:
    return f"{entry['ratio']:.3f} [{entry['low']:.3f}, {entry['high']:.3f}]"


def line(row: Mapping[str, Any]) -> str:
    counts = f"{row['batch_normalization']['original']} | {row['left_by_onnxruntime']}"
    times = " / ".join(f"{ms:.2f}" for ms in row["original_over_folded"]["ms"])
    return f"| {row['name']} | {runtime(row)} | {counts} | {times} | {words(row['original_over_folded'])} | {words(row['bare_over_folded'])} |"


def kept(rows: Sequence[Mapping[str, Any]], path: Path) -> None:
    """Write what is known so far; a reader never sees half a file."""
    draft = path.with_suffix(f".{os.getpid()}.part")
    payload = {"schema": "bnfold.latency/2", "summary": summaries(rows), "rows": rows}
    draft.write_text(json.dumps(payload, indent=1) + "\n")
    draft.replace(path)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", default=NAMES)
    parser.add_argument("--threads", type=int, default=1, help="of an operator")
    parser.add_argument("--launches", type=int, default=7)
    parser.add_argument("--budget", type=float, default=20.0, metavar="SECONDS", help="of each of two comparisons")
    parser.add_argument("--cache", type=Path, default=Path("/tmp/zoo2"), help="where exports are kept")
    parser.add_argument("--json", type=Path, default=RESULT)
    options = parser.parse_args()
    rows = json.loads(options.json.read_text())["rows"] if options.json.exists() else []
    here = environment()["onnxruntime"]
    print(
        "| model | with | BN | left by onnxruntime | ms original / folded | speed-up [95%] | bare over folded [95%] |"
    )
    print("|---|---|---|---|---|---|---|")
    for name in options.names:
        if not any((row["name"], runtime(row)) == (name, here) for row in rows):
            how = {"threads": options.threads, "launches": options.launches, "budget_s": options.budget}
            rows.append(measured(name, options.cache, **how))
            kept(rows, options.json)
        print(line(next(row for row in rows if (row["name"], runtime(row)) == (name, here))), flush=True)
    print(json.dumps(summaries(rows), indent=1))


if __name__ == "__main__":
    main()
