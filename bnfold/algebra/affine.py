"""The algebra: an affine map x -> scale * x + shift, and when it may be moved."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt

from ..system.limits import current

Array = npt.NDArray[Any]


class Refused(Exception):
    """An affine cannot take this step.

    `str(refused)` finishes the sentence "kept because ..."; `code` is the same reason for machines, and stable.
    """

    def __init__(self, code: str, reason: str) -> None:
        super().__init__(reason)
        self.code = code


def require(condition: object, code: str, reason: str) -> None:
    """Refuse unless `condition` holds."""
    if not condition:
        raise Refused(code, reason)


def require_room(*lengths: int) -> None:
    """Refuse to make an array with axes of these lengths where it would have more elements than the limit."""
    elements = math.prod(lengths)
    most = current().elements
    require(elements <= most, "TOO_LARGE", f"{elements} numbers would have to be computed; the limit is {most}")


def require_room_to_broadcast(*shapes: tuple[int, ...]) -> None:
    """Refuse to broadcast arrays, a column and a row say, to one larger than each of them and than the limit."""
    whole = np.broadcast_shapes(*shapes)
    if math.prod(whole) > max(map(math.prod, shapes)):
        require_room(*whole)


@dataclass(frozen=True, eq=False)
class Affine:
    """x -> scale * x + shift.

    Both arrays are float64 and keep the rank of the tensor they act on, with length 1 along every axis on which they
    do not vary: a BatchNormalization over (N, C, H, W) has coefficients of shape (1, C, 1, 1). Along an axis of 4*N
    elements, where only a run knows N, they may have length 4: they repeat.
    """

    scale: Array
    shift: Array

    @staticmethod
    def of(scale: npt.ArrayLike, shift: npt.ArrayLike = 0.0) -> Affine:
        """Coefficients of any rank, the lower one padded with leading axes of length 1."""
        s, t = np.asarray(scale, np.float64), np.asarray(shift, np.float64)
        rank = max(s.ndim, t.ndim)
        return Affine(at_rank(s, rank), at_rank(t, rank))

    def __call__(self, x: npt.ArrayLike, out: Array | None = None) -> Array:
        """scale * x + shift in float64, infinite where that overflows; `out` holds it, if given and of its shape."""
        with np.errstate(over="ignore", invalid="ignore"):
            scaled = np.multiply(self.scale, x, dtype=np.float64, out=out)
            alike = np.broadcast(scaled, self.shift).shape == scaled.shape
            return np.asarray(scaled if alike and not self.has_shift else np.add(scaled, self.shift, out=out))

    def reach(self, most: float) -> float:
        """No result is larger in magnitude, if no argument is larger than `most`."""
        return float(np.abs(self.scale).max() * most + np.abs(self.shift).max())

    def after(self, first: Affine) -> Affine:
        """self(first(x)) as one affine: s2 * (s1*x + t1) + t2 == (s2*s1) * x + (s2*t1 + t2)"""
        return Affine.of(self.scale * first.scale, self.scale * first.shift + self.shift)

    @property
    def rank(self) -> int:
        return self.scale.ndim

    @property
    def scaling(self) -> Affine:
        """The scale without the shift."""
        return Affine(self.scale, np.zeros_like(self.scale))

    @cached_property
    def has_scale(self) -> bool:
        return bool(np.count_nonzero(self.scale != 1))

    @cached_property
    def has_shift(self) -> bool:
        return bool(np.count_nonzero(self.shift))

    @cached_property
    def is_positive(self) -> bool:
        return bool(np.all(self.scale > 0))

    @cached_property
    def is_identity(self) -> bool:
        """Nothing changes: the scale is 1 and the shift 0, or there is not one number for them to act on."""
        return 0 in self.extent or not (self.has_shift or self.has_scale)

    @cached_property
    def extent(self) -> tuple[int, ...]:
        """The shape over which scale or shift vary."""
        return np.broadcast(self.scale, self.shift).shape

    def map(self, move: Callable[[Array], Array]) -> Affine:
        """Rearrange the coefficients exactly as an operator rearranges its data."""
        return Affine(move(self.scale), move(self.shift))

    def rows(self, chosen: slice) -> Affine:
        """The coefficients for some rows of a tensor of the same rank, which is at least 1."""
        return self.map(lambda c: c[chosen] if len(c) > 1 else c)

    def along(self, axis: int, size: int) -> Affine:
        """The coefficients as 1-D arrays of length `size`, if they vary on `axis` alone."""
        axis %= self.rank
        elsewhere = [n for i, n in enumerate(self.extent) if i != axis]
        require(all(n == 1 for n in elsewhere), "VARIES", f"it varies on more than axis {axis}")
        require(self.extent[axis] in (1, size), "VARIES", f"it has {self.extent[axis]} channels, not {size}")
        require_room(size)
        return self.map(lambda c: np.broadcast_to(c.ravel(), (size,)).copy())

    def on(self, axis: int, rank: int) -> Affine:
        """1-D coefficients laid along one axis of a tensor of `rank`. Refuses where it has no such axis."""
        require(-rank <= axis < rank, "VARIES", f"a tensor of rank {rank} has no axis {axis}")
        shape = [1] * rank
        shape[axis] = -1
        return self.map(lambda c: c.reshape(shape))


def at_rank(coefficients: Array, rank: int) -> Array:
    """Add leading axes of length 1, as broadcasting would, until the rank is at least `rank`."""
    return coefficients.reshape((1,) * (rank - coefficients.ndim) + coefficients.shape)


def compress(coefficients: Array) -> Array:
    """Drop every axis along which the coefficients are constant to length 1."""
    for axis in (axis for axis, length in enumerate(coefficients.shape) if length > 1):
        first = coefficients.take([0], axis=axis)
        if np.array_equal(np.broadcast_to(first, coefficients.shape), coefficients):
            coefficients = first
    return coefficients


IDENTITY = Affine.of(1.0)
