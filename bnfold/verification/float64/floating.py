"""Floating-point types: which they are, their unit roundoff, and the absolute error that they cannot represent."""

from __future__ import annotations

from typing import Any

import numpy as np

from .windows import Array


def roundoff(dtype: Any, dropped: int = 0) -> float:
    """Half the distance from 1 to the next number of a floating-point type, `dropped` bits of a float32 left out."""
    if np.dtype(dtype) == np.float32:
        return 2.0 ** (dropped - 24)
    return 2.0**-8 if np.dtype(dtype).name == "bfloat16" else float(np.finfo(dtype).eps) / 2


def quantum(dtype: Any) -> float:
    """An absolute error that counts as none: the step of float16 near zero, the smallest normal float32 of others."""
    return 2.0**-24 if np.dtype(dtype) == np.float16 else 2.0**-126


def is_floating(values: Array) -> bool:
    """Whether values are of a floating-point type, bfloat16 included, whose `kind` NumPy calls V."""
    return values.dtype.kind == "f" or values.dtype.name == "bfloat16"


def wide(values: Array) -> Array:
    """Floating-point numbers as float64, others as they are."""
    return values.astype(np.float64) if is_floating(values) else values
