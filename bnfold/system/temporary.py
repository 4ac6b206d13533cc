"""Temporary folders that are removed at the end, also where a signal ends the work.

Those of a process that was killed are removed when the next one needs such a folder: see `journal`.
"""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from ..errors import EnvironmentProblem
from . import journal
from .interrupts import uninterrupted
from .journal import Entry

KEY = "0" * 32  # of the journal's entries about temporary folders


@contextmanager
def folder() -> Iterator[str]:
    """A new folder for this user alone, which goes with all that is in it when the block ends.

    Raises EnvironmentProblem where none can be made.
    """
    entry = Entry(f"bnfold-{os.urandom(8).hex()}")
    try:
        with uninterrupted():
            _sweep()
            entry = journal.new_entry(KEY, entry.facts["name"])
            _make(entry)
        yield entry.facts["path"]
    finally:
        try:
            _remove(entry)
        except KeyboardInterrupt:
            _remove(entry)
            raise


def _make(entry: Entry) -> None:
    try:
        entry.note(path=os.path.join(tempfile.gettempdir(), entry.facts["name"]))
        os.mkdir(entry.facts["path"], 0o700)
        entry.note(folder=journal.identity(Path(entry.facts["path"])))
    except OSError as problem:
        raise EnvironmentProblem(
            f"no temporary folder can be made: {problem.strerror or problem}", "Set TMPDIR to a folder with free space."
        ) from problem


def _sweep() -> None:
    """Remove the folders of processes that were killed."""
    for entry in journal.dead(KEY):
        _remove(entry)


def _remove(entry: Entry) -> None:
    """Remove a folder, if the entry proves that it is ours."""
    path = Path(entry.facts.get("path", os.devnull))
    with uninterrupted(), suppress(OSError):
        if not os.path.islink(path) and journal.identity(path) == entry.facts.get("folder"):
            shutil.rmtree(path, ignore_errors=True)
        path.rmdir()  # of one that was made just before
    entry.end(done=not os.path.isdir(path))
