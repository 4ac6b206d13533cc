"""New constants: computed into their messages or, where they are large, only when the model is written."""

from __future__ import annotations

import io
import math
import sys
from bisect import bisect
from collections.abc import Callable, Iterable
from functools import partial
from itertools import accumulate
from pathlib import Path
from typing import BinaryIO

import numpy as np
import onnx_graphsurgeon as gs
from onnx import TensorProto, numpy_helper

from ..algebra.affine import Array
from ..process import native
from ..system.staging import Sink
from . import wire
from .tensors import Held, restate

MUCH = 1 << 24  # bytes of new constants
SECONDS = 600.0  # which a fork has to write them
Places = list[tuple[int, int]]  # numbers of constants, and where in a file they belong


class Overflow(Exception):
    """A promised constant is not finite: what was taken on trust does not hold."""


class Promises:
    """Large new constants that a record refers to by number, and that are computed when it is written.

    `flushed` counts the numbers that were too small for their type and became zero, as far as they were written.
    Where that is `trusting`, large weights are not read before: whether they fit their type shows when they are
    written, which raises Overflow if they do not.
    """

    def __init__(self, trusting: bool = False) -> None:
        self.held: list[Held] = []
        self.flushed = 0
        self.trusting = trusting

    def trust(self, tensors: Iterable[gs.Tensor]) -> None:
        """Take it that the large ones among constants are finite, and in range."""
        for tensor in tensors if self.trusting else ():
            if isinstance(tensor, Held) and length(tensor) >= wire.LARGE:
                tensor.trust()

    @property
    def read_from(self) -> set[tuple[str, str]]:
        """The model files that constants are made of, with their stamps."""
        bases = (held.base for held in self.held if isinstance(held.base, TensorProto))
        found = filter(None, map(wire.reference, bases))
        return {(entries["location"].removeprefix(wire.MARK), entries["stamp"]) for entries in found}

    def made(self, held: Held) -> int:
        """Promise a constant, which goes on reading what it is made of where that is; the number of the promise."""
        if isinstance(held.base, TensorProto):
            base = TensorProto()
            base.CopyFrom(held.base)
            held.base = base
        self.held.append(held)
        return len(self.held) - 1

    def keep(self, number: int, sink: BinaryIO) -> None:
        """Write one constant."""
        self.flushed += written(self.held[number], sink, finite=True)

    def keep_all(self, file: Path, places: Places) -> None:
        """Write constants to their places in a file; where there is much, a fork writes half.

        Threads would wait for each other. What the fork does not do, for whatever reason, is done here.
        """
        here, there = self._shared(places)
        finish = native.begun("writing new constants", partial(self._kept, file, there), SECONDS) if there else None
        try:
            self.flushed += int(self._kept(file, here))
        except BaseException:
            if finish:
                finish(wanted=False)
            raise
        if finish:
            self.flushed += int(_answer(finish) or self._kept(file, there))

    def _shared(self, places: Places) -> tuple[Places, Places]:
        """Two lists of about as many bytes; one, where it is not worth the time of a fork."""
        sizes = [*accumulate(length(self.held[number]) for number, _ in places)]
        if not sizes or sizes[-1] < MUCH:
            return places, []
        middle = 1 + bisect(sizes, sizes[-1] // 2)
        return places[:middle], places[middle:]

    def _kept(self, file: Path, places: Places) -> bytes:
        """Write some constants; how many of their numbers became zero, in digits."""
        flushed = 0
        with Sink(file, "r+b", places[0][1] if places else 0) as sink:
            for number, at in places:
                sink.seek(at)
                flushed += written(self.held[number], sink, finite=True)
        return b"%d" % flushed


def _answer(finish: Callable[[], bytes]) -> bytes:
    """What a fork says, if it did what it should."""
    try:
        told = finish()
    except native.Failed:
        return b""
    return told if told.isdigit() else b""


def settle(held: Held, promises: Promises | None) -> int:
    """Give a constant's message its values, rounded once; its name, documentation and metadata stay.

    With `promises` large ones are promised. Returns how many were too small for their type and became zero.
    """
    message, shape = held.home, held.shape
    assert message is not None
    more = {wire.OUTSIDE: ""} if wire.belongs_outside(message) else {}
    if promises is None or length(held) < wire.LARGE:
        sink = io.BytesIO()
        flushed = written(held, sink)
        restate(message, shape, held.kind)
        message.raw_data = sink.getvalue()
        return flushed
    size, number = length(held), promises.made(held)
    restate(message, shape, held.kind)
    wire.promise(message, number, size, **more)
    return 0


def length(held: Held) -> int:
    """Bytes that the values of a constant take."""
    return math.prod(held.shape) * held.kind.itemsize


def written(held: Held, sink: BinaryIO, finite: bool = False) -> int:
    """Write rounded values as ONNX stores them; how many became zero. Raises Overflow if not all are `finite`."""
    flushed = 0
    for part, small in held.rounded():
        if finite and not np.isfinite(part).all():
            raise Overflow
        sink.write(little_endian(part))
        flushed += small
    return flushed


def little_endian(values: Array) -> memoryview:
    """The bytes of an array as ONNX stores them: the very memory, where this machine stores numbers like that."""
    if sys.byteorder == "big":
        return memoryview(numpy_helper.tobytes_little_endian(values))
    return np.ascontiguousarray(values).view(np.uint8).data
