"""Shapes and types of a model's tensors for one set of inputs, without running it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from math import prod

import numpy as np
import onnx
from onnx import helper, shape_inference

from ..float64.windows import Array

LATEST = onnx.IR_VERSION  # of which no initializer has to be an input as well
SMALL = 1 << 10  # elements of constants that may say something about shapes


def examples(model: onnx.ModelProto, values: Mapping[str, Array]) -> dict[str, Array]:
    """Zeros, which take no memory, of the shape and type of each tensor that inference knows; and `values`.

    What inference does not know is missing.
    """
    try:
        inferred = shape_inference.infer_shapes(_skeleton(model, values), data_prop=True)
    except shape_inference.InferenceError:  # an operator of a domain that the model does not import
        return dict(values)
    found = {}
    for value in (*inferred.graph.value_info, *inferred.graph.output):
        dims = value.type.tensor_type.shape.dim
        if value.type.tensor_type.HasField("shape") and all(dim.HasField("dim_value") for dim in dims):
            kind = helper.tensor_dtype_to_np_dtype(value.type.tensor_type.elem_type)
            found[value.name] = np.broadcast_to(np.zeros((), kind), [dim.dim_value for dim in dims])
    return {**found, **values}


def _skeleton(model: onnx.ModelProto, values: Mapping[str, Array]) -> onnx.ModelProto:
    """A copy with inputs of the shapes of `values`, and inputs in place of large constants."""
    graph = onnx.GraphProto(name="skeleton", node=model.graph.node)
    for name, value in values.items():
        graph.input.append(_declared(name, helper.np_dtype_to_tensor_dtype(value.dtype), value.shape))
    for tensor in model.graph.initializer:
        if prod(tensor.dims) <= SMALL:
            graph.initializer.append(tensor)
        else:
            graph.input.append(_declared(tensor.name, tensor.data_type, tensor.dims))
    graph.output.extend(onnx.ValueInfoProto(name=output.name) for output in model.graph.output)
    return onnx.ModelProto(ir_version=LATEST, graph=graph, opset_import=model.opset_import, functions=model.functions)


def _declared(name: str, kind: int, dims: Iterable[int]) -> onnx.ValueInfoProto:
    return helper.make_tensor_value_info(name, kind, list(dims))
