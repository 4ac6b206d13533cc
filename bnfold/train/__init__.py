"""Training and export with PyTorch (extra: `pip install "bnfold[train]"`); importing this loads nothing heavy.

result = train(TrainOptions(data="digits"))
bnfold.train.export.export(result.run, Path("digits.onnx"))
"""

from __future__ import annotations

from .options import Event, Interrupted, Settings, TrainOptions, TrainResult, Watch, need

__all__ = ["Event", "Interrupted", "Settings", "TrainOptions", "TrainResult", "train"]


def train(options: TrainOptions, watch: Watch = lambda event: None) -> TrainResult:
    """Train a network, then replace its moving averages by population statistics.

    `watch` is told of every step. Raises BnfoldError for bad options or data, for a run that diverges, and,
    as `Interrupted`, on Ctrl-C: the last checkpoint is kept and `TrainOptions(resume=True)` goes on exactly.
    """
    need("torch")
    from .loop import train

    return train(options, watch)
