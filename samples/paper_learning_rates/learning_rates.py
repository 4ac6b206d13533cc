"""Higher learning rates with Batch Normalization and without: section 4.2 of the paper, small."""

from __future__ import annotations

import argparse
import json
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from tempfile import TemporaryDirectory
from typing import Any

import torch
from torch import Tensor, nn

from bnfold.benchmarking.environment import environment
from bnfold.errors import CheckFailed
from bnfold.train import TrainOptions, install, population_statistics, runs, train
from bnfold.train.data import Dataset, load_dataset
from bnfold.train.norms import tracked_norms
from bnfold.train.options import Event
from bnfold.train.runs import read_config
from bnfold.train.session import network

HERE = Path(__file__).resolve().parent
SHARED = Path(os.environ.get("BNFOLD_DATA", HERE.parents[2] / "shared" / "data")) / "cifar10"
LR = 0.002  # of the baseline: the best of those tried, see README
BATCH, EVERY = 32, 50
POPULATION = 256  # training images, in mini-batches of BATCH, whose statistics are used for a point of a curve

COLOURS = {1: "black", 5: "#0072B2", 30: "#D55E00"}  # by factor, of Okabe and Ito; dashed without Batch Normalization
GAP = 0.022  # of labels, in accuracy


@dataclass(frozen=True)
class Row:
    """A network, named as in the paper, and the factor on its learning rate; trained once for each of `seeds`."""

    name: str
    factor: int
    steps: int
    seeds: int = 1
    batch_norm: bool = True
    activation: str = "relu"

    def options(self, seed: int, out: Path, quick: bool) -> TrainOptions:
        return TrainOptions(
            data="digits" if quick else "cifar10",
            data_dir=str(SHARED) if SHARED.is_dir() and not quick else None,
            arch="bn-inception" if self.batch_norm else "inception",
            activation=self.activation,
            width=0.0625 if quick else 0.125,
            lr=LR * self.factor,
            batch_size=BATCH,
            momentum=0.9,
            channels_last=True,
            steps=4 if quick else self.steps,
            evaluate_every=2 if quick else EVERY,
            statistics="ema",
            seed=seed,
            device="cpu",
            out=out,
        )


BASELINE = Row("Inception", 1, 1500, 3, batch_norm=False)
ROWS = (
    BASELINE,
    Row("BN-x5", 5, 800, 3),
    Row("BN-x30", 30, 800, 3),
    Row("BN-Baseline", 1, 1500),
    Row("BN-x5-Sigmoid", 5, 800, activation="sigmoid"),
    Row("Inception-x5-Sigmoid", 5, 800, batch_norm=False, activation="sigmoid"),
    Row("Inception-Sigmoid", 1, 800, batch_norm=False, activation="sigmoid"),
    Row("Inception-x5", 5, 1500, batch_norm=False),
    Row("Inception-x30", 30, 300, batch_norm=False),
)
SEEDS = max(row.seeds for row in ROWS)
QUICK = (BASELINE, ROWS[1], ROWS[4])


class Curve:
    """Called after every step: collects the held-out accuracy of every evaluation, with the moving averages and with
    statistics of the population (Algorithm 2 on POPULATION training images)."""

    def __init__(self, run: Path, data: Dataset, images: int) -> None:
        self.run, self.data, self.images = run, data, images
        self.points: list[dict[str, float]] = []

    def __call__(self, event: Event) -> None:
        if event.accuracy is not None and event.loss is not None:
            point = {"step": event.step, "loss": round(event.loss, 5), "accuracy_moving_average": event.accuracy}
            self.points.append({**point, "accuracy": self.accuracy(event.accuracy)})

    def accuracy(self, moving_average: float) -> float:
        """Of the checkpoint that was just saved."""
        with torch.random.fork_rng():
            model = network(read_config(self.run), runs.load_checkpoint(self.run).model, self.run)
        if not tracked_norms(model):
            return moving_average
        train, test = self.data.train.images[: self.images], self.data.test
        install(model, population_statistics(model, self.pixels(train).split(BATCH), "alg2"))
        return round(self.right(model.eval(), self.pixels(test.images)) / len(test), 5)

    def pixels(self, images: Any) -> Tensor:
        return torch.from_numpy(self.data.normalization(images)).to(memory_format=torch.channels_last)

    def right(self, model: nn.Module, images: Tensor) -> int:
        with torch.no_grad():
            answers = torch.cat([model(x).argmax(1) for x in images.split(500)])
        return int((answers == torch.from_numpy(self.data.test.labels)).sum())


def run_once(row: Row, seed: int, data: Dataset, run: Path, quick: bool) -> dict[str, Any]:
    """One run, as plain data."""
    curve = Curve(run, data, BATCH if quick else POPULATION)
    record: dict[str, Any] = {"name": row.name, "lr": LR * row.factor, "seed": seed, "curve": curve.points}
    try:
        train(row.options(seed, run, quick), curve)
        return record
    except CheckFailed as diverged:
        return {**record, "diverged": str(diverged)}


def every_run(data: Dataset, out: Path, quick: bool) -> Iterator[dict[str, Any]]:
    """First one of each row, then the other seeds. What an earlier call of the script finished is not repeated."""
    rows = QUICK if quick else ROWS
    order = [(row, seed) for seed in range(1 if quick else SEEDS) for row in rows if seed < row.seeds]
    for row, seed in order:
        kept = out / f"{row.name}-{seed}.json"
        if not kept.exists():
            with TemporaryDirectory() as folder:
                kept.write_text(json.dumps(run_once(row, seed, data, Path(folder) / "run", quick)))
        yield json.loads(kept.read_text())


@dataclass(frozen=True)
class Line:
    """The runs of one row, which differ by their seed."""

    row: Row
    runs: list[dict[str, Any]]

    @property
    def best(self) -> list[float]:
        """The highest accuracy of each run."""
        return [max((point["accuracy"] for point in run["curve"]), default=0.0) for run in self.runs]

    def reached(self, goals: list[float]) -> list[int | None]:
        """The first step at which each run is as good as its goal."""
        return [first(run["curve"], goal) for run, goal in zip(self.runs, goals, strict=False)]

    def mean(self) -> tuple[list[int], list[float]]:
        """Steps, and accuracies over all runs."""
        curves = [[point["accuracy"] for point in run["curve"]] for run in self.runs]
        return [point["step"] for point in self.runs[0]["curve"]], [fmean(at) for at in zip(*curves, strict=False)]


def first(curve: list[dict[str, Any]], goal: float) -> int | None:
    return next((int(point["step"]) for point in curve if point["accuracy"] >= goal), None)


def lines(results: dict[str, Any]) -> dict[str, Line]:
    """By name, in the order of ROWS, those of which there are runs."""
    of = {row.name: Line(row, [run for run in results["runs"] if run["name"] == row.name]) for row in ROWS}
    return {name: line for name, line in of.items() if line.runs}


def table(results: dict[str, Any]) -> str:
    """Each run is compared with the baseline's of the same seed."""
    of = lines(results)
    goals = of[BASELINE.name].best
    base = of[BASELINE.name].reached(goals)
    rows = [f"{'network':20} {'lr':>6}  {'best accuracy':20} {'steps to that of Inception':27} times fewer"]
    for name, line in of.items():
        steps = line.reached(goals)
        fewer = [b / s if b and s else None for b, s in zip(base, steps, strict=False)]
        cells = (listed(line.best, ".3f"), listed(steps, "d"), listed(fewer, ".1f"))
        rows.append(f"{name:20} {LR * line.row.factor:6.3f}  {cells[0]:20} {cells[1]:27} {cells[2]}")
    return "\n".join(rows)


def listed(values: Sequence[float | None], form: str) -> str:
    return ", ".join("never" if value is None else format(value, form) for value in values)


def figure(results: dict[str, Any], path: Path) -> None:
    """Accuracy against steps: with ReLU, and with the sigmoid."""
    import matplotlib

    matplotlib.use("svg")
    from matplotlib import pyplot as plt

    of = lines(results)
    with plt.rc_context({"svg.fonttype": "none", "svg.hashsalt": "bnfold", "font.size": 10}):
        drawing, panels = plt.subplots(1, 2, figsize=(10, 4.2), sharey=True, layout="constrained", facecolor="white")
        for panel, activation in zip(panels, ("relu", "sigmoid"), strict=True):
            chosen = {name: line for name, line in of.items() if line.row.activation == activation}
            draw(panel, chosen)
            panel.set(xlabel="training steps", title=f"Inception-style networks, {activation}", xlim=(0, 2100))
        panels[0].set_ylabel("held-out accuracy")
        goal = fmean(of[BASELINE.name].best)
        for panel in panels:
            panel.axhline(goal, color="black", linewidth=0.6, linestyle=":")
            panel.text(20, goal + 0.004, "goal", fontsize=9)
        drawing.savefig(path, metadata={"Date": None})
        plt.close(drawing)


def draw(panel: Any, of: dict[str, Line]) -> None:
    ends = {}
    for name, line in of.items():
        style = {"color": COLOURS[line.row.factor], "linestyle": "-" if line.row.batch_norm else "--"}
        for run in line.runs if len(line.runs) > 1 else []:
            panel.plot(
                *zip(*((p["step"], p["accuracy"]) for p in run["curve"]), strict=True), **style, lw=0.6, alpha=0.4
            )
        steps, mean = line.mean()
        panel.plot(steps, mean, **style, lw=2)
        ends[name] = (steps[-1], mean[-1])
    for (name, (x, _)), y in zip(sorted(ends.items(), key=lambda end: end[1][1]), apart(ends), strict=True):
        panel.annotate(
            name, (x, y), (5, 0), textcoords="offset points", color=COLOURS[of[name].row.factor], va="center"
        )
    panel.set_xticks(range(0, max(x for x, _ in ends.values()) + 1, 250))
    panel.spines[["top", "right"]].set_visible(False)


def apart(ends: dict[str, tuple[int, float]]) -> list[float]:
    """The heights of labels, lowest first, each at least GAP above the one below."""
    heights: list[float] = []
    for y in sorted(y for _, y in ends.values()):
        heights.append(max(y, heights[-1] + GAP) if heights else y)
    return heights


def measure(out: Path, quick: bool) -> dict[str, Any]:
    """Everything that is shown, as plain data; one thread, so that it is the same on every machine of a kind."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    data = load_dataset("digits" if quick else "cifar10", SHARED if SHARED.is_dir() else None)
    results = list(every_run(data, out, quick))
    torch.set_num_threads(before)
    return {"environment": environment(), "runs": results}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=Path("learning_rates"), help="folder for data and figure")
    parser.add_argument("--quick", action="store_true", help="a few steps of narrow networks on digits: to see it run")
    parser.add_argument("--measured", type=Path, metavar="results.json", help="show this instead of measuring")
    arguments = parser.parse_args()
    arguments.out.mkdir(parents=True, exist_ok=True)
    if arguments.measured:
        results = json.loads(arguments.measured.read_text())
    else:
        results = measure(arguments.out, arguments.quick)
        (arguments.out / "results.json").write_text(json.dumps(results) + "\n")
    print(table(results))
    figure(results, arguments.out / "learning_rates.svg")


if __name__ == "__main__":
    main()
