"""Changed copies of a model, made to be run: with a batch of any size, without bfloat16. The file keeps its own."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import onnx
from onnx import AttributeProto, TensorProto, helper, numpy_helper
from onnx.external_data_helper import uses_external_data

from ..model.messages import all_tensors, bodies
from ..model.storage import Storage
from ..model.tensors import read_values, to_tensor
from ..runtime.protos import caller_inputs, stored
from .norms import attribute

BFLOAT16_KIND, FLOAT_KIND = TensorProto.BFLOAT16, TensorProto.FLOAT


def without_bfloat16(model: onnx.ModelProto, storage: Storage) -> onnx.ModelProto:
    """bfloat16 as float32, for which onnxruntime has kernels on the CPU; the very model where it has none."""
    if not _is_narrow(model):
        return model
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    for tensor in all_tensors(copy):
        if tensor.data_type == BFLOAT16_KIND:
            tensor.CopyFrom(to_tensor(read_values(tensor, storage).astype(np.float32), tensor.name))
    for value in (*copy.graph.input, *copy.graph.output, *copy.graph.value_info):
        if value.type.tensor_type.elem_type == BFLOAT16_KIND:
            value.type.tensor_type.elem_type = FLOAT_KIND
    for entry in _kinds(copy.graph.node):
        entry.i = FLOAT_KIND
    return copy


def _is_narrow(model: onnx.ModelProto) -> bool:
    declared = (value.type.tensor_type.elem_type for value in model.graph.input)
    stored_kinds = (tensor.data_type for tensor in all_tensors(model))
    return BFLOAT16_KIND in (*declared, *stored_kinds) or any(_kinds(model.graph.node))


def _kinds(nodes: object) -> Iterator[AttributeProto]:
    """The attributes that name bfloat16."""
    for node in nodes:  # type: ignore[attr-defined]
        yield from (a for a in node.attribute if a.name in ("to", "dtype") and a.i == BFLOAT16_KIND)
        for body in bodies(node):
            yield from _kinds(body.node)


def fixed_batch(graph: onnx.GraphProto) -> int:
    """The batch size that every input states; 0 if one leaves it open, or they differ."""
    sizes = {_first(value) for value in caller_inputs(graph)}
    return sizes.pop() if len(sizes) == 1 else 0


def _first(value: onnx.ValueInfoProto) -> int:
    dims = value.type.tensor_type.shape.dim
    return int(dims[0].dim_value) if len(dims) else 0


def freed(model: onnx.ModelProto, batch: int) -> onnx.ModelProto:
    """A copy for batches of any size: stated shapes are gone, and reshapes keep the length of their first axis.

    A target [batch, a, b] becomes [0, a, b] if nothing else in it does, which is "as it was"; where the data that is
    reshaped has another first axis onnxruntime or the normalization after it says so.
    """
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    del copy.graph.value_info[:]
    for value in caller_inputs(copy.graph):
        value.type.tensor_type.shape.dim[0].Clear()
    for value in copy.graph.output:
        value.type.tensor_type.ClearField("shape")
    known = stored(copy.graph)
    for number, node in enumerate(n for n in list(copy.graph.node) if n.op_type == "Reshape"):
        target = known.get(node.input[1])
        dims = numpy_helper.to_array(target).tolist() if target is not None and not uses_external_data(target) else []
        if dims[:1] == [batch] and not attribute(node, "allowzero", 0):
            free = [0, *dims[1:]] if -1 in dims else [-1, *dims[1:]]
            name = f"bnfold/target/{number}"
            copy.graph.initializer.append(helper.make_tensor(name, TensorProto.INT64, [len(free)], free))
            node.input[1] = name
    return copy
