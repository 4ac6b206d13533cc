"""Every hostile file as a whole process: exit code, seconds, peak memory. The worst are shown.

python -m tests.attacks.measured                    # all rows but the long ones, with verification
python -m tests.attacks.measured --long             # these, too: half an hour
python -m tests.attacks.measured "a Tile" --limit memory=2GB
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import NamedTuple

from tests.attacks import bombs, malformed
from tests.attacks.bombs import Row

WORST = 8
FAILED = (1, 2, 70)  # exit codes that no hostile file may lead to


class Measured(NamedTuple):
    """What came of one file; `bytes` are those of the largest process that took part."""

    code: int
    seconds: float
    bytes: int
    stderr: str
    left: list[str]


def measured(row: Row, folder: Path, *options: str) -> Measured:
    """`bnfold fold` on a row's file, which is made in an empty folder."""
    path, started = row.make(folder), time.perf_counter()
    with tempfile.TemporaryFile("w+") as stderr:
        command = [sys.executable, "-m", "bnfold_cli", "fold", str(path), *options]
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=stderr, stdin=subprocess.DEVNULL)
        _, status, used = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
        stderr.seek(0)
        words = stderr.read()
    left = sorted(path.name for path in folder.iterdir())
    return Measured(process.returncode, time.perf_counter() - started, used.ru_maxrss * 1024, words, left)


def rows(names: list[str], long: bool) -> dict[str, Row]:
    """All rows, or those of these names."""
    from tests.attacks.test_attacks import REFUSED, SURVIVED

    found = {name: Row(make, 3, words) for name, (make, words) in REFUSED.items()}
    found |= {name: Row(make, 0) for name, make in SURVIVED.items()} | bombs.ROWS | malformed.ROWS
    found |= {f"{name}, verified": row for name, row in bombs.VERIFIED.items()} | (bombs.LONG if long else {})
    return {name: row for name, row in found.items() if not names or name in names}


def main(arguments: list[str]) -> int:
    """Measure, print a line each and the worst at the end; returns how many broke a rule."""
    start = next((i for i, word in enumerate(arguments) if word.startswith("--") and word != "--long"), len(arguments))
    names = [word for word in arguments[:start] if word != "--long"]
    found = {}
    for name, row in rows(names, "--long" in arguments).items():
        with tempfile.TemporaryDirectory() as folder:
            found[name] = measured(row, Path(folder), *arguments[start:])
        print(line(name, found[name]), flush=True)
    bad = [name for name, each in found.items() if each.code in FAILED or each.code < 0]
    for title, key in (("longest", "seconds"), ("largest", "bytes")):
        print(f"\n{title}:")
        worst = sorted(found.items(), key=lambda entry: -getattr(entry[1], key))[:WORST]
        print("\n".join(line(name, each) for name, each in worst))
    print(f"\n{len(found)} files, {len(bad)} broke a promise: {', '.join(bad) or 'none'}")
    return len(bad)


def line(name: str, each: Measured) -> str:
    first = next((text for text in each.stderr.splitlines() if text.startswith("error")), "")
    return f"{each.code:3} {each.seconds:7.1f} s {each.bytes / 1e6:7.0f} MB  {name}  {first[:160]}"


if __name__ == "__main__":
    sys.exit(bool(main(sys.argv[1:])))
