"""Accuracy of ONNX models on labelled data: averages of class probabilities over crops and over models.

result = evaluate(["a.onnx", "b.onnx"], "cifar10", crops=10, data_dir=Path("data"))
"""

from __future__ import annotations

from .evaluating import Evaluation as Evaluation
from .evaluating import evaluate as evaluate

__all__ = ["Evaluation", "evaluate"]
