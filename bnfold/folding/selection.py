"""Which models are meant by files, folders and patterns, and what each is called below them. Links are not followed."""

from __future__ import annotations

import glob
import os
import stat
from collections import Counter
from collections.abc import Iterator, Sequence
from fnmatch import fnmatchcase
from pathlib import Path
from typing import NamedTuple

from ..errors import UsageProblem

MADE = (".folded.onnx", ".failed.onnx")  # names of what `fold` has written
ANY = "**"  # in a pattern: folders, any number of them
ANY_MODEL: tuple[str, ...] = (ANY, "*.onnx")  # what a folder stands for
NOT_ONNX, HIDDEN, LINK, RESULT_FOLDER, OURS, SPECIAL, CLOSED = (
    "not .onnx",
    "hidden",
    "link",
    "folder of results",
    "result of fold",
    "special file",
    "unreadable folder",
)
PLURALS = {LINK: "links", OURS: "results of fold", SPECIAL: "special files", CLOSED: "unreadable folders"}


class Skipped(NamedTuple):
    """A file or folder that was met on the way, and why it is no model to fold."""

    path: Path
    reason: str


class Selection(NamedTuple):
    """`models`: each with its place below what was named; `skipped` is what was met next to them."""

    models: dict[Path, Path]
    skipped: list[Skipped]

    def in_a_line(self) -> str:
        """What was skipped, by reason; nothing if nothing was."""
        counts = self.counts().items()
        return ", ".join(f"{number} {PLURALS.get(why, why) if number > 1 else why}" for why, number in counts)

    def counts(self) -> dict[str, int]:
        """How many files and folders were skipped for each reason."""
        return dict(sorted(Counter(each.reason for each in self.skipped).items()))


def selected(named: Sequence[Path], out_dir: Path) -> Selection:
    """The models that are `named`, each once: a file; those in a folder and below it; those that fit a pattern.

    Each has its path below the folder, or below the part of a pattern before its first wildcard, and a file its name.
    Raises UsageProblem for a folder or pattern without any.
    """
    selection = Selection({}, [])
    known: set[str] = set()
    for each in named:
        for model, place in _of(each, out_dir, selection.skipped):
            if (where := os.path.abspath(model)) not in known:
                known.add(where)
                selection.models[model] = place
    return selection


def _of(named: Path, out_dir: Path, skipped: list[Skipped]) -> Iterator[tuple[Path, Path]]:
    top, pattern = named, ANY_MODEL
    if os.path.isdir(named):
        pass
    elif glob.has_magic(str(named)) and not os.path.exists(named):
        first = next(i for i, part in enumerate(named.parts) if glob.has_magic(part))
        top, pattern = Path(*named.parts[:first]), named.parts[first:]
    else:
        yield named, Path(named.name)
        return
    before = len(skipped)
    models = [path for path in _walked(top, pattern, out_dir, skipped) if not _is_skipped(path, skipped)]
    if not models:
        where = f"in {named}" if os.path.isdir(named) else f"matches {named}"
        others = Selection({}, skipped[before:]).in_a_line()
        raise UsageProblem(
            f"no model {where}{f' (skipped: {others})' if others else ''}",
            "Name .onnx files, folders that hold some, or a pattern.",
        )
    yield from ((path, path.relative_to(top)) for path in sorted(models))


def _walked(top: Path, pattern: tuple[str, ...], out_dir: Path, skipped: list[Skipped]) -> Iterator[Path]:
    """The files below `top` that fit the pattern; of a whole folder, what does not is skipped in words."""

    def closed(problem: OSError) -> None:
        skipped.append(Skipped(Path(problem.filename), CLOSED))

    for place, folders, files in os.walk(top, onerror=closed):
        here = Path(place)
        depth = len(here.relative_to(top).parts)
        entered = [name for name in folders if ANY in pattern or depth + 1 < len(pattern)]
        reasons = {name: _why_not_entered(here / name, out_dir) for name in sorted(entered)}
        skipped += [Skipped(here / name, why) for name, why in reasons.items() if why]
        folders[:] = [name for name, why in reasons.items() if not why]
        for path in (here / name for name in files):
            if _fits(path.relative_to(top).parts, pattern):
                yield path
            elif pattern == ANY_MODEL:
                skipped.append(Skipped(path, HIDDEN if path.name.startswith(".") else NOT_ONNX))


def _why_not_entered(folder: Path, out_dir: Path) -> str:
    if os.path.islink(folder):
        return LINK
    if os.path.abspath(folder) == os.path.abspath(out_dir):
        return RESULT_FOLDER
    return HIDDEN if folder.name.startswith(".") else ""


def _is_skipped(path: Path, skipped: list[Skipped]) -> bool:
    """Whether a file that fits is no model to fold; if so, why is noted."""
    mode = path.lstat().st_mode
    reasons = (
        (HIDDEN, path.name.startswith(".")),
        (LINK, stat.S_ISLNK(mode)),
        (SPECIAL, not stat.S_ISREG(mode)),
        (OURS, path.name.endswith(MADE)),
    )
    skipped += [Skipped(path, reason) for reason, holds in reasons if holds][:1]
    return any(holds for _, holds in reasons)


def _fits(names: tuple[str, ...], pattern: tuple[str, ...]) -> bool:
    """Whether the names of a path, one by one, are as a pattern has them."""
    if not pattern or not names:
        return not names and all(part == ANY for part in pattern)
    if pattern[0] == ANY:
        return _fits(names, pattern[1:]) or _fits(names[1:], pattern)
    return fnmatchcase(names[0], pattern[0]) and _fits(names[1:], pattern[1:])
