"""A finished model gets images of another kind; population statistics of some of them, without labels, repair it."""

from __future__ import annotations

import argparse
import json
import os
import tempfile
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from bnfold.benchmarking.environment import environment
from bnfold.folding.pipeline import fold_file
from bnfold.model.onnx_io import load as load_model
from bnfold.recalibration.evaluation import evaluate
from bnfold.recalibration.options import Options
from bnfold.recalibration.pipeline import check_file, recalibrate_file
from bnfold.train import TrainOptions, train
from bnfold.train.data import Dataset, Split, load_dataset
from bnfold.train.export import export
from bnfold.train.pixels import Normalization

HERE = Path(__file__).resolve().parent
SHARED = Path(os.environ.get("BNFOLD_DATA", HERE / "../../../shared/data"))
USUAL = Normalization(255, (0.1307,), (0.3081,))  # of MNIST's pixels
FULL = {"unlabelled": 1000, "train": 10_000, "test": 10_000, "epochs": 5, "names": None}
QUICK = {"unlabelled": 300, "train": 1000, "test": 300, "epochs": 4, "names": ["darkened", "inverted"]}
ORANGE, BLUE = "#d55e00", "#0072b2"  # of Okabe and Ito's palette, which everyone can tell apart
Pixels = np.ndarray  # uint8, (N, 1, 28, 28)


def blurred(x: np.ndarray) -> np.ndarray:
    """The mean of 5x5 pixels, black beyond the edge."""
    padded = np.pad(x, ((0, 0), (0, 0), (2, 2), (2, 2)))
    return sum(padded[:, :, i : i + x.shape[2], j : j + x.shape[3]] for i in range(5) for j in range(5)) / 25


CAMERAS: dict[str, Callable[[np.ndarray], np.ndarray]] = {  # from pixels of MNIST to the pixels of another camera
    "as in training": lambda x: x,
    "darkened": lambda x: 0.3 * x,
    "washed out": lambda x: 128 + 0.3 * x,
    "blurred": blurred,
    "noisy": lambda x: x + np.random.default_rng(0).normal(0, 80, x.shape),
    "inverted": lambda x: 255 - x,
}
FORGOTTEN: dict[str, Callable[[Pixels], np.ndarray]] = {  # the input where the normalization is forgotten
    "0 to 1, not normalized": lambda x: x.astype(np.float32) / 255,
    "0 to 255, not normalized": lambda x: x.astype(np.float32),
}


def domain(name: str, images: Pixels, normalization: Normalization | None) -> np.ndarray:
    """The input of the model: pixels if its metadata say how to normalize them."""
    if name in FORGOTTEN:
        return FORGOTTEN[name](images)
    pixels = np.clip(np.rint(CAMERAS[name](images.astype(np.float64))), 0, 255).astype(np.uint8)
    return normalization(pixels) if normalization else pixels


def train_and_export(data: Dataset, plan: dict[str, Any], out: Path) -> Path:
    """A model as a user would make it: `bnfold train --data folder:... --arch lenet.py:lenet`, `bnfold export`."""
    with tempfile.TemporaryDirectory() as place:
        for part, split, count in (("train", data.train, plan["train"]), ("test", data.test, 500)):
            _pictures(Path(place) / "digits" / part, split, count)
        options = TrainOptions(
            data=f"folder:{place}/digits",
            arch=f"{HERE / 'lenet.py'}:lenet",
            epochs=plan["epochs"],
            device="cpu",
            out=Path(place) / "run",
        )
        run = train(options).run
        return export(run, out / "digits.onnx", force=True).path


def _pictures(folder: Path, split: Split, count: int) -> None:
    for i, (image, label) in enumerate(zip(split.images[:count], split.labels[:count], strict=True)):
        (folder / str(label)).mkdir(parents=True, exist_ok=True)
        Image.fromarray(image[0]).save(folder / str(label) / f"{i:05}.png")


def write_data(
    name: str, data: Dataset, plan: dict[str, Any], key: str, normalization: Normalization | None, out: Path
) -> list[Path]:
    """Two files of a domain: images to recalibrate on, without labels, and others with labels to test by."""
    stem = name.replace(" ", "_").replace(",", "")
    paths = [out / f"{stem}_{part}.npz" for part in ("unlabelled", "test")]
    np.savez_compressed(paths[0], **{key: domain(name, data.train.images[-plan["unlabelled"] :], normalization)})
    images, labels = (part[: plan["test"]] for part in (data.test.images, data.test.labels))
    np.savez_compressed(paths[1], **{key: domain(name, images, normalization), "labels": labels})
    return paths


def measure_one(model: Path, files: list[Path], work: Path) -> dict[str, Any]:
    """Check, test, recalibrate, test again, fold, and test once more."""
    options = Options(any_range=True)
    check = check_file(model, files[0], options, _ignore)
    repaired = recalibrate_file(model, work / "repaired.onnx", files[0], options, True, _ignore).target
    report = fold_file(repaired, work / "folded.onnx")
    scores = [evaluate([path], files[1]).models[0].top1 for path in (model, repaired, report.target)]
    report.target.unlink()
    return {
        "check": check.verdict,
        "shift": max(fit.drift.shift for fit in check.fits),
        **dict(zip(("before", "after", "folded"), scores, strict=True)),
        "batch_norms": [size.batch_normalizations for size in (report.before, report.after)],
    }


def _ignore(level: int, levels: int, done: int) -> None:
    """The progress of a recalibration, which nothing shows here."""


def measure_all(
    model: Path, data: Dataset, plan: dict[str, Any], normalization: Normalization | None, out: Path
) -> dict[str, Any]:
    """One model in every domain."""
    key = load_model(model).graph.input[0].name
    rows = {}
    with tempfile.TemporaryDirectory() as work:
        for name in plan["names"] or [*CAMERAS, *FORGOTTEN]:
            keep = out if name == "darkened" and normalization is None else Path(work)
            files = write_data(name, data, plan, key, normalization, keep)
            rows[name] = measure_one(model, files, Path(work))
    return rows


def measure(plan: dict[str, Any], out: Path) -> dict[str, Any]:
    """The model trained here and, where there is one, a model that others trained."""
    folder = SHARED / "mnist"
    data = load_dataset("mnist", folder if folder.is_dir() else None)
    models = {"trained here": measure_all(train_and_export(data, plan, out), data, plan, None, out)}
    others = SHARED / "onnx" / "burn_mnist.onnx"
    if others.is_file():
        models["burn_mnist.onnx"] = measure_all(others, data, plan, USUAL, out)
    counts = {count: plan[count] for count in ("unlabelled", "train", "test", "epochs")}
    return {"environment": environment() | {"torch": version("torch")}, **counts, "models": models}


def show(results: dict[str, Any]) -> None:
    for model, domains in results["models"].items():
        print(f"{model:<27}{'check':<6}{'shift / sd':>10}{'before':>9}{'after':>8}{'folded':>8}")
        for name, row in domains.items():
            scores = f"{row['before']:9.4f}{row['after']:8.4f}{row['folded']:8.4f}"
            print(f"  {name:<25}{row['check']:<6}{row['shift']:10.2f}{scores}")


def draw(results: dict[str, Any], path: Path) -> None:
    """Of each model and domain, accuracy before and after."""
    import matplotlib

    matplotlib.use("svg")
    from matplotlib import pyplot as plt

    plt.rcParams |= {"svg.fonttype": "none", "svg.hashsalt": "bnfold", "font.family": "sans-serif"}
    models = results["models"]
    figure, panels = plt.subplots(1, len(models), figsize=(5 * len(models), 3.6), sharey=True, squeeze=False)
    for axes, (model, domains) in zip(panels[0], models.items(), strict=True):
        before, after = ([100 * row[when] for row in domains.values()] for when in ("before", "after"))
        places = range(len(domains))
        axes.hlines(places, before, after, color="0.75", linewidth=3, zorder=1)
        axes.scatter(before, places, color=ORANGE, s=45, label="as trained", zorder=2)
        axes.scatter(after, places, color=BLUE, s=45, marker="D", label="recalibrated", zorder=3)
        axes.set(title=model, xlim=(0, 103), xlabel="test accuracy, %")
        axes.set_yticks(places, domains)
        axes.grid(axis="x", color="0.9")
        axes.spines[["top", "right", "left"]].set_visible(False)
    panels[0][0].invert_yaxis()
    figure.legend(*panels[0][0].get_legend_handles_labels(), loc="upper center", ncols=2, frameon=False)
    figure.tight_layout(rect=(0, 0, 1, 0.93))
    figure.savefig(path, facecolor="white", metadata={"Date": None})
    plt.close(figure)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="few images and two domains: the same path, in seconds")
    parser.add_argument("--out", type=Path, default=Path(), help="folder of what is written")
    arguments = parser.parse_args()
    arguments.out.mkdir(parents=True, exist_ok=True)
    results = measure(QUICK if arguments.quick else FULL, arguments.out)
    (arguments.out / "results.json").write_text(json.dumps(results, indent=1) + "\n")
    draw(results, arguments.out / "new_domain.svg")
    show(results)


if __name__ == "__main__":
    main()
