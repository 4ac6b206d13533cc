"""Averages of class probabilities over crops and over networks, on folded ONNX files: section 4.2.3 of the paper."""

from __future__ import annotations

import argparse
import json
import os
from itertools import product
from pathlib import Path
from statistics import fmean
from typing import Any

import numpy as np

from bnfold.benchmarking.environment import environment
from bnfold.folding.pipeline import Options, fold_file
from bnfold.recalibration.evaluation import Evaluation, evaluate
from bnfold.recalibration.evaluation.crops import SCALES, scaled_side
from bnfold.recalibration.evaluation.labelled import LABELS
from bnfold.train import TrainOptions, train
from bnfold.train.data import Dataset, load_dataset
from bnfold.train.export import export
from bnfold.train.to_onnx import INPUT

HERE = Path(__file__).resolve().parent
SHARED = Path(os.environ.get("BNFOLD_DATA", HERE.parents[2] / "shared" / "data")) / "cifar10"
CROPS = (1, 5, 10)
NETWORKS = 3
SINGLE, ENSEMBLE = "one network", "ensemble"
COLOURS = {SINGLE: "#0072B2", ENSEMBLE: "#D55E00"}  # of Okabe and Ito
IMAGES = {"margin": "-", "enlarged": "--"}  # what crops are cut from, and how its lines are drawn
TOPS = {"top1": "top-1 error (%)", "top5": "top-5 error (%)"}


def options(seed: int, run: Path, quick: bool) -> TrainOptions:
    """The networks differ by their seed: it decides first weights, order of images and augmentation."""
    return TrainOptions(
        data="digits" if quick else "cifar10",
        data_dir=str(SHARED) if SHARED.is_dir() and not quick else None,
        arch="resnet-8",
        augment="crop-flip",
        batch_size=32,
        lr=0.1,
        momentum=0.9,
        weight_decay=5e-4,
        schedule="cosine",
        steps=20 if quick else 1000,
        channels_last=True,
        statistics="alg2",
        seed=seed,
        device="cpu",
        out=run,
        resume=run.exists(),
    )


def network(seed: int, out: Path, quick: bool) -> dict[str, Any]:
    """Train, export, fold, verify; a run that an earlier call of the script began goes on."""
    result = train(options(seed, out / f"net{seed}", quick))
    exported = export(result.run, out / f"net{seed}.onnx", force=True)
    folded = fold_file(exported.path, options=Options(force=True))
    return {
        "seed": seed,
        "steps": result.steps,
        "seconds": round(result.seconds, 1),
        "batch_norms": [folded.before.batch_normalizations, folded.after.batch_normalizations],
        "verified": folded.verification.verdict if folded.verification else None,
        "files": {"unfolded": exported.path.name, "folded": folded.target.name},
    }


def with_margin(data: Dataset, path: Path) -> Path:
    """The test images with as much black around them as crops can be cut from, as training moves them into black."""
    size = data.shape[1]
    more = scaled_side(size, SCALES[0]) - size
    around = (more // 2, more - more // 2)
    images = np.pad(data.test.images, ((0, 0), (0, 0), around, around))
    np.savez_compressed(path, **{INPUT: images, LABELS: data.test.labels})
    return path


def evaluate_by_crops(files: list[Path], data: str, folder: Path | None) -> dict[str, Any]:
    """Top-1 and top-5 of each network and last of all together, for every number of crops, by `bnfold evaluate`."""
    return {str(crops): plain(evaluate(files, data, crops=crops, data_dir=folder)) for crops in CROPS}


def plain(results: Evaluation) -> dict[str, Any]:
    scores = [*results.models, *([results.ensemble] if results.ensemble else [])]
    return {"samples": results.samples, **{top: [getattr(score, top) for score in scores] for top in TOPS}}


def measure(out: Path, count: int, quick: bool) -> dict[str, Any]:
    """Everything that is shown, as plain data."""
    given = options(0, out, quick).settings
    name, folder = given["data"], Path(given["data_dir"]) if "data_dir" in given else None
    networks = [network(seed, out, quick) for seed in range(count)]
    folded, unfolded = ([out / n["files"][kind] for n in networks] for kind in ("folded", "unfolded"))
    margin = str(with_margin(load_dataset(name, folder), out / "margin.npz"))
    return {
        "environment": environment(),
        "networks": networks,
        "margin": evaluate_by_crops(folded, margin, None),
        "margin, unfolded": evaluate_by_crops(unfolded, margin, None),
        "enlarged": evaluate_by_crops(folded, name, folder),
        "enlarged, unfolded": evaluate_by_crops(unfolded, name, folder),
    }


def errors(results: dict[str, Any], images: str, crops: int, top: str) -> dict[str, list[float]]:
    """In percent: of each network alone, and of all together."""
    *alone, together = (100 * (1 - share) for share in results[images][str(crops)][top])
    return {SINGLE: alone, ENSEMBLE: [together]}


def table(results: dict[str, Any]) -> str:
    """Errors of the folded files; and whether the unfolded ones have the same."""
    lines = [f"{'crops of images':15}  {'':11}  {'top-1 error':>24}  {'top-5 error':>24}"]
    for images, crops in product(IMAGES, CROPS):
        top1, top5 = (errors(results, images, crops, top) for top in TOPS)
        for kind in COLOURS:
            lines.append(f"{crops:3} {images:11}  {kind:11}  {words(top1[kind]):>24}  {words(top5[kind]):>24}")
    same = all(results[images] == results[f"{images}, unfolded"] for images in IMAGES)
    verified = {network["verified"] for network in results["networks"]}
    lines += [f"folded and unfolded files have the same errors: {same}", f"verified: {' '.join(sorted(verified))}"]
    return "\n".join(lines)


def words(values: list[float]) -> str:
    spread = f" ({min(values):.1f} to {max(values):.1f})" if len(values) > 1 else ""
    return f"{fmean(values):.2f}%{spread}"


def figure(results: dict[str, Any], path: Path) -> None:
    """Error against crops: every network, their mean, and the ensemble; dashed for enlarged images."""
    import matplotlib

    matplotlib.use("svg")
    from matplotlib import pyplot as plt

    with plt.rc_context({"svg.fonttype": "none", "svg.hashsalt": "bnfold", "font.size": 10}):
        drawing, panels = plt.subplots(1, 2, figsize=(10, 4), layout="constrained", facecolor="white")
        for panel, (top, label) in zip(panels, TOPS.items(), strict=True):
            for images, style in IMAGES.items():
                draw(panel, [errors(results, images, crops, top) for crops in CROPS], images, style)
            panel.set(xlabel="crops of each image", ylabel=label, xticks=range(len(CROPS)), xticklabels=CROPS)
        drawing.savefig(path, metadata={"Date": None})
        plt.close(drawing)


def draw(panel: Any, rows: list[dict[str, list[float]]], images: str, style: str) -> None:
    for kind, colour in COLOURS.items():
        means = [fmean(row[kind]) for row in rows]
        panel.plot(means, style, color=colour, linewidth=2, marker="o")
        for x, row in enumerate(rows):
            panel.plot([x] * len(row[kind]), row[kind], ".", color=colour, alpha=0.4)
        end = (len(rows) - 1, means[-1])
        words = f"{kind}, {images}"
        panel.annotate(words, end, (8, 0), textcoords="offset points", color=colour, va="center")
    panel.set_xlim(-0.2, len(rows) + 0.2)
    panel.spines[["top", "right"]].set_visible(False)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=Path("ensemble"), help="folder for networks, data and figure")
    parser.add_argument("--quick", action="store_true", help="two networks, a few steps, small digits: to see it run")
    parser.add_argument("--measured", type=Path, metavar="results.json", help="show this instead of measuring")
    arguments = parser.parse_args()
    arguments.out.mkdir(parents=True, exist_ok=True)
    if arguments.measured:
        results = json.loads(arguments.measured.read_text())
    else:
        results = measure(arguments.out, 2 if arguments.quick else NETWORKS, arguments.quick)
        (arguments.out / "results.json").write_text(json.dumps(results, indent=1) + "\n")
    print(table(results))
    figure(results, arguments.out / "ensemble.svg")


if __name__ == "__main__":
    main()
