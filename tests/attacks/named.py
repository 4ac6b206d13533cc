"""Models whose names attack a terminal, the log of a pipeline, XML, HTML or a picture."""

from __future__ import annotations

import numpy as np
from onnx import ModelProto, NodeProto, TensorProto, helper, numpy_helper

NAMES = {
    "ansi": "\x1b[2J\x1b[31m\x1b]0;taken\x07",
    "c1": "\x9b31m\x9d0;taken\x9c",
    "link": "\x1b]8;;http://evil/\x1b\\click\x1b]8;;\x1b\\",
    "bidi": "\u202egnp.\u2066\u2069\u200b\u200f",
    "newline": "\n::error file=a,line=1::taken\n",
    "command": "::error::taken",
    "vso": "##vso[task.setvariable]##[error]",
    "return": "PASS\rFAIL\r",
    "separators": "a\u2028::set-output name=x::1\u2029b\x85c\x0bd\x0ce",
    "not xml": "\x00\x01\x08\x0e\x1f\ufffe\uffff\ufdd0\U0001fffe",
    "surrogate": "\x7f\xad\ufeff",
    "tags": "\U000e0001\U000e0041",
    "markup": "</script><b>&[bold red]X[/]",
    "blanks": "\u00a0\u2003 \t",
    "long": "N" * 50_000,
    "long words": "a b" * 20_000,
    "long hidden": "\U000e0001" * 50_000,
}


def named(name: str) -> ModelProto:
    """Conv, BatchNormalization (folds), Relu, BatchNormalization (stays), Sigmoid over `x`, N x 4 x 4 x 4; `name` is
    part of every other name and text in it."""
    values = {"w": (4, 4, 1, 1)} | dict.fromkeys(("s", "b", "m", "v", "s2", "b2", "m2", "v2"), (4,))
    rng = np.random.default_rng(1)
    stored = [
        numpy_helper.from_array(rng.uniform(0.5, 1, shape).astype(np.float32), name + key)
        for key, shape in values.items()
    ]
    batch_norm, last = "BatchNormalization", f"{name}y"
    nodes = [
        _node("Conv", ["x", f"{name}w"], f"{name}c", name),
        _node(batch_norm, [f"{name}c", *(name + key for key in ("s", "b", "m", "v"))], f"{name}n", name),
        _node("Relu", [f"{name}n"], f"{name}r", name),
        _node(batch_norm, [f"{name}r", *(name + key for key in ("s2", "b2", "m2", "v2"))], f"{name}o", name),
        _node("Sigmoid", [f"{name}o"], last, name),
    ]
    shape = [f"{name}N", 4, 4, 4]
    ends = [helper.make_tensor_value_info(end, TensorProto.FLOAT, shape) for end in ("x", last)]
    graph = helper.make_graph(nodes, f"{name}graph", ends[:1], ends[1:], stored, doc_string=name)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8, producer_name=name)
    helper.set_model_props(model, {f"{name}key": name})
    return model


def _node(kind: str, inputs: list[str], output: str, name: str) -> NodeProto:
    return helper.make_node(kind, inputs, [output], name=f"{name}{kind} {output[-1]}", doc_string=name)
