"""Run a command as a person or a pipe does, and put down what is seen."""

from __future__ import annotations

import fcntl
import os
import pty
import re
import struct
import subprocess
import sys
import termios
from collections.abc import Iterator
from pathlib import Path

COLUMNS, LINES = 80, 50
WAYS = ("terminal", "pipe", "no-color")
CLEARED = ("COLUMNS", "LINES", "NO_COLOR", "FORCE_COLOR", "TERM", "COLORTERM", "TTY_COMPATIBLE", "PYTHONWARNINGS")
CODE = re.compile(r"\x1b\[([0-9;?]*)([A-Za-z])")
VERSION = re.compile(r"\b(bnfold|onnx|onnxruntime|numpy|torch|CUDA runtime|cuDNN)(?:-\w+)? \d+(\.\d+)+(\+\w+)?")
VERSIONS = re.compile(r"(\bbnfold #,[^\n]*)\n  (?=\S)")  # the line of -v, where it ends depends on what is installed
SECONDS = re.compile(r"\d+\.\d s\b")
MEASURED = re.compile(r"-?\b\d+(\.\d+)?e[-+]?\d+|-?\b\d+\.\d+")
COUNTED = re.compile(r"(?<![<;\d])\b\d+\b(?![;>])")
WRAPPED = re.compile(r"\n  (?=\S)")  # the rest of a line, where it ends depends on the numbers in it
NOTES = re.compile(r"^(<1>)?note:.*\n", re.M)  # of the machine, and how busy it is
VERDICTS = re.compile(r"\b(?:FASTER|EQUIVALENT|SLOWER|INCONCLUSIVE|UNTRUSTED)\b")


def environment(way: str, folder: Path) -> dict[str, str]:
    """Of a person with a plain account, and one processor for every library."""
    around = {name: value for name, value in os.environ.items() if name not in CLEARED}
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    around |= {"TERM": "xterm-256color", "PATH": path, "HOME": str(folder), "LANG": "C.UTF-8", "OMP_NUM_THREADS": "1"}
    return around | ({"NO_COLOR": "1"} if way == "no-color" else {})


def seen(command: list[str], way: str, folder: Path) -> tuple[int, str]:
    """The exit code, and what stands on the screen at the end; in a pipe stdout, and then stderr after its name."""
    run = [str(Path(sys.executable).with_name("bnfold")), *command]
    around = environment(way, folder)
    if way == "pipe":
        done = subprocess.run(run, cwd=folder, env=around, capture_output=True, text=True, stdin=subprocess.DEVNULL)
        return done.returncode, f"{done.stdout}[stderr]\n{done.stderr}"
    code, text = at_terminal(run, around, folder)
    return code, screen(text)


def at_terminal(run: list[str], around: dict[str, str], folder: Path) -> tuple[int, str]:
    """The exit code, and all that was sent to a terminal of 80 columns, cursor movements included."""
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", LINES, COLUMNS, 0, 0))
    with subprocess.Popen(run, cwd=folder, env=around, stdin=theirs, stdout=theirs, stderr=theirs) as process:
        os.close(theirs)
        text = b"".join(_read(ours)).decode()
    os.close(ours)
    return process.returncode, text


def _read(terminal: int) -> Iterator[bytes]:
    while True:
        try:
            data = os.read(terminal, 1 << 16)
        except OSError:  # Linux's way to say that nobody has it open any more
            return
        if not data:
            return
        yield data


def screen(text: str) -> str:
    """What a terminal shows in the end: progress bars that were drawn over and erased are gone; colours are <1;31>."""
    lines, row = [""], 0
    for part in re.split(r"(\x1b\[[0-9;?]*[A-Za-z]|\r\n|\r|\n)", text):
        code = CODE.fullmatch(part)
        if part in ("\n", "\r\n"):
            row += 1
            lines += [""] * (row + 1 - len(lines))
        elif code and code[2] == "A":
            row = max(0, row - int(code[1] or 1))
        elif code and code[2] == "K":
            lines[row] = ""
        elif code and code[2] == "m":
            lines[row] += f"<{code[1]}>"
        elif part != "\r" and not code:
            lines[row] += part
    return "\n".join(line.rstrip() for line in lines)


def _undrawn(text: str) -> Iterator[str]:
    """A help: each option in a line, with its words."""
    text = re.sub(r"\n│ {3,}(?!\*)", " ", text)  # the rest of what stands in a line of its own
    for line in re.sub(r"<[\w\[\]]+>|\.{3}(?= *\n)|[│╭╮╰╯─]+", " ", text).splitlines():
        if line.strip():
            yield " ".join(line.split())


def masked(text: str, what: str = "") -> str:
    """The text without what differs from run to run or from one machine to another.

    Versions and seconds always. Of a help (`help`) what Typer's versions draw in their own ways: frames, columns, types.
    Where numbers are measured (`decimals`), each that has a decimal point is #, and blanks,
    rules and the ends of lines, which depend on how long they are, are one; for `all` whole numbers, verdicts and notes
    about the machine go as well.
    """
    text = VERSIONS.sub(r"\1 ", SECONDS.sub("# s", VERSION.sub(r"\1 #", text)))
    if not what:
        return text
    if what == "help":
        return "\n".join(_undrawn(text))
    text = MEASURED.sub("#", WRAPPED.sub(" ", text))
    if what == "all":
        text = re.sub(r" (?:UNSTABLE|LAUNCH_BOUND)\b", "", VERDICTS.sub("VERDICT", COUNTED.sub("N", text)))
        text = NOTES.sub("", text)
    return "\n".join(re.sub(r"(?<=\S) {2,}", "  ", re.sub(r"─+", "──", line)).rstrip() for line in text.splitlines())
