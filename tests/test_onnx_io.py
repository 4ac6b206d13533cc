"""Files: every way in which a model cannot be read or written is said, whole; what is written is whole, or not there."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from bnfold.errors import BnfoldError, EnvironmentProblem, ModelProblem, UsageProblem, printable
from bnfold.model import external, onnx_io, wire
from bnfold.model.storage import Storage
from bnfold.system import staging

NEWEST = onnx.defs.onnx_opset_version()
KNOWS = f"onnx {onnx.__version__} knows"
HINT = "Give a binary ONNX file (.onnx), as torch.onnx.export or `bnfold export` writes it."
CUT = "Was the export or download interrupted? Make the file again."
OLDER = "Upgrade the onnx package, or export for an older {}."
PLACE = "Choose another place, or check permissions and free space."


def model(*versions: tuple[str, int], ir: int = 8) -> onnx.ModelProto:
    """One Identity."""
    x, y = (helper.make_tensor_value_info(name, TensorProto.FLOAT, [2]) for name in "xy")
    graph = helper.make_graph([helper.make_node("Identity", ["x"], ["y"])], "g", [x], [y])
    opsets = [helper.make_opsetid(*v) for v in versions or [("", 17)]]
    return helper.make_model(graph, opset_imports=opsets, ir_version=ir)


def without(field: str) -> onnx.ModelProto:
    made = model()
    made.ClearField(field)
    return made


REFUSED = {  # file -> what is said, after the path, and what to do about it
    "nothing": (b"", " is empty", CUT),
    "no protobuf": (b"hello", " is not an ONNX model, or is cut off", HINT),
    "half a model": (model().SerializeToString()[:-3], " is not an ONNX model, or is cut off", HINT),
    "no graph": (without("graph"), " is not an ONNX model", HINT),
    "no opset": (without("opset_import"), " is not an ONNX model", HINT),
    "no version of the format": (without("ir_version"), " is not an ONNX model", HINT),
    "a format of tomorrow": (model(ir=onnx.IR_VERSION + 1),
        f" has IR version {onnx.IR_VERSION + 1}; {KNOWS} those up to {onnx.IR_VERSION}", OLDER.format("version")),
    "an opset of tomorrow": (model(("", NEWEST + 1)), f" uses opset {NEWEST + 1}; {KNOWS} opsets 1 to {NEWEST}", OLDER.format("opset")),
    "the same by its other name": (model(("my", 1), ("ai.onnx", NEWEST + 1)), f" uses opset {NEWEST + 1}; {KNOWS} opsets 1 to {NEWEST}", OLDER.format("opset")),
    "opset 0": (model(("", 0)), f" uses opset 0; {KNOWS} opsets 1 to {NEWEST}", OLDER.format("opset")),
}  # fmt: skip
READ = {  # what only looks unknown
    "the newest opset": model(("", NEWEST)),
    "the newest format": model(ir=onnx.IR_VERSION),
    "the first opset": model(("", 1)),
    "the first format": model(ir=1),
    "another domain only": model(("my", NEWEST + 9)),
    "another domain first": model(("my", NEWEST + 9), ("", 17)),
}


def _read(path: Path, whole: bool) -> onnx.ModelProto:
    return onnx_io.load(path) if whole else onnx_io.detached(path)[0]


@pytest.mark.parametrize("whole", [True, False])
@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_be_read_is_said(tmp_path: Path, name: str, whole: bool) -> None:
    content, words, hint = REFUSED[name]
    path = tmp_path / "m.onnx"
    path.write_bytes(content if isinstance(content, bytes) else content.SerializeToString())
    with pytest.raises(ModelProblem) as raised:
        _read(path, whole)
    assert (str(raised.value), raised.value.hint) == (f"{path}{words}", hint)


@pytest.mark.parametrize("whole", [True, False])
@pytest.mark.parametrize("name", READ)
def test_what_is_known_is_read(tmp_path: Path, name: str, whole: bool) -> None:
    (tmp_path / "m.onnx").write_bytes(READ[name].SerializeToString())
    assert _read(tmp_path / "m.onnx", whole) == READ[name]


@pytest.mark.parametrize(
    ("name", "words", "hint"),
    [
        ("none.onnx", "no model at {}", "Paths are relative to the current directory."),
        (
            "folder",
            "{} is a folder, not a model",
            "Name the .onnx file in it; `bnfold fold {} --out-dir folded` folds all of them.",
        ),
        ("x" * 300, "{} cannot be read: File name too long", "Give a regular file that you may read."),
    ],
)
def test_a_place_without_a_file_is_said(tmp_path: Path, name: str, words: str, hint: str) -> None:
    (tmp_path / "folder").mkdir()
    with pytest.raises(ModelProblem) as raised:
        onnx_io.load(tmp_path / name)
    said = (str(raised.value), raised.value.hint)
    assert said == (printable(words.format(tmp_path / name)), hint.format(tmp_path / name))


def test_a_model_that_is_given_is_copied_before_it_changes(tmp_path: Path) -> None:
    given = model()
    copy, _ = onnx_io.consumable(given)
    assert copy == given
    assert copy is not given
    onnx_io.save(given, tmp_path / "m.onnx")
    read, storage = onnx_io.consumable(str(tmp_path / "m.onnx"))
    assert (read, storage.folder) == (given, tmp_path)


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


@pytest.mark.parametrize("in_folder", [True, False])
def test_a_draft_takes_its_place_with_its_data(tmp_path: Path, in_folder: bool) -> None:
    with staging.staged(tmp_path / "m.onnx", in_folder=in_folder) as draft:
        assert draft.suffix == ".onnx"
        assert draft.name.startswith(".bnfold-" if in_folder else "m.onnx")
        assert tmp_path.samefile(draft.parent) == in_folder
        assert {name[:8] for name in names(tmp_path)} == {".bnfold-"}
        draft.write_text("model")
        if not in_folder:  # which refers to data files that are there
            draft.with_name(f"{draft.name}.data").write_text("data")
    assert names(tmp_path) == ["m.onnx", *["m.onnx.data"] * (not in_folder)]
    assert [(tmp_path / name).read_text() for name in names(tmp_path)] == ["model", *["data"] * (not in_folder)]


@pytest.mark.parametrize("in_folder", [True, False])
@pytest.mark.parametrize(("keep", "problem"), [(False, None), (True, KeyboardInterrupt), (True, ValueError)])
def test_a_draft_that_is_not_wanted_leaves_nothing(tmp_path: Path, in_folder: bool, keep: bool, problem) -> None:
    def draw_up() -> None:
        with staging.staged(tmp_path / "m.onnx", keep=keep, in_folder=in_folder) as draft:
            draft.write_text("new")
            if problem:
                raise problem

    (tmp_path / "m.onnx").write_text("old")
    if problem:
        with pytest.raises(problem):
            draw_up()
    else:
        draw_up()
    assert names(tmp_path) == ["m.onnx"]
    assert (tmp_path / "m.onnx").read_text() == "old"


@pytest.mark.parametrize(
    ("problem", "words"),
    [(OSError(28, "No space left on device"), "No space left on device"), (OSError("a quota"), "a quota")],
)
def test_a_disk_that_refuses_is_said(tmp_path: Path, problem: OSError, words: str) -> None:
    with pytest.raises(EnvironmentProblem) as raised, staging.staged(tmp_path / "m.onnx"):
        raise problem
    assert (str(raised.value), raised.value.hint) == (f"{tmp_path}/m.onnx cannot be written: {words}", PLACE)
    assert names(tmp_path) == []


def test_a_folder_that_is_not_there_is_said(tmp_path: Path) -> None:
    with pytest.raises(EnvironmentProblem) as raised, staging.staged(tmp_path / "none" / "m.onnx"):
        pytest.fail("there is no place for a draft")
    words = f"{tmp_path}/none/m.onnx cannot be written: no folder {tmp_path}/none"
    assert (str(raised.value), raised.value.hint) == (words, "Make it, or name another.")


def test_a_message_may_have_2_GiB_less_a_byte(tmp_path: Path, monkeypatch) -> None:
    size = model().ByteSize()
    assert onnx_io.LIMIT == 2 * 1024**3
    monkeypatch.setattr(onnx_io, "LIMIT", size + 1)
    onnx_io.write(model(), Storage(tmp_path), tmp_path / "m.onnx")
    assert (tmp_path / "m.onnx").stat().st_size == size
    monkeypatch.setattr(onnx_io, "LIMIT", size)
    require_too_large(tmp_path)


def test_a_message_that_protobuf_finds_too_large_is_said(tmp_path: Path, monkeypatch) -> None:
    def fails(*_: object) -> list[wire.Part]:
        raise ValueError("Message onnx.ModelProto exceeds maximum protobuf size of 2GB")

    monkeypatch.setattr(wire, "attach", fails)
    require_too_large(tmp_path)


def require_too_large(folder: Path) -> None:
    with pytest.raises(ModelProblem) as raised:
        onnx_io.write(model(), Storage(folder), folder / "large.onnx")
    words = "large.onnx would exceed the 2 GiB that one ONNX file may hold"
    assert (str(raised.value), raised.value.hint) == (words, "Export the model with external data.")
    assert not (folder / "large.onnx").exists()


def with_data(folder: Path) -> onnx.ModelProto:
    """One weight in w.bin, one in the model."""
    made = model()
    outer, inner = (numpy_helper.from_array(np.arange(2, dtype=np.float32), name) for name in "wv")
    (folder / "w.bin").write_bytes(outer.raw_data)
    outer.ClearField("raw_data")
    outer.data_location = TensorProto.EXTERNAL
    outer.external_data.add(key="location", value="w.bin")
    made.graph.initializer.extend([outer, inner])
    (folder / "m.onnx").write_bytes(made.SerializeToString())
    return made


@pytest.mark.parametrize("keep", [False, True])
@pytest.mark.parametrize("way", ["copy", "write", "save"])
def test_data_comes_along_or_stays_on_request(tmp_path: Path, way: str, keep: bool) -> None:
    made, target = with_data(tmp_path), tmp_path / "out.onnx"
    if way == "copy":
        onnx_io.copy(tmp_path / "m.onnx", target, onnx_io.KEEP if keep else onnx_io.SINGLE)
    elif way == "write" or keep:
        onnx_io.write(made, Storage(tmp_path), target, onnx_io.KEEP if keep else onnx_io.SINGLE)
    else:
        onnx_io.save(made, target)  # the folder of the data is that of the target
    assert (tmp_path / "out.onnx.data").exists() != keep
    assert (target.read_bytes() == (tmp_path / "m.onnx").read_bytes()) == keep
    values = {t.name: numpy_helper.to_array(t).tolist() for t in onnx.load(target).graph.initializer}
    assert values == {"w": [0, 1], "v": [0, 1]}


def test_data_is_looked_for_where_it_is_said_to_be(tmp_path: Path) -> None:
    made, elsewhere = with_data(tmp_path), tmp_path / "elsewhere"
    elsewhere.mkdir()
    with pytest.raises(BnfoldError, match="w.bin"):
        onnx_io.save(made, elsewhere / "m.onnx")
    assert names(elsewhere) == []
    onnx_io.save(made, elsewhere / "m.onnx", tmp_path)
    assert names(elsewhere) == ["m.onnx", "m.onnx.data"]


def test_a_copy_is_byte_for_byte(tmp_path: Path) -> None:
    content = model().SerializeToString() + b"\xfa\x07\x01x"  # a field that no version of ONNX has
    (tmp_path / "m.onnx").write_bytes(content)
    onnx_io.copy(tmp_path / "m.onnx", tmp_path / "copy.onnx")
    assert (tmp_path / "copy.onnx").read_bytes() == content


def test_a_model_is_on_the_disk_before_it_takes_its_place(tmp_path: Path, monkeypatch) -> None:
    synced: list[int] = []
    really = os.fsync

    def fsync(number: int) -> None:
        really(number)
        synced.append(os.fstat(number).st_size)

    monkeypatch.setattr(os, "fsync", fsync)
    onnx_io.save(model(), tmp_path / "m.onnx")
    assert model().ByteSize() in synced


def test_a_name_that_the_system_refuses_is_said(tmp_path: Path) -> None:
    for whole in (False, True):
        with pytest.raises(ModelProblem, match="cannot be read: File name too long"):
            _read(tmp_path / ("m" * 300 + ".onnx"), whole)


@pytest.mark.parametrize("what", ["no such call", "another file system", "interrupted"])
def test_data_are_copied_where_the_system_cannot_do_it_or_not_all_of_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, what: str
) -> None:
    data, calls = os.urandom(100_000), []

    def copy_file_range(source: int, sink: int, count: int, at: int) -> int:
        calls.append(count)
        if what == "another file system" or len(calls) > 1:
            raise OSError(18, "Invalid cross-device link")
        return os.pwrite(sink, os.pread(source, 1000, at), os.lseek(sink, 0, os.SEEK_CUR))

    if what == "no such call":
        monkeypatch.delattr(os, "copy_file_range", raising=False)
    else:
        monkeypatch.setattr(os, "copy_file_range", copy_file_range, raising=False)
    (tmp_path / "source").write_bytes(data)
    with staging.Sink(tmp_path / "sink") as sink:
        sink.write(b"before")
        external.copy_range(external.Place(tmp_path / "source", 10, 90_000), sink)
        sink.write(b"after")
    assert (tmp_path / "sink").read_bytes() == b"before" + data[10:90_010] + b"after"


@pytest.mark.skipif(sys.platform != "linux", reason="holes as Linux has them")
@pytest.mark.parametrize(("offset", "length"), [(0, 1 << 30), (1 << 29, 1 << 29), (5, 1 << 20), ((1 << 30) - 9, 9)])
def test_what_is_a_hole_stays_one(tmp_path: Path, offset: int, length: int) -> None:
    """A file that states a terabyte, and is none, fills no disk."""
    with (tmp_path / "source").open("wb") as file:
        file.truncate(1 << 30)
        for at in (0, 1 << 16, 1 << 29):
            file.seek(at)
            file.write(b"data" * 2500)
    with staging.Sink(tmp_path / "sink") as sink:
        sink.write(b"before")
        external.copy_range(external.Place(tmp_path / "source", offset, length), sink)
        sink.write(b"after")
    assert (tmp_path / "sink").stat().st_blocks * 512 < 1 << 20
    found, wanted = (tmp_path / "sink").open("rb"), (tmp_path / "source").open("rb")
    with found, wanted:
        wanted.seek(offset)
        assert found.read(6) == b"before"
        for left in range(length, 0, -(1 << 24)):
            assert found.read(min(left, 1 << 24)) == wanted.read(min(left, 1 << 24))
        assert found.read() == b"after"


def test_a_file_that_becomes_shorter_while_it_is_read_is_said(tmp_path: Path) -> None:
    (tmp_path / "source").write_bytes(bytes(1000))
    with staging.Sink(tmp_path / "sink") as sink, pytest.raises(ModelProblem, match="became shorter while it was read"):
        external.copy_range(external.Place(tmp_path / "source", 500, 501), sink)


def test_a_type_that_nobody_knows_has_no_size() -> None:
    assert external.data_length(TensorProto(dims=[3], data_type=99)) == 0
    assert external.data_length(TensorProto(dims=[3], data_type=TensorProto.INT4)) == 2
    assert external.data_length(TensorProto(dims=[3, 2], data_type=TensorProto.BFLOAT16)) == 12


def test_what_is_in_the_way_of_an_output_is_said(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    record = onnx.ModelProto()
    for name in ("in.onnx", "data.npz", "out.onnx"):
        Path(name).write_bytes(b"")
    Path("folder").mkdir()
    source, read = Path("in.onnx"), Path("data.npz")
    for target, words in (
        ("in.onnx", "in.onnx is the input itself"),
        ("data.npz", "data.npz is a file that is read"),
        ("folder", "folder is a folder"),
        ("out.onnx", "out.onnx exists"),
    ):
        with pytest.raises(UsageProblem) as problem:
            onnx_io.require_free(record, source, Path(target), False, read)
        assert str(problem.value) == words
    onnx_io.require_free(record, source, Path("out.onnx"), True, read)
    onnx_io.require_free(record, source, Path("new.onnx"), False, read)
