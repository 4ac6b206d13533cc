"""Files that appear whole or not at all, whatever comes between: kill -9, a full disk, another process.

What becomes OUT is made in a draft, a folder `.OUT.xxxxxxxx` beside it, and flushed to the disk. Then its data file, if
there is one, is renamed to OUT.data, and last the draft to OUT. An OUT and OUT.data that are there step aside before:
no model ever stands beside data that is not its own. Where a process ends on the way, they come back, at the latest
when the next one writes OUT; a lock, which ends with its process, tells which drafts are those of the living.
"""

from __future__ import annotations

import ctypes
import io
import os
import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext, suppress
from pathlib import Path
from typing import Any

from .errors import EnvironmentProblem, UsageProblem

try:
    import fcntl
except ImportError:  # Windows: whether a process lives cannot be told, so what is left of it stays
    fcntl = None  # type: ignore[assignment]

# In a draft's folder:
LOCK = "lock"  # is locked as long as the process lives that made the draft
ASIDE = "aside"  # the model that is being replaced, and its data file
MOVED = "moved"  # the signature of the data file that takes the place of the old one

KEEP_SIZE = 1  # FALLOC_FL_KEEP_SIZE
STEP = 1 << 22  # bytes after which the disk is told
_locks: set[int] = set()  # open files


class Sink(io.BufferedWriter):
    """A file that is written from `start` to its end, and goes to the disk meanwhile: fsync waits only for the rest.

    That is what the advice that its pages are not needed does first of all; those not yet on the disk stay in memory.
    """

    def __init__(self, path: Path, mode: str = "wb", start: int = 0) -> None:
        super().__init__(io.FileIO(path, mode))
        self._told = self.seek(start)

    def reserve(self, length: int) -> None:
        """Take room on the disk all at once, where the system can, which saves time; the file stays as long as it is.

        Not by os.posix_fallocate, which where the file system cannot do so writes to every block.
        """
        if sys.platform == "linux":
            ctypes.CDLL(None).fallocate(self.fileno(), KEEP_SIZE, ctypes.c_int64(0), ctypes.c_int64(length))

    def write(self, data: Any, /) -> int:
        count = super().write(data)
        self.tell_disk()
        return count

    def tell_disk(self) -> None:
        """Say that the file was written up to its place."""
        at = self.tell()
        if at - self._told >= STEP and hasattr(os, "posix_fadvise"):
            os.posix_fadvise(self.fileno(), self._told, at - self._told, os.POSIX_FADV_DONTNEED)
            self._told = at


@contextmanager
def staged(target: Path, *, keep: bool = True, beside: bool = False, replace: bool = True) -> Iterator[Path]:
    """A path to write to; when the block ends well, what was written there becomes `target`. Else nothing is left.

    A file beside it, called `data_name` of it, becomes `target`'s data file. Without `keep` nothing becomes of either.
    A draft that refers to files of `target`'s own folder must itself be in it: `beside`. Raises EnvironmentProblem if
    the place cannot be written, UsageProblem if it is taken and not to `replace`, also if that came in between.
    """
    folder = target.with_name(f".{target.name}.{os.urandom(8).hex()}")
    draft = folder.with_name(f"{folder.name}.onnx") if beside else folder / target.name
    with writing(target), _begun(folder, target):
        yield draft
        if keep:
            _place(draft, target, folder, replace)


def write(path: Path, content: bytes) -> None:
    """A whole file at once, in place of what was there; a link, a device or a pipe is written through."""
    if path.is_symlink() or is_special(path):
        with writing(path):
            path.write_bytes(content)
        return
    with staged(path) as draft:
        draft.write_bytes(content)


@contextmanager
def writing(target: Path) -> Iterator[None]:
    """Raises EnvironmentProblem, naming `target`, where the block fails to write."""
    try:
        yield
    except OSError as problem:
        raise EnvironmentProblem(
            f"{target} cannot be written: {problem.strerror or problem}",
            "Choose another place, or check permissions and free space.",
        ) from problem


def require_folder(path: Path) -> None:
    """Before anything is computed: raises EnvironmentProblem where there is no folder to write into."""
    if not path.parent.is_dir():
        raise EnvironmentProblem(f"{path} cannot be written: no folder {path.parent}", "Make it, or name another.")


def is_special(path: Path) -> bool:
    """A device, a pipe, a socket: what may be written to, but not replaced."""
    return os.path.exists(path) and not os.path.isfile(path) and not os.path.isdir(path)


def data_name(model: Path) -> str:
    """The file that holds the external data of a model that we write."""
    return f"{model.name}.data"


def sweep(target: Path) -> None:
    """Undo what processes that were killed have begun at `target`."""
    with suppress(OSError), _alone(target.parent):
        _sweep(target)


@contextmanager
def _begun(folder: Path, target: Path) -> Iterator[None]:
    """A new folder for a draft, locked, which goes in the end, also where a signal comes while it does."""
    lock = None
    try:
        with _alone(target.parent):
            _sweep(target)
            folder.mkdir(0o700)
            lock = os.open(folder / LOCK, os.O_RDWR | os.O_CREAT)
            _locks.add(lock)
            _locked(lock)
        yield
    finally:
        try:
            _undo(folder, target)
        except KeyboardInterrupt:
            _undo(folder, target)
            raise
        finally:
            if lock is not None:
                _locks.remove(lock)
                os.close(lock)


def _forget() -> None:
    """In a fork: a lock is that of the process that made the draft, and ends with it, not with its forks."""
    while _locks:
        os.close(_locks.pop())


if fcntl is not None:
    os.register_at_fork(after_in_child=_forget)


def _locked(file: int, wait: bool = False) -> bool:
    """Lock an open file against other processes; whether that could be done."""
    if fcntl is None:
        return False
    try:
        fcntl.flock(file, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
    except OSError:  # another process has it, or the file system has no locks
        return False
    return True


@contextmanager
def _alone(folder: Path) -> Iterator[None]:
    """No other process is in such a block of the same folder, where the system can lock one."""
    if fcntl is None:
        yield
        return
    held = os.open(folder, os.O_RDONLY)
    try:
        _locked(held, wait=True)
        yield
    finally:
        os.close(held)


def _place(draft: Path, target: Path, folder: Path, replace: bool) -> None:
    """Let a draft and its data file become `target`: one step after the other, each on the disk before the next."""
    data, place = draft.with_name(data_name(draft)), target.with_name(data_name(target))
    for made in filter(Path.exists, (data, draft)):
        _flush(made)
    with _alone(target.parent):
        if not replace and os.path.lexists(target):
            raise UsageProblem(f"{target} exists", "--force replaces it.")
        if data.exists():
            for path, aside in _steps_aside(folder, target):
                if os.path.lexists(path) and not path.is_dir():
                    os.replace(path, aside)
            (folder / MOVED).write_text(_signature(data))
            for path in (folder / MOVED, folder, target.parent):
                _flush(path)
            os.replace(data, place)
            _flush(target.parent)
        os.replace(draft, target)
        _flush(target.parent)


def _signature(file: Path) -> str:
    """What no other file has, wherever this one is moved."""
    state = file.lstat()
    return f"{state.st_dev}:{state.st_ino}:{state.st_size}:{state.st_mtime_ns}"


def _flush(path: Path) -> None:
    """Bring a file, or the names in a folder, to the disk; a folder only where the system can."""
    is_folder = path.is_dir()
    with suppress(OSError) if is_folder else nullcontext():
        file = os.open(path, os.O_RDONLY if is_folder else os.O_RDWR)
        try:
            os.fsync(file)
        finally:
            os.close(file)


def _sweep(target: Path) -> None:
    ours = re.compile(rf"\.{re.escape(target.name)}\.[0-9a-f]{{16}}")
    with os.scandir(target.parent) as entries:
        left = [Path(e.path) for e in entries if ours.fullmatch(e.name) and e.is_dir(follow_symlinks=False)]
    for folder in left:
        if _is_dead(folder):
            _undo(folder, target)


def _is_dead(folder: Path) -> bool:
    """The process that made a draft no longer lives, as far as can be told."""
    try:
        lock = os.open(folder / LOCK, os.O_RDWR)
    except FileNotFoundError:  # it ended before there was more than a folder, or when hardly more was left of it
        with suppress(OSError):
            return not any(folder.iterdir())
        return False  # its own process has removed it just now
    except OSError:  # that of another user
        return False
    try:
        return _locked(lock)
    finally:
        os.close(lock)


def _undo(folder: Path, target: Path) -> None:
    """Leave nothing of a draft, as far as that can be done; what is left goes with the next one."""
    with suppress(OSError):
        if not os.path.lexists(target):
            _undo_place(folder, target)
        folder.with_name(f"{folder.name}.onnx").unlink(missing_ok=True)
        for entry in sorted(folder.iterdir(), key=lambda path: path.name == LOCK):  # the lock last
            entry.unlink(missing_ok=True)
        folder.rmdir()


def _undo_place(folder: Path, target: Path) -> None:
    """New data without its model goes; a model and its data that stepped aside come back, the data first."""
    moved, place = folder / MOVED, target.with_name(data_name(target))
    if moved.exists() and os.path.lexists(place) and moved.read_text() == _signature(place):
        place.unlink()
    for path, aside in reversed(_steps_aside(folder, target)):
        if os.path.lexists(aside):
            os.replace(aside, path)


def _steps_aside(folder: Path, target: Path) -> list[tuple[Path, Path]]:
    """A model, then its data file, each with where it goes while another takes its place."""
    aside = folder / ASIDE
    return [(target, aside), (target.with_name(data_name(target)), folder / data_name(aside))]
