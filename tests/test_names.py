"""Names are a stranger's: whatever they hold, what is shown is text, one line for each line that is meant, and short."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import onnx
import pytest

from bnfold.display.junit import FAILED, PASSED, JUnitCase, to_xml
from bnfold.errors import NAME_LENGTH, SENTENCE_LENGTH, ModelProblem, printable
from bnfold.reporting.page import shortened
from bnfold_cli import console
from bnfold_cli.main import run
from tests.attacks.named import NAMES, named

LINE_ENDS = re.compile(r"\r\n|[\n\r\x0b\x0c\x1c-\x1e\x85\u2028\u2029]")
COLOUR = re.compile(r"\x1b\[[0-9;]*m")  # our own


def harmful(text: str) -> set[str]:
    """What in a text would move a cursor, hide or turn letters, or be taken for a command by a pipeline."""
    hidden = {c for c in text if not c.isprintable() and c != "\n"}
    lines = [line.strip() for line in LINE_ENDS.split(text)]
    return hidden | {line for line in lines if line.startswith("::") or re.search(r"##\w*\[", line)}


@pytest.mark.parametrize("name", NAMES.values(), ids=NAMES)
def test_printable_text_is_one_short_line_and_stays_as_it_is(name):
    shown = printable(f"'{name}' is not linear")
    assert shown.isprintable()
    assert len(shown) <= SENTENCE_LENGTH
    assert max(map(len, shown.split(" "))) <= NAME_LENGTH
    assert printable(shown) == shown


def test_plain_names_are_shown_as_they_are():
    for name in ("/backbone/stages.3/Conv", "aten::relu", "層", "a  b", "", "#1", "x" * NAME_LENGTH):
        assert printable(name) == name


def test_what_is_left_out_is_counted():
    assert "...(1000000 characters)..." in printable("N" * 1_000_000)
    assert "...(600000 characters)..." in printable("a b" * 200_000)
    assert len(printable("a " * 9_000, 20_000)) == 18_000


def test_an_error_is_one_line_where_it_is_raised():
    problem = ModelProblem("no 'a\n::error::b'", "Remove \x1b[2J.")
    assert (str(problem), problem.hint) == (r"no 'a\n::error::b'", r"Remove \x1b[2J.")


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    np.savez("data.npz", x=np.random.default_rng(0).normal(size=(64, 4, 4, 4)).astype(np.float32))
    return tmp_path


COMMANDS = {
    "fold": ["fold", "m.onnx", "m.out.onnx", "--strict", "-v"],
    "explain": ["explain", "m.onnx", "-v"],
    "verify": ["verify", "m.onnx", "other.onnx", "-v"],
    "recalibrate": ["recalibrate", "m.onnx", "--data", "data.npz", "--plot", "drift.png"],
    "check": ["recalibrate", "m.onnx", "--data", "data.npz", "--check"],
    "evaluate": ["evaluate", "m.onnx", "--data", "data.npz"],
    "bench": ["bench", "m.onnx", "missing\n::error::.onnx"],
    "many": ["fold", "m.onnx", "other.onnx", "--out-dir", "many", "--strict", "--verify", "off"],
}


@pytest.mark.parametrize("command", COMMANDS.values(), ids=COMMANDS)
@pytest.mark.parametrize("name", ["ansi", "c1", "bidi", "newline", "command", "vso", "separators", "surrogate", "long"])
@pytest.mark.parametrize("way", ["pipe", "terminal"])
def test_no_command_shows_a_name_as_more_than_text(folder, capfd, monkeypatch, name, command, way):
    """In the process of pytest, which saves the start of one for each."""
    if way == "terminal":
        monkeypatch.setenv("FORCE_COLOR", "1")
        monkeypatch.setenv("COLUMNS", "60")
    onnx.save(named(NAMES[name]), "m.onnx")
    onnx.save(named("other"), "other.onnx")
    assert run(command) in (0, 1, 2, 3, 5)
    out, err = capfd.readouterr()
    assert harmful(COLOUR.sub("", out + err)) == set()
    assert len(out + err) < 60_000


@pytest.mark.parametrize("name", NAMES.values(), ids=NAMES)
def test_a_junit_report_is_xml_whatever_the_names(folder, name):
    onnx.save(named(name), "m.onnx")
    assert run(["fold", "m.onnx", "--dry-run", "--strict", "--verify", "off", "-q", "--junit", "r.xml"]) == 1
    failure = ElementTree.parse("r.xml").getroot().find(".//failure")
    assert failure is not None
    assert printable(name).strip()[:20] in failure.attrib["message"]


def test_a_file_name_that_is_no_text_is_shown_and_recorded(folder, capfd):
    path = os.fsdecode(b"\xff\x1b[2J\n::error::\xfe.onnx")
    onnx.save(named("x"), path)
    assert run(["fold", path, "out.onnx", "--json", "r.json", "--junit", "r.xml", "--report", "r.html"]) == 0
    assert harmful("".join(capfd.readouterr())) == set()
    assert json.loads(Path("r.json").read_text())["source"] == path  # data are exact
    assert ElementTree.parse("r.xml").getroot().tag == "testsuites"
    assert not harmful(Path("r.html").read_text().partition("<script")[0].replace("\t", ""))
    assert run(["fold", f"no{path}"]) == 3
    assert harmful("".join(capfd.readouterr())) == set()


def test_junit_of_names_with_what_xml_lacks():
    text = to_xml("s", [JUnitCase("\x00\ufffe\ud800", FAILED, "\uffff\n\x0b"), JUnitCase("b", PASSED, "\x1b")], 0.0)
    cases = ElementTree.fromstring(text.encode()).findall(".//testcase")
    assert [case.attrib["name"] for case in cases] == [r"\x00\ufffe\ud800", "b"]


def test_nine_names_of_a_megabyte_make_a_page_of_a_few(folder):
    onnx.save(named("N" * 1_000_000), "m.onnx")
    assert run(["fold", "m.onnx", "--verify", "off", "--report", "page.html"]) == 0
    assert Path("page.html").stat().st_size < 3_000_000


def test_cut_names_differ_as_the_whole_ones_do():
    long = "N" * 5000
    one, other = (shortened({f"{long}{c}{long}": [f"{long}{c}{long}", 1.5]}) for c in "ab")
    assert one != other
    assert one == {key: [key, 1.5] for key in one}


def test_a_name_is_no_formula_of_a_picture(folder):
    """matplotlib reads what stands between two `$`, and raises where it cannot."""
    onnx.save(named(r"\$\frac{$"), "m.onnx")
    assert run(["recalibrate", "m.onnx", "--data", "data.npz", "--plot", "p.png"]) == 0


def test_a_cell_of_several_lines_has_them_all(capfd):
    console.table("t", ("a", "b"), [(("one", "two\nthree"), "::x"), ("::error::", "##[x]")])
    assert capfd.readouterr().out == "t\na           b\none         ::x\ntwo\\nthree\n\\x3a:error::   \\x23#[x]\n"


def test_words_of_a_warning_are_kept_from_the_terminal(folder):
    """A library's warning about letters that a font lacks would quote them."""
    onnx.save(named("\x1b層"), "m.onnx")
    command = [sys.executable, "-m", "bnfold_cli", "recalibrate", "m.onnx", "--data", "data.npz", "--plot", "p.png"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert harmful(done.stderr) == set()
    assert "Warning" not in done.stderr
