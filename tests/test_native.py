"""Native code that crashes, hangs or swallows memory becomes a sentence; the process lives on."""

from __future__ import annotations

import gc
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import onnx
import pytest

from bnfold.errors import ModelProblem
from bnfold.folding import driver
from bnfold.model.validity import checked_meanwhile, require_valid
from bnfold.process import native
from bnfold.process.native import Failed, guarded, start_guarded
from bnfold_cli.main import run
from tests.test_cli import conv_bn
from tests.test_fleet import offspring, processes, until
from tests.verify_nets import GEMM

needs_fork = pytest.mark.skipif(sys.platform != "linux", reason="there is no safe fork on this system")


@pytest.fixture
def alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """As in a process of its own: other tests may have left a thread (that of a progress bar, say)."""
    monkeypatch.setattr(threading, "active_count", lambda: 1)


def die() -> None:
    os.kill(os.getpid(), signal.SIGSEGV)


def test_an_answer_and_an_error_come_back() -> None:
    assert guarded("a sum", lambda: str(sum(range(10))).encode()) == b"45"
    assert guarded("nothing", lambda: None) == b""
    assert len(guarded("a block", lambda: bytes(5_000_000))) == 5_000_000
    with pytest.raises(Failed, match="^two words$"):
        guarded("an error", lambda: (_ for _ in ()).throw(ValueError("two words\nand more")))


@needs_fork
@pytest.mark.usefixtures("alone")
def test_a_crash_a_hang_and_hunger_are_sentences() -> None:
    with pytest.raises(Failed, match=r"^the checker crashed \(SIGSEGV\)$"):
        guarded("the checker", die)
    with pytest.raises(Failed, match=r"^the checker took longer than 0.1 s and was stopped$"):
        guarded("the checker", lambda: time.sleep(60), seconds=0.1)
    with pytest.raises(Failed, match="not enough memory"):
        guarded("the checker", lambda: bytes(bytearray(64 << 30)))


@needs_fork
@pytest.mark.usefixtures("alone")
def test_a_fork_ends_when_its_answer_is_not_wanted_or_not_awaited(monkeypatch: pytest.MonkeyPatch) -> None:
    before = offspring(os.getpid())
    assert start_guarded("a rest", lambda: time.sleep(60))(wanted=False) == b""
    finish = start_guarded("a rest", lambda: time.sleep(60))
    monkeypatch.setattr(native, "_read", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
    with pytest.raises(KeyboardInterrupt):
        finish()
    assert offspring(os.getpid()) == before


class Bound:
    """Garbage that only its own process can take away, as an onnxruntime session that has threads is."""

    def __init__(self) -> None:
        self.myself, self.home = self, os.getpid()

    def __del__(self) -> None:
        if os.getpid() != self.home:
            time.sleep(60)


@needs_fork
@pytest.mark.usefixtures("alone")
def test_a_fork_leaves_garbage_alone() -> None:
    Bound()
    assert guarded("lists", lambda: str(len([[] for _ in range(100_000)])).encode(), seconds=10) == b"100000"
    assert gc.isenabled()


def test_next_to_other_threads_the_call_is_made_here() -> None:
    release = threading.Event()
    other = threading.Thread(target=release.wait)
    other.start()
    try:
        assert guarded("a number", lambda: str(os.getpid()).encode()) == str(os.getpid()).encode()
        model = GEMM.original(GEMM.weights(0))
        with checked_meanwhile(model, "m"):  # before the block changes it
            model.graph.node[0].op_type = "NoSuchOperator"
    finally:
        release.set()
        other.join()


@needs_fork
@pytest.mark.usefixtures("alone")
def test_a_checker_or_shape_inference_that_crashes_is_survived(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    model = GEMM.original(GEMM.weights(0))
    onnx.save(model, tmp_path / "m.onnx")
    monkeypatch.setattr(onnx.shape_inference, "infer_shapes", lambda *_, **__: die())
    assert not driver.fold(model).kept  # the ranks follow from the operators
    monkeypatch.setattr(onnx.checker, "check_model", lambda *_, **__: die())
    assert run(["fold", str(tmp_path / "m.onnx")]) == 3
    assert "is not valid ONNX: onnx's checker crashed (SIGSEGV)" in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["m.onnx"]


@needs_fork
@pytest.mark.usefixtures("alone")
def test_the_checker_sees_the_model_as_it_was_and_its_word_comes_first() -> None:
    model, before = GEMM.original(GEMM.weights(0)), offspring(os.getpid())
    with checked_meanwhile(model, "m"):
        model.graph.node[0].op_type = "NoSuchOperator"
    refused = pytest.raises(ModelProblem, match="m is not valid ONNX: No Op registered for NoSuchOperator")
    with refused, checked_meanwhile(model, "m"):
        raise ValueError("of a plan that does not know what to do with it")
    assert offspring(os.getpid()) == before


def test_an_initializer_that_an_old_format_wants_listed_is_a_hint() -> None:
    model = GEMM.original(GEMM.weights(0))
    model.ir_version = 3
    with pytest.raises(ModelProblem, match="in initializer but not in graph input") as caught:
        require_valid(model, "m")
    assert "set ir_version to 4" in caught.value.hint
    model.ir_version = 4
    require_valid(model, "m")


@needs_fork
@pytest.mark.usefixtures("alone")
def test_nobody_waits_for_the_checker_after_ctrl_c(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(onnx.checker, "check_model", lambda _: time.sleep(60))
    before = offspring(os.getpid())
    with pytest.raises(KeyboardInterrupt), checked_meanwhile(GEMM.original(GEMM.weights(0)), "m"):
        raise KeyboardInterrupt
    assert offspring(os.getpid()) == before


WORK = {  # what a process starts; in its temporary folder there is a file `stage` as soon as that is at work
    "a fork": "from bnfold.process.native import guarded; guarded('a sleep', lambda: open(stage, 'w').close() or time.sleep(600))",
    "a child": "from bnfold.process import launcher; from tests.crash import crash; launcher.run(crash, {'seconds': 600}, seconds=600)",
}


@needs_fork
@pytest.mark.parametrize("what", WORK)
def test_what_a_process_started_ends_with_it_however_it_ends(tmp_path: Path, what: str) -> None:
    """For nobody is left to enforce the limits."""
    code = f"import os, time; stage = os.environ['TMPDIR'] + '/stage'; {WORK[what]}"
    process = subprocess.Popen([sys.executable, "-c", code], env={**os.environ, "TMPDIR": str(tmp_path)})
    try:
        until(lambda: [*tmp_path.rglob("stage")])
        (started,) = offspring(process.pid)
    finally:
        process.kill()
        process.wait()
    until(lambda: started not in processes())


def test_a_process_whose_parent_is_gone_does_not_begin() -> None:
    code = "from bnfold.system.limits import end_with_parent; end_with_parent(1234567890); print('it goes on')"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert (done.returncode, done.stdout) == ((1, "") if sys.platform == "linux" else (0, "it goes on\n"))


@needs_fork
@pytest.mark.parametrize(
    ("late", "words"),
    [
        (lambda model: time.sleep(60), "took longer than 2 s and was stopped"),
        (lambda model: bytes(bytearray(64 << 30)), "there is not enough memory"),
        (lambda model: os.kill(os.getpid(), signal.SIGKILL), "was killed: most often memory was short"),
    ],
    ids=["time", "memory", "killed"],
)
def test_a_checker_that_met_a_limit_says_nothing_about_the_model(alone, tmp_path, monkeypatch, capsys, late, words):
    """It was reported as `m.onnx is not valid ONNX`, exit code 3, with the advice to repair the model."""
    monkeypatch.chdir(tmp_path)
    onnx.save(conv_bn(), "m.onnx")
    monkeypatch.setattr(onnx.checker, "check_model", late)
    assert run(["fold", "m.onnx", "--verify", "off", "--limit", "seconds=2"]) == 4
    error, hint = capsys.readouterr().err.splitlines()
    assert error.startswith("error: m.onnx was not checked: ")
    assert error.endswith(words)
    assert hint.startswith("hint: If the file is to be trusted, --limit allows more: seconds=")
    assert [path.name for path in tmp_path.iterdir()] == ["m.onnx"]
