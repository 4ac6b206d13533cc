"""No command that folds, verifies, explains or times makes a network connection, nor keeps a file about its user."""

from __future__ import annotations

import signal
import sys
from pathlib import Path

import onnx
import pytest

from bnfold.folding import driver
from tests.build import BN, bn, build
from tests.cage import IS_POSSIBLE, caged, namespace
from tests.test_dtypes import in_type

pytestmark = pytest.mark.skipif(not IS_POSSIBLE, reason="the cage is made for Linux on x86-64")

COMMANDS = {
    "fold": ["fold", "m.onnx", "out.onnx", "--verify", "full"],
    "a fleet": ["fold", "m.onnx", "--out-dir", "out", "--jobs", "1"],
    "verify": ["verify", "m.onnx", "folded.onnx"],
    "explain": ["explain", "m.onnx"],
    "bench": ["bench", "m.onnx", "folded.onnx", "--quick"],
}
ANSWERS = {"bench": (0, 5)}  # 5: too noisy a machine to decide, which is an answer


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A model, its folded twin, and a home to keep files in."""
    body = f"t = Conv <pads = [1, 1, 1, 1]> (X, W)\n Y = {BN('t', 'a')}"
    model = in_type(build(body, "X[N,3,6,6]", "Y[N,4,6,6]", {"W": (4, 3, 3, 3), **bn("a", 4)}), "float32")
    onnx.save(model, tmp_path / "m.onnx")
    onnx.save(driver.fold(model).model, tmp_path / "folded.onnx")
    (tmp_path / "home").mkdir()
    return tmp_path


@pytest.mark.parametrize("name", COMMANDS)
def test_no_socket_is_opened(folder, name):
    done = caged(["bnfold", *COMMANDS[name]], folder, folder / "home")
    assert done.returncode in ANSWERS.get(name, (0,)), (done.returncode, done.stderr)
    assert [path.name for path in (folder / "home").rglob("*")] == []


def test_it_works_where_there_is_no_network(folder):
    before = namespace()
    if not before:
        pytest.skip("this system does not allow network namespaces")
    done = caged(["bnfold", *COMMANDS["fold"]], folder, folder / "home", *before)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("family", ["AF_INET", "AF_INET6"])
def test_the_cage_would_notice(tmp_path, family):
    """Also in a process that a process started."""
    attempt = f"import socket; socket.socket(socket.{family})"
    assert caged([sys.executable, "-c", attempt], tmp_path, tmp_path).returncode == -signal.SIGSYS
    inner = f"import subprocess, sys; print(subprocess.run([sys.executable, '-c', {attempt!r}]).returncode)"
    assert caged([sys.executable, "-c", inner], tmp_path, tmp_path).stdout == f"{-signal.SIGSYS}\n"
    assert caged([sys.executable, "-c", "import socket; socket.socketpair()"], tmp_path, tmp_path).returncode == 0


def test_onnxruntime_keeps_to_itself(tmp_path):
    """From 1.29 on it identifies the machine in the user's home and reports about models, unless an option forbids it."""
    models = "import onnxruntime; onnxruntime.SessionOptions(); onnxruntime.get_available_providers()"
    done = caged([sys.executable, "-c", f"import bnfold; {models}"], tmp_path, tmp_path)
    assert done.returncode == 0, done.stderr
    assert list(tmp_path.rglob("*")) == []
