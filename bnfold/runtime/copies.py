"""Copies of a model, to be run: with dense constants, more outputs, constants moved by one unit of rounding."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from math import prod

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper
from onnx.inliner import inline_local_functions

from ..errors import ModelProblem
from ..model.messages import all_nodes, bodies, drop, inner_graphs
from ..system.limits import current
from . import detached
from .protos import FLOATING, Array, is_constant_node, overridable, stored

READ_SIZES = frozenset(["Resize", "Upsample", "Range", "Cast"])  # also of floating-point numbers
GOLDEN = 0.618034  # of which the multiples, modulo 1, are all over the place
TO_JITTER = (
    frozenset(  # operators whose constants a fold may change: those constants may be moved by one unit of rounding
        ["Conv", "ConvTranspose", "Gemm", "MatMul", "BatchNormalization", "InstanceNormalization", "LayerNormalization"]
        + ["GroupNormalization", "Mul", "Add", "Sub", "Div", "PRelu", "DequantizeLinear", "GRU", "LSTM", "RNN"]
    )
)
PAGES_BY = 2  # bits: one number in 16 that moves by four units moves a sum as far as all that move by one


def make_dense(model: onnx.ModelProto) -> None:
    """Replace sparse initializers by dense ones: onnx's reference reads none, and constants are compared as tensors.

    Raises ModelProblem for one of more elements than the limit.
    """
    parts = (model.graph, *model.functions)
    for graph in (model.graph, *(body for part in parts for body in inner_graphs(part.node))):
        graph.initializer.extend(map(_made_dense, graph.sparse_initializer))
        del graph.sparse_initializer[:]


def _made_dense(sparse: onnx.SparseTensorProto) -> TensorProto:
    name, count = sparse.values.name, prod(sparse.dims)
    if count > current().elements:
        words = f"'{name}' is a sparse tensor of {count} elements; the limit is {current().elements}"
        raise ModelProblem(words, f"If the file is to be trusted: --limit elements={count}.")
    values, indices = map(numpy_helper.to_array, (sparse.values, sparse.indices))
    result = np.zeros(tuple(sparse.dims), values.dtype)
    result[np.unravel_index(indices, result.shape) if indices.ndim == 1 else tuple(indices.T)] = values
    return numpy_helper.from_array(result, name)


def lifted(model: onnx.ModelProto) -> onnx.ModelProto:
    """A copy whose main graph has the constants of bodies and functions that lie in files, as initializers.

    Those of bodies are named after what they hold: equal data have equal names in two models. Without such constants it
    is the model itself.
    """
    if not any(map(detached.stays, detached.constants(model))):
        return model
    copy = onnx.ModelProto()
    inner = (tensor for function in model.functions for tensor in detached.constants(function))
    copy.CopyFrom(inline_local_functions(model) if any(map(detached.stays, inner)) else model)
    copies = {tensor.name: tensor for tensor in _taken(copy.graph)}
    for graph in inner_graphs(copy.graph.node):
        names = {}
        for tensor in _taken(graph):
            names[tensor.name] = f"bnfold/{detached.data_number(tensor)}/{tensor.data_type}/{list(tensor.dims)}"
            tensor.name = names[tensor.name]
            copies[tensor.name] = tensor
        _rename(graph, names)
    copy.graph.initializer.extend(copies.values())
    return copy


def _taken(graph: onnx.GraphProto) -> list[onnx.TensorProto]:
    """Take the constants that lie in files out of a graph; returns copies of them, under the names that nodes read."""
    stored = [i for i, tensor in enumerate(graph.initializer) if detached.stays(tensor)]
    made = [
        i for i, node in enumerate(graph.node) if is_constant_node(node) and any(map(detached.stays, _tensors(node)))
    ]
    copies = [_copied(graph.initializer[i]) for i in stored]
    for node in (graph.node[i] for i in made):
        copies.append(_copied(_tensors(node)[0]))
        copies[-1].name = node.output[0]
    drop(graph.initializer, stored)
    drop(graph.node, made)
    return copies


def _copied(tensor: onnx.TensorProto) -> onnx.TensorProto:
    copy = onnx.TensorProto()
    copy.CopyFrom(tensor)
    return copy


def _tensors(node: onnx.NodeProto) -> list[onnx.TensorProto]:
    return [attribute.t for attribute in node.attribute if attribute.name == "value"]


def _rename(graph: onnx.GraphProto, names: Mapping[str, str]) -> None:
    """Let a graph, and those in it, read other tensors."""
    for node in graph.node:
        node.input[:] = [names.get(name, name) for name in node.input]
        for body in bodies(node):
            own = {*(t.name for t in body.initializer), *(v.name for v in body.input)}
            own.update(name for inner in body.node for name in inner.output)
            _rename(body, {name: other for name, other in names.items() if name not in own})
    for output in graph.output:
        if output.name in names:
            graph.node.append(helper.make_node("Identity", [names[output.name]], [output.name]))


def override(original: onnx.ModelProto, folded: onnx.ModelProto) -> list[str]:
    """Give both models, in place, other values for initializers that callers may override; returns their names.

    Then a run shows where a fold has worked a default into other constants. Not of those that may be sizes.
    """
    both = overridable(original).keys() & overridable(folded).keys()
    sizes = {name for node in all_nodes(original) if node.op_type in READ_SIZES for name in node.input}
    names = [t.name for t in original.graph.initializer if t.name in both - sizes and t.data_type in FLOATING]
    for tensor in (*original.graph.initializer, *folded.graph.initializer):
        if tensor.name in names:
            values = detached.values(tensor)
            more = (np.arange(values.size).reshape(values.shape) * GOLDEN + GOLDEN) % 1 / 4
            moved = np.where(values == 0, more, values * (1 + more))
            tensor.CopyFrom(numpy_helper.from_array(moved.astype(values.dtype), tensor.name))
    return names


def frozen(model: onnx.ModelProto) -> onnx.ModelProto:
    """The model itself, changed so that callers cannot override its initializers."""
    free = overridable(model)
    drop(model.graph.input, [i for i, value in enumerate(model.graph.input) if value.name in free])
    return model


def exposed(model: onnx.ModelProto, names: Iterable[str]) -> onnx.ModelProto:
    """A copy whose graph also returns the tensors called `names`."""
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    have = {output.name for output in copy.graph.output}
    copy.graph.output.extend(onnx.ValueInfoProto(name=name) for name in names if name not in have)
    return copy


def jittered(model: onnx.ModelProto, seed: int, dropped: int = 0) -> onnx.ModelProto:
    """A copy in which every floating-point constant of a linear operator is moved by one unit of its last place.

    Up or down at random, but equal values of a row together, as they are rounded together; zeros stay zeros. How far
    this moves the results is how far one more rounding of the constants may move them: by that a fold is judged. Where
    the arithmetic drops `dropped` bits of a float32 number, the last place is above these. Functions are inlined, so
    that their constants, and their arguments, are moved as well.
    """
    copy = onnx.ModelProto()
    copy.CopyFrom(inline_local_functions(model) if model.functions else model)
    _dense(copy.graph)
    movable = _movable(copy.graph)
    for name, tensor in stored(copy.graph).items():
        if name in movable and tensor.data_type in FLOATING:
            _jitter(tensor, seed, dropped if tensor.data_type == TensorProto.FLOAT else 0)
    return copy


def _jitter(tensor: onnx.TensorProto, seed: int, dropped: int) -> None:
    """Move the values of a tensor. Of one that lies in a file one page in 16, by four units: as far in all."""
    if not detached.stays(tensor):
        values = numpy_helper.to_array(tensor)
        tensor.CopyFrom(numpy_helper.from_array(_moved(values, _rows(values), seed, dropped), tensor.name))
        return
    size = max(1, prod(tensor.dims[1:]))
    detached.change(
        tensor, seed, lambda some, at: _moved(some, (at // size).astype(np.uint64), seed, dropped + PAGES_BY)
    )


def _dense(graph: onnx.GraphProto) -> None:
    """ConstantOfShape with a stored shape written out, so that its values can be moved."""
    known = stored(graph)
    for node in graph.node:
        if node.op_type == "ConstantOfShape" and node.input[0] in known and node.attribute:
            dims = numpy_helper.to_array(known[node.input[0]]).tolist()
            full = np.broadcast_to(numpy_helper.to_array(node.attribute[0].t), dims)
            value = helper.make_attribute("value", numpy_helper.from_array(np.ascontiguousarray(full)))
            node.CopyFrom(helper.make_node("Constant", [], list(node.output), name=node.name))
            node.attribute.append(value)


def _movable(graph: onnx.GraphProto) -> set[str]:
    """Names that only linear operators read, none of them to calculate with constants and sizes alone."""
    fixed = without_data(graph)
    linear: set[str] = set()
    other = {output.name for output in graph.output}
    for node in graph.node:
        on_data = node.op_type in TO_JITTER and fixed.isdisjoint(node.output)
        (linear if on_data else other).update(node.input)
    return linear - other


def without_data(graph: onnx.GraphProto, free: Collection[str] = ()) -> set[str]:
    """Tensors that do not depend on the values of the inputs: computed from constants and from sizes alone.

    Initializers that are `free`, which callers may override, are inputs.
    """
    known = {*(tensor.name for tensor in graph.initializer if tensor.name not in free), ""}
    for node in graph.node:
        if node.op_type in ("Shape", "Size") or (known.issuperset(node.input) and not any(bodies(node))):
            known.update(node.output)
    return known


def _rows(values: Array) -> Array:
    """In which row, along the first axis, each value stands."""
    rows = max(1, values.shape[0] if values.ndim else 1)
    return np.arange(values.size, dtype=np.uint64) // max(1, values.size // rows)


def _moved(values: Array, rows: Array, seed: int, dropped: int) -> Array:
    """Each finite nonzero value moved to a neighbour of the same sign: its bit pattern counts the values up."""
    flat = np.ascontiguousarray(values).reshape(-1)
    bits = flat.view(f"u{values.itemsize}")
    mixed: Array = (bits.astype(np.uint64) + rows * np.uint64(0x9E3779B97F4A7C15) + np.uint64(seed)) * np.uint64(
        0xD6E8FEB86659FD93
    )
    mixed = (mixed ^ (mixed >> np.uint64(32))) * np.uint64(0xD6E8FEB86659FD93)
    steps = np.where(mixed >> np.uint64(63), 1, -1) << dropped
    moved = (bits.astype(np.int64) + steps).astype(bits.dtype).view(values.dtype)
    still = (flat == 0) | ~np.isfinite(flat) | ~np.isfinite(moved)
    return np.where(still, flat, moved).reshape(values.shape)
