"""Arrays from .npz files, read piece by piece: a calibration set need not fit into memory."""

from __future__ import annotations

import math
import zipfile
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import numpy as np

from ...errors import ModelProblem, first_line
from ...model.datafiles import open_regular
from .card import Array

MOST_ALONG_AXIS = 1 << 40  # elements along an axis
ROWS_AT_ONCE = 256  # read at a time
ARCHIVE_HINT = "Save the data with numpy.savez, each array by the name of the input it is for."


@dataclass(frozen=True)
class Header:
    """Shape and type of the array in a member of the file."""

    shape: tuple[int, ...]
    kind: np.dtype[Any]


class Archive:
    """One .npz file; every array has its samples along its first axis."""

    def __init__(self, path: Path) -> None:
        self.path = path
        with self._open() as archive:
            names = [name.removesuffix(".npy") for name in archive.namelist() if name.endswith(".npy")]
            self.headers = {name: self._header(archive, name) for name in names}

    def __len__(self) -> int:
        """Rows of the shortest array."""
        return min((h.shape[0] for h in self.headers.values() if h.shape), default=0)

    def require(self, names: Sequence[str], optional: Sequence[str] = ()) -> None:
        """Raises ModelProblem unless the arrays are those called `names`, and perhaps `optional` ones."""
        missing = [name for name in names if name not in self.headers]
        more = [name for name in self.headers if name not in (*names, *optional)]
        if missing or more:
            what = f"has no {', '.join(missing)}" if missing else f"has {', '.join(more)}, which no input is called"
            raise ModelProblem(f"{self.path} {what}", f"The inputs of the model: {', '.join(names)}.")

    def whole(self, name: str) -> Array:
        """A whole array, also one without axes."""
        return np.concatenate([*self.pieces(name)]) if self.headers[name].shape else next(self.pieces(name))

    def pieces(self, name: str, rows: int = ROWS_AT_ONCE) -> Iterator[Array]:
        """An array, some rows at a time."""
        with self._open() as archive, self._member(archive, name) as (stream, header):
            width = math.prod(header.shape[1:]) * header.kind.itemsize
            left = header.shape[0] if header.shape else 1
            while left:
                count = min(rows, left)
                left -= count
                shape = (count, *header.shape[1:]) if header.shape else ()
                yield np.frombuffer(self._exactly(stream, count * width), header.kind).reshape(shape)

    @contextmanager
    def _open(self) -> Iterator[zipfile.ZipFile]:
        """Everything that can be wrong with a file, in one sentence."""
        try:
            with open_regular(self.path) as file, zipfile.ZipFile(file) as archive:
                yield archive
        except FileNotFoundError as why:
            raise ModelProblem(f"no data at {self.path}", "Paths are relative to the current directory.") from why
        except Exception as why:  # numpy, zipfile and its decompressors raise errors of many unrelated classes
            raise ModelProblem(f"{self.path} cannot be read: {first_line(why)}", ARCHIVE_HINT) from why

    @contextmanager
    def _member(self, archive: zipfile.ZipFile, name: str) -> Iterator[tuple[IO[bytes], Header]]:
        with ExitStack() as stack:
            stream = stack.enter_context(archive.open(f"{name}.npy"))
            version = np.lib.format.read_magic(stream)
            reader = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
            shape, fortran, kind = reader(stream)
            if kind.hasobject or (fortran and len(shape) > 1):
                raise ValueError(f"{name} holds Python objects or is in Fortran order")
            if not all(0 <= length < MOST_ALONG_AXIS for length in shape) or 0 in (*shape[1:], kind.itemsize):
                raise ValueError(f"{name} cannot have the shape {list(shape)}")
            yield stream, Header(tuple(shape), kind)

    def _header(self, archive: zipfile.ZipFile, name: str) -> Header:
        with self._member(archive, name) as (_, header):
            return header

    def _exactly(self, stream: IO[bytes], size: int) -> bytes:
        data = stream.read(size)
        if len(data) != size:
            raise ValueError("it is cut off")
        return data
