"""Random graphs whose lengths only a run knows: reshapes to sizes that nodes compute of other sizes, and what is between."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import onnx
from onnx import NodeProto, TensorProto, helper, numpy_helper
from onnx.reference import ReferenceEvaluator

OPSET = 17
SIZES = {"N": 2, "M": 3}  # with which a graph is drawn; it need not run with others
INPUTS = {"X": ("N", 4, "M"), "Z": ("N", 6), "V": ("M", 4, "N")}


@dataclass
class Graph:
    """Nodes, constants, and the value of each tensor for the sizes with which the graph is drawn."""

    rng: np.random.Generator
    nodes: list[NodeProto] = field(default_factory=list)
    stored: dict[str, np.ndarray] = field(default_factory=dict)
    values: dict[str, np.ndarray] = field(default_factory=dict)

    def pick(self, of: Any) -> Any:
        return of[int(self.rng.integers(len(of)))]

    def constant(self, value: Any, kind: Any = np.int64) -> str:
        name = f"c{len(self.stored)}"
        self.stored[name] = self.values[name] = np.asarray(value, kind)
        return name

    def emit(self, operator: str, *inputs: str, outputs: int = 1, **attributes: Any) -> list[str]:
        """Add a node, after it has run. Raises whatever the reference raises where it does not fit."""
        names = [f"t{len(self.nodes)}_{i}" for i in range(outputs)]
        node = helper.make_node(operator, inputs, names, **attributes)
        infos = [
            helper.make_tensor_value_info(x, helper.np_dtype_to_tensor_dtype(self.values[x].dtype), None)
            for x in inputs
        ]
        outs = [onnx.ValueInfoProto(name=name) for name in names]
        graph = helper.make_graph([node], "g", infos, outs)
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", OPSET)])
        made = ReferenceEvaluator(model).run(None, {x: self.values[x] for x in inputs})
        if not all(0 < np.size(y) <= 2000 and np.ndim(y) <= 5 for y in made):
            raise ValueError("too large, or empty")
        self.nodes.append(node)
        self.values.update(zip(names, map(np.asarray, made), strict=True))
        return names

    def tensors(self) -> list[str]:
        return [name for name, value in self.values.items() if value.dtype == np.float32 and name not in self.stored]


def reshape(g: Graph, x: str) -> str:
    """To sizes of which each is a number, 0, -1, or computed."""
    value = g.values[x]
    entries = [entry(g, x) for _ in range(g.rng.integers(1, 5))]
    if g.rng.random() < 0.8:
        at = int(g.rng.integers(len(entries)))
        rest = np.prod([int(g.values[e][0]) or value.shape[i] for i, e in enumerate(entries) if i != at], dtype=int)
        entries[at] = g.constant([g.pick([-1, value.size // rest])]) if value.size % rest == 0 else entries[at]
    to = entries[0] if len(entries) == 1 else g.emit("Concat", *entries, axis=0)[0]
    return g.emit("Reshape", x, to, allowzero=int(g.rng.random() < 0.2))[0]


def entry(g: Graph, x: str) -> str:
    """A size in a list of its own."""
    if g.rng.random() < 0.4:
        return g.constant([g.pick([0, 1, 2, 3, 4, 6, *g.values[x].shape])])
    of = g.pick([x, x, *g.tensors()])
    shape = g.emit("Shape", of)[0]
    axis = int(g.rng.integers(g.values[of].ndim))
    size = g.emit("Gather", shape, g.constant([axis]))[0]
    if g.rng.random() < 0.4:
        size = g.emit(g.pick(["Mul", "Div", "Mul", "Add", "Sub"]), size, g.constant([g.pick([2, 3, 4])]))[0]
    if g.rng.random() < 0.2:
        other = g.emit("Gather", g.emit("Shape", g.pick(g.tensors()))[0], g.constant([0]))[0]
        size = g.emit(g.pick(["Mul", "Div"]), size, other)[0]
    return size


def binary(g: Graph, x: str) -> str:
    return g.emit(g.pick(["Add", "Mul", "MatMul"]), *g.rng.permutation([x, g.pick(g.tensors())]).tolist())[0]


def concat(g: Graph, x: str) -> str:
    return g.emit("Concat", x, g.pick([x, *g.tensors()]), axis=int(g.rng.integers(g.values[x].ndim)))[0]


def split(g: Graph, x: str) -> str:
    axis = int(g.rng.integers(g.values[x].ndim))
    n = g.values[x].shape[axis]
    if n % 2 == 0 and g.rng.random() < 0.5:
        return g.pick(g.emit("Split", x, outputs=2, axis=axis))
    return g.pick(g.emit("Split", x, g.constant([1, n - 1]), outputs=2, axis=axis))


def cut(g: Graph, x: str) -> str:
    axis = int(g.rng.integers(g.values[x].ndim))
    start, end = g.pick([(0, 2**63 - 1), (0, 2**31 - 1), (1, 2**63 - 1), (0, -1), (0, 2), (-2, 2**31)])
    return g.emit("Slice", x, g.constant([start]), g.constant([end]), g.constant([axis]))[0]


def gather(g: Graph, x: str) -> str:
    return g.emit(
        "Gather", x, g.constant(g.pick([0, [0], [[0, 1], [1, 0]]])), axis=int(g.rng.integers(g.values[x].ndim))
    )[0]


def reduce(g: Graph, x: str) -> str:
    axis = int(g.rng.integers(g.values[x].ndim))
    return g.emit("ReduceMean", x, axes=[axis], keepdims=int(g.rng.integers(2)))[0]


def expand(g: Graph, x: str) -> str:
    axis = g.values[x].ndim
    wide = g.emit("Unsqueeze", x, g.constant([axis]))[0]
    return g.emit("Expand", wide, g.emit("Concat", *[g.constant([1])] * axis, entry(g, x), axis=0)[0])[0]


def transpose(g: Graph, x: str) -> str:
    return g.emit("Transpose", x, perm=[int(i) for i in g.rng.permutation(g.values[x].ndim)])[0]


def flatten(g: Graph, x: str) -> str:
    return g.emit("Flatten", x, axis=int(g.rng.integers(g.values[x].ndim + 1)))[0]


def tile(g: Graph, x: str) -> str:
    return g.emit("Tile", x, g.constant([g.pick([1, 1, 2]) for _ in g.values[x].shape]))[0]


def pad(g: Graph, x: str) -> str:
    return g.emit("Pad", x, g.constant([g.pick([0, 0, 0, 1]) for _ in range(2 * g.values[x].ndim)]))[0]


def pool(g: Graph, x: str) -> str:
    taps, pads = g.pick([(3, [1, 1]), (2, [0, 1]), (2, [0, 0]), (3, [0, 1])])
    return g.emit("MaxPool", x, kernel_shape=[taps], pads=pads, strides=[g.pick([1, 1, 2])])[0]


def relu(g: Graph, x: str) -> str:
    return g.emit("Relu", x)[0]


LAYERS: list[Callable[[Graph, str], str]] = [
    *[reshape] * 6, *[transpose] * 3, binary, binary, concat, split, cut, gather, reduce, expand, flatten, tile, pad, pool, relu,
]  # fmt: skip


def draw(seed: int, layers: int = 8) -> onnx.ModelProto:
    """A graph with every tensor as an output, of which nothing but the type is said."""
    g = Graph(np.random.default_rng(seed))
    for name, shape in INPUTS.items():
        sizes = [n if isinstance(n, int) else SIZES[n] for n in shape]
        g.values[name] = g.rng.standard_normal(sizes).astype(np.float32)
    x = "X"
    for _ in range(layers):
        nodes, values = len(g.nodes), dict(g.values)
        try:
            x = g.pick(LAYERS)(g, x if g.rng.random() < 0.8 else g.pick(g.tensors()))
        except Exception:  # of the reference, where sizes do not fit
            del g.nodes[nodes:]
            g.values = values
    inputs = [helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name, shape in INPUTS.items()]
    kinds = {name: helper.np_dtype_to_tensor_dtype(g.values[name].dtype) for n in g.nodes for name in n.output}
    outputs = [helper.make_tensor_value_info(name, kind, None) for name, kind in kinds.items()]
    stored = [numpy_helper.from_array(value, name) for name, value in g.stored.items()]
    graph = helper.make_graph(g.nodes, "g", inputs, outputs, stored)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=8)
