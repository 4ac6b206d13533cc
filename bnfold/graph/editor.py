"""The record, which is the ModelProto, and the view, which is the onnx-graphsurgeon graph over it.

Plans read the view; every edit goes to both. What nobody edits stays the very message that was read:
`onnx_graphsurgeon.export_onnx` is never called, for it would lose documentation, metadata and all it does not model.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import onnx_graphsurgeon as gs
from onnx import NodeProto, helper

from ..algebra.affine import Array
from ..model.messages import become_identity, drop_named, set_attributes, set_shape
from ..model.storage import Storage
from .constants import value_of
from .edits import Edit, InsertAdd, Replace, Retype, SetAttributes, SetConstant
from .links import adopt
from .queries import dtype, is_floating, literal_of, scales_a_number
from .scopes import Scope, homes, scopes_of, visibility
from .shadows import FreshNames
from .stored import StoredConstant
from .view import import_view, overridable, skeleton


class Editor:
    """One model that is being edited. `record` is changed in place: hand over a copy to keep the original.

    `storage` knows where its data lies; if the editor may `defer`, large new constants are computed when the model is
    written. `bare` is the skeleton of the model as it was read, in bytes, which take less memory. Raises ModelProblem
    if the graph cannot be read.
    """

    def __init__(
        self,
        record: onnx.ModelProto,
        storage: Storage | None = None,
        freeze: bool = False,
        defer: bool = False,
    ) -> None:
        self.record, self.storage, self.defer = record, storage or Storage(), defer
        self.flushed = 0  # numbers that became zero; counted when the model is closed
        free, self.notes = overridable(record, freeze)
        bare = skeleton(record, free)
        view = import_view(bare)
        self.bare = bare.SerializeToString()
        self.scopes = scopes_of(view, record)
        self._home = homes(self.scopes, self.storage)
        self.visible = visibility(self.scopes)
        self._scope = {id(n): s for s in self.scopes for n in s.nodes}
        self._body = {id(s.view): s for s in self.scopes if s.parent}
        self._message: dict[int, NodeProto] = {id(n): m for s in self.scopes for n, m in s.pairs}
        self._fresh = FreshNames({name for s in self.scopes for name in s.names()} | self.visible.captured)
        self._removed: set[int] = set()
        self._lost: list[gs.Tensor] = []
        self._gone: dict[int, gs.Tensor] = {}  # kept, so that no other object gets their id()
        self._edited: dict[int, StoredConstant] = {}
        self._touched: dict[int, gs.Node] = {}

    def nodes(self) -> list[gs.Node]:
        """Every node that is or was there, graph by graph in the order of the file."""
        return [n for s in self.scopes for n in s.in_order()]

    def alive(self) -> list[gs.Node]:
        """The nodes still there, likewise."""
        return [n for n in self.nodes() if self.is_alive(n)]

    def is_alive(self, node: gs.Node) -> bool:
        return id(node) not in self._removed

    def touched(self) -> tuple[str, ...]:
        """The first output of every node that was made or edited, or reads a constant that was."""
        alive = (node for node in self._touched.values() if self.is_alive(node))
        return tuple(sorted({next(x.name for x in node.outputs if x.name) for node in alive}))

    def apply(self, edit: Edit) -> None:
        """Carry out one edit of a plan, on the view and on the record."""
        self._touched[id(edit.node)] = edit.node
        message = self._message[id(edit.node)]
        if isinstance(edit, Retype):
            edit.node.op = message.op_type = edit.operator
        elif isinstance(edit, SetAttributes):
            edit.node.attrs.update(edit.values)
            set_attributes(message, edit.values)
        elif isinstance(edit, InsertAdd):
            self._insert_add(edit)
        else:
            self._put(edit)

    def _put(self, edit: SetConstant | Replace) -> None:
        """Give a constant an affine or new values: in place if the node alone reads it, else as a new constant."""
        node, index = edit.node, edit.index
        while len(node.inputs) <= index:
            node.inputs.append(gs.Variable.empty())
        old = node.inputs[index]
        constant = self._private(old)
        if constant is None:
            constant = self._copy(old, node) if isinstance(edit, SetConstant) else self._replacement(edit)
            self._store(constant, self._scope[id(node)])
            self._lost.append(old)
        if isinstance(edit, SetConstant):
            constant.put(edit.share)
            if scales_a_number(node.outputs[0]):
                self._scope[id(node)].widen(node.outputs[0], constant.shape)
        else:
            constant.replace(constant.kind, edit.value)
        self._edited[id(constant)] = constant
        self._read(node, index, constant)

    def _private(self, tensor: gs.Tensor) -> StoredConstant | None:
        """The stored constant that a tensor is, if a single input reads it and nothing else can see it; else None."""
        if tensor.is_empty() or not self.visible.is_read_once(tensor):
            return None
        if isinstance(tensor, StoredConstant):
            return tensor if tensor.home is not None else None
        made_by = tensor.inputs[0] if tensor.inputs else None
        literal = made_by.attrs.get("value") if made_by is not None and made_by.op == "Constant" else None
        if isinstance(literal, StoredConstant):
            literal.name = tensor.name
        return literal if isinstance(literal, StoredConstant) else None

    def _copy(self, tensor: gs.Tensor, node: gs.Node) -> StoredConstant:
        """A constant of any origin under a new name; an omitted one is a zero of the type of the weight."""
        name = self._fresh.name(tensor.name or self._stem(node))
        if tensor.is_empty():
            return self._new(name, dtype(node.inputs[1]), np.zeros(1))
        if isinstance(tensor, StoredConstant):
            return tensor.copy_as(name)
        return self._new(name, dtype(tensor), value_of(tensor))

    def _replacement(self, edit: Replace) -> StoredConstant:
        """A constant in the place of an input, which need not have been one."""
        old = edit.node.inputs[edit.index]
        kind = dtype(edit.node.inputs[1] if old.is_empty() else old)
        return self._new(self._fresh.name(old.name or self._stem(edit.node)), kind, edit.value)

    def _new(self, name: str, kind: np.dtype[Any], values: Array) -> StoredConstant:
        return StoredConstant(name, kind, values, self.storage)

    def _store(self, constant: StoredConstant, scope: Scope) -> None:
        """Make room in the outermost graph, which bodies see too: an initializer, or a Constant of a function.

        Up to IR version 3 every initializer is an input as well.
        """
        kind = helper.np_dtype_to_tensor_dtype(constant.kind)
        tensor = onnx.TensorProto(name=constant.name, data_type=kind)
        self._home[id(constant)] = scope = scope.root
        if scope.is_function:
            constant.maker = gs.Node("Constant", outputs=[gs.Variable(constant.name)])
            made = helper.make_node("Constant", [], [constant.name], value=tensor)
            constant.home = self._insert(scope, None, constant.maker, made).attribute[0].t
            return
        self.record.graph.initializer.append(tensor)
        constant.home = scope.stored[constant.name] = self.record.graph.initializer[-1]
        if self.record.ir_version < 4:
            self.record.graph.input.append(helper.make_tensor_value_info(constant.name, kind, constant.shape))

    def _insert(self, scope: Scope, before: gs.Node | None, node: gs.Node, message: NodeProto) -> NodeProto:
        """Put a new node after another one of a graph."""
        adopt(node, scope.view.opset)
        self._scope[id(node)], self._message[id(node)] = scope, scope.insert(before, node, message)
        self._touched[id(node)] = node
        return self._message[id(node)]

    def _insert_add(self, edit: InsertAdd) -> None:
        """The node's first output gets a new name; the sum takes over the old one."""
        maker, result = edit.node, edit.node.outputs[0]
        scope = self._scope[id(maker)]
        constant = self._new(self._fresh.name(self._stem(maker)), edit.kind, edit.shift)
        self._store(constant, scope)
        self._edited[id(constant)] = constant
        inner = gs.Variable(self._fresh.name(result.name), result.dtype, result.shape)
        result.inputs.clear()
        maker.outputs.insert(0, inner)
        self._message[id(maker)].output[0] = inner.name
        made = gs.Node("Add", self._fresh.name(f"{maker.name}.add") if maker.name else "", outputs=[result])
        message = helper.make_node("Add", [inner.name, constant.name], [result.name], name=made.name)
        self._insert(scope, maker, made, message)
        made.inputs.extend([inner, constant])

    def _read(self, node: gs.Node, index: int, tensor: gs.Tensor) -> None:
        """Let a node read a tensor, in the view and in the record."""
        node.inputs[index] = tensor
        self._touched[id(node)] = node
        message = self._message[id(node)]
        message.input.extend([""] * (index + 1 - len(message.input)))
        message.input[index] = tensor.name

    def _stem(self, node: gs.Node) -> str:
        """A name for the bias of a node that had none, after its weight, or what it makes if it has no weight."""
        has_weight = len(node.inputs) > 1 and is_floating(node.inputs[1])
        weight = str((node.inputs[1] if has_weight else node.outputs[0]).name)
        return f"{weight.removesuffix('.weight').removesuffix('.kernel')}.bias"

    def bypass(self, node: gs.Node, source: gs.Tensor, keep_name: bool) -> gs.Tensor:
        """Take out a node, `source` being what its output now is; returns the tensor that is both of them.

        After a hoist (`keep_name`) the producer of the source takes over the name of the output, so that every consumer
        stays as it is: if it is a node of the same graph, for names are those of a graph, and nothing else reads the
        source. Otherwise the consumers read the source. Where they cannot, since a body must not return
        what it does not make, and may call something else by that name, the node becomes an Identity.
        """
        result, scope = node.outputs[0], self._scope[id(node)]
        home = scope.meaning(source.name)
        if keep_name and len(source.outputs) == 1 and self._scope[id(source.inputs[0])] is scope:
            self._hand_over(source, result)
            gone, stays = source, result
        elif result in self.visible or any(self._scope[id(n)].meaning(source.name) is not home for n in result.outputs):
            return self._become_identity(node, source)
        else:
            self._redirect(result, source)
            gone, stays = result, source
        self._remove(node)
        self._lost.append(gone)
        self._sweep()
        return stays

    def _become_identity(self, node: gs.Node, source: gs.Tensor) -> gs.Tensor:
        self._lost += node.inputs
        node.op = "Identity"
        node.attrs.clear()
        node.inputs.clear()
        node.inputs.append(source)
        become_identity(self._message[id(node)], source.name)
        self._touched[id(node)] = node
        self._sweep()
        return node.outputs[0]

    def _hand_over(self, source: gs.Tensor, result: gs.Tensor) -> None:
        producer = source.inputs[0]
        index = next(i for i, x in enumerate(producer.outputs) if x is source)
        result.inputs.clear()
        producer.outputs[index] = result
        self._touched[id(producer)] = producer
        self._message[id(producer)].output[index] = result.name

    def _redirect(self, result: gs.Tensor, source: gs.Tensor) -> None:
        for consumer in list(result.outputs):
            for index in consumer.inputs.ports(result):
                self._read(consumer, index, source)

    def _remove(self, node: gs.Node) -> None:
        """Take out a node, and those of its bodies: what they alone read goes as well."""
        self._removed.add(id(node))
        for body in node.attrs.values():
            for inner in filter(self.is_alive, self._body[id(body)].nodes if id(body) in self._body else ()):
                self._remove(inner)
        self._lost += node.inputs
        node.inputs.clear()
        node.outputs.clear()

    def _sweep(self) -> None:
        """Take out what lost its last consumer, and what was computed for it alone."""
        while self._lost:
            tensor = self._lost.pop()
            if tensor.outputs or literal_of(tensor).outputs or tensor in self.visible:
                continue
            if isinstance(tensor, StoredConstant) and tensor.maker is not None:
                self._removed.add(id(tensor.maker))
            for node in list(tensor.inputs):
                if not any(x.outputs or x in self.visible for x in node.outputs):
                    self._remove(node)
            if not tensor.inputs:
                self._forget(tensor)

    def _forget(self, tensor: gs.Tensor) -> None:
        """Note that nothing makes or reads a tensor any more."""
        self._gone[id(tensor)] = tensor
        if id(tensor) in self._home:
            self._home[id(tensor)].gone.add(tensor.name)

    def close(self) -> onnx.ModelProto:
        """The record with only the edits: what was in use before and is used by nothing now goes too.

        An edited initializer is no longer offered as an input (where the format has a choice): what callers stored
        under its name would now give other results.
        """
        self._write_values()
        main = self.scopes[0]
        unlisted = main.gone & main.stored.keys()
        if self.record.ir_version >= 4:
            unlisted |= {constant.name for key, constant in self._edited.items() if self._home.get(key) is main}
        drop_named(self.record.graph, "input", lambda value: value.name in unlisted)
        for scope in self.scopes:
            scope.clear(self.is_alive)
        return self.record

    def _write_values(self) -> None:
        """Round every edited constant once; copies first, while what they were copied from is as it was read."""
        edited = [constant for key, constant in self._edited.items() if key not in self._gone]
        stated = {(id(scope), value.name): value for scope in self.scopes for value in scope.stated()}
        for constant in sorted(edited, key=lambda constant: constant.base is constant.home):
            place = id(self._home.get(id(constant))), constant.name
            if place in stated:
                set_shape(stated[place], constant.shape)
            self.flushed += constant.finalize(self.defer)
