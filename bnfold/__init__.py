"""bnfold: fold Batch Normalization out of ONNX models, losslessly, and prove that nothing else changed."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .bench import Benchmark as Benchmark
    from .bench import benchmark as benchmark
    from .fold import FoldResult as FoldResult
    from .fold import explain as explain
    from .fold import fold as fold
    from .onnx_io import load as load
    from .onnx_io import save as save
    from .verify import Verification as Verification
    from .verify import verify as verify

_HOME = {  # public name: the room it lives in, imported when it is first asked for
    "Benchmark": "bench",
    "FoldResult": "fold",
    "Verification": "verify",
    "benchmark": "bench",
    "explain": "fold",
    "fold": "fold",
    "load": "onnx_io",
    "save": "onnx_io",
    "verify": "verify",
}

__all__ = sorted(_HOME)


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOME[name]}"), name)


def __dir__() -> list[str]:
    return __all__
