"""Bodies whose tensors have names of their own: onnxruntime mixes up what several graphs store under one name."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping

import onnx

from ..model.messages import attribute_graphs, inner_graphs
from .protos import called_as, stored

NOTE = "tensors of bodies were given names of their own: onnxruntime mixes up what several graphs store under one name"


def make_distinct(models: Iterable[onnx.ModelProto]) -> bool:
    """Give what bodies and functions define other names, in all models alike, if a body stores under a name used twice.

    Each name says where it is: what the node of the body makes, the attribute that the body is, and the former name.
    """
    models = [*models]
    if not any(map(_is_mixed_up, models)):
        return False
    for model in models:
        _in_bodies(model.graph.node, {})
        for function in model.functions:
            names = {name: f"{called_as(function)}/{name}" for name in _defined(function)}
            _rename(function, names)
            _in_bodies(function.node, names)
    return True


def _is_mixed_up(model: onnx.ModelProto) -> bool:
    inner = [body for part in (model.graph, *model.functions) for body in inner_graphs(part.node)]
    if not inner:
        return False
    counts = Counter(name for graph in (model.graph, *model.functions, *inner) for name in {*_defined(graph)})
    return any(counts[name] > 1 for body in inner for name in stored(body))


def _defined(graph: onnx.GraphProto | onnx.FunctionProto) -> Iterator[str]:
    """What a graph itself gives a name."""
    if isinstance(graph, onnx.FunctionProto):
        yield from graph.input
    else:
        yield from (value.name for value in (*graph.input, *graph.initializer))
    yield from (name for node in graph.node for name in node.output if name)


def _in_bodies(nodes: Iterable[onnx.NodeProto], around: Mapping[str, str]) -> None:
    """New names for what the bodies of nodes define; `around` are those of the graphs around, by the old ones."""
    for node in nodes:
        first = next(filter(None, node.output), "")
        for attribute in node.attribute:
            for number, body in enumerate(attribute_graphs(attribute)):
                place = f"{first}/{attribute.name}{number or ''}"
                names = {**around, **{name: f"{place}/{name}" for name in _defined(body)}}
                _rename(body, names)
                _in_bodies(body.node, names)


def _rename(graph: onnx.GraphProto | onnx.FunctionProto, names: Mapping[str, str]) -> None:
    """Other names wherever a graph itself, without the bodies in it, mentions them."""
    lists = [listed for node in graph.node for listed in (node.input, node.output)]
    lists += [graph.input, graph.output] if isinstance(graph, onnx.FunctionProto) else []
    for listed in lists:
        listed[:] = [names.get(name, name) for name in listed]
    if isinstance(graph, onnx.GraphProto):
        for value in (*graph.input, *graph.output, *graph.value_info, *graph.initializer):
            value.name = names.get(value.name, value.name)
