"""Segments of a model on onnxruntime, without graph optimization. Statistics are given to them when they run.

Whatever the provider, tensors come back to numpy, which adds up the moments in float64.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import onnx
from google.protobuf.message import EncodeError
from onnx import NodeProto, TensorProto, helper
from onnx.external_data_helper import uses_external_data

from ..algebra.moments import Array
from ..errors import ModelProblem
from ..model.storage import Storage
from ..model.tensors import read_values, to_tensor
from ..runtime import sessions
from ..runtime.host import Host
from .levels import Levels, Segment
from .norms import MEAN, VAR, Norm, Statistics

Env = dict[str, Array]  # tensors by name
IR = 8  # the IR version of the copies that are run


@dataclass
class Stage:
    """A segment that can be run."""

    model: onnx.ModelProto
    levels: Levels
    segment: Segment
    before: Sequence[Norm]  # those that the segment applies
    norms: Sequence[Norm]  # those that it feeds
    storage: Storage
    host: Host
    _session: Any = field(default=None, repr=False)

    def run(self, env: Env, statistics: Mapping[str, Statistics]) -> Env:
        """The tensors at the taps and at the cut after them. Raises ModelProblem where onnxruntime will not."""
        if not self.segment.made:
            return env
        feeds = {name: env[name] for name in self.segment.sources}
        for norm in self.before:
            stored = statistics[norm.output]
            feeds |= {_mean(norm): fed(stored.mean, norm), _var(norm): fed(stored.var, norm)}
        try:
            if self._session is None:
                self._session = self.host.session(self._serialized(feeds), "off")
            values = sessions.outputs(self._session, self.segment.made, feeds)
        except sessions.CannotRun as why:
            hint = SMALLER if self.host.way.gpu else RUNNABLE
            raise ModelProblem(f"onnxruntime cannot run the model on this data: {why}", hint) from why
        return env | dict(zip(self.segment.made, values, strict=True))

    def close(self) -> None:
        """Give back the memory and the threads of the session; another run makes another one."""
        self._session = None

    def left(self, env: Env) -> Env:
        """The tensors that the segments after it need. Raises ModelProblem for a value that is no tensor."""
        return {name: _tensor(name, env[name]) for name in self.segment.keep}

    def _serialized(self, feeds: Env) -> bytes:
        extra, wanted = self.levels.constants(self.segment.nodes)
        applied = {norm.output: norm for norm in self.before}
        nodes = [*extra, *(_with_inputs(n, applied) for n in self.segment.nodes)]
        return serialized(self.model, nodes, wanted - feeds.keys(), feeds, self.segment.made, self.storage)


RUNNABLE = "Does it load in onnxruntime, and is the data what it takes? `bnfold doctor` shows what runs here."
SMALLER = "Try --ep cpu; a smaller --batch-size needs less of the GPU's memory."


def serialized(
    model: onnx.ModelProto,
    nodes: Iterable[NodeProto],
    stored: set[str],
    feeds: Env,
    outputs: Iterable[str],
    storage: Storage,
) -> bytes:
    """A model of some nodes of another one, with the initializers they read; shapes are left to the run."""
    copy = onnx.ModelProto(ir_version=max(IR, model.ir_version), opset_import=model.opset_import)
    copy.functions.extend(model.functions)
    copy.graph.name = "segment"
    copy.graph.node.extend(map(_tidy, nodes))
    copy.graph.initializer.extend(inline(t, storage) for t in model.graph.initializer if t.name in stored)
    copy.graph.sparse_initializer.extend(t for t in model.graph.sparse_initializer if t.values.name in stored)
    copy.graph.input.extend(_input(name, value) for name, value in feeds.items())
    copy.graph.output.extend(onnx.ValueInfoProto(name=name) for name in outputs)
    try:
        return bytes(copy.SerializeToString())
    except (ValueError, EncodeError) as why:
        raise ModelProblem("a part of the model exceeds 2 GiB", "Recalibrate where it was trained.") from why


def evaluated(model: onnx.ModelProto, levels: Levels, names: Sequence[str], storage: Storage) -> Env:
    """The values of constants that nodes of the model compute, on the CPU."""
    wanted = NodeProto(input=names)
    nodes, stored = levels.constants([wanted])
    try:
        data = serialized(model, nodes, stored, {}, names, storage)
        values = sessions.outputs(Host().session(data, "off"), names, {})
    except sessions.CannotRun as why:
        raise ModelProblem(f"onnxruntime cannot compute the statistics that are stored: {why}", RUNNABLE) from why
    return dict(zip(names, values, strict=True))


def fed(values: Array, norm: Norm) -> Array:
    """Statistics in the shape and type that the node is given them in: bfloat16 runs as float32."""
    kind = np.dtype(np.float32) if norm.kind.name == "bfloat16" else norm.kind
    return values.reshape(norm.stored.mean.shape).astype(kind)


def inline(tensor: TensorProto, storage: Storage) -> TensorProto:
    """The tensor with its data in its own message."""
    return to_tensor(read_values(tensor, storage), tensor.name) if uses_external_data(tensor) else tensor


def _with_inputs(node: NodeProto, applied: Mapping[str, Norm]) -> NodeProto:
    """A normalization that reads its statistics from inputs of the segment; any other node itself."""
    if not node.output or node.output[0] not in applied:
        return node
    copy, norm = NodeProto(), applied[node.output[0]]
    copy.CopyFrom(node)
    copy.input[MEAN], copy.input[VAR] = _mean(norm), _var(norm)
    return copy


def _tidy(node: NodeProto) -> NodeProto:
    """The node without trailing empty outputs, which mean nothing and crash native code."""
    if not node.output or node.output[-1]:
        return node
    copy = NodeProto()
    copy.CopyFrom(node)
    while copy.output and not copy.output[-1]:
        copy.output.pop()
    return copy


def _mean(norm: Norm) -> str:
    return f"{norm.output}/bnfold/mean"


def _var(norm: Norm) -> str:
    return f"{norm.output}/bnfold/var"


def _tensor(name: str, value: Any) -> Array:
    if not isinstance(value, np.ndarray) or value.dtype.kind not in "fiubOUS":
        raise ModelProblem(
            f"'{name}', which is needed later on, is not a tensor", "Only tensors can be kept between two layers."
        )
    return value


def _input(name: str, value: Array) -> onnx.ValueInfoProto:
    if value.dtype.kind in "OUS":
        return helper.make_tensor_value_info(name, TensorProto.STRING, None)
    return helper.make_tensor_value_info(name, helper.np_dtype_to_tensor_dtype(value.dtype), None)
