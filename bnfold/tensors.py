"""Where the bytes of tensors live: the one place that reads them, and the one that writes them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, numpy_helper
from onnx.external_data_helper import load_external_data_for_tensor, uses_external_data
from onnx_graphsurgeon.ir.tensor import LazyValues

from .affine import Array
from .errors import ModelProblem

DATA_FIELDS = ("float_data", "int32_data", "string_data", "int64_data", "double_data", "uint64_data", "external_data")


class Stored(LazyValues):  # type: ignore[misc]
    """The values of a TensorProto, read when they are asked for; bfloat16 comes as ml_dtypes knows it."""

    def __init__(self, tensor: TensorProto, folder: Path | None) -> None:
        self.tensor, self.folder = tensor, folder
        self.shape = list(tensor.dims)
        self.dtype = onnx.helper.tensor_dtype_to_np_dtype(tensor.data_type)

    def load(self) -> Array:
        return read(self.tensor, self.folder)


def read(tensor: TensorProto, folder: Path | None) -> Array:
    """The values of a tensor. Raises ModelProblem where its data is missing or does not match its shape."""
    try:
        if uses_external_data(tensor):
            whole = TensorProto()
            whole.CopyFrom(tensor)
            load_external_data_for_tensor(whole, str(folder or "."))
            tensor = whole
        return np.asarray(numpy_helper.to_array(tensor))
    except (ValueError, TypeError, OSError, onnx.checker.ValidationError) as problem:
        raise ModelProblem(
            f"the values of '{tensor.name}' cannot be read: {str(problem).splitlines()[0]}",
            "The file is damaged, or a data file that belongs to it is missing.",
        ) from problem


def to_tensor(values: Array, name: str) -> TensorProto:
    return numpy_helper.from_array(np.ascontiguousarray(values).reshape(values.shape), name)


def replace_values(message: TensorProto, values: Array) -> None:
    """New numbers in the same message: its name, documentation and metadata stay."""
    fresh: Any = to_tensor(values, message.name)
    for field in DATA_FIELDS:
        message.ClearField(field)
    message.ClearField("data_location")
    message.dims[:] = fresh.dims
    message.data_type, message.raw_data = fresh.data_type, fresh.raw_data


def all_tensors(model: onnx.ModelProto) -> Iterator[TensorProto]:
    """Every tensor that a model stores: initializers and tensor attributes, also inside subgraphs and functions."""
    yield from _in_graph(model.graph)
    for function in model.functions:
        yield from _in_nodes(function.node)


def _in_graph(graph: onnx.GraphProto) -> Iterator[TensorProto]:
    yield from graph.initializer
    yield from _in_nodes(graph.node)


def _in_nodes(nodes: Iterable[onnx.NodeProto]) -> Iterator[TensorProto]:
    for node in nodes:
        for attribute in node.attribute:
            yield from [*([attribute.t] if attribute.HasField("t") else []), *attribute.tensors]
            for graph in [*([attribute.g] if attribute.HasField("g") else []), *attribute.graphs]:
                yield from _in_graph(graph)
