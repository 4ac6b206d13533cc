"""Who reads a tensor and where, so kept that a node leaves in no time, however many others read the same tensor.

onnx-graphsurgeon looks for the node among all of them and compares each, attributes and all; a network of thousands of
nodes that share a constant would take hours.
"""

from __future__ import annotations

from bisect import insort
from collections.abc import Iterable, Iterator
from itertools import islice

import onnx_graphsurgeon as gs
from onnx_graphsurgeon.util.misc import SynchronizedList

FEW_INPUTS = 16  # inputs among which one is found at once


class Readers:
    """The nodes that read a tensor, in the order in which they came; one that reads it twice is there twice."""

    __slots__ = ("_next", "_nodes", "_places")

    def __init__(self, nodes: Iterable[gs.Node] = ()) -> None:
        self._nodes: dict[int, gs.Node] = dict(enumerate(nodes))
        self._next = len(self._nodes)
        self._places: dict[int, list[int]] | None = None  # by id() of the node; made when one of several leaves

    def append(self, node: gs.Node) -> None:
        self._nodes[self._next] = node
        if self._places is not None:
            self._places.setdefault(id(node), []).append(self._next)
        self._next += 1

    def remove(self, node: gs.Node) -> None:
        if self._places is None:
            self._places = {}
            for number, each in self._nodes.items():
                self._places.setdefault(id(each), []).append(number)
        numbers = self._places[id(node)]
        del self._nodes[numbers.pop(0)]
        if not numbers:
            del self._places[id(node)]
        if not self._nodes:
            self._nodes, self._places = {}, None

    def __len__(self) -> int:
        return len(self._nodes)

    def __iter__(self) -> Iterator[gs.Node]:
        return iter(self._nodes.values())

    def __getitem__(self, place: int) -> gs.Node:
        return next(islice(self, place, None))


class Inputs(SynchronizedList):  # type: ignore[misc]
    """The inputs of a node, a list that keeps the readers of its tensors up to date."""

    _ports: dict[int, list[int]] | None = None  # of many inputs, by id(); made when one is looked for

    def _add_to_elem(self, tensor: gs.Tensor) -> None:
        _readers(tensor).append(self.parent_obj)
        self._ports = None

    def _remove_from_elem(self, tensor: gs.Tensor) -> None:
        _readers(tensor).remove(self.parent_obj)
        self._ports = None

    def __setitem__(self, index: int, tensor: gs.Tensor) -> None:
        ports, old = self._ports, self[index]
        super().__setitem__(index, tensor)
        if ports is not None:
            ports[id(old)].remove(index)
            insort(ports.setdefault(id(tensor), []), index)
            self._ports = ports

    def ports(self, tensor: gs.Tensor) -> list[int]:
        """At which places a tensor is among them."""
        if len(self) <= FEW_INPUTS:
            return [i for i, x in enumerate(self) if x is tensor]
        if self._ports is None:
            self._ports = {}
            for i, x in enumerate(self):
                self._ports.setdefault(id(x), []).append(i)
        return list(self._ports.get(id(tensor), ()))


def _readers(tensor: gs.Tensor) -> Readers:
    if not isinstance(tensor.outputs, Readers):
        object.__setattr__(tensor, "outputs", Readers(tensor.outputs))
    readers: Readers = tensor.outputs
    return readers


def adopt(node: gs.Node, opset: int) -> None:
    """Give a node the version of its operator set, and keep the links to its inputs in this way from now on."""
    node.opset = opset
    link(node)


def link(node: gs.Node) -> None:
    """Keep the links between a node and its inputs in this way from now on."""
    inputs = Inputs(node, "outputs", [])
    list.extend(inputs, node.inputs)  # which count the node among their readers already
    object.__setattr__(node, "inputs", inputs)
