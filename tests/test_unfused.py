"""onnxruntime's fused operators are judged as the standard ones that they stand for."""

from __future__ import annotations

import numpy as np
import onnx
import onnx.parser
import onnxruntime
import pytest
from onnx import numpy_helper

from bnfold.verification import verify
from bnfold.verification.unfused import unfused
from tests.verify_nets import run_here

R = np.random.default_rng(0)
WEIGHTS = {
    "w": R.standard_normal((4, 3, 3, 3)),
    "b": R.standard_normal(4),
    "m": R.standard_normal((6, 5)),
    "v": R.standard_normal(5),
}
IMAGE, ROWS = "float[N,3,6,6] x, float[N,4,4,4] z", "float[N,6] x, float[N,5] z"


def model(body: str, inputs: str) -> onnx.ModelProto:
    text = f'<ir_version: 8, opset_import: ["" : 17, "com.microsoft" : 1]> g ({inputs}) => (float y) {{ {body} }}'
    made = onnx.parser.parse_model(text)
    made.graph.output[0].type.tensor_type.ClearField("shape")
    used = (name for name in WEIGHTS if f"{name}" in made.graph.node[0].input)
    made.graph.initializer.extend(numpy_helper.from_array(WEIGHTS[name].astype(np.float32), name) for name in used)
    return made


CONV = "f = com.microsoft.FusedConv <{}> (x, w, b{}) y = Add (f, z)"
GEMM = "f = com.microsoft.FusedGemm <{}> (x, m, v) y = Add (f, z)"
SAME = {
    "Relu": (CONV.format('activation="Relu", strides=[1,1]', ""), "c = Conv (x, w, b) f = Relu (c) y = Add (f, z)"),
    "a sum": (CONV.format('activation="Relu"', ", z"), "c = Conv (x, w, b) s = Add (c, z) f = Relu (s) y = Add (f, z)"),
    "LeakyRelu": (
        CONV.format('activation="LeakyRelu", activation_params=[0.2]', ""),
        "c = Conv (x, w, b) f = LeakyRelu <alpha=0.2> (c) y = Add (f, z)",
    ),
    "HardSigmoid": (
        CONV.format('activation="HardSigmoid", activation_params=[0.3, 0.4]', ""),
        "c = Conv (x, w, b) f = HardSigmoid <alpha=0.3, beta=0.4> (c) y = Add (f, z)",
    ),
    "Gemm": (
        GEMM.format('activation="LeakyRelu", activation_alpha=0.2, alpha=0.5'),
        "g = Gemm <alpha=0.5> (x, m, v) f = LeakyRelu <alpha=0.2> (g) y = Add (f, z)",
    ),
}  # fmt: skip


@pytest.mark.parametrize("words", SAME)
def test_parts_compute_what_the_fused_operator_does(words: str, monkeypatch: pytest.MonkeyPatch) -> None:
    run_here(monkeypatch)
    fused, plain = (model(body, ROWS if words == "Gemm" else IMAGE) for body in SAME[words])
    feeds = {"x": R.standard_normal((2, *([6] if words == "Gemm" else [3, 6, 6]))).astype(np.float32)}
    feeds["z"] = R.standard_normal((2, *([5] if words == "Gemm" else [4, 4, 4]))).astype(np.float32)
    made = [
        onnxruntime.InferenceSession(each.SerializeToString()).run(None, feeds)[0] for each in (fused, unfused(fused))
    ]
    np.testing.assert_allclose(*made, rtol=1e-5, atol=1e-5)
    assert [n.op_type for n in unfused(fused).graph.node] == [n.op_type for n in plain.graph.node]
    found = verify(plain, fused)
    assert (found.verdict, found.grade) == ("PASS", "proved"), found.reasons


@pytest.mark.parametrize(
    ("old", "new"), [("0.2", "0.21"), ("LeakyRelu", "HardSigmoid"), ("strides=[1,1]", "pads=[0,0,0,0]")]
)
def test_another_fused_operator_does_not_pass(old: str, new: str, monkeypatch: pytest.MonkeyPatch) -> None:
    run_here(monkeypatch)
    words = "Relu" if "strides" in old else "LeakyRelu"
    fused, plain = (model(body, IMAGE) for body in (SAME[words][0].replace(old, new), SAME[words][1]))
    assert verify(plain, fused).passed == (words == "Relu")


def test_what_is_not_known_stays() -> None:
    other = model(CONV.format('activation="Clip", activation_params=[0.0, 6.0]', ""), IMAGE)
    assert unfused(other) is other
