"""Dimensions of inputs: which are dynamic, what sizes the weights imply for them, what sizes to try for the rest."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import onnx

from .protos import caller_inputs, shape, stored

Sizes = Mapping[str, int]  # a symbolic dimension, or `input/axis`: its size
Shapes = Mapping[str, Sequence[int]]  # of inputs, by their names

IMAGE_SIZES = (64, 32, 96, 128, 224, 256, 320, 48, 16, 512, 8, 1)
OTHER_SIZES = (16, 8, 32, 64, 128, 4, 1, 3, 2, 256)


def shapes_of(graph: onnx.GraphProto, sizes: Sizes, batch: int, larger: int = 0) -> dict[str, list[int]]:
    """The shape of every input: its own, else what `sizes` say, else what the weights fix, else `batch` and `*`."""
    known = {**_implied(graph), **sizes}
    ranks = {
        v.name: _rank_of_sizes(v.name, sizes) or _rank(graph, v.name) for v in caller_inputs(graph) if shape(v) is None
    }
    return {v.name: _shape(v, ranks.get(v.name, 0), known, batch, larger) for v in caller_inputs(graph)}


def _shape(value: onnx.ValueInfoProto, rank: int, sizes: Sizes, batch: int, larger: int) -> list[int]:
    stated = shape(value) or [None] * rank
    lengths = []
    for axis, dim in enumerate(stated):
        key = dim if isinstance(dim, str) else f"{value.name}/{axis}"
        if isinstance(dim, int):
            lengths.append(dim)
        else:
            usual = batch if axis == 0 and len(stated) > 1 else sizes.get("*", 1) + larger
            lengths.append(sizes.get(key, sizes.get(f"{value.name}/{axis}", usual)))
    return lengths


def _implied(graph: onnx.GraphProto) -> dict[str, int]:
    """Sizes of input axes that the weights of the first operator fix: channels of a Conv, width of a Gemm or MatMul."""
    weights = stored(graph)
    forced: dict[str, int] = {}
    for node in graph.node:
        if len(node.input) < 2 or node.input[1] not in weights:
            continue
        dims = weights[node.input[1]].dims
        settings = {a.name: a.i for a in node.attribute if a.type == onnx.AttributeProto.INT}
        if node.op_type == "Conv" and len(dims) > 1:
            forced[f"{node.input[0]}/1"] = dims[1] * settings.get("group", 1)
        elif node.op_type == "Gemm" and len(dims) == 2:
            forced[f"{node.input[0]}/1"] = dims[1] if settings.get("transB") else dims[0]
        elif node.op_type == "MatMul" and len(dims) == 2:
            forced.update((f"{node.input[0]}/{axis}", dims[0]) for axis in _last_axis(graph, node.input[0]))
    return forced


def _last_axis(graph: onnx.GraphProto, name: str) -> list[int]:
    return [len(dims) - 1 for v in graph.input if v.name == name and (dims := shape(v))]


def _rank_of_sizes(name: str, sizes: Sizes) -> int:
    """The rank of an input that does not state it, where sizes were asked for by its axes."""
    return sum(key.startswith(f"{name}/") for key in sizes)


def _rank(graph: onnx.GraphProto, name: str) -> int:
    """The rank of an input that does not state it: that of the weights of the Conv that reads it, or 2."""
    weights = stored(graph)
    readers = [n for n in graph.node if n.op_type == "Conv" and n.input[0] == name and n.input[1] in weights]
    return len(weights[readers[0].input[1]].dims) if readers else 2


def candidates(graph: onnx.GraphProto) -> Iterator[Sizes]:
    """Sizes for the dynamic dimensions other than the batch, likeliest first; one set if there are none."""
    ranks = [len(shape(v) or [None] * 4) for v in caller_inputs(graph) if _is_dynamic(v)]
    if not ranks:
        yield {}
        return
    for size in IMAGE_SIZES if max(ranks) > 3 else OTHER_SIZES:
        yield {"*": size}


def dynamic(graph: onnx.GraphProto) -> list[str]:
    """The names under which sizes can be given: symbolic dimensions, `input/axis` for those without a name."""
    known = _implied(graph)
    names = [
        dim if isinstance(dim, str) else f"{value.name}/{axis}"
        for value in caller_inputs(graph)
        for axis, dim in enumerate(shape(value) or [None] * _rank(graph, value.name))
        if not isinstance(dim, int) and f"{value.name}/{axis}" not in known
    ]
    return list(dict.fromkeys(names))


def _is_dynamic(value: onnx.ValueInfoProto) -> bool:
    dims = shape(value)
    return dims is None or any(not isinstance(dim, int) for dim in dims[1:]) or (len(dims) == 1 and dims[0] is None)
