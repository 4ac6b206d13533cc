"""The files that a model's data are read from: regular ones, opened without following links, the same at each opening.

What was checked is what is read: whether a file may be read is seen from the very descriptor that is read from, and so
are the folders on the way to it. Within `unchanged` each file must be, at every opening, the one that it was first.
"""

from __future__ import annotations

import errno
import math
import os
import stat
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from contextvars import ContextVar
from io import BufferedReader
from pathlib import Path

from onnx import TensorProto
from onnx.external_data_helper import ExternalDataInfo

from ..errors import ModelProblem
from ..system.files import NOFOLLOW, NONBLOCK

FOLDER_FLAGS = getattr(os, "O_PATH", 0) | getattr(os, "O_DIRECTORY", 0)
OUTSIDE = "outside the model's folder"
IS_LINK, HAS_LINKS = "which is a symbolic link", "which has multiple hard links"
_seen: ContextVar[dict[Path, tuple[int, ...]] | None] = ContextVar("seen", default=None)


class LocationError(OSError):
    """A file is not, or not only, where it is said to be; the text finishes the sentence "it refers to this file, "."""


@contextmanager
def unchanged() -> Iterator[None]:
    """A block in which no file that is opened may become another. Raises ModelProblem where one has."""
    seen: dict[Path, tuple[int, ...]] = {}
    token = _seen.set(seen)
    try:
        yield
    except OSError as problem:
        if isinstance(problem.filename, str | Path) and Path(problem.filename) in seen:
            raise changed_error(Path(problem.filename)) from problem
        raise
    finally:
        _seen.reset(token)


def require_unchanged() -> None:
    """Raises ModelProblem where a file that was opened in the block of `unchanged` is another now."""
    for path in _seen.get() or ():
        with _once(path):
            _require_same(path, os.stat(path))


def file_size(path: Path) -> int:
    """Bytes of a file that was there. Raises ModelProblem where it is there no more."""
    try:
        return os.stat(path).st_size
    except OSError as problem:
        raise changed_error(path) from problem


def open_regular(path: Path) -> BufferedReader:
    """A regular file, to be read; links are followed. Raises OSError for anything else, ModelProblem if it changed.

    A pipe would be waited for, and a device never ends.
    """
    with _once(path):
        return _regular(os.open(path, os.O_RDONLY | NONBLOCK), path)


def inside(folder: Path, location: str) -> BufferedReader:
    """A regular file of one name in a folder, or in one within that, with no link on the way.

    Raises LocationError where it is not that, OSError or ValueError where there is none, ModelProblem if it changed.
    """
    path = folder / location
    with _once(path):
        try:
            return _regular(_walked(folder, Path(location).parts), path, most=1)
        except LocationError:
            raise
        except OSError as problem:
            raise (_elsewhere(path, folder, location) or problem) from problem


@contextmanager
def _once(path: Path) -> Iterator[None]:
    """Raises ModelProblem where the block cannot open a file that it could open before: it has changed."""
    try:
        yield
    except OSError as problem:
        moved = isinstance(problem, LocationError) or problem.errno in (errno.ENOENT, errno.ENOTDIR, errno.ELOOP)
        if moved and path in (_seen.get() or ()):
            raise changed_error(path) from problem
        raise


def data(tensor: TensorProto, folder: Path, outside: bool = False) -> bytes:
    """The data of an external tensor, where onnx itself looks for them; from anywhere if it may be `outside`."""
    info = ExternalDataInfo(tensor)
    if not math.prod(tensor.dims):
        return b""
    with open_regular(folder / info.location) if outside else inside(folder, info.location) as file:
        file.seek(info.offset or 0)
        return file.read(info.length or -1)


def _walked(folder: Path, parts: tuple[str, ...]) -> int:
    """A descriptor of what a path leads to, opened from folder to folder, each in the one before."""
    if not parts or os.path.isabs(parts[0]) or parts[-1] == ".." or "\0" in "".join(parts):
        raise LocationError(OUTSIDE)
    if os.open not in os.supports_dir_fd:
        if why := _elsewhere(folder.joinpath(*parts), folder, os.path.join(*parts)):
            raise why
        return os.open(folder.joinpath(*parts), os.O_RDONLY)
    with ExitStack() as stack:
        way = [os.open(folder, os.O_RDONLY | FOLDER_FLAGS)]
        stack.callback(os.close, way[0])
        for part in parts[:-1]:
            if part != "..":
                way.append(os.open(part, os.O_RDONLY | FOLDER_FLAGS | NOFOLLOW, dir_fd=way[-1]))
                stack.callback(os.close, way[-1])
            elif len(way) > 1:
                way.pop()
            else:
                raise LocationError(OUTSIDE)
        return os.open(parts[-1], os.O_RDONLY | NONBLOCK | NOFOLLOW, dir_fd=way[-1])


def _elsewhere(path: Path, folder: Path, location: str) -> LocationError | None:
    """The words for a link on the way, or for a way that leads out; None where there is neither."""
    try:
        true, real, within = os.path.realpath(folder), os.path.realpath(path), os.path.normpath(location)
    except OSError:  # what was a link is none any more
        return LocationError(IS_LINK)
    if Path(within).parts[:1] == ("..",) or not Path(real).is_relative_to(true):
        return LocationError(OUTSIDE)
    return None if real == os.path.join(true, within) else LocationError(IS_LINK)


def _regular(number: int, path: Path, most: float = math.inf) -> BufferedReader:
    """An open file as a stream. Raises OSError if it is no regular one, LocationError if it has more than
    `most` names."""
    try:
        state = os.fstat(number)
        if stat.S_ISDIR(state.st_mode):
            raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(path))
        if not stat.S_ISREG(state.st_mode):
            raise OSError(errno.EINVAL, "it is not a regular file", str(path))
        if state.st_nlink > most:
            raise LocationError(HAS_LINKS)
        _require_same(path, state)
    except BaseException:
        os.close(number)
        raise
    return open(number, "rb")


def _require_same(path: Path, state: os.stat_result) -> None:
    """Raises ModelProblem where a file is not what it was when it was opened first."""
    stamp, seen = (state.st_dev, state.st_ino, state.st_size, state.st_mtime_ns), _seen.get()
    if seen is not None and seen.setdefault(path, stamp) != stamp:
        raise changed_error(path)


def changed_error(path: Path) -> ModelProblem:
    """The error about a file that somebody wrote to."""
    return ModelProblem(f"{path} changed while it was read", "Fold it again when nobody writes to it.")


def stamp(file: int | Path) -> str:
    """A string that changes once somebody writes to the file."""
    state = os.stat(file)
    return f"{state.st_size}:{state.st_mtime_ns}"


def require_stamp(file: Path, known: str) -> None:
    """Raises ModelProblem if somebody wrote to a file since it had this stamp."""
    if known and not (os.path.exists(file) and stamp(file) == known):
        raise changed_error(file)
