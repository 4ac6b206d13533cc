"""Data files that are not what a model says, or not where it may look: refused in words, or read as they are meant."""

from __future__ import annotations

import errno
import hashlib
import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from bnfold.errors import ModelProblem
from bnfold.folding import driver as folding
from bnfold.folding.driver import fold
from bnfold.model import datafiles, external
from bnfold_cli.main import run
from tests.attacks.hostile import refer, sound, stored, written

NEEDED = 4 * 3 * 3 * 3 * 4  # bytes of the weight
DATA = np.random.default_rng(1).standard_normal(NEEDED).astype(np.float32).tobytes()  # more than it needs
Entries = dict[str, object]


def made(folder: Path, entries: Entries, *more: tuple[str, Entries]) -> Path:
    """The sound model with its weight at these `entries`, and `more` tensors of the same shape that nobody reads."""
    model = sound()
    refer(stored(model, "w"), **entries)
    for name, place in more:
        model.graph.initializer.append(TensorProto(name=name, dims=[4, 3, 3, 3], data_type=TensorProto.FLOAT))
        refer(stored(model, name), **place)
    (folder / "m.data").write_bytes(DATA)
    return written(folder, model.SerializeToString())


def at(offset: int, length: int | None = NEEDED, location: str = "m.data", **more: object) -> Entries:
    return {"location": location, "offset": offset, **({} if length is None else {"length": length}), **more}


def linked(link: Callable[[Path, Path], None], location: str = "m.data") -> Callable[[Path], Path]:
    """What the weight refers to is a link."""

    def make(folder: Path) -> Path:
        path = made(folder, at(0, location=location))
        (folder / "m.data").rename(folder.parent / "away.bin")
        link(folder.parent / "away.bin", folder / "m.data")
        return path

    return make


def inner(target: Path, link: Path) -> None:
    target.rename(link.parent / "inner.bin")
    link.symlink_to("inner.bin")


def through(target: Path, link: Path) -> None:
    """A folder within that leads out of it."""
    (link.parent / "sub").symlink_to(target.parent)


def twice(folder: Path) -> Path:
    path = made(folder, at(0))
    model = onnx.load(path, load_external_data=False)
    stored(model, "w").external_data.add(key="location", value="../away.bin")
    return written(folder, model.SerializeToString())


def sparse(location: str) -> Callable[[Path], Path]:
    """The weight is a sparse tensor whose values lie in a data file; one of the same name is where we stand."""

    def make(folder: Path) -> Path:
        model = sound()
        kept = [t for t in model.graph.initializer if t.name != "w"]
        del model.graph.initializer[:]
        model.graph.initializer.extend(kept)
        values = numpy_helper.from_array(np.ones(1, np.float32), "w")
        index = numpy_helper.from_array(np.zeros(1, np.int64), "i")
        model.graph.sparse_initializer.append(helper.make_sparse_tensor(values, index, [4, 3, 3, 3]))
        refer(model.graph.sparse_initializer[0].values, location=location)
        (folder.parent / "m.data").write_bytes(DATA)
        os.chdir(folder.parent)
        return written(folder, model.SerializeToString())

    return make


LINKS = {  # refused, unless it is allowed
    "a symbolic link": (linked(lambda target, link: link.symlink_to(target)), "outside the model's folder"),
    "a link to a file next to it": (linked(inner), "'m.data', which is a symbolic link"),
    "a hard link": (linked(lambda target, link: os.link(target, link)), "'m.data', which has multiple hard links"),
    "a folder that is a link": (linked(through, "sub/away.bin"), "outside the model's folder"),
    "a file above": (linked(lambda *_: None, "../away.bin"), "outside the model's folder"),
}
REFUSED = {
    "an absolute path into the folder": (lambda f: made(f, at(0, location=str(f / "m.data"))), "outside the model's"),
    "more than the weight": (lambda f: made(f, at(0, NEEDED + 4)), f"holds {NEEDED + 4} bytes of data; its type"),
    "less than the weight": (lambda f: made(f, at(0, NEEDED - 4)), f"holds {NEEDED - 4} bytes of data; its type"),
    "a bit more than there is": (lambda f: made(f, at(len(DATA) - NEEDED + 1)), "ends before the data of 'w' does"),
    "no length, and more after the weight": (lambda f: made(f, at(0, None)), f"holds {len(DATA)} bytes of data"),
    "a number with a sign": (lambda f: made(f, at("+4")), "'+4', which is not a number"),
    "a number with spaces": (lambda f: made(f, at(" 4")), "' 4', which is not a number"),
    "a number that no machine can count to": (lambda f: made(f, at("9" * 5000)), "9', which is no place in a file"),
    "a length that no machine can count to": (lambda f: made(f, at(0, "9" * 5000)), "9', which is no place in a file"),
    "a number before 0": (lambda f: made(f, at("-1")), "'-1', which is not a number"),
    "a number of another script": (lambda f: made(f, at("\u0660")), "'\u0660', which is not a number"),
    "an offset at the end of all numbers": (lambda f: made(f, at(2**64 - 128)), "ends before the data of 'w' does"),
    "no location": (lambda f: made(f, at(0, location="")), "outside the model's folder"),
    "the folder itself": (lambda f: made(f, at(0, location=".")), "outside the model's folder"),
    "the folder above": (lambda f: made(f, at(0, location="..")), "outside the model's folder"),
    "out and in again": (lambda f: made(f, at(0, location="../models/m.data")), "outside the model's folder"),
    "a file as a folder": (lambda f: made(f, at(0, location="m.onnx/m.data")), "cannot be read from"),
    "a name with a NUL": (lambda f: made(f, at(0, location="m.data\0b")), "outside the model's folder"),
    "a name that is too long": (lambda f: made(f, at(0, location="a" * 300)), "cannot be read from"),
    "ten thousand folders": (lambda f: made(f, at(0, location="a/" * 10_000 + "m.data")), "cannot be read from"),
    "a pipe": (lambda f: os.mkfifo(f / "pipe") or made(f, at(0, location="pipe")), "cannot be read from"),
    "a place twice": (twice, "'w' says twice where its data lies"),
    "overlapping data": (lambda f: made(f, at(0), ("u", at(4))), "the data of 'w' and 'u' overlap in "),
    "data within data, by another name": (
        lambda f: (f / "a").mkdir() or made(f, at(0), ("u", at(NEEDED - 4, location="a/../m.data"))),
        "the data of 'w' and 'u' overlap in ",
    ),
    "a wrong checksum": (
        lambda f: made(f, at(0, checksum="0" * 40)),
        f"has the checksum {hashlib.sha1(DATA).hexdigest()}",
    ),
    "no checksum at all": (lambda f: made(f, at(0, checksum="")), "the model states ''"),
    "values of a sparse tensor where we stand": (sparse("m.data"), "the data of 'w' cannot be read from"),
    "values of a sparse tensor above": (sparse("../m.data"), "outside the model's folder"),
}


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    found = tmp_path / "models"
    found.mkdir()
    monkeypatch.chdir(tmp_path)
    return found


def listing(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder.parent)) for path in folder.parent.rglob("*"))


@pytest.mark.parametrize("name", [*LINKS, *REFUSED])
@pytest.mark.parametrize("command", ["fold", "recalibrate"])
def test_refused_in_words(name: str, command: str, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    make, words = {**LINKS, **REFUSED}[name]
    path = make(folder)
    np.savez(folder.parent / "d.npz", x=np.zeros((4, 3, 8, 8), np.float32))
    before = listing(folder)
    more = ["--verify", "off"] if command == "fold" else ["--data", str(folder.parent / "d.npz")]
    assert run([command, str(path), *more]) == 3
    stderr = capsys.readouterr().err
    assert words in stderr
    assert [line.partition(": ")[0] for line in stderr.splitlines()] == ["error", "hint"]
    assert listing(folder) == before


def weight(model: Path | onnx.ModelProto) -> bytes:
    """The values of the weight, wherever they lie, by onnx."""
    whole = model if isinstance(model, onnx.ModelProto) else onnx.load(model)
    return numpy_helper.to_array(stored(whole, "w")).tobytes()


def expected(entries: Entries) -> bytes:
    """The weight after folding, from a model that holds all of its data."""
    model, start = sound(), int(str(entries.get("offset", 0)))
    stored(model, "w").raw_data = DATA[start : start + NEEDED]
    return weight(fold(model).model)


def becomes_a_link(data: Path) -> None:
    data.replace(data.with_name("first"))
    data.symlink_to(data.parent.parent / "secret.bin")


def becomes_another(data: Path) -> None:
    data.replace(data.with_name("first"))
    data.write_bytes(SECRET)


def is_in_another_folder(data: Path) -> None:
    data.parent.rename(data.parent.with_name("first"))
    (data.parent.parent.parent / "outer").mkdir()
    (data.parent.parent.parent / "outer" / data.name).write_bytes(SECRET)
    data.parent.symlink_to(data.parent.parent.parent / "outer")


def is_linked_twice(data: Path) -> None:
    os.link(data, data.with_name("second"))


SECRET = b"SECRET" * (len(DATA) // 6) + DATA[: len(DATA) % 6]
SWAPS = [becomes_a_link, becomes_another, is_in_another_folder, is_linked_twice]


@pytest.mark.parametrize("when", ["fold_in_place", "in_one_file", "_append"])
@pytest.mark.parametrize("swap", SWAPS)
def test_what_was_checked_is_what_is_read(swap: Callable[[Path], None], when: str, folder: Path, monkeypatch) -> None:
    """Somebody swaps the data file after it was checked: at first it is a regular file of the model's folder."""
    (folder / "sub").mkdir()
    path = made(folder, at(0, location="sub/m.data"), ("u", at(NEEDED, location="sub/m.data")))
    (folder / "m.data").rename(folder / "sub" / "m.data")
    (folder.parent / "secret.bin").write_bytes(SECRET)
    room = folding if when == "fold_in_place" else external
    honest, swapped = getattr(room, when), []

    def late(*arguments, **options):
        if not swapped:
            swapped.append(swap(folder / "sub" / "m.data"))
        return honest(*arguments, **options)

    monkeypatch.setattr(room, when, late)
    assert run(["fold", str(path), "--verify", "off"]) == 3
    assert not [*folder.glob("m.folded*"), *folder.glob(".bnfold*")]


@pytest.mark.parametrize("name", LINKS)
def test_links_are_read_if_that_is_allowed_and_never_written_to(name: str, folder: Path) -> None:
    """What is written stands on its own: it refers to nothing outside, and onnx loads it."""
    path = LINKS[name][0](folder)
    before = listing(folder)
    assert run(["fold", str(path), "--allow-external-outside", "--verify", "off"]) == 0
    assert {*listing(folder)} - {*before} == {"models/m.folded.onnx", "models/m.folded.onnx.data"} & {*listing(folder)}
    assert weight(folder / "m.folded.onnx") == expected({})
    assert (next(p for p in folder.parent.rglob("*.bin"))).read_bytes() == DATA


def test_what_is_read_from_outside_is_verified_as_well(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = LINKS["a symbolic link"][0](folder)
    assert run(["fold", str(path), "--allow-external-outside"]) == 0
    assert "verified: PASS" in capsys.readouterr().err
    pair = [str(path), str(folder / "m.folded.onnx")]
    assert run(["verify", *pair, "--allow-external-outside"]) == 0
    assert run(["verify", *pair]) == 3
    assert run(["fold", str(path), "--allow-external-outside", "--external", "keep", "--force"]) == 2


def test_what_is_read_from_outside_and_not_folded_is_copied(folder: Path) -> None:
    model = sound()
    refer(stored(model, "w"), location="../away.bin")
    (folder.parent / "away.bin").write_bytes(DATA[:NEEDED])
    model.graph.node.pop()
    model.graph.output[0].name = "c"
    path = written(folder, model.SerializeToString())
    assert run(["fold", str(path), "--allow-external-outside", "--pass-through"]) == 0
    assert weight(folder / "m.folded.onnx") == DATA[:NEEDED]


@pytest.mark.parametrize(
    "entries",
    [at(0), at(8), at(len(DATA) - NEEDED, None), at(0, checksum=hashlib.sha1(DATA).hexdigest().upper())],
)
def test_what_is_stated_is_what_is_read(entries: Entries, folder: Path) -> None:
    """With an offset that is no multiple of anything, without a length, with the right checksum."""
    assert run(["fold", str(made(folder, entries)), "--verify", "off"]) == 0
    assert weight(folder / "m.folded.onnx") == expected(entries)


def test_shared_data_stay_shared(folder: Path) -> None:
    """A thousand tensors of the same data do not make a file of a thousand times the size."""
    path = made(folder, at(0), *((f"v{i}", at(0)) for i in range(1000)))
    assert run(["fold", str(path), "--verify", "off"]) == 0
    assert (folder / "m.folded.onnx.data").stat().st_size < 10 * NEEDED + 4096  # of one page
    found = onnx.load(folder / "m.folded.onnx").graph.initializer
    assert {numpy_helper.to_array(t).tobytes() for t in found if t.name.startswith("v")} >= {DATA[:NEEDED]}


@pytest.mark.skipif(not hasattr(os, "SEEK_DATA"), reason="the system does not show where a file has holes")
def test_a_file_that_states_a_terabyte_fills_no_disk(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """It is copied with its holes; verification, which reads it, has no memory for it."""
    model = sound()
    model.graph.initializer.append(TensorProto(name="u", dims=[1 << 38], data_type=TensorProto.FLOAT))
    refer(stored(model, "u"), location="m.data")
    with (folder / "m.data").open("wb") as file:
        file.truncate(1 << 40)
    path = written(folder, model.SerializeToString())
    assert run(["fold", str(path), "--verify", "off"]) == 0
    assert (folder / "m.folded.onnx.data").stat().st_size == 1 << 40
    assert (folder / "m.folded.onnx.data").stat().st_blocks * 512 < 1 << 20
    assert run(["fold", str(path), "--force", "--dry-run", "--limit", "memory=2GB"]) == 5
    assert "out of memory" in capsys.readouterr().err


@pytest.mark.parametrize("look_up", [datafiles.file_size, os.stat, os.path.samefile])
def test_a_data_file_that_goes_while_a_model_is_folded_has_changed(tmp_path, look_up):
    """Whoever asks about it then: once some of that was a defect of ours, exit code 70."""
    path = tmp_path / "data.bin"
    path.write_bytes(b"data")

    @datafiles.unchanged()
    def folding_goes_on() -> None:
        datafiles.open_regular(path).close()
        path.unlink()
        look_up(*[path] * (2 if look_up is os.path.samefile else 1))

    with pytest.raises(ModelProblem, match="data.bin changed while it was read"):
        folding_goes_on()


def test_a_link_that_is_none_any_more_is_no_defect(tmp_path, monkeypatch):
    """A folder that is swapped with a link, over and over: readlink fails where a link was a moment ago."""
    (tmp_path / "link").symlink_to(tmp_path)
    monkeypatch.setattr(os, "readlink", raising(OSError(errno.EINVAL, "Invalid argument")))
    with pytest.raises(datafiles.LocationError):
        datafiles.inside(tmp_path, "link/data.bin")


def raising(problem):
    def raise_it(*given, **more):
        raise problem

    return raise_it
