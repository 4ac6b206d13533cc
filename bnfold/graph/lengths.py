"""What is known of the lengths of axes, and of numbers computed from lengths, while a graph is gone through."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from contextlib import suppress
from typing import Any

import numpy as np
import onnx_graphsurgeon as gs

from ..algebra.affine import Array
from .constants import is_evaluable, value_of
from .implied_ranks import shape_of
from .products import OPEN, Dim, Product, symbol
from .shadows import FreshNames

Shape = tuple[Dim, ...]
Implied = Shape | None  # None where nothing follows
MOST_NUMBERS = 64  # numbers of a tensor that are looked at


class Lengths:
    """Shapes of tensors, noted one by one in the order of the nodes; a noted shape has a number or a Product per axis.

    `numbers` are small tensors of whole numbers.
    """

    def __init__(self, tensors: Sequence[gs.Tensor]) -> None:
        shapes = (x.shape or () for x in tensors)
        self._fresh = FreshNames({n for shape in shapes for n in shape if isinstance(n, str)})
        self._settled: set[int] = set()
        self._numbers: dict[int, Array] = {}
        for tensor in tensors:
            if not tensor.inputs and isinstance(tensor, gs.Variable) and id(tensor) not in self._settled:
                self.note_shape(tensor, None, {n for n in tensor.shape or () if isinstance(n, str)})

    def dims(self, tensor: gs.Tensor) -> Shape | None:
        """What is known by now of a shape; None if not even the rank is."""
        shape = shape_of(tensor)
        if shape is None or id(tensor) in self._settled or all(isinstance(n, int) for n in shape):
            return shape
        return tuple(n if isinstance(n, int) else None for n in shape)

    def note_shape(self, tensor: gs.Tensor, implied: Shape | None, names: Collection[str] = ()) -> None:
        """Write down a shape: numbers count first, then what is `implied`, then a name that is one of `names`."""
        stated = implied if tensor.shape is None else tensor.shape
        self._settled.add(id(tensor))
        if stated is None or tensor.is_empty():
            return
        if implied is None or len(implied) != len(stated):
            implied = (None,) * len(stated)
        tensor.shape = tuple(self._length(n, m, names) for n, m in zip(stated, implied, strict=True))

    def _length(self, stated: Any, implied: Dim, names: Collection[str]) -> Dim:
        if isinstance(stated, int) and not isinstance(implied, int):
            return stated
        return symbol(stated if stated in names and stated else self._fresh.name(OPEN)) if implied is None else implied

    def symbols(self, tensors: Sequence[gs.Tensor]) -> set[str]:
        """The symbols in the shapes of some tensors."""
        lengths = (n for tensor in tensors for n in self.dims(tensor) or ())
        return {name for n in lengths if isinstance(n, Product) for name in n.symbols}

    def note(self, tensor: gs.Tensor, numbers: Array | None) -> None:
        """Remember the numbers that a tensor holds."""
        if numbers is not None and numbers.size <= MOST_NUMBERS:
            self._numbers[id(tensor)] = numbers

    def is_noted(self, tensor: gs.Tensor) -> bool:
        return id(tensor) in self._numbers

    def numbers(self, tensor: gs.Tensor) -> Array | None:
        """The whole numbers in a tensor of rank 0 or 1, each a Dim; None where it is not known how many there are."""
        if id(tensor) in self._numbers:
            return self._numbers[id(tensor)]
        shape = shape_of(tensor)
        if shape is not None and not (
            len(shape) < 2 and all(isinstance(n, int) and 0 <= n <= MOST_NUMBERS for n in shape)
        ):
            return None
        value = self.constant(tensor)
        if value is None:
            return None if shape is None else np.full(shape, None, object)
        if value.dtype.kind not in "iu":
            return None
        return np.array([int(n) for n in value.ravel()], object).reshape(value.shape)

    def constant(self, tensor: gs.Tensor) -> Array | None:
        """The value of a small constant."""
        with suppress(Exception):  # what is large, or computed of such, has no values here; others may be damaged
            if is_evaluable(tensor):
                value = value_of(tensor)
                return value if value.size <= MOST_NUMBERS and value.ndim < 2 else None
        return None
