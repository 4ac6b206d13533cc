"""Lengths that only a run knows: what may be believed of their names, and what follows from what nodes compute.

A name counts for one axis of one input of the graph. That two axes have the same length is never believed because a
file gives them the same name, be it at inputs or further on, but only where it follows from what nodes compute.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import replace
from itertools import chain, zip_longest

import onnx_graphsurgeon as gs
from onnx import ModelProto, TensorShapeProto, ValueInfoProto

from ..model.messages import inner_graphs
from ..system.limits import current, within
from .implied_ranks import imply_ranks, shape_of
from .length_rules import lengths_of
from .lengths import MOST_NUMBERS, Lengths
from .numbers import numbers_of
from .shadows import FreshNames
from .shapes import nodes_at_any_depth


def drop_stated_names(bare: ModelProto) -> None:
    """Take away the names that a file gives to lengths; those of inputs stay, each as a name of its own."""
    names = FreshNames(())
    for length in named_lengths(bare.graph.input):
        length.dim_param = names.name(length.dim_param)
    bodies = [body for part in (bare.graph, *bare.functions) for body in inner_graphs(part.node)]
    stated = [bare.graph.value_info, bare.graph.output, *(function.value_info for function in bare.functions)]
    for length in named_lengths(chain(*stated, *(each for b in bodies for each in (b.value_info, b.output, b.input)))):
        length.ClearField("dim_param")


def named_lengths(values: Iterable[ValueInfoProto]) -> Iterator[TensorShapeProto.Dimension]:
    """The lengths that have names."""
    for value in values:
        yield from (length for length in value.type.tensor_type.shape.dim if length.dim_param)


def complete(view: gs.Graph) -> None:
    """Give the tensors of a view what follows of their ranks and lengths: then these are numbers and Products."""
    nodes = list(chain(*map(nodes_at_any_depth, (view, *view.functions))))
    tensors = list(chain(*((*node.inputs, *node.outputs) for node in nodes)))
    if all(map(is_static, tensors)):
        return
    for tensor in tensors:
        tensor.__dict__.pop("evaluable", None)  # whose shape becomes known may be a constant now
    imply_ranks(nodes)
    lengths = Lengths(tensors)
    with within(replace(current(), elements=MOST_NUMBERS)):
        for node in nodes:
            note_outputs(node, lengths)


def note_outputs(node: gs.Node, lengths: Lengths) -> None:
    """Note the shapes of what a node makes, and the numbers that it computes of lengths."""
    if not all(map(is_static, node.outputs)):
        shapes = lengths_of(node, lengths)
        names = lengths.symbols(node.inputs) if shapes is None else ()
        for tensor, shape in zip_longest(node.outputs, shapes or ()):
            lengths.note_shape(tensor, shape, names)
    if len(node.outputs) == 1:
        lengths.note(node.outputs[0], numbers_of(node, lengths))


def is_static(tensor: gs.Tensor) -> bool:
    """Whether every axis has a length, or there is no tensor."""
    shape = shape_of(tensor)
    return tensor.is_empty() or (shape is not None and all(isinstance(n, int) for n in shape))
