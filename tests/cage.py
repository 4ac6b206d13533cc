"""A command that the kernel kills if it, or anything it starts, opens an internet socket; native code included.

python -m tests.cage COMMAND ...    (Linux on x86-64)
"""

from __future__ import annotations

import ctypes
import os
import platform
import shutil
import subprocess
import sys
from pathlib import Path

IS_POSSIBLE = sys.platform == "linux" and platform.machine() == "x86_64"
ROOT = Path(__file__).resolve().parents[1]

# <linux/seccomp.h>, <linux/filter.h>, <linux/prctl.h>: classic BPF over struct seccomp_data (nr at 0, args at 16)
LOAD, IF_EQUAL, RETURN = 0x20, 0x15, 0x06
KILL, ALLOW = 0x80000000, 0x7FFF0000
SOCKET, IO_URING_SETUP, INET, INET6 = 41, 425, 2, 10
NO_NEW_PRIVILEGES, SECCOMP, FILTER = 38, 22, 2
PROGRAM = [
    (LOAD, 0, 0, 0),
    (IF_EQUAL, 5, 0, IO_URING_SETUP),  # another way to sockets
    (IF_EQUAL, 0, 3, SOCKET),
    (LOAD, 0, 0, 16),
    (IF_EQUAL, 2, 0, INET),
    (IF_EQUAL, 1, 0, INET6),
    (RETURN, 0, 0, ALLOW),
    (RETURN, 0, 0, KILL),
]


class Instruction(ctypes.Structure):
    _fields_ = [("code", ctypes.c_uint16), ("yes", ctypes.c_uint8), ("no", ctypes.c_uint8), ("k", ctypes.c_uint32)]


class Program(ctypes.Structure):
    _fields_ = [("length", ctypes.c_uint16), ("instructions", ctypes.POINTER(Instruction))]


def shut() -> None:
    """From here on, for this process and all it starts. Raises OSError where the kernel does not take the filter."""
    libc = ctypes.CDLL(None, use_errno=True)
    instructions = (Instruction * len(PROGRAM))(*(Instruction(*each) for each in PROGRAM))
    program = Program(len(PROGRAM), instructions)
    if libc.prctl(NO_NEW_PRIVILEGES, 1, 0, 0, 0) or libc.prctl(SECCOMP, FILTER, ctypes.byref(program), 0, 0):
        raise OSError(ctypes.get_errno(), "seccomp")


def caged(command: list[str], folder: Path, home: Path, *before: str) -> subprocess.CompletedProcess[str]:
    """Run it with no variable of ours but PATH: as far from what tools take for a test machine as can be."""
    environment = {"PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.defpath}", "HOME": str(home)}
    environment |= {"PYTHONPATH": str(ROOT), "TMPDIR": str(folder), "COLUMNS": "100"}
    run = [*before, sys.executable, "-m", "tests.cage", *command]
    return subprocess.run(run, cwd=folder, env=environment, capture_output=True, text=True, timeout=300)


def namespace() -> list[str]:
    """What gives a command a network of its own, in which there is nothing; [] where it is not allowed."""
    command = ["unshare", "--map-root-user", "--net"]
    usable = shutil.which("unshare") and not subprocess.run([*command, "true"], capture_output=True).returncode
    return command if usable else []


if __name__ == "__main__":
    shut()
    os.execvp(sys.argv[1], sys.argv[1:])
