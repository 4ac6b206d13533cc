"""Bjorck et al. 2018, "Understanding Batch Normalization", measured small: what BatchNorm does for a network.

python understanding.py --out DIR    measures everything, 17 minutes of one core: results.json, two figures
python understanding.py --shown      draws and prints again what results.json holds
"""

import argparse
import json
import os
import time
from pathlib import Path
from typing import Any

import figures
import torch
from networks import DEPTH, KINDS
from signals import BINS, STEPS, Signals, products
from summary import summary
from sweep import DEEP, LEARNS, SHALLOW, run_of, sweep

from bnfold.benchmarking.environment import environment
from bnfold.train.data import load_dataset
from bnfold.train.runs import load_checkpoint as load_run
from bnfold.train.session import network, read_config

HERE = Path(__file__).resolve().parent
CIFAR10 = Path(os.environ.get("BNFOLD_DATA", HERE / "../../../shared/data")).resolve() / "cifar10"
FULL = {"data": "cifar10", "depth": 110, "depths": (8, 20, 56, 110), "images": 64, "steps": 400}
FULL |= {"runs": SHALLOW + DEEP}
QUICK = {"data": "digits", "depth": 8, "depths": (8,), "images": 8, "steps": 8, "runs": SHALLOW[1::6]}


def main() -> None:
    given = arguments()
    if not given.shown:
        given.out.mkdir(parents=True, exist_ok=True)
        results = measure(QUICK if given.quick else FULL, given.seed, given.out)
        (given.out / "results.json").write_text(json.dumps(results, indent=1) + "\n")
    results = json.loads((given.out / "results.json").read_text())
    figures.draw(results, given.out)
    print(summary(results))


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=HERE, help="folder of results.json, figures and runs/")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--quick", action="store_true", help="the same path in seconds, on handwritten digits")
    parser.add_argument("--shown", action="store_true", help="measure nothing")
    return parser.parse_args()


def measure(plan: dict[str, Any], seed: int, out: Path) -> dict[str, Any]:
    """The results of every experiment, by its name."""
    began = time.process_time()
    data_dir = str(CIFAR10) if plan["data"] == "cifar10" and CIFAR10.exists() else None
    data = load_dataset(plan["data"], Path(data_dir) if data_dir else None)
    signals = Signals(data, plan["images"], plan["depth"], seed)
    results = at_the_start(signals, plan["depths"])
    source = {"data": plan["data"], "data_dir": data_dir, "seed": seed}
    results["sweep"] = sweep(source, plan["steps"], plan["runs"], out / "runs")
    results["trained"] = [after_training(signals, out / "runs", kind) for kind in KINDS]
    sizes = {"train_images": len(data.train), "test_images": len(data.test), "classes": len(data.classes)}
    axes = {"single_steps": STEPS, "bins": BINS.tolist(), "torch": torch.__version__}
    cost = {"cpu_seconds": round(time.process_time() - began), "threads": torch.get_num_threads()}
    return {"plan": plan | sizes | axes | {"seed": seed}, "cost": cost, "environment": environment()} | results


def at_the_start(signals: Signals, depths: tuple[int, ...]) -> dict[str, Any]:
    """The experiments that need no training."""
    losses = signals.losses(depths)
    edge = next(r["diverges_at"] for r in losses if r["depth"] == signals.depth and r["kind"] == "none")
    return {
        "moments": signals.moments(),
        "gradients": signals.gradients(),
        "columns": signals.columns(),
        "losses": losses,
        "update": signals.update(edge or 1),
        "products": products(signals.seed),
    }


def after_training(signals: Signals, runs: Path, kind: str) -> dict[str, Any]:
    """Loss along the gradient of a network that was trained at a rate at which all kinds learn."""
    run = run_of(runs, DEPTH, kind, LEARNS)
    model = network(read_config(run), load_run(run).model, run)
    return signals.along(model, kind, DEPTH)


if __name__ == "__main__":
    main()
