"""Training and export with PyTorch (extra: `pip install ".[train]"`); importing this loads nothing heavy.

result = train(TrainOptions(data="digits"))
bnfold.train.export.export(result.run, Path("digits.onnx"))

Of a network of your own: install(model, population_statistics(model, batches))
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from ..system.installed import need
from .options import Event, Interrupted, TrainOptions, TrainResult, Watch
from .recipe import Settings

if TYPE_CHECKING:
    from .population import install as install
    from .population import population_statistics as population_statistics

_LAZY = ["install", "population_statistics"]  # public names that need PyTorch, imported at their first use

__all__ = ["Event", "Interrupted", "Settings", "TrainOptions", "TrainResult", *_LAZY, "train"]


def train(options: TrainOptions, watch: Watch = lambda event: None) -> TrainResult:
    """Train a network, then replace its moving averages by population statistics.

    `watch` is called after every step. Raises BnfoldError for bad options or data, for a run that diverges, and,
    as `Interrupted`, on Ctrl-C: the last checkpoint is kept and `TrainOptions(resume=True)` goes on exactly.
    """
    need("torch", what="training")
    from .loop import run_training

    return run_training(options, watch)


def __getattr__(name: str) -> Any:
    if name not in _LAZY:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    need("torch", what=f"{__name__}.{name}")
    return getattr(import_module(f"{__name__}.population"), name)


def __dir__() -> list[str]:
    return __all__
