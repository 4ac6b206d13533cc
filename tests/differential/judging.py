"""Whether a model is valid, runs, and computes what the original means: against float64, next to the original itself."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort

from bnfold.verification.float64.oracle import CannotEvaluate, Oracle
from tests.reference import evaluate

from . import quantized, wide
from .integers import changed_integers
from .wide import Drawn
from .work import Answer, source, target, words

# Largest error, over the largest value of an output, that storing other constants and another order of sums explain.
EXPLAINED = {"float32": 6e-5, "float16": 0.03, "bfloat16": 0.12, "float64": 1e-10}
TIMES = 30  # and so many times the error of the original itself

DRAWS = {"any": wide.draw, "quantized": quantized.draw}
Values = dict[str, np.ndarray]


def session(path: Path) -> ort.InferenceSession:
    """On the CPU, with every optimization off."""
    options = ort.SessionOptions()
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.log_severity_level = 4
    options.intra_op_num_threads = 1
    return ort.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])


def ran(path: Path, feeds: Values) -> Values:
    """What onnxruntime computes. bfloat16 does not travel through its Python interface; such models do not run here."""
    opened = session(path)
    names = [output.name for output in opened.get_outputs()]
    return {k: np.asarray(v, dtype=np.float64) for k, v in zip(names, opened.run(None, feeds), strict=True)}


def error(got: Values, want: Values, steps: Mapping[str, float] | None = None) -> float:
    """The largest difference over the largest value, of the worst output; infinite where one is missing or misshapen.

    `steps` are differences that count as none.
    """
    steps = steps or {}
    return max((_error(got.get(name), value, steps.get(name, 0.0)) for name, value in want.items()), default=0.0)


def _error(got: np.ndarray | None, want: np.ndarray, step: float = 0.0) -> float:
    if got is None or got.shape != want.shape:
        return float("inf")
    with np.errstate(all="ignore"):
        worst = np.maximum(np.abs(got - want) - step, 0.0).max(initial=0.0) / max(1e-2, np.abs(want).max(initial=0.0))
    return float(worst) if np.isfinite(worst) else float("inf")


class Trial:
    """One graph: what it means, and what onnxruntime makes of it as it is stored."""

    def __init__(self, path: Path, drawn: Drawn) -> None:
        self.drawn, self.outputs = drawn, {}
        wide = {k: v.astype(np.float64) for k, v in drawn.feeds.items()}
        names = [output.name for output in drawn.truth.graph.output]
        self.truth: Values = dict(zip(names, evaluate(drawn.truth, wide), strict=True))
        self.original, self.why = self._original(path)
        self.own = error(self.original, self.truth, drawn.steps) if self.original else None
        self.limit = max(EXPLAINED[drawn.kind], TIMES * (self.own or 0.0))

    def _original(self, path: Path) -> tuple[Values | None, str]:
        """Its outputs; None and the reason where onnxruntime has no kernel for a type."""
        try:
            return ran(path, self.drawn.feeds), ""
        except Exception as problem:  # of onnxruntime, whose errors have no common class
            return None, words(problem)

    def second_opinion(self) -> float | None:
        """How far bnfold's own oracle is from the tests' reference."""
        try:
            return error(Oracle(self.drawn.stored).evaluate(self.drawn.feeds), self.truth, self.drawn.steps)
        except CannotEvaluate:
            return None

    def compute(self, path: Path, model: onnx.ModelProto) -> Values:
        """By onnxruntime; where it cannot run the original either, in float64."""
        if self.original:
            return ran(path, self.drawn.feeds)
        wide = Oracle(model).evaluate(self.drawn.feeds)
        return {name: np.asarray(value, dtype=np.float64) for name, value in wide.items()}

    def keeps_overrides(self, path: Path) -> bool:
        """Whether a caller who overrides initializers gets what the original gives him."""
        feeds = {**self.drawn.feeds, **self.drawn.overrides}
        want = ran(source(path.parent, int(path.name.split(".")[0])), feeds)
        try:
            return error(ran(path, feeds), want) <= self.limit
        except Exception:  # of onnxruntime: there is no such input
            return False


class Judge:
    """Answers for one graph and one tool at a time."""

    def __init__(self, folder: Path, seed: int, graphs: str) -> None:
        self.folder, self.seed, self.index, self.trial = folder, seed, -1, None
        self.draw = DRAWS[graphs]

    def answer(self, index: str, tool: str) -> Answer:
        """Of the original (`tool` is "original") or of what a tool wrote."""
        if int(index) != self.index:
            self.index = int(index)
            self.trial = Trial(source(self.folder, self.index), self.draw(self.seed, self.index))
        if tool == "original":
            return self.original()
        return judged(self.trial, target(self.folder, self.index, tool), tool)

    def original(self) -> Answer:
        trial = self.trial
        stored = trial.drawn.stored
        found: Answer = {"bn": norms(stored), "nodes": len(stored.graph.node), "opset": stored.opset_import[0].version}
        found |= {"kind": trial.drawn.kind, "layers": trial.drawn.layers, "own": trial.own, "why": trial.why}
        return found | {"opinion": trial.second_opinion(), "overrides": len(trial.drawn.overrides)}


def judged(trial: Trial, path: Path, tool: str) -> Answer:
    try:
        model = onnx.load(path)
    except Exception as problem:  # of protobuf
        return {"invalid": words(problem)}
    found: Answer = {"bn": norms(model)}
    try:
        onnx.checker.check_model(model, full_check=True)
    except Exception as problem:  # of onnx's checker
        found["invalid"] = words(problem)
    try:
        outputs = trial.compute(path, model)
    except Exception as problem:  # of onnxruntime, or of the oracle
        return found | {"does not run": words(problem)}
    trial.outputs[tool] = outputs
    found["error"] = error(outputs, trial.truth, trial.drawn.steps)
    if found["error"] > trial.limit:
        found["wrong"] = f"error {found['error']:.2g}, explained up to {trial.limit:.2g}"
    other = changed_integers(trial.drawn.stored, model)
    if other and "wrong" not in found:
        found["wrong"] = f"integers of {other} are others"
    if trial.drawn.overrides and trial.original and not trial.keeps_overrides(path):
        found["override lost"] = "an input that callers may override has no effect, or is gone"
    return found | against(trial, tool, found["error"])


def against(trial: Trial, tool: str, own: float) -> dict[str, Any]:
    """Where bnfold and this tool differ by more than is explained: who is nearer to float64."""
    ours = trial.outputs.get("bnfold")
    if ours is None or tool == "bnfold":
        return {}
    apart = error(trial.outputs[tool], ours, trial.drawn.steps)
    if apart <= trial.limit:
        return {"agree": True}
    return {"agree": False, "right": "bnfold" if error(ours, trial.truth) < own else tool}


def norms(model: onnx.ModelProto) -> int:
    graphs, found = [model.graph], 0
    while graphs:
        graph = graphs.pop()
        found += sum(node.op_type == "BatchNormalization" for node in graph.node)
        graphs += [a.g for node in graph.node for a in node.attribute if a.type == onnx.AttributeProto.GRAPH]
    return found
