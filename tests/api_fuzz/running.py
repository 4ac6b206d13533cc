"""onnxruntime with every optimization off, the inputs it is given, and onnx's evaluator in float64."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import product
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
from onnx import GraphProto, ModelProto, NodeProto, TensorProto, helper, numpy_helper
from onnx.inliner import inline_local_functions

from tests.reference import REPLACED

from .noise import every_graph

Values = dict[str, np.ndarray]
BATCHES = (2, 3, 0)  # where the length of the first axis is open
FLOATS = (TensorProto.FLOAT, TensorProto.FLOAT16, TensorProto.DOUBLE, TensorProto.BFLOAT16)


def session(model: ModelProto) -> ort.InferenceSession:
    options = ort.SessionOptions()
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.log_severity_level = 4
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    return ort.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])


def ran(opened: ort.InferenceSession, feeds: Values) -> list[Any]:
    return opened.run(None, feeds)


def settings(conditions: list[str], trips: list[str]) -> Iterator[Values]:
    """Both answers to every condition (at most three are tried together), and several numbers of iterations."""
    pairs = [(False, True)] * min(3, len(conditions))
    for turn, answers in enumerate(product(*pairs)):
        known = dict(zip(conditions, answers, strict=False))
        given = {name: np.asarray(known.get(name, turn % 2 == 0)) for name in conditions}
        yield given | {name: np.asarray((2, 3, 0, 1)[turn % 4], np.int64) for name in trips}


def draws(model: ModelProto, conditions: list[str], trips: list[str], seed: int) -> Iterator[Values]:
    """Inputs of three makes, spread over the settings; where the batch is symbolic, of other sizes, too."""
    rng = np.random.default_rng(seed)
    given = [*settings(conditions, trips)]
    if trips and len(given) == 1:
        given += [{**given[0], **{name: np.asarray(n, np.int64) for name in trips}} for n in (3, 0)]
    for turn in range(max(3, len(given))):
        chosen = given[turn % len(given)]
        if not fits(model, BATCHES[turn % 3]):
            continue
        yield {**chosen, **{i.name: drawn(rng, i, turn) for i in own_inputs(model) if i.name not in chosen}}


def fits(model: ModelProto, batch: int) -> bool:
    """Whether the shapes agree for an open batch of this size: where not, onnxruntime may read what is not there."""
    copy, named = ModelProto.FromString(model.SerializeToString()), False
    for value in copy.graph.input:
        for dim in value.type.tensor_type.shape.dim:
            if not dim.HasField("dim_value"):
                dim.dim_value, named = batch, True
    if not named or batch == BATCHES[0]:
        return True
    del copy.graph.value_info[:]
    for output in copy.graph.output:
        for dim in output.type.tensor_type.shape.dim:
            dim.Clear()
    try:
        onnx.shape_inference.infer_shapes(copy, check_type=True, strict_mode=True, data_prop=True)
    except Exception:  # of onnx
        return False
    return True


def own_inputs(model: ModelProto) -> list[onnx.ValueInfoProto]:
    """Without the initializers that are also inputs."""
    stored = {t.name for t in model.graph.initializer}
    return [i for i in model.graph.input if i.name not in stored]


def drawn(rng: np.random.Generator, value: onnx.ValueInfoProto, turn: int) -> np.ndarray:
    """Standard normal numbers; then larger and shifted ones; then of batch 3, or 0, where that is open."""
    kind = value.type.tensor_type
    batch = BATCHES[turn % 3]
    shape = [d.dim_value if d.HasField("dim_value") else batch for d in kind.shape.dim]
    numbers = np.asarray(rng.standard_normal(shape))
    if turn == 1:
        numbers = 3 * numbers + 0.5
    return np.asarray(numbers, helper.tensor_dtype_to_np_dtype(kind.elem_type))


def wide(model: ModelProto) -> ModelProto:
    """A copy whose computed tensors are float64; constants keep the types that round them, until something reads them."""
    copy = inline_local_functions(model) if model.functions else ModelProto.FromString(model.SerializeToString())
    for graph in every_graph(copy.graph):
        graph.initializer.extend(map(dense, graph.sparse_initializer))
        del graph.sparse_initializer[:]
    kinds: dict[str, int] = {}
    for graph in every_graph(onnx.shape_inference.infer_shapes(copy, data_prop=True).graph):
        kinds |= {v.name: v.type.tensor_type.elem_type for v in graph.value_info}
        kinds |= {t.name: t.data_type for t in graph.initializer}
    widen(copy.graph, set(), kinds)
    for value in (*copy.graph.input, *copy.graph.output):
        if value.type.tensor_type.elem_type in FLOATS:
            value.type.tensor_type.elem_type = TensorProto.DOUBLE
    return copy


def dense(sparse: onnx.SparseTensorProto) -> TensorProto:
    value = np.zeros(list(sparse.dims), helper.tensor_dtype_to_np_dtype(sparse.values.data_type))
    value.reshape(-1)[numpy_helper.to_array(sparse.indices)] = numpy_helper.to_array(sparse.values)
    return numpy_helper.from_array(value, sparse.values.name)


def constant_names(graph: Any, outer: set[str]) -> set[str]:
    """What is stored in a graph, or computed from that alone."""
    found = outer | {t.name for t in getattr(graph, "initializer", [])}
    found |= {s.values.name for s in getattr(graph, "sparse_initializer", [])}
    for node in graph.node:
        has_body = any(a.type == a.GRAPH for a in node.attribute)
        if node.op_type == "Constant" or (node.input and not has_body and all(n in found or not n for n in node.input)):
            found |= set(node.output)
    return found


def widen(graph: GraphProto, outer: set[str], kinds: dict[str, int]) -> None:
    """What is computed reads float64: Casts go there, and before each constant stands one."""
    constant = constant_names(graph, outer)
    nodes = []
    for node in graph.node:
        if node.output[0] not in constant:
            nodes += [*casts(node, constant, kinds)]
            computed_wide(node)
            for attribute in node.attribute:
                if attribute.type == attribute.GRAPH:
                    widen(attribute.g, constant, kinds)
        nodes.append(node)
    copies = [NodeProto.FromString(n.SerializeToString()) for n in nodes]
    del graph.node[:]
    graph.node.extend(copies)


def computed_wide(node: NodeProto) -> None:
    for attribute in node.attribute:
        if node.op_type == "Cast" and attribute.name == "to" and attribute.i in FLOATS:
            attribute.i = TensorProto.DOUBLE
    if node.op_type == "CastLike":
        node.op_type = "Identity"
        del node.input[1:]
        del node.attribute[:]


def casts(node: NodeProto, constant: set[str], kinds: dict[str, int]) -> Iterator[NodeProto]:
    for i, name in enumerate(node.input):
        if name in constant and kinds.get(name) in FLOATS:
            node.input[i] = f"{name} in float64 for {node.output[0]} {i}"
            yield helper.make_node("Cast", [name], [node.input[i]], to=TensorProto.DOUBLE)


def truth(model: ModelProto, feeds: Values) -> list[Any]:
    """In float64, by onnx's ReferenceEvaluator; raises what it raises."""
    from onnx.reference import ReferenceEvaluator

    doubles = {k: v.astype(np.float64) if v.dtype.kind == "f" else v for k, v in feeds.items()}
    with np.errstate(all="ignore"):
        return list(ReferenceEvaluator(wide(model), new_ops=REPLACED).run(None, doubles))
