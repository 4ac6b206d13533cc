"""A model laid out for measuring: its norms, and the segments between them."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import onnx
from onnx import NodeProto, helper

from ..algebra.rounding import widened as as_float64
from ..errors import ModelProblem
from ..model.messages import is_batch_norm
from ..model.storage import Storage
from ..runtime.host import Host
from ..runtime.protos import stored as stored_tensors
from . import copies
from .levels import Levels
from .norms import MEAN, VAR, Norm, Statistics, require_supported
from .segments import Stage, evaluated


@dataclass(frozen=True, eq=False)
class Layout:
    """`norms` name nodes of the record, `stages` are copies of its parts; both are in topological order."""

    norms: list[Norm]
    stages: list[Stage]
    notes: list[str]


def lay_out(record: onnx.ModelProto, run: onnx.ModelProto, storage: Storage, host: Host) -> Layout:
    """Segments of `run`, which is `record` or a changed copy of it. Raises ModelProblem for an unsupported model."""
    require_supported(record)
    levels = Levels(run.graph)
    nodes = [node for node in record.graph.node if node.output and node.output[0] in levels.norms]
    notes = _left_alone(record, len(nodes))
    if not nodes:
        raise ModelProblem(
            "no BatchNormalization of the model normalizes data by statistics that it stores",
            "They come from its inputs, or are computed from them.",
        )
    values = _values(record, run, levels, nodes, storage)
    norms = [_norm(node, levels.norms[node.output[0]], values) for node in nodes]
    return Layout(norms, _stages(run, levels, norms, storage, host), notes)


def _left_alone(record: onnx.ModelProto, count: int) -> list[str]:
    others = sum(map(is_batch_norm, record.graph.node)) - count
    return [f"{others} BatchNormalization use no stored statistics, or see no data, and stay as they are"] * bool(
        others
    )


def _values(
    record: onnx.ModelProto, run: onnx.ModelProto, levels: Levels, nodes: list[NodeProto], storage: Storage
) -> dict[str, tuple[np.dtype[np.generic], Statistics]]:
    """The stored statistics of every node by its output, and their type in the record."""
    names = list(dict.fromkeys(x for node in nodes for x in node.input[MEAN : VAR + 1]))
    values = evaluated(run, levels, names, storage)
    kinds = {name: t.data_type for name, t in stored_tensors(record.graph).items()}
    result = {}
    for node in nodes:
        mean, var = (as_float64(np.asarray(values[node.input[i]])) for i in (MEAN, VAR))
        kind = kinds.get(node.input[MEAN])
        dtype = values[node.input[MEAN]].dtype if kind is None else helper.tensor_dtype_to_np_dtype(kind)
        result[node.output[0]] = np.dtype(dtype), Statistics(mean, var)
    return result


def _norm(node: NodeProto, level: int, values: dict[str, tuple[np.dtype[np.generic], Statistics]]) -> Norm:
    kind, statistics = values[node.output[0]]
    return Norm(node, level, kind, statistics)


def _stages(run: onnx.ModelProto, levels: Levels, norms: list[Norm], storage: Storage, host: Host) -> list[Stage]:
    by_output = {norm.output: norm for norm in norms}
    stages = []
    for level, segment in enumerate(levels.segments()):
        before = [by_output[n.output[0]] for n in segment.nodes if n.output and n.output[0] in by_output]
        stages.append(Stage(run, levels, segment, before, [n for n in norms if n.level == level], storage, host))
    return stages


def runnable(record: onnx.ModelProto, storage: Storage) -> tuple[onnx.ModelProto, list[str]]:
    """The model as onnxruntime can run it, and what was changed for that."""
    wide = copies.without_bfloat16(record, storage)
    notes = ["computed in float32: onnxruntime has no bfloat16 on the CPU"] if wide is not record else []
    return wide, notes
