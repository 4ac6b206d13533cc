"""stdin, stdout and stderr as a command may rely on them: they are there, and none is a reason to stop the work."""

from __future__ import annotations

import io
import os
import select
import sys
from contextlib import suppress
from typing import Any

NAMES = ("stdin", "stdout", "stderr")
NARROWEST = 40  # columns that words and tables are given


class Steady(io.FileIO):
    """A file to write to, whose reader may be gone or whose disk full: what it does not take any more is dropped."""

    lost: OSError | None = None  # why

    def write(self, data: Any, /) -> int:
        """Write all of the data, also where the file takes them piece by piece."""
        left = memoryview(data).cast("B")
        while left and not self.lost:
            try:
                left = left[super().write(left) or self._waited() :]
            except OSError as why:
                self.lost = why
        return len(data)

    def _waited(self) -> int:
        """Wait for the reader of a non-blocking pipe."""
        select.select([], [self], [])
        return 0


def steady() -> None:
    """Open what was closed, and drop what a stream does not take, instead of ending in the middle of something."""
    for name in NAMES:
        if getattr(sys, name) is None:
            _open(name)
        stream = getattr(sys, name)
        if name != "stdin" and isinstance(_raw(stream), io.FileIO):
            file = io.BufferedWriter(Steady(stream.fileno(), "wb", closefd=False))
            setattr(sys, name, io.TextIOWrapper(file, stream.encoding, "backslashreplace", line_buffering=True))


def _open(name: str) -> None:
    """Open the null device as a stream that is closed, so that no other file gets its number."""
    number = os.open(os.devnull, os.O_RDWR)  # the lowest that is free: as a rule the stream's
    os.set_inheritable(number, True)
    setattr(sys, name, os.fdopen(number, "r" if name == "stdin" else "w", encoding="utf-8", closefd=False))


def _raw(stream: Any) -> Any:
    """The file below the buffers."""
    return getattr(stream.buffer, "raw", stream.buffer)


def widen() -> None:
    """Let a terminal with hardly any columns count as one of NARROWEST columns: it breaks the lines itself."""
    sizes = [int(stated)] if (stated := os.environ.get("COLUMNS", "")).isdecimal() else []
    for stream in (sys.stdout, sys.stderr):
        with suppress(OSError):
            sizes.append(os.get_terminal_size(stream.fileno()).columns)
    if 0 < min(sizes, default=NARROWEST) < NARROWEST:
        os.environ["COLUMNS"] = str(NARROWEST)


def lost(name: str) -> OSError | None:
    """Why a stream does not hold all that was written; None also where its reader has gone, who wanted no more."""
    stream = getattr(sys, name)
    stream.flush()
    why: OSError | None = getattr(_raw(stream), "lost", None)
    return None if isinstance(why, BrokenPipeError) else why
