"""A fold site and what lies between it and the tensors that enter it, cut out of a graph."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence, Set
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import onnx
from onnx import helper, numpy_helper

from ...runtime import detached
from ...runtime.protos import FLOATING, called, stored
from ..float64.floating import roundoff
from ..regions import MIXING
from .impulses import NotDerived

LINEAR_IN_DATA = MIXING | frozenset(  # in the one input that depends on data
    ["BatchNormalization", "Mul", "Add", "Sub", "Div", "Neg", "Sum", "Mean", "Identity", "Dropout", "Cast", "Pad"]
    + ["Transpose", "Reshape", "Flatten", "Squeeze", "Unsqueeze", "Concat", "Split", "Slice", "Gather", "Expand"]
    + ["Tile", "DepthToSpace", "SpaceToDepth", "AveragePool", "GlobalAveragePool", "ReduceMean", "ReduceSum"]
)
POINTWISE = frozenset(["BatchNormalization", "Mul", "Add", "Sub", "Div", "Neg", "Identity", "Cast", "Dropout"])
SUMS = frozenset(["Add", "Sub", "Sum", "Mean", "Concat"])  # linear in all their inputs together
EITHER = SUMS | MIXING | {"Mul"}  # linear in any of their inputs
SIZES = frozenset(["Shape", "Size"])  # which look at no values
OF_RELATION = {  # names of nodes that shift what enters: the size of the shift is added with it, and taken off again
    "Add": "the shift and the size of a relation",
    "Sub": "the size of a relation",
}
LEFT_AS_IT_IS = 1 << 28  # bytes of a weight


@dataclass(frozen=True)
class Piece:
    """What lies between the tensors that enter a site and the site, in one of the models."""

    nodes: list[onnx.NodeProto]
    entering: list[str]
    constants: list[onnx.TensorProto]
    changed: Set[str] = frozenset()  # constants that are not those of the original
    ratio: float = 0.0  # of what enters, how far it is from what it should be, in unit roundoffs
    roundings: float = 0.0  # and how many rounded constants in a row made it, where it is not the original's

    @cached_property
    def by_name(self) -> dict[str, onnx.TensorProto]:
        """Its constants."""
        return {tensor.name: tensor for tensor in self.constants}

    @cached_property
    def stored(self) -> dict[str, onnx.TensorProto]:
        """Its constants and, by the names of their outputs, those of Constant nodes."""
        return self.by_name | stored(onnx.GraphProto(node=self.nodes))

    def data(self) -> dict[str, onnx.NodeProto | None]:
        """Tensors that depend on what enters, and what makes them."""
        makers: dict[str, onnx.NodeProto | None] = dict.fromkeys(self.entering)
        for node in self.nodes:
            if called(node) not in SIZES and any(name in makers for name in node.input):
                makers.update(dict.fromkeys(node.output, node))
        return makers

    def data_nodes(self) -> list[onnx.NodeProto]:
        """The nodes that data passes."""
        data = self.data()
        return [node for node in self.nodes if not data.keys().isdisjoint(node.output)]

    def rounded(self, names: Sequence[str] | None = None) -> Any:
        """The coarsest type of the changed constants that some tensors, or all, are made of; None without any."""
        wanted = {name for node in self.nodes for name in node.input} if names is None else {*names}
        for node in reversed(self.nodes):
            if not wanted.isdisjoint(node.output):
                wanted.update(node.input)
        kinds = [t.data_type for t in self.constants if t.name in wanted & self.changed and t.data_type in FLOATING]
        return max((np.dtype(helper.tensor_dtype_to_np_dtype(kind)) for kind in kinds), key=roundoff, default=None)

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
    Weights of more than LEFT_AS_IT_IS bytes, of which zeros make zeros, are left as they are.
    """
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    weights = {name for node in copy.graph.node if node.op_type in MIXING for name in node.input[1:2]}
    for name, tensor in stored(copy.graph).items():
        if tensor.data_type in FLOATING and not (
            detached.bytes_in_memory(tensor) > LEFT_AS_IT_IS and detached.stays(tensor) and name in weights
        ):
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
    reached, summed, nodes = {name}, set[str](), []
    for node in piece.nodes:
        if reached.isdisjoint(node.input):
            continue
        reached.update(node.output)
        if node.op_type in MIXING:
            nodes.append(node)
            if not summed.isdisjoint(node.input):
                raise NotDerived(f"{node.op_type} {node.name!r} sums what another one summed")
        if node.op_type in MIXING or not summed.isdisjoint(node.input):
            summed.update(node.output)
    return nodes


def scaled_or_shifted(piece: Piece, name: str) -> set[str]:
    """What enters as `name`, and what nodes make of it alone that scale or shift each element by one number."""
    made, numbers = {name}, {t.name for t in piece.constants if max(t.dims, default=1) == 1 or is_along_channels(t)}
    for node in piece.nodes:
        data = [each for each in node.input if each not in numbers]
        if called(node) in POINTWISE and len(data) == 1 and data[0] in made:
            made.add(node.output[0])
    return made


def is_along_channels(tensor: onnx.TensorProto) -> bool:
    """Whether a constant varies along one axis at most: it then stays so where an image is made small."""
    return bool(sum(size > 1 for size in tensor.dims) <= 1)


def other_operand(node: onnx.NodeProto, name: str) -> str:
    return str(node.input[1 - list(node.input).index(name)])


def is_cast_to_float(node: onnx.NodeProto) -> bool:
    """Of a Cast whether it rounds but little; of other operators true."""
    return called(node) != "Cast" or next(a.i for a in node.attribute if a.name == "to") in FLOATING


def require_linear(piece: Piece) -> None:
    """Refuse a piece with an operator that is not linear in the data that enters."""
    data = piece.data()
    for node in piece.nodes:
        ports = [i for i, name in enumerate(node.input) if name in data]
        if not ports or called(node) in SIZES:
            continue
        trains = called(node) == "Dropout" and any(node.input[2:])
        if (
            called(node) not in LINEAR_IN_DATA
            or trains
            or (ports[0] > 0 and called(node) not in EITHER)
            or not is_cast_to_float(node)
        ):
            raise NotDerived(f"{node.op_type} {node.name!r} is not linear")
        if len(ports) > 1 and node.op_type not in SUMS:
            raise NotDerived(f"{node.op_type} {node.name!r} multiplies tensors that both depend on data")
