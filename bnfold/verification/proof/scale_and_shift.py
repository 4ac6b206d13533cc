"""An affine on a tensor, as numbers: how the folded model's tensors may differ from those of the original."""

from __future__ import annotations

from collections.abc import Sequence
from math import prod
from typing import NamedTuple, Protocol

import numpy as np

from ..float64.windows import Array


class NotOneLayer(Exception):
    """The piece is not one linear operator among others that an affine can be moved past; the text says why."""


class ScaleAndShift(NamedTuple):
    """x -> scale * x + shift, float64, of the shape of the tensor that they act on.

    `size` is how large the numbers are that the shift is the sum of, cancelled or not.
    """

    scale: Array
    shift: Array
    size: Array

    @classmethod
    def identity(cls, shape: Sequence[int]) -> ScaleAndShift:
        return cls(np.ones(shape), np.zeros(shape), np.zeros(shape))


class Shifted(Protocol):
    """What has a shift, and the size of the numbers that it is the sum of."""

    @property
    def shift(self) -> Array: ...
    @property
    def size(self) -> Array: ...


class Relation(NamedTuple):
    """The folded model's tensor is scale * x + shift, where x is the original's.

    All are float64, of the tensor's rank, of length 1 along axes where they do not vary, and repeated along the first
    axis where that is longer, as heads are for each item of a batch: `inner` are the other axes' lengths then. `size`
    is how large the numbers are that the shift is the sum of. `ratio` is how far the folded
    model's weights are from this, in unit roundoffs; rounded constants made it, `roundings` of them in a row.
    """

    scale: Array
    shift: Array
    size: Array
    ratio: float = 0.0
    roundings: float = 0.0
    inner: tuple[int, ...] = ()

    @property
    def is_identity(self) -> bool:
        return bool((self.scale == 1).all() and not self.shift.any())

    def of(self, shape: tuple[int, ...]) -> Relation:
        """The same, of a tensor of this shape: a factor or summand may have had fewer axes."""
        scale, shift, size = (values.reshape((1,) * (len(shape) - values.ndim) + values.shape) for values in self[:3])
        is_long = any(values.shape[:1] > (1,) for values in (scale, shift, size))
        return Relation(scale, shift, size, self.ratio, self.roundings, shape[1:] if is_long else ())

    def agrees(self, other: Relation | None) -> bool:
        """Whether another one has the same numbers, as far as float64 makes them the same."""
        return (
            other is not None
            and other.inner == self.inner
            and all(
                ours.shape == theirs.shape and np.allclose(ours, theirs, rtol=2.0**-30, atol=2.0**-40)
                for ours, theirs in zip(self[:2], other[:2], strict=True)
            )
        )


SAME = Relation(np.ones(()), np.zeros(()), np.zeros(()))
ABOUT_ONE = 2.0**-20  # a scale that is closer to 1 is 1


def about_one(scale: Array) -> Array:
    """A scale in which what is 1 but for rounding is 1."""
    return np.where(np.abs(scale - 1) < ABOUT_ONE, 1.0, scale)


def related(scale: Array, ours: Shifted, theirs: Shifted, unit: float, ratio: float) -> Relation | None:
    """The relation of two tensors with this scale, by what they are where all that enters is zero.

    A shift that may be rounding, to `unit`, of the numbers that it is the sum of, is none.
    """
    size = np.abs(scale) * ours.size + theirs.size
    shift = theirs.shift - scale * ours.shift
    if not all(np.isfinite(values).all() for values in (scale, shift, size)):
        return None
    shift = np.where(np.abs(shift) <= 4 * unit * size, 0.0, shift)
    return Relation(compressed(scale), compressed(shift), compressed(size), ratio).of(shift.shape)


def compressed(values: Array) -> Array:
    """Numbers as one along axes on which they are the same, and once where they are repeated along the first axis."""
    for axis in range(values.ndim):
        first = values.take([0], axis)
        if np.allclose(values, first, rtol=2.0**-40, atol=0):
            values = first
    count = len(values) if values.ndim else 0
    for period in (n for n in range(2, count // 2 + 1) if count % n == 0):
        rows = values.reshape(-1, period, *values.shape[1:])
        if np.allclose(rows, rows[:1], rtol=2.0**-40, atol=0):
            return np.asarray(rows[0])
    return values


def spread(values: Array, known: Array) -> Array:
    """Numbers of which some are not known: those are taken from others along axes on which all are the same, else 1."""
    for axis in range(values.ndim):
        first = np.where(known, values, -np.inf).max(axis=axis, keepdims=True)
        if np.isclose(values, first, rtol=2.0**-40, atol=0)[known].all():
            values, known = (
                np.broadcast_to(first, values.shape),
                np.broadcast_to(known.any(axis, keepdims=True), known.shape),
            )
    return np.where(known, values, 1.0)


def along(axis: int, values: Array, read: Array | None = None) -> Array:
    """One number for each place on an axis, of those elements that are `read`: 0 where none is.

    Raises NotOneLayer if numbers vary along another axis.
    """
    moved = np.moveaxis(values, axis, 0)
    rows = moved.reshape(len(moved), prod(moved.shape[1:]))
    if not rows.shape[1]:
        raise NotOneLayer("a tensor without elements shows no channel")
    if read is not None and not read.all():
        kept = np.moveaxis(read, axis, 0).reshape(rows.shape).astype(bool)
        first = rows[np.arange(len(rows)), kept.argmax(axis=1)]
        rows = np.where(kept, rows, np.where(kept.any(axis=1), first, 0.0)[:, None])
    if (rows != rows[:, :1]).any():
        raise NotOneLayer("an operator around it treats more than channels apart")
    return np.ascontiguousarray(rows[:, 0])
