"""Two small models: one whose BatchNormalization folds, and one whose cannot."""

from __future__ import annotations

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

RNG = np.random.default_rng(0)


def model(nodes: list[onnx.NodeProto], channels: int, constants: dict[str, np.ndarray]) -> onnx.ModelProto:
    norm = {"scale": RNG.standard_normal(4), "bias": RNG.standard_normal(4), "mean": RNG.standard_normal(4)}
    values = constants | norm | {"var": RNG.random(4) + 0.1}
    tensor = helper.make_tensor_value_info
    graph = helper.make_graph(
        nodes,
        "model",
        [tensor("image", TensorProto.FLOAT, ["N", channels, 8, 8])],
        [tensor("features", TensorProto.FLOAT, ["N", 4, 8, 8])],
        [numpy_helper.from_array(v.astype(np.float32), name) for name, v in values.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def main() -> None:
    conv = helper.make_node("Conv", ["image", "weight"], ["t"], name="conv", pads=[1, 1, 1, 1])
    sigmoid = helper.make_node("Sigmoid", ["image"], ["t"], name="sigmoid")
    norm = helper.make_node("BatchNormalization", ["t", "scale", "bias", "mean", "var"], ["features"], name="norm")
    onnx.save(model([conv, norm], 3, {"weight": RNG.standard_normal((4, 3, 3, 3))}), "folds.onnx")
    onnx.save(model([sigmoid, norm], 4, {}), "keeps.onnx")


if __name__ == "__main__":
    main()
