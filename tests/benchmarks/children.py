"""Commands as fresh processes, each with its wall time and its peak memory."""

from __future__ import annotations

import compileall
import os
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from tests.benchmarks.tools import tell_peak

ROOT = Path(__file__).resolve().parents[2]


class Run(NamedTuple):
    """What a process took. `peak_mb` is None for a command that is not `python`, and where the system does not say."""

    seconds: float
    peak_mb: float | None
    code: int
    words: str  # the last line it wrote, of errors if it failed
    answer: str  # what it wrote to stdout


def as_installed() -> None:
    """Compile bnfold's own bytecode, as pip does when it installs: a working copy may have none."""
    for folder in ("bnfold", "cli"):
        compileall.compile_dir(ROOT / folder, quiet=1)


def python(*arguments: str | Path, timeout: float = 1800.0) -> Run:
    """Run Python; a module that ends with `tell_peak` says how much memory it took."""
    return command([sys.executable, *arguments], timeout)


def command(arguments: Sequence[str | Path], timeout: float = 1800.0) -> Run:
    """Run any command."""
    begin = time.perf_counter()
    try:
        done = subprocess.run([*map(str, arguments)], capture_output=True, text=True, timeout=timeout, cwd=ROOT)
    except subprocess.TimeoutExpired:
        return Run(timeout, None, 124, f"stopped after {timeout:g} s", "")
    seconds = time.perf_counter() - begin
    lines = (done.stderr if done.returncode else done.stdout).strip().splitlines()
    peaks = [line for line in done.stdout.splitlines() if line.startswith("peak_kb ")]
    peak = int(peaks[-1].split()[1]) / 1000 if peaks else None
    return Run(seconds, peak, done.returncode, lines[-1] if lines else "", done.stdout)


def fold(arguments: Sequence[str]) -> None:
    """`bnfold fold`, as the command does it."""
    from bnfold_cli.main import run

    code = run(["fold", *arguments])
    tell_peak()
    sys.stdout.flush()
    os._exit(code)


if __name__ == "__main__":
    fold(sys.argv[1:])
