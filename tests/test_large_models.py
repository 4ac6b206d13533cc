"""Models beyond protobuf's 2 GiB: their constants stay in files while they are verified. Here the limit is 1 kB."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

import bnfold
from bnfold.benchmarking import preflight
from bnfold.errors import ModelProblem
from bnfold.folding.pipeline import Options, fold_file
from bnfold.model import onnx_io, wire
from bnfold.runtime import copies, detached, loading
from bnfold.system.limits import memory_of
from bnfold.verification import self_test, structure
from bnfold.verification.float64 import large_constants
from tests.verify_nets import run_here

OFF = Options(verify="off")
N = 200  # 160 kB for a matrix of float32
X = helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", N])
NORM = ("scale", "shift", "mean", "var")


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    run_here(monkeypatch)
    monkeypatch.setattr(detached, "WHOLE_UP_TO", 1000)
    monkeypatch.setattr(large_constants, "WIDENED_AT_ONCE", 1000)


def external(folder: Path, name: str, values: np.ndarray, offset: int = 0) -> TensorProto:
    """A tensor in a data file of its name, or at an offset of the file `all.bin`."""
    location = "all.bin" if offset else f"{name}.bin"
    with (folder / location).open("r+b" if (folder / location).exists() else "wb") as file:
        file.seek(offset)
        file.write(values.tobytes())
    kind = helper.np_dtype_to_tensor_dtype(values.dtype)
    made = TensorProto(name=name, dims=values.shape, data_type=kind, data_location=TensorProto.EXTERNAL)
    for key, value in (("location", location), ("offset", offset), ("length", values.nbytes)):
        made.external_data.add(key=key, value=str(value))
    return made


def weight(seed: int, *shape: int) -> np.ndarray:
    made: np.ndarray = np.random.default_rng(seed).standard_normal(shape or (N, N)).astype(np.float32) / np.float32(14)
    return made


def norm(prefix: str = "", kind: type = np.float32) -> list[TensorProto]:
    r = np.random.default_rng(9)
    made = (r.uniform(0.5, 1.5, N), r.standard_normal(N), r.standard_normal(N), r.uniform(0.1, 0.4, N))
    return [numpy_helper.from_array(v.astype(kind), prefix + name) for v, name in zip(made, NORM, strict=True)]


def layer(x: str, w: str, y: str, prefix: str = "") -> list[onnx.NodeProto]:
    """MatMul with `w`, BatchNormalization."""
    normalized = helper.make_node("BatchNormalization", [f"{y}/m", *(prefix + name for name in NORM)], [y])
    return [helper.make_node("MatMul", [x, w], [f"{y}/m"]), normalized]


def model(nodes: list[onnx.NodeProto], stored: list[TensorProto], *functions: onnx.FunctionProto) -> onnx.ModelProto:
    y = helper.make_tensor_value_info("y", stored[-1].data_type, ["n", N])
    x = helper.make_tensor_value_info("x", stored[-1].data_type, ["n", N])
    c = helper.make_tensor_value_info("c", TensorProto.BOOL, [])
    inputs = [x, c] if any(node.op_type == "If" for node in nodes) else [x]
    graph = helper.make_graph(nodes, "g", inputs, [y], stored)
    opsets = [helper.make_opsetid("", 17), helper.make_opsetid("my", 1)]
    return helper.make_model(graph, opset_imports=opsets, ir_version=8, functions=functions)


def one_file(folder: Path) -> onnx.ModelProto:
    """Two weights in one data file, the second at an offset that is no multiple of anything."""
    stored = [external(folder, "w", weight(0), 4096), external(folder, "v", weight(1), 200_001)]
    nodes = [*layer("x", "w", "h"), helper.make_node("Relu", ["h"], ["r"]), *layer("r", "v", "y")]
    return model(nodes, stored + norm())


def many_files(folder: Path) -> onnx.ModelProto:
    stored = [external(folder, "w", weight(0)), external(folder, "v", weight(1))]
    nodes = [*layer("x", "w", "h"), helper.make_node("Relu", ["h"], ["r"]), *layer("r", "v", "y")]
    return model(nodes, stored + norm())


def inline(folder: Path) -> onnx.ModelProto:
    return model(layer("x", "w", "y"), [numpy_helper.from_array(weight(0), "w"), *norm()])


def half(folder: Path) -> onnx.ModelProto:
    return model(layer("x", "w", "y"), [external(folder, "w", weight(0).astype(np.float16)), *norm("", np.float16)])


def constant_node(folder: Path) -> onnx.ModelProto:
    held = helper.make_node("Constant", [], ["w"], value=external(folder, "w", weight(0)))
    return model([held, *layer("x", "w", "y")], norm())


def convolution(folder: Path) -> onnx.ModelProto:
    bias = numpy_helper.from_array(weight(2, N), "b")
    shapes = [numpy_helper.from_array(np.int64(dims), name) for name, dims in (("up", [0, 0, 1]), ("down", [0, -1]))]
    nodes = [
        helper.make_node("Reshape", ["x", "up"], ["image"]),
        helper.make_node("Conv", ["image", "w", "b"], ["m"]),
        helper.make_node("BatchNormalization", ["m", *NORM], ["h"]),
        helper.make_node("Reshape", ["h", "down"], ["y"]),
    ]
    return model(nodes, [external(folder, "w", weight(0, N, N, 1)), bias, *shapes, *norm()])


def bodies(folder: Path) -> onnx.ModelProto:
    """In both bodies of an If, as an initializer and in a Constant node, and in a function."""
    out = [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["n", N]) for name in ("t", "e")]
    held = [helper.make_node("Constant", [], [n], value=external(folder, n, weight(i))) for i, n in enumerate("uz")]
    then = helper.make_graph([held[0], *layer("x", "u", "t")], "then", [], out[:1])
    other = helper.make_graph(layer("x", "q", "e"), "else", [], out[1:], [external(folder, "q", weight(3))])
    opsets = [helper.make_opsetid("", 17)]
    function = helper.make_function("my", "F", ["x", *NORM], ["y"], [held[1], *layer("x", "z", "y")], opsets)
    nodes = [
        helper.make_node("If", ["c"], ["i"], then_branch=then, else_branch=other),
        helper.make_node("F", ["i", *NORM], ["y"], domain="my"),
    ]
    return model(nodes, norm(), function)


KINDS = (one_file, many_files, inline, half, constant_node, convolution, bodies)


def folded(folder: Path, make: Callable[[Path], onnx.ModelProto]) -> tuple[Path, Path]:
    """The files of a model and of its fold."""
    (folder / "m.onnx").write_bytes(make(folder).SerializeToString())
    assert fold_file(folder / "m.onnx", folder / "o.onnx", OFF).result.folded
    return folder / "m.onnx", folder / "o.onnx"


@pytest.mark.usefixtures("small")
@pytest.mark.parametrize("make", KINDS, ids=lambda make: make.__name__)
def test_a_fold_passes_and_large_constants_stay_in_their_files(
    tmp_path: Path, make: Callable[[Path], onnx.ModelProto]
) -> None:
    pair = folded(tmp_path, make)
    found = bnfold.verify(*pair)
    assert found.passed, found.reasons
    assert [level.level for level in found.levels if level.level == "default"] == []
    assert any(note.startswith("optimization default was not compared") for note in found.notes)
    for path in pair:
        read = loading.load_to_run(str(path))
        large = [t for t in detached.constants(read) if np.prod(t.dims) >= N * N]
        assert large
        assert all(map(detached.stays, large))
        assert len(read.SerializeToString()) < 30_000
        lifted = copies.lifted(read)
        assert not any(map(detached.stays, (a.t for n in copies.all_nodes(lifted) for a in n.attribute)))


@pytest.mark.usefixtures("small")
def test_with_effort_full_the_default_level_is_compared(tmp_path: Path) -> None:
    found = bnfold.verify(*folded(tmp_path, many_files), effort="full")
    assert found.passed, found.reasons
    assert [level.level for level in found.levels if level.ran and level.level != "isolated"] == ["off", "default"]


@pytest.mark.usefixtures("small")
@pytest.mark.parametrize("make", KINDS, ids=lambda make: make.__name__)
def test_a_wrong_channel_of_a_weight_in_a_file_fails(tmp_path: Path, make: Callable[[Path], onnx.ModelProto]) -> None:
    first, second = folded(tmp_path, make)
    spoilt = onnx.load(second)
    tensor = next(t for t in detached.constants(spoilt) if np.prod(t.dims) == N * N)
    values = numpy_helper.to_array(tensor).copy()
    values[:, N // 2] *= values.dtype.type(1.01)
    tensor.CopyFrom(numpy_helper.from_array(values, tensor.name))
    onnx.save(spoilt, tmp_path / "wrong.onnx", save_as_external_data=make is not inline, location="wrong.bin")
    assert bnfold.verify(first, tmp_path / "wrong.onnx").verdict == "FAIL"


@pytest.mark.usefixtures("small")
def test_data_that_are_the_same_are_equal_in_whichever_file_they_lie(tmp_path: Path) -> None:
    original = inline(tmp_path)
    onnx.save(original, tmp_path / "a.onnx")
    onnx.save(original, tmp_path / "b.onnx", save_as_external_data=True, location="b.bin", size_threshold=0)
    a, b = (loading.load_to_run(str(tmp_path / name)) for name in ("a.onnx", "b.onnx"))
    assert detached.stays(a.graph.initializer[0])
    assert a == b
    request = {"original": str(tmp_path / "a.onnx"), "folded": str(tmp_path / "b.onnx"), "declared": []}
    assert structure.structure_report(request, [a, b])["identical"]


def test_data_are_read_where_they_lie_though_they_lay_elsewhere_before(tmp_path: Path) -> None:
    original = inline(tmp_path)
    for name in ("a.onnx", "b.onnx"):
        onnx.save(original, tmp_path / name)
        assert loading.load_to_run(str(tmp_path / name)) == original
        (tmp_path / name).unlink()


@pytest.mark.usefixtures("small")
@pytest.mark.parametrize("by", [1, 4])
def test_a_place_that_is_read_wrong_is_found(tmp_path: Path, by: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """The code that finds data in a model's file serves the fold as well; protobuf has the last word here."""
    onnx.save(inline(tmp_path), tmp_path / "a.onnx")

    def shifted(file: wire.Buffer) -> tuple[bytes, list[wire.Span]]:
        model, spans = wire.detach(file)
        return model, [wire.Span(s.message, (s.data[0] - by, s.data[1] - by)) for s in spans]

    monkeypatch.setattr(detached, "detach", shifted)
    with pytest.raises(ModelProblem, match="the data of 'w' are not found in"):
        loading.load_to_run(str(tmp_path / "a.onnx"))


@pytest.mark.usefixtures("small")
def test_data_that_are_cut_off_are_named(tmp_path: Path) -> None:
    onnx.save(many_files(tmp_path), tmp_path / "m.onnx")
    os.truncate(tmp_path / "v.bin", 100)
    with pytest.raises(ModelProblem, match="v.bin ends before the data of 'v' does"):
        loading.load_to_run(str(tmp_path / "m.onnx"))


@pytest.mark.usefixtures("small")
def test_what_takes_too_much_memory_in_float64_is_said_and_the_rest_decides(tmp_path: Path) -> None:
    def make(folder: Path) -> onnx.ModelProto:
        nodes = [helper.make_node("Transpose", ["w"], ["u"]), helper.make_node("Mul", ["u", "w"], ["z"])]
        nodes += [helper.make_node("MatMul", ["x", "z"], ["h"]), helper.make_node("MatMul", ["x", "q"], ["y/m"])]
        nodes += [layer("x", "q", "k")[1], helper.make_node("Add", ["h", "k"], ["y"])]
        nodes[3].output[0] = "k/m"
        return model(nodes, [external(folder, "w", weight(0)), external(folder, "q", weight(1)), *norm()])

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("bnfold.verification.float64.constant_parts.MOST_STORED", 1000)
        found = bnfold.verify(*folded(tmp_path, make))
    assert found.passed, found.reasons
    assert "the float64 oracle cannot evaluate Mul: in float64 its constants take 640 kB of memory" in found.notes


@pytest.mark.usefixtures("small")
def test_what_would_need_copies_is_refused(tmp_path: Path) -> None:
    pair = folded(tmp_path, inline)
    with pytest.raises(ModelProblem, match="the model is too large for a self-test"):
        self_test(*pair)
    request = {"original": str(pair[0]), "folded": str(pair[1]), "folder": str(tmp_path)}
    with pytest.raises(ModelProblem, match="the model is too large for a conversion to float16"):
        preflight._in("float16", request)


@pytest.mark.parametrize("transposed", [False, True])
@pytest.mark.parametrize("kind", [np.float16, np.float32])
def test_products_in_blocks(kind: type, transposed: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(large_constants, "WIDENED_AT_ONCE", 3000)
    w = weight(0, 300, 100).astype(kind)
    x = weight(1, 2, 7, 100 if transposed else 300).astype(np.float64)
    expected = x @ (w.T if transposed else w).astype(np.float64)
    np.testing.assert_allclose(large_constants.product_in_blocks(x, w, transposed), expected, rtol=1e-12)
    if not transposed:  # few rows are used
        x[..., 1:] = 0
        np.testing.assert_allclose(large_constants.product_in_blocks(x, w), x @ w.astype(np.float64), rtol=1e-12)


def test_one_page_in_sixteen_moves_a_product_as_far_as_all_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    wide = 1000
    graph = helper.make_graph(
        [helper.make_node("MatMul", ["x", "w"], ["y"])],
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", wide])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n", wide])],
        [external(tmp_path, "w", weight(0, wide, wide))],
    )
    onnx.save(helper.make_model(graph, ir_version=8), tmp_path / "m.onnx")
    whole = loading.load_to_run(str(tmp_path / "m.onnx"))
    monkeypatch.setattr(detached, "WHOLE_UP_TO", 1000)
    split = loading.load_to_run(str(tmp_path / "m.onnx"))
    x = weight(1, 20, wide).astype(np.float64)
    far = []
    for each in (whole, split):
        before, after = (
            detached.values(m.graph.initializer[0]).astype(np.float64) for m in (each, copies.jittered(each, 0))
        )
        far.append(np.sqrt(np.square(x @ (after - before)).mean()))
        assert (np.count_nonzero(after != before) / after.size < 0.07) == (each is split)
    assert far[1] == pytest.approx(far[0], rel=0.1)
    again = copies.jittered(split, 0).graph.initializer[0]
    assert detached.data_number(again) == detached.data_number(copies.jittered(split, 0).graph.initializer[0])


@pytest.mark.usefixtures("small")
def test_a_fold_that_one_file_cannot_hold_has_a_data_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first, second = folded(tmp_path, inline)
    monkeypatch.setattr(onnx_io, "LIMIT", 100_000)
    report = fold_file(first, tmp_path / "split.onnx")
    assert report.verification is not None
    assert report.verification.passed
    assert (tmp_path / "split.onnx").stat().st_size < 10_000
    assert report.after.bytes == sum(path.stat().st_size for path in tmp_path.glob("split.onnx*"))
    assert loading.load_to_run(str(tmp_path / "split.onnx")) == loading.load_to_run(str(second))
    bnfold.save(onnx.load(second), tmp_path / "saved.onnx")  # of which all is in memory
    assert loading.load_to_run(str(tmp_path / "saved.onnx")) == loading.load_to_run(str(second))
    with pytest.raises(ModelProblem, match="would exceed the 2 GiB that one ONNX file may hold"):
        fold_file(first, tmp_path / "kept.onnx", Options(verify="off", external="keep"))


@pytest.fixture
def memory() -> Iterator[list[int]]:
    """The most private memory that any process started from here has, in bytes."""
    most, done = [0], threading.Event()

    def watch() -> None:
        while not done.is_set():
            children = Path(f"/proc/{os.getpid()}/task/{os.getpid()}/children").read_text().split()
            most[0] = max([most[0], memory_of(os.getpid()), *map(memory_of, map(int, children))])
            time.sleep(0.02)

    thread = threading.Thread(target=watch)
    thread.start()
    yield most
    done.set()
    thread.join()


@pytest.mark.slow
def test_a_weight_of_more_than_2_gib_is_folded_and_verified(tmp_path: Path, memory: list[int]) -> None:
    """5 GB of disk, 3 minutes. No process has more memory than three times the weight."""
    n = 23_200
    rows = np.random.default_rng(0).standard_normal((100, n)).astype(np.float32) * np.float32(0.01)
    with (tmp_path / "w.bin").open("wb") as file:
        for _ in range(n // 100):
            file.write(rows.data)
    made = TensorProto(name="w", dims=[n, n], data_type=TensorProto.FLOAT, data_location=TensorProto.EXTERNAL)
    made.external_data.add(key="location", value="w.bin")
    r = np.random.default_rng(1)
    values = (r.uniform(0.5, 1.5, n), r.standard_normal(n), r.standard_normal(n), r.uniform(0.1, 0.4, n))
    stored = [numpy_helper.from_array(v.astype(np.float32), name) for v, name in zip(values, NORM, strict=True)]
    x, y = (helper.make_tensor_value_info(name, TensorProto.FLOAT, ["n", n]) for name in "xy")
    graph = helper.make_graph(layer("x", "w", "y"), "g", [x], [y], [made, *stored])
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), tmp_path / "m.onnx")
    report = fold_file(tmp_path / "m.onnx")
    assert report.written
    assert report.verification is not None
    assert report.verification.passed
    assert memory[0] < 3 * 4 * n * n
