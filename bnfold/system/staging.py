"""Files that appear whole or not at all, whatever comes between: kill -9, a full disk, another process.

What becomes OUT is made in a draft, a folder next to it that is this user's alone and has a name that nobody can guess,
and flushed to the disk. Then its data file, if there is one, is renamed to OUT.data, and last the draft to OUT. An OUT
and OUT.data that are there step aside before: no model ever stands next to data that is not its own. Where a process
ends on the way, they come back, at the latest when the next one writes OUT. What it may undo it knows from the journal:
that a name in the folder looks like a draft's, or a file in it like ours, is no proof.
"""

from __future__ import annotations

import ctypes
import errno
import io
import os
import stat
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..errors import EnvironmentProblem, UsageProblem
from . import journal, limits
from .files import NOFOLLOW, NONBLOCK, folder_path, not_a_link, stream_of
from .journal import Entry
from .progress import notify

ASIDE = "aside"  # in a draft's folder: the model that is being replaced, and its data file
KEEP_SIZE = 1  # FALLOC_FL_KEEP_SIZE
STEP = 1 << 22  # bytes after which the system is to write them to the disk
# Seconds to wait for another process, until a notice about that, and between two tries.
LOCK_SECONDS, NOTICE_SECONDS, LOCK_PAUSE = 60.0, 1.0, 0.02


class Sink(io.BufferedWriter):
    """A file that is written from `start` to its end, and goes to the disk meanwhile: fsync waits only for the rest.

    The means is POSIX_FADV_DONTNEED, which begins to write pages back; those not yet on the disk stay in memory.
    """

    def __init__(self, path: Path, mode: str = "wb", start: int = 0) -> None:
        super().__init__(io.FileIO(path, mode, opener=not_a_link))
        self._written_back = self.seek(start)

    def reserve(self, length: int) -> None:
        """Take room on the disk all at once, where the system can, which saves time; the file stays as long as it is.

        Not by os.posix_fallocate, which where the file system cannot do so writes to every block.
        """
        if sys.platform == "linux":
            ctypes.CDLL(None).fallocate(self.fileno(), KEEP_SIZE, ctypes.c_int64(0), ctypes.c_int64(length))

    def write(self, data: Any, /) -> int:
        count = super().write(data)
        self.start_writeback()
        return count

    def start_writeback(self) -> None:
        """Let the system write to the disk what came since the last call, once that is STEP bytes."""
        at = self.tell()
        if at - self._written_back >= STEP and hasattr(os, "posix_fadvise"):
            os.posix_fadvise(self.fileno(), self._written_back, at - self._written_back, os.POSIX_FADV_DONTNEED)
            self._written_back = at


@dataclass(frozen=True)
class _Draft:
    """Where it is made; `target` and `folder` lead there even if a folder is renamed meanwhile, see `folder_path`."""

    target: Path
    folder: Path
    name: str
    entry: Entry


@contextmanager
def staged(target: Path, *, keep: bool = True, in_folder: bool = False, replace: bool = True) -> Iterator[Path]:
    """A path to write to; when the block ends well, what was written there becomes `target`. Else nothing is left.

    A file next to it, called `data_name` of it, becomes `target`'s data file. Without `keep` nothing becomes of either.
    A draft that refers to files of `target`'s own folder must itself be there, `in_folder`, and has no data file
    of its own. Raises EnvironmentProblem if the place cannot be written, UsageProblem if it is taken, also since then,
    and not to `replace`. A link is replaced, never followed.
    """
    with writing(target), folder_path(target.parent) as parent, _begun(parent / target.name, target) as draft:
        yield _new_draft_file(draft) if in_folder else draft.folder / target.name
        if keep:
            _place(draft, draft.folder / target.name, target, replace)


def write_file(path: Path, content: bytes) -> None:
    """A whole file at once, in place of what was there, a link too. A device, a pipe, our own stdout are written to."""
    with writing(path):
        number = stream_of(path)
    if number is None:
        with staged(path) as draft:
            draft.write_bytes(content)
        return
    with writing(path), open(number, "wb") as stream:
        stream.write(content)


def append_text(path: Path, text: str) -> None:
    """Add to a file, which is no link, and no pipe. Raises EnvironmentProblem."""
    with writing(path):
        number = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | NOFOLLOW | NONBLOCK, 0o666)
        with open(number, "a", encoding="utf-8") as stream:
            if not stat.S_ISREG(os.fstat(number).st_mode):
                raise OSError(errno.EINVAL, "not a regular file")
            stream.write(text)


@contextmanager
def writing(target: Path) -> Iterator[None]:
    """Raises EnvironmentProblem, naming `target`, where the block fails to write."""
    try:
        yield
    except OSError as problem:
        if isinstance(problem, FileNotFoundError):
            require_folder(target)
        raise EnvironmentProblem(
            f"{target} cannot be written: {problem.strerror or problem}",
            "Choose another place, or check permissions and free space.",
        ) from problem


def require_folder(path: Path) -> None:
    """Before anything is computed: raises EnvironmentProblem where there is no folder to write into."""
    if not os.path.isdir(path.parent):
        raise EnvironmentProblem(f"{path} cannot be written: no folder {path.parent}", "Make it, or name another.")


def data_name(model: Path) -> str:
    """The file that holds the external data of a model that we write."""
    return f"{model.name}.data"


def sweep(target: Path) -> bool:
    """Undo what processes of this user that were killed have begun at `target`. False where one is still alive."""
    with suppress(OSError), folder_path(target.parent) as parent, _alone(parent, target):
        _sweep(parent / target.name)
        return journal.is_empty(journal.key(parent / target.name))
    return True


@contextmanager
def _begun(target: Path, called: Path) -> Iterator[_Draft]:
    """A new draft, removed after the block, also if a signal comes meanwhile; `called` is its target in messages."""
    name = f".bnfold-{os.urandom(8).hex()}"
    entry = Entry(name)
    try:
        with _alone(target.parent, called):
            _sweep(target)
            entry = journal.new_entry(journal.key(target), name)
            target.with_name(name).mkdir(0o700)
        with folder_path(target.with_name(name), follow=False) as folder:
            entry.note(folder=journal.identity(folder))
            yield _Draft(target, folder, name, entry)
    finally:
        try:
            _undo(target, entry)
        except KeyboardInterrupt:
            _undo(target, entry)
            raise


@contextmanager
def _alone(folder: Path, target: Path) -> Iterator[None]:
    """No other process is in such a block of the same folder, where the system can lock one.

    Raises EnvironmentProblem where another one does not let go of it.
    """
    if sys.platform == "win32":
        yield
        return
    file = os.open(folder, os.O_RDONLY)
    try:
        _wait(file, target)
        yield
    finally:
        os.close(file)


def _wait(file: int, target: Path) -> None:
    """Lock the folder of `target`, which is open as `file`."""
    began, patience, said = time.monotonic(), limits.current().time(LOCK_SECONDS), False
    while journal.locked(file) is False:
        waited = time.monotonic() - began
        if waited > patience:
            raise EnvironmentProblem(
                f"{target} cannot be written: another process has had its folder locked for {patience:g} s",
                "End that process, or write to another folder; --limit seconds=3600 waits longer.",
            )
        if waited > NOTICE_SECONDS and not said:
            notify(f"waiting for another process, which has locked the folder of {target}")
            said = True
        time.sleep(LOCK_PAUSE)


def _place(draft: _Draft, path: Path, target: Path, replace: bool) -> None:
    """Let a draft and its data file become `target`: one step after the other, each on the disk before the next."""
    data, parent = path.with_name(data_name(path)), draft.target.parent
    if "draft" in draft.entry.facts:
        _bring_in(draft, path)
    for made in filter(os.path.lexists, (data, path)):
        _flush(made)
    with _alone(parent, target):
        if not replace and os.path.lexists(draft.target):
            raise UsageProblem(f"{target} exists", "--force replaces it.")
        if os.path.lexists(data):
            steps = _steps_aside(draft.target, draft.folder)
            draft.entry.note(data=journal.signature(data), aside=[journal.signature(path) for path, _ in steps])
            draft.entry.flush()
            for there, aside in steps:
                if journal.signature(there) and not os.path.isdir(there):
                    os.replace(there, aside)
            for folder in (draft.folder, parent):
                _flush(folder)
            os.replace(data, draft.target.with_name(data_name(target)))
            _flush(parent)
        os.replace(path, draft.target)
        _flush(parent)


def _flush(path: Path) -> None:
    """Bring a file, or the names in a folder, to the disk; a folder only where the system can."""
    is_folder = os.path.isdir(path)
    with suppress(OSError) if is_folder else nullcontext():
        file = os.open(path, os.O_RDONLY if is_folder else os.O_RDWR | NOFOLLOW)
        try:
            os.fsync(file)
        finally:
            os.close(file)


def _sweep(target: Path) -> None:
    for entry in journal.dead(journal.key(target)):
        _undo(target, entry)


def _undo(target: Path, entry: Entry) -> None:
    """Remove all of a draft that can be removed; the next draft of `target` removes the rest."""
    facts = entry.facts
    folder = target.with_name(facts["name"])
    with suppress(OSError), folder_path(folder, follow=False) as inside:
        if journal.identity(inside) == facts.get("folder"):
            if not os.path.lexists(target):
                _undo_place(target, inside, facts)
            draft = _draft_file(target, folder.name)
            if journal.signature(draft)[:2] == facts.get("draft"):
                draft.unlink()
            for left in inside.iterdir():
                left.unlink()
        folder.rmdir()
    entry.end(done=not os.path.lexists(folder))


def _undo_place(target: Path, folder: Path, facts: dict[str, Any]) -> None:
    """New data without its model goes; a model and its data that stepped aside come back, the data first."""
    data = target.with_name(data_name(target))
    if facts.get("data") and facts["data"] == journal.signature(data):
        data.unlink()
    signatures = facts.get("aside", [[], []])
    for (path, aside), signature in reversed([*zip(_steps_aside(target, folder), signatures, strict=True)]):
        if signature and signature == journal.signature(aside) and not os.path.lexists(path):
            os.replace(aside, path)


def _steps_aside(target: Path, folder: Path) -> list[tuple[Path, Path]]:
    """A model, then its data file, each with where it goes while another takes its place."""
    aside = folder / ASIDE
    return [(target, aside), (target.with_name(data_name(target)), folder / data_name(aside))]


def _new_draft_file(draft: _Draft) -> Path:
    """A new file for a draft that must be in `target`'s own folder."""
    path = _draft_file(draft.target, draft.name)
    os.close(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | NOFOLLOW, 0o666))
    draft.entry.note(draft=journal.signature(path)[:2])
    return path


def _draft_file(target: Path, name: str) -> Path:
    return target.with_name(f"{name}.onnx")


def _bring_in(draft: _Draft, path: Path) -> None:
    """Take a draft from `target`'s folder to where nobody else comes. Raises OSError if it is not the one made."""
    os.replace(_draft_file(draft.target, draft.name), path)
    if journal.signature(path)[:2] != draft.entry.facts["draft"]:
        raise OSError(errno.ESTALE, "somebody has put another file in the place of a draft")
