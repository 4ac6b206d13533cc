"""Random quantized layers with BatchNormalization around them: integers of 4, 8 and 16 bits, float8, float4.

Every operator whose quantized weight may take an affine; one scale, one for each channel, one for each block; zero points;
weights that the graph quantizes; quantized biases; sums, joins and branches of such layers; measured scales, integer
operators; opsets 10 to 24. A graph is drawn from `(seed, index)` alone, and what it means is the same in float64. Data
lie near the middle between two roundings, so that both round alike; what is rounded after a layer may be a step off.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import ml_dtypes
import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from tests.quantized_layers import KINDS, codes, middle

from .wide import Drawn

SINCE = {"int16": 21, "uint16": 21, "int4": 21, "uint4": 21, "float4_e2m1fn": 23}
FLOAT8_SINCE, PER_CHANNEL_SINCE, BLOCKS_SINCE, MEASURED_SINCE = 19, 13, 21, 11
SIDE, CHANNELS, BATCH = 5, 4, 2


class Layers:
    """A graph under construction."""

    def __init__(self, rng: np.random.Generator) -> None:
        self.rng, self.opset = rng, int(rng.integers(10, 25))
        self.nodes: list[onnx.NodeProto] = []
        self.stored: dict[str, np.ndarray] = {}
        self.made: list[str] = []  # what was drawn
        self.steps: dict[str, float] = {}
        since = {name: SINCE.get(name, FLOAT8_SINCE if "float8" in name else 10) for name in KINDS}
        self.kind = str(rng.choice([name for name, first in since.items() if first <= self.opset]))
        self.flat = self.chance(0.35)
        self.x = np.zeros(0, np.float32)

    def chance(self, share: float) -> bool:
        return bool(self.rng.random() < share)

    def keep(self, value: Any, stem: str) -> str:
        name = f"{stem}{len(self.stored)}"
        self.stored[name] = np.asarray(value)
        return name

    def add(self, operator: str, inputs: list[str], outputs: int = 1, **attributes: Any) -> str:
        names = [f"t{len(self.nodes)}{'abc'[i]}" for i in range(outputs)]
        self.nodes.append(helper.make_node(operator, inputs, names, name=f"n{len(self.nodes)}", **attributes))
        return names[0]

    def weight(self, shape: tuple[int, ...], axis: int) -> str:
        """Codes, or numbers that become codes, and the DequantizeLinear of them."""
        kind, rows = KINDS[self.kind], self.opset >= PER_CHANNEL_SINCE and self.chance(0.6)
        lengths = tuple(n if i == axis else 1 for i, n in enumerate(shape))
        settings: dict[str, Any] = {"axis": axis} if rows else {}
        other = next((i for i in range(len(shape)) if i != axis and shape[i] % 2 == 0), None)
        if self.opset >= BLOCKS_SINCE and other is not None and self.chance(0.15):
            settings = {"axis": other, "block_size": 2}
            lengths = tuple(n // 2 if i == other else n for i, n in enumerate(shape))
            self.made.append("blocks")
        scale = np.float32(self.rng.random(lengths if settings else ()) * 0.02 + 0.005)
        zero, narrow = self.zero(scale.shape), not self.chance(0.05)
        scale, zero = (c.reshape(-1) if rows and "block_size" not in settings else c for c in (scale, zero))
        s, z = self.keep(scale, "s"), self.keep(zero, "z")
        values = codes(shape, kind, self.rng, narrow)
        reads, may = [s, z], "int" in self.kind and "16" not in self.kind
        if may and "block_size" not in settings and self.chance(0.3):
            self.made.append("in graph")
            wide = values.astype(np.float32) - np.float32(middle(kind))
            laid = scale.reshape(lengths) if rows else scale
            real = self.keep(np.float32(wide * laid + laid * self.rng.uniform(-0.3, 0.3, shape)), "w")
            q = self.add("QuantizeLinear", [real, *reads], **settings)
        else:
            q = self.keep(values, "q")
            reads = reads if zero.astype(np.float32).any() or self.chance(0.7) else reads[:1]
        return self.add("DequantizeLinear", [q, *reads], **settings)

    def zero(self, shape: tuple[int, ...]) -> np.ndarray:
        """Zero points: mostly in the middle; of integers sometimes any."""
        kind = KINDS[self.kind]
        if "float" in self.kind:
            return np.zeros(shape, np.float32).astype(kind)
        limits = ml_dtypes.iinfo(kind)
        anywhere = self.rng.integers(int(limits.min), int(limits.max) + 1, shape)
        return np.asarray(anywhere if self.chance(0.2) else np.full(shape, middle(kind))).astype(kind)

    def channels_out(self) -> int:
        return 4 if self.flat else 4 * int(self.rng.integers(1, 3))

    def bias(self, channels: int) -> list[str]:
        kind = self.rng.choice(["none", "float", "integer"], p=[0.4, 0.35, 0.25])
        if kind == "none" and (not self.flat or self.opset >= 11):  # before it a Gemm has to have a bias
            return []
        if kind != "integer":
            return [self.keep(np.float32(self.rng.standard_normal(channels)), "b")]
        b = self.keep(self.rng.integers(-3000, 3000, channels).astype(np.int32), "bq")
        return [self.add("DequantizeLinear", [b, self.keep(np.float32(3e-4), "bs")])]

    def norm(self, x: str, channels: int) -> str:
        gamma = self.rng.uniform(0.4, 1.6, channels) * np.where(
            self.chance(0.3), 1, self.rng.choice([1, 1, -1], channels)
        )
        gamma = np.where(self.rng.random(channels) < 0.04, 0, gamma)
        shift = 0 if self.chance(0.1) else 1
        values = (gamma, shift * self.rng.standard_normal(channels), shift * self.rng.standard_normal(channels) * 0.3,
                  self.rng.uniform(0.4, 2, channels))  # fmt: skip
        return self.add(
            "BatchNormalization", [x, *(self.keep(np.float32(v), p) for v, p in zip(values, "gbmv", strict=True))]
        )

    def layer(self, x: str, out: int, side: int = 0) -> str:
        """A convolution or product of (N, CHANNELS, ..) with a quantized weight and `out` channels."""
        if self.flat:
            return self.product(x, out)
        operator = str(self.rng.choice(["conv", "conv", "depthwise", "grouped", "transposed"])) if not side else "conv"
        self.made.append(operator)
        side = side or int(self.rng.choice([1, 3]))
        pads = {"pads": [side // 2] * 4}
        if operator == "transposed":
            return self.add("ConvTranspose", [x, self.weight((CHANNELS, out, side, side), 1), *self.bias(out)], **pads)
        group = {"conv": 1, "grouped": 2, "depthwise": CHANNELS}[operator]
        shape = (out, CHANNELS // group, side, side)
        return self.add("Conv", [x, self.weight(shape, 0), *self.bias(out)], group=group, **pads)

    def product(self, x: str, out: int) -> str:
        operator = str(self.rng.choice(["gemm", "transposed gemm", "product"]))
        self.made.append(operator)
        if operator == "product":
            return self.add("MatMul", [x, self.weight((CHANNELS, out), 1)])
        turned = int(operator != "gemm")
        shape = (out, CHANNELS) if turned else (CHANNELS, out)
        return self.add("Gemm", [x, self.weight(shape, 1 - turned), *self.bias(out)], transB=turned)

    def data(self) -> str:
        """The input, rounded to eight bits most of the time, and near the middle between two roundings."""
        shape = (BATCH, CHANNELS) if self.flat else (BATCH, CHANNELS, SIDE, SIDE)
        scale, zero = np.float32(self.rng.uniform(0.01, 0.03)), int(self.rng.integers(100, 150))
        steps = self.rng.integers(0, 256, shape)
        steps.flat[0], steps.flat[1] = 0, 255
        self.x = np.float32(scale * (steps - zero + self.rng.uniform(-0.3, 0.3, shape) * ((steps > 0) & (steps < 255))))
        if self.chance(0.25):
            return "x"
        s, z = self.keep(scale, "xs"), self.keep(np.uint8(zero), "xz")
        return self.add("DequantizeLinear", [self.add("QuantizeLinear", ["x", s, z]), s, z])

    def rounded(self, x: str) -> str:
        """Through a QuantizeLinear and a DequantizeLinear; what was rounded is an output as well."""
        scale = float(np.float32(self.rng.uniform(0.02, 0.1)))
        s, z = self.keep(np.float32(scale), "ys"), self.keep(np.uint8(int(self.rng.integers(90, 160))), "yz")
        y = self.add("DequantizeLinear", [self.add("QuantizeLinear", [x, s, z]), s, z])
        self.steps[y] = scale * 1.001
        return y


def plain(net: Layers, x: str) -> str:
    out = net.channels_out()
    return net.norm(net.layer(x, out), out)


def summed(net: Layers, x: str) -> str:
    return net.norm(net.add("Add", [net.layer(x, 4, 1), net.layer(x, 4, 3)]), 4)


def joined(net: Layers, x: str) -> str:
    return net.norm(net.add("Concat", [net.layer(x, 4, 1), net.layer(x, 4, 3)], axis=1), 8)


def branched(net: Layers, x: str) -> str:
    """A block of RepVGG, with or without the tensor itself."""
    y = net.add("Add", [net.norm(net.layer(x, 4, 3), 4), net.norm(net.layer(x, 4, 1), 4)])
    return net.add("Add", [y, net.norm(x, 4)]) if net.chance(0.4) else y


def before(net: Layers, x: str) -> str:
    """A BatchNormalization before the layer."""
    return net.layer(net.norm(x, 4), 4, 1)


def around_rounding(net: Layers, x: str) -> str:
    """A scale, a power of two or not, before data are rounded."""
    factor = np.float32(net.rng.choice([0.5, 2.0, 0.25, 0.3]))
    return net.norm(net.layer(net.rounded(net.add("Mul", [x, net.keep(factor, "k")])), 4, 1), 4)


def measured(net: Layers, x: str) -> str:
    """Integer operators with measured scales, as dynamic quantization writes them."""
    q = net.add("DynamicQuantizeLinear", ["x"], 3)
    scale, zero = f"{q[:-1]}b", f"{q[:-1]}c"
    shape = (4, 6) if net.flat else (6, 4, 3, 3)
    w = net.keep(net.rng.integers(-127, 128, shape).astype(np.int8), "wq")
    f = net.add("Cast", [net.add("MatMulInteger" if net.flat else "ConvInteger", [q, w, zero])], to=TensorProto.FLOAT)
    rows = (6,) if net.flat else (6, 1, 1)
    k = net.keep(np.float32(net.rng.random(rows if net.chance(0.5) else ()) * 0.01), "k")
    y = net.add("Mul", [f, net.add("Mul", [scale, k])])
    y = net.add("Add", [y, net.keep(np.float32(net.rng.standard_normal(rows)), "b")]) if net.chance(0.5) else y
    return net.norm(y, 6)


def integer(net: Layers, x: str) -> str:
    """QLinearConv or QLinearMatMul, and a BatchNormalization of what it gives."""
    s, z = net.keep(np.float32(0.02), "xs"), net.keep(np.uint8(128), "xz")
    shape = (4, 4) if net.flat else (4, 4, 3, 3)
    w = net.keep(net.rng.integers(-127, 128, shape).astype(np.int8), "wq")
    reads = [
        net.add("QuantizeLinear", [x, s, z]),
        s,
        z,
        w,
        net.keep(np.float32(0.01), "ws"),
        net.keep(np.int8(0), "wz"),
    ]
    ys, yz = net.keep(np.float32(0.05), "ys"), net.keep(np.uint8(128), "yz")
    y = net.add("QLinearMatMul" if net.flat else "QLinearConv", [*reads, ys, yz])
    return net.norm(net.add("DequantizeLinear", [y, ys, yz]), 4)


Structure = Callable[[Layers, str], str]
STRUCTURES: dict[str, tuple[Structure, float]] = {
    "plain": (plain, 0.4), "summed": (summed, 0.12), "joined": (joined, 0.12), "branched": (branched, 0.12), "before": (before, 0.06),
    "around rounding": (around_rounding, 0.05), "measured": (measured, 0.08), "integer": (integer, 0.05),
}  # fmt: skip


def draw(seed: int, index: int) -> Drawn:
    """The graph number `index`; every call gives the same."""
    rng = np.random.default_rng([seed, index])
    net = Layers(rng)
    names = [name for name in STRUCTURES if name != "measured" or net.opset >= MEASURED_SINCE]
    shares = np.array([STRUCTURES[name][1] for name in names])
    name = str(rng.choice(names, p=shares / shares.sum()))
    y = STRUCTURES[name][0](net, net.data())
    outputs = [y]
    if net.chance(0.3):
        y = net.add("Relu", [y])
        outputs = [y]
    if net.chance(0.3):
        outputs.append(net.rounded(y))
    layers = [
        net.kind,
        name,
        *net.made,
        *("per channel" for n in net.nodes if any(a.name == "axis" for a in n.attribute)),
    ]
    models = [model(net, outputs, wide) for wide in (False, True)]
    return Drawn(*models, {"x": net.x}, {}, "float32", layers, net.steps)


def model(net: Layers, outputs: list[str], wide: bool) -> onnx.ModelProto:
    """As stored, or in float64 with the same numbers."""
    real = TensorProto.DOUBLE if wide else TensorProto.FLOAT
    stored = {name: v.astype(np.float64) if wide and v.dtype == np.float32 else v for name, v in net.stored.items()}
    used = {name for node in net.nodes for name in node.input}
    rank = 2 if net.flat else 4
    info = helper.make_tensor_value_info
    nodes = [retyped(node) if wide else node for node in net.nodes]
    tensors = [numpy_helper.from_array(np.asarray(v), name) for name, v in stored.items() if name in used]
    made = [info(name, real, [None] * rank) for name in outputs]
    graph = helper.make_graph(nodes, "g", [info("x", real, net.x.shape)], made, tensors)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", net.opset)], ir_version=10)


def retyped(node: onnx.NodeProto) -> onnx.NodeProto:
    """A node as it is in float64."""
    copy = onnx.NodeProto.FromString(node.SerializeToString())
    for attribute in (a for a in copy.attribute if a.name == "to"):
        attribute.i = TensorProto.DOUBLE
    return copy
