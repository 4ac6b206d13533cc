"""Regions of several tensors, or of operators that mix elements: compared on random numbers of several sizes.

A region without thresholds shows all that it does on these: normal numbers, much larger ones and much smaller ones, as
epsilons and products that overflow need. Of others, those are looked for of which only B makes something infinite or
undefined, as an Exp whose sum is divided by does.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence

import numpy as np
import onnx

from ...runtime.protos import Array, called
from ..float64.floating import roundoff
from ..regions import MIXING
from .differences import beyond_rounding
from .elementwise import Difference

SMOOTH = MIXING | frozenset(  # operators without a threshold: random numbers show all that they do
    ["BatchNormalization", "InstanceNormalization", "LayerNormalization", "GroupNormalization", "Softmax", "LogSoftmax"]
    + ["AveragePool", "GlobalAveragePool", "ReduceMean", "ReduceSum", "ReduceSumSquare", "Pad", "Add", "Sub", "Mul"]
    + ["Div", "Neg", "Sum", "Mean", "Identity", "GRU", "LSTM", "RNN", "Transpose", "Reshape", "Flatten", "Squeeze"]
    + ["Unsqueeze", "DepthToSpace", "SpaceToDepth", "Concat"]
)
OVERFLOW = frozenset(["Exp", "Pow", "Div", "Log", "Reciprocal", "Sinh", "Cosh", "ReduceSumSquare", "ReduceProd"])
COMMON = (1.0, -1.0, 1e3, -1e3)  # sizes of the same random numbers: each channel is above zero for one of two signs
EXTREME = (1e-6, 1e-9, 1e9)
BY_MOVES = 64.0  # times as far as the last place of constants and numbers moves a result, it is another one
Regions = Callable[
    [Mapping[str, Array]], Sequence[Array]
]  # what A and B make, and A with constants that are moved by a last place


def are_smooth(nodes: Sequence[onnx.NodeProto], constants: Collection[str]) -> bool:
    """Nothing is divided by data either: numbers near zero would outweigh all others."""
    return all(called(node) in SMOOTH and (called(node) != "Div" or node.input[1] in constants) for node in nodes)


def may_overflow(nodes: Sequence[onnx.NodeProto]) -> bool:
    return any(called(node) in OVERFLOW for node in nodes)


def compare_smooth(run: Regions, examples: Mapping[str, Array], seed: int) -> Difference | None:
    """Where two regions without thresholds differ; None where nothing is known, or by too little to be sure."""
    for size, fed in _inputs(examples, seed, (*COMMON, *EXTREME)):
        first, second, moved = run(fed)
        if not np.isfinite(first).all():
            if size in COMMON:
                return None
        elif _far_apart(first, second, moved):
            return Difference(f"of numbers of size {abs(size):g} A and B make others", True)
        elif beyond_rounding(first, second):
            return None
    return Difference()


def compare_overflow(run: Regions, examples: Mapping[str, Array], seed: int) -> Difference | None:
    """Where B makes something infinite or undefined, and A does not; None where that is not seen."""
    for size, fed in _inputs(examples, seed, COMMON):
        first, second = run(fed)[:2]
        if first.shape == second.shape and (np.isfinite(first) & ~np.isfinite(second)).any():
            return Difference(f"of numbers of size {abs(size):g} only B makes infinite or undefined ones", True)
    return None


def _inputs(
    examples: Mapping[str, Array], seed: int, sizes: Sequence[float]
) -> Iterator[tuple[float, dict[str, Array]]]:
    random = np.random.default_rng(seed)
    normal = {name: random.standard_normal(each.shape) for name, each in examples.items()}
    with np.errstate(over="ignore"):
        for size in sizes:
            yield size, {name: (size * normal[name]).astype(each.dtype) for name, each in examples.items()}


def _far_apart(first: Array, second: Array, moved: Array) -> bool:
    """Whether what A and B make is another thing, which no rounding explains."""
    if first.shape != second.shape:
        return False
    with np.errstate(all="ignore"):
        a, b, c = (each.astype(np.float64) for each in (first, second, moved))
        size = np.maximum(np.abs(a), np.sqrt(np.mean(np.square(a)))) if a.size else a
        limit = np.maximum(math.sqrt(roundoff(first.dtype)) * size, BY_MOVES * np.abs(a - c).max(initial=0.0))
        return bool((~(np.abs(a - b) <= limit)).any())
