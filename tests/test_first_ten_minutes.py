"""The first ten minutes: the terminal shows what a person sees, the commands are the README's, the transcript is theirs."""

from __future__ import annotations

import os
import re
from typing import Any

import pytest

from tests.data import data_path
from tests.first_ten_minutes import __main__ as minutes
from tests.first_ten_minutes.stumbles import FIRST, STUMBLES, Stumble, of
from tests.first_ten_minutes.terminal import Seen, screen, seen

README = (minutes.ROOT / "README.md").read_text()


def test_the_terminal_shows_what_a_person_sees(tmp_path):
    command = "tput cols; echo out; echo err >&2; test -t 1 && echo terminal; exit 3"
    found = seen(command, tmp_path, {"PATH": os.environ["PATH"]})
    assert found.lines == ["80", "out", "err", "terminal"]
    assert found.code == 3
    assert found.seconds > 0


def test_what_was_overwritten_is_gone():
    assert screen("\x1b[1m10 %\r20 %\r\nnext\r\n") == ["20 %", "next"]


def test_a_newcomer_uses_only_what_the_pages_say():
    """The first fold is by the README alone; commands after it are there or on the pages that it links to."""
    pages = README + "".join(page.read_text(encoding="utf-8") for page in (minutes.ROOT / "docs").glob("*.md"))
    for step in FIRST.steps:
        assert step.command.replace(" --quiet", "").split(" && ")[0].removesuffix("text.onnx") in README, step.command
    for step in (step for stumble in STUMBLES for step in stumble.steps):
        for word in re.findall(r"(?<!\S)(?:bnfold [a-z]+|--[a-z-]+)", step.command):
            assert word in pages or word == "--version", word


def test_there_are_fifteen_stumbles_each_with_something_to_see():
    assert len(STUMBLES) == 15
    assert [each.title for each in STUMBLES if not (each.shows or each.alike)] == []


def test_what_is_confusing_is_noticed():
    """Each check of a stumble, on output that fails it."""

    def problems(*lines: str, code: int = 0, **checks: Any) -> list[str]:
        return Stumble("It", "", of("bnfold fold m.onnx"), **checks).problems(
            [Seen("bnfold fold m.onnx", list(lines), code, 0.1)]
        )

    assert problems("PASS, proved for", "all inputs", shows=("proved for all inputs",)) == []
    assert len(problems("x", code=1)) == 1
    assert len(problems("x", shows=("y",))) == 1
    assert len(problems("x", never=("x",))) == 1
    assert len(problems("largest error 9.5e+05")) == 1
    assert len(problems("Traceback (most recent call last):")) == 1
    assert len(problems("x" * 81)) == 1
    assert len(problems("x", "y", most=1)) == 1
    assert len(problems("hint: `bnfold", "help`", hint="bnfold fold nets")) == 1
    assert problems("hint: `bnfold fold", "nets`", hint="bnfold fold nets") == []
    assert len(problems("4 before; 3 nodes", alike=(r"(\d) before", r"(\d) nodes"))) == 1
    assert len(problems("4 before", alike=(r"(\d) before", r"(\d) nodes"))) == 1
    assert problems("4 before; 4 nodes", alike=(r"(\d) before", r"(\d) nodes")) == []


def test_the_transcript_is_of_these_commands_and_nothing_in_it_is_confusing():
    text = minutes.TRANSCRIPT.read_text(encoding="utf-8")
    shown = [
        seen_in(block, end)
        for block, end in re.findall(r"^```console\n(.*?)^```\n(exit code .*?)\n", text, re.M | re.S)
    ]
    clone, *rest = shown
    assert clone.command.startswith("git clone")
    for stumble in (FIRST, *STUMBLES):
        mine, rest = rest[: len(stumble.steps)], rest[len(stumble.steps) :]
        assert [each.command for each in mine] == [step.command for step in stumble.steps]
        assert stumble.problems(mine) == []
    assert rest == []
    assert re.search(r"^\*\*From the clone to the first proved fold: \d+ s\*\*", text, re.M)


def seen_in(block: str, end: str) -> Seen:
    """A command of the transcript, with what was seen."""
    first, *lines = block.splitlines()
    code, seconds = re.findall(r"[\d.]+", end)
    return Seen(first.removeprefix("$ "), lines, int(code), float(seconds))


@pytest.mark.slow
def test_the_first_ten_minutes(tmp_path, monkeypatch, capfd):
    data_path("onnx", "ppocr_v3_det.onnx")
    monkeypatch.setattr("sys.argv", ["first_ten_minutes", "--out", str(tmp_path / "t.md")])
    assert minutes.main() == 0, capfd.readouterr().err
