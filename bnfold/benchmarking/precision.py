"""Models in float16, inputs and outputs as they were: onnxruntime's converter, with what it leaves undone.

`onnxruntime.transformers.float16` converts weights, constants and attributes, and keeps operators in float32 for which
there are few float16 kernels. It appends its Casts at the end, where ONNX wants every node after those it reads, makes
one twice where two such operators read a tensor, leaves `value_float` as it is, and knows no operators but ONNX's own.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import onnx
from onnx import NodeProto, TensorProto, helper, numpy_helper

from ..display.display import counted
from ..errors import ModelProblem, UsageProblem, first_line
from ..model.messages import all_nodes, inner_graphs
from ..model.order import topological
from ..runtime.protos import domain, stored

LARGEST_HALF, SMALLEST_HALF = 65504.0, 5.96e-08  # magnitudes of float16; the converter clips to them
KNOWN = ("", "com.microsoft")  # domains whose operators mostly have kernels for float16
BY_HAND = "Convert it with a tool of your own, and leave --precision out: a model is then timed as it is."


def require_float32(model: onnx.ModelProto, path: str) -> None:
    """Raises UsageProblem for a model in float16 already, be it in part, ModelProblem for one without float32."""
    types = {tensor.data_type for graph in _graphs(model) for tensor in stored(graph).values()}
    types |= {value.type.tensor_type.elem_type for value in model.graph.input}
    if types & {TensorProto.FLOAT16, TensorProto.BFLOAT16}:
        raise UsageProblem(f"{path} is in float16 already", "Leave --precision out: a model is timed as it is.")
    if TensorProto.FLOAT not in types:
        raise ModelProblem(f"{path} holds nothing in float32 that could be converted", BY_HAND)


def to_float16(model: onnx.ModelProto, path: str) -> tuple[onnx.ModelProto, list[str]]:
    """The model in float16, and notes on what that did to it; `model` is changed. Raises ModelProblem."""
    from onnxruntime.transformers import float16

    numbers = {name: numpy_helper.to_array(tensor) for name, tensor in _tensors(model, TensorProto.FLOAT)}
    foreign = {node.op_type for node in all_nodes(model) if domain(node) not in KNOWN}
    outputs = [onnx.ValueInfoProto.FromString(each.SerializeToString()) for each in model.graph.output]
    kept = {*float16.DEFAULT_OP_BLOCK_LIST, *foreign}
    try:
        for graph in _graphs(model):
            _plain_constants(graph)
        made = float16.convert_float_to_float16(model, keep_io_types=True, op_block_list=[*kept])
        _order(made.graph)
        del made.graph.value_info[:]  # some of it describes the tensors as they were
        del made.graph.output[:]
        made.graph.output.extend(outputs)  # the converter writes shapes that it infers
        onnx.checker.check_model(made)
    except Exception as why:  # the converter asserts, protobuf and the checker have errors of their own
        raise ModelProblem(f"{path} cannot be converted to float16: {first_line(why)}", BY_HAND) from why
    names = {name for name, _ in _tensors(made, TensorProto.FLOAT16)}
    left = sorted({node.op_type for node in all_nodes(made)} & kept)
    return made, [*_clipped(path, [numbers[name] for name in numbers if name in names]), *_left(path, left)]


def _graphs(model: onnx.ModelProto) -> Iterator[onnx.GraphProto]:
    """The graph, and all graphs in it."""
    yield model.graph
    yield from inner_graphs(model.graph.node)


def _tensors(model: onnx.ModelProto, kind: int) -> Iterator[tuple[str, TensorProto]]:
    """Stored tensors of one type, with their names."""
    for graph in _graphs(model):
        yield from ((name, tensor) for name, tensor in stored(graph).items() if tensor.data_type == kind)


def _clipped(path: str, values: list[np.ndarray]) -> Iterator[str]:
    sizes = [np.abs(each) for each in values]
    large = sum(int(np.count_nonzero(np.isfinite(each) & (each > LARGEST_HALF))) for each in sizes)
    small = sum(int(np.count_nonzero((each > 0) & (each < SMALLEST_HALF))) for each in sizes)
    for count, where, bound in ((large, "above", LARGEST_HALF), (small, "below", SMALLEST_HALF)):
        if count:
            yield f"float16: {counted(count, 'number')} in {path}, {where} {bound:g} in magnitude, clipped to that"


def _left(path: str, operators: list[str]) -> Iterator[str]:
    if operators:
        yield f"float16: in {path} these operators stay in float32: {', '.join(operators)}"


def _plain_constants(graph: onnx.GraphProto) -> None:
    """Constants that state a number, or several, state a tensor."""
    for node in graph.node:
        if node.op_type == "Constant" and node.attribute and node.attribute[0].name in ("value_float", "value_floats"):
            value = np.asarray(helper.get_attribute_value(node.attribute[0]), np.float32)
            node.attribute[0].CopyFrom(helper.make_attribute("value", numpy_helper.from_array(value)))


def _order(graph: onnx.GraphProto) -> None:
    """Every node once, after those that it reads."""
    nodes = list({tuple(node.output): node for node in graph.node}.values())
    copies = [NodeProto.FromString(nodes[place].SerializeToString()) for place in topological(nodes)]
    del graph.node[:]
    graph.node.extend(copies)
