"""The BatchNormalization nodes of a model whose statistics can be recomputed, or the sentence that says why not."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
from onnx import NodeProto, helper

from ..algebra.moments import Array, Moments
from ..errors import ModelProblem
from ..model.messages import INFERENCE, bodies, every_node, is_batch_norm

OLDEST = 7  # opset; onnxruntime has no BatchNormalization before it
QUANTIZERS = (
    "QuantizeLinear",
    "DynamicQuantizeLinear",
    "QLinearConv",
    "QLinearMatMul",
    "ConvInteger",
    "MatMulInteger",
)
MEAN, VAR = 3, 4  # inputs of the operator


@dataclass(frozen=True, eq=False)
class Statistics:
    """The mean that a normalization subtracts, and the variance by whose root it divides."""

    mean: Array
    var: Array


@dataclass(frozen=True, eq=False)
class Norm:
    """One node: the tensor it normalizes, its level (how many others come before that tensor), what is stored."""

    node: NodeProto
    level: int
    kind: np.dtype[Any]  # of its statistics
    stored: Statistics  # float64

    @property
    def name(self) -> str:
        return self.node.name or self.output

    @property
    def output(self) -> str:
        return str(self.node.output[0])

    @property
    def source(self) -> str:
        return str(self.node.input[0])

    @property
    def epsilon(self) -> float:
        return float(attribute(self.node, "epsilon", np.float32(1e-5)))

    def channels(self, values: Array) -> Array:
        """The values as (N, C, locations); per activation (spatial=0, up to opset 8) every place is a channel."""
        if attribute(self.node, "spatial", 1) == 0:
            return values.reshape(len(values), -1, 1)
        return values.reshape((*values.shape[:2], -1)) if values.ndim > 1 else values.reshape(-1, 1, 1)

    def moments(self, values: Array) -> Moments:
        """Moments of what the node normalizes, per channel; ModelProblem if it has other channels than are stored."""
        rows = self.channels(values)
        if rows.shape[1] != self.stored.mean.size:
            raise ModelProblem(
                f"{self.name} normalizes {rows.shape[1]} channels and has statistics of {self.stored.mean.size}",
                "The model is damaged; export it again.",
            )
        return Moments.of(rows)


def attribute(node: NodeProto, name: str, default: Any) -> Any:
    """An attribute, or its default."""
    return next((helper.get_attribute_value(a) for a in node.attribute if a.name == name), default)


def require_supported(model: onnx.ModelProto) -> None:
    """Raises ModelProblem for a model whose population statistics this cannot compute, and says why."""
    _require_opset(model)
    nodes = list(model.graph.node)
    inside = (body for node in nodes for body in bodies(node))
    buried = next((n for part in (*inside, *model.functions) for n in every_node(part.node) if is_batch_norm(n)), None)
    if buried is not None:
        raise ModelProblem(
            f"BatchNormalization '{buried.name or buried.output[0]}' is in a body of If, Loop or Scan or a function",
            "Export without control flow and functions (onnx.inliner takes functions out).",
        )
    if not any(map(is_batch_norm, nodes)):
        raise ModelProblem(
            "the model has no BatchNormalization: there are no statistics to recompute",
            "Recalibrate first, fold afterwards; `bnfold export` keeps every BatchNormalization.",
        )
    for node in filter(is_batch_norm, nodes):
        _require_inference(node)
    quantizing = next((n for n in nodes if n.op_type in QUANTIZERS), None)
    if quantizing is not None:
        raise ModelProblem(
            f"the model quantizes activations ({quantizing.op_type}), with ranges found under its present statistics",
            "Recalibrate the model in floating point, then quantize it.",
        )


def _require_opset(model: onnx.ModelProto) -> None:
    version = next((o.version for o in model.opset_import if o.domain in ("", "ai.onnx")), OLDEST)
    if version < OLDEST:
        raise ModelProblem(
            f"the model is of opset {version}; onnxruntime runs BatchNormalization from opset {OLDEST}",
            "Convert it with onnx.version_converter.convert_version.",
        )


def _require_inference(node: NodeProto) -> None:
    if attribute(node, "training_mode", 0) or any(node.output[1:]):
        raise ModelProblem(
            f"BatchNormalization '{node.name or node.output[0]}' is in training mode: it uses no stored statistics",
            INFERENCE,
        )
