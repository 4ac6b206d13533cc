"""Random inputs for a model: several distributions, sizes for dynamic dimensions, integers that stay in range."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

import numpy as np
import onnx
from onnx import TensorProto, helper

from .protos import FLOATS, fed, shape, stored
from .windows import Array

Sizes = Mapping[str, int]  # a symbolic dimension, or `input/axis`: its size

IMAGE_SIZES = (64, 32, 96, 128, 224, 256, 320, 48, 16, 512, 8, 1)
OTHER_SIZES = (16, 8, 32, 64, 128, 4, 1, 3, 2, 256)


_INTEGERS = {getattr(TensorProto, f"{sign}INT{bits}") for sign in ("", "U") for bits in (8, 16, 32, 64)}


class CannotFeed(Exception):
    """An input is of a type that no values are made for; the text names it."""


@dataclass(frozen=True)
class Case:
    """One set of inputs: how values are drawn, from which seed, and the size of a dynamic batch dimension."""

    distribution: str
    seed: int
    batch: int
    larger: int = 0  # added to the size of every other dynamic dimension

    def __str__(self) -> str:
        more = f", sizes +{self.larger}" if self.larger else ""
        return f"{self.distribution}, seed {self.seed}, batch {self.batch}{more}"


def cases(effort: str, seed: int) -> list[Case]:
    """The inputs of a verification: three distributions; with effort `full` twice each, and one of another size."""
    first = [Case("normal", seed, 2), Case("wide", seed, 1), Case("uniform", seed, 2)]
    if effort == "fast":
        return first
    second = [Case("normal", seed + 1, 1), Case("uniform", seed + 1, 1), Case("wide", seed + 1, 2)]
    return [*first, *second, Case("normal", seed + 2, 3, larger=32)]


def _normal(random: np.random.Generator, dims: list[int]) -> Array:
    return random.standard_normal(dims)


def _uniform(random: np.random.Generator, dims: list[int]) -> Array:
    return random.random(dims)


def _wide(random: np.random.Generator, dims: list[int]) -> Array:
    """Magnitudes from 1e-3 to 1e3, evenly on a logarithmic scale, of either sign."""
    return np.where(random.random(dims) < 0.5, -1.0, 1.0) * 10.0 ** random.uniform(-3, 3, dims)


DRAWS: dict[str, Callable[[np.random.Generator, list[int]], Array]] = {
    "normal": _normal,
    "uniform": _uniform,
    "wide": _wide,
}


def feeds(graph: onnx.GraphProto, case: Case, sizes: Sizes) -> dict[str, Array]:
    """A value for every input a caller has to feed; the same case gives the same values."""
    random = np.random.default_rng([case.seed, *case.distribution.encode()])
    limits = _limits(graph)
    return {v.name: _value(v, case, _dims(graph, v, case, sizes), limits.get(v.name), random) for v in fed(graph)}


def shapes(graph: onnx.GraphProto, case: Case, sizes: Sizes) -> dict[str, list[int]]:
    """The shapes that inputs without a fixed shape have in a case."""
    return {v.name: _dims(graph, v, case, sizes) for v in fed(graph) if not _fixed(v)}


def _fixed(value: onnx.ValueInfoProto) -> bool:
    dims = shape(value)
    return dims is not None and all(isinstance(dim, int) for dim in dims)


def _value(
    value: onnx.ValueInfoProto, case: Case, dims: list[int], limit: int | None, random: np.random.Generator
) -> Array:
    kind = value.type.tensor_type.elem_type
    if kind in (*FLOATS, TensorProto.DOUBLE):
        return DRAWS[case.distribution](random, dims).astype(helper.tensor_dtype_to_np_dtype(kind))
    if kind == TensorProto.BOOL:
        return random.random(dims) < 0.5
    dtype = np.dtype(helper.tensor_dtype_to_np_dtype(kind)) if kind in _INTEGERS else None
    if dtype is None:
        raise CannotFeed(f"input {value.name!r} is not a tensor of numbers")
    high = min(limit or (256 if dtype.itemsize == 1 else 8), int(np.iinfo(dtype).max) + 1)
    return random.integers(0, high, dims).astype(dtype)


def _limits(graph: onnx.GraphProto) -> dict[str, int]:
    """How large an integer input may be: below the size of the table that Gather looks it up in, also behind a Cast."""
    tables = stored(graph)
    source = {node.output[0]: node.input[0] for node in graph.node if node.op_type in ("Cast", "Identity", "Reshape")}
    limits: dict[str, int] = {}
    for node in graph.node:
        if node.op_type == "Gather" and node.input[0] in tables:
            axis = next((a.i for a in node.attribute if a.name == "axis"), 0)
            name = node.input[1]
            while name in source:
                name = source[name]
            size = tables[node.input[0]].dims[axis]
            limits[name] = min(limits.get(name, size), size)
    return limits


def _dims(graph: onnx.GraphProto, value: onnx.ValueInfoProto, case: Case, sizes: Sizes) -> list[int]:
    known = _implied(graph)
    dims = shape(value) or [None] * _rank(graph, value.name)
    found = []
    for axis, dim in enumerate(dims):
        key = dim if isinstance(dim, str) else f"{value.name}/{axis}"
        if isinstance(dim, int):
            found.append(dim)
        elif f"{value.name}/{axis}" in known:
            found.append(known[f"{value.name}/{axis}"])
        else:
            usual = case.batch if axis == 0 and len(dims) > 1 else sizes.get("*", 1) + case.larger
            found.append(sizes.get(key, usual))
    return found


def _implied(graph: onnx.GraphProto) -> dict[str, int]:
    """Sizes of input axes that the weights of the first operator fix: channels of a Conv, width of a Gemm or MatMul."""
    weights = stored(graph)
    found: dict[str, int] = {}
    for node in graph.node:
        if len(node.input) < 2 or node.input[1] not in weights:
            continue
        dims = weights[node.input[1]].dims
        given = {a.name: a.i for a in node.attribute if a.type == onnx.AttributeProto.INT}
        if node.op_type == "Conv":
            found[f"{node.input[0]}/1"] = dims[1] * given.get("group", 1)
        elif node.op_type == "Gemm":
            found[f"{node.input[0]}/1"] = dims[1] if given.get("transB") else dims[0]
        elif node.op_type == "MatMul" and len(dims) == 2:
            found.update((f"{node.input[0]}/{axis}", dims[0]) for axis in _last_axis(graph, node.input[0]))
    return found


def _last_axis(graph: onnx.GraphProto, name: str) -> list[int]:
    return [len(dims) - 1 for v in graph.input if v.name == name and (dims := shape(v))]


def _rank(graph: onnx.GraphProto, name: str) -> int:
    """The rank of an input that does not state it: that of the weights of the Conv that reads it, or 2."""
    weights = stored(graph)
    readers = [n for n in graph.node if n.op_type == "Conv" and n.input[0] == name and n.input[1] in weights]
    return len(weights[readers[0].input[1]].dims) if readers else 2


def candidates(graph: onnx.GraphProto) -> Iterator[Sizes]:
    """Sizes for the dynamic dimensions other than the batch, likeliest first; one set if there are none."""
    ranks = [len(shape(v) or [None] * 4) for v in fed(graph) if _is_dynamic(v)]
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
        for value in fed(graph)
        for axis, dim in enumerate(shape(value) or [None] * _rank(graph, value.name))
        if not isinstance(dim, int) and f"{value.name}/{axis}" not in known
    ]
    return list(dict.fromkeys(names))


def _is_dynamic(value: onnx.ValueInfoProto) -> bool:
    dims = shape(value)
    return dims is None or any(not isinstance(dim, int) for dim in dims[1:]) or (len(dims) == 1 and dims[0] is None)
