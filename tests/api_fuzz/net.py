"""A graph under construction: scopes, tensors, and nodes whose types onnx's own inference states as they are added."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import onnx
from onnx import FunctionProto, NodeProto, TensorProto, helper, numpy_helper
from onnx.shape_inference import InferenceError, infer_node_outputs

F16, F32, F64, I64, BOOL = (getattr(TensorProto, k) for k in ("FLOAT16", "FLOAT", "DOUBLE", "INT64", "BOOL"))
FLOATS = (F16, F32, F64)
ODD = ["a b", "x/y:0", "\u00fc", "it's", 'say "hi"', "%s", "{0}", "=", "\u202eabc", "\u540d\u524d", "", "\x1b[1m", "1"]
NATURAL = ["conv.weight", "conv.bias", "W.bias", "W", "bn_1", "kernel", "block.kernel", "x.bias_1", "add", "y_1"]


class Skip(Exception):
    """A layer that does not fit where it was tried."""


def need(condition: Any) -> None:
    if not condition:
        raise Skip


@dataclass(frozen=True, eq=False)
class Value:
    """A tensor: its name, element type, shape, and its number where it is a setting."""

    name: str
    kind: int
    shape: tuple[int, ...]
    number: np.ndarray | None = None
    constant: bool = False

    @property
    def rank(self) -> int:
        return len(self.shape)

    @property
    def type(self) -> onnx.TypeProto:
        return helper.make_tensor_type_proto(self.kind, self.shape)


@dataclass
class File:
    """What holds for the whole model."""

    rng: np.random.Generator
    opset: int
    ir: int
    names: str  # plain, natural, odd
    taken: set[str] = field(default_factory=set)
    functions: list[FunctionProto] = field(default_factory=list)
    features: Counter[str] = field(default_factory=Counter)
    conditions: list[str] = field(default_factory=list)
    trips: list[str] = field(default_factory=list)

    def chance(self, share: float) -> bool:
        return bool(self.rng.random() < share)

    def pick(self, of: Sequence[Any]) -> Any:
        return of[int(self.rng.integers(len(of)))]

    def number(self, low: int, high: int) -> int:
        """From low to high, both included."""
        return int(self.rng.integers(low, high + 1))


class Scope:
    """One graph, body or function: its nodes, constants, and the tensors that layers may go on from."""

    def __init__(self, file: File, outer: Scope | None = None, is_function: bool = False, stem: str = "t") -> None:
        self.file, self.outer, self.is_function, self.stem = file, outer, is_function, stem
        self.nodes: list[NodeProto] = []
        self.inits: list[TensorProto] = []
        self.sparse: list[onnx.SparseTensorProto] = []
        self.inputs: list[onnx.ValueInfoProto] = []
        self.live: list[Value] = []
        self.constants: list[Value] = []
        self.read: Counter[str] = Counter()
        self.count = 0
        self.depth: int = 0 if outer is None else outer.depth + 1

    @property
    def visible(self) -> list[Value]:
        """Its own tensors, and those of the graphs around it."""
        return self.live if self.outer is None else [*self.outer.visible, *self.live]

    def fresh(self, hint: str = "") -> str:
        """A name that no other tensor of the file has, but perhaps one of a body next to this one."""
        alone = self.depth == 0 and not self.is_function
        while True:
            name = self._name(hint)
            if name not in (self.file.taken if alone else self._own) and not self._around(name):
                self._own.add(name)
                self.file.taken.add(name)
                return name

    def _name(self, hint: str) -> str:
        self.count += 1
        stem = f"{self.stem}{self.depth}_" if self.depth else self.stem
        if self.file.names == "natural" and self.file.chance(0.5):
            return self.file.pick(NATURAL) if self.file.chance(0.4) else f"{hint or stem}_{self.count}"
        if self.file.names == "odd" and self.file.chance(0.5):
            return f"{self.file.pick(ODD)}{self.count}"
        return f"{stem}{self.count}"

    @property
    def _own(self) -> set[str]:
        if not hasattr(self, "_names"):
            self._names: set[str] = set()
        return self._names

    def _around(self, name: str) -> bool:
        if self.outer is None:
            return False
        return name in self.outer._own or self.outer._around(name)

    def emit(self, op: str, inputs: Sequence[Value | None], outputs: int = 1, **attributes: Any) -> list[Value]:
        """Add a node; Skip where onnx's inference says that it does not fit, or does not say what it makes."""
        attributes = {k: v for k, v in attributes.items() if v is not None}
        names = ["" if x is None else x.name for x in inputs]
        probe = helper.make_node(
            op, [f"i{i}" if n else "" for i, n in enumerate(names)], [f"o{i}" for i in range(outputs)], **attributes
        )
        kinds = self._infer(op, probe, inputs)
        made = [Value(self.fresh(op.lower()), *kinds[f"o{i}"]) for i in range(outputs)]
        self.add(op, names, [v.name for v in made], attributes)
        return made

    def add(
        self, op: str, inputs: Sequence[str], outputs: Sequence[str], attributes: dict[str, Any], domain: str = ""
    ) -> NodeProto:
        f = self.file
        name = (
            "" if f.chance(0.25) else f.pick(["n", "bn"]) if f.chance(0.1) else f"{op}_{len(self.nodes)}_{self.depth}"
        )
        name = "" if name in {n.name for n in self.nodes} else name
        node = helper.make_node(op, list(inputs), list(outputs), name=name, domain=domain, **attributes)
        if f.chance(0.03):
            node.doc_string = "kept"
        self.nodes.append(node)
        self.read.update(inputs)
        f.features[op] += 1
        return node

    def _infer(
        self, op: str, probe: NodeProto, inputs: Sequence[Value | None]
    ) -> dict[str, tuple[int, tuple[int, ...]]]:
        given = {f"i{i}": x for i, x in enumerate(inputs) if x is not None}
        data = {k: numpy_helper.from_array(x.number, k) for k, x in given.items() if x.number is not None}
        opsets = [helper.make_opsetid("", self.file.opset)]
        try:
            schema = onnx.defs.get_schema(op, self.file.opset, "")
            types = infer_node_outputs(schema, probe, {k: x.type for k, x in given.items()}, data, opset_imports=opsets)
        except (InferenceError, onnx.defs.SchemaError, RuntimeError, ValueError, onnx.checker.ValidationError) as why:
            raise Skip(str(why)) from why
        return {name: self._known(types, name) for name in probe.output}

    def _known(self, types: dict[str, onnx.TypeProto], name: str) -> tuple[int, tuple[int, ...]]:
        need(name in types and types[name].tensor_type.HasField("shape"))
        found = types[name].tensor_type
        need(all(d.HasField("dim_value") and 0 <= d.dim_value <= 400 for d in found.shape.dim))
        shape = tuple(d.dim_value for d in found.shape.dim)
        need(np.prod(shape, dtype=np.int64) <= 3000)
        return found.elem_type, shape

    def mark(self) -> tuple[int, ...]:
        """A state to which `undo` goes back, where a layer was tried and did not fit."""
        return len(self.nodes), len(self.inits), len(self.sparse), len(self.inputs), len(self.live), len(self.constants)

    def undo(self, mark: tuple[int, ...]) -> None:
        for part, length in zip(
            (self.nodes, self.inits, self.sparse, self.inputs, self.live, self.constants), mark, strict=True
        ):
            del part[length:]
