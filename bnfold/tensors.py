"""Where the bytes of tensors live: the one place that reads them, and the one that writes them."""

from __future__ import annotations

import math
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import onnx
import onnx_graphsurgeon as gs
from onnx import TensorProto, helper, numpy_helper
from onnx.external_data_helper import load_external_data_for_tensor, uses_external_data

from . import wire
from .affine import IDENTITY, Affine, Array, at_rank
from .errors import ModelProblem
from .limits import current

DATA_FIELDS = (
    *("float_data", "int32_data", "string_data", "int64_data", "double_data", "uint64_data"),
    *("external_data", "data_location"),
)
CACHED = 1 << 16  # numbers, as float64 half a megabyte


class Held(gs.Constant):  # type: ignore[misc]
    """A stored constant of the view, and the affine that folding has put on it so far.

    Its values are computed in float64 when they are asked for, from what the file holds, and never kept: however many
    affines arrive, there is one rounding, when the model is closed.
    """

    def __init__(self, name: str, kind: np.dtype[Any], base: TensorProto | Array, folder: Path | None = None) -> None:
        super().__init__(name, np.empty(0))
        self.home: TensorProto | None = None
        self.maker: gs.Node | None = None
        self.hold(kind, base, folder)

    def hold(self, kind: np.dtype[Any], base: TensorProto | Array, folder: Path | None) -> None:
        """Point to the values: `base` is a message of the file, or an array (of rank 1 for an omitted input)."""
        self.kind, self.base, self.folder = kind, base, folder
        self.stored_shape = tuple(base.dims) if isinstance(base, TensorProto) else base.shape
        self.pending = IDENTITY
        self.largest: float | None = None

    @staticmethod
    def over(tensor: gs.Constant, home: TensorProto, folder: Path | None, maker: gs.Node | None = None) -> None:
        """Let a constant that onnx-graphsurgeon imported take its values from the message that stores them.

        `maker` is the Constant node, if one holds that message.
        """
        tensor.__class__ = Held
        tensor.home, tensor.maker = home, maker
        tensor.hold(helper.tensor_dtype_to_np_dtype(home.data_type), home, folder)

    @staticmethod
    def apart(tensor: gs.Constant, values: Array) -> None:
        """Let an imported constant hold values that no message of the file stores as they are."""
        tensor.__class__ = Held
        tensor.home, tensor.maker = None, None
        tensor.hold(values.dtype, values, None)

    def copy_as(self, name: str) -> Held:
        """The same constant under another name, stored nowhere yet."""
        made = Held(name, self.kind, self.base, self.folder)
        made.pending, made.largest = self.pending, self.largest
        return made

    @property
    def dtype(self) -> np.dtype[Any]:
        return self.kind

    @property
    def shape(self) -> tuple[int, ...]:
        if self.pending.is_identity:
            return self.stored_shape
        whole = np.broadcast_shapes(self.stored_shape, self.pending.extent)
        return whole[redundant(whole, len(self.stored_shape)) :]

    @property
    def stored(self) -> Array:
        return read(self.base, self.folder) if isinstance(self.base, TensorProto) else self.base

    def trust(self) -> None:
        """Take it that the values are finite and small, which saves reading them; whoever writes them looks."""
        self.largest = 0.0

    @property
    def reach(self) -> float:
        """No value is larger in magnitude; not a number where one of them is none."""
        if self.largest is None:
            stored = np.atleast_1d(self.stored)
            parts = [stored[rows] for rows in spans(stored)] if stored.size else []
            self.largest = float(np.max([end for part in parts for end in (part.max(), -part.min())], initial=0.0))
        return self.pending.reach(self.largest)

    @property
    def values(self) -> Array:
        """Floating point as float64, anything else as it is stored."""
        stored = self.stored
        if self.pending.is_identity:
            return widened(stored)
        value = self.pending(stored)
        return value.reshape(value.shape[redundant(value.shape, stored.ndim) :])

    def rounded(self) -> Iterator[tuple[Array, int]]:
        """`values` as `rounded` gives them, some rows at a time where they have the shape of what is stored."""
        stored = np.atleast_1d(self.stored)
        if self.pending.rank > stored.ndim or self.shape not in (stored.shape, ()):
            yield rounded(self.values, self.kind)
            return
        whole, room = self.pending.map(lambda c: at_rank(c, stored.ndim)), Room(stored, self.kind)
        for rows in spans(stored):
            yield room.rounded(whole.rows(rows), stored[rows])


class Room:
    """Arrays in which parts of an array are computed, one after the other: fresh ones take longer than computing."""

    def __init__(self, whole: Array, kind: np.dtype[Any]) -> None:
        longest = min(whole.size, rows_at_once(whole) * math.prod(whole.shape[1:]))
        self.wide, self.near, self.sizes = (np.empty(longest, each) for each in (np.float64, kind, kind))

    def rounded(self, affine: Affine, part: Array) -> tuple[Array, int]:
        """`rounded` of the affine of a part, which the next one overwrites."""
        wide, near, sizes = (each[: part.size].reshape(part.shape) for each in (self.wide, self.near, self.sizes))
        return rounded(affine(part, wide), near.dtype, near, sizes)


def rows_at_once(value: Array) -> int:
    """As many as the processor's cache holds."""
    return max(1, len(value) * CACHED // max(1, value.size))


def spans(value: Array) -> Iterator[slice]:
    """All rows of an array, as many at a time as the processor's cache holds."""
    step = rows_at_once(value)
    return (slice(start, start + step) for start in range(0, len(value), step))


def redundant(shape: tuple[int, ...], rank: int) -> int:
    """How many leading axes of length 1 exceed `rank`: broadcasting would put them back."""
    extra = max(0, len(shape) - rank)
    return next((i for i, n in enumerate(shape[:extra]) if n != 1), extra)


def widened(value: Array) -> Array:
    """Floating point of any width as float64; everything else as it is."""
    return value if value.dtype.kind in "iubSUO" else value.astype(np.float64)


BFLOAT16 = np.dtype(ml_dtypes.bfloat16)
TINY = {BFLOAT16: 2.0**-126, **{np.dtype(f"f{n}"): tiny for n, tiny in ((2, 0.0), (4, 2.0**-126), (8, 2.0**-1022))}}


def rounded(
    value: Array, kind: np.dtype[Any], near: Array | None = None, sizes: Array | None = None
) -> tuple[Array, int]:
    """float64 values rounded once to `kind`, and how many numbers too small for it, below TINY, became zero.

    Subnormals count as too small, since they slow inference down; but float16 keeps its own, which carry weights of
    ordinary size and which hardware runs at full speed. What overflows becomes infinite. The result is `near`, if that
    is given; it and `sizes` are overwritten.
    """
    wide, near = np.asarray(value), np.empty(np.shape(value), kind) if near is None else near
    with np.errstate(over="ignore", invalid="ignore"):
        np.copyto(near, to_odd(wide) if kind == BFLOAT16 else wide, casting="unsafe")
    sizes, tiny = np.abs(near, out=sizes), kind.type(TINY[kind])
    if not sizes.size or sizes.min() >= tiny:
        return near, 0
    small = (sizes < tiny) & (wide != 0)
    near[small] = 0
    return near, int(small.sum())


def to_odd(value: Array) -> Array:
    """float64 as float32, inexact ones to the neighbour with an odd last bit.

    ml_dtypes goes from float64 to bfloat16 by way of float32; so prepared, the second rounding gives what one would.
    """
    near = value.astype(np.float32)
    beyond = np.abs(near.astype(np.float64)) > np.abs(value)
    low = np.where(beyond, np.nextafter(near, np.float32(0)), near)
    inexact = low.astype(np.float64) != value
    return np.where(inexact & np.isfinite(value), (low.view(np.uint32) | 1).view(np.float32), near)


def read(tensor: TensorProto, folder: Path | None) -> Array:
    """The values of a tensor. Raises ModelProblem where its data is missing or does not match its shape."""
    try:
        if wire.reference(tensor):
            return mapped(tensor, folder or Path())
        if uses_external_data(tensor):
            tensor = loaded(tensor, folder or Path())
        return np.asarray(numpy_helper.to_array(tensor))
    except (ValueError, TypeError, OSError, onnx.checker.ValidationError) as problem:
        raise ModelProblem(
            f"the values of '{tensor.name}' cannot be read: {str(problem).splitlines()[0]}",
            "The file is damaged, or a data file that belongs to it is missing.",
        ) from problem


def mapped(tensor: TensorProto, folder: Path) -> Array:
    """The values of a tensor whose data lies in the model file; types of less than a byte are unpacked by onnx."""
    raw, kind = wire.data(tensor, folder), helper.tensor_dtype_to_np_dtype(tensor.data_type)
    if raw.size == math.prod(tensor.dims) * kind.itemsize and sys.byteorder == "little":
        return raw.view(kind).reshape(tuple(tensor.dims))
    whole = TensorProto(dims=tensor.dims, data_type=tensor.data_type, raw_data=raw.tobytes())
    return np.asarray(numpy_helper.to_array(whole))


def loaded(tensor: TensorProto, folder: Path) -> TensorProto:
    """A copy of an external tensor that holds its data."""
    whole = TensorProto()
    whole.CopyFrom(tensor)
    load_external_data_for_tensor(whole, str(folder))
    whole.data_location = TensorProto.DEFAULT  # which onnx itself says from 1.23 on
    del whole.external_data[:]
    return whole


def dense(sparse: onnx.SparseTensorProto, folder: Path | None) -> Array:
    """A sparse tensor as an array. Its indices are positions in row-major order, or one row per value."""
    if math.prod(sparse.dims) > current().elements:
        raise ModelProblem(
            f"'{sparse.values.name}' is a sparse tensor of {math.prod(sparse.dims)} elements; "
            f"the limit is {current().elements}",
            f"If the file is to be trusted: --limit elements={math.prod(sparse.dims)}.",
        )
    values, indices = read(sparse.values, folder), read(sparse.indices, folder)
    result = np.zeros(tuple(sparse.dims), values.dtype)
    if indices.ndim == 1:
        result.reshape(-1)[indices] = values
    else:
        result[tuple(indices.T)] = values
    return result


def to_tensor(values: Array, name: str) -> TensorProto:
    return numpy_helper.from_array(np.ascontiguousarray(values).reshape(values.shape), name)


def replace_values(message: TensorProto, values: Array) -> None:
    """New numbers in the same message: its name, documentation and metadata stay."""
    restate(message, values.shape, values.dtype)
    message.raw_data = numpy_helper.tobytes_little_endian(values)


def restate(message: TensorProto, shape: tuple[int, ...], kind: np.dtype[Any]) -> None:
    """Shape and type of new values; the old values are gone."""
    for field in DATA_FIELDS:
        message.ClearField(field)
    message.dims[:] = shape
    message.data_type = helper.np_dtype_to_tensor_dtype(kind)
