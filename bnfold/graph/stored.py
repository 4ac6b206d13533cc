"""Stored constants of the view, with the affines that folding puts on them."""

from __future__ import annotations

import io
import math
from collections.abc import Iterator
from typing import Any

import numpy as np
import onnx_graphsurgeon as gs
from onnx import TensorProto, helper

from ..algebra.affine import IDENTITY, Affine, Array
from ..algebra.rounding import TINY, Room, flattened, rounded, widened
from ..model import deferred, external, wire
from ..model.storage import Deferred, Storage
from ..model.tensors import InFile, copied, parts, read_values, restate, source_of
from .links import Readers


class StoredConstant(gs.Constant):  # type: ignore[misc]
    """A constant, and the affine that folding has put on it so far.

    Its values are computed in float64 when they are needed, from what the file stores, and never kept: however many
    affines are put on it, there is one rounding, when the model is closed. `home` is the message of the record that
    stores it, `maker` the Constant node, if one has that message.
    """

    shape: tuple[int, ...] = ()  # with the affine
    __setattr__ = object.__setattr__  # that of onnx-graphsurgeon keeps lists of nodes alike, which Readers are not

    def __init__(self, name: str, kind: np.dtype[Any], base: TensorProto | InFile | Array, storage: Storage) -> None:
        self.name, self.inputs, self.outputs = (
            name,
            (),
            Readers(),
        )  # in the place of onnx-graphsurgeon's, which are large
        self.home: TensorProto | None = None
        self.maker: gs.Node | None = None
        self.storage = storage
        self.replace(kind, base)

    @staticmethod
    def of(home: TensorProto, storage: Storage, name: str, maker: gs.Node | None = None) -> StoredConstant:
        """The constant that a message of the record stores."""
        made = StoredConstant(name, *_stored(home, storage), storage)
        made.home, made.maker = home, maker
        return made

    def store_in(self, home: TensorProto, storage: Storage) -> None:
        """Take the values of a message of the record, which stores the constant from now on."""
        self.home, self.storage = home, storage
        self.replace(*_stored(home, storage))

    def replace(self, kind: np.dtype[Any], base: TensorProto | InFile | Array) -> None:
        """Take other values: those of a tensor of the file, or of an array (of rank 1 for an omitted input)."""
        self.kind, self.base = kind, base
        self.shape = self.stored_shape = base.shape if isinstance(base, np.ndarray) else tuple(base.dims)
        self.pending = IDENTITY
        self.largest: float | None = None

    def put(self, affine: Affine) -> None:
        """Let an affine act on the values, after those that do already."""
        self.pending = affine if self.pending is IDENTITY else affine.after(self.pending)
        whole = np.broadcast_shapes(self.stored_shape, self.pending.extent)
        self.shape = whole[redundant(whole, len(self.stored_shape)) :]

    def copy_as(self, name: str) -> StoredConstant:
        """The same constant under another name, stored nowhere yet."""
        made = StoredConstant(name, self.kind, self.base, self.storage)
        made.pending, made.shape, made.largest = self.pending, self.shape, self.largest
        return made

    @property
    def dtype(self) -> np.dtype[Any]:
        return self.kind

    @property
    def length(self) -> int:
        """Bytes that the values take."""
        return external.data_length(TensorProto(dims=self.shape, data_type=helper.np_dtype_to_tensor_dtype(self.kind)))

    @property
    def reach(self) -> float:
        """No value is larger in magnitude; not a number where one of them is none."""
        if self.largest is None:
            own = parts(self.base, self.storage, self.stored_shape or (1,))
            ends = [end for _, part in own if part.size for end in (part.max(), -part.min())]
            self.largest = float(np.max(ends, initial=0.0))
        return self.largest if self.pending is IDENTITY else self.pending.reach(self.largest)

    @property
    def values(self) -> Array:
        """Floating point as float64, anything else as it is stored."""
        base = self.base if isinstance(self.base, np.ndarray) else read_values(self.base, self.storage)
        if self.pending is IDENTITY:
            return widened(base)
        value = self.pending(base)
        value = value.reshape(value.shape[redundant(value.shape, base.ndim) :])
        return value if self.kind in TINY else widened(rounded(value, self.kind)[0])

    def rounded(self) -> Iterator[tuple[Array, int]]:
        """`values` as `rounded` gives them, some rows at a time where they have the shape of what is stored."""
        shape = self.stored_shape or (1,)
        is_packed = self.length < math.prod(self.shape)
        if self.pending.rank > len(shape) or self.shape not in (shape, ()) or is_packed:
            yield rounded(self.values, self.kind)
            return
        whole, shape = flattened(self.pending, shape)
        room = Room(shape, self.kind)
        for rows, part in parts(self.base, self.storage, shape):
            yield room.rounded(whole.rows(rows), part)

    def finalize(self, defer: bool) -> int:
        """Give the message the values, rounded once; its name, documentation and metadata stay.

        Large ones are computed when the model is written, if they may be deferred. Returns how many numbers were too
        small for their type and became zero by now.
        """
        home = self.home
        assert home is not None
        entry = Deferred(self, self.storage.belongs_outside(home))
        if defer and self.length >= wire.DETACHED_FROM:
            if isinstance(self.base, TensorProto):
                self.base = copied(self.base)
            restate(home, self.shape, self.kind)
            self.storage.detach(home, entry)
            return 0
        sink = io.BytesIO()
        flushed = deferred.write_constant(self, sink)
        restate(home, self.shape, self.kind)
        home.raw_data = sink.getvalue()
        return flushed


def _stored(home: TensorProto, storage: Storage) -> tuple[np.dtype[Any], TensorProto | InFile]:
    """The element type of the values of a message, and where they are read."""
    return helper.tensor_dtype_to_np_dtype(home.data_type), source_of(home, storage)


def redundant(shape: tuple[int, ...], rank: int) -> int:
    """How many leading axes of length 1 exceed `rank`: broadcasting would put them back."""
    extra = max(0, len(shape) - rank)
    return next((i for i, n in enumerate(shape[:extra]) if n != 1), extra)
