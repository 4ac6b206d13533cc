"""From a network of one's own, written and trained in plain PyTorch, to a folded ONNX file that is proved and timed."""

from __future__ import annotations

import argparse
import time
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import torch
from torch import Tensor, nn

import bnfold
from bnfold.train import install, population_statistics
from bnfold.train.data import Dataset, Split, load_dataset

BATCH = 64
Pair = tuple[Tensor, Tensor]


class Network(nn.Module):
    """Two parallel convolutions, normalized together, then a block with branches, then two dense layers."""

    def __init__(self, classes: int) -> None:
        super().__init__()
        self.fine, self.coarse = nn.Conv2d(1, 16, 3, padding=1, bias=False), nn.Conv2d(1, 16, 5, padding=2, bias=False)
        self.joined = nn.BatchNorm2d(32)
        self.wide = nn.Sequential(nn.Conv2d(32, 32, 3, padding=1, bias=False), nn.BatchNorm2d(32))
        self.narrow = nn.Sequential(nn.Conv2d(32, 32, 1, bias=False), nn.BatchNorm2d(32))
        self.itself = nn.BatchNorm2d(32)
        self.hidden = nn.Sequential(nn.Linear(32 * 4, 64, bias=False), nn.BatchNorm1d(64), nn.ReLU())
        self.logits = nn.Linear(64, classes)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.joined(torch.cat([self.fine(x), self.coarse(x)], 1)))
        x = torch.relu(self.wide(x) + self.narrow(x) + self.itself(x))
        return self.logits(self.hidden(nn.functional.adaptive_avg_pool2d(x, 2).flatten(1)))


def batches(data: Dataset) -> list[Pair]:
    """Training images, shuffled, normalized, with their labels."""
    order = np.random.default_rng(0).permutation(len(data.train))
    return [tensors(data, data.train[order[i : i + BATCH]]) for i in range(0, len(order) - BATCH + 1, BATCH)]


def tensors(data: Dataset, part: Split) -> Pair:
    return torch.from_numpy(data.normalization(part.images)), torch.from_numpy(part.labels)


def train(network: nn.Module, seen: list[Pair], epochs: int) -> None:
    optimizer = torch.optim.SGD(network.parameters(), lr=0.05, momentum=0.9)
    for images, labels in seen * epochs:
        optimizer.zero_grad()
        nn.functional.cross_entropy(network(images), labels).backward()
        optimizer.step()


def in_pytorch(network: nn.Module, images: Tensor) -> np.ndarray:
    """The class that a network sees in each image."""
    with torch.no_grad():
        return network.eval()(images).argmax(1).numpy()


def in_onnxruntime(path: Path, images: Tensor) -> np.ndarray:
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    return session.run(None, {"image": images.numpy()})[0].argmax(1)


def export(network: nn.Module, example: Tensor, path: Path) -> None:
    """PyTorch's own call. optimize=False keeps every BatchNormalization; by default some would be gone already."""
    options = {"input_names": ["image"], "output_names": ["logits"], "external_data": False, "verbose": False}
    dynamic = ({0: torch.export.Dim("batch")},)
    torch.onnx.export(network, (example,), path, optimize=False, dynamic_shapes=dynamic, **options)


def counted(path: Path) -> str:
    kinds = [node.op_type for node in onnx.load(path).graph.node]
    return f"{kinds.count('BatchNormalization')} BatchNormalization, {len(kinds)} nodes, {path.stat().st_size} bytes"


def train_network(data: Dataset, epochs: int) -> tuple[nn.Module, Tensor, np.ndarray]:
    """A trained network with population statistics (Algorithm 2), and the test images with their labels."""
    torch.manual_seed(0)
    network, seen = Network(len(data.classes)), batches(data)
    train(network, seen, epochs)
    images, labels = tensors(data, data.test)[0], data.test.labels
    before = (in_pytorch(network, images) == labels).mean()
    install(network, population_statistics(network, seen))
    after = (in_pytorch(network, images) == labels).mean()
    print(f"trained    {epochs} epochs on {len(seen) * BATCH} images, {len(labels)} held out")
    print(f"accuracy   {before:.4f} with moving averages, {after:.4f} with population statistics (PyTorch)")
    return network.eval(), images, labels


def compare(original: Path, folded: Path, images: Tensor, labels: np.ndarray) -> None:
    """Print the accuracy of both files on the held-out images."""
    print(f"exported   {counted(original)}\nfolded     {counted(folded)}")
    before, after = in_onnxruntime(original, images), in_onnxruntime(folded, images)
    print(f"accuracy   {(before == labels).mean():.4f} exported, {(after == labels).mean():.4f} folded (onnxruntime)")
    print(f"answers    {(before == after).sum()} of {len(labels)} the same")


def measure(original: Path, folded: Path, budget: float) -> None:
    result = bnfold.bench(original, folded, levels=["default"], threads=1, budget_s=budget)
    ratio = result.headline.speedup
    print(f"measured   {ratio.estimate:.2f} [{ratio.low:.2f}, {ratio.high:.2f}] times as fast (95 % interval)")
    print(f"           onnxruntime by itself leaves {result.left_by_onnxruntime['original']} BatchNormalization")


def options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--epochs", type=int, default=5)
    parser.add_argument("--budget", type=float, default=10.0, help="seconds of the measurement")
    parser.add_argument("--out", type=Path, default=Path(), help="folder of what is written")
    return parser.parse_args()


def main() -> None:
    arguments, started = options(), time.perf_counter()
    network, images, labels = train_network(load_dataset("digits", None), arguments.epochs)
    original, folded = arguments.out / "mine.onnx", arguments.out / "mine.folded.onnx"
    export(network, images[:2], original)
    bnfold.save(bnfold.fold(original).model, folded)
    compare(original, folded, images, labels)
    print(f"verified   {bnfold.verify(original, folded).verdict}")
    measure(original, folded, arguments.budget)
    print(f"all in     {time.perf_counter() - started:.0f} seconds")


if __name__ == "__main__":
    main()
