"""What each command shows is what was looked at: terminal, pipe, and NO_COLOR. `python -m tests.goldens --write`"""

from __future__ import annotations

import re

import pytest

from tests.goldens.capture import COLUMNS, masked, screen
from tests.goldens.playing import GOLDENS, played
from tests.goldens.scenes import SCENES

SLOW = pytest.mark.slow
ALL = [pytest.param(n, w, marks=SLOW if s.slow or w == "no-color" else ()) for n, s in SCENES.items() for w in s.ways]


@pytest.mark.parametrize(("name", "way"), ALL)
def test_it_looks_as_it_did(name, way):
    assert played(name, way) == (GOLDENS / f"{name}.{way}.txt").read_text(encoding="utf-8")


def test_every_golden_is_of_a_scene():
    assert {path.name for path in GOLDENS.glob("*.txt")} == {
        f"{name}.{way}.txt" for name, scene in SCENES.items() for way in scene.ways
    }


@pytest.mark.parametrize("path", sorted(GOLDENS.glob("*.txt")), ids=lambda path: path.stem)
def test_nothing_is_broken(path):
    """No traceback, no colour where none is wanted, and at a terminal no line beyond its 80 columns."""
    text = path.read_text(encoding="utf-8")
    assert "Traceback" not in text
    assert "[exit 70]" not in text
    name, way = path.stem.rsplit(".", 1)
    codes = {code for found in re.findall(r"<([\d;]+)>", text) for code in found.split(";")}
    assert codes <= {"terminal": {"0", "1", "2", "31", "32", "33", "36"}, "no-color": {"0", "1", "2"}}.get(way, set())
    if way != "pipe" and not SCENES[name].masks:
        seen = [line for line in re.sub(r"<[\d;]+>", "", text).splitlines() if not line.startswith("$")]
        assert max(map(len, seen)) <= COLUMNS


def test_the_screen_is_what_is_left():
    assert screen("working 10 %\r\x1b[2Kworking 90 %\r\n\x1b[1A\x1b[2Kdone\x1b[1m!\x1b[0m\r\n") == "done<1>!<0>\n"


def test_a_mask_hides_numbers_and_nothing_else():
    line = "off   3  0.63 times, 1.2e-05 [0.98, 1.02]  v1 FASTER"
    assert masked(line) == line
    assert masked(line, "decimals") == "off  3  # times, # [#, #]  v1 FASTER"
    assert masked(line, "all") == "off  N  # times, # [#, #]  v1 VERDICT"
    assert masked("onnx 1.23.2, torch 2.15.0; 0.6 s") == "onnx #, torch #; # s"
