"""Who reads a tensor, so kept that a node leaves in no time, however many others read the same tensor.

onnx-graphsurgeon looks for the node among all of them and compares each, attributes and all; a network of thousands of
nodes that share a constant would take hours.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import count, islice

import onnx_graphsurgeon as gs
from onnx_graphsurgeon.util.misc import SynchronizedList


class Readers:
    """The nodes that read a tensor, in the order in which they came; one that reads it twice is there twice."""

    def __init__(self, nodes: Iterable[gs.Node]) -> None:
        self._numbers = count()
        self._nodes: dict[int, gs.Node] = {}
        self._places: dict[int, list[int]] = {}
        for node in nodes:
            self.append(node)

    def append(self, node: gs.Node) -> None:
        number = next(self._numbers)
        self._nodes[number] = node
        self._places.setdefault(id(node), []).append(number)

    def remove(self, node: gs.Node) -> None:
        numbers = self._places[id(node)]
        del self._nodes[numbers.pop(0)]
        if not numbers:
            del self._places[id(node)]

    def __len__(self) -> int:
        return len(self._nodes)

    def __iter__(self) -> Iterator[gs.Node]:
        return iter(self._nodes.values())

    def __getitem__(self, place: int) -> gs.Node:
        return next(islice(self, place, None))


class Inputs(SynchronizedList):  # type: ignore[misc]
    """The inputs of a node, which are told when it reads them and when it no longer does."""

    def _add_to_elem(self, tensor: gs.Tensor) -> None:
        _readers(tensor).append(self.parent_obj)

    def _remove_from_elem(self, tensor: gs.Tensor) -> None:
        _readers(tensor).remove(self.parent_obj)


def _readers(tensor: gs.Tensor) -> Readers:
    if not isinstance(tensor.outputs, Readers):
        vars(tensor)["outputs"] = Readers(tensor.outputs)
    found: Readers = tensor.outputs
    return found


def link(node: gs.Node) -> None:
    """Keep the links between a node and its inputs in this way from now on."""
    inputs = Inputs(node, "outputs", [])
    list.extend(inputs, node.inputs)  # which count the node among their readers already
    vars(node)["inputs"] = inputs
