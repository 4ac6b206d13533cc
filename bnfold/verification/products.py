"""What operators make of constants that are too large to be held in float64: some rows of them at a time."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from onnx import NodeProto, helper

from .measure import is_floating
from .windows import Array

BLOCK = 1 << 23  # numbers that are widened at a time: 64 MiB of float64; up to so many, all at once
FEW = 8  # of so many rows one at most is used: only these are widened


def in_blocks(node: Any, inputs: Sequence[Any], large: Sequence[int]) -> Array | None:
    """The output of a node of the reference of which the inputs `large` are stored constants; None if it needs them
    whole."""
    message: NodeProto = node.onnx_node
    given = {a.name: helper.get_attribute_value(a) for a in message.attribute}
    if list(large) != [1] or message.domain not in ("", "ai.onnx"):
        return None
    x, w, *rest = inputs
    if not is_floating(w):
        return None
    if message.op_type == "MatMul" and w.ndim == 2:
        return product(x, w)
    if message.op_type == "Gemm":
        made: Array = given.get("alpha", 1.0) * product(x.T if given.get("transA") else x, w, bool(given.get("transB")))
        return made + given.get("beta", 1.0) * rest[0] if rest and rest[0] is not None else made
    if message.op_type == "Conv" and given.get("group", 1) == 1:
        bias = rest[0] if rest else None
        parts = (node.run(x, _wide(w[at]), *([] if bias is None else [bias[at]]))[0] for at in _rows(w))
        return np.concatenate([*parts], axis=1)
    return None


def product(x: Array, w: Array, transposed: bool = False) -> Array:
    """x (.., K) @ w (K, N), or @ w.T of w (N, K), in float64. Rows that nothing but zeros meet are not looked at."""
    if transposed:
        return np.concatenate([x @ _wide(w[rows]).T for rows in _rows(w)], axis=-1)
    out = np.zeros((*x.shape[:-1], w.shape[1]))
    for rows in _rows(w):
        part = x[..., rows]
        used = np.flatnonzero(part.reshape(-1, part.shape[-1]).any(axis=0))
        few = used.size * FEW <= part.shape[-1]
        out += part[..., used] @ _wide(w[rows][used]) if few else part @ _wide(w[rows])
    return out


def _rows(w: Array) -> Iterator[slice]:
    step = max(1, BLOCK * len(w) // max(1, w.size))
    return (slice(start, start + step) for start in range(0, len(w), step))


def _wide(part: Array) -> Array:
    return part.astype(np.float64)
