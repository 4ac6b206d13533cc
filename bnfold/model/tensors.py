"""The values of tensors: read from wherever they are stored, and put into messages."""

from __future__ import annotations

import math
import mmap
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from io import BufferedReader
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper
from onnx.external_data_helper import uses_external_data

from ..algebra.affine import Array
from ..algebra.rounding import rows_at_once, spans
from ..errors import ModelProblem, first_line
from ..system.limits import current
from . import datafiles, external
from .storage import Place, Storage
from .wire import DETACHED_FROM

DATA_FIELDS = (
    *("float_data", "int32_data", "string_data", "int64_data", "double_data", "uint64_data"),
    *("external_data", "data_location"),
)


@dataclass(frozen=True)
class InFile:
    """A tensor that is read from its file on demand. Edits of its message do not change it."""

    name: str
    kind: int  # of TensorProto.DataType
    dims: tuple[int, ...]
    place: Place

    @property
    def dtype(self) -> np.dtype[Any]:
        return helper.tensor_dtype_to_np_dtype(self.kind)

    @property
    def lies_plain(self) -> bool:
        """Its data lies in the file as it would in memory."""
        return sys.byteorder != "big" and self.place.length == math.prod(self.dims) * self.dtype.itemsize

    @contextmanager
    def open(self) -> Iterator[BufferedReader]:
        """The file, at the data. Raises ModelProblem where the block cannot read it."""
        with reading(self.name), self.place.open() as file:
            file.seek(self.place.offset)
            yield file

    def rows(self, shape: tuple[int, ...]) -> Iterator[tuple[slice, Array]]:
        """`parts` of data that lies plain: into memory that is there, which takes less time than to map more of it."""
        room = np.empty((rows_at_once(shape), *shape[1:]), self.dtype)
        with self.open() as file:
            for rows in spans(shape):
                part = room[: rows.stop - rows.start]
                if file.readinto(part.view(np.uint8).data) < part.nbytes:
                    raise ValueError("the file became shorter")
                yield rows, part

    def mapped(self) -> Array:
        """The values, in mapped memory; what is smaller than a byte onnx unpacks."""
        start, length = self.place.offset, self.place.length
        before = start % mmap.ALLOCATIONGRANULARITY
        with self.open() as file:
            mapping = mmap.mmap(file.fileno(), before + length, offset=start - before, access=mmap.ACCESS_READ)
            raw = np.frombuffer(mapping, np.uint8, length, before)
            if self.lies_plain:
                return raw.view(self.dtype).reshape(self.dims)
            whole = TensorProto(dims=self.dims, data_type=self.kind, raw_data=raw.tobytes())
            return np.asarray(numpy_helper.to_array(whole))


def source_of(tensor: TensorProto, storage: Storage) -> TensorProto | InFile:
    """Where to read the present values of a tensor from, also after its message has new ones."""
    place = storage.entry(tensor)
    if isinstance(place, Place):
        return InFile(tensor.name, tensor.data_type, tuple(tensor.dims), place)
    return tensor


def located(base: TensorProto | InFile, storage: Storage) -> TensorProto | InFile:
    """The tensor, or, of a large one in a data file, an InFile. Raises ModelProblem where its data cannot be read."""
    if isinstance(base, InFile) or not uses_external_data(base) or external.data_length(base) < DETACHED_FROM:
        return base
    return InFile(base.name, base.data_type, tuple(base.dims), external.place(base, storage))


def parts(
    base: TensorProto | InFile | Array, storage: Storage, shape: tuple[int, ...]
) -> Iterator[tuple[slice, Array]]:
    """The stored values in another shape, some rows at a time; the next rows may overwrite them."""
    if isinstance(base, TensorProto):
        base = located(base, storage)
    if isinstance(base, InFile) and base.lies_plain:
        yield from base.rows(shape)
        return
    whole = (base if isinstance(base, np.ndarray) else read_values(base, storage)).reshape(shape)
    for rows in spans(shape):
        yield rows, whole[rows]


def read_values(tensor: TensorProto | InFile, storage: Storage) -> Array:
    """The values of a tensor. Raises ModelProblem where its data is missing or does not match its shape."""
    base = located(source_of(tensor, storage), storage) if isinstance(tensor, TensorProto) else tensor
    if isinstance(base, InFile):
        return base.mapped()
    with reading(base.name):
        whole = loaded(base, storage.folder) if uses_external_data(base) else base
        return np.asarray(numpy_helper.to_array(whole))


@contextmanager
def reading(name: str) -> Iterator[None]:
    """Raises ModelProblem, naming the tensor, where the block cannot read it."""
    try:
        yield
    except (ValueError, TypeError, OSError, onnx.checker.ValidationError) as problem:
        raise ModelProblem(
            f"the values of '{name}' cannot be read: {first_line(problem)}",
            "The file is damaged, or a data file that belongs to it is missing.",
        ) from problem


def copied(tensor: TensorProto) -> TensorProto:
    """A copy of the message."""
    copy = TensorProto()
    copy.CopyFrom(tensor)
    return copy


def loaded(tensor: TensorProto, folder: Path) -> TensorProto:
    """A copy of an external tensor that holds its data."""
    whole = copied(tensor)
    whole.raw_data = datafiles.data(tensor, folder)
    whole.data_location = TensorProto.DEFAULT
    del whole.external_data[:]
    return whole


def dense(sparse: onnx.SparseTensorProto, storage: Storage) -> Array:
    """A sparse tensor as an array. Its indices are positions in row-major order, or one row per value."""
    if math.prod(sparse.dims) > current().elements:
        raise ModelProblem(
            f"'{sparse.values.name}' is a sparse tensor of {math.prod(sparse.dims)} elements; "
            f"the limit is {current().elements}",
            f"If the file is to be trusted: --limit elements={math.prod(sparse.dims)}.",
        )
    values, indices = read_values(sparse.values, storage), read_values(sparse.indices, storage)
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
