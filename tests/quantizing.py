"""Networks as tools quantize them: QuantizeLinear and DequantizeLinear around layers, or integer operators."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np
import onnx
from onnx import helper, numpy_helper

KINDS = {
    "QDQ per channel": "weights int8 before a DequantizeLinear, a scale for each channel",
    "QDQ per tensor": "weights int8 before a DequantizeLinear, one scale",
    "QAT": "float weights that the graph quantizes, a scale for each channel",
    "QLinear": "integer operators, by onnxruntime's own quantizer",
}
MOST = 127
Ranges = Mapping[str, tuple[float, float]]


def quantized(kind: str, path: Path, target: Path, batch: np.ndarray) -> None:
    """Write a float model as one of KINDS, with scales for activations that fit one batch of its only input."""
    if kind == "QLinear":
        by_onnxruntime(path, target, [batch], "QOperator")
    else:
        model = onnx.load(path)
        Quantizer(model, ranges(model, batch), kind != "QDQ per tensor", kind == "QAT").run()
        onnx.checker.check_model(model, full_check=True)
        onnx.save(model, target)


def by_onnxruntime(path: Path, target: Path, batches: list[np.ndarray], form: str) -> None:
    """onnxruntime's static quantization, int8 weights with a scale for each channel, into QDQ or QOperator form."""
    from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static

    name = onnx.load(path).graph.input[0].name

    class Reader(CalibrationDataReader):
        def __init__(self) -> None:
            self.rest = iter(batches)

        def get_next(self) -> dict[str, np.ndarray] | None:
            batch = next(self.rest, None)
            return None if batch is None else {name: batch}

    before, root = logging.root.level, logging.getLogger()
    root.setLevel(logging.ERROR)  # it asks for a preparation that folds
    try:
        kinds = {"activation_type": QuantType.QUInt8, "weight_type": QuantType.QInt8}
        quantize_static(path, target, Reader(), quant_format=QuantFormat[form], per_channel=True, **kinds)
    finally:
        root.setLevel(before)


def layers(graph: onnx.GraphProto) -> Iterator[tuple[onnx.NodeProto, onnx.TensorProto, int]]:
    """The nodes with stored weights, each with its weight and the axis of its channels."""
    stored = {t.name: t for t in graph.initializer}
    for node in graph.node:
        weight = stored.get(node.input[1]) if len(node.input) > 1 else None
        if weight is None or len(weight.dims) < 2:
            continue
        attributes = {a.name: a.i for a in node.attribute}
        axes = {"Conv": 0, "ConvTranspose": 1, "Gemm": 1 - attributes.get("transB", 0), "MatMul": len(weight.dims) - 1}
        if node.op_type in axes:
            yield node, weight, axes[node.op_type]


def ranges(model: onnx.ModelProto, batch: np.ndarray) -> Ranges:
    """The least and the largest value of what each layer reads, over one batch."""
    import onnxruntime

    wanted = list(dict.fromkeys(node.input[0] for node, _, _ in layers(model.graph)))
    wide = onnx.ModelProto.FromString(model.SerializeToString())
    made = [name for name in wanted if name not in {x.name for x in (*model.graph.input, *model.graph.output)}]
    wide.graph.output.extend(onnx.ValueInfoProto(name=name) for name in made)
    session = onnxruntime.InferenceSession(wide.SerializeToString(), providers=["CPUExecutionProvider"])
    values = dict(zip(made, session.run(made, {model.graph.input[0].name: batch}), strict=True)) if made else {}
    values[model.graph.input[0].name] = batch
    return {name: (min(0.0, float(v.min())), max(0.0, float(v.max()))) for name, v in values.items()}


class Quantizer:
    """Puts QuantizeLinear and DequantizeLinear around the layers of a model, in place."""

    def __init__(self, model: onnx.ModelProto, ranges: Ranges, rows: bool, in_graph: bool) -> None:
        self.graph, self.ranges, self.rows, self.in_graph = model.graph, ranges, rows, in_graph
        self.first: dict[str, list[onnx.NodeProto]] = {}  # new nodes, by the name of what they stand before

    def run(self) -> None:
        found = list(layers(self.graph))
        for node, weight, axis in found:
            self.weight(node, weight, axis)
        for name in dict.fromkeys(node.input[0] for node, _, _ in found):
            self.activation(name)
        self.arrange()

    def keep(self, values: np.ndarray, name: str) -> str:
        self.graph.initializer.append(numpy_helper.from_array(values, name))
        return name

    def weight(self, node: onnx.NodeProto, weight: onnx.TensorProto, axis: int) -> None:
        """Codes and their DequantizeLinear; or the weight, its QuantizeLinear and its DequantizeLinear."""
        values, name = numpy_helper.to_array(weight), weight.name
        most = np.abs(values).max(tuple(i for i in range(values.ndim) if i != axis) if self.rows else None)
        scale = np.maximum(most, 1e-8).astype(np.float32) / np.float32(MOST)
        laid = scale.reshape([-1 if i == axis else 1 for i in range(values.ndim)]) if self.rows else scale
        codes = np.clip(np.rint(values / laid), -MOST, MOST).astype(np.int8)
        s, z = self.keep(scale, f"{name}.scale"), self.keep(np.zeros(scale.shape, np.int8), f"{name}.zero")
        settings = {"axis": axis} if self.rows else {}
        nodes = [
            helper.make_node("DequantizeLinear", [f"{name}.codes", s, z], [f"{name}.real"], f"{name}.dq", **settings)
        ]
        if self.in_graph:
            quantizer = helper.make_node("QuantizeLinear", [name, s, z], [f"{name}.codes"], f"{name}.q", **settings)
            nodes.insert(0, quantizer)
        else:
            weight.CopyFrom(numpy_helper.from_array(codes, f"{name}.codes"))
        self.first[node.output[0]] = nodes
        node.input[1] = f"{name}.real"

    def activation(self, name: str) -> None:
        """Every reader of a tensor reads its rounded values, in uint8."""
        low, high = self.ranges[name]
        scale = np.float32(max(high - low, 1e-6) / 255)
        zero = np.uint8(np.clip(np.rint(-low / scale), 0, 255))
        s, z = self.keep(scale, f"{name}.scale"), self.keep(np.asarray(zero), f"{name}.zero")
        pair = [
            helper.make_node("QuantizeLinear", [name, s, z], [f"{name}.codes"], f"{name}.q"),
            helper.make_node("DequantizeLinear", [f"{name}.codes", s, z], [f"{name}.real"], f"{name}.dq"),
        ]
        readers = [node for node in self.graph.node if name in node.input]
        for node in readers:
            node.input[:] = [f"{name}.real" if x == name else x for x in node.input]
        at = self.first.setdefault(readers[0].output[0], [])
        at[:0] = pair

    def arrange(self) -> None:
        """New nodes stand right before the first node that reads what they make."""
        order = [new for node in self.graph.node for new in (*self.first.get(node.output[0], []), node)]
        copies = [onnx.NodeProto.FromString(node.SerializeToString()) for node in order]
        del self.graph.node[:]
        self.graph.node.extend(copies)
