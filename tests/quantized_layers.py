"""One layer with quantized weights and a BatchNormalization after it, of every kind, for tests; and what it computes."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import ml_dtypes
import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from tests.reference import evaluate

KINDS = {name: np.dtype(getattr(ml_dtypes, name, None) or name) for name in (
    *("int8", "uint8", "int16", "uint16", "int4", "uint4"),
    *(f"float8_{suffix}" for suffix in ("e4m3fn", "e4m3fnuz", "e5m2", "e5m2fnuz")), "float4_e2m1fn")}  # fmt: skip
OPSETS = {"int8": 13, "uint8": 13, "float8_e4m3fn": 19, "float8_e4m3fnuz": 19, "float8_e5m2": 19, "float8_e5m2fnuz": 19,
          "float4_e2m1fn": 23}  # fmt: skip


@dataclass(frozen=True)
class Form:
    """An operator, the shapes of its data and weight, and the axis of the weight along which its channels lie."""

    operator: str
    x: tuple[int, ...]
    weight: tuple[int, ...]
    axis: int
    attributes: dict[str, Any] = field(default_factory=dict)
    port: int = 1  # of the weight
    channels: int = 6


GROUPED = Form("ConvTranspose", (2, 4, 3, 3), (4, 3, 3, 3), 1, {"group": 2})
FORMS = {
    "conv": Form("Conv", (2, 4, 5, 5), (6, 4, 3, 3), 0, {"pads": [1, 1, 1, 1]}),
    "depthwise": Form("Conv", (2, 6, 5, 5), (6, 1, 3, 3), 0, {"group": 6}),
    "transposed": Form("ConvTranspose", (2, 4, 3, 3), (4, 6, 3, 3), 1, {"strides": [2, 2]}),
    "transposed depthwise": Form("ConvTranspose", (2, 6, 3, 3), (6, 1, 3, 3), 0, {"group": 6}),
    "gemm": Form("Gemm", (2, 4), (6, 4), 0, {"transB": 1}),
    "gemm as it is": Form("Gemm", (2, 4), (4, 6), 1),
    "product": Form("MatMul", (2, 4), (4, 6), 1),
    "product from the left": Form("MatMul", (2, 4, 3), (6, 4), 0, port=0),
    "table": Form("Gather", (2,), (5, 6), 1, port=0),
}


def codes(shape: tuple[int, ...], kind: np.dtype[Any], rng: np.random.Generator, narrow: bool = True) -> np.ndarray:
    """Codes of any size; of integers only those with an opposite about a zero point of 0 or in the middle, if narrow."""
    if "int" not in kind.name:
        return (rng.standard_normal(shape) * 2).astype(np.float32).astype(kind)
    limits = ml_dtypes.iinfo(kind)
    return rng.integers(int(limits.min) + narrow, int(limits.max) + 1, shape).astype(kind)


def middle(kind: np.dtype[Any]) -> int:
    """The zero point of a symmetric quantization."""
    return (int(ml_dtypes.iinfo(kind).max) + 1) // 2 if kind.name.startswith("uint") else 0


def layer(
    form: str = "conv",
    kind: str = "int8",
    rows: bool = True,
    gamma: Any = None,
    values: np.ndarray | None = None,
    zero: Any = None,
    opset: int = 0,
    seed: int = 0,
    in_graph: bool = False,
    shift: bool = True,
) -> onnx.ModelProto:
    """The layer. `gamma` is that of the BatchNormalization, a third of it negative if it is left out."""
    rng, f, dtype = np.random.default_rng(seed), FORMS.get(form, GROUPED), KINDS[kind]
    count = f.weight[f.axis]
    gamma = np.where(rng.random(f.channels) < 0.4, -1, 1) * (rng.random(f.channels) + 0.5) if gamma is None else gamma
    scale = np.float32(rng.random(count if rows else ()) * 0.02 + 0.01)
    zero = np.broadcast_to(middle(dtype) if zero is None else zero, scale.shape)
    stored = {"q": codes(f.weight, dtype, rng) if values is None else values.astype(dtype), "s": scale}
    stored["z"] = np.array(zero).astype(np.int64 if "int" in kind else np.float32).astype(dtype)
    parameters = {"g": gamma, "b": rng.standard_normal(f.channels), "m": rng.standard_normal(f.channels) * 0.1,
                  "v": rng.random(f.channels) + 0.5}  # fmt: skip
    stored |= {name: np.float32(value) for name, value in parameters.items()}
    if not shift or form == "table":  # a table has no room for a shift
        stored |= {"b": np.zeros(f.channels, np.float32), "m": np.zeros(f.channels, np.float32)}
    axis = {"axis": f.axis} if rows else {}
    nodes = [helper.make_node("DequantizeLinear", ["q", "s", "z"], ["w"], name="dq", **axis)]
    if in_graph:
        laid = scale.reshape([-1 if i == f.axis else 1 for i in range(len(f.weight))]) if rows else scale
        real = (stored["q"].astype(np.float32) - np.float32(middle(dtype))) * laid
        stored["W"] = np.float32(real + laid * rng.uniform(-0.3, 0.3, f.weight))
        del stored["q"]
        nodes.insert(0, helper.make_node("QuantizeLinear", ["W", "s", "z"], ["q"], name="quantizer", **axis))
    reads = ["x", "w"] if f.port else ["w", "x"]
    nodes.append(
        helper.make_node(
            f.operator, reads, ["c"], name="layer", **f.attributes, **({"axis": 0} if form == "table" else {})
        )
    )
    nodes.append(helper.make_node("BatchNormalization", ["c", "g", "b", "m", "v"], ["y"], name="bn"))
    tensor = TensorProto.INT64 if form == "table" else TensorProto.FLOAT
    info = helper.make_tensor_value_info
    made = [numpy_helper.from_array(np.asarray(value), name) for name, value in stored.items()]
    graph = helper.make_graph(
        nodes,
        "g",
        [info("x", tensor, f.x)],
        [info("y", TensorProto.FLOAT, [None] * (2 if form == "table" else len(f.x)))],
        made,
    )
    opset = opset or OPSETS.get(kind, 21)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=10)


def stored(model: onnx.ModelProto) -> dict[str, np.ndarray]:
    return {tensor.name: numpy_helper.to_array(tensor) for tensor in model.graph.initializer}


def output(model: onnx.ModelProto, seed: int = 0) -> np.ndarray:
    """What the layer makes of random data, in float64 by an evaluation that shares no code with the fold."""
    rng, entering = np.random.default_rng(seed), model.graph.input[0].type.tensor_type
    shape = [dim.dim_value for dim in entering.shape.dim]
    whole = entering.elem_type == TensorProto.INT64
    copy = onnx.ModelProto.FromString(model.SerializeToString())
    for tensor in (t for t in copy.graph.initializer if t.data_type == TensorProto.FLOAT):
        tensor.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(tensor).astype(np.float64), tensor.name))
    return evaluate(copy, {"x": rng.integers(0, 5, shape) if whole else rng.standard_normal(shape)})[0]


def require_same(original: onnx.ModelProto, folded: onnx.ModelProto) -> None:
    """Both compute the same but for one rounding of each number to float32."""
    before, after = output(original), output(folded)
    assert np.abs(after - before).max() < 3e-6 * np.abs(before).max()
    onnx.checker.check_model(folded, full_check=True)
