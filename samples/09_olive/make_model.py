"""Write model.onnx: Conv, BatchNormalization, Relu, and two convolutions that are joined, then normalized."""

from __future__ import annotations

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

RNG = np.random.default_rng(0)
SHAPES = {"stem": (8, 3, 3, 3), "left": (4, 8, 3, 3), "right": (4, 8, 3, 3)}


def norm(source: str, target: str, prefix: str) -> onnx.NodeProto:
    inputs = [source, *(f"{prefix}_{part}" for part in ("scale", "bias", "mean", "var"))]
    return helper.make_node("BatchNormalization", inputs, [target], name=prefix)


def main() -> None:
    parts = {f"{prefix}_{part}": (8,) for prefix in ("first", "second") for part in ("scale", "bias", "mean", "var")}
    values = {name: RNG.standard_normal(shape) for name, shape in (SHAPES | parts).items()}
    values = {name: np.abs(value) + 0.1 if name.endswith("var") else value for name, value in values.items()}
    nodes = [
        helper.make_node("Conv", ["image", "stem"], ["a"], name="stem_conv", strides=[2, 2]),
        norm("a", "b", "first"),
        helper.make_node("Relu", ["b"], ["c"], name="relu"),
        helper.make_node("Conv", ["c", "left"], ["d"], name="left_conv"),
        helper.make_node("Conv", ["c", "right"], ["e"], name="right_conv"),
        helper.make_node("Concat", ["d", "e"], ["f"], name="join", axis=1),
        norm("f", "features", "second"),
    ]
    tensor = helper.make_tensor_value_info
    graph = helper.make_graph(
        nodes,
        "model",
        [tensor("image", TensorProto.FLOAT, [1, 3, 33, 33])],
        [tensor("features", TensorProto.FLOAT, [1, 8, 14, 14])],
        [numpy_helper.from_array(value.astype(np.float32), name) for name, value in values.items()],
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=10), "model.onnx")


if __name__ == "__main__":
    main()
