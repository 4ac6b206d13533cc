"""Where reports go is looked at before any work: nothing is computed or written for a path that cannot be."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import onnx
import pytest

from bnfold.model import onnx_io
from bnfold_cli.main import run
from tests.test_cli import conv_bn, here, written  # noqa: F401

COMMANDS = {  # what stands before the option -> the options that name an output
    "fold m.onnx": ("--json", "--junit", "--report"),
    "fold m.onnx --out-dir many": ("--json", "--junit"),
    "explain m.onnx": ("--json",),
    "verify m.onnx m.onnx": ("--json", "--junit"),
    "bench m.onnx m.onnx --quick": ("--json", "--raw", "--plot"),
    "recalibrate m.onnx --data d.npz": ("--json", "--plot"),
    "recalibrate m.onnx --data d.npz --check": ("--json", "--plot"),
    "evaluate m.onnx --data d.npz": ("--json",),
    "report m.onnx m.onnx --verify off --force": ("--out",),
    "doctor": ("--json",),
}
PLACES = {  # a place -> exit code, words
    "no/where/x": (4, "cannot be written: no folder no/where"),
    "folder": (2, "folder is a folder"),
    "m.onnx": (2, "is the name of a model"),
    "new.onnx": (2, "is the name of a model"),
    "new.onnx.data": (2, "is the name of a model"),
    "m.bin": (2, "is another file of this command"),
    "link": (2, "is another file of this command"),
    "a" * 300: (4, "File name too long"),
}
EVERY = [(command, option) for command, options in COMMANDS.items() for option in options]
OF_A_MODEL = ("m.bin", "link")  # its data file, which a command without a model knows nothing of
BAD = [(*each, place) for each in EVERY for place in PLACES if "m.onnx" in each[0] or place not in OF_A_MODEL]


@pytest.fixture
def files(here, monkeypatch):  # noqa: F811
    """A model with a data file of an unusual name, and nobody who reads it."""
    model = conv_bn()
    onnx.save(model, "m.onnx", save_as_external_data=True, location="m.bin", size_threshold=0)
    np.savez("d.npz", X=np.zeros((4, 3, 6, 6), np.float32))
    Path("folder").mkdir()
    Path("link").symlink_to("m.bin")
    return here


def contents() -> dict[Path, bytes]:
    return {path: path.read_bytes() for path in Path().rglob("*") if path.is_file()}


@pytest.mark.parametrize(("command", "option", "place"), BAD, ids=[" ".join(each)[:60] for each in BAD])
def test_a_bad_place_is_refused_before_anything_is_done(files, capsys, command, option, place):
    before = contents()
    code, words = PLACES[place]
    assert run([*command.split(), option, place]) == code
    error, hint = capsys.readouterr().err.splitlines()
    assert words in error
    assert hint.startswith("hint: ")
    assert contents() == before
    assert not Path("many").exists()


TWICE = {
    "fold m.onnx --json x --junit x": "--json: x is another file",
    "fold m.onnx out --json ./out": "--json: out is another file",
    "fold m.onnx --json - --report -": "two reports cannot both go to stdout",
    "verify m.onnx m.onnx --json folder/../x --junit x": "--json: folder/../x is another file",
    "bench m.onnx m.onnx --json x --raw x": "--raw: x is another file",
    "bench m.onnx m.onnx --raw -": "--raw does not go to stdout",
    "bench m.onnx m.onnx --plot -": "--plot does not go to stdout",
    "recalibrate m.onnx --data d.npz --json d.npz": "--json: d.npz is another file",
    "recalibrate m.onnx out --data d.npz --json out": "--json: out is another file",
    "report m.onnx m.onnx --fold x.html --out x.html": "--out: x.html is another file",
}


@pytest.mark.parametrize(("command", "words"), TWICE.items(), ids=TWICE)
def test_two_outputs_are_two_files(files, capsys, command, words):
    before = contents()
    assert run(command.split()) == 2
    assert words in capsys.readouterr().err
    assert contents() == before


@pytest.mark.skipif(os.geteuid() == 0, reason="may write anywhere")
def test_a_folder_without_permission_is_refused(files, capsys):
    Path("folder").chmod(0o500)
    assert run(["fold", "m.onnx", "--json", "folder/x"]) == 4
    assert "folder/x cannot be written: Permission denied" in capsys.readouterr().err
    assert not Path("m.folded.onnx").exists()


def test_what_a_command_makes_itself_is_a_place(files):
    assert run(["fold", "m.onnx", "--out-dir", "many", "--verify", "off", "--json", "many/x.json"]) == 0
    assert Path("many/x.json").exists()
    assert run(["fold", "m.onnx", "--verify", "off", "--json", "/dev/null"]) == 0


def test_the_data_files_of_a_model_are_looked_up_only_where_something_is_there(files, monkeypatch):
    monkeypatch.setattr(onnx_io, "load", lambda *given, **how: pytest.fail("not needed"))
    from bnfold_cli.places import require_places

    require_places({"--json": "new.json"}, ["m.onnx"])
