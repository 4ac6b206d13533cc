"""Whether onnxruntime's own graph optimization makes the same graph of the two models of a trial."""

from __future__ import annotations

from pathlib import Path

from ..process.child import stage
from ..runtime import detached, providers, sessions
from ..runtime.loading import for_onnxruntime
from ..runtime.providers import Way
from ..runtime.sessions import CannotRun
from .regions import shape_of_graph
from .trial import Trial


def is_same_graph(trial: Trial) -> bool:
    """Whether onnxruntime makes the same graph of both models at its default level, where comparing shows nothing then.

    False for large models: the optimized graph would have to be written to a file to be read.
    """
    if detached.length(trial.original):
        return False
    if not trial.same_graph:
        stage("onnxruntime, optimizing the models with graph optimization default")
        trial.same_graph.append(_made_the_same(trial))
    return trial.same_graph[0]


def _made_the_same(trial: Trial) -> bool:
    """On the CPU, where that runs the original: which folds onnxruntime makes by itself depends on no provider."""
    target = str(Path(trial.folder, "optimized.onnx"))
    chain = providers.chain(Way()) if trial.on_cpu else providers.without_tensorrt(trial.way)
    try:
        original, folded = (
            sessions.optimized(for_onnxruntime(model, trial.folder), "default", target, chain)
            for model in (trial.original, trial.folded)
        )
    except CannotRun:
        return False
    return shape_of_graph(original) == shape_of_graph(folded)
