"""Limits: how they are stated, and that every process that is started obeys them."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from contextlib import suppress

import pytest

from bnfold.algebra.affine import Refused, require_room
from bnfold.errors import BnfoldError, EnvironmentProblem, UsageProblem
from bnfold.process import launcher
from bnfold.process.endings import Failed
from bnfold.recalibration.options import parse_memory
from bnfold.system import limits
from bnfold.system.limits import DEFAULTS, Limits, ProcessWatch, current, parse_limits, timed, within
from bnfold_cli.main import run
from tests.attacks.bombs import ladder
from tests.attacks.hostile import chain, changed
from tests.crash import crash

linux = pytest.mark.skipif(sys.platform != "linux", reason="what a process holds is read from /proc")


def test_limits_are_said_in_words():
    options = parse_limits(["nodes=1000", "memory=1.5GB", "seconds=0.5", "elements=2MB"])
    assert options == Limits(nodes=1000, memory=1_500_000_000, seconds=0.5, elements=2_000_000)
    assert parse_limits(["memory=4GB"]) == parse_limits(["memory=4G"]) == Limits(memory=4 * 10**9)
    assert parse_limits(["memory=4GiB"]) == parse_limits(["memory=4 gi"]) == Limits(memory=4 << 30)
    assert (parse_memory("4GB"), parse_memory("4GiB")) == (4 * 10**9, 4 << 30)  # --memory-limit reads the same
    assert parse_limits([]) == DEFAULTS
    for wrong in ("depth=1", "nodes", "nodes=", "nodes=-1", "nodes=0", "memory=8XB", "seconds=nan", "=1", "memory=1e9"):
        with pytest.raises(UsageProblem, match="is not a limit"):
            parse_limits([wrong])


def test_the_usual_counts_where_nothing_else_is_said():
    assert Limits().time(7) == 7
    assert Limits(seconds=3).time(7) == 3
    assert Limits(memory=5).bytes() == 5
    assert Limits().bytes() > 10**8


def test_limits_hold_for_a_block():
    with within(Limits(elements=10)):
        require_room(2, 5)
        with pytest.raises(Refused, match="^11 numbers would have to be computed; the limit is 10$"):
            require_room(11)
    assert current() == DEFAULTS


def test_a_block_is_stopped_in_words():
    started = time.perf_counter()
    stopped = pytest.raises(EnvironmentProblem, match=r"^a walk took longer than 0.2 s and was stopped\nhint: ")
    with within(Limits(seconds=0.2)), stopped, timed("a walk", 100):
        while True:
            with suppress(Exception):  # as rules may
                time.sleep(0.01)
    assert time.perf_counter() - started < 5
    assert signal.getitimer(signal.ITIMER_REAL) == (0, 0)


class Rung(BaseException):
    pass


@pytest.mark.parametrize(("outer", "inner", "rings"), [(0.05, 30, "outer"), (30, 0.05, "inner")])
def test_of_two_alarms_the_one_that_is_due_first_rings(outer, inner, rings):
    with pytest.raises(Rung, match=rings), limits.alarm(outer, Rung("outer")), limits.alarm(inner, Rung("inner")):
        time.sleep(10)
    assert signal.getitimer(signal.ITIMER_REAL) == (0, 0)


def two_alarms_in_another():
    with pytest.raises(Rung, match="inner"), limits.alarm(0.05, Rung("inner")):
        time.sleep(10)
    with limits.alarm(0.1, Rung("inner")):
        pass
    time.sleep(10)


def test_an_alarm_goes_on_after_others():
    with pytest.raises(Rung, match="outer"), limits.alarm(0.2, Rung("outer")):
        two_alarms_in_another()
    with limits.alarm(20, Rung("outer")):
        with limits.alarm(10, Rung("inner")):
            time.sleep(0.1)
        assert 0 < signal.getitimer(signal.ITIMER_REAL)[0] < 19.95
    assert signal.getitimer(signal.ITIMER_REAL) == (0, 0)


def test_a_fold_that_takes_too_long_leaves_nothing(tmp_path, capsys):
    path = changed(ladder(1000))(tmp_path)
    assert run(["fold", str(path), "--limit", "seconds=1.5"]) == 4
    assert "error: the fold of" in (words := capsys.readouterr().err)
    assert "took longer than 1.5 s and was stopped" in words
    assert [each.name for each in tmp_path.iterdir()] == ["m.onnx"]


def test_too_many_nodes_are_refused_by_every_command(tmp_path, capsys):
    path = str(changed(chain(50))(tmp_path))
    for command in (["fold", path], ["explain", path], ["verify", path, path], ["bench", path, path, "--quick"]):
        assert run([*command, "--limit", "nodes=51"]) == 3
        assert "has 52 nodes, functions expanded; the limit is 51" in capsys.readouterr().err


@linux
def test_memory_that_is_short_is_a_sentence(tmp_path, capsys):
    path = str(changed(chain(5000))(tmp_path))
    command = [sys.executable, "-m", "bnfold_cli", "fold", path, "--verify", "off", "--limit", "memory=50MB"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode in (3, 4)  # onnx's checker or we ourselves
    assert "memory" in done.stderr
    assert [each.name for each in tmp_path.iterdir()] == ["m.onnx"]


@linux
def test_a_process_is_watched():
    process = subprocess.Popen(
        [sys.executable, "-c", "x = bytearray(b'1') * 100_000_000; input()"], stdin=subprocess.PIPE
    )
    try:
        watch = ProcessWatch(process.pid, 60, 50_000_000)
        while not (why := watch.broken()) and time.monotonic() - watch.started < 30:
            time.sleep(0.02)
        assert why == "used more than 50 MB of memory and was stopped"
        assert ProcessWatch(process.pid, 60, 10**9).broken() == ""
        assert ProcessWatch(process.pid, 0, 10**9).broken() == "took longer than 0 s and was stopped"
    finally:
        process.kill()
        process.communicate()
    assert ProcessWatch(process.pid, 60, 1).broken() == ""  # it is gone


@linux
def test_a_child_that_reserves_memory_is_watched_but_not_capped():
    options = {"bytes": 2**30}
    with within(Limits(memory=2**29)), pytest.raises(Failed, match=r"used more than 537 MB of memory and was"):
        launcher.run(crash, options, seconds=60, reserves=True)


def test_children_get_the_limits(monkeypatch):
    with within(Limits(seconds=0.7)), pytest.raises(Failed, match=r"took longer than 0\.7 s and was stopped"):
        launcher.run(crash, {"seconds": 100}, seconds=60)


def test_a_model_of_a_fleet_obeys_the_limits(tmp_path, capsys):
    for name, count in (("a", 300), ("b", 1)):
        (tmp_path / name).mkdir()
        changed(ladder(count))(tmp_path / name).rename(tmp_path / f"{name}.onnx")
    command = ["fold", str(tmp_path / "a.onnx"), str(tmp_path / "b.onnx"), "--out-dir", str(tmp_path / "out")]
    assert run([*command, "--verify", "off", "--limit", "nodes=100"]) == 3
    assert "the limit is 100" in capsys.readouterr().err
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["b.folded.onnx"]
    assert run([*command[:2], "--out-dir", str(tmp_path / "late"), "--limit", "seconds=0.1"]) == 4
    assert "took longer than 0.1 s and was stopped" in capsys.readouterr().err
    assert not (tmp_path / "late").exists()


def test_a_sentence_is_not_endless():
    said = str(BnfoldError("a" * 10_000 + "b", "hint"))
    assert len(said) < 2100
    assert said.endswith("aab")


def test_a_container_has_less_than_its_machine(tmp_path, monkeypatch):
    whole = limits.most_memory()
    for content, expected in (("1000000\n", 800_000), ("max\n", None)):
        (tmp_path / "memory.max").write_text(content)
        monkeypatch.setattr(limits, "CONTAINER", str(tmp_path / "memory.max"))
        assert limits.most_memory() == expected or (expected is None and limits.most_memory() >= whole)


@linux
def test_a_cap_is_taken_off_again():
    import resource

    before = resource.getrlimit(resource.RLIMIT_DATA)
    with limits.limited(["memory=100GB"]):
        assert resource.getrlimit(resource.RLIMIT_DATA)[0] == 10**11
    assert resource.getrlimit(resource.RLIMIT_DATA) == before
    with (
        pytest.raises(EnvironmentProblem, match=r"^more than 100 GB of memory would be needed\nhint: "),
        limits.limited(["memory=100GB"]),
    ):
        bytearray(10**12)
