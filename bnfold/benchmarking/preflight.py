"""Facts that are collected before timing: sizes with which the original runs, and what onnxruntime folds by itself."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, TypeVar

import onnx

from ..errors import ModelProblem
from ..model.messages import counts
from ..process.child import stage
from ..process.jobs import job
from ..runtime import libraries, sessions
from ..runtime.dimensions import candidates
from ..runtime.input_options import combinations, require_dynamic
from ..runtime.inputs import Case, feeds
from ..runtime.loading import load_to_run, require_whole
from ..runtime.sessions import CannotRun
from ..system.installed import runtime
from ..verification.regions import shape_of_graph
from .precision import BY_HAND, require_float32, to_float16
from .runner import MODELS, ORIGINAL, cannot_load, open_session
from .settings import FLOAT16, Setting

T = TypeVar("T")


@job
def preflight(request: Mapping[str, Any]) -> dict[str, Any]:
    """Sizes, shapes, outputs for each of `request["dims"]`, and facts about the models in each precision.

    All of it is computed on the CPU: a GPU, which takes seconds to start, is used for models that only it can run.
    """
    return {
        "sized": _sizes(request),
        "precisions": {name: _in(name, request) for name in request["precisions"]},
        "build": runtime().get_build_info(),
    }


def _first(request: Mapping[str, Any], find: Callable[[Setting], T]) -> T:
    """What `find` returns on the CPU, or else on the GPU. Raises ModelProblem."""
    try:
        return find(Setting("default"))
    except ModelProblem:
        if not request["gpu"]:
            raise
    libraries.preload(request["gpu"])
    return find(Setting("default", request["gpu"], cudnn_search="default"))


def _in(precision: str, request: Mapping[str, Any]) -> dict[str, Any]:
    """The paths of the models in this precision, their nodes, and what of these onnxruntime itself takes out."""
    models, notes = {name: load_to_run(request[name]) for name in MODELS}, []
    paths, read = {name: request[name] for name in MODELS}, {name: counts(models[name]) for name in MODELS}
    for name in MODELS if precision else ():
        require_float32(models[name], request[name])
    for name in MODELS if precision == FLOAT16 else ():
        stage(f"onnxruntime, converting the {name} model to float16")
        require_whole(models[name], "a conversion to float16")
        models[name], more = to_float16(models[name], request[name])
        notes += more
        paths[name] = str(Path(request["folder"], f"{name}.float16.onnx"))
        onnx.save(models[name], paths[name])
    after = _after(paths, request)
    return {
        "models": paths,
        "notes": notes,
        "batch_normalization": {name: norms for name, (_, norms) in read.items()},  # of the files, as reports count
        "left_by_onnxruntime": {name: counts(model)[1] for name, model in after.items()},
        "nodes": {name: nodes for name, (nodes, _) in read.items()},
        "same_graph": shape_of_graph(after["original"]) == shape_of_graph(after["folded"]),
    }


def _after(paths: Mapping[str, str], request: Mapping[str, Any]) -> dict[str, onnx.ModelProto]:
    """The models after onnxruntime's level-1 rewrites. Raises ModelProblem."""
    with TemporaryDirectory(prefix="bnfold-") as folder:
        try:
            return _first(request, lambda setting: {n: _optimized(paths[n], n, folder, setting) for n in MODELS})
        except ModelProblem as why:
            if paths[ORIGINAL] == request[ORIGINAL]:
                raise
            words = str(why)
            for name in MODELS:  # the converted file is gone when this is read
                words = words.replace(paths[name], request[name])
            raise ModelProblem(f"after conversion to float16 {words}", BY_HAND) from why


def _sizes(request: Mapping[str, Any]) -> list[dict[str, Any]]:
    graph = load_to_run(request[ORIGINAL]).graph
    require_dynamic(graph, (name for dims in request["dims"] for name, _ in dims))
    (fixed,) = combinations(graph, {}, request["input_shapes"])
    request = {**request, "dims": [[*fixed.items(), *dims] for dims in request["dims"]]}
    return _first(request, lambda setting: _sized(setting, request, graph))


def _sized(setting: Setting, request: Mapping[str, Any], graph: onnx.GraphProto) -> list[dict[str, Any]]:
    stage("onnxruntime, running the original")
    session = open_session(request, "original", setting)
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
