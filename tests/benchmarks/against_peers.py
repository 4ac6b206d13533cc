"""What folding a file costs, next to other tools on the same file: wall time, memory, what is left, whether it is right.

python -m tests.benchmarks.against_peers [MODELS...] [--rounds 5] [--tools TOOL...] [--also TOOL=PYTHON]
    [--cache DIR] [--folder DIR] [--json PATH]

Every tool is a whole fresh process that reads one file and writes another. In each round each runs once, in random
order, and next to it, right before or right after, a process that loads and saves the file with the onnx package: ratios
are to that one, for a machine may be twice as fast half a minute later. (The ratio of `load and save` to its like shows
what is left of such noise.) The file is in the page cache throughout. bnfold flushes what it writes to the disk; no
other tool does, so what the one before has left in memory is flushed before the clock starts, which bnfold would wait
for, too. Each tool is named with its version; `--also onnxruntime=OTHER/bin/python` adds another version of one.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import sys
import tempfile
from pathlib import Path
from statistics import median
from typing import Any

from tests.benchmarks.children import Run, as_installed, command, python
from tests.benchmarks.peers import Tool, add_also, chosen
from tests.benchmarks.tools import TOOLS

MODELS = ["vgg11_bn", "inception_v4", "resnet18"]
BASE, CP = Tool("load and save"), Tool("cp")
MODULE = "tests.benchmarks.against_peers"


def ran(tool: Tool, source: Path, target: Path) -> Run:
    target.unlink(missing_ok=True)
    os.sync()
    if tool == CP:
        return command(["cp", source, target])
    return command([tool.python, "-m", "tests.benchmarks.tools", tool.name, source, target])


def examined(source: str, target: str) -> dict[str, Any]:
    """BatchNormalizations left, onnx's checker, and the worst error at an output over the largest value there."""
    import numpy as np
    import onnx
    import onnxruntime as ort

    model = onnx.load(target)
    left = sum(node.op_type == "BatchNormalization" for node in model.graph.node)
    try:
        onnx.checker.check_model(target)
        valid = True
    except onnx.checker.ValidationError:
        valid = False
    options = ort.SessionOptions()
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.log_severity_level = 4
    before, after = (
        ort.InferenceSession(path, options, providers=["CPUExecutionProvider"]) for path in (source, target)
    )
    draw = np.random.default_rng(0)
    x = {i.name: draw.standard_normal(numbers(i.shape)).astype(np.float32) for i in before.get_inputs()}
    pairs = zip(before.run(None, x), after.run(None, x), strict=True)
    error = max(float(np.abs(a - b).max() / np.abs(a).max()) for a, b in pairs)
    return {"batch_normalizations": left, "valid": valid, "error": error}


def numbers(shape: list[Any]) -> list[int]:
    return [n if isinstance(n, int) else 1 for n in shape]


def compared(source: Path, rounds: int, folder: Path, tools: list[Tool]) -> list[dict[str, Any]]:
    """One row per tool."""
    runs: dict[Tool, list[Run]] = {tool: [] for tool in tools}
    beside: dict[Tool, list[Run]] = {tool: [] for tool in tools}
    source.read_bytes()  # into the page cache
    for _ in range(rounds):
        for tool in random.sample(tools, len(tools)):
            pair = [(runs[tool], tool, target_of(tool, folder)), (beside[tool], BASE, folder / "beside.onnx")]
            for into, each, target in random.sample(pair, 2):
                into.append(ran(each, source, target))
    return [row(tool, source, runs, beside[tool], target_of(tool, folder)) for tool in tools]


def target_of(tool: Tool, folder: Path) -> Path:
    return folder / f"{tool.label.replace(' ', '-')}.onnx"


def row(tool: Tool, source: Path, runs: dict[Tool, list[Run]], beside: list[Run], target: Path) -> dict[str, Any]:
    own = runs[tool]
    failed = next((run.words for run in own if run.code), None)
    found: dict[str, Any] = {"model": source.stem, "megabytes": source.stat().st_size / 1e6, "tool": tool.label}
    if failed:
        return found | {"failed": failed}
    ratios = [run.seconds / base.seconds for run, base in zip(own, beside, strict=True)]
    of_cp = [run.seconds / base.seconds for run, base in zip(own, runs[CP], strict=True)]
    found |= {
        "seconds": [run.seconds for run in own],
        "ratio": median(ratios),
        "ratios": ratios,
        "of_cp": median(of_cp),
    }
    found["peak_mb"] = max(run.peak_mb for run in own) if own[0].peak_mb else None
    if tool.name == "floor":
        return found | {"unusable": "no model"}
    seen = python("-m", MODULE, "--examine", source, target)
    return found | (json.loads(seen.words) if not seen.code else {"unusable": seen.words})


def line(found: dict[str, Any]) -> str:
    if "failed" in found:
        return f"| {found['model']} | {found['tool']} | failed: {found['failed'][:60]} | | | | | | |"
    span = f"{min(found['ratios']):.2f} to {max(found['ratios']):.2f}"
    peak = f"{found['peak_mb']:.0f}" if found["peak_mb"] else ""
    right = (
        f"{found['batch_normalizations']} | {'yes' if found['valid'] else 'no'} | {found['error']:.1e}"
        if "valid" in found
        else f"unusable: {found['unusable'][:60]} | |"
    )
    times = [f"{median(found['seconds']):.2f}", f"{found['ratio']:.2f}", span, f"{found['of_cp']:.1f}"]
    return f"| {' | '.join([found['model'], found['tool'], *times, peak, right])} |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("models", nargs="*", default=MODELS)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--tools", nargs="*", default=[*TOOLS], choices=TOOLS, help="beside cp")
    add_also(parser)
    parser.add_argument("--cache", type=Path, default=Path("/tmp/zoo2"), help="where exports are kept")
    parser.add_argument("--folder", type=Path, help="where results are written (default: a temporary folder)")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    tools = [*chosen(parser, options), CP]
    as_installed()
    from bnfold.benchmarking.environment import environment
    from tests.benchmarks.latency import source

    print("| model | tool | s | over load and save | range | over cp | peak MB | BN left | valid | worst error |")
    print("|---|---|---|---|---|---|---|---|---|---|")
    rows = []
    for name in options.models:
        with tempfile.TemporaryDirectory(dir=options.folder) as folder:
            rows += compared(source(name, options.cache), options.rounds, Path(folder), tools)
        for found in rows[-len(tools) :]:
            print(line(found), flush=True)
        if options.json:
            payload = {"schema": "bnfold.against_peers/3", "rounds": options.rounds}
            options.json.write_text(
                json.dumps({**payload, "environment": environment(), "rows": rows}, indent=1) + "\n"
            )


if __name__ == "__main__":
    if sys.argv[1:2] == ["--examine"]:
        print(json.dumps(examined(*sys.argv[2:])))
    else:
        main()
