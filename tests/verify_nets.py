"""Small networks with a BatchNormalization, and folds of them written by hand in numpy."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx.parser
import pytest
from onnx import numpy_helper

from bnfold.verification.float64.oracle import Oracle

Weights = dict[str, np.ndarray]
EPSILON = 1e-5


@dataclass(frozen=True)
class Net:
    """One linear operator with a BatchNormalization, a Relu after it, and one more linear operator.

    `rows` lays a value per channel along the weights; `grouped` says how a wrong group layout would do it.
    """

    name: str
    x: tuple[int, ...]
    first: str
    second: str
    w: tuple[int, ...]
    w2: tuple[int, ...]
    channels: int
    rows: Callable[[np.ndarray], np.ndarray]

    def weights(self, seed: int, dtype: type = np.float32) -> Weights:
        r = np.random.default_rng(seed)
        c = self.channels
        fan_in = np.prod(self.w) / max(c, 1)
        made = {
            "w": r.standard_normal(self.w) / np.sqrt(fan_in),
            "b": r.standard_normal(c),
            "scale": r.uniform(0.5, 1.5, c) * np.where(np.arange(c) % 4 == 1, -1, 1),
            "shift": r.standard_normal(c),
            "mean": r.standard_normal(c),
            "var": r.uniform(0.02, 0.2, c),
            "w2": r.standard_normal(self.w2) / np.sqrt(np.prod(self.w2[1:])),
        }
        return {k: v.astype(dtype) for k, v in made.items()}

    def original(self, weights: Weights, epsilon: float = EPSILON, bias: bool = True) -> onnx.ModelProto:
        constants = weights if bias else {k: v for k, v in weights.items() if k != "b"}
        first = self.first.replace(", b)", ")") if not bias else self.first
        lines = f"t = {first}  n = BatchNormalization <epsilon = {epsilon!r}> (t, scale, shift, mean, var)"
        return self.model(lines, constants)

    def folded(self, weights: Weights) -> onnx.ModelProto:
        return self.model(f"n = {self.first}", {k: weights[k] for k in ("w", "b", "w2")})

    def model(self, lines: str, constants: Weights) -> onnx.ModelProto:
        kind = {"float32": "float", "float16": "float16", "bfloat16": "bfloat16", "float64": "double"}[
            constants["w"].dtype.name
        ]
        dims = ", ".join(map(str, ("N", *self.x)))
        out = ", ".join(f"out{axis}" for axis in range(len(self.x) + 1))
        text = f"g ({kind}[{dims}] x) => ({kind}[{out}] y) {{ {lines}  r = Relu (n)  y = {self.second} }}"
        model = onnx.parser.parse_model(f'<ir_version: 8, opset_import: ["" : 17]> {text}')
        model.graph.initializer.extend(numpy_helper.from_array(v, k) for k, v in constants.items())
        return model

    def fold(self, weights: Weights, epsilon: float = EPSILON, bias: bool = True) -> Weights:
        """W' and b' in float64, rounded once."""
        w = {k: v.astype(np.float64) for k, v in weights.items()}
        s = w["scale"] / np.sqrt(w["var"] + float(np.float32(epsilon)))
        b = (w["b"] if bias else 0.0 * w["b"]) - w["mean"]
        folded = {"w": w["w"] * self.rows(s), "b": b * s + w["shift"], "w2": w["w2"]}
        return {k: v.astype(weights["w"].dtype) for k, v in folded.items()}


def per_output(v: np.ndarray) -> np.ndarray:
    return v.reshape(-1, 1, 1, 1)


def per_group_column(v: np.ndarray) -> np.ndarray:
    """ConvTranspose with 2 groups: W is (4, 3, 3, 3), output channel g*3+m belongs to rows 2g, 2g+1."""
    return np.repeat(v.reshape(2, 3), 2, axis=0).reshape(4, 3, 1, 1)


CONV = Net(
    "conv", (3, 9, 9), "Conv <pads = [1,1,1,1]> (x, w, b)", "Conv (r, w2)", (8, 3, 3, 3), (5, 8, 3, 3), 8, per_output
)
DEPTHWISE = Net(
    "depthwise", (8, 9, 9), "Conv <group = 8> (x, w, b)", "Conv (r, w2)", (8, 1, 3, 3), (5, 8, 1, 1), 8, per_output
)
TRANSPOSE = Net(
    "transpose", (4, 5, 5), "ConvTranspose <group = 2, strides = [2,2]> (x, w, b)", "Conv (r, w2)",
    (4, 3, 3, 3), (5, 6, 3, 3), 6, per_group_column,
)  # fmt: skip
GEMM = Net(
    "gemm",
    (12,),
    "Gemm <transB = 1> (x, w, b)",
    "Gemm <transB = 1> (r, w2)",
    (10, 12),
    (6, 10),
    10,
    lambda v: v[:, None],
)
NETS = {net.name: net for net in (CONV, DEPTHWISE, TRANSPOSE, GEMM)}


def written(net: Net, folder: Path) -> list[str]:
    """The files of a network and of its faultless fold."""
    weights = net.weights(0)
    onnx.save(net.original(weights), folder / "a.onnx")
    onnx.save(net.folded(net.fold(weights)), folder / "b.onnx")
    return [str(folder / "a.onnx"), str(folder / "b.onnx")]


def swapped(values: np.ndarray) -> np.ndarray:
    return np.concatenate([values[1::-1], values[2:]])


def one_channel(values: np.ndarray) -> np.ndarray:
    moved = values.copy()
    moved.reshape(len(values), -1)[-1] *= 1 + 1e-3
    return moved


def chain(lines: str, constants: Weights, opset: int = 17) -> onnx.ModelProto:
    text = f'<ir_version: 8, opset_import: ["" : {opset}]> g (float[N,4,6] x) => (float[N,4,6] y) {{ {lines} }}'
    model = onnx.parser.parse_model(text)
    model.graph.initializer.extend(numpy_helper.from_array(v.astype(np.float32), k) for k, v in constants.items())
    return model


def evaluate(model: onnx.ModelProto, feeds: Mapping[str, Any], names: Iterable[str] | None = None) -> dict[str, Any]:
    """One float64 evaluation by the oracle: the tensors called `names`, or the outputs of `model`."""
    return Oracle(model).evaluate(feeds, names)


def run_here(monkeypatch: pytest.MonkeyPatch, *, short: bool = False) -> None:
    """Let `verify` do its children's jobs in this process, which is faster; without `short` the full comparison."""
    from bnfold.process import launcher
    from bnfold.verification import comparison

    monkeypatch.setattr(launcher, "run", lambda job, request, **limits: job(dict(request)))
    if not short:
        monkeypatch.setattr(comparison, "confirmed", lambda *_: None)
