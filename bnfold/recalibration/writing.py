"""New statistics in the record of a model; nothing else in it changes.

A statistic that others read as well, that a caller may override, or that a node computes, gets an initializer of its
own. What nobody reads any more goes, as it does after a fold.
"""

from __future__ import annotations

from collections import Counter

import numpy as np
import onnx
from onnx import TensorProto, helper

from ..algebra.moments import Array
from ..model.messages import drop, drop_named, reads
from ..model.storage import Storage
from ..model.tensors import read_values, replace_values, to_tensor
from .norms import MEAN, VAR, Norm, Statistics

NAMES_SHOWN = 5  # names in a sentence
IR_WITH_DEFAULTS = 4  # before it every initializer has to be an input


def write_statistics(
    record: onnx.ModelProto, norms: list[Norm], statistics: dict[str, Statistics], storage: Storage
) -> list[str]:
    """Write the statistics of all norms into the record; returns the names of the initializers that are new."""
    writer = _Writer(record, storage)
    for norm in norms:
        new = statistics[norm.output]
        for index, word, value in ((MEAN, "mean", new.mean), (VAR, "var", new.var)):
            writer.put(norm, index, word, value.reshape(norm.stored.mean.shape).astype(norm.kind))
    writer.sweep()
    return writer.made


def untied(record: onnx.ModelProto, norms: list[Norm]) -> list[str]:
    """A sentence for each statistic that several norms read: from now on every one has that of the data it sees."""
    made = {node.output[0]: node.input[0] for node in record.graph.node if node.op_type == "Identity"}
    readers: dict[str, list[str]] = {}
    for norm in norms:
        for name in norm.node.input[MEAN : VAR + 1]:
            while name in made:
                name = made[name]
            readers.setdefault(name, []).append(norm.name)
    shared = dict.fromkeys(tuple(names) for names in readers.values() if len(names) > 1)
    return [
        f"{' and '.join(map(repr, names[:NAMES_SHOWN]))}{' and more' * (len(names) > NAMES_SHOWN)} "
        "shared their statistics; now each has those of the data that it sees"
        for names in shared
    ]


class _Writer:
    def __init__(self, record: onnx.ModelProto, storage: Storage) -> None:
        self.record, self.storage, self.made = record, storage, list[str]()
        graph = record.graph
        self.stored = {t.name: t for t in graph.initializer}
        self.readers = Counter(name for node in graph.node for name in reads(node))
        self.readers.update(value.name for value in graph.output)
        self.inputs = {value.name for value in graph.input}
        named = (*graph.initializer, *graph.input, *graph.output, *graph.value_info)
        self.taken = {x for n in graph.node for x in (*reads(n), *n.output)} | {v.name for v in named}
        self.lost: list[str] = []

    def put(self, norm: Norm, index: int, word: str, values: Array) -> None:
        """Store one statistic: in place if this node alone reads it, else as a new initializer."""
        name = norm.node.input[index]
        tensor = self.stored.get(name)
        if tensor is not None and self._is_private(name):
            if not np.array_equal(read_values(tensor, self.storage), values):
                replace_values(tensor, values)
            return
        self._store(to_tensor(values, self._fresh(f"{norm.name}.running_{word}")))
        norm.node.input[index] = self.made[-1]
        self.readers[name] -= 1
        self.lost.append(name)

    def _is_private(self, name: str) -> bool:
        return self.readers[name] == 1 and (name not in self.inputs or self.record.ir_version < IR_WITH_DEFAULTS)

    def _store(self, tensor: TensorProto) -> None:
        graph = self.record.graph
        graph.initializer.append(tensor)
        if self.record.ir_version < IR_WITH_DEFAULTS:
            graph.input.append(helper.make_tensor_value_info(tensor.name, tensor.data_type, list(tensor.dims)))
        self.made.append(tensor.name)

    def _fresh(self, stem: str) -> str:
        name, n = stem, 0
        while name in self.taken:
            n += 1
            name = f"{stem}_{n}"
        self.taken.add(name)
        return name

    def sweep(self) -> None:
        """Take out what lost its last reader: an initializer, or the node that made it, and so on."""
        graph, gone = self.record.graph, set[str]()
        while self.lost:
            name = self.lost.pop()
            if self.readers[name]:
                continue
            place = next((i for i, node in enumerate(graph.node) if name in node.output), None)
            if place is None and (name not in self.inputs or self.record.ir_version < IR_WITH_DEFAULTS):
                gone.add(name)
            if place is not None and not any(self.readers[x] for x in graph.node[place].output):
                for source in reads(graph.node[place]):
                    self.readers[source] -= 1
                    self.lost.append(source)
                gone.update(graph.node[place].output)
                drop(graph.node, [place])
        for kind in ("initializer", "value_info", "input"):
            drop_named(graph, kind, lambda entry: entry.name in gone)
        drop_named(graph, "sparse_initializer", lambda entry: entry.values.name in gone)
        drop_named(graph, "quantization_annotation", lambda entry: entry.tensor_name in gone)
