"""Make a graph that fails smaller, as long as it fails in the same way."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import onnx
from onnx import ModelProto, numpy_helper

from . import running
from .draw import Drawn, everything_read
from .judge import Dropped, judged


def faults(drawn: Drawn) -> set[str]:
    """The kinds of fault; none where the graph itself is not sound."""
    try:
        return {kind for kind, _ in judged(drawn)["faults"]}
    except Dropped:
        return set()


def reduced(drawn: Drawn, attempts: int = 600) -> Drawn:
    """The smallest graph found that shows one of the kinds of fault of this one."""
    kinds, tried, again = faults(drawn), 0, True
    while again and kinds:
        again = False
        for candidate in candidates(drawn):
            tried += 1
            if tried > attempts:
                return drawn
            if faults(candidate) & kinds:
                drawn, again = candidate, True
                break
    return drawn


def candidates(drawn: Drawn) -> Iterator[Drawn]:
    """Without an output, cut before or after a node, without a node, with a computed constant stored."""
    model = drawn.model
    for i in range(len(model.graph.output) if len(model.graph.output) > 1 else 0):
        copy = copied(model)
        del copy.graph.output[i]
        yield finished(drawn, copy)
    for i in reversed(range(len(model.graph.node))):
        yield from at_node(drawn, i)


def at_node(drawn: Drawn, i: int) -> Iterator[Drawn]:
    model = drawn.model
    node = model.graph.node[i]
    types = inferred(model)
    for name in filter(None, node.output):
        if name in types and [o.name for o in model.graph.output] != [name]:
            copy = copied(model)  # it alone is the output
            del copy.graph.output[:]
            copy.graph.output.add().CopyFrom(types[name])
            yield finished(drawn, copy)
    if node.input and node.input[0]:
        copy = copied(model)  # whoever reads it reads what it reads
        del copy.graph.node[i]
        for each in copy.graph.node:
            each.input[:] = [node.input[0] if n == node.output[0] else n for n in each.input]
        if all(o.name not in node.output for o in copy.graph.output):
            yield finished(drawn, copy)
    if (
        all(n in types for n in filter(None, node.output))
        and node.op_type != "Constant"
        and all(o.name not in node.output for o in model.graph.output)
    ):
        copy = copied(model)  # it is an input
        del copy.graph.node[i]
        copy.graph.input.extend(types[n] for n in filter(None, node.output))
        yield finished(drawn, copy)
    yield from as_stored(drawn, i)


def as_stored(drawn: Drawn, i: int) -> Iterator[Drawn]:
    """A constant that a node computes, as an initializer."""
    model, node = drawn.model, drawn.model.graph.node[i]
    stored = {t.name for t in model.graph.initializer}
    if node.op_type == "If" or not all(n in stored for n in node.input if n) or len(node.output) != 1:
        return
    copy, wanted = copied(model), onnx.ValueInfoProto(name=node.output[0])
    del copy.graph.output[:]
    types = inferred(model)
    copy.graph.output.append(types.get(node.output[0], wanted))
    sweep(copy)
    try:
        (value,) = running.ran(running.session(copy), {})
    except Exception:  # of onnxruntime
        return
    changed = copied(model)
    del changed.graph.node[i]
    changed.graph.initializer.append(numpy_helper.from_array(np.asarray(value), node.output[0]))
    yield finished(drawn, changed)


def copied(model: ModelProto) -> ModelProto:
    copy = ModelProto()
    copy.CopyFrom(model)
    return copy


def inferred(model: ModelProto) -> dict[str, onnx.ValueInfoProto]:
    """The types of tensors that inference finds."""
    try:
        graph = onnx.shape_inference.infer_shapes(model, data_prop=True).graph
    except Exception:  # of onnx
        return {}
    return {v.name: v for v in (*graph.value_info, *graph.output) if v.type.tensor_type.HasField("shape")}


def finished(drawn: Drawn, model: ModelProto) -> Drawn:
    """Without what nobody reads."""
    sweep(model)
    known = {i.name for i in model.graph.input}
    return Drawn(
        model, [c for c in drawn.conditions if c in known], [t for t in drawn.trips if t in known], drawn.features
    )


def sweep(model: ModelProto) -> None:
    graph = model.graph
    wanted = {o.name for o in graph.output}
    kept = []
    for node in reversed(graph.node):
        if wanted & set(node.output):
            kept.append(node)
            wanted |= set(everything_read(node))
    nodes = [onnx.NodeProto.FromString(n.SerializeToString()) for n in reversed(kept)]
    del graph.node[:]
    graph.node.extend(nodes)
    for part in (graph.initializer, graph.input):
        for i in reversed(range(len(part))):
            if part[i].name not in wanted:
                del part[i]
    del graph.value_info[:]
