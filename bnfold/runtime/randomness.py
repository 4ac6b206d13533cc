"""Copies of models without random operators: two runs of the same model differ already.

What draws numbers of its own becomes a constant; a Bernoulli its probabilities, a Multinomial the likeliest class.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from ..model.messages import all_nodes, bodies
from .copies import GOLDEN, lifted
from .protos import attributes, domain

DRAWING = ("RandomNormal", "RandomUniform", "RandomNormalLike", "RandomUniformLike")
OF_DATA = ("Bernoulli", "Multinomial")
USUAL_NUMBER = 0.5


def is_random(node: onnx.NodeProto) -> bool:
    """Whether two runs of a node differ."""
    return node.op_type in (*DRAWING, *OF_DATA) and domain(node) == ""


def without_randomness(
    model: onnx.ModelProto, numbers: Mapping[str, float] | None = None
) -> tuple[onnx.ModelProto, list[str]]:
    """The model, changed so that it can be compared, and what was done in words.

    Trailing empty output names are dropped (they crash native code, and mean the same), and what random operators draw
    is replaced by `numbers`, by the names of their outputs, or 0.5. Constants that lie in files become initializers of
    the main graph.
    """
    copy = lifted(model)
    for node in all_nodes(copy):
        while node.output and not node.output[-1]:
            node.output.pop()
    random = [node.output[0] for node in all_nodes(copy) if is_random(node)]
    for part in (copy.graph, *copy.functions) if random else ():
        _make_still(part, numbers or {})
    by = "0.5" if len({*(numbers or {}).values(), USUAL_NUMBER}) == 1 else "constants"
    return copy, [f"random operators were replaced by {by}: {', '.join(random)}"] if random else []


def numbers_for(models: Sequence[onnx.ModelProto]) -> dict[str, float]:
    """For each output of a random operator a number of its own, which shows if another one is read in its place.

    Nothing where the models have other names for them.
    """
    names = [{node.output[0] for node in all_nodes(model) if is_random(node)} for model in models]
    if any(each != names[0] for each in names):
        return {}
    return {name: (USUAL_NUMBER + number * GOLDEN) % 1 for number, name in enumerate(sorted(names[0]))}


def _make_still(graph: onnx.GraphProto | onnx.FunctionProto, numbers: Mapping[str, float]) -> None:
    nodes: list[onnx.NodeProto] = []
    for node in graph.node:
        for body in bodies(node):
            _make_still(body, numbers)
        nodes += _still(node, numbers.get(node.output[0], USUAL_NUMBER)) if is_random(node) else [node]
    del graph.node[:]
    graph.node.extend(nodes)


def _still(node: onnx.NodeProto, number: float) -> Iterable[onnx.NodeProto]:
    """Nodes that give the output of a random node its shape and type."""
    if node.op_type == "Bernoulli":
        return [_typed(node, node.input[0])]
    return _likeliest(node) if node.op_type == "Multinomial" else _filled(node, number)


def _typed(node: onnx.NodeProto, source: str) -> onnx.NodeProto:
    kind = attributes(node).get("dtype")
    if kind is None:
        return helper.make_node("Identity", [source], [node.output[0]])
    return helper.make_node("Cast", [source], [node.output[0]], to=kind)


def _likeliest(node: onnx.NodeProto) -> Iterator[onnx.NodeProto]:
    """The class with the largest logarithm of a probability, as often as classes are drawn."""
    settings, stem = attributes(node), node.output[0]
    best, sizes, every = (f"{stem}/{word}" for word in ("best", "sizes", "every"))
    yield helper.make_node("ArgMax", [node.input[0]], [best], axis=1)
    yield _constant(np.array([1, settings.get("sample_size", 1)]), sizes)
    yield helper.make_node("Expand", [best, sizes], [every])
    yield helper.make_node("Cast", [every], [stem], to=settings.get("dtype", TensorProto.INT32))


def _filled(node: onnx.NodeProto, number: float) -> Iterator[onnx.NodeProto]:
    settings = attributes(node)
    kind = helper.tensor_dtype_to_np_dtype(settings.get("dtype", TensorProto.FLOAT))
    value, sizes = numpy_helper.from_array(np.array([number], dtype=kind)), f"{node.output[0]}/sizes"
    if "shape" in settings:
        yield _constant(np.array(settings["shape"], np.int64), sizes)
    else:
        yield helper.make_node("Shape", [node.input[0]], [sizes])
    yield helper.make_node("ConstantOfShape", [sizes], [node.output[0]], value=value)


def _constant(values: np.ndarray, name: str) -> onnx.NodeProto:
    return helper.make_node("Constant", [], [name], value=numpy_helper.from_array(values))
