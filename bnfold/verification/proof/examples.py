"""Shapes and types of a model's tensors for one set of inputs, without running it."""

from __future__ import annotations

from collections import ChainMap
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from itertools import chain, combinations
from math import prod
from typing import Any

import numpy as np
import onnx
from onnx import helper, numpy_helper, shape_inference
from onnx.reference import ReferenceEvaluator

from ...model.messages import bodies
from ...runtime import detached
from ...runtime.dimensions import dynamic
from ...runtime.protos import called, overridable, shape, stored
from ..float64.windows import Array

LATEST = onnx.IR_VERSION  # of which no initializer has to be an input as well
MOST_SIZES = 1 << 10  # elements of constants that may say something about shapes


def examples(model: onnx.ModelProto, values: Mapping[str, Array]) -> dict[str, Array]:
    """Zeros, which take no memory, of the shape and type of each tensor that inference knows; and `values`.

    Whole numbers that the graph computes of shapes are computed here, as far as inference does not do so: they may be
    shapes of others. What is not known then is missing.
    """
    made = {name for node in model.graph.node for name in node.output if name}
    numbers = _stored_numbers(model)
    while True:
        known = {**_inferred(model, values, numbers), **values}
        more = {} if made <= known.keys() else _computed(model, known, numbers)
        if not more:
            return known
        numbers.update(more)


def _inferred(model: onnx.ModelProto, values: Mapping[str, Array], numbers: Mapping[str, Array]) -> dict[str, Array]:
    """What inference knows; `numbers` are tensors that need not be computed."""
    skeleton = _skeleton(model, values)
    stored = {tensor.name for tensor in skeleton.graph.initializer}
    skeleton.graph.initializer.extend(numpy_helper.from_array(numbers[name], name) for name in numbers.keys() - stored)
    nodes = [node for node in skeleton.graph.node if not numbers.keys() >= {*node.output}]
    del skeleton.graph.node[:]
    skeleton.graph.node.extend(nodes)
    try:
        inferred = shape_inference.infer_shapes(skeleton, data_prop=True)
    except shape_inference.InferenceError:  # an operator of a domain that the model does not import
        return {}
    known = {name: np.broadcast_to(np.zeros((), value.dtype), value.shape) for name, value in numbers.items()}
    for value in (*inferred.graph.value_info, *inferred.graph.output):
        dims = value.type.tensor_type.shape.dim
        if value.type.tensor_type.HasField("shape") and all(d.HasField("dim_value") and d.dim_value >= 0 for d in dims):
            kind = helper.tensor_dtype_to_np_dtype(value.type.tensor_type.elem_type)
            known[value.name] = np.broadcast_to(np.zeros((), kind), [dim.dim_value for dim in dims])
    return known


def _stored_numbers(model: onnx.ModelProto) -> dict[str, Array]:
    """Small stored tensors of whole numbers, but for those that callers may override."""
    free = overridable(model)
    small = ((n, t) for n, t in stored(model.graph).items() if prod(t.dims) <= MOST_SIZES and n not in free)
    return {name: detached.values(tensor) for name, tensor in small if tensor.data_type == onnx.TensorProto.INT64}


def _computed(model: onnx.ModelProto, known: Mapping[str, Array], numbers: Mapping[str, Array]) -> dict[str, Array]:
    """Small tensors of whole numbers that nodes compute of such, or of shapes that are `known`."""
    made: dict[str, Array] = {}
    ready = ChainMap(made, {**numbers})
    for node in model.graph.node:
        read = known if called(node) in ("Shape", "Size") else ready
        is_new = len(node.output) == 1 and node.output[0] not in numbers
        if is_new and node.input and all(name in read for name in node.input) and not any(bodies(node)):
            value = _evaluated(model, node, {name: read[name] for name in node.input})
            if value is not None:
                made[node.output[0]] = value
    return made


def _evaluated(model: onnx.ModelProto, node: onnx.NodeProto, values: Mapping[str, Array]) -> Array | None:
    """What one node makes, if that is a small tensor of whole numbers."""
    graph = onnx.GraphProto(name="numbers", node=[node], output=[onnx.ValueInfoProto(name=node.output[0])])
    graph.input.extend(onnx.ValueInfoProto(name=name) for name in values)
    alone = onnx.ModelProto(ir_version=LATEST, graph=graph, opset_import=model.opset_import)
    with suppress(Exception):  # what it does to such numbers may be undefined
        outputs: Any = ReferenceEvaluator(alone).run(None, dict(values))
        made = outputs[0]
        return made if isinstance(made, np.ndarray) and made.dtype == np.int64 and made.size <= MOST_SIZES else None
    return None


LARGER_BY = 1, 32, 64  # that sizes are made larger by: an odd one shows padding that even ones do not reach
MOST_TOGETHER = 6  # dimensions of which every two are made larger together


def of_other_sizes(model: onnx.ModelProto, values: Mapping[str, Array]) -> dict[str, Array]:
    """As `examples`, where every dynamic dimension of the inputs that may be larger than in `values` is larger.

    One that may not be so alone may be so twice as large, or together with others: they have to be as large as it is.
    """
    names, steps = dynamic(model.graph), dict[str, int]()
    may_vary = is_possible(model, with_sizes(model, values, {}))
    for step in LARGER_BY:
        every = {name: step * (1 + 2 * i) for i, name in enumerate(names)}  # no two alike by chance
        if not may_vary or is_possible(model, with_sizes(model, values, every)):
            return examples(model, with_sizes(model, values, every))
    for together in chain(([name] for name in names), _groups(model, values, names, steps)):
        if steps.keys() >= {*together}:
            continue
        sizes = {name: size for name, size in input_sizes(model, values).items() if name in together}
        for larger in (*(dict.fromkeys(together, step) for step in LARGER_BY), sizes):
            more = {**steps, **{name: steps.get(name, 0) + step for name, step in larger.items()}}
            if is_possible(model, with_sizes(model, values, more)):
                steps.update(more)
                break
    return examples(model, with_sizes(model, values, steps))


def _groups(
    model: onnx.ModelProto, values: Mapping[str, Array], names: Sequence[str], steps: Mapping[str, int]
) -> Iterator[Sequence[str]]:
    """Dimensions that may have to be larger together: all that have no steps yet, then every two of few."""
    left = [name for name in names if name not in steps]
    yield left
    if len(left) <= MOST_TOGETHER:
        yield from (pair for pair in combinations(names[:MOST_TOGETHER], 2) if not steps.keys() >= {*pair})


def input_sizes(model: onnx.ModelProto, values: Mapping[str, Array]) -> dict[str, int]:
    """How large the dimensions of the inputs are."""
    inputs = [value for value in model.graph.input if value.name in values]
    return {name: size for v in inputs for name, size in zip(_names(v, values), values[v.name].shape, strict=True)}


def _names(value: onnx.ValueInfoProto, values: Mapping[str, Array]) -> list[str]:
    """Of the dimensions of an input; those without one are called by their axis."""
    stated = shape(value) or [None] * values[value.name].ndim
    return [dim if isinstance(dim, str) else f"{value.name}/{axis}" for axis, dim in enumerate(stated)]


def with_sizes(model: onnx.ModelProto, values: Mapping[str, Array], steps: Mapping[str, int]) -> dict[str, Array]:
    """Zeros in the shapes of `values`, some dimensions larger by `steps`, or smaller."""
    larger = {}
    for value in model.graph.input:
        if value.name in values:
            own = values[value.name]
            sizes = [n + steps.get(name, 0) for name, n in zip(_names(value, values), own.shape, strict=True)]
            larger[value.name] = np.broadcast_to(np.zeros((), own.dtype), sizes)
    return larger


def is_possible(model: onnx.ModelProto, values: Mapping[str, Array]) -> bool:
    """Whether inference finds no contradiction in these sizes."""
    try:
        shape_inference.infer_shapes(_skeleton(model, values), strict_mode=True, data_prop=True)
    except Exception:  # of several unrelated classes
        return False
    return True


def _skeleton(model: onnx.ModelProto, values: Mapping[str, Array]) -> onnx.ModelProto:
    """A copy with inputs of the shapes of `values`, and inputs in place of large constants."""
    graph = onnx.GraphProto(name="skeleton", node=model.graph.node)
    for name, value in values.items():
        graph.input.append(_declared(name, helper.np_dtype_to_tensor_dtype(value.dtype), value.shape))
    free = overridable(model)
    for tensor in model.graph.initializer:
        if prod(tensor.dims) <= MOST_SIZES and tensor.name not in free:
            graph.initializer.append(tensor)
        else:
            graph.input.append(_declared(tensor.name, tensor.data_type, tensor.dims))
    graph.output.extend(onnx.ValueInfoProto(name=output.name) for output in model.graph.output)
    return onnx.ModelProto(ir_version=LATEST, graph=graph, opset_import=model.opset_import, functions=model.functions)


def element_types(model: onnx.ModelProto) -> dict[str, int]:
    """The type of the elements of each tensor that inference knows, inputs and constants included."""
    skeleton = _skeleton(model, {})
    skeleton.graph.input.extend(value for value in model.graph.input)
    inferred = shape_inference.infer_shapes(skeleton).graph
    kinds = {v.name: v.type.tensor_type.elem_type for v in (*inferred.input, *inferred.value_info, *inferred.output)}
    kinds.update((tensor.name, tensor.data_type) for tensor in model.graph.initializer)
    return {name: kind for name, kind in kinds.items() if kind}


def _declared(name: str, kind: int, dims: Iterable[int]) -> onnx.ValueInfoProto:
    return helper.make_tensor_value_info(name, kind, list(dims))
