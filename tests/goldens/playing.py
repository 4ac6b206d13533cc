"""A scene, played: its commands, and what was seen of each."""

from __future__ import annotations

import shlex
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory

from tests.goldens.capture import masked, seen
from tests.goldens.scenes import SCENES, files

GOLDENS = Path(__file__).parent


def played(name: str, way: str) -> str:
    """The commands of a scene in a fresh folder, each with its output and exit code, numbers masked."""
    with TemporaryDirectory(prefix="bnfold-goldens-") as folder:
        files(Path(folder))
        return "\n".join(_acts(name, way, Path(folder)))


def _acts(name: str, way: str, folder: Path) -> Iterator[str]:
    for command in SCENES[name].commands:
        code, text = seen(shlex.split(command), way, folder)
        yield f"$ bnfold {command}\n{masked(text, SCENES[name].masks).rstrip()}\n[exit {code}]\n"
