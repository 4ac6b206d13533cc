"""bnfold: fold Batch Normalization out of ONNX models, losslessly, and prove that nothing else changed."""

from __future__ import annotations

import os
from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .benchmarking import Benchmark as Benchmark
    from .benchmarking import bench as bench
    from .folding.driver import Explanation as Explanation
    from .folding.driver import FoldResult as FoldResult
    from .folding.driver import explain as explain
    from .folding.proved import fold as fold
    from .model.onnx_io import load as load
    from .model.onnx_io import save as save
    from .recalibration import Recalibration as Recalibration
    from .recalibration import recalibrate as recalibrate
    from .recalibration.evaluation import Evaluation as Evaluation
    from .recalibration.evaluation import evaluate as evaluate
    from .reporting import report as report
    from .verification import Verification as Verification
    from .verification import verify as verify

__version__ = "0.1.0"

# From 1.29 on, onnxruntime sends telemetry about the models it opens, unless this is set before its first import.
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")

_HOME = {  # public name: its module, which is imported at the first use of the name
    "Benchmark": "benchmarking",
    "Evaluation": "recalibration.evaluation",
    "Explanation": "folding.driver",
    "FoldResult": "folding.driver",
    "Recalibration": "recalibration",
    "Verification": "verification",
    "bench": "benchmarking",
    "evaluate": "recalibration.evaluation",
    "explain": "folding.driver",
    "fold": "folding.proved",
    "load": "model.onnx_io",
    "recalibrate": "recalibration",
    "report": "reporting",
    "save": "model.onnx_io",
    "verify": "verification",
}

__all__ = sorted(_HOME)


def __getattr__(name: str) -> Any:
    if name == "passes":  # a module, which needs onnx_ir
        return import_module(f"{__name__}.passes")
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOME[name]}"), name)


def __dir__() -> list[str]:
    return [*__all__, "__version__"]
