"""The float64 oracle of the tests: onnx's ReferenceEvaluator, with the operators it gets wrong replaced.

It shares no code with bnfold: neither with the rules under test nor with `bnfold.verification`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import onnx
from onnx import helper
from onnx.reference import ReferenceEvaluator
from onnx.reference.op_run import OpRun
from onnx.reference.ops.op_conv_transpose import ConvTranspose as _ConvTranspose


class ConvTranspose(OpRun):
    """onnx 1.23 slices W along the wrong axis when group > 1."""

    op_domain = ""

    def _run(self, X, W, B=None, group=None, **attrs):
        group = group or 1
        parts = [
            np.split(X, group, axis=1),
            np.split(W, group, axis=0),
            [None] * group if B is None else np.split(B, group),
        ]
        made = [_ConvTranspose._run(self, x, w, b, group=1, **attrs)[0] for x, w, b in zip(*parts, strict=True)]
        return (np.concatenate(made, axis=1),)


def evaluate(model: onnx.ModelProto, feeds: Mapping[str, Any]) -> list[Any]:
    """The outputs of a model whose tensors are float64."""
    return list(ReferenceEvaluator(model, new_ops=[ConvTranspose]).run(None, dict(feeds)))


def evaluate_node(operator: str, inputs: Sequence[Any], attributes: Mapping[str, Any], opset: int = 19) -> Any:
    """The first output of one node; None stands for an omitted input."""
    names = ["" if x is None else f"x{i}" for i, x in enumerate(inputs)]
    feeds = {name: np.asarray(x) for name, x in zip(names, inputs, strict=True) if x is not None}
    infos = [
        helper.make_tensor_value_info(k, helper.np_dtype_to_tensor_dtype(v.dtype), v.shape) for k, v in feeds.items()
    ]
    node = helper.make_node(operator, names, ["y"], **attributes)
    graph = helper.make_graph([node], "g", infos, [onnx.ValueInfoProto(name="y")])
    return evaluate(helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=9), feeds)[0]
