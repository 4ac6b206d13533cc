"""What random graphs found in peers, each as the smallest model that shows it: `python -m tests.differential.findings`

Every one is run as it is printed; a fault that a newer version no longer has is printed as gone.
"""

from __future__ import annotations

import contextlib
import io
import tempfile
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np
import onnx
from onnx import TensorProto, helper

from bnfold.verification.float64.oracle import doubled
from tests.benchmarks.peers import PEERS, tools
from tests.benchmarks.tools import TOOLS
from tests.build import BN, bn, build
from tests.test_dtypes import in_type

from .judging import Trial, judged
from .wide import KINDS, Drawn
from .work import Answer, words

CONV = f"t = Conv (X, W)\n Y = {BN('t', 'n')}"
WEIGHTS = {"W": (4, 3, 3, 3), **bn("n", 4)}
PER_PLACE = "t = Conv (X, W)\n Y = BatchNormalization <spatial = 0> (t, ng, nb, nm, nv)"


class Finding(NamedTuple):
    """A tool, what goes wrong, in which words, and the model that shows it."""

    tools: str
    fault: str
    story: str
    make: Callable[[], onnx.ModelProto]
    times: int = 1


def net(body: str, x: str = "X[2,3,6,6]", y: str = "Y[2,4,4,4]", constants: dict | None = None, **more: int):
    return build(body, x, y, WEIGHTS if constants is None else constants, **more)


def single(*arguments: object, **more: int) -> onnx.ModelProto:
    return in_type(net(*arguments, **more), "float32")


def mixed(body: str = CONV, x: str = "X[2,3,6,6]", y: str = "Y[2,4,4,4]", constants: dict | None = None):
    """Mean and variance in float32, everything else in float16, which opset 15 allows."""
    return in_type(in_type(net(body, x, y, constants), "float32", only=("nm", "nv")), "float16")


def empty_bias(body: str, constants: dict | None = None) -> onnx.ModelProto:
    model = single(body, constants=constants)
    model.graph.node[0].input.append("")
    return model


def ir_3_constant() -> onnx.ModelProto:
    """A Constant node in a file of IR 3."""
    model = single("Y = Add (X, c)", x="X[2,4]", y="Y[2,4]", constants={"c": (4,)}, opset=8, ir=3)
    made = helper.make_node("Constant", [], ["c"], value=model.graph.initializer.pop())
    model.graph.node.insert(0, made)
    return model


def ir_3() -> onnx.ModelProto:
    model = single(CONV, opset=8, ir=3)
    model.graph.input.extend(
        helper.make_tensor_value_info(t.name, t.data_type, t.dims) for t in model.graph.initializer
    )
    return model


def overridable(body: str = CONV, **more: int) -> onnx.ModelProto:
    """The mean may be overridden by the caller; every other initializer may not."""
    model = single(body, **more)
    model.graph.input.append(helper.make_tensor_value_info("nm", TensorProto.FLOAT, [4]))
    return model


def per_place() -> onnx.ModelProto:
    return single(PER_PLACE, constants={"W": (4, 3, 3, 3), **{f"n{p}": (4, 4, 4) for p in "gbmv"}}, opset=8)


def two_flattened() -> onnx.ModelProto:
    body = "p = GlobalAveragePool (X)\n a = Flatten (p)\n b = Flatten (p)\n c = MatMul (b, W)\n Y = Concat <axis = 1> (a, c)"
    return single(body, y="Y[2,6]", constants={"W": (3, 3)})


FINDINGS = [
    Finding("onnxruntime", "wrong", "MatMul, Transpose, BatchNormalization: scaled along the wrong axis",
     lambda: single(f"t = MatMul (X, W)\n u = Transpose <perm = [1, 0]> (t)\n Y = {BN('u', 'n')}", "X[4,3]", "Y[4,4]", {"W": (3, 4), **bn("n", 4)})),
    Finding("onnxruntime", "raised", "float16 weights, float32 statistics behind a MatMul: no session",
     lambda: mixed(f"t = MatMul (X, W)\n Y = {BN('t', 'n')}", "X[5,3]", "Y[5,4]", {"W": (3, 4), **bn("n", 4)})),
    Finding("onnxruntime onnxslim", "invalid", "IR 3: new initializers are not listed as inputs", ir_3),
    Finding("onnxsim onnxslim", "override lost", "an initializer that is also an input is taken for a constant", overridable),
    Finding("onnxsim onnxoptimizer onnxslim", "raised", "BatchNormalization with spatial=0 behind a Conv", per_place),
    Finding("onnxslim", "wrong", "Conv, Mul by a constant along the width, as long as there are channels", lambda: single("t = Conv (X, W)\n Y = Mul (t, s)",
     constants={"W": (4, 3, 3, 3), "s": (4,)})),
    Finding("onnxslim", "wrong", "a new constant takes the name of one that is there",
     lambda: single(f"t = Conv (X, W)\n Y = {BN('t', 'n')}\n Z = Mul (X, Y_bias)", "X[2,4,6,4]", "Y[2,4,4,2]; Z[2,4,6,4]", {"W": (4, 4, 3, 3), **bn("n", 4),
      "Y_bias": (4,)})),
    Finding("onnxslim onnxscript", "invalid", "bfloat16 Conv, BatchNormalization: weights in float32", lambda: in_type(net(CONV, opset=22), "bfloat16")),
    Finding("onnxslim onnxscript", "invalid", "float16 weights, float32 statistics: weights in float32", mixed),
    Finding("onnxslim", "raised", "Conv with an empty bias, Mul", lambda: empty_bias("t = Conv (X, W)\n u = Mul (t, s)\n Y = Add (u, s)", constants={"W": (4,
     3, 3, 3), "s": (4, 1, 1)})),
    Finding("onnxscript", "raised", "Conv with an empty bias, BatchNormalization", lambda: empty_bias(CONV)),
    Finding("onnxscript", "invalid", "IR 3: a Constant becomes an initializer that is not listed", ir_3_constant),
    Finding("onnxscript", "invalid", "one tensor flattened twice: a shape is read that nothing makes", two_flattened),
    Finding("onnxslim", "raised", "the 1000 recursions are used up after some 250 models in one process", lambda: single(CONV), 400),
]  # fmt: skip


def drawn(model: onnx.ModelProto) -> Drawn:
    """A model as a random graph: what it means, inputs, and values for what callers may override."""
    stored = {t.name for t in model.graph.initializer} if model.ir_version < 4 else set()
    kind = next(k for k, (code, _) in KINDS.items() if code == model.graph.input[0].type.tensor_type.elem_type)
    rng = np.random.default_rng(0)
    values = {
        i.name: rng.standard_normal([d.dim_value for d in i.type.tensor_type.shape.dim]).astype(KINDS[kind][1])
        for i in model.graph.input
        if i.name not in stored
    }
    return Drawn(model, doubled(model), {"X": values.pop("X")}, values, kind, [])


def seen(finding: Finding, tool: str) -> Answer:
    """What the tool makes of the model."""
    with tempfile.TemporaryDirectory() as folder:
        source, target = Path(folder, "0.onnx"), Path(folder, f"0.{tool}.onnx")
        onnx.save(finding.make(), source)
        try:
            with contextlib.redirect_stdout(io.StringIO()):
                for _ in range(finding.times):
                    TOOLS[tool](str(source), str(target))
        except Exception as problem:  # whatever a tool raises
            return {"raised": words(problem)}
        return judged(Trial(source, drawn(onnx.load(source))), target, tool)


def main() -> None:
    warnings.simplefilter("ignore")
    labels = {tool.name: tool.label for tool in tools(PEERS)}
    for finding in FINDINGS:
        for tool in finding.tools.split():
            answer = seen(finding, tool)
            told = answer.get(finding.fault, f"GONE: {answer}")
            print(f"| {labels[tool]} | {finding.fault} | {finding.story} | {told} |", flush=True)


if __name__ == "__main__":
    main()
