"""What callers see: B accepts every input that A accepts, and gives the same outputs."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import onnx
import onnx.parser
import pytest
from onnx import TensorProto, helper, numpy_helper

from bnfold.verification import verify
from bnfold.verification.interface import differences
from tests.verify_nets import run_here

HEAD = '<ir_version: 8, opset_import: ["" : 17]> g '
Change = Callable[[onnx.ModelProto], object]


def model(interface: str = "(float[N,3] x, float[N,3] z) => (float[N,3] y, float[M] w)") -> onnx.ModelProto:
    return onnx.parser.parse_model(f"{HEAD} {interface} {{ y = Add (x, z) w = ReduceSum <keepdims = 0> (y, a) }}")


def changed(change: Change, original: onnx.ModelProto | None = None) -> list[str]:
    before = original or model()
    after = onnx.ModelProto()
    after.CopyFrom(before)
    change(after)
    return list(differences(before, after))


def dims(value: onnx.ValueInfoProto) -> list[onnx.TensorShapeProto.Dimension]:
    return list(value.type.tensor_type.shape.dim)


def reordered(m: onnx.ModelProto) -> None:
    first = onnx.ValueInfoProto()
    first.CopyFrom(m.graph.input[0])
    m.graph.input[0].CopyFrom(m.graph.input[1])
    m.graph.input[1].CopyFrom(first)


def renamed(m: onnx.ModelProto) -> None:
    for value in (*m.graph.input, *m.graph.output):
        for dim in dims(value):
            dim.dim_param = {"N": "batch", "M": "count"}.get(dim.dim_param, "")
            if not dim.dim_param:
                dim.dim_value = 3


FINE: dict[str, Change] = {
    "nothing": lambda m: None,
    "a fixed size of an input becomes free": lambda m: setattr(dims(m.graph.input[0])[1], "dim_param", "C"),
    "symbols with other names": renamed,
    "the shape of an output is not stated": lambda m: m.graph.output[0].type.tensor_type.ClearField("shape"),
    "a size of an output becomes known": lambda m: setattr(dims(m.graph.output[1])[0], "dim_value", 2),
    "an output is known to be as large as an input": lambda m: setattr(dims(m.graph.output[1])[0], "dim_param", "N"),
    "documentation": lambda m: setattr(m.graph.input[0], "doc_string", "pixels"),
}
OTHER: dict[str, tuple[Change, str]] = {
    "an extra output": (lambda m: m.graph.output.add(name="x"), "the outputs changed from y, w to y, w, x"),
    "an output less": (lambda m: m.graph.output.pop(), "the outputs changed from y, w to y"),
    "reordered inputs": (reordered, "the inputs changed from x, z to z, x"),
    "an input more": (lambda m: m.graph.input.add(name="k"), "the inputs changed from x, z to x, z, k"),
    "a free size of an input becomes fixed": (
        lambda m: setattr(dims(m.graph.input[0])[0], "dim_value", 1),
        "input 'x' changed from FLOAT[N,3] to FLOAT[1,3]",
    ),
    "another type": (
        lambda m: setattr(m.graph.output[0].type.tensor_type, "elem_type", TensorProto.DOUBLE),
        "output 'y' changed from FLOAT[N,3] to DOUBLE[N,3]",
    ),
    "another size of an output": (
        lambda m: setattr(dims(m.graph.output[0])[1], "dim_value", 4),
        "output 'y' changed from FLOAT[N,3] to FLOAT[N,4]",
    ),
    "another rank of an output": (
        lambda m: m.graph.output[0].type.tensor_type.shape.dim.add(dim_value=1),
        "output 'y' changed from FLOAT[N,3] to FLOAT[N,3,1]",
    ),
    "one symbol becomes two": (
        lambda m: setattr(dims(m.graph.input[1])[0], "dim_param", "K"),
        "input 'x' axis 0 and input 'z' axis 0 had one size 'N', now 'N' and 'K'",
    ),
}


@pytest.mark.parametrize("how", FINE)
def test_what_no_caller_runs_into(how: str) -> None:
    assert changed(FINE[how]) == []


@pytest.mark.parametrize("how", OTHER)
def test_what_a_caller_runs_into(how: str) -> None:
    change, words = OTHER[how]
    assert changed(change)[0] == words


def test_two_sizes_that_must_be_equal_now() -> None:
    two = model("(float[N,3] x, float[K,3] z) => (float[N,3] y, float[M] w)")
    (words,) = changed(lambda m: setattr(dims(m.graph.input[1])[0], "dim_param", "N"), two)
    assert (
        words
        == "input 'x' axis 0 and input 'z' axis 0 could have sizes of their own, 'N' and 'K', and now have one, 'N'"
    )


def test_sequences_optionals_and_maps_are_looked_into() -> None:
    tensor = helper.make_tensor_type_proto(TensorProto.FLOAT, ["N", 3])
    kinds = {
        "sequence of FLOAT[N,3]": helper.make_sequence_type_proto(tensor),
        "optional of sequence of FLOAT[N,3]": helper.make_optional_type_proto(helper.make_sequence_type_proto(tensor)),
        "map from INT64 to FLOAT[N,3]": helper.make_map_type_proto(TensorProto.INT64, tensor),
    }
    for words, kind in kinds.items():
        first = model()
        first.graph.output[0].type.CopyFrom(kind)
        assert changed(lambda m: None, first) == []

        def change(m: onnx.ModelProto) -> None:
            text = m.graph.output[0].type.SerializeToString().replace(b"\x08\x01", b"\x08\x0b")
            m.graph.output[0].type.ParseFromString(text)

        assert changed(change, first) == [f"output 'y' changed from {words} to {words.replace('FLOAT', 'DOUBLE')}"]


def with_default(value: float = 1.0, listed: bool = True) -> onnx.ModelProto:
    made = onnx.parser.parse_model(
        f"{HEAD} (float[2] x, float[1] k) => (float[2] y) {{ h = Mul (x, k) y = Mul (h, c) }}"
    )
    for name, number in (("k", value), ("c", 2.0)):
        made.graph.initializer.append(numpy_helper.from_array(np.float32([number]), name))
    if not listed:
        made.graph.input.pop()
    return made


def test_an_initializer_that_callers_may_override_stays_so_with_its_default() -> None:
    first = with_default()
    assert list(differences(first, with_default())) == []
    (words,) = differences(first, with_default(listed=False))
    assert words == "callers can no longer override 1 initializer: k"
    assert list(differences(first, with_default(listed=False), frozen=True)) == []
    (words,) = differences(first, with_default(3.0))
    assert words == "another default of 1 initializer: k, which callers may override"


@pytest.mark.parametrize("how", ["version 3", "all are listed"])
def test_where_files_list_every_initializer_callers_override_none(how: str) -> None:
    first = with_default()
    if how == "version 3":
        first.ir_version = 3
    else:
        first.graph.input.append(helper.make_tensor_value_info("c", TensorProto.FLOAT, [1]))
    assert list(differences(first, with_default(listed=False))) == []


def test_the_verdict_is_fail_and_freezing_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    run_here(monkeypatch)
    first, second = with_default(), with_default(listed=False)
    assert verify(first, second).reasons[0] == "callers can no longer override 1 initializer: k"
    assert verify(first, second, freeze_initializers=True).passed


def test_a_default_that_was_worked_into_other_constants_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    """At its default it computes the same."""
    run_here(monkeypatch)
    first, second = with_default(), with_default()
    second.graph.node[0].CopyFrom(helper.make_node("Identity", ["x"], ["h"]))
    second.graph.node[1].input[1] = "b"
    second.graph.initializer.append(numpy_helper.from_array(np.float32([2.0]), "b"))
    assert verify(first, first).passed
    assert verify(first, second).verdict == "FAIL"
    assert verify(first, second, freeze_initializers=True).passed
