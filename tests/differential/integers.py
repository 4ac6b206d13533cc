"""Whether a tool left the integers of quantized weights as they are, but for signs that an affine gives them."""

from __future__ import annotations

import ml_dtypes
import numpy as np
import onnx
from onnx import numpy_helper


def changed_integers(original: onnx.ModelProto, model: onnx.ModelProto) -> str:
    """The first DequantizeLinear of both, by its name, whose codes changed by more than signs; '' if there is none.

    A code q may have become 2z - q, z that of an affine of zero, and in unsigned types, with the zero point, max - q.
    """
    before, after = (dequantizers(each) for each in (original, model))
    return next((name for name in before.keys() & after.keys() if not alike(before[name], after[name])), "")


def dequantizers(model: onnx.ModelProto) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Codes and zero points of stored weights, as numbers, by the name of the node."""
    stored = {t.name: numpy_helper.to_array(t) for t in model.graph.initializer}
    found = {}
    for node in model.graph.node:
        if node.op_type == "DequantizeLinear" and node.input[0] in stored and stored[node.input[0]].dtype != np.int32:
            codes = stored[node.input[0]]
            zero = stored[node.input[2]] if len(node.input) > 2 and node.input[2] else np.zeros((), codes.dtype)
            settings = {a.name: a.i for a in node.attribute}
            found[node.name] = codes, laid(zero, codes.shape, settings.get("axis", 1), settings.get("block_size", 0))
    return found


def laid(zero: np.ndarray, shape: tuple[int, ...], axis: int, block: int) -> np.ndarray:
    """A zero point for each code."""
    if zero.size == 1:
        zero = zero.reshape(())
    elif zero.ndim == 1:
        zero = zero.reshape([-1 if i == axis % len(shape) else 1 for i in range(len(shape))])
    elif block:
        zero = np.repeat(zero, block, axis).take(range(shape[axis]), axis)
    return np.broadcast_to(zero, shape)


def alike(before: tuple[np.ndarray, np.ndarray], after: tuple[np.ndarray, np.ndarray]) -> bool:
    """Whether each code is what it was, its opposite, or that of zero."""
    if before[0].shape != after[0].shape or before[0].dtype != after[0].dtype:
        return False
    (old, z), (new, other) = ([part.astype(np.float64) for part in pair] for pair in (before, after))
    same, turned, none = (new == old) & (other == z), (new == 2 * z - old) & (other == z), new == other
    if before[0].dtype.name.startswith("uint"):
        most = float(ml_dtypes.iinfo(before[0].dtype).max)
        turned |= (new == most - old) & (other == most - z)
    return bool((same | turned | none).all())
