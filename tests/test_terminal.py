"""At a terminal and elsewhere: tables that fit, progress that vanishes, -q and -v, colours, completion of the shell."""

from __future__ import annotations

import inspect
import os
import re
import subprocess
import sys
from importlib import import_module
from pathlib import Path

import pytest

from bnfold.system import progress
from bnfold_cli import console, progress_bar, tables, verbosity
from bnfold_cli.main import COMMANDS, run
from tests.goldens.capture import at_terminal, environment, screen
from tests.test_cli import conv_bn, here, written  # noqa: F401

NAME = "/backbone/stages.3/blocks.11/depthwise/BatchNormalization"


@pytest.mark.parametrize("width", [10, 20, 40, 80])
def test_wrapped_lines_fit_and_lose_nothing(width):
    text = f"Relu '{NAME}' is not linear: a scale may cross it, 1.2e-05 at most\nsecond"
    lines = tables.wrapped(text, width)
    assert all(len(line) <= width for line in lines)
    assert "".join("".join(lines).split()) == "".join(text.split())


def test_names_end_where_their_parts_end_and_numbers_nowhere():
    assert tables.wrapped(NAME, 30) == ["/backbone/stages.3/blocks.11/", "depthwise/BatchNormalization"]
    assert tables.widths([("a", "b"), ("1.25e-05", "0.9971")], 12) is None
    assert tables.wrapped("", 5) == [""]
    assert tables.wrapped("a   b", 5) == ["a   b"]


@pytest.mark.parametrize("room", [30, 50, 79, 80, 120, 300])
def test_a_table_fits_or_is_stacked(room):
    rows = [("BatchNormalization", "why not"), (NAME, f"Relu '{NAME}' is not linear"), ("b", "1")]
    given = tables.widths(rows, room)
    if given is None:
        lines = [line for row in rows[1:] for line in tables.stacked(rows[0], row, room)]
    else:
        lines = [line for row in tables.aligned(rows, given) for line in row]
    assert all(len(line) <= room for line in lines)
    assert "".join(NAME.split()) in "".join("".join(lines).split()) or given is not None


def test_where_columns_do_not_fit_rich_cuts_words_that_are_whole_here(capsys):
    """Why tables are not rich's: were this to fail, they could be."""
    from rich.console import Console
    from rich.table import Column, Table

    names, row = ("node", "operator", "why not"), (NAME, "BatchNormalization", f"Relu '{NAME}' is not linear")
    assert tables.widths([names, row], 40) is None
    assert "BatchNormalization" in "\n".join(tables.stacked(names, row, 40)).split()
    drawn = Table(*(Column(name, overflow="fold") for name in names), box=None)
    drawn.add_row(*row)
    Console(width=40).print(drawn)
    words = capsys.readouterr().out.split()
    assert "operator" in words
    assert "BatchNormalization" not in words


def test_columns_without_a_cell_are_not_drawn(capfd, monkeypatch):
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("COLUMNS", "80")
    console.table("t", ("a", "through", "b"), [("x", "", 1)])
    assert "through" not in capfd.readouterr().out
    monkeypatch.delenv("FORCE_COLOR")
    console.table("t", ("a", "through", "b"), [("x", "", 1)])
    assert "through" in capfd.readouterr().out


def test_a_hostile_name_moves_no_cursor(capfd, monkeypatch):
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("COLUMNS", "80")
    monkeypatch.setenv("NO_COLOR", "1")
    console.table("t", ("a",), [("\x1b[2J\x07gone",)])
    console.say("\x1b[2J\x07gone")
    out, err = capfd.readouterr()
    assert "\x1b[2J" not in out + err
    assert "\x07" not in out + err
    assert "gone" in out
    assert "gone" in err


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_has_quiet_and_verbose(name):
    command = verbosity.with_verbosity(getattr(import_module(f"bnfold_cli.{name}"), name))
    assert {"quiet", "verbose"} <= {*inspect.signature(command).parameters}
    assert "\n\n" in command.__doc__ or "\n" not in command.__doc__


def test_quiet_says_data_and_errors_only(here, capfd):  # noqa: F811
    written(Path("m.onnx"), conv_bn())
    assert run(["fold", "m.onnx", "--verify", "off", "-q"]) == 0
    out, err = capfd.readouterr()
    assert "BatchNormalization" in out
    assert err == ""
    assert run(["fold", "m.onnx", "--quiet"]) == 2
    assert capfd.readouterr().err == "error: m.folded.onnx exists\nhint: --force replaces it.\n"


def test_verbose_says_more_and_both_are_refused(here, capfd):  # noqa: F811
    written(Path("m.onnx"), conv_bn())
    assert run(["explain", "m.onnx", "-v"]) == 0
    out, err = capfd.readouterr()
    assert "to the inputs" in out
    assert err.splitlines()[-1].startswith("bnfold ")
    assert run(["explain", "m.onnx"]) == 0
    assert "to the inputs" not in capfd.readouterr().out
    assert run(["explain", "m.onnx", "-q", "-v"]) == 2
    assert "exclude each other" in capfd.readouterr().err


@pytest.mark.parametrize(
    ("around", "bold", "red"),
    [({}, True, True), ({"NO_COLOR": "1"}, True, False), ({"TERM": "dumb"}, False, False)],
)
def test_colours_are_as_the_environment_says(tmp_path, around, bold, red):
    command = [str(Path(sys.executable).with_name("bnfold")), "fold", "missing.onnx"]
    code, text = at_terminal(command, environment("terminal", tmp_path) | around, tmp_path)
    assert code == 3
    assert ("\x1b[1" in text) == bold
    assert ("31m" in text) == red
    assert "error: no model at missing.onnx" in screen(text).replace("<1;31>", "").replace("<0>", "").replace("<1>", "")


WORK = """
import time
from bnfold.system.progress import report
from bnfold_cli import progress_bar, console
progress_bar.PATIENCE = 0
with progress_bar.shown():
    for done in range(5):
        report("verify: float64 evaluation", done, 4, "case 1")
        time.sleep(0.12)
        if done == 2:
            console.data.line("data")
    report("another step", 1, 2)
    assert progress_bar.is_wanted() is SHOWN
print("end")
"""


@pytest.mark.parametrize("way", ["terminal", "dumb", "quiet", "pipe"])
def test_a_bar_is_seen_while_there_is_work_and_only_at_a_terminal(tmp_path, way):
    shown = way == "terminal"
    code = (
        WORK.replace("SHOWN", str(shown))
        if way != "quiet"
        else "import bnfold_cli.console as c; c.words.quiet = True" + WORK.replace("SHOWN", "False")
    )
    around = environment("terminal", tmp_path) | ({"TERM": "dumb"} if way == "dumb" else {})
    command = [sys.executable, "-c", code]
    if way == "pipe":
        done = subprocess.run(command, capture_output=True, text=True, env=around)
        assert (done.stdout, done.stderr, done.returncode) == ("data\nend\n", "", 0)
        return
    exit_code, text = at_terminal(command, around, tmp_path)
    assert exit_code == 0, text
    assert ("float64 evaluation" in text) == shown
    assert ("left" in text) == shown
    assert ("case 1" in text) == shown
    left = [line.strip() for line in screen(text).splitlines() if line.strip().strip("<0>")]
    assert [line.replace("<0>", "") for line in left] == ["data", "end"]


def test_data_in_a_pipe_stay_data_while_a_bar_is_drawn(tmp_path):
    """stdout is a file, stderr a terminal: rich would send both to the terminal."""
    command = ["bash", "-c", f"{sys.executable} -c '{WORK.replace('SHOWN', 'True')}' > out.txt"]
    code, text = at_terminal(command, environment("terminal", tmp_path), tmp_path)
    assert code == 0, text
    assert (tmp_path / "out.txt").read_text() == "data\nend\n"
    assert "float64 evaluation" in text


def test_a_step_under_a_second_has_no_bar(monkeypatch):
    bar = progress_bar.Bar()
    bar.update("step", 1, 2, "")
    assert bar.drawn is None
    monkeypatch.setattr(progress_bar, "_drawn", lambda: pytest.fail("too early"))
    bar.update("step", 2, 2, "")
    bar.close()


def test_a_listener_gets_every_report():
    heard = []
    with progress.reporting_to(lambda *report: heard.append(report)):
        assert [*progress.each("ab", "letters", 2)] == ["a", "b"]
    progress.report("nobody", 1, 1)
    assert heard == [("letters", 0, 2, ""), ("letters", 1, 2, ""), ("letters", 2, 2, "")]


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
@pytest.mark.parametrize(("typed", "offered"), [("bnfold rec", "recalibrate"), ("bnfold fold --str", "--strict")])
def test_the_shell_completes(shell, typed, offered):
    request = {"_BNFOLD_COMPLETE": f"complete_{shell}", "_TYPER_COMPLETE_FISH_ACTION": "get-args"}
    request |= {"COMP_WORDS": typed, "COMP_CWORD": str(typed.count(" ")), "_TYPER_COMPLETE_ARGS": typed}
    command = str(Path(sys.executable).with_name("bnfold"))
    done = subprocess.run([command], env=os.environ | request, capture_output=True, text=True)
    assert done.returncode == 0
    assert offered in done.stdout
    assert "--json" not in done.stdout


def test_a_command_of_a_hint_is_printed_on_one_line(capfd, monkeypatch):
    """Where a line is too long for it the terminal breaks it, and gives it back whole to whoever copies it."""
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("COLUMNS", "40")
    monkeypatch.setenv("NO_COLOR", "1")
    command = "`/home/somebody/project/.venv/bin/python -m pip install onnxruntime-gpu`"
    console.complain("a test needs onnxruntime, and none of them is installed", f"{command}, or something else here.")
    err = capfd.readouterr().err
    assert command in err
    plain = re.sub(r"\x1b\[[\d;]*m", "", err)
    assert max(len(line) for line in plain.splitlines() if "`" not in line) <= 40
