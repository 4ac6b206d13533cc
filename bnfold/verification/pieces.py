"""A fold site and what lies between it and the tensors that enter it, cut out of a graph."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import onnx
from onnx import helper, numpy_helper

from ..model.messages import bodies
from ..runtime.protos import FLOATS, called, stored
from .impulses import NotDerived
from .regions import MIXING
from .sides import Side

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

    def needed(self, nodes: Sequence[onnx.NodeProto]) -> list[onnx.NodeProto]:
        """Some of the nodes, with those that make the constants they read."""
        data, wanted, kept = self.data(), {name for node in nodes for name in node.input}, []
        for node in reversed(self.nodes):
            makes_constant = not wanted.isdisjoint(node.output) and data.keys().isdisjoint(node.output)
            if makes_constant or any(node is each for each in nodes):
                kept.append(node)
                wanted.update(node.input)
        return kept[::-1]

    def model(self, like: onnx.ModelProto, kinds: Mapping[str, int], output: str) -> onnx.ModelProto:
        graph = onnx.GraphProto(name="piece", node=self.nodes, initializer=self.constants)
        graph.input.extend(helper.make_tensor_value_info(n, kinds[n], None) for n in self.entering)
        graph.output.append(onnx.ValueInfoProto(name=output))
        return onnx.ModelProto(ir_version=like.ir_version, graph=graph, opset_import=like.opset_import)


def of_sizes(model: onnx.ModelProto) -> onnx.ModelProto:
    """A copy of a piece's model with sizes in place of numbers: it adds up what, with signs, the piece would add up.

    What it answers to zeros is how large the numbers are that the piece's answer is the sum of, cancelled or not.
    """
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    for tensor in stored(copy.graph).values():
        if tensor.data_type in (*FLOATS, onnx.TensorProto.DOUBLE):
            tensor.CopyFrom(numpy_helper.from_array(np.abs(numpy_helper.to_array(tensor)), tensor.name))
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


class Question(NamedTuple):
    """Whether a tensor called `site` is the same in a piece of the original and one of the folded model.

    It has the shape and type of the tensor that the original calls `like`.
    """

    pieces: Sequence[Piece]
    site: str
    like: str


def whole(sides: Sequence[Side], cuts: Sequence[Mapping[str, str]], site: str) -> Question:
    """The question that a site is, cut out of both models where the same tensors enter."""
    while True:
        pieces = [piece(side, known, site) for side, known in zip(sides, cuts, strict=True)]
        if not (apart := {*pieces[0].entering} ^ {*pieces[1].entering}):
            return Question(pieces, site, site)
        last = max(apart, key=lambda name: sides[0].places.get(name, -1))
        cuts = [{name: known for name, known in each.items() if known != last} for each in cuts]


def piece(side: Side, cuts: Mapping[str, str], site: str) -> Piece:
    """Cut out what computes `site` from tensors that are `cuts`, by the names that these have in both models."""
    needed, entering, agenda = {site}, dict[str, str](), [*side.makers[site].input]
    while agenda:
        name = agenda.pop()
        if name in cuts:
            entering[name] = cuts[name]
        elif name in side.inputs:
            raise NotDerived(f"{name!r} is an input of one of the models only")
        elif name in side.makers and name not in needed:
            needed.add(name)
            agenda += side.makers[name].input
        if len(needed) > LARGEST:
            raise NotDerived(TOO_FAR)
    nodes = [side.model.graph.node[place] for place in sorted({side.places[name] for name in needed})]
    if any(any(bodies(node)) for node in nodes):
        raise NotDerived(TOO_FAR)
    read = dict.fromkeys(name for node in nodes for name in node.input)
    constants = [side.initializers[name] for name in read if name in side.initializers]
    return Piece(_renamed(nodes, constants, entering), sorted({*entering.values()}), constants)


def _renamed(
    nodes: list[onnx.NodeProto], constants: list[onnx.TensorProto], entering: Mapping[str, str]
) -> list[onnx.NodeProto]:
    """The nodes, or copies that read what enters by its name in both models."""
    if all(name == known for name, known in entering.items()):
        return nodes
    own = {*(name for node in nodes for name in node.output), *(tensor.name for tensor in constants)}
    if not own.isdisjoint(entering.values()):
        raise NotDerived("the two models call different tensors alike")
    copies = []
    for node in nodes:
        copies.append(copy := onnx.NodeProto())
        copy.CopyFrom(node)
        copy.input[:] = [entering.get(name, name) for name in node.input]
    return copies


TOO_FAR = "it is too far from tensors that both models share"


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
