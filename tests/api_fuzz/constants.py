"""A constant, stored in any of the ways there are."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from .net import Scope, Skip, Value, need
from .roundings import cast_like, cast_stored, cast_through, dequantized, requantized
from .stores import (
    arithmetic,
    chosen,
    expanded,
    filled,
    gathered,
    identity,
    joined,
    known,
    of_shape,
    plain,
    reshaped,
    sliced,
    transposed,
    unsqueezed,
)

WAYS: list[Callable[[Scope, np.ndarray, int], Value]] = [
    *(
        identity,
        transposed,
        transposed,
        reshaped,
        unsqueezed,
        expanded,
        filled,
        cast_through,
        cast_through,
        cast_through,
    ),
    *(cast_stored, cast_stored, cast_like, arithmetic, arithmetic, joined, sliced, gathered, dequantized, dequantized),
    *(dequantized, requantized, requantized, of_shape, chosen),
]
EXACT = [identity, transposed, reshaped, unsqueezed, joined, sliced, gathered]


def const(g: Scope, value: Any, kind: int, lossy: bool = True, hint: str = "c") -> Value:
    """A floating-point constant of about this value, stored in some way."""
    value = np.asarray(value, np.float64)
    if g.file.chance(0.08):
        same = [c for c in g.constants if c.kind == kind and c.shape == value.shape]
        if same and lossy:
            g.file.features["shared constant"] += 1
            return g.file.pick(same)
    if not g.file.chance(0.3):
        return plain(g, value, kind, hint)
    way = g.file.pick(WAYS if lossy else EXACT)
    mark = g.mark()
    try:
        made = known(way(g, value, kind))
        need(made.shape == value.shape and made.kind == kind)
    except Skip:
        g.undo(mark)
        return plain(g, value, kind, hint)
    g.file.features[f"constant: {way.__name__}"] += 1
    return made
