"""Build a small network with a BatchNormalization that no runtime folds, fold it, and look at what happened."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

import bnfold


def network() -> onnx.ModelProto:
    """Two convolutions of one image side by side, joined, then normalized together."""
    rng = np.random.default_rng(0)
    shapes = {"left": (4, 3, 3, 3), "right": (2, 3, 3, 3), "scale": (6,), "bias": (6,), "mean": (6,)}
    values = {name: rng.standard_normal(shape) for name, shape in shapes.items()} | {"var": rng.random(6) + 0.1}
    nodes = [
        helper.make_node("Conv", ["image", "left"], ["a"], name="conv_left"),
        helper.make_node("Conv", ["image", "right"], ["b"], name="conv_right"),
        helper.make_node("Concat", ["a", "b"], ["both"], name="join", axis=1),
        helper.make_node("BatchNormalization", ["both", "scale", "bias", "mean", "var"], ["features"], name="norm"),
    ]
    tensor = helper.make_tensor_value_info
    graph = helper.make_graph(
        nodes,
        "two_branches",
        [tensor("image", TensorProto.FLOAT, ["N", 3, 16, 16])],
        [tensor("features", TensorProto.FLOAT, ["N", 6, 14, 14])],
        [numpy_helper.from_array(v.astype(np.float32), name) for name, v in values.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def main() -> None:
    onnx.save(network(), "two_branches.onnx")
    result = bnfold.fold("two_branches.onnx")
    for f in result.folded:
        print(f"{f.operator} '{f.node}' went through {' and '.join(f.through)} into {' and '.join(f.into)}")
    print("left:", ", ".join(n.op_type for n in result.model.graph.node))
    bnfold.save(result.model, "two_branches.folded.onnx")
    print("verified:", bnfold.verify("two_branches.onnx", "two_branches.folded.onnx").verdict)
    Path("two_branches.folded.onnx").unlink()


if __name__ == "__main__":
    main()
