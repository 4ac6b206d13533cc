"""`bnfold demo`: train, export, fold, verify and measure a small network, and one table of what came of it."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from ..benchmarking import Benchmark, bench
from ..errors import UsageProblem
from ..folding.pipeline import FoldReport, fold_file
from ..system.installed import require_runtime, runtime
from ..train import TrainOptions, TrainResult, train
from ..train.data import load_dataset
from ..train.export import ExportResult, export
from ..train.options import Watch
from ..verification import Verification, verify

Say = Callable[[str], None]


@dataclass(frozen=True)
class Demo:
    """Everything the steps of the demo returned."""

    trained: TrainResult
    exported: ExportResult
    folded: FoldReport
    verified: Verification
    measured: Benchmark
    accuracy: tuple[float, float]  # of the exported and of the folded file, on the held-out images

    def rows(self) -> list[tuple[str, str, str]]:
        """The summary: a quantity, before the fold, after it."""
        before, after = self.folded.before, self.folded.after
        original, folded = self.verified.errors
        cell = self.measured.headline
        interval = f"{cell.speedup.estimate:.3f} [{cell.speedup.low:.3f}, {cell.speedup.high:.3f}]"
        return [
            (
                f"accuracy on {self.trained.test_images} held-out images",
                f"{self.accuracy[0]:.4f}",
                f"{self.accuracy[1]:.4f}",
            ),
            ("BatchNormalization", str(before.batch_normalizations), str(after.batch_normalizations)),
            ("nodes", str(before.nodes), str(after.nodes)),
            ("bytes", str(before.bytes), str(after.bytes)),
            (f"worst error against {self.verified.reference}", f"{original:.2g}", f"{folded:.2g}"),
            ("verification", "", self.verified.verdict),
            (f"latency at onnxruntime {cell.level}, ms", f"{cell.ms[0]:.4f}", f"{cell.ms[1]:.4f}"),
            ("speed-up [95% interval]", "", f"{interval} {cell.verdict}"),
        ]


def demo(folder: Path, say: Say, watch: Watch = lambda event: None) -> Demo:
    """Run the whole of bnfold on scikit-learn's handwritten digits; files go to `folder`, which must be new or empty.

    Raises UsageProblem if it is not, and whatever the steps raise.
    """
    require_runtime("the demo")
    if os.path.exists(folder) and (not os.path.isdir(folder) or any(folder.iterdir())):
        raise UsageProblem(f"{folder} exists and is not empty", "Name another folder with --dir, or remove this one.")
    original, folded = folder / "digits.onnx", folder / "digits.folded.onnx"
    say("1/5 train: a small convolutional network on handwritten digits")
    trained = train(TrainOptions(data="digits", out=folder / "run"), watch)
    say(f"2/5 export: {original}, every BatchNormalization a node")
    exported = export(trained.run, original)
    say(f"3/5 fold: {folded}")
    report = fold_file(original, folded)
    say("4/5 verify: both files against a float64 evaluation, more inputs than during the fold")
    verified = verify(original, folded, effort="full")
    say("5/5 bench: both files, interleaved, in fresh processes")
    measured = bench(original, folded)
    return Demo(trained, exported, report, verified, measured, (accuracy(original), accuracy(folded)))


def accuracy(model: Path) -> float:
    """The share of the held-out digits that an ONNX file gets right in onnxruntime."""
    digits = load_dataset("digits", None)
    session = runtime().InferenceSession(model, providers=["CPUExecutionProvider"])
    (logits,) = session.run(None, {session.get_inputs()[0].name: digits.normalization(digits.test.images)})
    return float((logits.argmax(1) == digits.test.labels).mean())
