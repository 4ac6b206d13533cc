"""The record, which is the ModelProto, and the view, which is the onnx-graphsurgeon graph over it.

Plans read the view; every edit goes to both. What nobody edits stays the very message that was read:
`onnx_graphsurgeon.export_onnx` is never called, for it would lose documentation, metadata and all it does not model.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx_graphsurgeon as gs

from .constants import value_of
from .graph import dtype
from .plan import Edit, InsertAdd, Replace, Retype, SetAttributes, SetConstant, Visible
from .tensors import Held, replace_values, rounded
from .view import import_view, nested_graphs


class Workbench:
    """One model under the hammer. `record` is edited in place: hand over a copy to keep the original.

    `folder` is where external data lies. Raises ModelProblem if the graph cannot be read.
    """

    def __init__(self, record: onnx.ModelProto, folder: Path | None = None, freeze: bool = False) -> None:
        self.record, self.folder = record, folder
        self.notes: list[str] = []
        self.flushed = 0  # numbers that became zero; counted when the model is closed
        self.overridable = self._overridable(freeze)
        self.view = import_view(record, self.overridable)
        self.nodes: list[gs.Node] = list(self.view.nodes)
        self._message = {id(n): p for n, p in zip(self.nodes, record.graph.node, strict=True)}
        self._stored = stored_messages(record)
        self._edited: dict[str, Held] = {}
        self._gone: set[str] = set()
        hold(self.nodes, self._stored, folder)
        self._removed: set[int] = set()
        self._lost: list[gs.Tensor] = []
        self._taken = self._names()
        self.visible = self._visibility()

    def _overridable(self, freeze: bool) -> set[str]:
        """Initializers that a caller may replace, because they are also inputs of the graph.

        Up to IR version 3 the format forces every initializer into the inputs, and exporters kept the habit after it;
        so where all of them are listed, it says nothing about the caller.
        """
        stored = {t.name for t in self.record.graph.initializer}
        listed = stored & {i.name for i in self.record.graph.input}
        if not listed:
            return set()
        if freeze or self.record.ir_version < 4 or listed == stored:
            why = "as asked" if freeze else "the file lists every initializer as an input"
            self.notes.append(f"{len(listed)} initializers that are also inputs count as constants ({why})")
            return set()
        return listed

    def _names(self) -> set[str]:
        graphs = [self.record.graph, *(g for n in self.record.graph.node for g in nested_graphs(n))]
        names = {t.name for g in graphs for t in [*g.initializer, *g.input, *g.output, *g.value_info]}
        return names | {x for g in graphs for n in g.node for x in [*n.input, *n.output]}

    def _visibility(self) -> Visible:
        inner = [g for n in self.record.graph.node for g in nested_graphs(n)]
        captured = {x for g in inner for n in g.node for x in [*n.input, *n.output]}
        captured |= {t.name for g in inner for t in [*g.output, *g.initializer]}
        return Visible(frozenset(o.name for o in self.record.graph.output), frozenset(captured))

    def alive(self) -> list[gs.Node]:
        """The nodes still in the graph, in topological order."""
        return [n for n in self.nodes if self.is_alive(n)]

    def is_alive(self, node: gs.Node) -> bool:
        return id(node) not in self._removed

    def apply(self, edit: Edit) -> None:
        """Carry out one edit of a plan, on the view and on the record."""
        message = self._message[id(edit.node)]
        if isinstance(edit, Retype):
            edit.node.op = message.op_type = edit.operator
        elif isinstance(edit, SetAttributes):
            edit.node.attrs.update(edit.values)
            set_attributes(message, edit.values)
        elif isinstance(edit, InsertAdd):
            self._insert_add(edit)
        else:
            held = self._put(edit)
            message.input.extend([""] * (edit.index + 1 - len(message.input)))
            message.input[edit.index] = held.name

    def _put(self, edit: SetConstant | Replace) -> Held:
        """Give a constant an affine or new values: in place if the node alone reads it, else as a new initializer."""
        node, index = edit.node, edit.index
        while len(node.inputs) <= index:
            node.inputs.append(gs.Variable.empty())
        old = node.inputs[index]
        private = self._is_private(old)
        name = old.name if private else self._fresh(old.name or self._stem(node))
        base = self._held(old, node)
        held = base.fork(name, edit.share) if isinstance(edit, SetConstant) else Held(name, base.kind, edit.value)
        if not private:
            self._announce(held)
            self._lost.append(old)
        node.inputs[index] = self._edited[name] = held
        return held

    def _insert_add(self, edit: InsertAdd) -> None:
        """The node's first output gets a new name; the sum takes over the old one."""
        maker, result = edit.node, edit.node.outputs[0]
        inner = gs.Variable(self._fresh(result.name), result.dtype, result.shape)
        held = Held(self._fresh(self._stem(maker)), dtype(maker.inputs[1]), edit.shift)
        self._announce(held)
        self._edited[held.name] = held
        result.inputs.clear()
        maker.outputs.insert(0, inner)
        made = gs.Node("Add", self._fresh(f"{maker.name}.add") if maker.name else "", None, [inner, held], [result])
        made.opset = maker.opset
        place = next(i for i, n in enumerate(self.nodes) if n is maker) + 1
        self._message[id(maker)].output[0] = inner.name
        proto = onnx.helper.make_node("Add", [inner.name, held.name], [result.name], name=made.name)
        self.record.graph.node.insert(place, proto)
        self.nodes.insert(place, made)
        self._message[id(made)] = self.record.graph.node[place]

    def _held(self, tensor: gs.Tensor, node: gs.Node) -> Held:
        """A constant of any origin in the form that takes affines."""
        if isinstance(tensor, Held):
            return tensor
        if tensor.is_empty():
            return Held("", dtype(node.inputs[1]), np.zeros(1))
        if tensor.name in self._stored:
            return Held(tensor.name, dtype(tensor), self._stored[tensor.name], self.folder)
        return Held(tensor.name, dtype(tensor), value_of(tensor))

    def _is_private(self, tensor: gs.Tensor) -> bool:
        """Whether one single input reads a constant that the file stores, and nothing else can see it."""
        return tensor.name in self._stored and len(tensor.outputs) == 1 and tensor.name not in self.visible

    def _announce(self, held: Held) -> None:
        """A new initializer; up to IR version 3 it must be an input, too."""
        kind = onnx.helper.np_dtype_to_tensor_dtype(held.kind)
        self.record.graph.initializer.append(onnx.TensorProto(name=held.name, data_type=kind))
        self._stored[held.name] = self.record.graph.initializer[-1]
        if self.record.ir_version < 4:
            self.record.graph.input.append(onnx.helper.make_tensor_value_info(held.name, kind, held.shape))

    def _stem(self, node: gs.Node) -> str:
        """A name for the bias of a node that had none, after its weight."""
        weight = str(node.inputs[1].name)
        return f"{weight.removesuffix('.weight').removesuffix('.kernel')}.bias"

    def _fresh(self, stem: str) -> str:
        name, n = stem, 0
        while name in self._taken:
            n += 1
            name = f"{stem}_{n}"
        self._taken.add(name)
        return name

    def cut_out(self, first: gs.Node, last: gs.Node) -> None:
        """Take out two nodes that undo each other, one right behind the other."""
        source, result = first.inputs[0], last.outputs[0]
        if result.name in self.visible:
            self._hand_over(source, result)
        else:
            self._redirect(result, source)
        self._remove(last)
        self._lost += [result, source]
        self._gone |= set(self._sweep())

    def bypass(self, node: gs.Node, source: gs.Tensor, keep_name: bool) -> None:
        """Take out a node with one computed input.

        After a hoist (`keep_name`) the producer of that input takes over the name of the output, so that every consumer
        stays as it is; after a sink the consumers read the input.
        """
        result = node.outputs[0]
        if keep_name:
            self._hand_over(source, result)
        else:
            self._redirect(result, source)
        self._remove(node)
        self._lost.append(source if keep_name else result)
        self._gone |= set(self._sweep())

    def _hand_over(self, source: gs.Tensor, result: gs.Tensor) -> None:
        producer = source.inputs[0]
        index = next(i for i, x in enumerate(producer.outputs) if x is source)
        result.inputs.clear()
        producer.outputs[index] = result
        self._message[id(producer)].output[index] = result.name

    def _redirect(self, result: gs.Tensor, source: gs.Tensor) -> None:
        for consumer in list(result.outputs):
            for index, x in enumerate(consumer.inputs):
                if x is result:
                    consumer.inputs[index] = source
                    self._message[id(consumer)].input[index] = source.name

    def _remove(self, node: gs.Node) -> None:
        self._removed.add(id(node))
        self._lost += node.inputs
        node.inputs.clear()
        node.outputs.clear()

    def close(self) -> onnx.ModelProto:
        """The record with only the edits: what was in use before and is used by nothing now goes too.

        An edited initializer is no longer offered as an input (where the format has a choice): what callers stored
        under its name would now give other results.
        """
        gone = self._gone
        self._write_values(gone)
        unlisted = gone & self._stored.keys() | (self._edited.keys() if self.record.ir_version >= 4 else set())
        graph = self.record.graph
        drop(
            graph.node, (i for i, n in enumerate(self.nodes) if id(n) in self._removed or is_dead(graph.node[i], gone))
        )
        drop(graph.initializer, (i for i, t in enumerate(graph.initializer) if t.name in gone))
        drop(graph.value_info, (i for i, t in enumerate(graph.value_info) if t.name in gone))
        drop(graph.input, (i for i, t in enumerate(graph.input) if t.name in unlisted))
        drop(graph.sparse_initializer, (i for i, t in enumerate(graph.sparse_initializer) if t.values.name in gone))
        drop(
            graph.quantization_annotation,
            (i for i, q in enumerate(graph.quantization_annotation) if q.tensor_name in gone),
        )
        return self.record

    def _write_values(self, gone: set[str]) -> None:
        """Round every edited constant once; copies first, while what they were copied from is as it was read."""
        edited = [held for name, held in self._edited.items() if name not in gone]
        for held in sorted(edited, key=lambda held: held.base is self._stored[held.name]):
            values, flushed = rounded(held.values, held.kind)
            replace_values(self._stored[held.name], values)
            self.flushed += flushed

    def _sweep(self) -> Iterator[str]:
        """Take out what lost its last consumer, and what was computed for it alone; yields the names that are gone."""
        while self._lost:
            tensor = self._lost.pop()
            now = self._edited.get(tensor.name, tensor)
            if now.outputs or tensor.name in self.visible:
                continue
            for node in list(tensor.inputs):
                if not any(x.outputs or x.name in self.visible for x in node.outputs):
                    self._remove(node)
            if not tensor.inputs and tensor.name:
                yield tensor.name


def stored_messages(record: onnx.ModelProto) -> dict[str, onnx.TensorProto]:
    """The message that holds each stored constant: initializers, and the values of Constant nodes."""
    literals = {
        n.output[0]: a.t for n in record.graph.node if n.op_type == "Constant" for a in n.attribute if a.name == "value"
    }
    return literals | {t.name: t for t in record.graph.initializer}


def hold(nodes: list[gs.Node], stored: dict[str, onnx.TensorProto], folder: Path | None) -> None:
    """Let the constants of a view take their values from the record."""
    literals = {n.outputs[0].name: n.attrs["value"] for n in nodes if n.op == "Constant" and "value" in n.attrs}
    initializers = {x.name: x for n in nodes for x in n.inputs if isinstance(x, gs.Constant)}
    for name, tensor in (literals | initializers).items():
        if name in stored:
            Held.over(tensor, stored[name], folder)


def is_dead(node: onnx.NodeProto, gone: set[str]) -> bool:
    """Whether a Constant node holds a value that is used no more."""
    return node.op_type == "Constant" and node.output[0] in gone


def set_attributes(message: onnx.NodeProto, values: dict[str, int | list[int]]) -> None:
    """Set integer attributes, in place where a node has them; the automatic padding gives way to an explicit one."""
    drop(message.attribute, (i for i, a in enumerate(message.attribute) if a.name == "auto_pad" and "pads" in values))
    for name, value in values.items():
        made = onnx.helper.make_attribute(name, value)
        present = next((a for a in message.attribute if a.name == name), None)
        if present is None:
            message.attribute.append(made)
        elif isinstance(value, int):
            present.i = value
        else:
            present.ints[:] = value


def drop(messages: Any, indices: Iterator[int]) -> None:
    """Delete some messages of a repeated field, leaving the others untouched."""
    for index in reversed(list(indices)):
        del messages[index]
