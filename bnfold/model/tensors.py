"""Where the bytes of tensors live: the one place that reads them, and the one that writes them."""

from __future__ import annotations

import math
import mmap
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx_graphsurgeon as gs
from onnx import TensorProto, helper, numpy_helper
from onnx.external_data_helper import uses_external_data

from ..algebra.affine import IDENTITY, Affine, Array
from ..algebra.rounding import Room, flattened, rounded, rows_at_once, spans, widened
from ..errors import ModelProblem, first_line
from ..system.limits import current
from . import datafiles, wire

DATA_FIELDS = (
    *("float_data", "int32_data", "string_data", "int64_data", "double_data", "uint64_data"),
    *("external_data", "data_location"),
)


class Held(gs.Constant):  # type: ignore[misc]
    """A stored constant of the view, and the affine that folding has put on it so far.

    Its values are computed in float64 when they are asked for, from what the file holds, and never kept: however many
    affines arrive, there is one rounding, when the model is closed.
    """

    shape: tuple[int, ...] = ()  # with them

    def __init__(self, name: str, kind: np.dtype[Any], base: TensorProto | Array, folder: Path | None = None) -> None:
        super().__init__(name, np.empty(0))
        self.home: TensorProto | None = None
        self.maker: gs.Node | None = None
        self.hold(kind, base, folder)

    def hold(self, kind: np.dtype[Any], base: TensorProto | Array, folder: Path | None) -> None:
        """Point to the values: `base` is a message of the file, or an array (of rank 1 for an omitted input)."""
        self.kind, self.base, self.folder = kind, base, folder
        self.shape = self.stored_shape = tuple(base.dims) if isinstance(base, TensorProto) else base.shape
        self.pending = IDENTITY
        self.largest: float | None = None

    def put(self, affine: Affine) -> None:
        """Let an affine act on the values, after those that do already."""
        self.pending = affine if self.pending is IDENTITY else affine.after(self.pending)
        whole = np.broadcast_shapes(self.stored_shape, self.pending.extent)
        self.shape = whole[redundant(whole, len(self.stored_shape)) :]

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
        made.pending, made.shape, made.largest = self.pending, self.shape, self.largest
        return made

    @property
    def dtype(self) -> np.dtype[Any]:
        return self.kind

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
            found = parts(self.base, self.folder, self.stored_shape or (1,))
            ends = [end for _, part in found if part.size for end in (part.max(), -part.min())]
            self.largest = float(np.max(ends, initial=0.0))
        return self.largest if self.pending is IDENTITY else self.pending.reach(self.largest)

    @property
    def values(self) -> Array:
        """Floating point as float64, anything else as it is stored."""
        stored = self.stored
        if self.pending is IDENTITY:
            return widened(stored)
        value = self.pending(stored)
        return value.reshape(value.shape[redundant(value.shape, stored.ndim) :])

    def rounded(self) -> Iterator[tuple[Array, int]]:
        """`values` as `rounded` gives them, some rows at a time where they have the shape of what is stored."""
        shape = self.stored_shape or (1,)
        if self.pending.rank > len(shape) or self.shape not in (shape, ()):
            yield rounded(self.values, self.kind)
            return
        whole, shape = flattened(self.pending, shape)
        room = Room(shape, self.kind)
        for rows, part in parts(self.base, self.folder, shape):
            yield room.rounded(whole.rows(rows), part)


def parts(base: TensorProto | Array, folder: Path | None, shape: tuple[int, ...]) -> Iterator[tuple[slice, Array]]:
    """What is stored, in another shape, and some rows at a time, which the next ones may overwrite."""
    if isinstance(base, TensorProto) and lies_plain(base):
        yield from rows_read(base, folder or Path(), shape)
        return
    stored = (read(base, folder) if isinstance(base, TensorProto) else base).reshape(shape)
    for rows in spans(shape):
        yield rows, stored[rows]


def redundant(shape: tuple[int, ...], rank: int) -> int:
    """How many leading axes of length 1 exceed `rank`: broadcasting would put them back."""
    extra = max(0, len(shape) - rank)
    return next((i for i, n in enumerate(shape[:extra]) if n != 1), extra)


def read(tensor: TensorProto, folder: Path | None) -> Array:
    """The values of a tensor. Raises ModelProblem where its data is missing or does not match its shape."""
    with _told(tensor):
        if wire.reference(tensor):
            return mapped(tensor, folder or Path())
        if uses_external_data(tensor):
            tensor = loaded(tensor, folder or Path())
        return np.asarray(numpy_helper.to_array(tensor))


@contextmanager
def _told(tensor: TensorProto) -> Iterator[None]:
    """Raises ModelProblem, naming the tensor, where the block cannot read it."""
    try:
        yield
    except (ValueError, TypeError, OSError, onnx.checker.ValidationError) as problem:
        raise ModelProblem(
            f"the values of '{tensor.name}' cannot be read: {first_line(problem)}",
            "The file is damaged, or a data file that belongs to it is missing.",
        ) from problem


def lies_plain(tensor: TensorProto) -> bool:
    """Its data lies in the model file as it would in memory."""
    entries = wire.reference(tensor)
    if not entries or sys.byteorder == "big":
        return False
    kind: np.dtype[Any] = helper.tensor_dtype_to_np_dtype(tensor.data_type)
    return bool(int(entries["length"]) == math.prod(tensor.dims) * kind.itemsize)


def rows_read(tensor: TensorProto, folder: Path, shape: tuple[int, ...]) -> Iterator[tuple[slice, Array]]:
    """`parts` of data in the model file: into memory that is there, which takes less time than to map more of it."""
    room = np.empty((rows_at_once(shape), *shape[1:]), helper.tensor_dtype_to_np_dtype(tensor.data_type))
    with _told(tensor), wire.opened(tensor, folder) as file:
        for rows in spans(shape):
            part = room[: rows.stop - rows.start]
            if file.readinto(part.view(np.uint8).data) < part.nbytes:
                raise ValueError("the file became shorter")
            yield rows, part


def mapped(tensor: TensorProto, folder: Path) -> Array:
    """The values of a tensor whose data lies in the model file, mapped; what is smaller than a byte onnx unpacks."""
    length = int(wire.reference(tensor)["length"])
    with wire.opened(tensor, folder) as file:
        start = file.tell()
        before = start % mmap.ALLOCATIONGRANULARITY
        held = mmap.mmap(file.fileno(), before + length, offset=start - before, access=mmap.ACCESS_READ)
    raw = np.frombuffer(held, np.uint8, length, before)
    if lies_plain(tensor):
        return raw.view(helper.tensor_dtype_to_np_dtype(tensor.data_type)).reshape(tuple(tensor.dims))
    whole = TensorProto(dims=tensor.dims, data_type=tensor.data_type, raw_data=raw.tobytes())
    return np.asarray(numpy_helper.to_array(whole))


def loaded(tensor: TensorProto, folder: Path) -> TensorProto:
    """A copy of an external tensor that holds its data."""
    whole = TensorProto()
    whole.CopyFrom(tensor)
    whole.raw_data = datafiles.data(tensor, folder)
    whole.data_location = TensorProto.DEFAULT
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
