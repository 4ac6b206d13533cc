"""Verification of real networks, folded by hand."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from bnfold.verification import verify
from tests.data import data_path


def fold_convolutions(model: onnx.ModelProto) -> tuple[onnx.ModelProto, int]:
    """Every Conv with stored weights followed by a BatchNormalization alone, folded in numpy."""
    stored = {t.name: numpy_helper.to_array(t).astype(np.float64) for t in model.graph.initializer}
    readers: dict[str, int] = {}
    for node in model.graph.node:
        for name in node.input:
            readers[name] = readers.get(name, 0) + 1
    makers = {name: node for node in model.graph.node for name in node.output}
    count = 0
    for bn in [n for n in model.graph.node if n.op_type == "BatchNormalization"]:
        conv = makers.get(bn.input[0])
        if conv is None or conv.op_type != "Conv" or readers[bn.input[0]] > 1 or conv.input[1] not in stored:
            continue
        scale, shift, mean, var = (stored[n] for n in bn.input[1:5])
        s = scale / np.sqrt(var + next((a.f for a in bn.attribute if a.name == "epsilon"), 1e-5))
        b = stored[conv.input[2]] if len(conv.input) > 2 else 0.0
        for name, value in (("W", stored[conv.input[1]] * s.reshape(-1, 1, 1, 1)), ("B", (b - mean) * s + shift)):
            model.graph.initializer.append(numpy_helper.from_array(value.astype(np.float32), f"{bn.output[0]}/{name}"))
        del conv.input[1:]
        conv.input.extend([f"{bn.output[0]}/W", f"{bn.output[0]}/B"])
        conv.output[0] = bn.output[0]
        model.graph.node.remove(bn)
        count += 1
    return model, count


@pytest.mark.parametrize(
    ("name", "count"), [("ultraface_slim320_nopost", 25), ("fsanet_1x1", 14), ("ppocr_cls_opset11", 0)]
)
def test_real_networks_folded_by_hand_pass_and_a_fault_fails(name: str, count: int) -> None:
    path = data_path("onnx", f"{name}.onnx")
    folded, done = fold_convolutions(onnx.load(path))
    assert done >= count
    assert verify(path, folded).passed
    stored = [t for t in folded.graph.initializer if t.name.endswith("/W")]
    if stored:
        last = stored[-1]
        values = numpy_helper.to_array(last).copy()
        values[0] *= 1.001
        last.CopyFrom(numpy_helper.from_array(values, last.name))
        found = verify(path, folded)
        assert found.verdict == "FAIL"
        assert last.name.removesuffix("/W") in found.reasons[0]
