"""A newcomer's first ten minutes, recorded: `python -m tests.first_ten_minutes` (some minutes, needs a package index)

A fresh clone of HEAD, a fresh environment without PyTorch, the first proved fold, then the fifteen stumbles that newcomers
had (stumbles.py): each with what happened then, and with what a person sees today at 80 columns, on files of one's own. All goes
to TRANSCRIPT.md. Exits 1, with a sentence for each, where something is still confusing: a wrong exit code, a line of more than 80
columns, a hint that does not work, counts that differ, an absolute error without proportion.

`--here` takes this environment instead of a fresh one, and records nothing: a quick look while one works.
"""

from __future__ import annotations

import argparse
import os
import shutil
import sys
import tempfile
from dataclasses import replace
from pathlib import Path

from tests.first_ten_minutes.files import OF_THE_DATA, own_files
from tests.first_ten_minutes.stumbles import FIRST, STUMBLES, Stumble
from tests.first_ten_minutes.terminal import Seen, seen

ROOT = Path(__file__).resolve().parents[2]
TRANSCRIPT = Path(__file__).parent / "TRANSCRIPT.md"
ABOUT = f"""# The first ten minutes

Written by `python -m tests.first_ten_minutes`: a fresh clone, a fresh environment, and what a person sees at 80 columns.
`text.onnx` is {OF_THE_DATA["text.onnx"]} and `faces.onnx` is {OF_THE_DATA["faces.onnx"]} of the test data. `branches.onnx` is the RepVGG of
`samples/05_reparameterize_repvgg` as PyTorch exports it, `large.onnx` the same with a data file; `finished.onnx` a network of
Conv and BatchNormalization alone, which PyTorch's exporter has folded already; `resnet18.onnx` torchvision's, `densenet121.onnx`
timm's; `silu.onnx` and `huge.onnx` have four nodes.
"""


def environments(place: Path, home: Path) -> tuple[dict[str, str], dict[str, str]]:
    """Variables outside of the new environment, and within it."""
    outside = {"HOME": str(place), "LANG": "C.UTF-8", "PATH": os.environ["PATH"]}
    outside |= {name: value for name, value in os.environ.items() if name.startswith(("PIP_", "SSL_"))}
    return outside, outside | {"PATH": f"{home / '.venv/bin'}{os.pathsep}{outside['PATH']}"}


def section(lines: list[str], title: str, stumble: Stumble, shown: list[Seen]) -> None:
    """A stumble as a section of the transcript: each command as a person sees it."""
    lines += [f"## {title}", "", f"Then: {stumble.then}", ""]
    for each in shown:
        seconds = f"exit code {each.code}, {each.seconds:.1f} s"
        lines += ["```console", f"$ {each.command}", *each.lines, "```", seconds, ""]


def play(stumble: Stumble, home: Path, variables: dict[str, str]) -> list[Seen]:
    return [seen(step.command, home, variables) for step in stumble.steps]


def first(lines: list[str], place: Path, home: Path) -> list[str]:
    """From the clone to the first proved fold, with the time that took; returns what is still confusing."""
    outside, inside = environments(place, home)
    clone = seen(f"git clone --quiet {ROOT} bnfold && cd bnfold", place, outside)
    own_files(home)
    shown = play(FIRST, home, inside)
    seconds = sum(each.seconds for each in (clone, *shown))
    load = f"{os.cpu_count()} cores, with a load of {os.getloadavg()[0]:.1f}"
    lines += [f"**From the clone to the first proved fold: {seconds:.0f} s**, on {load}.", ""]
    section(lines, FIRST.title, FIRST, [clone, *shown])
    return FIRST.problems(shown)


def first_here(lines: list[str], home: Path) -> list[str]:
    """The fold alone, without an installation."""
    home.mkdir()
    shutil.copyfile(ROOT / "README.md", home / "README.md")
    own_files(home)
    fold = replace(FIRST, steps=FIRST.steps[-1:])
    shown = play(fold, home, dict(os.environ))
    section(lines, fold.title, fold, shown)
    return fold.problems(shown)


def played(place: Path, here: bool) -> tuple[list[str], list[str]]:
    """The lines of the transcript, and what is still confusing."""
    lines, home = [*ABOUT.splitlines(), ""], place / "bnfold"
    problems = first_here(lines, home) if here else first(lines, place, home)
    variables = dict(os.environ) if here else environments(place, home)[1]
    for number, stumble in enumerate(STUMBLES, 1):
        shown = play(stumble, home, variables)
        section(lines, f"{number}. {stumble.title}", stumble, shown)
        problems += stumble.problems(shown)
    return lines, problems


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=TRANSCRIPT)
    parser.add_argument("--here", action="store_true", help="in this environment, to stdout unless --out is given")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as place:
        lines, problems = played(Path(place), options.here)
        text = "\n".join(lines).replace(place, "~").replace(str(ROOT), "REPOSITORY").rstrip() + "\n"
    if options.here and options.out == TRANSCRIPT:
        print(text)
    else:
        options.out.write_text(text, encoding="utf-8")
    for problem in problems:
        print(f"still confusing: {problem}", file=sys.stderr)
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main())
