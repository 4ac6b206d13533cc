"""What the BatchNormalization nodes of a model do to their channels: scale factors, variances, and which are dead."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from onnx import GraphProto, ModelProto, NodeProto, TensorProto, helper

from ..errors import ModelProblem
from ..folding.affine_nodes import EPSILON
from ..model.messages import bodies, is_batch_norm
from ..model.storage import Storage
from ..model.tensors import read_values
from ..recalibration.drift import DEAD

CHANNEL_BINS = 48
LISTED = 64  # dead channels of a node that are named
CHANNEL_QUANTILES = (0.0, 0.25, 0.5, 0.75, 1.0)
Array = np.ndarray[Any, Any]
Constants = Mapping[str, TensorProto]


@dataclass(frozen=True)
class NormChannels:
    """One BatchNormalization with constant parameters: per channel |scale| / sqrt(var + epsilon), and var."""

    node: NodeProto
    factor: Array
    var: Array

    @property
    def dead(self) -> Array:
        """Channels that carry nothing: no variance reaches them, or a scale of 0 leaves none."""
        return np.asarray((self.var < DEAD) | (self.factor == 0))

    def plain(self) -> dict[str, Any]:
        """Plain data: quantiles, and the first of the dead channels."""
        dead = np.flatnonzero(self.dead)
        names = {"node": self.node.name, "output": self.node.output[0], "channels": self.var.size}
        numbers = {
            key: [_short(q) for q in np.quantile(getattr(self, key), CHANNEL_QUANTILES)] for key in ("factor", "var")
        }
        return {**names, **numbers, "dead": dead.size, "dead_channels": dead[:LISTED].tolist()}


def channels(model: ModelProto, storage: Storage) -> dict[str, Any]:
    """Per node and all together; `unread` counts nodes whose parameters are not stored, or are not numbers."""
    nodes = [*_norms(model.graph, {})]
    norms = [norm for node, constants in nodes if (norm := _norm(node, constants, storage))]
    dead = _joined(norm.dead for norm in norms).astype(bool)
    numbers = {key: _histogram(_joined(getattr(norm, key) for norm in norms), dead) for key in ("factor", "var")}
    counts = {"channels": dead.size, "dead": int(dead.sum()), "unread": len(nodes) - len(norms)}
    return {**counts, "threshold": DEAD, "histograms": numbers, "nodes": [norm.plain() for norm in norms]}


def _norms(graph: GraphProto, around: Constants) -> Iterator[tuple[NodeProto, Constants]]:
    """Every BatchNormalization of a graph and its bodies, with the constants that it can see."""
    own = {tensor.name: tensor for tensor in graph.initializer}
    literal = {
        n.output[0]: a.t for n in graph.node if n.op_type == "Constant" for a in n.attribute if a.name == "value"
    }
    constants = {**around, **own, **literal}
    for node in graph.node:
        if is_batch_norm(node) and node.output:
            yield node, constants
        for body in bodies(node):
            yield from _norms(body, constants)


def _norm(node: NodeProto, constants: Constants, storage: Storage) -> NormChannels | None:
    """The channels of a node; None where a parameter is not stored, cannot be read, or has impossible values."""
    stored = [constants.get(name) for name in node.input[1:5]]
    if len(stored) < 4 or any(tensor is None for tensor in stored):
        return None
    try:
        scale, _, _, var = (
            read_values(tensor, storage).astype(np.float64).ravel() for tensor in stored if tensor is not None
        )
    except (ModelProblem, ValueError):
        return None
    epsilon = next((helper.get_attribute_value(a) for a in node.attribute if a.name == "epsilon"), EPSILON)
    sound = scale.size == var.size > 0 and np.isfinite([scale, var]).all() and (var + float(epsilon) > 0).all()
    return NormChannels(node, np.abs(scale) / np.sqrt(var + float(epsilon)), np.maximum(var, 0.0)) if sound else None


def _joined(parts: Iterable[Array]) -> Array:
    return np.concatenate([np.zeros(0), *parts])


def _histogram(values: Array, dead: Array) -> dict[str, Any]:
    """Counts of live and dead channels in bins of equal width in log10; those that are 0 have none, and are counted."""
    positive = values > 0
    logs = np.log10(values[positive])
    low, high = (float(logs.min()), float(logs.max())) if logs.size else (0.0, 1.0)
    edges = np.linspace(low, high if high > low else low + 1.0, CHANNEL_BINS + 1)
    rows = {"live": ~dead[positive], "dead": dead[positive]}
    counts = {name: np.histogram(logs[row], edges)[0].tolist() for name, row in rows.items()}
    return {"edges": [round(edge, 4) for edge in edges.tolist()], **counts, "zero": int((~positive).sum())}


def _short(value: float) -> float:
    return float(f"{value:.4g}")
