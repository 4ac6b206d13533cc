"""New constants: computed into their messages or, where they are large, only when the model is written."""

from __future__ import annotations

import io
import math
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import BinaryIO

from onnx import TensorProto, numpy_helper

from . import wire
from .processors import threads
from .tensors import Held, restate


class Promises:
    """Large new constants that a record refers to by number, and that are computed when it is written.

    `flushed` counts the numbers that were too small for their type and became zero, as far as they were written.
    """

    def __init__(self) -> None:
        self.held: list[Held] = []
        self.flushed = 0

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
        self.flushed += written(self.held[number], sink)

    def keep_all(self, file: Path, places: Sequence[tuple[int, int]]) -> None:
        """Write constants, each given by its number and its place in a file: on every processor."""

        def keep(place: tuple[int, int]) -> int:
            number, at = place
            with file.open("r+b") as sink:
                sink.seek(at)
                return written(self.held[number], sink)

        with ThreadPoolExecutor(threads()) as pool:
            self.flushed += sum(pool.map(keep, places))


def settle(held: Held, promises: Promises | None) -> int:
    """Give a constant's message its values, rounded once; its name, documentation and metadata stay.

    With `promises` large ones are promised. Returns how many were too small for their type and became zero.
    """
    message, shape = held.home, held.shape
    assert message is not None
    length = math.prod(shape) * held.kind.itemsize
    more = {wire.OUTSIDE: ""} if wire.belongs_outside(message) else {}
    if promises is None or length < wire.LARGE:
        sink = io.BytesIO()
        flushed = written(held, sink)
        restate(message, shape, held.kind)
        message.raw_data = sink.getvalue()
        return flushed
    number = promises.made(held)
    restate(message, shape, held.kind)
    wire.promise(message, number, length, **more)
    return 0


def written(held: Held, sink: BinaryIO) -> int:
    """Write rounded values as ONNX stores them; how many of them became zero."""
    flushed = 0
    for part, small in held.rounded():
        sink.write(numpy_helper.tobytes_little_endian(part))
        flushed += small
    return flushed
