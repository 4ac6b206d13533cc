"""Verification: two models that agree at most sizes, and not at the least ones that the original takes."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import onnx.parser
import pytest
from onnx import numpy_helper

from bnfold import verify

F = np.float32
W = np.random.default_rng(0).standard_normal((8, 4)).astype(F)
Made = tuple[str, dict[str, Any]]


def model(made: Made, x: str) -> onnx.ModelProto:
    lines, constants = made
    built = onnx.parser.parse_model(f'<ir_version: 8, opset_import: ["" : 17]> g ({x}) => (float[] y) {{ {lines} }}')
    stored = ((name, np.asarray(value)) for name, value in constants.items())
    built.graph.initializer.extend(numpy_helper.from_array(value, name) for name, value in stored)
    return built


def reshaped(*sizes: int) -> Made:
    return "m = MatMul (x, w)  y = Reshape (m, k)", {"w": W, "k": np.array(sizes)}


def times_two(*shape: int) -> Made:
    return "y = Mul (x, s)", {"s": np.full(shape, 2, F)}


DIFFERENT = {
    "columns that are repeated": (times_two(1, 16), times_two(), "float[N,L] x", "L is 1"),
    "rows that are repeated": (times_two(2, 1), times_two(), "float[N,8] x", "N is 1"),
    "zeros that repeat a product": (
        ("m = Mul (x, u)  y = Add (m, z)", {"z": np.zeros((2, 1), F)}),
        ("y = Mul (x, u)", {}),
        "float[N,8] x, float[N,8] u",
        "N is 1",
    ),
    "an empty batch that is not passed": (reshaped(0, 4), reshaped(0, -1), "float[N,8] x", "N is 0"),
    "an empty batch that two sizes are not told of": (reshaped(-1, 2, 2), reshaped(0, 2, -1), "float[N,8] x", "N is 0"),
}


@pytest.mark.parametrize("name", DIFFERENT)
def test_what_only_the_least_sizes_show_fails(name: str) -> None:
    first, second, x, words = DIFFERENT[name]
    result = verify(model(first, x), model(second, x))
    assert result.verdict == "FAIL"
    assert words in " ".join(result.reasons)


RIGHT = {
    "one row for all": (times_two(1, 8), times_two(8), "float[N,8] x"),
    "what only the folded model takes": (reshaped(0, -1), reshaped(0, 4), "float[N,8] x"),
    "a Reshape as Flatten": (reshaped(-1, 4), ("m = MatMul (x, w)  y = Flatten (m)", {"w": W}), "float[N,8] x"),
}


@pytest.mark.parametrize("name", RIGHT)
def test_what_takes_all_that_the_original_takes_passes(name: str) -> None:
    first, second, x = RIGHT[name]
    assert verify(model(first, x), model(second, x)).verdict == "PASS"
