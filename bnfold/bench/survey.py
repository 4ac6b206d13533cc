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
from ..runtime import libraries, providers, sessions
from ..runtime.probe import versions
from ..runtime.providers import Way
from ..runtime.sessions import CannotRun
from ..verification.asked import require_dynamic
from ..verification.dimensions import candidates
from ..verification.inputs import Case, feeds
from ..verification.loading import load
from ..verification.regions import shape_of_graph
from .runner import MODELS, memory, opened
from .settings import Setting


def survey(request: Mapping[str, Any]) -> dict[str, Any]:
    """Facts about the models on `request["provider"]`, and for each of `request["dims"]` sizes, shapes, outputs."""
    way = Way(request["provider"])
    libraries.preload(way.provider)
    models = {name: load(request[name]) for name in MODELS}
    sized = _sized(models["original"].graph, request, way)
    with TemporaryDirectory(prefix="bnfold-") as folder:
        after = {name: _optimized(request[name], name, folder, way) for name in MODELS}
    return {
        "sized": sized,
        "batch_normalization": {name: counts(model)[1] for name, model in models.items()},
        "left_by_onnxruntime": {name: counts(model)[1] for name, model in after.items()},
        "nodes": {name: counts(model)[0] for name, model in models.items()},
        "same_graph": shape_of_graph(after["original"]) == shape_of_graph(after["folded"]),
        "build": runtime().get_build_info(),
        "loaded": versions(way.provider) if way.gpu else {},
        "binds_cpu": way.gpu and memory(way) == {"device_type": "cpu"},
    }


def _sized(graph: onnx.GraphProto, request: Mapping[str, Any], way: Way) -> list[dict[str, Any]]:
    require_dynamic(graph, (name for dims in request["dims"] for name, _ in dims))
    stage("onnxruntime, running the original")
    plain = Setting("default", way.plain)
    session = opened(request, "original", plain)
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


def _optimized(path: str, name: str, folder: str, way: Way) -> onnx.ModelProto:
    """The graph after onnxruntime's level-1 rewrites: higher levels hide a BatchNormalization in a depthwise Conv."""
    stage(f"onnxruntime, optimizing the {name} model")
    return sessions.optimized(path, "basic", str(Path(folder, f"{name}.onnx")), providers.without_tensorrt(way))
