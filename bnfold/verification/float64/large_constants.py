"""Constants that are too large to be copied as float64: where they can, operators widen some rows at a time."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from ...runtime.protos import attributes, called
from ...system.sizes import words
from ..regions import MOVES
from .floating import is_floating
from .windows import Array

WIDENED_AT_ONCE = 1 << 23  # numbers that are widened at a time: 64 MiB of float64; up to so many, all at once
SPARSE = 8  # where at most one of so many rows is used, only those that are used are widened


class Stored(np.ndarray[Any, Any]):
    """A constant in the type that it is stored in."""


class TooLarge(Exception):
    """An operator needs a constant whole, in float64, for which there is no memory."""


def to_float64(value: Any) -> Any:
    """A stored constant in float64, if it is one of floating-point numbers; anything else as it is."""
    if not isinstance(value, Stored):
        return value
    plain = value.view(np.ndarray)
    return plain.astype(np.float64) if is_floating(plain) else plain


def reading_blocks(operator: Any, memory: int) -> type:
    """The class of an operator of the reference that reads `Stored` constants, with `memory` bytes for them at most."""

    class Reading(operator):  # type: ignore[misc]
        def run(self, *inputs: Any, **context: Any) -> Any:
            if self.need_context() or not any(isinstance(value, Stored) for value in inputs):
                return super().run(*inputs, **context)  # a body reads them itself
            inputs = tuple(to_float64(value) if np.size(value) <= WIDENED_AT_ONCE else value for value in inputs)
            large = [i for i, value in enumerate(inputs) if isinstance(value, Stored)]
            made = _in_blocks(self, inputs, large)
            if made is not None:
                return (made,)
            needed = sum(8 * inputs[i].size for i in large) * (1 if self.onnx_node.op_type in MOVES else 2)
            if needed > memory:
                raise TooLarge(f"{called(self.onnx_node)}: in float64 its constants take {words(needed)} of memory")
            return super().run(*map(to_float64, inputs), **context)

    return Reading


def _in_blocks(node: Any, inputs: Sequence[Any], large: Sequence[int]) -> Array | None:
    """The output of a node of which the inputs `large` are stored constants; None if it needs them whole."""
    settings = attributes(node.onnx_node)
    if large != [1] or node.onnx_node.domain not in ("", "ai.onnx"):
        return None
    operator, x, w, *rest = node.onnx_node.op_type, inputs[0], inputs[1].view(np.ndarray), *inputs[2:]
    if not is_floating(w):
        return None
    if operator == "MatMul" and w.ndim == 2:
        return product_in_blocks(x, w)
    if operator == "Gemm":
        made: Array = settings.get("alpha", 1.0) * product_in_blocks(
            x.T if settings.get("transA") else x, w, bool(settings.get("transB"))
        )
        return made + settings.get("beta", 1.0) * rest[0] if rest and rest[0] is not None else made
    if operator == "Conv" and settings.get("group", 1) == 1:
        bias = rest[0] if rest else None
        parts = (node.run(x, _wide(w[at]), *([] if bias is None else [bias[at]]))[0] for at in _rows(w))
        return np.concatenate([*parts], axis=1)
    return None


def product_in_blocks(x: Array, w: Array, transposed: bool = False) -> Array:
    """x (.., K) @ w (K, N), or @ w.T of w (N, K), in float64. Rows of w that only zeros multiply may be left out."""
    if transposed:
        return np.concatenate([x @ _wide(w[rows]).T for rows in _rows(w)], axis=-1)
    out = np.zeros((*x.shape[:-1], w.shape[1]))
    for rows in _rows(w):
        part = x[..., rows]
        used = np.flatnonzero(part.reshape(-1, part.shape[-1]).any(axis=0))
        few = used.size * SPARSE <= part.shape[-1]
        out += part[..., used] @ _wide(w[rows][used]) if few else part @ _wide(w[rows])
    return out


def _rows(w: Array) -> Iterator[slice]:
    step = max(1, WIDENED_AT_ONCE * len(w) // max(1, w.size))
    return (slice(start, start + step) for start in range(0, len(w), step))


def _wide(part: Array) -> Array:
    return part.astype(np.float64)
