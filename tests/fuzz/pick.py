"""What changes are made of: parts of a model to choose from, names, numbers."""

from __future__ import annotations

from collections.abc import Callable
from random import Random
from typing import Any

import onnx
from onnx import ModelProto, TensorProto

from bnfold.folding.rules import HOIST, SINK
from tests.fuzz.seeds import every

Mutation = Callable[[Random, ModelProto, ModelProto], None]

OPERATORS = sorted({*HOIST, *SINK, "BatchNormalization", "Constant", "Identity", "Expand", "ConstantOfShape", "Shape"})
WHOLE = (0, 1, -1, 2, 3, 4, 5, -2, 7, 16, 64, 255, 2**31 - 1, 2**31, -(2**31), 2**32, 2**63 - 1, -(2**63), 2**40, 10**6)
REAL = (0.0, -0.0, 1.0, -1.0, 0.5, 1e-5, 1e-45, 1e-30, 3e38, -3e38, float("nan"), float("inf"), float("-inf"), 1e10)
NAMES = (
    "",
    " ",
    "x",
    "y",
    "\0",
    "\n",
    "a" * 300,
    "é",
    "\u202e",
    "[bold]",
    "'",
    "%s",
    "{}",
    "../x",
    "ai.onnx",
    "ai.onnx.ml",
)
ATTRIBUTES = sorted({a for op in OPERATORS if onnx.defs.has(op) for a in onnx.defs.get_schema(op).attributes})


def graph_of(draw: Random, model: ModelProto) -> Any:
    """The main graph, the body of a node or that of a function."""
    found = [m for m in every(model) if isinstance(m, onnx.GraphProto | onnx.FunctionProto)]
    return draw.choice([model.graph, *found])


def tensors(model: ModelProto) -> list[TensorProto]:
    return [m for m in every(model) if isinstance(m, TensorProto)]


def names(model: ModelProto) -> list[str]:
    graph = model.graph
    used = [name for node in graph.node for name in (*node.input, *node.output)]
    return [*used, *(t.name for t in graph.initializer), *(v.name for v in (*graph.input, *graph.output))]


def message_of(draw: Random, model: ModelProto) -> Any:
    """Any message, each kind as likely as any other."""
    found: dict[str, list[Any]] = {}
    for message in every(model):
        found.setdefault(message.DESCRIPTOR.name, []).append(message)
    return draw.choice(found[draw.choice(sorted(found))])
