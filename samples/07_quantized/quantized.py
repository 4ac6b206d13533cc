"""A network is trained, quantized by onnxruntime before and after folding, and the results are compared."""

from __future__ import annotations

import argparse
import json
import logging
import os
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import torch
from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static
from torch import nn

import bnfold
from bnfold.benchmarking.environment import environment
from bnfold.train.data import load_dataset

HERE = Path(__file__).resolve().parent
SHARED = Path(os.environ.get("BNFOLD_DATA", HERE / "../../../shared/data"))
FULL = {"train": 10_000, "test": 10_000, "epochs": 2, "calibration": 500, "launches": 7, "budget_s": 10.0}
QUICK = {"train": 4000, "test": 500, "epochs": 2, "calibration": 100, "launches": 3, "budget_s": 2.0}
LAYERS = ["Conv", "Gemm", "MatMul"]


def network() -> nn.Sequential:
    """Three convolutions and, over the whole image, a hidden layer, each normalized before its ReLU."""
    layers: list[nn.Module] = []
    for a, b, stride in ((1, 16, 1), (16, 32, 2), (32, 64, 2)):
        layers += [nn.Conv2d(a, b, 3, stride, 1), nn.BatchNorm2d(b), nn.ReLU()]
    hidden = [nn.Conv2d(64, 128, 7), nn.BatchNorm2d(128), nn.ReLU()]
    return nn.Sequential(*layers, *hidden, nn.Conv2d(128, 10, 1), nn.Flatten())


def train(model: nn.Module, images: torch.Tensor, labels: torch.Tensor, epochs: int) -> None:
    """Adam, batches of 64. A third of the scales start below zero, where training leaves them: such scales do occur."""
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            with torch.no_grad():
                module.weight[torch.rand(len(module.weight)) < 0.3] = -1.0
    optimizer = torch.optim.Adam(model.parameters(), 2e-3)
    for _ in range(epochs):
        for batch in torch.randperm(len(images)).split(64):
            optimizer.zero_grad()
            nn.functional.cross_entropy(model(images[batch]), labels[batch]).backward()
            optimizer.step()
    model.eval()


def export(model: nn.Module, path: Path) -> None:
    """Every BatchNormalization still there."""
    batch = torch.export.Dim("N")
    example = torch.zeros(2, 1, 28, 28)
    shapes = ({0: batch},)
    torch.onnx.export(
        model, (example,), path, dynamic_shapes=shapes, optimize=False, external_data=False, verbose=False
    )


class Images(CalibrationDataReader):
    """Unlabelled images, from which onnxruntime takes the ranges of activations."""

    def __init__(self, name: str, images: np.ndarray) -> None:
        self.batches = iter([{name: batch} for batch in np.split(images, 10)])

    def get_next(self) -> dict[str, np.ndarray] | None:
        return next(self.batches, None)


def quantize(source: Path, target: Path, images: np.ndarray, outputs: bool) -> None:
    """onnxruntime's static quantization: int8 weights with a scale for each channel, uint8 activations, QDQ.

    Without `outputs` only what a layer reads is rounded: what it makes goes on in float, to the BatchNormalization.
    """
    name = onnx.load(source).graph.input[0].name
    extra = {} if outputs else {"OpTypesToExcludeOutputQuantization": LAYERS}
    quantize_static(
        source,
        target,
        Images(name, images),
        quant_format=QuantFormat.QDQ,
        op_types_to_quantize=LAYERS,
        per_channel=True,
        activation_type=QuantType.QUInt8,
        weight_type=QuantType.QInt8,
        extra_options=extra,
    )


def fold(source: Path, target: Path) -> None:
    """What `bnfold fold` does; a model in which nothing folds stays as it is."""
    result = bnfold.fold(source)
    bnfold.save(result.model, target)
    if result.folded:
        assert bnfold.verify(source, target, untouched=result.sites).passed


def accuracy(path: Path, images: np.ndarray, labels: np.ndarray) -> float:
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    name = session.get_inputs()[0].name
    right = [(session.run(None, {name: x})[0].argmax(1) == y).sum() for x, y in batches(images, labels)]
    return float(sum(right) / len(images))


def batches(images: np.ndarray, labels: np.ndarray) -> list[tuple[np.ndarray, np.ndarray]]:
    ends = range(0, len(images), 100)
    return [(images[i : i + 100], labels[i : i + 100]) for i in ends]


def make_files(out: Path, images: np.ndarray) -> dict[str, Path]:
    """The files by the steps that made them, in order."""
    steps = {
        "trained": "",
        "folded": "trained",
        "folded, quantized": "folded",
        "quantized": "trained",
        "quantized, folded": "quantized",
        "inputs quantized": "trained",
        "inputs quantized, folded": "inputs quantized",
    }
    paths = {name: out / f"{name.replace(', ', '.').replace(' ', '_')}.onnx" for name in steps}
    for name, before in steps.items():
        if name.endswith("folded"):
            fold(paths[before], paths[name])
        elif before:
            quantize(paths[before], paths[name], images, outputs=not name.startswith("inputs"))
    return paths


def measure(plan: dict[str, Any], out: Path) -> dict[str, Any]:
    torch.manual_seed(0)
    logging.root.setLevel(logging.ERROR)  # onnxruntime's quantizer asks for a preparation that folds
    folder = SHARED / "mnist"
    data = load_dataset("mnist", folder if folder.is_dir() else None)
    images, labels = (part[: plan["train"]] for part in (data.train.images, data.train.labels))
    seen, tested = (np.float32(x) / 255 for x in (images, data.test.images[: plan["test"]]))
    model = network()
    train(model, torch.from_numpy(seen), torch.from_numpy(labels.astype(np.int64)), plan["epochs"])
    export(model, out / "trained.onnx")
    paths = make_files(out, seen[: plan["calibration"]])
    rows = {
        name: row(path, paths["trained"], tested, data.test.labels[: plan["test"]], plan)
        for name, path in paths.items()
    }
    packages = {"torch": version("torch"), "onnxruntime": onnxruntime.__version__}
    return {"environment": environment() | packages, "plan": plan, "rows": rows}


def row(path: Path, first: Path, images: np.ndarray, labels: np.ndarray, plan: dict[str, Any]) -> dict[str, Any]:
    """BatchNormalizations, bytes, accuracy, and how many times as fast as the trained file."""
    kinds = [node.op_type for node in onnx.load(path).graph.node]
    ratio = None
    if path != first:
        how = {"levels": ["default"], "threads": 1, "dims": {"N": [1]}}
        found = bnfold.bench(first, path, launches=plan["launches"], budget_s=plan["budget_s"], **how)
        speedup = found.headline.speedup
        ratio = [speedup.estimate, speedup.low, speedup.high]
    counted = {"batch_norms": kinds.count("BatchNormalization"), "nodes": len(kinds), "bytes": path.stat().st_size}
    return {**counted, "accuracy": accuracy(path, images, labels), "times as fast": ratio}


def show(results: dict[str, Any]) -> None:
    print(f"{'':<26}{'BN':>3}{'nodes':>7}{'kB':>7}{'accuracy':>10}   times as fast")
    for name, each in results["rows"].items():
        ratio = each["times as fast"]
        speed = f"{ratio[0]:.2f} [{ratio[1]:.2f}, {ratio[2]:.2f}]" if ratio else "1"
        size = f"{each['batch_norms']:3}{each['nodes']:7}{each['bytes'] / 1000:7.0f}"
        print(f"{name:<26}{size}{each['accuracy']:10.4f}   {speed}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="few images: the same path, in seconds")
    parser.add_argument("--out", type=Path, default=Path(), help="folder of what is written")
    arguments = parser.parse_args()
    arguments.out.mkdir(parents=True, exist_ok=True)
    results = measure(QUICK if arguments.quick else FULL, arguments.out)
    (arguments.out / "results.json").write_text(json.dumps(results, indent=1) + "\n")
    show(results)


if __name__ == "__main__":
    main()
