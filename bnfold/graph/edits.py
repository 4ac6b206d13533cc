"""The only ways in which a graph changes: what a plan says, and the editor does."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx_graphsurgeon as gs

from ..algebra.affine import Affine, Array


@dataclass(frozen=True, eq=False)
class SetConstant:
    """Apply an affine to one constant input of one node; an omitted one stands for zero."""

    node: gs.Node
    index: int
    share: Affine


@dataclass(frozen=True, eq=False)
class Retype:
    """Turn a node into another operator that computes the same, and more."""

    node: gs.Node
    operator: str


@dataclass(frozen=True, eq=False)
class Replace:
    """Give one input of one node new values of its own, of whatever shape (float64)."""

    node: gs.Node
    index: int
    value: Array


@dataclass(frozen=True, eq=False)
class InsertAdd:
    """Add a constant (float64), stored as `kind`, to the first output of one node, under the name that output had."""

    node: gs.Node
    shift: Array
    kind: np.dtype[Any]


@dataclass(frozen=True, eq=False)
class SetAttributes:
    """Give one node other values of integer attributes."""

    node: gs.Node
    values: dict[str, int | list[int]]


Edit = SetConstant | Retype | Replace | SetAttributes | InsertAdd
