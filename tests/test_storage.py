"""The table of where tensors lie: a handle is only a key, and every copy of a message has it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

import bnfold
from bnfold.folding.pipeline import Options, fold_file
from bnfold.graph.stored import StoredConstant
from bnfold.model import onnx_io, wire
from bnfold.model.storage import Deferred, Place, Storage
from bnfold.model.tensors import read, replace_values
from tests.test_wire import conv_bn, everywhere, tensor

WIDE = 80  # channels: a kernel of 1x1 is larger than what is read at once


@pytest.fixture
def source(tmp_path: Path) -> Path:
    (tmp_path / "m.onnx").write_bytes(everywhere().SerializeToString(deterministic=True))
    return tmp_path / "m.onnx"


def test_a_copy_of_a_message_is_read_as_it_is(source: Path) -> None:
    record, storage = onnx_io.detached(source)
    again = onnx.ModelProto.FromString(record.SerializeToString())
    stored = next(t for t in again.graph.initializer if t.name == "w")
    assert isinstance(storage.entry(stored), Place)
    np.testing.assert_array_equal(read(stored, storage), numpy_helper.to_array(tensor("w")))


def test_a_constant_goes_on_reading_what_its_message_had(source: Path) -> None:
    record, storage = onnx_io.detached(source)
    message = next(t for t in record.graph.initializer if t.name == "w")
    constant = StoredConstant.of(message, storage, "w")
    replace_values(message, np.zeros(3, np.float32))
    assert storage.entry(message) is None
    np.testing.assert_array_equal(read(message, storage), np.zeros(3))
    np.testing.assert_array_equal(constant.values, numpy_helper.to_array(tensor("w")))


def test_data_that_looks_like_a_handle_is_data(tmp_path: Path) -> None:
    """Nobody knows the mark of another process; and a handle is one only where the message says that data is elsewhere."""
    model = conv_bn(8)
    forged = b"\0bnfold:" + bytes(16) + b":0"
    model.graph.initializer.append(
        TensorProto(name="f", dims=[len(forged)], data_type=TensorProto.UINT8, raw_data=forged)
    )
    for location in (TensorProto.DEFAULT, TensorProto.EXTERNAL):
        model.graph.initializer[-1].data_location = location
        assert Storage().entry(model.graph.initializer[-1]) is None
    assert wire.handle_of(forged) is None
    own = TensorProto(data_type=TensorProto.UINT8)
    wire.set_handle(own, 7)
    assert wire.handle_of(own.raw_data) == 7
    own.data_location = TensorProto.DEFAULT
    assert Storage().entry(own) is None


def test_a_deferred_constant_belongs_where_the_tensor_before_it_did(source: Path) -> None:
    storage = Storage(source.parent)
    constant = StoredConstant("k", np.dtype(np.float32), np.ones(wire.LARGE, np.float32), storage)
    outer = TensorProto(name="k", data_type=1, dims=[wire.LARGE], data_location=TensorProto.EXTERNAL)
    outer.external_data.add(key="location", value="k.bin")
    for home, outside in ((outer, True), (TensorProto(name="k", data_type=1), False)):
        constant.home = home
        constant.finalize(defer=True)
        entry = storage.entry(home)
        assert isinstance(entry, Deferred)
        assert (entry.outside, entry.length, storage.belongs_outside(home)) == (outside, 4 * wire.LARGE, outside)
        assert not home.external_data


def test_functions_that_are_inlined_keep_what_lies_in_the_file(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    names = ["w", "g", "b", "m", "v"]
    body = [
        helper.make_node("Conv", ["a", "w"], ["c"]),
        helper.make_node("BatchNormalization", ["c", *names[1:]], ["z"]),
    ]
    opsets = [helper.make_opsetid("", 17), helper.make_opsetid("my", 1)]
    function = helper.make_function("my", "F", ["a", *names], ["z"], body, opsets[:1])
    values = [rng.standard_normal((WIDE, WIDE, 1, 1)), *(rng.random(WIDE) + 0.5 for _ in "gbmv")]
    stored = [numpy_helper.from_array(x.astype(np.float32), name) for x, name in zip(values, names, strict=True)]
    x, y = (helper.make_tensor_value_info(name, TensorProto.FLOAT, [1, WIDE, 2, 2]) for name in "xy")
    graph = helper.make_graph([helper.make_node("F", ["x", *names], ["y"], domain="my")], "g", [x], [y], stored)
    model = helper.make_model(graph, opset_imports=opsets, ir_version=8, functions=[function])
    onnx.save(model, tmp_path / "m.onnx")
    assert len(fold_file(tmp_path / "m.onnx", options=Options(verify="off")).result.batch_norms_folded) == 1
    assert onnx.load(tmp_path / "m.folded.onnx") == bnfold.fold(model).model
