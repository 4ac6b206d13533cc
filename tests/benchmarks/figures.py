"""Draws the figures of the README from the records in results/: `python -m tests.benchmarks.figures`

left.svg: BatchNormalization left in each of the 26 architectures that other tools leave unfinished (zoo_cpu.json)
speed.svg: how many times as fast networks with parallel branches are when folded (reparameterized_cpu.json)
speed_cuda.svg: the same on a GPU, for networks of both kinds (latency_cuda.json)
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from tests.benchmarks import leases

RESULTS = Path(__file__).parent / "results"
ORANGE, BLUE, GREY = "#d55e00", "#0072b2", "0.35"  # the first two of Okabe and Ito's palette, told apart by everyone
STYLE = {"svg.fonttype": "none", "svg.hashsalt": "bnfold", "font.family": "sans-serif", "font.size": 9}


def record(name: str) -> Any:
    return json.loads((RESULTS / name).read_text())


def unfinished() -> list[dict[str, Any]]:
    """The rows of the zoo in which other tools leave something, in the order of what bnfold folds of it."""
    from tests.zoo_models import LEFT

    rows = [row for row in record("zoo_cpu.json")["rows"] if row["name"] in LEFT]
    return sorted(rows, key=lambda row: (row["batch_norms"][1] - row["best_peer"], -row["best_peer"]))


def left(figure: Figure) -> None:
    """For each architecture a dot for what the better of the other tools leaves, and one for what bnfold leaves."""
    rows = unfinished()
    axes, places = figure.subplots(), range(len(rows))
    peers, own = [row["best_peer"] for row in rows], [row["batch_norms"][1] for row in rows]
    axes.hlines(places, own, peers, color="0.8", linewidth=2, zorder=1)
    axes.scatter(peers, places, color=ORANGE, s=62, zorder=2)
    axes.scatter(own, places, color=BLUE, s=20, marker="D", zorder=3)
    axes.set_yticks(places, [f"{row['name']} ({row['batch_norms'][0]})" for row in rows])
    axes.set_ylim(len(rows) - 0.3, -0.7)
    axes.set_xticks(range(0, 80, 10))
    axes.grid(axis="x", color="0.92")
    axes.set_axisbelow(True)
    bare(axes)
    total = sum(row["batch_norms"][0] for row in rows)
    figure.suptitle(f"BatchNormalization left in the file, of {total} in {len(rows)} architectures", x=0.01, ha="left")
    key(axes, f"● onnxslim or onnxruntime, the better: {sum(peers)}", ORANGE, 0.62)
    key(axes, f"◆ bnfold: {sum(own)}, each with a reason", BLUE, 0.56)


def key(axes: Axes, words: str, color: str, height: float) -> None:
    axes.text(0.43, height, words, color=color, transform=axes.transAxes, fontweight="bold")


def speed(figure: Figure) -> None:
    """A point with its interval for each network, from 1, which is no gain."""
    rows = sorted(record("reparameterized_cpu.json"), key=lambda row: -row["over original"]["ratio"])
    axes = figure.subplots()
    for place, row in enumerate(rows):
        found = row["over original"]
        axes.hlines(place, 1, found["ratio"], color=BLUE, linewidth=2, alpha=0.35)
        axes.errorbar(found["ratio"], place, xerr=interval(found), fmt="o", color=BLUE, capsize=4, markersize=5)
        words = f"{found['ratio']:.2f} [{found['low']:.2f}, {found['high']:.2f}]"
        axes.text(found["high"] + 0.06, place, words, va="center", color=BLUE)
    axes.set_yticks(range(len(rows)), [f"{r['name']}: {nodes(r)} nodes" for r in rows])
    axes.set_ylim(len(rows) - 0.5, -0.5)
    axes.set_xlim(0.95, 4.75)
    axes.axvline(1, color=GREY, linewidth=0.8)
    axes.set_xticks([1, 2, 3, 4], ["1 (as before)", "2", "3", "4"])
    bare(axes)
    title = "Folded networks with parallel branches: times as fast as before, with 95 % intervals"
    figure.suptitle(title, x=0.01, ha="left")


CUDA = (  # precision, inside a CUDA graph, marker, color
    ("float32", False, "o", BLUE),
    ("float16", False, "D", ORANGE),
    ("float32", True, "s", GREY),
)


def on_cuda() -> list[dict[str, Any]]:
    """What was timed on CUDA with kernels that a deployment would take: those cuDNN has at once are slower ones."""
    return [row for row in leases.read(RESULTS / "latency_cuda.json") if row["cudnn_search"] != "default"]


def speed_cuda(figure: Figure) -> None:
    """For each network its points at batch 1, from 1, which is no gain; the fastest first."""
    rows = [row for row in on_cuda() if row["batch"] == 1]
    at = {(r["name"], r["precision"], r["cuda_graph"]): r for r in rows}
    names = sorted({name for name, *_ in at}, key=lambda name: -at[name, "float32", False]["ratio"])
    axes = figure.subplots()
    for place, name in enumerate(names):
        for (precision, graph, marker, color), off in zip(CUDA, (-0.2, 0.0, 0.2), strict=True):
            if row := at.get((name, precision, graph)):
                axes.hlines(place + off, 1, row["ratio"], color=color, linewidth=1.5, alpha=0.35)
                axes.errorbar(row["ratio"], place + off, xerr=interval(row), fmt=marker, color=color, markersize=4)
    axes.set_yticks(range(len(names)), names)
    axes.set_ylim(len(names) - 0.5, -0.5)
    axes.set_xlim(0.9, 5.5)
    axes.axvline(1, color=GREY, linewidth=0.8)
    axes.set_xticks([1, 2, 3, 4, 5], ["1 (as before)", "2", "3", "4", "5"])
    bare(axes)
    key(axes, "● float32", BLUE, 0.30)
    key(axes, "◆ float16", ORANGE, 0.20)
    key(axes, "■ float32 in a CUDA graph", GREY, 0.10)
    gpus = " and ".join(dict.fromkeys(row["lease"]["environment"]["gpu"] for row in rows))
    title = f"CUDA, {gpus}, batch 1: times as fast as before folding, with 95 % intervals"
    figure.suptitle(title, x=0.01, ha="left")


def interval(found: dict[str, float]) -> list[list[float]]:
    return [[found["ratio"] - found["low"]], [found["high"] - found["ratio"]]]


def nodes(row: dict[str, Any]) -> str:
    return f"{row['nodes']['original']} to {row['nodes']['folded']}"


def bare(axes: Axes) -> None:
    """Nothing around the data."""
    axes.spines[["top", "right", "left", "bottom"]].set_visible(False)
    axes.tick_params(length=0)


FIGURES: dict[str, tuple[Callable[[Figure], None], tuple[float, float]]] = {
    "left": (left, (7.2, 4.9)),
    "speed": (speed, (7.2, 2.1)),
    "speed_cuda": (speed_cuda, (7.2, 3.6)),
}


def drawn(name: str, path: Path) -> None:
    """One figure, in the format that the suffix of `path` names."""
    draw, size = FIGURES[name]
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=size, layout="constrained")
        draw(figure)
        figure.savefig(path, facecolor="white", metadata={"Date": None} if path.suffix == ".svg" else None, dpi=150)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=RESULTS, help="folder of what is drawn")
    parser.add_argument("--format", default="svg", help="svg or png")
    asked = parser.parse_args()
    for name in FIGURES:
        drawn(name, asked.out / f"{name}.{asked.format}")


if __name__ == "__main__":
    main()
