"""Two figures of results.json."""

from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("svg")

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes

Results = dict[str, Any]
COLOUR = {"none": "#D55E00", "last": "#009E73", "everywhere": "#0072B2"}  # Okabe and Ito's
LABEL = {"none": "no BN", "last": "BN at the last layer", "everywhere": "BN everywhere"}
GREY = "#666666"
STYLE = {"svg.fonttype": "none", "svg.hashsalt": "bnfold", "font.size": 9, "axes.titlesize": 9.5}
STYLE |= {"axes.spines.top": False, "axes.spines.right": False, "savefig.facecolor": "white"}
CEILING = 1e6  # of relative losses: what is not finite is drawn there, outside
BEYOND = 100  # where a network is drawn that no step makes diverge


def draw(results: Results, out: Path) -> None:
    """learning_rates.svg and at_the_start.svg in the folder `out`."""
    figures = {
        "learning_rates": (accuracies, losses, edges),
        "at_the_start": (variances, means, update, tails, signs, spectra),
    }
    with plt.rc_context(STYLE):
        for file, panels in figures.items():
            rows = len(panels) // 3
            figure, axes = plt.subplots(rows, 3, figsize=(12, 3.6 * rows), layout="constrained")
            for ax, panel in zip(np.ravel(axes), panels, strict=True):
                panel(ax, results)
                ax.minorticks_off()
            figure.savefig(out / f"{file}.svg", metadata={"Date": None})
            plt.close(figure)


def accuracies(ax: Axes, results: Results) -> None:
    depths = sorted({row["depth"] for row in results["sweep"]})
    for depth, style in zip(depths, ("o-", "s--"), strict=False):
        for kind, colour in COLOUR.items():
            rows = [row for row in results["sweep"] if (row["depth"], row["kind"]) == (depth, kind)]
            ax.plot([r["lr"] for r in rows], [r.get("accuracy", 0) for r in rows], style, color=colour, ms=4)
    name(ax, 0.03, 0.98)
    chance = 1 / results["plan"]["classes"]
    ax.axhline(chance, color=GREY, lw=0.8, ls=":")
    ax.text(1e-2, chance, "chance", color=GREY, va="bottom")
    names = ", ".join(f"resnet-{depth} {line}" for depth, line in zip(depths, ("solid", "dashed"), strict=False))
    say(ax, f"after {results['plan']['steps']} steps: {names}", "learning rate", "held-out accuracy (0: diverged)")
    ax.set(xscale="log", ylim=(-0.01, None))


def losses(ax: Axes, results: Results) -> None:
    for row in results["losses"]:
        if row["depth"] == results["plan"]["depth"]:
            ratios = [min(ratio, CEILING) if ratio is not None else CEILING for ratio in row["ratios"]]
            ax.plot(results["plan"]["single_steps"], ratios, ".-", color=COLOUR[row["kind"]])
    name(ax, 0.45, 0.3)
    ax.axhline(1e3, color=GREY, lw=0.8, ls=":")
    ax.text(results["plan"]["single_steps"][0], 1e3, "counted as divergence", color=GREY, va="bottom")
    say(ax, f"one step, resnet-{results['plan']['depth']} at the start", "size of the step", "new loss / old loss")
    ax.set(xscale="log", yscale="log", ylim=(1e-3, 1e5))


def edges(ax: Axes, results: Results) -> None:
    for kind, colour in COLOUR.items():
        rows = [row for row in results["losses"] if row["kind"] == kind]
        ax.plot([r["depth"] for r in rows], [r["diverges_at"] or BEYOND for r in rows], "o-", color=colour, alpha=0.8)
    ax.axhline(BEYOND / 2, color=GREY, lw=0.8, ls=":")
    ax.text(0.03, 0.05, "above the dotted line:\nno step tried diverges", color=GREY, transform=ax.transAxes)
    name(ax, 0.03, 0.4)
    say(ax, "first step that diverges, at the start", "layers", "size of the step")
    ax.set(yscale="log")


def variances(ax: Axes, results: Results) -> None:
    by_depth(ax, results, "variance", "variance over images and locations\n(average of channels)")


def means(ax: Axes, results: Results) -> None:
    by_depth(ax, results, "mean", "|mean| over images and locations\n(average of channels)")


def by_depth(ax: Axes, results: Results, what: str, label: str) -> None:
    for row in results["moments"]:
        if row["kind"] != "last":  # the same as without any, up to its last block
            for start, width in ((1, 1.8), (2, 0.7)):  # the first and the second convolution of every block
                ax.plot(depths(row[what])[start::2], row[what][start::2], color=COLOUR[row["kind"]], lw=width)
    name(ax, 0.03, 0.98, ("none", "everywhere"))
    ax.text(0.03, 0.8, "thin: the second of a block", color=GREY, transform=ax.transAxes)
    say(ax, f"what convolutions give, resnet-{results['plan']['depth']}", "convolution", label)
    ax.set(yscale="log")


def update(ax: Axes, results: Results) -> None:
    for row in results["update"]:
        if row["kind"] != "last":
            strength = 0.25 + 0.75 * row["fraction"]
            values = [CEILING**8 if v is None else v for v in row["variance"]]
            ax.plot(depths(values), values, color=COLOUR[row["kind"]], alpha=strength)
            if row["kind"] == "none":
                ax.text(len(values), values[-1], f" {row['fraction']:.0%}", color=COLOUR["none"], va="center")
    name(ax, 0.03, 0.98, ("none", "everywhere"))
    say(ax, f"during one step of {results['update'][0]['rate']:g}", "convolution", "variance, share of the step taken")
    ax.set(yscale="log")


def tails(ax: Axes, results: Results) -> None:
    edges, rows = np.array(results["plan"]["bins"]), by_kind(results)
    middle = (edges[1:] + edges[:-1]) / 2
    for kind in ("none", "everywhere"):
        density = np.array(rows[kind]["counts"]) / rows[kind]["values"] / np.diff(edges)
        ax.stairs(np.where(density > 0, density, np.nan), edges, color=COLOUR[kind])
    ax.plot(middle, np.exp(-(middle**2) / 2) / (2 * np.pi) ** 0.5, "--", color=GREY, lw=1)
    say(ax, f"gradient, convolution {rows['none']['layer']}", "standard deviations from its mean", "density")
    ax.set(yscale="log", ylim=(1e-4, 2), xlim=(-12, 12))
    name(ax, 0.03, 0.98, ("none", "everywhere"))
    ax.text(0.03, 0.8, "dashed: Gaussian", color=GREY, transform=ax.transAxes)


def by_kind(results: Results) -> dict[str, Any]:
    """The gradients of the middle layer, as the networks start."""
    rows = [row for row in results["gradients"] if row["initial"] == "glorot"]
    layer = sorted({row["layer"] for row in rows})[1]
    return {row["kind"]: row for row in rows if row["layer"] == layer}


def signs(ax: Axes, results: Results) -> None:
    for kind, colour in COLOUR.items():
        rows = [row for row in results["gradients"] if row["initial"] == "glorot" and row["kind"] == kind]
        for what, style in (("by_example", "o-"), ("by_location", "s--")):
            ax.plot([r["layer"] for r in rows], [r[what] for r in rows], style, color=colour, ms=4)
    say(ax, "do gradients agree in sign?", "convolution", "|sum| / sum of | |   (1: all agree)")
    ax.set(yscale="log", ylim=(3e-3, 1.5))
    ax.text(0.03, 0.72, "solid: of images\ndashed: of locations too", color=GREY, transform=ax.transAxes)
    name(ax, 0.6, 0.28)


def spectra(ax: Axes, results: Results) -> None:
    for i, row in enumerate(results["products"]):
        values = row["values"]
        ax.plot(depths(values), values, color=plt.get_cmap("viridis")(i / len(results["products"])))
        ax.text(len(values), values[-1], f" {row['matrices']}", va="center")
    say(ax, "products of random Gaussian matrices", "singular value, in order", "over the largest; how many matrices")
    ax.set(yscale="log")


def name(ax: Axes, x: float, y: float, kinds: tuple[str, ...] = tuple(COLOUR)) -> None:
    """What the colours are."""
    for i, kind in enumerate(kinds):
        ax.text(x, y - 0.065 * i, LABEL[kind], color=COLOUR[kind], transform=ax.transAxes, va="top")


def depths(values: list[Any]) -> range:
    return range(1, len(values) + 1)


def say(ax: Axes, title: str, x: str, y: str) -> None:
    ax.set(title=title, xlabel=x, ylabel=y)
