"""Where data lie in a file, and three ways to read them: whole, some at a time, mapped."""

from __future__ import annotations

import mmap
from collections.abc import Iterator
from dataclasses import dataclass
from io import BufferedReader
from pathlib import Path

import numpy as np

from ..model import datafiles
from .protos import Array

READ_AT_ONCE = 1 << 24  # bytes of a file that are read at a time


@dataclass(frozen=True)
class Place:
    """Where data lie: in a file of a `folder`, or in one that may be anywhere."""

    file: Path
    offset: int
    length: int
    folder: Path | None = None

    def open(self) -> BufferedReader:
        """The file. See `datafiles`."""
        if self.folder is None:
            return datafiles.open_regular(self.file)
        return datafiles.inside(self.folder, str(self.file.relative_to(self.folder)))

    def read(self, most: int | None = None) -> bytes:
        """The bytes, or the first ones, in memory."""
        with self.open() as file:
            file.seek(self.offset)
            return file.read(self.length if most is None else min(most, self.length))

    def blocks(self) -> Iterator[bytes]:
        """The bytes, some at a time."""
        left = self.length
        with self.open() as file:
            file.seek(self.offset)
            while left and (block := file.read(min(left, READ_AT_ONCE))):
                yield block
                left -= len(block)

    def mapped(self, access: int = mmap.ACCESS_READ) -> Array:
        """The bytes, in mapped memory."""
        before = self.offset % mmap.ALLOCATIONGRANULARITY
        with self.open() as file:
            mapping = mmap.mmap(file.fileno(), before + self.length, access=access, offset=self.offset - before)
        return np.frombuffer(mapping, np.uint8, self.length, before)
