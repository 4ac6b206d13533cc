"""Models for the report page: a large one, one with hostile names, and what is written of them."""

from __future__ import annotations

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

HOSTILE = (
    "</script><script>document.title = 'broken in'</script>",
    "<img src=x onerror=\"document.title='broken in'\">",
    "\u202egnp.xnno\u202c",
    "line\nbreak\tand\x00null\x1b[31m",
    "' onmouseover='document.title=1",
    "]]>--><!-- &amp; & \u2028 \\u003c",
    "שלום",
    "x" * 4000,
)


def wide(blocks: int, channels: int = 4) -> onnx.ModelProto:
    """`blocks` of Conv, BatchNormalization and Relu, every third of them with a skip; some BatchNormalization stays."""
    rng = np.random.default_rng(0)
    made, stored = [], []

    def constant(name: str, value: np.ndarray) -> str:
        stored.append(numpy_helper.from_array(value.astype(np.float32), name))
        return name

    x = "image"
    for i in range(blocks):
        weight = constant(f"w{i}", rng.standard_normal((channels, channels, 3, 3)) / (3 * channels**0.5))
        names = [constant(f"{p}{i}", rng.random(channels) + 0.5) for p in ("scale", "bias", "mean", "var")]
        between = f"c{i}"
        made.append(helper.make_node("Conv", [x, weight], [between], f"block{i}/conv", pads=[1, 1, 1, 1]))
        if i % 50 == 49:  # a Relu before and after: this one stays
            made.append(helper.make_node("Relu", [between], [f"k{i}"], f"block{i}/early"))
            between = f"k{i}"
        made.append(helper.make_node("BatchNormalization", [between, *names], [f"n{i}"], f"block{i}/norm"))
        made.append(helper.make_node("Relu", [f"n{i}"], [f"r{i}"], f"block{i}/relu"))
        skip = i % 3 == 2
        made += [helper.make_node("Add", [f"r{i}", x], [f"s{i}"], f"block{i}/add")] if skip else []
        x = f"s{i}" if skip else f"r{i}"
    made.append(helper.make_node("GlobalAveragePool", [x], ["features"], "pool"))
    return modelled(made, stored, channels)


def hostile() -> onnx.ModelProto:
    """A chain in which every name is one of `HOSTILE`; the last BatchNormalization stays."""
    rng = np.random.default_rng(0)
    stored, made, x = [], [], "image"
    for i, name in enumerate(HOSTILE):
        values = {f"{name} w": rng.standard_normal((2, 2, 1, 1))}
        values |= {f"{name} {p}": rng.random(2) + 0.5 for p in "gbmv"}
        stored += [numpy_helper.from_array(v.astype(np.float32), k) for k, v in values.items()]
        weight, *rest = values
        made.append(helper.make_node("Conv", [x, weight], [f"{name} {i}c"], f"{name} conv"))
        source = f"{name} {i}c"
        if i == len(HOSTILE) - 1:
            made.append(helper.make_node("Sigmoid", [source], [f"{name} {i}r"], f"{name} early"))
            source = f"{name} {i}r"
        made.append(helper.make_node("BatchNormalization", [source, *rest], [f"{name} {i}n"], f"{name} norm"))
        made.append(helper.make_node("Sigmoid", [f"{name} {i}n"], [f"{name} {i}y"], f"{name} last"))
        x = f"{name} {i}y"
    made.append(helper.make_node("GlobalAveragePool", [x], ["features"], "pool"))
    return modelled(made, stored, 2)


def modelled(nodes: list[onnx.NodeProto], stored: list[TensorProto], channels: int) -> onnx.ModelProto:
    """A model of one image, of 8 by 8."""
    value = helper.make_tensor_value_info
    image = value("image", TensorProto.FLOAT, [1, channels, 8, 8])
    features = value("features", TensorProto.FLOAT, [1, channels, 1, 1])
    graph = helper.make_graph(nodes, "report", [image], [features], stored)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
