"""Whatever stops a fold, at whatever instant: no input is lost, no output is half there."""

from __future__ import annotations

import signal
import sys
from collections import Counter
from pathlib import Path

import pytest

from tests.attacks.killing import nursery, scene, struck, survey

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="there are no such signals")
KINDS = {"external data": {}, "one file": {"outside": False}, "external data that stays": {"keep": True}}
LATER = 200  # file operations: more than a fold has


@pytest.mark.parametrize(("kind", "exists"), [("external data", False), *((kind, True) for kind in KINDS)])
def test_killed_before_each_file_operation(tmp_path: Path, kind: str, exists: bool) -> None:
    folder = tmp_path / "models"
    folder.mkdir()
    made, states = scene(folder, exists=exists, **KINDS[kind]), Counter[str]()
    with nursery() as born:
        for count in range(1, LATER):
            if struck(born, made, signal.SIGKILL, count) == 0:
                break
            states[made.state()] += 1
            made.rerun()
            made.reset()
    assert count < LATER - 1, "the fold never came to an end"
    assert min(states[state] for state in ("before", "within", "after")) >= 2, states


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_signal_before_each_file_operation_leaves_nothing(tmp_path: Path, number: int) -> None:
    folder = tmp_path / "models"
    folder.mkdir()
    made, codes = scene(folder, exists=True), Counter[int]()
    with nursery() as born:
        for count in range(1, LATER):
            code = struck(born, made, number, count)
            codes[code] += 1
            if made.state() == "after" and code == 0:
                break
            assert code == 130
            assert made.state() != "within", count
            made.reset()
    assert codes[130] >= 10


def test_killed_at_random(tmp_path: Path) -> None:
    assert sum(survey(tmp_path, 12).values()) == 12


@pytest.mark.slow
def test_killed_at_random_200_times(tmp_path: Path) -> None:
    counts = survey(tmp_path, 200, megabytes=20)
    print(dict(counts))
    assert sum(counts.values()) == 200
