"""Whether two values of an output differ: at all, or by more than rounding does."""

from __future__ import annotations

from typing import Any

import numpy as np

from ..float64.floating import is_floating, roundoff

SHOWN = 16.0  # roundoffs of an element, or of the tensor's usual size, by which an output changes


def unlike(usual: Any, other: Any) -> bool:
    """Whether an output is not the same to the last bit."""
    if not isinstance(usual, np.ndarray) or not isinstance(other, np.ndarray) or usual.dtype == object:
        return repr(usual) != repr(other)
    return usual.shape != other.shape or usual.tobytes() != other.tobytes()


def beyond_rounding(usual: Any, other: Any) -> bool:
    """Whether an output changed beyond what rounding could do."""
    if not isinstance(usual, np.ndarray) or usual.shape != np.shape(other) or not is_floating(usual):
        return bool(not np.array_equal(usual, other)) if isinstance(usual, np.ndarray) else repr(usual) != repr(other)
    with np.errstate(all="ignore"):
        before, after = (np.asarray(each, np.float64) for each in (usual, other))
        size = np.sqrt(np.mean(np.square(before), where=np.isfinite(before))) if np.isfinite(before).any() else 0.0
        off = np.abs(after - before) > SHOWN * roundoff(usual.dtype) * np.maximum(np.abs(before), size)
    return bool((off | (np.isfinite(before) != np.isfinite(after))).any())
