"""Where the bytes of a model's tensors lie: the one table next to the record.

A tensor whose bytes are not in its message has a handle there, by which this table finds them: in the model file, from
which they were not read, or nowhere yet, since they are computed when the model is written. A copy of the message has
the same handle, so that bodies, functions and whole models may be copied and serialized. Reading makes the table, the
editor changes it, writing consumes it; nobody else looks into a handle. Data files that a model refers to by itself are
in no table: see `external`.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from io import BufferedReader
from pathlib import Path
from typing import Protocol

import numpy as np
from onnx import TensorProto
from onnx.external_data_helper import uses_external_data

from ..algebra.affine import Array
from . import datafiles, wire


@dataclass(frozen=True)
class Place:
    """Where the data of a tensor lies: in a file within a `folder`, at `location`, or in one that may be anywhere.

    In the model file also from where to where its `message` goes. `stamp` is that of the file when it was read.
    """

    file: Path
    offset: int = 0
    length: int = 0
    folder: Path | None = None
    location: str = ""
    inode: tuple[int, int] = (0, 0)
    stamp: str = ""
    message: tuple[int, int] | None = None

    def open(self) -> BufferedReader:
        """The file. See `datafiles`."""
        if self.folder is None:
            return datafiles.open_regular(self.file)
        return datafiles.inside(self.folder, self.location)


class Computed(Protocol):
    """A constant whose values are computed on demand."""

    kind: np.dtype[np.generic]

    @property
    def length(self) -> int:
        """Bytes that its values take."""

    def rounded(self) -> Iterator[tuple[Array, int]]:
        """Its values in `kind`, some at a time, and how many became zero since they were too small for it."""


@dataclass(frozen=True)
class Deferred:
    """A constant that is computed when the model is written; `outside` if its data goes to the data file."""

    constant: Computed
    outside: bool

    @property
    def length(self) -> int:
        return self.constant.length


class Storage:
    """The table of one model; `folder` is where its data files are looked for."""

    def __init__(self, folder: Path | None = None) -> None:
        self.folder = folder or Path()
        self.outer: set[str] = set()  # names of the tensors whose data came in data files
        self._entries: list[Place | Deferred] = []

    def add(self, entry: Place | Deferred) -> int:
        """Add an entry; returns its number."""
        self._entries.append(entry)
        return len(self._entries) - 1

    def detach(self, tensor: TensorProto, entry: Place | Deferred) -> None:
        """Let the data of a tensor lie elsewhere."""
        tensor.ClearField("external_data")
        wire.set_handle(tensor, self.add(entry))

    def entry(self, tensor: TensorProto) -> Place | Deferred | None:
        """Where the data of a tensor lies, if not in its message, nor in a data file that the message names."""
        number = wire.handle_of(tensor.raw_data) if uses_external_data(tensor) else None
        return None if number is None else self[number]

    def __getitem__(self, number: int) -> Place | Deferred:
        return self._entries[number]

    def belongs_outside(self, tensor: TensorProto) -> bool:
        """Whether the data of a tensor go to a data file: because they lie in one, or replace data that do."""
        entry = self.entry(tensor) if uses_external_data(tensor) else None
        if isinstance(entry, Deferred):
            return entry.outside
        return uses_external_data(tensor) and (entry is None or entry.message is None)

    def files(self) -> set[tuple[Path, str]]:
        """The files that entries lie in, each with its stamp."""
        return {(entry.file, entry.stamp) for entry in self._entries if isinstance(entry, Place)}
