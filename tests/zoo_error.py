"""How exact a folded model is: verified, and measured once more at its outputs in the plainest way."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import onnx
import torch

import bnfold
from bnfold.runtime import sessions
from bnfold.system.processors import threads
from bnfold.verification.float64.oracle import Oracle
from tests.zoo_models import data

SEEDS = (2, 3, 4)
LEVELS = ("off", "default")


def worst(verification: bnfold.Verification) -> Iterator[tuple[str, float, str]]:
    """The largest error over what rounding explains: of whole outputs, and of any channel of any site; and where."""
    ran = [(level.level, t) for level in verification.levels for t in level.tensors if not t.moved]
    outputs = [(t.tensor_ratio, level, t) for level, t in ran if t.output]
    sites = [(t.ratio, level, t) for level, t in ran if t.site]
    for kind, found in (("output", outputs), ("site", sites)):
        if found:
            ratio, level, tensor = max(found, key=lambda one: one[0])
            yield kind, ratio, f"{tensor.place()}, {level}"


def own(path: Path, folded: onnx.ModelProto) -> tuple[float, str]:
    """The folded model's error over the original's own: root mean squares at the outputs, and where."""
    models = (onnx.load(path), folded)
    oracle = Oracle(models[0])
    feeds = [inputs(models[0].graph, seed) for seed in SEEDS]
    truths = [oracle.evaluate(feed) for feed in feeds]
    found = []
    for level in LEVELS:
        original, ours = (errors(model, level, feeds, truths) for model in models)
        found += [(ours[name] / max(original[name], 2.0**-24), f"{name}, {level}") for name in original]
    return max(found)


def inputs(graph: onnx.GraphProto, seed: int) -> dict[str, np.ndarray]:
    """Two inputs of the kind that the statistics were taken from."""
    generator = torch.Generator().manual_seed(seed)
    (image,) = graph.input
    shape = tuple(d.dim_value for d in image.type.tensor_type.shape.dim[1:])
    return {image.name: data(2, shape, generator).numpy()}


def errors(
    model: onnx.ModelProto, level: str, feeds: list[dict[str, np.ndarray]], truths: list[dict[str, np.ndarray]]
) -> dict[str, float]:
    """Of each output: its root mean square error over that of its values, all inputs together."""
    running = sessions.session(model.SerializeToString(), sessions.options(level, threads=threads()))
    names = [output.name for output in model.graph.output]
    runs = [dict(zip(names, sessions.outputs(running, names, feed), strict=True)) for feed in feeds]
    return {name: relative([r[name] for r in runs], [t[name] for t in truths]) for name in names}


def relative(got: list[np.ndarray], true: list[np.ndarray]) -> float:
    off = sum(float(np.square(g - t).sum()) for g, t in zip(got, true, strict=True))
    return float(np.sqrt(off / sum(float(np.square(t).sum()) for t in true)))
