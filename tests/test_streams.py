"""stdout, stderr and stdin that are closed, full, left by their reader or very narrow: the work is done all the same."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.goldens.capture import environment
from tests.test_cli import conv_bn, here, written  # noqa: F401

FOLD = "fold m.onnx --force --verify off"
ROWS = {  # a command and where its streams go -> exit code, and what stands on stderr, if that can be seen
    f"{FOLD} >&-": (0, "wrote m.folded.onnx"),
    f"{FOLD} 2>&-": (0, ""),
    f"{FOLD} <&- >&- 2>&-": (0, ""),
    f"{FOLD} >/dev/full": (4, "error: stdout cannot be written: No space left on device"),
    f"{FOLD} 2>/dev/full": (0, ""),
    f"{FOLD} --json - >/dev/full": (4, "only what was to be shown is missing"),
    f"{FOLD} --json - >/dev/full 2>&-": (4, ""),
    f"{FOLD} --json - | head -c 1": (0, "wrote m.folded.onnx"),
    f"{FOLD} --report - | head -c 1": (0, "wrote m.folded.onnx"),
    f"{FOLD} --out-dir . >&-": (0, "1 of 1 models without an error"),
    f"{FOLD} 1</dev/null": (4, "stdout cannot be written: Bad file descriptor"),
    "verify m.onnx m.onnx --junit - | true": (0, ""),
    "explain m.onnx >&-": (0, ""),
    "explain no.onnx 2>&-": (3, ""),
    "explain no.onnx >/dev/full 2>/dev/full": (3, ""),
    "explain --nonsense 2>/dev/full": (2, ""),
    "--help >/dev/full": (4, "stdout cannot be written"),
    "--help | true": (0, ""),
    "--version >&-": (0, ""),
}


@pytest.mark.parametrize("unbuffered", ["", "1"])
@pytest.mark.parametrize(("command", "code", "said"), [(c, *row) for c, row in ROWS.items()], ids=ROWS)
def test_a_stream_that_takes_nothing_does_not_end_the_work(here, command, code, said, unbuffered):  # noqa: F811
    written(Path("m.onnx"), conv_bn())
    around = os.environ | {"PYTHONUNBUFFERED": unbuffered}
    line = f"{sys.executable} -m bnfold_cli {command}; echo ${{PIPESTATUS[0]}} > code"
    done = subprocess.run(["bash", "-c", line], capture_output=True, text=True, timeout=120, env=around)
    assert Path("code").read_text() == f"{code}\n"
    assert said in done.stderr
    assert "Traceback" not in done.stderr
    assert "Exception" not in done.stderr
    assert Path("m.folded.onnx").exists() == command.startswith("fold")


def test_a_pipe_that_is_not_to_be_waited_for_gets_everything(here):  # noqa: F811
    """As node.js leaves the pipes of its children."""
    code = (
        "import os, sys\nos.set_blocking(1, False)\nfrom bnfold_cli.streams import steady\nsteady()\n"
        "print('x' * 1_000_000)"
    )
    line = f'{sys.executable} -c "{code}" | (sleep 1; wc -c)'
    done = subprocess.run(["bash", "-c", line], capture_output=True, text=True, timeout=60)
    assert (done.stdout.strip(), done.stderr) == ("1000001", "")


@pytest.mark.parametrize("columns", [1, 2, 5, 10])
def test_a_terminal_of_hardly_any_columns_has_lines_that_can_be_read(here, columns):  # noqa: F811
    written(Path("m.onnx"), conv_bn())
    around = environment("terminal", here) | {"COLUMNS": str(columns), "FORCE_COLOR": "1"}
    for command in ("explain m.onnx", "fold m.onnx --verify off --force", "fold --help", "nonsense"):
        run = [sys.executable, "-m", "bnfold_cli", *command.split()]
        done = subprocess.run(run, capture_output=True, text=True, timeout=60, env=around)
        assert done.returncode == (2 if command == "nonsense" else 0)
        words = done.stdout + done.stderr
        assert any(word in words for word in ("folds into", "BatchNormalization", "error:", "Usage:"))
        assert len(words.splitlines()) < 250  # the help of fold, in 40 columns
