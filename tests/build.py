"""Small models for tests, written in ONNX's own text format."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import onnx
import onnx.parser
from onnx import numpy_helper

from tests.reference import evaluate

KINDS = {"float64": "double", "float32": "float", "float16": "float16", "bfloat16": "bfloat16"}


def values(constants: Mapping[str, Any], seed: int = 0) -> dict[str, np.ndarray]:
    """Constants by shape (drawn; those whose name ends in `v` positive, as variances are) or by value."""
    rng = np.random.default_rng(seed)
    result = {}
    for name, c in constants.items():
        drawn = rng.random(c) + 0.1 if isinstance(c, tuple) and name.endswith("v") else None
        result[name] = drawn if drawn is not None else rng.standard_normal(c) if isinstance(c, tuple) else np.asarray(c)
    return result


def build(
    body: str, inputs: str, outputs: str, constants: Mapping[str, Any], opset: int = 17, ir: int = 8
) -> onnx.ModelProto:
    """A float64 model: `body` in ONNX text, `inputs` and `outputs` as "X[N,3,6,6]"; constants become initializers."""
    stored = values(constants)
    declared = ", ".join(f"{typed(v)}[{','.join(map(str, v.shape))}] {k}" for k, v in stored.items())
    interface = [
        ", ".join(f"double[{x.strip().split('[')[1]} {x.strip().split('[')[0]}" for x in part.split("; "))
        for part in (inputs, outputs)
    ]
    text = f'<ir_version: {ir}, opset_import: ["": {opset}]> m ({interface[0]}) => ({interface[1]}) <{declared}> {{ {body} }}'
    model = onnx.parser.parse_model(text)
    del model.graph.value_info[:]
    model.graph.initializer.extend(numpy_helper.from_array(v, k) for k, v in stored.items())
    return model


def typed(value: np.ndarray) -> str:
    return {"i": "int64", "b": "bool"}.get(value.dtype.kind, "double")


def bn(prefix: str, channels: int) -> dict[str, Any]:
    """Parameters of a BatchNormalization."""
    return {f"{prefix}{p}": (channels,) for p in "gbmv"}


def BN(x: str, prefix: str) -> str:
    return f"BatchNormalization({x}, {prefix}g, {prefix}b, {prefix}m, {prefix}v)"


def operators(model: onnx.ModelProto) -> list[str]:
    return [n.op_type for n in model.graph.node]


def feeds(model: onnx.ModelProto, seed: int = 1) -> dict[str, np.ndarray]:
    """Random inputs; dynamic axes get length 2."""
    stored = {t.name for t in model.graph.initializer}
    rng = np.random.default_rng(seed)
    shapes = {
        i.name: [d.dim_value or 2 for d in i.type.tensor_type.shape.dim]
        for i in model.graph.input
        if i.name not in stored
    }
    return {name: rng.standard_normal(shape) for name, shape in shapes.items()}


def assert_same(original: onnx.ModelProto, folded: onnx.ModelProto, tolerance: float = 1e-9) -> None:
    """Both are valid and compute the same in float64."""
    onnx.checker.check_model(folded, full_check=True)
    x = feeds(original)
    for want, got in zip(evaluate(original, x), evaluate(folded, x), strict=True):
        assert got.shape == want.shape
        scale = max(1.0, float(np.abs(want).max(initial=0)))
        np.testing.assert_allclose(got, want, rtol=tolerance, atol=tolerance * scale)
