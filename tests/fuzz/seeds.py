"""Sound small models to start from, all in float32: random networks, named scenarios, every row of the operator table."""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache
from random import Random

import numpy as np
import onnx
from onnx import ModelProto, TensorProto, helper, numpy_helper

from tests.build import values
from tests.case import Case
from tests.cases import HOIST, SINK
from tests.graphs import BACK, LAYERS, assembled
from tests.test_dtypes import in_type
from tests.test_scenarios import GRAPHS
from tests.test_scopes import BN, CHANNELS, IF, parsed, with_function

NETWORKS = 60
LARGEST = 20_000  # bytes of a seed
LOOP = f"l (int64 i, bool go, double[2,4,5,5] s) => (bool out, double[2,4,5,5] r) {{ out = Identity(go) c = Conv(X, W) b = {BN('c', 'p')} r = Add(s, b) }}"
BRANCHES = f"then_branch = t () => (double[2,4,5,5] ty) {{ b = {BN('c', 'p')} ty = Relu(b) }}, else_branch = e () => (double[2,4,5,5] ey) {{ ey = Conv(X, W) }}"


@cache
def corpus() -> tuple[bytes, ...]:
    """The serialized seeds, in one order always."""
    found = [in_single(model).SerializeToString(deterministic=True) for model in (*networks(), *named(), *rows())]
    return tuple(data for data in dict.fromkeys(found) if len(data) <= LARGEST)


def in_single(model: ModelProto) -> ModelProto:
    """A model whose float64 tensors are float32 everywhere, so that onnxruntime has kernels for it."""
    made = in_type(model, "float32")
    for message in every(made):
        if isinstance(message, TensorProto) and message.data_type == TensorProto.DOUBLE:
            single = numpy_helper.to_array(message).astype(np.float32)
            message.CopyFrom(numpy_helper.from_array(single, message.name))
        elif isinstance(message, onnx.TypeProto.Tensor) and message.elem_type == TensorProto.DOUBLE:
            message.elem_type = TensorProto.FLOAT
    return made


def every(message) -> Iterator:
    """A message and all that it holds."""
    yield message
    for field, value in message.ListFields():
        if field.message_type:
            for inner in value if field.is_repeated else [value]:
                yield from every(inner)


def networks() -> Iterator[ModelProto]:
    for seed in range(NETWORKS):
        draw = Random(seed)
        steps = [(draw.choice(sorted(LAYERS)), draw.choice(BACK)) for _ in range(draw.randint(1, 5))]
        model = assembled(steps, seed)
        if model is not None:
            yield model


def named() -> Iterator[ModelProto]:
    yield from (row.model() for row in GRAPHS.values())
    yield parsed(f"{IF} {{ c = Conv(X, W) Y = If (yes) <{BRANCHES}> }}", CHANNELS)
    text = f"m (double[2,3,5,5] X) => (double[2,4,5,5] Y) {{ Y = Loop (n, yes, start) <body = {LOOP}> }}"
    yield parsed(text, {**CHANNELS, "n": np.array(3), "yes": np.array(True), "start": np.ones((2, 4, 5, 5))})
    yield from (with_function(inside) for inside in (True, False))


def rows() -> Iterator[ModelProto]:
    """Each row of the operator table with a BatchNormalization before and one after it, where these fit."""
    for number, case in enumerate([*HOIST, *SINK]):
        model = around(case, number)
        if model is not None:
            yield model


def around(case: Case, seed: int) -> ModelProto | None:
    """One node between two BatchNormalizations of the channels; None where shapes forbid it."""
    parts = [*case.x, *case.consts]
    order = case.order or range(len(parts))
    inputs = ["" if i is None else f"x{i}" if i < len(case.x) else f"k{i}" for i in order]
    made = [f"y{i}" for i in range(case.outputs)]
    stored = values({f"k{i}": part for i, part in enumerate(parts) if i >= len(case.x)}, seed)
    given = {f"x{i}": np.asarray(part).shape if isinstance(part, np.ndarray) else part for i, part in enumerate(case.x)}
    nodes = [helper.make_node(case.op, inputs, made, **case.attrs)]
    infos = [helper.make_tensor_value_info(name, TensorProto.DOUBLE, shape) for name, shape in given.items()]
    graph = helper.make_graph(nodes, "g", infos, [onnx.ValueInfoProto(name=name) for name in made])
    graph.initializer.extend(numpy_helper.from_array(value, name) for name, value in stored.items())
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", case.opset)], ir_version=8)
    try:
        shaped = onnx.shape_inference.infer_shapes(model, strict_mode=True)
        normalize(shaped, seed)
        onnx.checker.check_model(in_single(shaped), full_check=True)
    except (onnx.shape_inference.InferenceError, onnx.checker.ValidationError):
        return None
    return shaped


def normalize(model: ModelProto, seed: int) -> None:
    """Put a BatchNormalization after each output, and one before each input of two axes or more."""
    graph = model.graph
    places = [("input", value) for value in graph.input] + [("output", value) for value in graph.output]
    for side, value in places:
        axes = [dim.dim_value for dim in value.type.tensor_type.shape.dim]
        if value.type.tensor_type.elem_type == TensorProto.DOUBLE and len(axes) > 1 and axes[1]:
            insert(graph, side, value.name, axes[1], seed)
    for node in graph.node if model.opset_import[0].version < 7 else ():
        if node.op_type == "BatchNormalization":
            node.attribute.append(helper.make_attribute("is_test", 1))


def insert(graph: onnx.GraphProto, side: str, name: str, channels: int, seed: int) -> None:
    parameters = values({f"{name}{p}": (channels,) for p in "gbmv"}, seed)
    graph.initializer.extend(numpy_helper.from_array(value, key) for key, value in parameters.items())
    inner = f"{name}_"
    for node in graph.node:
        names = node.input if side == "input" else node.output
        names[:] = [inner if each == name else each for each in names]
    ends = (name, inner) if side == "input" else (inner, name)
    node = helper.make_node("BatchNormalization", [ends[0], *parameters], [ends[1]], f"norm_{name}")
    graph.node.insert(0 if side == "input" else len(graph.node), node)
