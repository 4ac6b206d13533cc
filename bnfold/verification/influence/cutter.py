"""Regions cut out of two models: all that makes one tensor, which both have, of others that both have."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import NamedTuple

import onnx

from ...runtime.copies import without_data
from ...runtime.protos import is_constant_node, overridable, produced, stored
from ..regions import reached, readers_of_each, shared
from .changed_nodes import ChangedModel
from .moves import is_moving

REGION_NODES = 32  # of a region in one of the models
WIDER = 4  # times that a region is made larger


class Region(NamedTuple):
    """What makes the tensor `output` of those that enter, in one of the models."""

    nodes: list[onnx.NodeProto]
    entering: list[str]
    output: str
    constants: list[onnx.TensorProto]


def alone(region: Region, readers: Mapping[str, list[onnx.NodeProto]]) -> set[str]:
    """The tensors of a region that matter for its output alone."""
    known = {region.output}
    for node in reversed(region.nodes):
        after = (each for name in node.output for each in readers.get(name, ()))
        if all(not known.isdisjoint(each.output) for each in after):
            known.update(node.output)
    return known


class Cutter:
    """Cuts regions out of both models, at tensors of one name that agree on all inputs."""

    def __init__(self, models: Sequence[ChangedModel], agreeing: Collection[str]) -> None:
        self.graphs = [model.proto.graph for model in models]
        self.makers = [produced(graph) for graph in self.graphs]
        self.readers = [_readers(graph) for graph in self.graphs]
        self.places = [{n: i for i, node in enumerate(g.node) for n in node.output} for g in self.graphs]
        free = overridable(models[0].proto)
        self.stored = [{n: t for n, t in stored(graph).items() if n not in free} for graph in self.graphs]
        self.changed = [
            {name for i in model.changed if not model.places[i].where for name in model.places[i].node.output}
            for model in models
        ]
        fixed = set.union(*(without_data(graph, free) for graph in self.graphs))
        inputs = set.intersection(*({value.name for value in graph.input} for graph in self.graphs))
        self.names = [name for name in shared(*self.graphs) if name in agreeing and name not in fixed]
        self.cuts = (inputs - fixed) | {*self.names}

    def regions(self, name: str) -> Iterator[list[Region]]:
        """Pairs of regions that make a tensor of the same ones, and have changed nodes; the smallest first."""
        cuts = self.cuts
        for _ in range(WIDER):
            reaches = [reached(makers, [name], cuts)[0] for makers in self.makers]
            if not any(names & changed for names, changed in zip(reaches, self.changed, strict=True)):
                return
            pair = [self._region(i, name, cuts) for i in range(2)]
            if max(len(region.nodes) for region in pair) > REGION_NODES:
                return
            if pair[0].entering == pair[1].entering:
                yield pair
            apart = {*pair[0].entering} ^ {*pair[1].entering}
            wider = [cut for cut in apart or pair[0].entering if cut in self.places[0]]
            if not wider:
                return
            cuts = cuts - {max(wider, key=self.places[0].__getitem__)}

    def put_in(self, i: int) -> Iterator[list[Region]]:
        """Regions of one model that end with a changed node that moves elements, each after what may do the same."""
        for name, node in self.makers[i].items():
            if name in self.changed[i] and is_moving(node):
                region = self._region(i, name, self.cuts)
                if len(region.entering) == 1:
                    as_it_is = onnx.helper.make_node("Identity", region.entering, [name])
                    yield [region._replace(nodes=[as_it_is], constants=[]), region]

    def _region(self, i: int, output: str, cuts: Collection[str]) -> Region:
        names, entering = reached(self.makers[i], [output], cuts)
        nodes = [self.graphs[i].node[place] for place in sorted({self.places[i][name] for name in names})]
        read = dict.fromkeys(name for node in nodes for name in node.input)
        constants = [_called(self.stored[i][name], name) for name in read if name in self.stored[i]]
        return Region([node for node in nodes if not is_constant_node(node)], sorted(entering), output, constants)


def _called(tensor: onnx.TensorProto, name: str) -> onnx.TensorProto:
    """The same with the name that nodes read: that in a Constant node has another, or none."""
    if tensor.name == name:
        return tensor
    copy = onnx.TensorProto()
    copy.CopyFrom(tensor)
    copy.name = name
    return copy


def _readers(graph: onnx.GraphProto) -> dict[str, list[onnx.NodeProto]]:
    """The nodes that read each tensor; what the graph hands out has a reader that nothing leads to."""
    return readers_of_each([*graph.node, onnx.NodeProto(input=[output.name for output in graph.output])])
