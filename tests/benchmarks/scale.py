"""How the time of a fold grows with the number of nodes, and what a fold of a 6 GB model takes.

python -m tests.benchmarks.scale [--nodes 10000 100000] [--norms 20000] [--bodies 3000] [--gigabytes 6] [--rounds 5]
    [--folder DIR] [--json PATH]

Whole processes of `bnfold fold --verify off`, and the planning alone: from the parsed model to the folded one, by the clock
and in seconds of the processor, which others on the machine lengthen less. The large model has its data in a sparse file;
its fold is compared with `cp --sparse=never` of that file, and against the same and `sync`, since bnfold flushes what it
writes to the disk.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from tests.benchmarks.children import Run, as_installed, command, python

CHANNELS = 4
SIDE = 4096  # of the matrices of the large model
ONE = SIDE * SIDE * 4  # bytes of one of them


class Net:
    """A graph in the making: `at` is the tensor that the next node reads."""

    def __init__(self, shape: list[int]) -> None:
        self.at, self.shape = "x", shape
        self.nodes: list[onnx.NodeProto] = []
        self.stored: dict[str, onnx.TensorProto] = {}
        self.random = np.random.default_rng(0)

    def add(self, operator: str, *more: str, **attributes: Any) -> str:
        """A node that reads `at`, then `more`."""
        return self.put(operator, [self.at, *more], **attributes)

    def product(self, left: str) -> None:
        """left @ at, where a shift of the rows has no room."""
        self.put("MatMul", [left, self.at])

    def put(self, operator: str, inputs: list[str], **attributes: Any) -> str:
        name = f"{operator}{len(self.nodes)}"
        self.nodes.append(helper.make_node(operator, inputs, [f"t{len(self.nodes)}"], name, **attributes))
        self.at = self.nodes[-1].output[0]
        return self.at

    def constant(self, *shape: int, name: str = "", like: float | None = None) -> str:
        """A stored constant: random and near one, or all `like`."""
        name = name or f"c{len(self.stored)}"
        if name not in self.stored:
            value = self.random.uniform(0.5, 1.5, shape) if like is None else np.full(shape, like)
            self.stored[name] = numpy_helper.from_array(value.astype(np.float32), name)
        return name

    def conv(self) -> None:
        self.add("Conv", self.constant(CHANNELS, CHANNELS, 1, 1))

    def norm(self) -> None:
        self.add("BatchNormalization", *(self.constant(CHANNELS) for _ in range(4)))

    def plain_norm(self) -> None:
        """One without parameters of its own: exporters let all such share their ones and zeros."""
        kinds = (("ones", 1.0), ("zeros", 0.0), ("zeros", 0.0), ("ones", 1.0))
        self.add("BatchNormalization", *(self.constant(CHANNELS, name=name, like=like) for name, like in kinds))

    def model(self) -> onnx.ModelProto:
        x, y = (helper.make_tensor_value_info(name, TensorProto.FLOAT, self.shape) for name in ("x", self.at))
        graph = helper.make_graph(self.nodes, "g", [x], [y], [*self.stored.values()])
        return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def mixed(nodes: int) -> onnx.ModelProto:
    """A chain of residual blocks: Conv, BatchNormalization, Relu, Add of a constant, Relu, Add of the block's input."""
    net = Net([1, CHANNELS, 2, 2])
    while len(net.nodes) < nodes:
        begin = net.at
        net.conv()
        net.norm()
        net.add("Relu")
        net.add("Add", net.constant(1, CHANNELS, 1, 1))
        net.add("Relu")
        net.add("Add", begin)
    return net.model()


def passed_through(nodes: int) -> onnx.ModelProto:
    """One BatchNormalization that ends in a Conv many nodes before it."""
    net = Net([1, CHANNELS, 2, 2])
    net.conv()
    while len(net.nodes) < nodes - 1:
        net.add("Transpose", perm=[0, 1, 3, 2])
    net.norm()
    return net.model()


def norms(count: int) -> onnx.ModelProto:
    """Many BatchNormalizations: that fold, that are kept, that share their parameters, that leave an Add."""
    net = Net([1, CHANNELS, CHANNELS])
    for _ in range(count // 4):
        net.product(net.constant(CHANNELS, CHANNELS, name="shared"))
        net.norm()
        net.add("Relu")
        net.norm()
        net.add("Relu")
        net.add("Conv", net.constant(CHANNELS, CHANNELS, 1))
        net.plain_norm()
        net.add("Sigmoid")
        net.plain_norm()
        net.add("Tanh")
    return net.model()


def read_by_all(count: int) -> onnx.ModelProto:
    """Many BatchNormalizations of one tensor, and the sum of them all."""
    net = Net([1, CHANNELS, 2, 2])
    net.add("Relu")
    begin, read = net.at, []
    for _ in range(count):
        net.at = begin
        net.norm()
        read.append(net.at)
    net.put("Sum", read)
    return net.model()


def joined(count: int) -> onnx.ModelProto:
    """A tensor split, a BatchNormalization of each part, and the parts joined again."""
    net = Net([1, CHANNELS * count, 2, 2])
    net.put("Split", ["x"], axis=1)
    parts = [f"part{i}" for i in range(count)]
    net.nodes[-1].output[:] = parts
    for i, net.at in enumerate(parts):
        net.norm()
        parts[i] = net.at
    net.put("Concat", parts, axis=1)
    return net.model()


def branching(count: int) -> onnx.ModelProto:
    """A chain of BatchNormalization and If, whose bodies read what the norm makes."""
    net = Net([1, CHANNELS, 2, 2])
    net.stored["condition"] = numpy_helper.from_array(np.array(True), "condition")
    for i in range(count):
        net.norm()
        bodies = {key: body(operator, net.at, f"{operator}.{i}", net.shape) for key, operator in BRANCHES.items()}
        net.put("If", ["condition"], **bodies)
    return net.model()


BRANCHES = {"then_branch": "Relu", "else_branch": "Neg"}


def body(operator: str, read: str, made: str, shape: list[int]) -> onnx.GraphProto:
    """A graph of one node, which reads a tensor of the graph around it."""
    result = helper.make_tensor_value_info(made, TensorProto.FLOAT, shape)
    return helper.make_graph([helper.make_node(operator, [read], [made])], made, [], [result])


def large(folder: Path, gigabytes: float) -> Path:
    """A model with external data: matrices that nobody touches, in holes of the file, and one with a norm after it."""
    net = Net([1, SIDE])
    for _ in range(max(1, round(gigabytes * 1e9 / ONE))):
        net.add("Gemm", f"w{len(net.nodes)}")
    net.add("BatchNormalization", *(net.constant(SIDE) for _ in range(4)))
    model = net.model()
    data = folder / "large.data"
    for i in range(len(net.nodes) - 1):
        held = TensorProto(name=f"w{i}", dims=[SIDE, SIDE], data_type=1, data_location=TensorProto.EXTERNAL)
        for key, value in (("location", data.name), ("offset", str(i * ONE)), ("length", str(ONE))):
            held.external_data.add(key=key, value=value)
        model.graph.initializer.append(held)
    with data.open("wb") as file:
        file.truncate((len(net.nodes) - 1) * ONE)
    (folder / "large.onnx").write_bytes(model.SerializeToString())
    return folder / "large.onnx"


def planning(path: Path) -> dict[str, float]:
    """Seconds that reading, and folding what was read, take in this process; called in one of its own."""
    from bnfold.folding.driver import fold_in_place
    from bnfold.model import onnx_io

    begin = time.perf_counter()
    record, storage = onnx_io.detached(path)
    read, busy = time.perf_counter(), time.process_time()
    result = fold_in_place(record, storage)
    return {
        "read_s": read - begin,
        "plan_s": time.perf_counter() - read,
        "plan_cpu_s": time.process_time() - busy,
        "folded": len(result.folded),
        "kept": len(result.kept),
    }


def planned(model: onnx.ModelProto, folder: Path) -> dict[str, Any]:
    """One row: the fold of a model as a whole process, and the planning alone."""
    path = folder / "m.onnx"
    path.write_bytes(model.SerializeToString())
    whole = folded(path)
    alone = python("-m", "tests.benchmarks.scale", "--plan", path)
    return {
        "nodes": len(model.graph.node),
        "seconds": whole.seconds,
        "peak_mb": whole.peak_mb,
        **json.loads(alone.words),
    }


def folded(path: Path, *options: str) -> Run:
    run = python("-m", "tests.benchmarks.children", path, "--verify", "off", "--force", *options, "--json", os.devnull)
    assert run.code == 0, run.words
    return run


def growth(build: Callable[[int], onnx.ModelProto], sizes: list[int], folder: Path) -> dict[str, Any]:
    """Rows for models of growing size; `ratio` is what the last takes over what the first does."""
    rows = [planned(build(size), folder) for size in sizes]
    ratios = {f"{key} ratio": rows[-1][key] / rows[0][key] for key in ("seconds", "plan_s", "plan_cpu_s")}
    report(build.__name__, *rows, ratios)
    return {"network": build.__name__, "rows": rows, **ratios}


def heavy(gigabytes: float, folder: Path, rounds: int) -> dict[str, Any]:
    """The large model: its fold with data copied and with data left where they are, and copies by cp, in rounds."""
    path = large(folder, gigabytes)
    data = path.with_suffix(".data")
    ways: dict[str, Callable[[], Run]] = {
        "cp": lambda: command(["cp", "--sparse=never", data, folder / "copy.data"]),
        "cp and sync": lambda: command(
            ["sh", "-c", 'cp --sparse=never "$0" "$1" && sync "$1"', data, folder / "copy.data"]
        ),
        "copied": lambda: folded(path),
        "kept": lambda: folded(path, "--external", "keep"),
    }
    alone(ways["cp"], folder)  # into the page cache, as far as that goes
    runs = [{way: alone(run, folder) for way, run in ways.items()} for _ in range(rounds)]
    row: dict[str, Any] = {"bytes": data.stat().st_size, "rounds": rounds}
    for way in ways:
        row[f"{way} s"] = median(run[way].seconds for run in runs)
    for way in ("copied", "kept"):
        row[f"{way} peak_mb"] = max(run[way].peak_mb or 0.0 for run in runs)
    for cp in ("cp", "cp and sync"):
        row[f"copied over {cp}"] = median(run["copied"].seconds / run[cp].seconds for run in runs)
    report(f"{gigabytes:g} GB", row)
    return {**row, "seconds": [{way: run.seconds for way, run in each.items()} for each in runs]}


def alone(run: Callable[[], Run], folder: Path) -> Run:
    """One run, without what it wrote, and without what the system has still to write of it."""
    try:
        return run()
    finally:
        for made in [*folder.glob("large.folded*"), *folder.glob("copy*")]:
            made.unlink()
        os.sync()


def report(title: str, *rows: dict[str, Any]) -> None:
    for row in rows:
        cells = (f"{key} {value:.4g}" for key, value in row.items() if value is not None)
        print(f"{title}: {', '.join(cells)}", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--nodes", type=int, nargs=2, default=[10_000, 100_000])
    parser.add_argument("--norms", type=int, default=20_000)
    parser.add_argument("--bodies", type=int, default=3_000, help="nodes that have some")
    parser.add_argument("--gigabytes", type=float, default=6.0)
    parser.add_argument("--rounds", type=int, default=5, help="of the large model")
    parser.add_argument("--folder", type=Path, help="where models are made (default: a temporary folder)")
    parser.add_argument("--json", type=Path)
    parser.add_argument("--plan", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    as_installed()
    if options.plan:
        print(json.dumps(planning(options.plan)))
        return
    folder = Path(tempfile.mkdtemp(dir=options.folder))
    try:
        found = {
            "schema": "bnfold.scale/1",
            "growth": [
                growth(mixed, options.nodes, folder),
                growth(passed_through, options.nodes, folder),
                growth(norms, [options.norms // 10, options.norms], folder),
                growth(read_by_all, [options.norms // 10, options.norms], folder),
                growth(joined, [options.norms // 10, options.norms], folder),
                growth(branching, [options.bodies // 3, options.bodies], folder),
            ],
            "large": heavy(options.gigabytes, folder, options.rounds),
        }
    finally:
        shutil.rmtree(folder)
    if options.json:
        from bnfold.benchmarking.environment import environment

        options.json.write_text(json.dumps({**found, "environment": environment()}, indent=1) + "\n")


if __name__ == "__main__":
    sys.exit(main())
