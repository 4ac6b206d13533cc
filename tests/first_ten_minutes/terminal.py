"""What a person sees: a command in a terminal of 80 columns, stdout and stderr as they come."""

from __future__ import annotations

import fcntl
import os
import pty
import re
import struct
import subprocess
import termios
import time
from dataclasses import dataclass
from pathlib import Path

SIZE = (24, 80)  # rows, columns
ESCAPES = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")
AT_ONCE = 1 << 16  # bytes


@dataclass(frozen=True)
class Seen:
    """A command, what it left on the screen, its exit code and wall time."""

    command: str
    lines: list[str]
    code: int
    seconds: float


def seen(command: str, place: Path, environment: dict[str, str]) -> Seen:
    """Run a command in bash in `place`, on a terminal that can draw, but neither colours nor moves the cursor."""
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", *SIZE, 0, 0))
    started = time.perf_counter()
    environment = environment | {"TERM": "dumb", "NO_COLOR": "1"}
    child = subprocess.Popen(
        ["bash", "-c", command], cwd=place, env=environment, stdin=theirs, stdout=theirs, stderr=theirs
    )
    os.close(theirs)
    text = read(ours)
    os.close(ours)
    return Seen(command, screen(text), child.wait(), time.perf_counter() - started)


def read(terminal: int) -> str:
    """Everything until the last process that writes to the terminal is gone."""
    parts = []
    while True:
        try:
            part = os.read(terminal, AT_ONCE)
        except OSError:  # Linux says so where nobody writes any more
            part = b""
        if not part:
            return b"".join(parts).decode(errors="replace")
        parts.append(part)


def screen(text: str) -> list[str]:
    """The lines that stay: what a carriage return has overwritten is gone, and so are escapes."""
    lines = (line.rstrip("\r").split("\r")[-1].rstrip() for line in ESCAPES.sub("", text).split("\n"))
    return list(lines)[:-1]
