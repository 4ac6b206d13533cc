"""The rooms of the package: few, on few floors, without a circle; and none that hides a public function."""

from __future__ import annotations

import inspect
import pkgutil
import subprocess
import sys
from graphlib import TopologicalSorter
from importlib import import_module

import pytest

import bnfold
from tests import rooms


def test_the_rooms_are_few_and_stand_on_one_another():
    done = subprocess.run([sys.executable, "-m", "tests.rooms"], cwd=rooms.ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


def test_a_cycle_is_seen(monkeypatch, capsys):
    monkeypatch.setattr(rooms, "arrows", lambda: {"a": {"b"}, "b": {"a"}})
    assert rooms.main() == 1
    assert "in a circle" in capsys.readouterr().out


def test_no_files_import_one_another():
    """Not for types alone either."""
    known = rooms.modules()
    below = {
        name: {module for other in rooms.imported(name, path) for module in (other, other.rpartition(".")[0])}
        for name, path in known.items()
    }
    for name, others in below.items():
        others.intersection_update(known)
        others.discard(name)
    assert [*TopologicalSorter(below).static_order()]


def test_no_room_hides_a_public_function():
    """A submodule, once imported, takes its name in the package: `driver.fold(1)` would then call a module."""
    for found in pkgutil.walk_packages(bnfold.__path__, "bnfold."):
        if not found.name.endswith("__main__"):
            import_module(found.name)
    functions = [name for name in bnfold.__all__ if inspect.isfunction(getattr(bnfold, name))]
    assert len(functions) >= 7
    for name in functions * 2:
        with pytest.raises(TypeError, match=r"missing \d+ required|a model is"):
            getattr(bnfold, name)()
