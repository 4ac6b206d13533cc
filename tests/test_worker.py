"""The worker of a fleet: however its process ends, the answer is plain data, and nothing half written is left."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from bnfold.folding import fleet, worker
from bnfold.folding.pipeline import Options
from bnfold.folding.worker import Running, fold_apart
from tests.test_cli import here  # noqa: F401
from tests.test_fleet import drafts, names, offspring, processes, slow, until  # noqa: F401

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="looks for processes in /proc")


@pytest.fixture
def request_of_hours(slow: Path) -> dict[str, Any]:  # noqa: F811
    """To fold a model whose verification takes long."""
    return fleet.Task(Path("s0.onnx"), Path("out/s0.folded.onnx"), Options(verify="full")).request()


def at_work(request: dict[str, Any]) -> Running:
    """A worker that has a draft of its model."""
    running = Running(request)
    until(lambda: drafts(Path(request["folder"], "out")))
    return running


def test_a_crash_is_an_answer(request_of_hours):
    running = at_work(request_of_hours)
    started = offspring(running.child.process.pid)
    os.kill(running.child.process.pid, signal.SIGSEGV)
    until(lambda: running.ended)
    answer = running.answer()
    assert json.loads(json.dumps(answer)) == answer
    assert (answer["exit_code"], answer["report"]) == (70, None)
    assert answer["error"] == "the process that folds s0.onnx crashed (SIGSEGV)"
    assert names(Path("out")) == []
    until(lambda: started.isdisjoint(processes()))


def test_a_python_that_does_not_start_is_an_answer(request_of_hours, monkeypatch):
    Path("broken").mkdir()
    Path("broken/numpy.py").write_text("raise ImportError('numpy was built for another machine')")
    monkeypatch.setenv("PYTHONPATH", str(Path("broken").resolve()))
    answer = fold_apart(request_of_hours)
    assert (answer["exit_code"], answer["report"]) == (70, None)
    assert answer["error"].startswith("the process that folds s0.onnx failed: ")
    assert "numpy was built for another machine" in answer["error"]


def test_a_request_of_another_version_is_an_answer(request_of_hours):
    """As on a cluster some of whose nodes have another bnfold."""
    answer = fold_apart({**request_of_hours, "options": {"colour": "red"}})
    assert answer["exit_code"] == 70
    assert answer["error"].startswith("internal error: TypeError: ")
    assert "BNFOLD_DEBUG" in answer["hint"]


def test_one_that_does_not_stop_is_killed(request_of_hours, monkeypatch):
    monkeypatch.setattr(worker, "GRACE", 0.2)
    running = at_work(request_of_hours)
    os.kill(running.child.process.pid, signal.SIGSTOP)  # it will not react to signals
    worker.stop([running])
    assert running.child.process.returncode == -signal.SIGKILL
    assert names(Path("out")) == []
    assert not Path(running.child.folder).exists()


def test_an_interruption_stops_it(request_of_hours):
    """As an engine does it that is not ours, and interrupts whoever called the worker."""
    code = (
        "import json, signal, sys; from bnfold.folding.worker import fold_apart\n"
        "signal.signal(signal.SIGINT, signal.default_int_handler); fold_apart(json.loads(sys.argv[1]))"
    )
    command = [sys.executable, "-c", code, json.dumps(request_of_hours)]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True, start_new_session=True) as process:
        until(lambda: drafts(Path("out")))
        started = offspring(process.pid)
        process.send_signal(signal.SIGINT)
        _, err = process.communicate(timeout=60)
    assert err.strip().splitlines()[-1] == "KeyboardInterrupt"
    assert names(Path("out")) == []
    assert started.isdisjoint(processes())
