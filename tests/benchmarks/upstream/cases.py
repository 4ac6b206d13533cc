"""The cases: a model in `models/`, what is right for it and why, which versions go wrong, and how.

To add one, write `models/NAME.onnxtxt` and an entry in CASES, and paste the rows that `python -m tests.benchmarks.upstream
--rows` prints into README.md. A case that needs a GPU names its `provider`; where that cannot run, it is skipped.
"""

from __future__ import annotations

import re
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
import onnx.parser
from onnx import helper, numpy_helper

MODELS = Path(__file__).parent / "models"
COUNTED = 16  # so many values count up from 1; more are drawn

Values = dict[str, np.ndarray]


@dataclass(frozen=True)
class Case:
    """One fault. `right` computes the outputs by name from the inputs, in float64, with NumPy alone."""

    name: str
    symptom: str  # wrong, slow, does not load, does not run, crashes
    seen: tuple[str, str]  # the oldest and the newest version that were tried and have it
    fixed: str | None  # the first version that was tried and does not have it
    why: str  # what is right, and what goes wrong instead
    right: Callable[[Values], Values]
    runtime: str = "onnxruntime"  # or onnx: its ReferenceEvaluator
    provider: str = "CPUExecutionProvider"
    optimized: bool = True  # at the default level, or with every optimization off
    stored: tuple[str, ...] = ()  # inputs of the text that become initializers, too many numbers to be written
    instead: str = ""  # for `slow`: another model in models/, with the same inputs, that computes the same
    tolerance: float = 1e-3  # of the largest value of an output

    def expected(self, version: str) -> str | None:
        """What this version is known to do: be right, or show the symptom; None for a version that nobody tried."""
        if self.fixed and ordered(version) >= ordered(self.fixed):
            return "right"
        oldest, newest = map(ordered, self.seen)
        return self.symptom if oldest <= ordered(version) <= newest else None

    def model(self) -> onnx.ModelProto:
        """The model, with what is `stored` moved from its inputs to its initializers."""
        model = onnx.parser.parse_model((MODELS / f"{self.name}.onnxtxt").read_text())
        inputs = {value.name: value for value in model.graph.input}
        for name in self.stored:
            model.graph.initializer.append(numpy_helper.from_array(drawn(inputs[name]), name))
            model.graph.input.remove(inputs[name])
        return model

    def values(self) -> Values:
        """Every input, and what is `stored`."""
        model = onnx.parser.parse_model((MODELS / f"{self.name}.onnxtxt").read_text())
        return {value.name: drawn(value) for value in model.graph.input}


def ordered(version: str) -> tuple[int, ...]:
    return tuple(int(number) for number in re.findall(r"\d+", version)[:3])


def drawn(declared: onnx.ValueInfoProto) -> np.ndarray:
    """1, 2, 3, .. for a few values; normally distributed for many, of which a variance is positive."""
    kind = declared.type.tensor_type
    shape = [axis.dim_value for axis in kind.shape.dim]
    rng = np.random.default_rng(zlib.crc32(declared.name.encode()))
    some = (
        np.arange(1.0, np.prod(shape) + 1).reshape(shape) if np.prod(shape) <= COUNTED else rng.standard_normal(shape)
    )
    return (np.abs(some) if declared.name == "var" else some).astype(helper.tensor_dtype_to_np_dtype(kind.elem_type))


SCALE = np.array([1.0, 2.0])  # of the BatchNormalizations, whose mean is 0, whose variance is 1 and whose epsilon is 0


def turned(x: np.ndarray) -> np.ndarray:
    return x.T * SCALE


def in_channels(x: np.ndarray) -> np.ndarray:
    return x.reshape(1, 2, 2) * SCALE[:, None]


def grouped(x: np.ndarray) -> np.ndarray:
    """Weights 1, 1 of the first group and 10, 10 of the second, each over two channels."""
    return np.array([1.0, 10.0]).reshape(1, 2, 1, 1) * x.reshape(1, 2, 2).sum(axis=2).reshape(1, 2, 1, 1)


def normalized(epsilon: float) -> Callable[[Values], Values]:
    """BatchNormalization of rows."""

    def right(v: Values) -> Values:
        return {"y": v["scale"] * (v["x"] - v["mean"]) / np.sqrt(v["var"] + epsilon) + v["bias"]}

    return right


PARAMETERS = ("scale", "bias", "mean", "var")
FUSION = "disabled_optimizers=['MatMul_BatchNormalization_Fusion'] avoids it"

CASES = [
    Case(
        "matmul_transpose_batchnorm",
        "wrong",
        ("1.23.2", "1.31.1"),
        "1.32.0",
        "After the Transpose a channel is a row of the product; the fusion into Gemm scales columns, since there are as many. "
        + FUSION,
        lambda v: {"y": turned(v["x"])},
    ),
    Case(
        "matmul_reshape_batchnorm",
        "wrong",
        ("1.23.2", "1.31.1"),
        "1.32.0",
        "After the Reshape the channel is axis 1 of three; the fusion scales the last axis, which has the same size. "
        + FUSION,
        lambda v: {"y": in_channels(v["x"])},
    ),
    Case(
        "matmul_reshape_output_batchnorm",
        "does not load",
        ("1.23.2", "1.31.1"),
        "1.32.0",
        "The Reshape between is an output of the graph, and the fusion removes it: `Failed to find node output`. "
        + FUSION,
        lambda v: {"u": v["x"].reshape(1, 2, 2), "y": in_channels(v["x"])},
    ),
    Case(
        "matmul_flat_reshape_output_batchnorm",
        "does not load",
        ("1.23.2", "1.32.0"),
        None,
        "The same with a Reshape that keeps the last axis, where 1.32 still folds. " + FUSION,
        lambda v: {"u": v["x"], "y": v["x"] * SCALE},
    ),
    Case(
        "matmul_batchnorm_mixed_types",
        "does not load",
        ("1.23.2", "1.32.0"),
        None,
        "Statistics in float32 beside float16 are valid from opset 15 on; the fusion divides one type by the other. "
        + FUSION,
        lambda v: {"y": v["x"] * SCALE},
    ),
    Case(
        "batchnorm_9_empty_outputs",
        "crashes",
        ("1.23.2", "1.32.0"),
        None,
        "Outputs that empty names leave out are no outputs, so this is inference; the process dies while it runs.",
        lambda v: {"y": v["x"] * SCALE[:, None, None]},
        optimized=False,
    ),
    Case(
        "batchnorm_65536_rows",
        "does not run",
        ("1.31.1", "1.31.1"),
        None,
        "Every number of rows is valid; cuDNN gets them as a batch, and refuses more than 65535 (onnxruntime issue 7095). "
        "A Linear before it, folded, runs.",
        normalized(1e-5),
        provider="CUDAExecutionProvider",
        stored=PARAMETERS,
    ),
    Case(
        "batchnorm_many_rows",
        "slow",
        ("1.31.1", "1.31.1"),
        None,
        "The numbers are right, but since cuDNN gets rows as a batch, the time grows with rows times channels: on an H200 5.2 ms "
        "where element by element it is 0.1 ms, and for 6272 rows 0.51 to 0.03 ms. As [1, C, rows, 1] it is as fast.",
        lambda v: {"y": normalized(0.0)(v)["y"][0]},
        provider="CUDAExecutionProvider",
        stored=PARAMETERS,
        instead="affine_many_rows",
    ),
    Case(
        "reference_conv_transpose_groups",
        "does not run",
        ("1.23.2", "1.23.2"),
        None,
        "The weights of a group are a part of axis 0 (input channels); the evaluator takes a part of another.",
        lambda v: {"y": grouped(v["x"])},
        runtime="onnx",
    ),
    Case(
        "reference_loop_without_condition",
        "wrong",
        ("1.23.2", "1.23.2"),
        None,
        "Without a condition the body runs as often as the trip count says; the evaluator does not run it at all.",
        lambda v: {"y": 8 * v["x"]},
        runtime="onnx",
    ),
]
