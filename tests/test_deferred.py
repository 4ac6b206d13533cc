"""Large constants are computed while they are written: here, and half of them in a fork."""

from __future__ import annotations

import os
import signal
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

from bnfold.errors import ModelProblem
from bnfold.folding import driver
from bnfold.folding.pipeline import Options, fold_file
from bnfold.graph.stored import StoredConstant
from bnfold.model import deferred, onnx_io
from bnfold.process import native
from bnfold.system import staging
from tests.build import BN, bn, build
from tests.test_fleet import offspring
from tests.test_native import needs_fork

pytestmark = needs_fork
UNVERIFIED = Options(verify="off")
LAYERS = 6


@pytest.fixture(autouse=True)
def shared(monkeypatch: pytest.MonkeyPatch) -> None:
    """Any amount is worth a fork, and there are no threads that other tests have left."""
    monkeypatch.setattr(deferred, "MUCH", 1)
    monkeypatch.setattr(threading, "active_count", lambda: 1)


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """Convolutions of more than 16 KB each."""
    steps = [f"c{i} = Conv(x{i}, w{i}) x{i + 1} = {BN(f'c{i}', f'b{i}')}" for i in range(LAYERS)]
    constants: dict[str, Any] = {f"w{i}": (16, 16, 3 + i % 2, 3) for i in range(LAYERS)}
    for i in range(LAYERS):
        constants |= bn(f"b{i}", 16)
    made = build("\n".join(steps), "x0[N,16,40,40]", f"x{LAYERS}[N,M,H,W]", constants)
    onnx.save(made, tmp_path / "m.onnx")
    return tmp_path / "m.onnx"


def expected(source: Path) -> bytes:
    """The file that is written by one process."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(deferred, "MUCH", 1 << 62)
        fold_file(source, source.with_name("expected.onnx"), UNVERIFIED)
    return source.with_name("expected.onnx").read_bytes()


def test_two_processes_write_what_one_does(source: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    doing_what, really = [], native.start_guarded
    monkeypatch.setattr(
        native, "start_guarded", lambda doing, *rest: (doing_what.append(doing), really(doing, *rest))[1]
    )
    fold_file(source, source.with_name("out.onnx"), UNVERIFIED)
    assert "writing new constants" in doing_what
    assert source.with_name("out.onnx").read_bytes() == expected(source)
    whole = driver.fold(onnx.load(source)).model
    written = onnx.load(source.with_name("out.onnx"))
    assert written.SerializeToString(deterministic=True) == whole.SerializeToString(deterministic=True)


@pytest.mark.parametrize("end", ["is killed", "answers nonsense", "fails"])
def test_what_the_fork_does_not_do_is_done_here(source: Path, monkeypatch: pytest.MonkeyPatch, end: str) -> None:
    home, really = os.getpid(), deferred.write_some

    def write_some(file: Path, places: deferred.Places) -> bytes:
        if os.getpid() == home:
            return really(file, places)
        if end == "is killed":
            os.kill(os.getpid(), signal.SIGKILL)
        if end == "fails":
            raise OSError("no")
        return b"nonsense"

    monkeypatch.setattr(deferred, "write_some", write_some)
    fold_file(source, source.with_name("out.onnx"), UNVERIFIED)
    assert source.with_name("out.onnx").read_bytes() == expected(source)


@pytest.mark.parametrize("problem", [KeyboardInterrupt, ZeroDivisionError])
def test_the_fork_is_stopped_when_there_is_nothing_to_write_any_more(
    source: Path, monkeypatch: pytest.MonkeyPatch, problem: type[BaseException]
) -> None:
    home, before = os.getpid(), offspring(os.getpid())

    def write_some(file: Path, places: deferred.Places) -> bytes:
        if os.getpid() == home:
            raise problem
        time.sleep(60)
        return b"0"

    monkeypatch.setattr(deferred, "write_some", write_some)
    with pytest.raises(problem):
        fold_file(source, source.with_name("out.onnx"), UNVERIFIED)
    assert offspring(home) == before
    assert [path.name for path in source.parent.iterdir()] == ["m.onnx"]


def test_numbers_that_become_zero_are_counted_in_both_halves(source: Path) -> None:
    model = onnx.load(source)
    for tensor in model.graph.initializer:
        if tensor.name.startswith("w"):
            values = onnx.numpy_helper.to_array(tensor).copy()
            values.flat[:10] = 1e-320
            tensor.CopyFrom(onnx.numpy_helper.from_array(values, tensor.name))
    onnx.save(model, source)
    assert fold_file(source, source.with_name("out.onnx"), UNVERIFIED).result.flushed == 10 * LAYERS


def test_what_would_overflow_stays_as_it_is(source: Path) -> None:
    model = onnx.load(source)
    last = next(t for t in model.graph.initializer if t.name == f"w{LAYERS - 1}")
    last.CopyFrom(onnx.numpy_helper.from_array(np.full((16, 16, 4, 3), 1.7e308), last.name))
    onnx.save(model, source)
    kept = fold_file(source, source.with_name("out.onnx"), UNVERIFIED).result.kept
    assert [each.output for each in kept] == [f"x{LAYERS}"]
    assert "OVERFLOW" in str(kept[0].coded)


def test_a_file_that_became_shorter_is_said(source: Path) -> None:
    model, storage = onnx_io.detached(source)
    weight = next(t for t in model.graph.initializer if t.name == "w5")
    source.write_bytes(source.read_bytes()[:1000])
    constant = StoredConstant.of(weight, storage, "w5")
    with pytest.raises(ModelProblem, match="the values of 'w5' cannot be read: the file became shorter"):
        list(constant.rounded())
    source.unlink()
    with pytest.raises(ModelProblem, match="the values of 'w5' cannot be read: .*No such file"):
        list(constant.rounded())


def test_every_part_goes_to_the_disk_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    advised = []
    monkeypatch.setattr(staging, "STEP", 1000)
    monkeypatch.setattr(os, "posix_fadvise", lambda file, start, length, advice: advised.append((start, length)))
    (tmp_path / "m").write_bytes(bytes(5000))
    with staging.Sink(tmp_path / "m", "r+b", 500) as sink:
        for _ in range(4):
            sink.write(bytes(600))
    assert advised == [(500, 1200), (1700, 1200)]
    monkeypatch.delattr(os, "posix_fadvise")
    with staging.Sink(tmp_path / "m") as sink:
        sink.write(b"1" * 5000)
    assert (tmp_path / "m").read_bytes() == b"1" * 5000


def test_room_on_the_disk_is_no_part_of_the_file(tmp_path: Path) -> None:
    with staging.Sink(tmp_path / "file") as sink:
        sink.reserve(1 << 20)
        assert os.fstat(sink.fileno()).st_size == 0
        sink.write(b"five ")
    assert (tmp_path / "file").read_bytes() == b"five "
