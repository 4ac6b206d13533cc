"""Section 4.1 of the paper: a sigmoid network on MNIST with Batch Normalization and without it."""

from __future__ import annotations

import argparse
import copy
import json
import os
import tempfile
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch

from bnfold.benchmarking.environment import environment
from bnfold.train import Event, TrainOptions, train
from bnfold.train.data import load_dataset

STEPS, BATCH, EVERY = 50_000, 60, 100
PERCENTILES = (15, 50, 85)
SEEN = 100 * BATCH  # training images, whose sigmoid inputs are measured
SHARED = Path(__file__).resolve().parent / "../../../shared/data"
COLOURS = {"bn": "#0072b2", "plain": "#d55e00"}  # of Okabe and Ito's palette, which everyone can tell apart
NAMES = {"bn": "with BN", "plain": "without BN"}
Span = tuple[float, float]
QUICK = {"steps": 600, "every": 100, "seeds": [0]}


@dataclass
class Probe:
    """Called after every step; collects the accuracies, and the percentiles of the inputs of the last hidden sigmoids.

    The network is looked at in training mode: it normalizes mini-batches of 60.
    """

    images: torch.Tensor
    steps: list[int] = field(default_factory=list)
    accuracies: list[float] = field(default_factory=list)
    percentiles: list[np.ndarray] = field(default_factory=list)  # each (3, units)

    def __call__(self, event: Event) -> None:
        if event.accuracy is not None:
            self.steps.append(event.step)
            self.accuracies.append(event.accuracy)
            self.percentiles.append(np.percentile(self._sigmoid_inputs(event.network), PERCENTILES, axis=0))

    def _sigmoid_inputs(self, network: Any) -> np.ndarray:
        """(images, units) of the last hidden layer."""
        twin, seen = copy.deepcopy(network).train(), []
        twin.hidden3.act.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
        with torch.no_grad():
            for batch in torch.split(self.images, BATCH):
                twin(batch)
        return torch.cat(seen).numpy()


def data_dir() -> Path | None:
    """MNIST's folder below BNFOLD_DATA or ../shared/data; None, which downloads it, where there is neither."""
    folder = Path(os.environ.get("BNFOLD_DATA", SHARED)) / "mnist"
    return folder if folder.is_dir() else None


def run(batch_norm: bool, seed: int, steps: int, every: int, runs: Path) -> dict[str, Any]:
    """Train one network; accuracies by every kind of statistics."""
    folder = data_dir()
    data = load_dataset("mnist", folder)
    probe = Probe(torch.from_numpy(data.normalization(data.train.images[:SEEN])))
    out = runs / f"{seed}-{'bn' if batch_norm else 'plain'}"
    options = TrainOptions(
        data="mnist", data_dir=folder and str(folder), arch="mlp", batch_norm=batch_norm, seed=seed, steps=steps,
        batch_size=BATCH, evaluate_every=every, device="cpu", out=out,
    )  # fmt: skip
    result = train(options, probe)
    final = {"ema": result.accuracy_moving_average, "sequential": result.accuracy}
    if batch_norm:
        again = TrainOptions(out=out, resume=True, device="cpu", statistics="alg2", statistics_batch=BATCH)
        final["alg2"] = train(again).accuracy
    return {"accuracies": probe.accuracies, "final": final} | typical_sigmoid(probe)


def typical_sigmoid(probe: Probe) -> dict[str, Any]:
    """The input of one typical sigmoid, and how much the inputs of all of them move.

    The travel of a sigmoid is the distance between the lowest and the highest median of its input; the typical one has
    the median travel.
    """
    percentiles = np.array(probe.percentiles)
    medians = percentiles[:, 1]
    travel = medians.max(axis=0) - medians.min(axis=0)
    typical = int(np.argsort(travel)[len(travel) // 2])
    return {
        "steps": probe.steps,
        "typical_unit": typical,
        "percentiles": percentiles[:, :, typical].round(3).tolist(),
        "median_travel": float(np.median(travel)),
    }


def first_step(curve: dict[str, Any], accuracy: float) -> int | None:
    """The first evaluation that is at least so accurate."""
    pairs = zip(curve["steps"], curve["accuracies"], strict=True)
    return next((step for step, reached in pairs if reached >= accuracy), None)


def pair(seed: int, steps: int, every: int) -> dict[str, Any]:
    """The network without and with Batch Normalization, and how many steps the one saves the other."""
    with tempfile.TemporaryDirectory() as runs:
        plain, bn = (run(kind, seed, steps, every, Path(runs)) for kind in (False, True))
    goal = plain["final"]["ema"]
    return {
        "seed": seed,
        "plain": plain,
        "bn": bn,
        "steps_to_plain_final": {"plain": first_step(plain, goal), "bn": first_step(bn, goal)},
    }


def measure(seeds: list[int], steps: int, every: int, out: Path) -> dict[str, Any]:
    """All seeds; results are written after each."""
    results: dict[str, Any] = {"environment": environment() | {"torch": version("torch")}, "pairs": []}
    for seed in seeds:
        results["pairs"].append(pair(seed, steps, every))
        (out / "results.json").write_text(json.dumps(results) + "\n")
    return results


def show(results: dict[str, Any]) -> None:
    """The end of each run, and the first evaluation that is as good as the end of the run without BN."""
    print("        test accuracy at the end                      first at the accuracy of the net without BN")
    print("seed    without BN   BN: ema    alg2   sequential     with BN   without BN")
    for row in results["pairs"]:
        plain, bn, steps = row["plain"]["final"]["ema"], row["bn"]["final"], row["steps_to_plain_final"]
        scores = f"{plain:10.4f}{bn['ema']:10.4f}{bn['alg2']:8.4f}{bn['sequential']:13.4f}"
        print(f"{row['seed']:4}    {scores}{steps['bn']:12}{steps['plain']:13}")


def draw(results: dict[str, Any], path: Path) -> None:
    """Figure 1 of the paper, and the beginning of its panel (a) once more."""
    import matplotlib

    matplotlib.use("svg")
    from matplotlib import pyplot as plt

    plt.rcParams |= {"svg.fonttype": "none", "svg.hashsalt": "bnfold", "font.family": "sans-serif"}
    figure, ((whole, early), (plain, bn)) = plt.subplots(2, 2, figsize=(10, 7))
    last = results["pairs"][0]["bn"]["steps"][-1]
    _accuracies(whole, results, "(a) test accuracy", (0, last), (0.8, 1))
    _accuracies(early, results, "test accuracy, the beginning", (0, last / 10), (0, 1))
    _percentiles(plain, results["pairs"][0]["plain"], "(b) input of a sigmoid, without BN")
    _percentiles(bn, results["pairs"][0]["bn"], "(c) input of a sigmoid, with BN")
    reach = 1.05 * max(np.abs(results["pairs"][0][kind]["percentiles"]).max() for kind in NAMES)
    for axes in (plain, bn):
        axes.set_ylim(-reach, reach)
    for axes in (whole, early, plain, bn):
        axes.spines[["top", "right"]].set_visible(False)
        axes.set_xlabel("step")
    figure.tight_layout()
    figure.savefig(path, facecolor="white", metadata={"Date": None})
    plt.close(figure)


def _thinned(steps: list[int], values: list[Any]) -> tuple[np.ndarray, np.ndarray]:
    """Every evaluation of the first tenth of a run, and every fifth after it."""
    chosen = [i for i, step in enumerate(steps) if step <= steps[-1] / 10 or i % 5 == 4]
    return np.array(steps)[chosen], np.array(values)[chosen]


def _accuracies(axes: Any, results: dict[str, Any], title: str, steps: Span, accuracies: Span) -> None:
    for i, row in enumerate(results["pairs"]):
        for kind, colour in COLOURS.items():
            label = None if i else NAMES[kind]
            shown, accuracy = _thinned(row[kind]["steps"], row[kind]["accuracies"])
            axes.plot(shown, accuracy, color=colour, linewidth=0.8, label=label)
    axes.set(title=title, xlim=steps, ylim=accuracies)
    axes.legend(loc="lower right", frameon=False, labelcolor="linecolor", handlelength=0)


def _percentiles(axes: Any, curve: dict[str, Any], title: str) -> None:
    steps, percentiles = _thinned(curve["steps"], curve["percentiles"])
    axes.fill_between(steps, percentiles[:, 0], percentiles[:, 2], color="0.9")
    for place, (percentile, values) in enumerate(zip(PERCENTILES, percentiles.T, strict=True)):
        axes.plot(steps, values, color="black", linewidth=1 if place == 1 else 0.6)
        axes.annotate(f"{percentile}%", (steps[-1], values[-1]), (4, 0), textcoords="offset points", va="center")
    axes.set(title=title, xlim=(0, steps[-1]))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--steps", type=int, default=STEPS)
    parser.add_argument("--quick", action="store_true", help="600 steps of one seed: the same path, in seconds")
    parser.add_argument("--out", type=Path, default=Path(), help="folder of results.json and mnist.svg")
    arguments = parser.parse_args()
    arguments.out.mkdir(parents=True, exist_ok=True)
    chosen = QUICK if arguments.quick else {"steps": arguments.steps, "every": EVERY, "seeds": arguments.seeds}
    results = measure(**chosen, out=arguments.out)
    draw(results, arguments.out / "mnist.svg")
    show(results)


if __name__ == "__main__":
    main()
