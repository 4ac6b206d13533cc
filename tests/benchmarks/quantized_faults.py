"""How much verification sees of faults in quantized networks: `python -m tests.benchmarks.quantized_faults [NAMES...]`

Networks of the quantized zoo (tests/zoo_quantized.py) are folded, and one fault at a time is planted in what the fold
wrote at the first, a middle and the last layer, and at one whose weight has two axes of one length: in scales, signs,
codes, zero points, axes and biases. Each is verified as `bnfold verify A B` does it, which knows nothing of folding.
`--json` writes every row.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import onnx
from onnx import helper, numpy_helper
from onnx.reference import ReferenceEvaluator

import bnfold
from bnfold.benchmarking.environment import environment
from bnfold.folding import driver
from tests.zoo import line
from tests.zoo_quantized import CACHE, NAMES, source

FORMS = ("QDQ per channel", "QDQ per tensor", "QAT")
LAYERS = ("Conv", "ConvTranspose", "Gemm", "MatMul")
COLUMNS = ("network", "form", "layer", "fault", "verdict")


class Layer(NamedTuple):
    """A layer of a folded model by its output, and the stored tensors that it is made of; "" where there is none."""

    output: str
    weight: str  # dequantized
    scale: str
    codes: str  # or the weight that the graph quantizes
    zero: str
    bias: str
    quantizer: str  # its scale, where the graph quantizes the weight


def layers(model: onnx.ModelProto) -> list[Layer]:
    """The layers with quantized weights."""
    makers, stored = {n.output[0]: n for n in model.graph.node}, {t.name for t in model.graph.initializer}
    found = []
    for node in (n for n in model.graph.node if n.op_type in LAYERS):
        maker = makers.get(node.input[1])
        if maker is None or maker.op_type != "DequantizeLinear":
            continue
        quantizer = makers.get(maker.input[0])
        codes, scale = (quantizer.input[0], quantizer.input[1]) if quantizer is not None else (maker.input[0], "")
        bias = node.input[2] if len(node.input) > 2 and node.input[2] in stored else ""
        found.append(Layer(node.output[0], node.input[1], maker.input[1], codes, maker.input[2], bias, scale))
    return found


Change = Callable[[np.ndarray], np.ndarray]


def one(change: Change) -> Change:
    """In the first channel alone."""

    def changed(values: np.ndarray) -> np.ndarray:
        result = values.copy()
        result[:1] = change(values[:1])
        return result

    return changed


def swapped(values: np.ndarray) -> np.ndarray:
    return values[[1, 0, *range(2, len(values))]]


def by_one(codes: np.ndarray) -> np.ndarray:
    """The first number that is not the largest by one step; of a float weight, by that of its channel's codes."""
    result = codes.copy()
    step = 1 if codes.dtype.kind in "iu" else np.abs(codes).max() / 127
    result.flat[0] = result.flat[0] - np.sign(result.flat[0] or 1) * step
    return result


KINDS: dict[str, tuple[str, Change]] = {  # the tensor, and what becomes of it
    "scales x 1.001": ("scale", lambda v: v * np.float32(1.001)),
    "one scale x 1.001": ("scale", one(lambda v: v * np.float32(1.001))),
    "one scale with the wrong sign": ("scale", one(np.negative)),
    "scales of two channels swapped": ("scale", swapped),
    "scales one channel on": ("scale", lambda v: np.roll(v, 1)),
    "all scales that of the first": ("scale", lambda v: np.full_like(v, v[0])),
    "signs of one channel": ("codes", one(np.negative)),
    "one code by one": ("codes", by_one),
    "codes of two channels swapped": ("codes", swapped),
    "one zero point by one": ("zero", one(lambda v: v + 1)),
    "all zero points by one": ("zero", lambda v: v + 1),
    "another axis": ("axis", np.asarray),
    "bias forgotten": ("bias", np.zeros_like),
    "one bias x 1.001": ("bias", one(lambda v: v * np.float32(1.001))),
    "biases of two channels swapped": ("bias", swapped),
    "scale of the quantizer x 1.02": ("quantizer", lambda v: v * np.float32(1.02)),
}


def with_fault(folded: onnx.ModelProto, layer: Layer, kind: str) -> onnx.ModelProto | None:
    """The folded model with one fault; None where this layer cannot have it, or would mean the same."""
    part, change = KINDS[kind]
    model = onnx.ModelProto.FromString(folded.SerializeToString())
    if part == "axis":
        return turned(model, layer)
    name = getattr(layer, part)
    tensor = next((t for t in model.graph.initializer if t.name == name), None)
    if tensor is None or not tensor.dims or tensor.dims[0] < 2:
        return None
    old = numpy_helper.to_array(tensor)
    new = change(old).astype(old.dtype)
    if np.array_equal(old, new):
        return None
    tensor.CopyFrom(numpy_helper.from_array(new, name))
    return model if part == "bias" or not np.array_equal(weight(model, layer), weight(folded, layer)) else None


def weight(model: onnx.ModelProto, layer: Layer) -> np.ndarray:
    """What the layer reads. Where one tensor is the zero point of both, or the scale, a change may mean nothing."""
    makers = {n.output[0]: n for n in model.graph.node}
    nodes = [makers[layer.weight]]
    nodes[:0] = [makers[nodes[0].input[0]]] if nodes[0].input[0] in makers else []
    stored = [t for t in model.graph.initializer if any(t.name in n.input for n in nodes)]
    graph = helper.make_graph(nodes, "weight", [], [onnx.ValueInfoProto(name=layer.weight)], stored)
    small = helper.make_model(graph, opset_imports=model.opset_import, ir_version=model.ir_version)
    return np.asarray(ReferenceEvaluator(small).run(None, {})[0])


def turned(model: onnx.ModelProto, layer: Layer) -> onnx.ModelProto | None:
    """Scales along the other of the first two axes, where both are as long."""
    shapes = {t.name: t.dims for t in model.graph.initializer}
    if len(set(shapes[layer.codes][:2])) > 1 or not shapes[layer.scale]:
        return None
    for node in model.graph.node:
        if layer.scale in node.input[1:2] or (layer.quantizer and layer.quantizer in node.input[1:2]):
            for attribute in (a for a in node.attribute if a.name == "axis"):
                attribute.i = 1 - attribute.i
    return model


def rows(name: str, form: str, cache: Path, kinds: list[str]) -> Iterator[dict[str, Any]]:
    """What is said of every fault of one network."""
    path = source(name, form, cache)
    folded = driver.fold(path).model
    every = layers(folded)
    square = [layer for layer in every if with_fault(folded, layer, "another axis") is not None]
    for layer in dict.fromkeys([every[0], every[len(every) // 2], every[-1], *square[:1]]):
        for kind in kinds:
            wrong = with_fault(folded, layer, kind)
            if wrong is not None:
                found = bnfold.verify(path, wrong)
                yield {"network": name, "form": form, "layer": layer.output, "fault": kind, "verdict": found.verdict}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", default=list(NAMES), metavar="NAME", help=f"default: {', '.join(NAMES)}")
    parser.add_argument("--forms", nargs="+", choices=FORMS, default=list(FORMS))
    parser.add_argument("--kinds", nargs="+", choices=KINDS, default=list(KINDS))
    parser.add_argument("--cache", type=Path, default=CACHE, metavar="FOLDER", help="of the quantized files")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    started, done = time.perf_counter(), []
    print(line(COLUMNS), line(["---"] * len(COLUMNS)), sep="\n")
    for name in options.names:
        for form in options.forms:
            for row in rows(name, form, options.cache, options.kinds):
                done.append(row)
                print(line([row[key] for key in COLUMNS]), flush=True)
    verdicts = Counter(row["verdict"] for row in done)
    kinds = {row["fault"] for row in done}
    print(
        f"\n{len(done)} faults of {len(kinds)} kinds, {time.perf_counter() - started:.0f} s; verdicts: {dict(verdicts)}"
    )
    if options.json:
        record = {"schema": "bnfold.quantized_faults/1", "environment": environment(), "rows": done}
        options.json.write_text(json.dumps(record, indent=1) + "\n")
    return int(verdicts["FAIL"] != len(done))


if __name__ == "__main__":
    sys.exit(main())
