"""Parallel branches with quantized weights merge where the sum is one of integers, and say so where it is none."""

from __future__ import annotations

from typing import Any

import ml_dtypes
import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

import bnfold
from bnfold.folding import driver
from tests.build import operators
from tests.quantized_layers import require_same, stored

NO_PLACE = "the weights of the branches into Add 'y' are quantized, and their sum has no exact place among integers of one scale"
MIXED = (
    "the weights of the branches into Add 'y' are quantized, and their sum with one that is not would lose its integers"
)
IN_GRAPH = "the weights of the branches into Add 'y' are quantized, and their sum has no place before the QuantizeLinear of one of them"


def branches(
    wide: Any = 0.5,
    narrow: Any = 0.25,
    most: int = 40,
    kind: Any = np.int8,
    zero: Any = None,
    third: str = "",
    bias: bool = False,
) -> onnx.ModelProto:
    """conv3x3(x) + conv1x1(x) with codes up to `most` and these scales; None for a weight that is not quantized."""
    rng = np.random.default_rng(0)
    nodes, made = [], {}
    for name, scale, side in (("wide", wide, 3), ("narrow", narrow, 1)):
        codes = rng.integers(-most, most + 1, (4, 4, side, side))
        if scale is None:
            made[name] = np.float32(codes)
        else:
            made |= {f"{name}_q": (codes + (zero or 0)).astype(np.float32).astype(kind), f"{name}_s": np.float32(scale)}
            made |= {f"{name}_z": np.full(np.shape(scale), zero).astype(kind)} if zero is not None else {}
            reads = [f"{name}_q", f"{name}_s", *([f"{name}_z"] if zero is not None else [])]
            nodes.append(
                helper.make_node(
                    "DequantizeLinear", reads, [name], name=f"dq_{name}", **({"axis": 0} if np.ndim(scale) else {})
                )
            )
        biases = [f"{name}_bias"] if bias else []
        if bias:
            made |= {f"{name}_b": rng.integers(-99, 99, 4).astype(np.int32), f"{name}_bs": np.float32(0.01)}
            nodes.append(helper.make_node("DequantizeLinear", [f"{name}_b", f"{name}_bs"], biases))
        nodes.append(
            helper.make_node("Conv", ["x", name, *biases], [f"{name}_y"], name=f"conv_{name}", pads=[side // 2] * 4)
        )
    nodes.append(helper.make_node("Add", ["wide_y", "narrow_y"], ["y"], name="y"))
    if third:
        nodes[-1].output[0] = "sum"
        nodes.append(helper.make_node("Add", ["sum", third], ["y"], name="y2"))
    info = helper.make_tensor_value_info
    tensors = [numpy_helper.from_array(np.asarray(value), name) for name, value in made.items()]
    ends = [info("x", TensorProto.FLOAT, ["N", 4, 6, 6])], [info("y", TensorProto.FLOAT, ["N", 4, 6, 6])]
    graph = helper.make_graph(nodes, "g", [info("x", 1, [2, 4, 6, 6])], ends[1], tensors)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 19)], ir_version=9)


ROWS = np.float32([0.5, 0.25, 1, 2])
EXACT: dict[str, dict[str, Any]] = {
    "one scale": {"narrow": np.float32(0.5)},
    "any one scale": {"wide": np.float32(0.0123), "narrow": np.float32(0.0123)},
    "a scale that is half of the other": {"most": 40},
    "a scale that is a multiple of the other": {
        "wide": np.float32(0.0123),
        "narrow": np.float32(0.0123) * 3,
        "most": 30,
    },
    "scales for each channel": {"wide": ROWS, "narrow": ROWS * 0.5, "most": 30},
    "zero points": {"kind": np.uint8, "zero": 120},
    "float8": {"kind": ml_dtypes.float8_e4m3fn, "wide": np.float32(0.5), "narrow": np.float32(0.5), "most": 3},
    "quantized biases": {"bias": True},
}


@pytest.mark.parametrize("name", EXACT)
def test_a_sum_of_integers_stays_one_of_integers(name):
    original = branches(**EXACT[name])
    result = driver.fold(original)
    assert operators(result.model) == ["DequantizeLinear", "Conv"]
    require_same(original, result.model)
    (codes,) = (v for v in stored(result.model).values() if v.shape == (4, 4, 3, 3))
    assert codes.dtype == EXACT[name].get("kind", np.int8)
    before, after = stored(original), stored(result.model)
    scale = after["wide_s"].astype(np.float64)
    laid = scale.reshape(-1, 1, 1, 1) if scale.ndim else scale
    zero = float(EXACT[name].get("zero", 0))

    def real(side: str) -> np.ndarray:
        own = before[f"{side}_s"].astype(np.float64)
        return (before[f"{side}_q"].astype(np.float64) - zero) * (own.reshape(-1, 1, 1, 1) if own.ndim else own)

    expected = real("wide")
    expected[:, :, 1:2, 1:2] += real("narrow")
    assert np.array_equal((codes.astype(np.float64) - zero) * laid, expected)
    assert bnfold.verify(original, result.model, untouched=result.sites).passed


REFUSED: dict[str, tuple[dict[str, Any], str]] = {
    "other scales": ({"wide": np.float32(0.0123), "narrow": np.float32(0.0321)}, NO_PLACE),
    "out of range": ({"most": 127}, NO_PLACE),
    "a float branch that is wider": ({"wide": None}, MIXED),
    "a float branch that is narrower": ({"wide": np.float32(0.3), "narrow": None}, NO_PLACE),
}


@pytest.mark.parametrize("name", REFUSED)
def test_a_sum_that_is_none_of_integers_stays_and_says_so(name):
    settings, words = REFUSED[name]
    assert reason(branches(**settings)) == ("INTEGERS", words)


def reason(original: onnx.ModelProto) -> tuple[str, str]:
    """Why the branches did not merge: said of an affine node that feeds the sum, which is put there for that."""
    model = onnx.ModelProto.FromString(original.SerializeToString())
    total = next(n for n in model.graph.node if n.name == "y")
    folded = driver.fold(model)
    assert folded.model.SerializeToString() == model.SerializeToString()
    from bnfold.algebra.affine import Refused
    from bnfold.folding.branches import make_merge
    from bnfold.graph.editor import Editor

    editor = Editor(model)
    with pytest.raises(Refused) as refused:
        make_merge(editor.visible, next(n for n in editor.alive() if n.name == total.name))
    return refused.value.code, str(refused.value)


def test_a_weight_that_the_graph_quantizes_is_not_merged():
    original = branches(wide=np.float32(0.5), narrow=np.float32(0.5))
    codes = next(t for t in original.graph.initializer if t.name == "wide_q")
    real = numpy_helper.to_array(codes).astype(np.float32) * np.float32(0.5)
    codes.CopyFrom(numpy_helper.from_array(real, "wide_w"))
    made = [numpy_helper.from_array(np.int8(0), "zero")]
    original.graph.initializer.extend(made)
    original.graph.node.insert(
        0, helper.make_node("QuantizeLinear", ["wide_w", "wide_s", "zero"], ["wide_q"], name="q")
    )
    assert reason(original) == ("INTEGERS", IN_GRAPH)


def test_the_tensor_itself_is_a_branch_of_integers_where_one_is_a_multiple_of_the_scale():
    original = branches(wide=np.float32(0.5), narrow=np.float32(0.25), most=20, third="x")
    result = driver.fold(original)
    assert operators(result.model) == ["DequantizeLinear", "Conv"]
    require_same(original, result.model)


def test_codes_that_others_read_stay_for_them():
    original = branches(narrow=np.float32(0.5))
    original.graph.node.append(helper.make_node("Identity", ["wide"], ["other"]))
    original.graph.output.append(helper.make_tensor_value_info("other", 1, [4, 4, 3, 3]))
    assert reason(original) == ("SHARED", "'wide' is read by others as well")


def test_a_branch_without_a_convolution_has_the_reason_of_the_sum_of_the_others():
    original = branches(wide=0.0123, narrow=0.0321, third="n")
    made = {p: np.float32([1, 2, 0.5, 1]) for p in "gbmv"}
    original.graph.initializer.extend(numpy_helper.from_array(v, k) for k, v in made.items())
    norm = helper.make_node("BatchNormalization", ["x", *made], ["n"], name="identity")
    original.graph.node.insert(0, norm)
    (kept,) = driver.fold(original).batch_norms_kept
    assert kept.not_merged is not None
    assert (kept.not_merged.code, kept.not_merged.words) == ("INTEGERS", NO_PLACE)
