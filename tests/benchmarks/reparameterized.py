"""Latency of re-parameterization from plain ONNX next to timm's own, which needs the Python modules.

python -m tests.benchmarks.reparameterized [NAMES...] [--size 224] [--threads 1] [--launches 15] [--budget 60] [--json PATH]
"""

from __future__ import annotations

import argparse
import copy
import json
import tempfile
from pathlib import Path
from typing import Any

import onnx
import torch

import bnfold
from bnfold.benchmarking import bench
from bnfold.folding import driver
from bnfold.train.to_onnx import converted
from tests.zoo_models import OPSET, batch_norms, built, populate

NAMES = ("mobileone_s0", "repvgg_a0", "repghostnet_050", "fastvit_t8", "repvit_m0_9")


def files(name: str, side: int, folder: Path) -> tuple[Path, Path, Path]:
    """The model as trained, folded by bnfold, and re-parameterized by timm, each as an ONNX file."""
    from timm.utils.model import reparameterize_model

    torch.manual_seed(0)
    model, _ = built(name)
    shape = (3, side, side)
    populate(model, shape, torch.Generator().manual_seed(1))
    paths = tuple(folder / f"{name}.{kind}.onnx" for kind in ("original", "folded", "timm"))
    onnx.save(converted(model.eval(), shape, OPSET, {}), paths[0])
    bnfold.save(driver.fold(paths[0]).model, paths[1])
    onnx.save(converted(reparameterize_model(copy.deepcopy(model)).eval(), shape, OPSET, {}), paths[2])
    return paths


def measured(name: str, side: int, **how: Any) -> dict[str, Any]:
    """Speed-up of the folded file over the original and over timm's, at onnxruntime's default optimization."""
    with tempfile.TemporaryDirectory() as folder:
        original, folded, timms = files(name, side, Path(folder))
        runs = {
            "over original": bench(original, folded, levels=["default"], **how),
            "over timm": bench(timms, folded, levels=["default"], **how),
        }
        left = {p.suffixes[-2][1:]: len(list(batch_norms(onnx.load(p)))) for p in (original, folded, timms)}
        nodes = {p.suffixes[-2][1:]: len(onnx.load(p).graph.node) for p in (original, folded, timms)}
    row: dict[str, Any] = {"name": name, "side": side, "batch_normalizations": left, "nodes": nodes}
    for key, run in runs.items():
        interval = run.headline.speedup
        row[key] = {"ratio": interval.estimate, "low": interval.low, "high": interval.high, "ms": run.headline.ms}
        row[key] |= {"launches": run.launches, "same_graph": run.same_graph}
    return row | {"environment": runs["over original"].environment}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("names", nargs="*", default=NAMES)
    parser.add_argument("--size", type=int, default=224)
    parser.add_argument("--threads", type=int, help="of an operator (default: all processors)")
    parser.add_argument("--launches", type=int, default=15)
    parser.add_argument("--budget", type=float, default=60.0, metavar="SECONDS")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    print("| model | BN | nodes | folded over original [95%] | folded over timm's [95%] |\n|---|---|---|---|---|")
    rows = []
    for name in options.names:
        row = measured(name, options.size, threads=options.threads, launches=options.launches, budget_s=options.budget)
        rows.append(row)
        ratios = [
            f"{row[k]['ratio']:.3f} [{row[k]['low']:.3f}, {row[k]['high']:.3f}]" for k in ("over original", "over timm")
        ]
        counts = [" / ".join(str(n) for n in row[key].values()) for key in ("batch_normalizations", "nodes")]
        print(f"| {name} | {' | '.join([*counts, *ratios])} |", flush=True)
    if options.json:
        options.json.write_text(json.dumps(rows, indent=1) + "\n")


if __name__ == "__main__":
    main()
