"""Open files without following links, in folders that other users may change meanwhile."""

from __future__ import annotations

import errno
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from ..errors import UsageProblem

NOFOLLOW = getattr(os, "O_NOFOLLOW", 0)
NONBLOCK = getattr(os, "O_NONBLOCK", 0)  # opening a pipe would wait for its other end


def not_a_link(path: str, flags: int) -> int:
    """An `opener` of files that must not be links."""
    return os.open(path, flags | NOFOLLOW, 0o666)


@contextmanager
def folder_path(folder: Path, follow: bool = True) -> Iterator[Path]:
    """A path that leads to this very folder, even if its name becomes that of another one meanwhile (on Linux).

    It is valid within the block, in this process and in those that it starts.
    """
    if sys.platform != "linux":
        yield folder
        return
    number = os.open(folder, os.O_PATH | os.O_DIRECTORY | (0 if follow else NOFOLLOW))
    try:
        path = f"/proc/{os.getpid()}/fd/{number}"
        yield Path(path) if os.path.isdir(path) else folder
    finally:
        os.close(number)


def stream_of(path: Path) -> int | None:
    """A new descriptor of what is written to, not replaced: our own stdout or stderr, a device, a pipe with a reader.

    None for any other path. Raises OSError for a pipe without a reader.
    """
    with suppress(OSError):
        for number in (1, 2, _numbered(path)):
            if number >= 0 and os.path.samestat(path.stat(), os.fstat(number)):
                return os.dup(number)
    if os.path.islink(path) or not is_special(path):
        return None
    try:
        number = os.open(path, os.O_WRONLY | NOFOLLOW | NONBLOCK)
    except OSError as problem:
        if problem.errno == errno.ENXIO:
            problem.strerror = "nobody reads from this pipe"
        raise
    os.set_blocking(number, True)
    return number


def _numbered(path: Path) -> int:
    """The number of an open file that is named by it, as the shell does for >(command); -1 for any other path."""
    named = path.parent in (Path("/dev/fd"), Path("/proc/self/fd")) and path.name.isdecimal()
    return int(path.name) if named else -1


def is_special(path: Path) -> bool:
    """A device, a pipe, a socket: what may be written to, but not replaced."""
    return os.path.exists(path) and not os.path.isfile(path) and not os.path.isdir(path)


def require_target(path: Path) -> None:
    """Raises UsageProblem where no model file can be made: stdout, and names of it or of another open file."""
    if str(path) == "-":
        raise UsageProblem("a model is not written to stdout", "Name the file to write.")
    folder = os.path.realpath(path.parent)
    if folder == "/dev" or folder.startswith("/proc/"):
        raise UsageProblem(f"{path} is not a regular file", "Name the file to write.")
