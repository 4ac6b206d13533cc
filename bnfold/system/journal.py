"""A journal of drafts that this user's processes are writing: an entry each, in a folder nobody else may write to.

The folder that a draft is in may be a stranger's, so that a name in it proves nothing. What a process that was killed
has left, and what may be done with it, is what its entry says, and nothing else. An entry is locked as long as its
process lives. Where there is no such folder, what a killed process leaves stays.
"""

from __future__ import annotations

import json
import os
import stat
from collections.abc import Callable, Iterator
from contextlib import suppress
from hashlib import sha256
from pathlib import Path
from typing import Any

from .files import NOFOLLOW, NONBLOCK

try:
    import fcntl
except ImportError:  # Windows: whether a process lives cannot be seen
    fcntl = None  # type: ignore[assignment]

ENTRY_BYTES = 1 << 16  # bytes of an entry
TRIES = 3
_locks: set[int] = set()  # open files


class Entry:
    """Facts about a draft, in memory and, where that can be, in a file: a line of JSON each time they are noted."""

    def __init__(self, name: str, path: Path | None = None, flags: int = 0) -> None:
        """About the draft of this `name`. Raises OSError where the file is not this user's, or a living process's."""
        self.path, self.file, self.facts = path, -1, dict[str, Any](name=name)
        if path:
            self.file = os.open(path, os.O_RDWR | os.O_APPEND | NOFOLLOW | NONBLOCK | flags, 0o600)
            _locks.add(self.file)
            if not (_is_alone(os.fstat(self.file), stat.S_ISREG) and locked(self.file)):
                self.end(done=False)
                raise BlockingIOError(f"{path} is another's")

    def note(self, **facts: Any) -> None:
        """Add facts. Where they cannot be written, what is left if the process is killed now stays."""
        self.facts |= facts
        with suppress(OSError):
            os.write(self.file, f"{json.dumps(facts)}\n".encode())

    def read(self) -> None:
        """The facts that were noted, but for a line that was cut off, or that this version would not write."""
        for line in os.pread(self.file, ENTRY_BYTES, 0).splitlines():
            with suppress(ValueError, AttributeError):
                facts = json.loads(line)
                if all(isinstance(value, str if key == "path" else list) for key, value in facts.items()):
                    self.facts |= facts

    def flush(self) -> None:
        """Bring the facts to the disk."""
        with suppress(OSError):
            os.fsync(self.file)

    def end(self, done: bool = True) -> None:
        """Close the entry: its file goes if all is `done`, else the next process undoes what is left of the draft."""
        if self.path and done:
            self.path.unlink(missing_ok=True)
            _tidy(self.path.parent)
        if self.file in _locks:
            _locks.remove(self.file)
            os.close(self.file)
        self.path, self.file = None, -1


def new_entry(key: str, name: str) -> Entry:
    """A new entry about the draft of this `name`; `key` is what its file name begins with."""
    for _ in range(TRIES):  # another process may remove the folder meanwhile
        with suppress(OSError):
            return Entry(name, (folder := _folder()) and folder / f"{key}{name}", os.O_CREAT | os.O_EXCL)
    return Entry(name)


def dead(key: str) -> Iterator[Entry]:
    """The entries for `key` whose processes have ended; whoever takes one ends it."""
    folder = _folder()
    for path in sorted(folder.glob(f"{key}*")) if folder else ():
        with suppress(OSError):
            entry = Entry(path.name.removeprefix(key), path)
            entry.read()
            yield entry


def is_empty(key: str) -> bool:
    """Whether there is no entry for `key`, of a living process or a dead one."""
    folder = _folder()
    return not folder or not any(folder.glob(f"{key}*"))


def _folder() -> Path | None:
    """$XDG_STATE_HOME/bnfold, made where there is none; None unless it is this user's, and nobody else may write."""
    stated = os.environ.get("XDG_STATE_HOME", "")
    if fcntl is None:
        return None
    with suppress(OSError, RuntimeError):
        base = Path(stated) if os.path.isabs(stated) else Path.home() / ".local" / "state"
        (base / "bnfold").mkdir(0o700, parents=True, exist_ok=True)
        if _is_alone((base / "bnfold").lstat(), stat.S_ISDIR):
            return base / "bnfold"
    return None


def _tidy(folder: Path) -> None:
    """Remove the folder of the journal, and folders above it that were made for it, where they are empty."""
    with suppress(OSError):
        folder.rmdir()
        for path in (folder.parent, folder.parent.parent) if folder.parts[-3:-1] == (".local", "state") else ():
            path.rmdir()


def _is_alone(state: os.stat_result, is_kind: Callable[[int], bool]) -> bool:
    """Whether a file is of this kind, belongs to this user, and nobody else may write to it."""
    return is_kind(state.st_mode) and state.st_uid == os.geteuid() and not state.st_mode & 0o022


def locked(file: int) -> bool | None:
    """Lock an open file against other processes; whether that could be done. None where there are no locks."""
    if fcntl is None:
        return None
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:  # another process has it
        return False
    except OSError:  # of the file system
        return None
    return True


def key(target: Path) -> str:
    """What the names of entries about drafts of `target` begin with. Raises OSError."""
    folder = target.parent.stat()
    return sha256(f"{folder.st_dev}:{folder.st_ino}:".encode() + os.fsencode(target.name)).hexdigest()[:32]


def signature(file: Path) -> list[int]:
    """Device, inode, size and time of a file: they identify it, also when it is moved. Empty where there is none."""
    with suppress(FileNotFoundError):
        state = file.lstat()
        return [state.st_dev, state.st_ino, state.st_size, state.st_mtime_ns]
    return []


def identity(folder: Path) -> list[int]:
    """Device and inode of a folder: they identify it, also when it is moved."""
    state = folder.stat()
    return [state.st_dev, state.st_ino]


def _forget() -> None:
    """In a fork, let go of all locks: they must end with the process that made the drafts, not with its forks."""
    while _locks:
        os.close(_locks.pop())


if fcntl is not None:
    os.register_at_fork(after_in_child=_forget)
