"""Large tensors stay in the file: what is not edited is copied byte for byte, whatever the file looks like."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest
from google.protobuf.message import DecodeError
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper

from bnfold.errors import ModelProblem
from bnfold.folding import driver
from bnfold.folding.driver import fold_in_place
from bnfold.folding.pipeline import Options, fold_file
from bnfold.model import external, onnx_io, wire
from bnfold.model.storage import Deferred, Place
from bnfold_cli.main import run

LARGE = wire.DETACHED_FROM // 4  # elements of float32
OFF = Options(verify="off")


def tensor(name: str, size: int = LARGE, seed: int = 0) -> TensorProto:
    made = numpy_helper.from_array(np.random.default_rng(seed).standard_normal(size).astype(np.float32), name)
    made.doc_string = f"about {name}"
    return made


def everywhere() -> onnx.ModelProto:
    """Large tensors among the initializers, in a Constant, in both bodies of an If, and in a function."""

    def constant(output: str) -> onnx.NodeProto:
        return helper.make_node("Constant", [], [output], value=tensor(f"value of {output}"))

    def body(name: str) -> onnx.GraphProto:
        out = helper.make_tensor_value_info(name, TensorProto.FLOAT, [LARGE])
        return helper.make_graph([constant(name)], name, [], [out], [tensor(f"in {name}", 4), tensor(f"w {name}")])

    nodes = [
        constant("k"),
        helper.make_node("If", ["c"], ["i"], then_branch=body("t"), else_branch=body("e")),
        helper.make_node("F", ["k"], ["f"], domain="my"),
        helper.make_node("Sum", ["x", "k", "i", "f", "w", "small"], ["y"]),
    ]
    x, y = (helper.make_tensor_value_info(name, TensorProto.FLOAT, [LARGE]) for name in "xy")
    c = helper.make_tensor_value_info("c", TensorProto.BOOL, [])
    graph = helper.make_graph(nodes, "g", [x, c], [y], [tensor("w"), tensor("small", 1), tensor("v", 2 * LARGE)])
    opsets = [helper.make_opsetid("", 17), helper.make_opsetid("my", 1)]
    function = helper.make_function(
        "my", "F", ["a"], ["b"], [constant("z"), helper.make_node("Add", ["a", "z"], ["b"])], opsets[:1]
    )
    return helper.make_model(graph, opset_imports=opsets, ir_version=8, functions=[function])


def rewritten(path: Path, target: Path) -> bytes:
    """A file that was read without its large tensors, and written again."""
    onnx_io.write(*onnx_io.detached(path), target)
    return target.read_bytes()


def test_tensors_everywhere_stay_in_the_file_and_come_back(tmp_path: Path) -> None:
    path = tmp_path / "m.onnx"
    path.write_bytes(everywhere().SerializeToString(deterministic=True))
    small, storage = onnx_io.detached(path)
    assert small.ByteSize() < 4096
    stored = [t for t in external.all_tensors(small) if storage.entry(t)]
    assert {t.name for t in stored} == {"value of k", "value of t", "value of e", "value of z", "w t", "w e", "w", "v"}
    assert rewritten(path, tmp_path / "again.onnx") == path.read_bytes()
    assert onnx_io.load(path) == everywhere()


def test_unknown_fields_and_any_order_of_fields_survive_in_untouched_tensors(tmp_path: Path) -> None:
    model = everywhere()
    tensors, found = list(model.graph.initializer), b""
    del model.graph.initializer[:]
    for tensor in tensors:
        plain = tensor.SerializeToString()
        fields = [plain[tag:end] for _, tag, _, end in wire.fields(plain, 0, len(plain))]
        odd = b"".join(reversed(fields)) + wire.head(99, 3) + b"new" + b"\xa8\x06\x01"  # fields 99 and 101
        found += wire.head(5, len(odd)) + odd
    graph = model.graph.SerializeToString(deterministic=True) + found
    model.ClearField("graph")
    path = tmp_path / "m.onnx"
    path.write_bytes(model.SerializeToString(deterministic=True) + wire.head(7, len(graph)) + graph)
    assert len(onnx_io.load(path).graph.initializer) == 3
    again = rewritten(path, tmp_path / "again.onnx")
    large = [wire.head(5, len(o)) + o for o in (path.read_bytes()[s:e] for s, e in _messages(path))]
    assert len(large) == 2
    assert all(message in again for message in large)
    assert b"new" in again


def _messages(path: Path) -> list[tuple[int, int]]:
    record, storage = onnx_io.detached(path)
    places = map(storage.entry, record.graph.initializer)
    return [place.message for place in places if isinstance(place, Place) and place.message]


@settings(max_examples=200, deadline=None)
@given(st.data())
def test_a_damaged_file_is_refused_in_words_or_read_as_protobuf_reads_it(data: st.DataObject) -> None:
    whole = bytearray(everywhere().SerializeToString())
    for _ in range(data.draw(st.integers(0, 3))):
        whole[data.draw(st.integers(0, len(whole) - 1))] = data.draw(st.integers(0, 255))
    damaged = bytes(whole[: data.draw(st.integers(1, len(whole)))] if data.draw(st.booleans()) else whole)
    try:
        small, spans = wire.detach(damaged)
    except wire.Unreadable:
        return
    model = onnx.ModelProto()
    try:
        model.ParseFromString(small)
    except DecodeError:
        with pytest.raises(DecodeError):
            onnx.ModelProto.FromString(damaged)
        return
    messages = [span.message for span in spans]
    pieces = wire.attach(model.SerializeToString(), lambda n: (Place(Path(), *_length(messages[n])), True))
    back = b"".join(p if isinstance(p, bytes) else damaged[p.offset : p.offset + p.length] for p in pieces)
    assert onnx.ModelProto.FromString(back).SerializeToString(deterministic=True) == (
        onnx.ModelProto.FromString(damaged).SerializeToString(deterministic=True)
    )


def _length(span: tuple[int, int]) -> tuple[int, int]:
    return span[0], span[1] - span[0]


def test_a_file_cannot_forge_a_reference(tmp_path: Path) -> None:
    (tmp_path / "secret").write_bytes(bytes(4 * LARGE))
    model = conv_bn(1)
    weight = model.graph.initializer[0]
    for location in ("\0:secret", "\0" + "0" * 16 + ":secret", "../secret", "", "/etc/passwd"):
        weight.CopyFrom(TensorProto(name="w", dims=[4, 3, 3, 3], data_type=1, data_location=TensorProto.EXTERNAL))
        for key, value in (("location", location), ("offset", "0"), ("length", "432"), ("message", "0:9")):
            weight.external_data.add(key=key, value=value)
        folder = tmp_path / "in"
        folder.mkdir(exist_ok=True)
        (folder / "m.onnx").write_bytes(model.SerializeToString())
        with pytest.raises(ModelProblem):
            fold_file(folder / "m.onnx", folder / "out.onnx", OFF)
        assert [path.name for path in folder.iterdir()] == ["m.onnx"]


def parsed(graph: str, stored: dict[str, np.ndarray]) -> onnx.ModelProto:
    """A graph in ONNX's text format, and its initializers in float32."""
    model = onnx.parser.parse_model(f'<ir_version: 8, opset_import: ["" : 17]> g {graph}')
    model.graph.initializer.extend(numpy_helper.from_array(v.astype(np.float32), k) for k, v in stored.items())
    return model


def conv_bn(width: int) -> onnx.ModelProto:
    """Conv, BatchNormalization, and a MatMul of `width` x `width` that nothing touches."""
    rng = np.random.default_rng(0)
    stored = {"w": rng.standard_normal((4, 3, 3, 3)), **{k: rng.random(4) + 0.5 for k in "gbmv"}}
    stored["big"] = rng.standard_normal((width, width))
    return parsed(
        "(float[1,3,8,8] x, float[1,W] z) => (float[1,4,6,6] y, float[1,W] u)"
        "{ c = Conv (x, w) y = BatchNormalization (c, g, b, m, v) u = MatMul (z, big) }",
        stored,
    )


def wide_conv_bn() -> onnx.ModelProto:
    """`conv_bn` with a weight that is computed when it is written."""
    model = conv_bn(200)
    model.graph.initializer[0].CopyFrom(
        numpy_helper.from_array(np.random.default_rng(1).standard_normal((512, 3, 3, 3)).astype(np.float32), "w")
    )
    for tensor in model.graph.initializer[1:5]:
        tensor.CopyFrom(
            numpy_helper.from_array(np.random.default_rng(2).random(512).astype(np.float32) + 0.5, tensor.name)
        )
    del model.graph.output[0].type.tensor_type.shape.dim[:]
    return model


@pytest.mark.parametrize("spoilt", [2e38, np.inf, np.nan])
def test_a_large_weight_that_would_not_be_finite_is_kept_as_in_memory(tmp_path: Path, spoilt: float) -> None:
    model, path = wide_conv_bn(), tmp_path / "m.onnx"
    values = numpy_helper.to_array(model.graph.initializer[0]).copy()
    values[-1, -1] = spoilt
    model.graph.initializer[0].CopyFrom(numpy_helper.from_array(values, "w"))
    scale = np.full(512, 4, np.float32)
    model.graph.initializer[1].CopyFrom(numpy_helper.from_array(scale, model.graph.initializer[1].name))
    path.write_bytes(model.SerializeToString())
    (kept,) = fold_file(path, tmp_path / "out.onnx", OFF).result.batch_norms_kept
    assert kept.not_hoisted.code == "OVERFLOW"
    assert (kept,) == driver.fold(path).batch_norms_kept
    assert (tmp_path / "out.onnx").read_bytes() == path.read_bytes()
    assert sorted(os.listdir(tmp_path)) == ["m.onnx", "out.onnx"]


def test_folding_a_file_is_folding_the_model_to_the_last_byte(tmp_path: Path) -> None:
    model = wide_conv_bn()
    model.graph.initializer[0].doc_string = "kept"
    path = tmp_path / "m.onnx"
    path.write_bytes(model.SerializeToString(deterministic=True))
    report = fold_file(path, tmp_path / "out.onnx", OFF)
    expected = driver.fold(path).model
    assert len(report.result.batch_norms_folded) == 1
    assert (tmp_path / "out.onnx").read_bytes() == expected.SerializeToString(deterministic=True)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["m.onnx", "out.onnx"]


def test_messages_nested_without_end_are_left_to_protobuf(tmp_path: Path) -> None:
    found = everywhere().graph.SerializeToString()
    for number in (6, 5, 1) * 2000:  # a graph in an attribute in a node
        found = wire.head(number, len(found)) + found
    bare = everywhere()
    bare.ClearField("graph")
    found = bare.SerializeToString() + wire.head(7, len(found)) + found
    with pytest.raises(wire.Unreadable, match="nested too deeply"):
        wire.detach(found)
    (tmp_path / "m.onnx").write_bytes(found)
    with pytest.raises(ModelProblem, match="is not an ONNX model, or is cut off"):
        onnx_io.detached(tmp_path / "m.onnx")


def test_a_file_that_changed_since_it_was_read_is_not_copied(tmp_path: Path) -> None:
    path = tmp_path / "m.onnx"
    path.write_bytes(everywhere().SerializeToString())
    record, storage = onnx_io.detached(path)
    os.utime(path, ns=(0, 1))
    with pytest.raises(ModelProblem, match=r"m.onnx changed while it was read"):
        onnx_io.save_record(record, storage, tmp_path / "out.onnx")
    assert [p.name for p in tmp_path.iterdir()] == ["m.onnx"]


def gemm_bn(width: int) -> onnx.ModelProto:
    """A Gemm by a matrix of `width` x `width`, and BatchNormalization: all that is large changes."""
    rng = np.random.default_rng(0)
    stored = {"w": rng.standard_normal((width, width)), **{k: rng.random(width) + 0.5 for k in "gbmv"}}
    stored["w"].reshape(-1)[::10] = 1e-39
    text = "(float[1,W] x) => (float[1,W] y) { c = Gemm (x, w) y = BatchNormalization (c, g, b, m, v) }"
    return parsed(text, stored)


def test_a_file_that_changed_while_all_of_it_is_made_anew_is_noticed(tmp_path: Path) -> None:
    path = tmp_path / "m.onnx"
    path.write_bytes(gemm_bn(100).SerializeToString())
    record, storage = onnx_io.detached(path)
    model = fold_in_place(record, storage, defer=True).model
    assert [t.name for t in model.graph.initializer if isinstance(storage.entry(t), Deferred)] == ["w"]
    os.utime(path, ns=(0, 1))
    with pytest.raises(ModelProblem, match=r"m.onnx changed while it was read"):
        onnx_io.save_record(model, storage, tmp_path / "out.onnx")
    assert [p.name for p in tmp_path.iterdir()] == ["m.onnx"]


@pytest.mark.parametrize("threads", ["1", "2"])
def test_rows_are_computed_apart_and_flushed_numbers_counted_once(threads: str, tmp_path: Path, monkeypatch) -> None:
    """A weight of more numbers than are treated at a time; every tenth is subnormal after the fold."""
    model = gemm_bn(600)
    (tmp_path / "m.onnx").write_bytes(model.SerializeToString())
    monkeypatch.setenv("BNFOLD_THREADS", threads)
    report = fold_file(tmp_path / "m.onnx", options=Options(verify="off"))
    expected = driver.fold(model)
    assert report.result.flushed == expected.flushed == 600 * 600 // 10
    assert (tmp_path / "m.folded.onnx").read_bytes() == expected.model.SerializeToString(deterministic=True)


def saved_outside(folder: Path) -> Path:
    onnx.save(conv_bn(100), folder / "m.onnx", save_as_external_data=True, location="m.data", size_threshold=0)
    return folder / "m.onnx"


def test_external_data_can_stay_where_it_is(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = saved_outside(tmp_path)
    data = (tmp_path / "m.data").read_bytes()
    assert run(["fold", str(path), "--external", "keep"]) == 0
    assert sorted(p.name for p in tmp_path.iterdir()) == ["m.data", "m.folded.onnx", "m.onnx"]
    assert (tmp_path / "m.data").read_bytes() == data
    assert (tmp_path / "m.folded.onnx").stat().st_size < 3000
    assert onnx.load(tmp_path / "m.folded.onnx") == driver.fold(onnx.load(path)).model
    (tmp_path / "other").mkdir()
    assert run(["fold", str(path), str(tmp_path / "other" / "o.onnx"), "--external", "keep"]) == 2
    assert "write OUT next to IN" in capsys.readouterr().err


def test_copied_external_data_is_laid_at_pages_and_new_data_with_it(tmp_path: Path) -> None:
    path = saved_outside(tmp_path)
    fold_file(path, tmp_path / "o.onnx")
    found = onnx.load(tmp_path / "o.onnx", load_external_data=False).graph.initializer
    places = [{e.key: e.value for e in t.external_data} for t in found if t.external_data]
    assert [place["location"] for place in places] == ["o.onnx.data"] * 2
    assert all(int(place["offset"]) % 4096 == 0 for place in places)
    loaded = onnx.load(tmp_path / "o.onnx")
    loaded.graph.initializer[0].ClearField("data_location")  # which says that it was in a data file
    assert loaded == driver.fold(onnx.load(path)).model


@pytest.mark.parametrize(("change", "words"), [("short", "ends before"), ("gone", "cannot be read from")])
def test_external_data_that_is_not_there_is_named(tmp_path: Path, change: str, words: str) -> None:
    path = saved_outside(tmp_path)
    data = tmp_path / "m.data"
    data.write_bytes(data.read_bytes()[:-8]) if change == "short" else data.unlink()
    for options in (OFF, Options(verify="off", external="keep")):
        with pytest.raises(ModelProblem, match=words):
            fold_file(path, tmp_path / "o.onnx", options)


def test_data_that_is_too_short_for_its_shape_is_refused(tmp_path: Path) -> None:
    model = conv_bn(200)
    model.graph.initializer[-1].dims[0] += 1
    (tmp_path / "m.onnx").write_bytes(model.SerializeToString())
    with pytest.raises(ModelProblem, match="'big' holds 160000 bytes of data; its type and shape need 160800"):
        fold_file(tmp_path / "m.onnx", tmp_path / "o.onnx", OFF)


MEASURED = pytest.mark.skipif(sys.platform != "linux", reason="measures memory as Linux counts it")


def memory_of_a_fold(path: Path) -> int:
    """The most memory, in kB, that a process has which folds a file."""
    script = (
        "import sys; from pathlib import Path; from bnfold_cli.main import run; code = run(sys.argv[1:]);"
        "print(Path('/proc/self/status').read_text().split('VmHWM:')[1].split()[0]); sys.exit(code)"
    )
    arguments = ["fold", str(path), "--verify", "off", "--json", str(path.with_name("r.json"))]
    done = subprocess.run([sys.executable, "-c", script, *arguments], capture_output=True, text=True, check=True)
    return int(done.stdout.splitlines()[-1])


@MEASURED
def test_a_file_of_200_mb_is_folded_in_little_memory(tmp_path: Path) -> None:
    (tmp_path / "m.onnx").write_bytes(conv_bn(7100).SerializeToString())
    assert memory_of_a_fold(tmp_path / "m.onnx") < 0.1 * 200_000 + 150_000


@MEASURED
def test_a_weight_of_200_mb_in_a_data_file_is_folded_in_little_memory(tmp_path: Path) -> None:
    """It was read whole, twice."""
    with (tmp_path / "w.bin").open("wb") as hole:
        hole.truncate(4 * 10_000 * 5000)
    lines = "m = MatMul (x, w) y = BatchNormalization (m, s, s, s, s)"
    model = parsed(f"(float[n,10000] x) => (float[n,5000] y) {{ {lines} }}", {"s": np.ones(5000, np.float32)})
    weight = model.graph.initializer.add(name="w", data_type=1, dims=[10_000, 5000], data_location=1)
    weight.external_data.add(key="location", value="w.bin")
    (tmp_path / "m.onnx").write_bytes(model.SerializeToString())
    assert memory_of_a_fold(tmp_path / "m.onnx") < 0.1 * 200_000 + 150_000


def test_start_up_is_light(tmp_path: Path) -> None:
    (tmp_path / "m.onnx").write_bytes(conv_bn(8).SerializeToString())
    script = "import sys; from bnfold_cli.main import run; assert run(sys.argv[1:]) == 0; print(*sys.modules)"
    for command in (["fold", "--verify", "off", str(tmp_path / "m.onnx")], ["explain", str(tmp_path / "m.onnx")]):
        done = subprocess.run([sys.executable, "-c", script, *command], capture_output=True, text=True, check=True)
        heavy = {"torch", "onnxruntime", "scipy", "sympy", "matplotlib", "onnx.reference", "bnfold.verification"}
        assert not heavy & set(done.stdout.split())
