"""What is known before timing: sizes with which the original runs, and what onnxruntime folds by itself."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import onnx

from ..errors import ModelProblem
from ..installed import runtime
from ..messages import counts
from ..process.child import stage
from ..runtime import libraries, sessions
from ..runtime.sessions import CannotRun
from ..verification.asked import require_dynamic
from ..verification.dimensions import candidates
from ..verification.inputs import Case, feeds
from ..verification.loading import load
from ..verification.regions import shape_of_graph
from .runner import MODELS, cannot_load, opened
from .settings import Setting


def survey(request: Mapping[str, Any]) -> dict[str, Any]:
    """Facts about the models, and for each of `request["dims"]` sizes, shapes, outputs.

    The CPU tells them all: a GPU, which takes seconds to start, does so for models that only it can run.
    """
    models = {name: load(request[name]) for name in MODELS}
    graph = models["original"].graph
    require_dynamic(graph, (name for dims in request["dims"] for name, _ in dims))
    found = _on(Setting("default"), request, graph)
    return {
        **found,
        "batch_normalization": {name: counts(model)[1] for name, model in models.items()},
        "nodes": {name: counts(model)[0] for name, model in models.items()},
        "build": runtime().get_build_info(),
    }


def _on(setting: Setting, request: Mapping[str, Any], graph: onnx.GraphProto) -> dict[str, Any]:
    """What is found by running the models."""
    libraries.preload(setting.provider)
    try:
        sized = _sized(setting, request, graph)
        with TemporaryDirectory(prefix="bnfold-") as folder:
            after = {name: _optimized(request[name], name, folder, setting) for name in MODELS}
    except ModelProblem:
        if request["gpu"] and not setting.way.gpu:
            return _on(Setting("default", "cuda", cudnn_search="heuristic"), request, graph)
        raise
    return {
        "sized": sized,
        "left_by_onnxruntime": {name: counts(model)[1] for name, model in after.items()},
        "same_graph": shape_of_graph(after["original"]) == shape_of_graph(after["folded"]),
    }


def _sized(setting: Setting, request: Mapping[str, Any], graph: onnx.GraphProto) -> list[dict[str, Any]]:
    stage("onnxruntime, running the original")
    session = opened(request, "original", setting)
    return [_running(session, graph, dict(dims), request["original"]) for dims in request["dims"]]


def _running(session: Any, graph: onnx.GraphProto, dims: dict[str, int], path: str) -> dict[str, Any]:
    """The first sizes with which a run succeeds, with the shapes of its inputs and of its outputs."""
    why = ""
    for sizes in candidates(graph):
        merged = {**sizes, **dims}
        values = feeds(graph, Case("normal", 0, 1), merged)
        names = [output.name for output in session.get_outputs()]
        try:
            made = sessions.outputs(session, names, values)
        except CannotRun as reason:
            why = why or str(reason)
            continue
        shapes = {name: list(value.shape) for name, value in values.items()}
        return {"sizes": merged, "shapes": shapes, "outputs": _tensors(names, made)}
    raise ModelProblem(f"onnxruntime cannot run {path}: {why}", "Give sizes it accepts with --dim NAME=SIZE.")


def _tensors(names: list[str], made: list[Any]) -> dict[str, Any]:
    """Shape and dtype of the outputs that are tensors of numbers."""
    pairs = zip(names, made, strict=True)
    return {n: [list(v.shape), v.dtype.name] for n, v in pairs if getattr(v, "dtype", None) and v.dtype.kind in "biuf"}


def _optimized(path: str, name: str, folder: str, setting: Setting) -> onnx.ModelProto:
    """The graph after onnxruntime's level-1 rewrites: higher levels hide a BatchNormalization in a depthwise Conv."""
    stage(f"onnxruntime, optimizing the {name} model")
    try:
        return sessions.optimized(path, "basic", str(Path(folder, f"{name}.onnx")), setting.chain())
    except CannotRun as why:
        raise cannot_load(path, why) from why
