"""Pipes, devices and stdout where a file is meant, to be read or to be written: a sentence at once, never a wait."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from bnfold.errors import UsageProblem
from bnfold.folding import driver
from bnfold.system.files import require_target
from tests.test_cli import conv_bn, here, written  # noqa: F401

LONG = "n" * 300
NAMES = ("pipe", "/dev/zero", "/dev/stdin", "-", LONG)  # what is to be read
READ = ("fold {} out.onnx", "explain {}", "verify {} m.onnx", "verify m.onnx {}", "bench m.onnx {}", "report {} m.onnx")
READ += ("recalibrate {} --data d.npz", "evaluate {} --data d.npz", "fold {} --out-dir many")
DATA = ("recalibrate m.onnx --data {}", "verify m.onnx other.onnx --inputs {}")
DATA += ("report m.onnx m.onnx --verify {}", "report m.onnx m.onnx --fold {}", "report m.onnx m.onnx --bench {}")
WRITTEN = ("fold m.onnx {} --force", "recalibrate m.onnx {} --data d.npz --force", "export {} --force")
TARGETS = ("pipe", "/dev/null", "-", LONG)


@pytest.fixture
def files(here):  # noqa: F811
    written(Path("m.onnx"), conv_bn())
    written(Path("other.onnx"), driver.fold(conv_bn()).model)
    np.savez("d.npz", X=np.zeros((4, 3, 6, 6), np.float32))
    os.mkfifo("pipe")
    Path("set").mkdir()
    os.mkfifo("set/input_0.pb")
    return here


def said(command: str) -> tuple[int, str]:
    """stdout goes to a file, which is what /dev/stdout then leads to."""
    run = [sys.executable, "-m", "bnfold_cli", *command.split()]
    with open("stdout", "wb") as stdout, subprocess.Popen(["sleep", "9"], stdout=subprocess.PIPE) as silent:
        try:
            done = subprocess.run(
                run, stdin=silent.stdout, stdout=stdout, stderr=subprocess.PIPE, text=True, timeout=60
            )
        finally:
            silent.kill()
    return done.returncode, done.stderr


@pytest.mark.parametrize("command", READ + DATA)
def test_what_is_read_is_a_regular_file(files, command):
    """All names in one test: most of the time goes into the start of a process."""
    for name in NAMES if command in ("explain {}", "verify m.onnx {}") else ("pipe", LONG):
        code, words = said(command.format(name))
        assert code == 3, words
        assert words.count("error: ") == words.count("hint: ") == 1
        assert "internal" not in words


def test_a_pipe_in_a_set_of_test_data_is_not_waited_for(files):
    code, words = said("verify m.onnx other.onnx --inputs set")
    assert (code, words.splitlines()[0]) == (3, "error: set cannot be read: it is not a regular file")


@pytest.mark.parametrize("command", WRITTEN)
def test_a_model_is_written_to_a_regular_file(files, command):
    for name in TARGETS if command == WRITTEN[0] else ("/dev/null", "-"):
        code, words = said(command.format(name))
        assert code == (4 if name == LONG else 2), words
        assert words.count("error: ") == words.count("hint: ") == 1
        assert not Path("-").exists()
        assert Path("stdout").read_bytes() == b""


@pytest.mark.parametrize("name", ["/dev/stdout", "/dev/fd/1", "/proc/self/fd/1", "/dev/new", "-"])
def test_nothing_appears_in_the_place_of_an_open_file(name):
    """`fold m.onnx /dev/stdout --force > file` put a file in the place of /dev/stdout, where it may."""
    with pytest.raises(UsageProblem, match="is not a regular file|is not written to stdout"):
        require_target(Path(name))


def test_a_regular_file_is_read_from_stdin(files):
    with open("m.onnx", "rb") as stdin:
        run = [sys.executable, "-m", "bnfold_cli", "explain", "/dev/stdin"]
        assert subprocess.run(run, stdin=stdin, capture_output=True).returncode == 0
