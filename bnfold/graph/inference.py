"""Types and shapes as onnx infers them; those of a graph with many bodies in pieces.

For each body onnx copies what it knows of every tensor of the graphs around: thousands of Ifs would take minutes. A
piece knows only what its nodes read. What onnx computes of the values of shapes does not cross from one to the next.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

import onnx
from onnx import GraphProto, ModelProto, NodeProto, TensorProto, helper

from ..model.messages import bodies, inner_graphs
from .products import MADE_UP
from .scopes import every_name

BODIES_PER_PIECE = 200  # nodes with bodies in one piece
TAKEN = "the names that inference gave to lengths so far"  # an input that has them


def inferred(model: ModelProto) -> bytes:
    """The model with shapes, serialized."""
    pieces = list(in_pieces(model.graph.node))
    if len(pieces) < 2:
        return bytes(infer_shapes(model).SerializeToString())
    parts = Pieces(model)
    return bytes(parts.joined([parts.inferred(nodes) for nodes in pieces]).SerializeToString())


def infer_shapes(model: ModelProto) -> ModelProto:
    return onnx.shape_inference.infer_shapes(model, data_prop=True)


def in_pieces(nodes: Iterable[NodeProto]) -> Iterator[list[NodeProto]]:
    """The nodes in order, as many at a time as have BODIES_PER_PIECE nodes with bodies among them."""
    piece: list[NodeProto] = []
    left = BODIES_PER_PIECE
    for node in nodes:
        piece.append(node)
        left -= any(True for _ in bodies(node))
        if not left:
            yield piece
            piece, left = [], BODIES_PER_PIECE
    if piece:
        yield piece


class Pieces:
    """A model in pieces, each of which may read what those before it make; `known` is what is known of tensors."""

    def __init__(self, model: ModelProto) -> None:
        self.model, graph = model, model.graph
        self.known = {value.name: value for value in (*graph.value_info, *graph.output, *graph.input)}
        self.stored = {tensor.name: tensor for tensor in graph.initializer}
        self.returned = {value.name for value in graph.output}
        self.symbols: dict[str, None] = {}  # names that inference gave to lengths: it must not give them again

    def inferred(self, nodes: Sequence[NodeProto]) -> Sequence[NodeProto]:
        """Some nodes, with shapes in their bodies; what they make becomes known."""
        inferred = infer_shapes(self.piece(nodes)).graph
        self.known |= {value.name: value for value in (*inferred.value_info, *inferred.output)}
        self.symbols |= dict.fromkeys(made_up(inferred))
        return list(inferred.node)

    def piece(self, nodes: Sequence[NodeProto]) -> ModelProto:
        """A model of some nodes, whose inputs and initializers are what these and their bodies read."""
        made = dict.fromkeys(name for node in nodes for name in node.output if name)
        named = dict.fromkeys(every_name(nodes))
        model = self.model
        piece = ModelProto(ir_version=model.ir_version, opset_import=model.opset_import, functions=model.functions)
        graph = piece.graph
        graph.node.extend(nodes)
        graph.initializer.extend(self.stored[name] for name in named if name in self.stored)
        graph.input.append(helper.make_tensor_value_info(TAKEN, TensorProto.FLOAT, list(self.symbols)))
        graph.input.extend(self.known[name] for name in named if name in self.known and name not in made)
        for name in filter(self.known.__contains__, made):
            (graph.output if name in self.returned else graph.value_info).append(self.known[name])
        return piece

    def joined(self, parts: Iterable[Sequence[NodeProto]]) -> ModelProto:
        whole = ModelProto()
        whole.CopyFrom(self.model)
        del whole.graph.node[:], whole.graph.value_info[:], whole.graph.output[:]
        for nodes in parts:
            whole.graph.node.extend(nodes)
        ends = {value.name for value in (*self.model.graph.input, *self.model.graph.output)}
        whole.graph.value_info.extend(value for name, value in self.known.items() if name not in ends)
        whole.graph.output.extend(self.known[value.name] for value in self.model.graph.output)
        return whole


def made_up(graph: GraphProto) -> Iterator[str]:
    """The names that inference has given to lengths."""
    for each in (graph, *inner_graphs(graph.node)):
        for value in (*each.value_info, *each.output):
            names = (dim.dim_param for dim in value.type.tensor_type.shape.dim)
            yield from (name for name in names if name.startswith(MADE_UP))
