"""A float64 copy of a model: the same graph with every floating-point value and type widened."""

from __future__ import annotations

import numpy as np
import onnx
from onnx import AttributeProto, TensorProto, numpy_helper

from ..runtime.protos import FLOATS, every_node, graphs

TYPE_ATTRIBUTES = frozenset({"to", "dtype", "output_datatype", "output_dtype"})


def doubled(model: onnx.ModelProto) -> onnx.ModelProto:
    """Copy `model` with float32, float16 and bfloat16 made float64 wherever they stand.

    Covers initializers (sparse ones too), Constant and ConstantOfShape values, the target types of Cast and its kin,
    and declared value types; in subgraphs and functions as well. Integers, 8-bit and 4-bit floats stay as they are.
    """
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    for graph in graphs(copy.graph):
        _widen_graph(graph)
    for node in every_node(copy):
        _widen_node(node)
    return copy


def _widen_graph(graph: onnx.GraphProto) -> None:
    for tensor in (*graph.initializer, *(sparse.values for sparse in graph.sparse_initializer)):
        _widen_tensor(tensor)
    for value in (*graph.input, *graph.output, *graph.value_info):
        if value.type.tensor_type.elem_type in FLOATS:
            value.type.tensor_type.elem_type = TensorProto.DOUBLE


def _widen_tensor(tensor: TensorProto) -> None:
    if tensor.data_type in FLOATS:
        wide = numpy_helper.to_array(tensor).astype(np.float64)
        tensor.CopyFrom(numpy_helper.from_array(wide, tensor.name))


def _widen_node(node: onnx.NodeProto) -> None:
    for attribute in node.attribute:
        if attribute.type == AttributeProto.TENSOR:
            _widen_tensor(attribute.t)
        elif attribute.type == AttributeProto.SPARSE_TENSOR:
            _widen_tensor(attribute.sparse_tensor.values)
        elif attribute.name in TYPE_ATTRIBUTES and attribute.i in FLOATS:
            attribute.i = TensorProto.DOUBLE
        elif attribute.name in ("value_float", "value_floats"):
            _as_tensor(attribute)
    if node.op_type == "ConstantOfShape" and not node.attribute:
        node.attribute.append(onnx.helper.make_attribute("value", numpy_helper.from_array(np.zeros(1))))


def _as_tensor(attribute: AttributeProto) -> None:
    """Constant's value_float and value_floats can only say float32; the tensor form can say float64."""
    one = attribute.name == "value_float"
    values = np.array(attribute.f if one else list(attribute.floats), dtype=np.float64)
    attribute.CopyFrom(onnx.helper.make_attribute("value", numpy_helper.from_array(values)))
