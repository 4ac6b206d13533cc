"""Regular files: only these are read and written, since a pipe would be waited for, and a device never ends."""

from __future__ import annotations

import errno
import os
import stat
from pathlib import Path
from typing import BinaryIO

from .errors import UsageProblem

NONBLOCK = getattr(os, "O_NONBLOCK", 0)  # to open a pipe without waiting for who writes into it
BINARY = getattr(os, "O_BINARY", 0)


def opened(path: str | os.PathLike[str]) -> BinaryIO:
    """A regular file, to be read. Raises OSError, also for whatever else is there."""
    number = os.open(path, os.O_RDONLY | NONBLOCK | BINARY)
    mode = os.fstat(number).st_mode
    if not stat.S_ISREG(mode):
        os.close(number)
        if stat.S_ISDIR(mode):
            raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(path))
        raise OSError(errno.EINVAL, "it is not a regular file", str(path))
    return os.fdopen(number, "rb")


def require_target(path: Path) -> None:
    """Raises UsageProblem where a model cannot appear: stdout, and what stands for it or for another open file."""
    if str(path) == "-":
        raise UsageProblem("a model is not written to stdout", "Name the file to write.")
    folder = os.path.realpath(path.parent)
    if folder == "/dev" or folder.startswith("/proc/"):
        raise UsageProblem(f"{path} is not a regular file", "Name the file to write.")
