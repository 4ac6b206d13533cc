"""Random small quantized networks with BatchNormalization in them: `python -m tests.quantized 0 100 [--faults]`

QuantizeLinear and DequantizeLinear around Conv, ConvTranspose, Gemm and MatMul; per tensor and per channel; weights
stored as integers, quantized in the graph, or float; activations in 8, 16 and 4 bits and float8; residual Adds; several
layers; quantization with measured ranges (DynamicQuantizeLinear); integer operators (QLinearConv, ConvInteger) in the
original. Prints the verdict on the fold of each and, with `--faults`, on folds with one planted fault each.
"""

from __future__ import annotations

import argparse
import sys
from collections import Counter
from collections.abc import Callable, Iterator

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

import bnfold
from bnfold.folding import driver

CODES = {"int8": TensorProto.INT8, "uint8": TensorProto.UINT8, "int16": TensorProto.INT16, "uint16": TensorProto.UINT16}
NARROW = {"int4": TensorProto.INT4, "uint4": TensorProto.UINT4, "float8": TensorProto.FLOAT8E4M3FN}
LIMITS = {"int8": 127, "uint8": 255, "int16": 32767, "uint16": 65535, "int4": 7, "uint4": 15, "float8": 448}
SIDE = 6


class Maker:
    """Draws one network. `negative` is the share of gammas below zero."""

    def __init__(self, seed: int, negative: float = 0.0) -> None:
        self.rng, self.signs, self.negative = np.random.default_rng(seed), np.random.default_rng([seed, 1]), negative
        self.nodes: list[onnx.NodeProto] = []
        self.stored: list[onnx.TensorProto] = []
        self.count = 0
        self.channels = 4
        self.flat = False
        self.code = self.among(["int8", "int8", "uint8", "uint8", "int16", "uint16", "int4", "float8"])
        self.wide = self.code in ("int16", "uint16", "int4")

    def among(self, names: list[str]) -> str:
        return names[int(self.rng.integers(len(names)))]

    def chance(self, share: float) -> bool:
        return bool(self.rng.random() < share)

    def name(self, kind: str) -> str:
        self.count += 1
        return f"{kind}{self.count}"

    def keep(self, values: np.ndarray, kind: str, code: int | None = None) -> str:
        name = self.name(kind)
        values = np.asarray(values)
        dtype = helper.tensor_dtype_to_np_dtype(code) if code else values.dtype
        self.stored.append(numpy_helper.from_array(values.astype(dtype), name))
        return name

    def add(self, operator: str, inputs: list[str], **attributes: object) -> str:
        name = self.name(operator.lower())
        self.nodes.append(helper.make_node(operator, inputs, [name], name=f"n_{name}", **attributes))
        return name

    def quantized(self, x: str, size: float = 3.0) -> str:
        """Through QuantizeLinear and DequantizeLinear, `size` being the largest value that fits."""
        kinds = {**CODES, **NARROW}
        zero = 0
        scale = size / LIMITS[self.code]
        if self.code.startswith("u"):
            zero, scale = (LIMITS[self.code] + 1) // 2, 2 * scale
        scale = np.float32(scale * self.rng.uniform(0.8, 1.2))
        s, z = self.keep(scale, "s"), self.keep(np.array(zero), "z", kinds[self.code])
        return self.add("DequantizeLinear", [self.add("QuantizeLinear", [x, s, z]), s, z])

    def measured(self, x: str) -> str:
        """Through DynamicQuantizeLinear."""
        names = [self.name("dynamic") for _ in range(3)]
        self.nodes.append(helper.make_node("DynamicQuantizeLinear", [x], names, name=f"n_{names[0]}"))
        return self.add("DequantizeLinear", names)

    def weight(self, shape: tuple[int, ...], axis: int) -> str:
        """Stored as integers with a scale, quantized in the graph, or float; per tensor or per channel."""
        values = np.float32(self.rng.standard_normal(shape) / np.sqrt(np.prod(shape[1:])))
        kind = self.among(["codes", "codes", "codes", "graph", "float"])
        if kind == "float":
            return self.keep(values, "w")
        code = "int4" if self.code == "int4" else "int8"
        spread = np.abs(values).max(tuple(i for i in range(values.ndim) if i != axis))
        rows = self.chance(0.6)
        scale = np.float32(spread if rows else spread.max()) / np.float32(LIMITS[code])
        given = {"axis": axis} if rows else {}
        zero = self.keep(np.zeros(scale.shape), "zw", NARROW.get(code, CODES.get(code)))
        s = self.keep(scale, "sw")
        laid = scale.reshape([-1 if i == axis else 1 for i in range(values.ndim)]) if rows else scale
        if kind == "graph":
            q = self.add("QuantizeLinear", [self.keep(values, "w"), s, zero], **given)
        else:
            q = self.keep(
                np.clip(np.rint(values / laid), -LIMITS[code], LIMITS[code]), "q", NARROW.get(code, CODES.get(code))
            )
        return self.add("DequantizeLinear", [q, s, zero], **given)

    def norm(self, x: str, channels: int) -> str:
        g, b, m = (
            self.rng.uniform(0.5, 1.5, channels),
            self.rng.standard_normal(channels),
            self.rng.standard_normal(channels) * 0.3,
        )
        v = self.rng.uniform(0.3, 2.0, channels)
        g = np.where(self.signs.random(channels) < self.negative, -g, g)
        return self.add("BatchNormalization", [x, *(self.keep(np.float32(p), "p") for p in (g, b, m, v))])

    def bias(self, channels: int) -> list[str]:
        return [self.keep(np.float32(self.rng.standard_normal(channels) * 0.3), "b")] if self.chance(0.5) else []

    def convolution(self, x: str) -> str:
        more = 4 if self.chance(0.5) else 8
        if self.chance(0.25):
            y = self.add(
                "ConvTranspose", [x, self.weight((self.channels, more, 3, 3), 1), *self.bias(more)], pads=[1] * 4
            )
        elif self.chance(0.25):
            more = self.channels
            y = self.add("Conv", [x, self.weight((more, 1, 3, 3), 0), *self.bias(more)], pads=[1] * 4, group=more)
        else:
            y = self.add("Conv", [x, self.weight((more, self.channels, 3, 3), 0), *self.bias(more)], pads=[1] * 4)
        self.channels = more
        return y

    def product(self, x: str) -> str:
        more = int(self.rng.integers(4, 9))
        if self.chance(0.5):
            y = self.add("Gemm", [x, self.weight((more, self.channels), 0), *self.bias(more)], transB=1)
        else:
            y = self.add("MatMul", [x, self.weight((self.channels, more), 1)])
            y = (
                self.add("Add", [y, self.keep(np.float32(self.rng.standard_normal(more)), "b")])
                if self.chance(0.5)
                else y
            )
        self.channels = more
        return y

    def integer(self, x: str) -> str:
        """A layer of integer operators that no fold touches."""
        s, z = self.keep(np.float32(3 / 127), "s"), self.keep(np.array(0), "z", TensorProto.INT8)
        w = self.keep(self.rng.integers(-100, 100, (self.channels, self.channels, 1, 1)), "w", TensorProto.INT8)
        if self.chance(0.4):  # as dynamic quantization writes it
            names = [self.name("dynamic") for _ in range(3)]
            self.nodes.append(helper.make_node("DynamicQuantizeLinear", [x], names, name=f"n_{names[0]}"))
            real = self.add("Cast", [self.add("ConvInteger", [names[0], w, names[2]])], to=TensorProto.FLOAT)
            scale = self.add("Mul", [names[1], self.keep(np.float32(1 / 150), "k")])
            return self.norm(self.add("Mul", [real, scale]), self.channels)
        codes = self.add("QuantizeLinear", [x, s, z])
        if self.chance(0.5):
            whole = self.add("ConvInteger", [codes, w])
            real = self.add("Cast", [whole], to=TensorProto.FLOAT)
            return self.add("Mul", [real, self.keep(np.float32(3 / 127 / 150), "k")])
        sw = self.keep(np.float32(1 / 150), "sw")
        y = self.add("QLinearConv", [codes, s, z, w, sw, z, s, z])
        return self.add("DequantizeLinear", [y, s, z])

    def layer(self, x: str) -> str:
        before = self.channels
        y = self.product(x) if self.flat else self.convolution(x)
        y = self.norm(y, self.channels)
        if self.chance(0.3) and self.channels == before:
            y = self.add("Add", [self.rounded(y), x])
        if self.chance(0.6):
            y = self.add(self.among(["Relu", "Relu", "Sigmoid", "LeakyRelu"]), [y])
        return self.rounded(y)

    def rounded(self, x: str) -> str:
        if self.code == "uint8" and self.chance(0.2):
            return self.measured(x)
        return self.quantized(x, float(self.rng.uniform(1.5, 4)))

    def model(self) -> onnx.ModelProto:
        self.flat = self.chance(0.3)
        x = self.rounded("x")
        for _ in range(int(self.rng.integers(1, 5))):
            x = self.layer(x)
            if not self.flat and self.code == "int8" and self.chance(0.2):
                x = self.integer(x)
            if not self.flat and self.chance(0.1):
                x = self.quantized(self.add("MaxPool", [x], kernel_shape=[3, 3], pads=[1] * 4))
        if self.chance(0.4):  # a head in float
            shape = (5, self.channels) if self.flat else (5, self.channels, 1, 1)
            x = self.norm(
                self.add(
                    *(("Gemm", [x, self.weight(shape, 0)]) if self.flat else ("Conv", [x, self.weight(shape, 0)])),
                    **({"transB": 1} if self.flat else {}),
                ),
                5,
            )
        rank = 2 if self.flat else 4
        dims = ["N", 4, SIDE, SIDE][:rank]
        info = helper.make_tensor_value_info
        self.nodes[-1].output[0] = "y"
        graph = helper.make_graph(
            self.nodes,
            "g",
            [info("x", TensorProto.FLOAT, dims)],
            [info("y", TensorProto.FLOAT, ["N", *["a", "b", "c"][: rank - 1]])],
            self.stored,
        )
        opset = 21 if self.wide or self.code == "float8" else int(self.rng.choice([13, 17, 19, 21]))
        return helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=10)


def changed(folded: onnx.ModelProto, name: str, change: Callable[[np.ndarray], np.ndarray]) -> onnx.ModelProto:
    """A copy in which one stored tensor is another."""
    copy = onnx.ModelProto()
    copy.CopyFrom(folded)
    for tensor in copy.graph.initializer:
        if tensor.name == name:
            values = numpy_helper.to_array(tensor)
            tensor.CopyFrom(numpy_helper.from_array(change(values).astype(values.dtype), name))
    return copy


def one(values: np.ndarray, factor: float) -> np.ndarray:
    """The largest number, of codes the one in the middle, as another."""
    found = values.copy()
    flat = found.reshape(-1)
    at = int(np.abs(flat.astype(np.float64)).argmax())
    flat[at] = flat[at] * factor
    return found


def by_one(codes: np.ndarray) -> np.ndarray:
    """The last code nearer to zero by one, or the first number after zero."""
    moved = codes.copy()
    last = float(codes.reshape(-1)[-1])
    moved.reshape(-1)[-1] = codes.dtype.type(last - np.sign(last) if last else 1)
    return moved


def swapped(codes: np.ndarray) -> np.ndarray:
    """The smallest code in the place of the largest, which may be its opposite."""
    moved = codes.copy()
    wide = codes.astype(np.float64).reshape(-1)
    moved.reshape(-1)[int(wide.argmax())] = codes.reshape(-1)[int(wide.argmin())]
    return moved


def turned(folded: onnx.ModelProto, node: onnx.NodeProto) -> onnx.ModelProto:
    """Scales along another axis."""
    copy = onnx.ModelProto()
    copy.CopyFrom(folded)
    for other in copy.graph.node:
        if other.output == node.output:
            for attribute in (a for a in other.attribute if a.name == "axis"):
                attribute.i = 1 - attribute.i
    return copy


def faults(original: onnx.ModelProto, folded: onnx.ModelProto) -> Iterator[tuple[str, onnx.ModelProto]]:
    """The fold with one fault at a time, in what it changed: scale, zero point, sign, axis, bias, one channel."""
    stored = {tensor.name: tensor for tensor in folded.graph.initializer}
    before = {tensor.name: tensor for tensor in original.graph.initializer}
    made = [name for name, tensor in stored.items() if before.get(name) != tensor]
    for name in made:
        values = numpy_helper.to_array(stored[name])
        if values.dtype.kind == "f":
            yield f"{name} x 1.02", changed(folded, name, lambda v: v * np.float32(1.02))
            yield f"one of {name} x 0.98", changed(folded, name, lambda v: one(v, 0.98))
            yield f"sign of one of {name}", changed(folded, name, lambda v: one(v, -1))
        else:
            yield f"one of {name} by one", changed(folded, name, by_one)
            if not np.array_equal(swapped(values), values):
                yield f"one of {name} as another", changed(folded, name, swapped)
        if values.size > 1 and not np.array_equal(values, np.roll(values, 1, 0)):
            yield f"{name} one channel on", changed(folded, name, lambda v: np.roll(v, 1, 0))
    for node in folded.graph.node:
        if node.op_type == "DequantizeLinear" and node.input[1] in made:
            scale, codes = stored[node.input[1]], stored.get(node.input[0])
            if len(node.input) > 2 and node.input[2] in stored:
                yield f"zero point of {node.output[0]}", changed(folded, node.input[2], lambda v: v + 1)
                readers = [n.op_type for n in folded.graph.node if node.input[2] in n.input]
                if scale.dims and "QuantizeLinear" not in readers:  # which would undo it
                    yield f"one zero point of {node.output[0]}", changed(folded, node.input[2], by_one)
            if codes is not None and len(scale.dims) == 1 and len(set(codes.dims[:2])) == 1:
                yield f"axis of {node.output[0]}", turned(folded, node)


def verdict(original: onnx.ModelProto, folded: bnfold.FoldResult, model: onnx.ModelProto) -> bnfold.Verification:
    return bnfold.verify(original, model, untouched=folded.sites)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("first", type=int)
    parser.add_argument("last", type=int)
    parser.add_argument("--faults", action="store_true")
    parser.add_argument("--negative", type=float, default=0.3)
    options = parser.parse_args()
    found, kept = Counter[str](), Counter[str]()
    for seed in range(options.first, options.last):
        original = Maker(seed, options.negative).model()
        folded = driver.fold(original)
        kept.update(f"{k.not_hoisted.code}/{k.not_sunk.code}" for k in folded.batch_norms_kept)
        if not folded.folded:
            continue
        planted = faults(original, folded.model) if options.faults else [("", folded.model)]
        for fault, model in planted:
            result = verdict(original, folded, model)
            found[result.verdict] += 1
            if result.verdict != ("FAIL" if fault else "PASS"):
                print(seed, fault, result.verdict, *result.reasons[:1], flush=True)
    print(dict(found), "kept:", dict(kept))
    return int(set(found) != {"FAIL" if options.faults else "PASS"})


if __name__ == "__main__":
    sys.exit(main())
