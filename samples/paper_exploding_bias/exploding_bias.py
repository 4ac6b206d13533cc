"""Why normalization must be part of what is differentiated: the example of section 2 of the paper."""

from __future__ import annotations

import argparse
import json
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

from bnfold.benchmarking.environment import environment
from bnfold.train.algorithms import exploding_bias

CONSTANT, DEPENDENT = "E[x] taken for a constant", "E[x] depends on b"
COLOURS = {CONSTANT: "#d55e00", DEPENDENT: "#0072b2"}  # of Okabe and Ito's palette, told apart by everyone
SHOWN = (0, 1, 10, 100, 1000)


def measure(steps: int) -> dict[str, Any]:
    """The bias and the loss before every step, both ways."""
    u = torch.randn(1000, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    found: dict[str, Any] = {"environment": environment() | {"torch": version("torch")}}
    for name in (CONSTANT, DEPENDENT):
        biases, losses = exploding_bias(u, target=u + 1, lr=0.1, steps=steps, through_mean=name == DEPENDENT)
        found[name] = {"bias": [round(b, 6) for b in biases], "loss": [round(loss, 6) for loss in losses]}
    return found


def tell(found: dict[str, Any]) -> None:
    print(f"          {CONSTANT}     {DEPENDENT}")
    print(" step          b        loss              b        loss")
    for i in SHOWN:
        (b, loss), (still, same) = ((found[name]["bias"][i], found[name]["loss"][i]) for name in COLOURS)
        print(f"{i:5}   {b:8.2f}    {loss:8.4f}       {abs(still):8.2f}    {same:8.4f}")


def draw(found: dict[str, Any], path: Path) -> None:
    """The bias and the loss, step by step."""
    import matplotlib

    matplotlib.use("svg")
    from matplotlib import pyplot as plt

    plt.rcParams |= {"svg.fonttype": "none", "svg.hashsalt": "bnfold", "font.family": "sans-serif"}
    figure, panels = plt.subplots(1, 2, figsize=(9, 3.2))
    for axes, what in zip(panels, ("bias", "loss"), strict=True):
        for name, colour in COLOURS.items():
            axes.plot(found[name][what], color=colour, label=name, linestyle="-" if name == CONSTANT else "--")
        axes.set(title=what, xlabel="step")
        axes.spines[["top", "right"]].set_visible(False)
    panels[1].set_ylim(0, 1)
    panels[0].legend(frameon=False, labelcolor="linecolor")
    figure.tight_layout()
    figure.savefig(path, facecolor="white", metadata={"Date": None})
    plt.close(figure)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=Path(), help="folder of results.json and exploding_bias.svg")
    out = parser.parse_args().out
    out.mkdir(parents=True, exist_ok=True)
    found = measure(steps=max(SHOWN) + 1)
    (out / "results.json").write_text(json.dumps(found) + "\n")
    draw(found, out / "exploding_bias.svg")
    tell(found)


if __name__ == "__main__":
    main()
