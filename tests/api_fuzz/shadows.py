"""Names in bodies that are those of outer tensors: legal where the body does not see these, and easily mistaken.

Where another body of the same node reads the outer tensor, onnxruntime gives that to both, whatever the one stores: such
models are not made.
"""

from __future__ import annotations

from collections.abc import Iterator

import onnx
from onnx import GraphProto, ModelProto, NodeProto

from .net import File


def bodies_of(node: NodeProto) -> Iterator[GraphProto]:
    yield from (a.g for a in node.attribute if a.type == a.GRAPH)


def names_in(graph: GraphProto) -> set[str]:
    """Every name that stands in a graph or in a body of it."""
    own = {t.name for t in (*graph.initializer, *graph.input, *graph.output)} | {
        s.values.name for s in graph.sparse_initializer
    }
    own |= {n for node in graph.node for n in (*node.input, *node.output)}
    return own.union(*(names_in(b) for node in graph.node for b in bodies_of(node)))


def stored_in(graph: GraphProto) -> list[str]:
    """What a body stores itself: onnxruntime takes no node whose output has the name of another one."""
    return [t.name for t in graph.initializer]


def rename(graph: GraphProto, old: str, new: str) -> None:
    for part in (*graph.initializer, *graph.input, *graph.output, *graph.value_info):
        part.name = new if part.name == old else part.name
    for node in graph.node:
        for names in (node.input, node.output):
            for i, name in enumerate(names):
                if name == old:
                    names[i] = new
        for inner in bodies_of(node):
            rename(inner, old, new)


def shadow(f: File, model: ModelProto) -> None:
    """Give a tensor of a body the name of one that is made after it, or of an initializer, where tools accept it."""
    places = [(i, b) for i, node in enumerate(model.graph.node) for b in bodies_of(node)]
    if not places or not f.chance(0.5):
        return
    before = ModelProto()
    before.CopyFrom(model)
    at, graph = f.pick(places)
    later = [n for node in model.graph.node[at + 1 :] for n in node.output if n]
    stored = [t.name for t in model.graph.initializer]
    wanted = later if later and (f.chance(0.6) or not stored) else stored
    beside = set().union(*map(names_in, bodies_of(model.graph.node[at])))
    free = [n for n in wanted if n not in beside]
    own = [n for n in stored_in(graph) if n]
    if not free or not own:
        return
    rename(graph, f.pick(own), f.pick(free))
    try:
        onnx.checker.check_model(model, full_check=True)
        f.features["shadowed name"] += 1
    except Exception:  # of onnx's checker
        model.CopyFrom(before)
