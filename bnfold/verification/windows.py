"""Sliding windows: the geometry that convolutions and pools share, for any number of spatial axes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ..runtime.protos import Array as Array

Ints = Sequence[int] | None


@dataclass(frozen=True)
class Window:
    """A kernel of `kernel` taps per spatial axis, `dilations` apart, moved by `strides` over an image padded by
    `before` and `after`."""

    kernel: tuple[int, ...]
    strides: tuple[int, ...]
    dilations: tuple[int, ...]
    before: tuple[int, ...]
    after: tuple[int, ...]

    @classmethod
    def of(cls, sizes: Sequence[int], kernel: Any, strides: Ints, dilations: Ints, pads: Ints, auto_pad: Any) -> Window:
        """The window ONNX attributes describe over an image of `sizes` (absent: strides 1, dilations 1, pads 0)."""
        rank = len(sizes)
        steps, gaps = tuple(strides or (1,) * rank), tuple(dilations or (1,) * rank)
        given = tuple(pads or (0,) * (2 * rank))
        plain = cls(tuple(kernel), steps, gaps, given[:rank], given[rank:])
        return plain._same(sizes, auto_pad) if auto_pad in ("SAME_UPPER", "SAME_LOWER", "VALID") else plain

    def _same(self, sizes: Sequence[int], auto_pad: str) -> Window:
        """Pads for ceil(size / stride) windows; an odd one goes to the end (UPPER) or the start (LOWER)."""
        if auto_pad == "VALID":
            return Window(self.kernel, self.strides, self.dilations, (0,) * len(sizes), (0,) * len(sizes))
        axes = zip(sizes, self.strides, self.extents, strict=True)
        total = [max(0, ((size - 1) // step) * step + extent - size) for size, step, extent in axes]
        small, large = tuple(t // 2 for t in total), tuple(t - t // 2 for t in total)
        before, after = (small, large) if auto_pad == "SAME_UPPER" else (large, small)
        return Window(self.kernel, self.strides, self.dilations, before, after)

    @property
    def extents(self) -> tuple[int, ...]:
        """How many positions the dilated kernel covers along each axis."""
        return tuple((k - 1) * d + 1 for k, d in zip(self.kernel, self.dilations, strict=True))

    def counts(self, sizes: Sequence[int], ceil: bool = False) -> tuple[int, ...]:
        """How many windows fit along each axis; with `ceil` a partial one too, unless it starts in the end pad."""
        return tuple(self._count(axis, size, ceil) for axis, size in enumerate(sizes))

    def _count(self, axis: int, size: int, ceil: bool) -> int:
        step, before = self.strides[axis], self.before[axis]
        room = size + before + self.after[axis] - self.extents[axis]
        count = max(0, (-(-room // step) if ceil else room // step) + 1)
        return count - 1 if ceil and count and (count - 1) * step >= size + before else count

    def pad(self, x: Array, fill: float, counts: Sequence[int]) -> Array:
        """`x` padded with `fill`, far enough that `counts` windows fit along every spatial axis."""
        widths = [(0, 0), (0, 0)]
        for axis, count in enumerate(counts):
            size = x.shape[axis + 2] + self.before[axis]
            last = (count - 1) * self.strides[axis] + self.extents[axis]
            widths.append((self.before[axis], max(self.after[axis], last - size)))
        return np.pad(x, widths, constant_values=fill) if any(map(any, widths)) else x

    def taps(self, padded: Array, counts: Sequence[int]) -> Array:
        """All windows as one view: (N, C, *counts, *kernel)."""
        if 0 in counts:
            return np.empty((*padded.shape[:2], *counts, *self.kernel), padded.dtype)
        axes = tuple(range(2, padded.ndim))
        view = np.lib.stride_tricks.sliding_window_view(padded, self.extents, axes)
        moves = tuple(slice(0, (n - 1) * s + 1, s) for n, s in zip(counts, self.strides, strict=True))
        return view[(slice(None), slice(None), *moves, *(slice(None, None, d) for d in self.dilations))]
