"""The scripts that plant faults in the code: what they list is there."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from tests import mutants


def test_what_is_listed_as_equivalent_exists():
    files = [str(path.relative_to(mutants.ROOT)) for path in mutants.FILES]
    every = {fault.name for file in files for fault in mutants.faults(mutants.ROOT, file)}
    assert mutants.equivalent().keys() <= every


@pytest.mark.parametrize("script", ["mutants", "delete_guards"])
def test_the_scripts_list_what_they_would_plant(script):
    command = [sys.executable, "-m", f"tests.{script}", "--list"]
    done = subprocess.run(command, cwd=mutants.ROOT, env=os.environ, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
    assert len(done.stdout.splitlines()) > 100
