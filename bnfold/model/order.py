"""The order of nodes: ONNX wants each after what it reads; onnxruntime runs files that are not sorted as well."""

from __future__ import annotations

from collections.abc import Sequence
from graphlib import CycleError, TopologicalSorter

from onnx import ModelProto, NodeProto

from ..errors import ModelProblem
from .messages import arrange, inner_graphs, reads

REPAIR = "Repair the model or export it again."


def topological(nodes: Sequence[NodeProto]) -> Sequence[int]:
    """The places of the nodes of one graph in an order in which each comes after what it reads.

    Nodes that are in such an order keep it. Raises ModelProblem where a node reads what is made of its own output.
    """
    made = {name: i for i, node in enumerate(nodes) for name in node.output if name}
    before = [[made[name] for name in reads(node) if name in made] for node in nodes]
    if all(j < i for i, needed in enumerate(before) for j in needed):
        return range(len(nodes))
    try:
        return list(TopologicalSorter(dict(enumerate(before))).static_order())
    except CycleError as why:
        raise ModelProblem("a node of the model reads what is computed from its own output", REPAIR) from why


def sort_nodes(model: ModelProto) -> bool:
    """Put the nodes of every graph and function of a model in topological order; returns whether any was moved."""
    moved = False
    for part in (model.graph, *model.functions):
        for graph in (part, *inner_graphs(part.node)):
            order = topological(graph.node)
            if not isinstance(order, range):
                moved = True
                arrange(graph.node, [place for _, place in sorted((old, new) for new, old in enumerate(order))])
    return moved
