"""How many BatchNormalization nodes other tools leave in a model: `python -m tests.zoo_peers TOOL MODEL`, one per child."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from tempfile import TemporaryDirectory

import onnx

from tests.benchmarks.peers import version

SECONDS = 300.0


def slimmed(path: Path, _folder: Path) -> onnx.ModelProto:
    import onnxslim

    return onnxslim.slim(onnx.load(path))


def optimized(path: Path, folder: Path) -> onnx.ModelProto:
    """What onnxruntime makes of it at ORT_ENABLE_BASIC, the level whose result is still plain ONNX."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_BASIC
    options.optimized_model_filepath = str(folder / "optimized.onnx")
    options.log_severity_level = 4
    onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    return onnx.load(folder / "optimized.onnx")


TOOLS = {"onnxslim": slimmed, "onnxruntime": optimized}


def left(path: Path) -> dict[str, int | str]:
    """BatchNormalization nodes that each tool leaves, or in words why it gave no model; kept in a file next to the model."""
    memory = path.with_suffix(".peers.json")
    versions = {tool: version(tool) for tool in TOOLS}
    known = json.loads(memory.read_text()) if memory.exists() else {}
    fresh = memory.exists() and memory.stat().st_mtime >= path.stat().st_mtime
    if not fresh or known["versions"] != versions:
        known = {"versions": versions, "left": {tool: left_by(tool, path) for tool in TOOLS}}
        memory.write_text(json.dumps(known))
    return known["left"]


def left_by(tool: str, path: Path) -> int | str:
    command = [sys.executable, "-m", "tests.zoo_peers", tool, str(path)]
    root = Path(__file__).resolve().parents[1]
    try:
        answer = subprocess.run(command, capture_output=True, text=True, timeout=SECONDS, cwd=root)
    except subprocess.TimeoutExpired:
        return f"stopped after {SECONDS:g} s"
    if answer.returncode:
        return (answer.stderr.strip().splitlines() or [f"exit status {answer.returncode}"])[-1]
    return int(answer.stdout.splitlines()[-1])


def main(tool: str, path: str) -> None:
    with TemporaryDirectory() as folder:
        model = TOOLS[tool](Path(path), Path(folder))
    print(sum(node.op_type == "BatchNormalization" for node in model.graph.node))


if __name__ == "__main__":
    main(*sys.argv[1:])
