"""A fold site and what lies between it and the tensors that enter it, cut out of a graph."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np
import onnx
from onnx import helper, numpy_helper

from ..model.messages import bodies
from ..runtime import detached
from ..runtime.protos import FLOATS, called, produced, stored
from .impulses import NotDerived
from .regions import MIXING

LINEAR = MIXING | frozenset(  # in the one input that depends on data
    ["BatchNormalization", "Mul", "Add", "Sub", "Div", "Neg", "Sum", "Mean", "Identity", "Dropout", "Cast", "Pad"]
    + ["Transpose", "Reshape", "Flatten", "Squeeze", "Unsqueeze", "Concat", "Split", "Slice", "Gather", "Expand"]
    + ["Tile", "DepthToSpace", "SpaceToDepth", "AveragePool", "GlobalAveragePool", "ReduceMean", "ReduceSum"]
)
SUMS = frozenset(["Add", "Sub", "Sum", "Mean", "Concat"])  # linear in all their inputs together
LARGEST = 64  # nodes of a piece


@dataclass(frozen=True)
class Piece:
    """What lies between the tensors that enter a site and the site, in one of the models."""

    nodes: list[onnx.NodeProto]
    entering: list[str]
    constants: list[onnx.TensorProto]

    def data(self) -> dict[str, onnx.NodeProto | None]:
        """Tensors that depend on what enters, and what makes them."""
        found: dict[str, onnx.NodeProto | None] = dict.fromkeys(self.entering)
        for node in self.nodes:
            if any(name in found for name in node.input):
                found.update(dict.fromkeys(node.output, node))
        return found

    def model(self, like: onnx.ModelProto, kinds: Mapping[str, int], output: str) -> onnx.ModelProto:
        graph = onnx.GraphProto(name="piece", node=self.nodes, initializer=self.constants)
        graph.input.extend(helper.make_tensor_value_info(n, kinds[n], None) for n in self.entering)
        graph.output.append(onnx.ValueInfoProto(name=output))
        return onnx.ModelProto(ir_version=like.ir_version, graph=graph, opset_import=like.opset_import)


def of_sizes(model: onnx.ModelProto) -> onnx.ModelProto:
    """A copy of a piece's model with sizes in place of numbers: it adds up what, with signs, the piece would add up.

    What it answers to zeros is how large the numbers are that the piece's answer is the sum of, cancelled or not. Large
    weights, of which zeros make zeros, are left as they are.
    """
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    weights = {name for node in copy.graph.node if node.op_type in MIXING for name in node.input[1:2]}
    for name, tensor in stored(copy.graph).items():
        if tensor.data_type in (*FLOATS, onnx.TensorProto.DOUBLE) and not (detached.stays(tensor) and name in weights):
            tensor.CopyFrom(numpy_helper.from_array(np.abs(detached.values(tensor)), tensor.name))
    nodes = [each for i, node in enumerate(copy.graph.node) for each in _of_sizes(node, f"size/{i}")]
    del copy.graph.node[:]
    copy.graph.node.extend(nodes)
    return copy


def _of_sizes(node: onnx.NodeProto, name: str) -> Iterator[onnx.NodeProto]:
    """A node that subtracts nothing: a BatchNormalization takes a mean below zero off."""
    copy = onnx.NodeProto()
    copy.CopyFrom(node)
    copy.op_type = {"Sub": "Add", "Neg": "Identity"}.get(called(node), node.op_type)
    if called(node) == "BatchNormalization":
        yield helper.make_node("Neg", [node.input[3]], [name])
        copy.input[3] = name
    yield copy


def summing(piece: Piece, name: str) -> list[onnx.NodeProto]:
    """The nodes that sum over what enters as `name`. Refuses two in a row, whose weights cannot be seen apart."""
    reached, summed, found = {name}, set[str](), []
    for node in piece.nodes:
        if reached.isdisjoint(node.input):
            continue
        reached.update(node.output)
        if node.op_type in MIXING:
            found.append(node)
            if not summed.isdisjoint(node.input):
                raise NotDerived(f"{node.op_type} {node.name!r} sums what another one summed")
        if node.op_type in MIXING or not summed.isdisjoint(node.input):
            summed.update(node.output)
    return found


def other_operand(node: onnx.NodeProto, name: str) -> str:
    return str(node.input[1 - list(node.input).index(name)])


def piece(graph: onnx.GraphProto, cuts: frozenset[str], site: str) -> Piece:
    """Cut out what computes `site` from `cuts`."""
    makers, held = produced(graph), stored(graph)
    inputs = {value.name for value in graph.input} - held.keys()
    needed, entering, agenda = {site}, set(), [*makers[site].input]
    while agenda:
        name = agenda.pop()
        if name in cuts or name in inputs:
            entering.add(name)
        elif name in makers and name not in needed:
            needed.add(name)
            agenda += makers[name].input
    nodes = [node for node in graph.node if not needed.isdisjoint(node.output)]
    if len(nodes) > LARGEST or any(any(bodies(node)) for node in nodes):
        raise NotDerived("it is too far from tensors that both models share")
    read = {name for node in nodes for name in node.input}
    return Piece(nodes, sorted(entering), [tensor for tensor in graph.initializer if tensor.name in read])


def require_linear(piece: Piece) -> None:
    """Refuse a piece with an operator that is not linear in the data that enters."""
    data = piece.data()
    for node in piece.nodes:
        ports = [i for i, name in enumerate(node.input) if name in data]
        if not ports:
            continue
        if called(node) not in LINEAR or (node.op_type == "Div" and ports != [0]):
            raise NotDerived(f"{node.op_type} {node.name!r} is not linear")
        if len(ports) > 1 and node.op_type not in SUMS:
            raise NotDerived(f"{node.op_type} {node.name!r} multiplies tensors that both depend on data")
