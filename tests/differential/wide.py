"""Random graphs of any storage type, opset and number of spatial axes, with what exporters and hands leave in files.

A graph is drawn from `(seed, index)` alone. It is made twice: as a file stores it, and in float64 with the very same
(rounded) numbers, which is what it means.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import ml_dtypes
import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from tests.graphs import Net

KINDS = {
    "float32": (TensorProto.FLOAT, np.float32),
    "float16": (TensorProto.FLOAT16, np.float16),
    "bfloat16": (TensorProto.BFLOAT16, ml_dtypes.bfloat16),
    "float64": (TensorProto.DOUBLE, np.float64),
}
SPATIAL = {1: (9,), 2: (5, 5), 3: (4, 4, 4)}  # in 3-D, and where drawn in 2-D, as many as there are channels
BFLOAT16_SINCE = 22  # before it Conv knows no bfloat16


class Drawn(NamedTuple):
    """A random graph: as stored, in float64 with the same numbers, its input, and a value for each override."""

    stored: onnx.ModelProto
    truth: onnx.ModelProto
    feeds: dict[str, np.ndarray]
    overrides: dict[str, np.ndarray]
    kind: str
    layers: list[str]
    steps: dict[str, float] = {}  # noqa: RUF012  how far what is rounded may be off, by output


@dataclass
class Traits:
    """What holds for a whole graph."""

    kind: str
    opset: int
    spatial: tuple[int, ...]
    mixed: bool  # statistics in float32 beside narrower weights
    natural: bool  # constants called after the node that reads them, as exporters do
    old: bool  # IR 3, where every initializer is an input as well
    overridable: bool  # some initializers are also inputs, which callers may override


class Wide(Net):
    """A graph under construction whose constants lie wherever constants may lie."""

    def __init__(self, rng: np.random.Generator, traits: Traits) -> None:
        super().__init__(0)
        self.rng, self.traits = rng, traits
        self.live = {"X": (2, 4, *traits.spatial)}
        self.names: set[str] = set()
        self.statistics: set[str] = set()
        self.overridable: list[str] = []
        self.shared: dict[tuple[tuple[int, ...], bool], str] = {}

    def chance(self, share: float) -> bool:
        return bool(self.rng.random() < share)

    def name_for(self) -> str:
        """A fresh name; the natural ones are those that tools like to invent for what they make."""
        node = f"t{len(self.nodes)}"
        wanted = [f"{node}_weight", f"{node}_bias"] if self.traits.natural else []
        name = next((w for w in wanted if w not in self.names), f"c{len(self.names)}")
        self.names.add(name)
        return name

    def const(self, *shape: int, positive: bool = False) -> str:
        """A constant: new or one that is there already, an initializer, a Constant node, or after an Identity."""
        if (shape, positive) in self.shared and self.chance(0.08):
            return self.shared[shape, positive]
        spread = 1.0 if positive else 1.4 / np.sqrt(max(1, np.prod(shape[1:])))
        value = self.rng.random(shape) + 0.2 if positive else spread * self.rng.standard_normal(shape)
        name = self.shared[shape, positive] = self.stored(self.rounded(value))
        return name

    def rounded(self, value: np.ndarray) -> np.ndarray:
        return np.asarray(value).astype(KINDS[self.traits.kind][1]).astype(np.float64)

    def stored(self, value: np.ndarray) -> str:
        name, tensor = self.name_for(), numpy_helper.from_array(value)
        if self.chance(0.08):
            self.nodes.append(helper.make_node("Constant", [], [name], value=tensor))
            return name
        tensor.name = name
        self.inits.append(tensor)
        if self.traits.overridable and self.chance(0.15):
            self.overridable.append(name)
        elif self.chance(0.04):
            self.nodes.append(helper.make_node("Identity", [name], [f"{name}_same"]))
            return f"{name}_same"
        return name

    def integers(self, *values: int) -> str:
        name = self.name_for()
        self.inits.append(numpy_helper.from_array(np.array(values, dtype=np.int64), name))
        return name

    def statistic(self, *shape: int, positive: bool = False) -> str:
        """A mean or a variance: where types are mixed, float32 of its own."""
        if not self.traits.mixed:
            return self.const(*shape, positive=positive)
        value = self.rng.random(shape) + 0.2 if positive else self.rng.standard_normal(shape)
        name = self.name_for()
        self.inits.append(numpy_helper.from_array(value.astype(np.float32).astype(np.float64), name))
        self.statistics.add(name)
        return name


def traits(rng: np.random.Generator) -> Traits:
    kind = str(rng.choice(["float32", "float16", "bfloat16", "float64"], p=[0.55, 0.2, 0.1, 0.15]))
    opset = int(rng.integers(BFLOAT16_SINCE if kind == "bfloat16" else 7, 24))
    spatial = SPATIAL[int(rng.choice([1, 2, 3], p=[0.2, 0.65, 0.15]))]
    if len(spatial) == 2 and rng.random() < 0.3:
        spatial = (4, 4)
    mixed = kind in ("float16", "bfloat16") and opset >= 15 and rng.random() < 0.3
    old = opset <= 8 and rng.random() < 0.5
    return Traits(kind, opset, spatial, bool(mixed), rng.random() < 0.3, bool(old), not old and rng.random() < 0.15)


def draw(seed: int, index: int) -> Drawn:
    """The graph number `index`; every call gives the same."""
    from .layers import BACK, LAYERS

    rng = np.random.default_rng([seed, index])
    net, done = Wide(rng, traits(rng)), []
    for _ in range(int(rng.integers(1, 7))):
        name, back = str(rng.choice(sorted(LAYERS))), int(rng.choice(BACK))
        tensors = list(net.live)
        LAYERS[name](net, tensors[max(0, len(tensors) - 1 - back)])
        done.append(name)
    return finished(net, done)


def finished(net: Wide, layers: list[str]) -> Drawn:
    used = {name for node in net.nodes for name in node.input}
    outputs = [name for name in net.live if name not in used and name != "X"]
    value = net.rounded(net.rng.standard_normal((2, 4, *net.traits.spatial)))
    kind, numpy_type = KINDS[net.traits.kind]
    overrides = {
        t.name: net.rounded(0.5 * numpy_helper.to_array(t) + 0.25) for t in net.inits if t.name in net.overridable
    }
    typed = {name: v.astype(numpy_type) for name, v in overrides.items()}
    models = [model(net, outputs, each) for each in (kind, TensorProto.DOUBLE)]
    return Drawn(*models, {"X": value.astype(numpy_type)}, typed, net.traits.kind, layers)


def model(net: Wide, outputs: list[str], kind: int) -> onnx.ModelProto:
    inits = [retyped(t, kind, net) for t in net.inits]
    also = {t.name for t in inits} if net.traits.old else set(net.overridable)
    info = helper.make_tensor_value_info
    graph = helper.make_graph(
        [renewed(node, kind, net) for node in net.nodes],
        "g",
        [info("X", kind, ["N", *net.live["X"][1:]])]
        + [info(t.name, t.data_type, list(t.dims)) for t in inits if t.name in also],
        [info(t, kind, [None, *net.live[t][1:]]) for t in outputs],
        inits,
    )
    opsets = [helper.make_opsetid("", net.traits.opset)]
    return helper.make_model(graph, opset_imports=opsets, ir_version=3 if net.traits.old else 10)


def retyped(tensor: TensorProto, kind: int, net: Wide) -> TensorProto:
    """The tensor with its float64 numbers in the storage type."""
    if tensor.data_type != TensorProto.DOUBLE:
        return tensor
    if tensor.name in net.statistics and kind != TensorProto.DOUBLE:
        kind = TensorProto.FLOAT
    value = numpy_helper.to_array(tensor)
    return numpy_helper.from_array(value.astype(helper.tensor_dtype_to_np_dtype(kind)), tensor.name)


def renewed(node: onnx.NodeProto, kind: int, net: Wide) -> onnx.NodeProto:
    copy = onnx.NodeProto()
    copy.CopyFrom(node)
    if kind == TensorProto.DOUBLE and copy.op_type == "MaxPool":
        del copy.output[1:]  # nobody reads the indices, and onnx 1.23 cannot compute them
    if copy.op_type == "Constant":
        copy.attribute[0].t.CopyFrom(retyped(copy.attribute[0].t, kind, net))
    return copy
