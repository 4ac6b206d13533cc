"""Random inputs for a model: several distributions, sizes for dynamic dimensions, integers that stay in range."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from math import prod

import numpy as np
import onnx
from onnx import TensorProto, helper

from ..system.limits import current
from .dimensions import Sizes, shapes_of
from .input_files import read_inputs
from .protos import FLOATING, Array, caller_inputs, shape, stored

_INTEGERS = {getattr(TensorProto, f"{sign}INT{bits}") for sign in ("", "U") for bits in (8, 16, 32, 64)}


class CannotFeed(Exception):
    """An input is of a type that no values are made for, or of too many of them; the text names it."""


@dataclass(frozen=True)
class Case:
    """One set of inputs: how values are drawn, from which seed, the size of a dynamic batch dimension; or a file."""

    distribution: str
    seed: int
    batch: int
    larger: int = 0  # added to the size of every other dynamic dimension
    sizes: tuple[tuple[str, int], ...] = ()  # sizes of dynamic dimensions that were asked for
    path: str = ""

    def __str__(self) -> str:
        if self.path:
            return self.path
        more = f", sizes +{self.larger}" if self.larger else ""
        stated = "".join(f", {name} {size}" for name, size in self.sizes)
        return f"{self.distribution}, seed {self.seed}{stated or f', batch {self.batch}'}{more}"


def cases(effort: str, seed: int, choices: Sequence[Sizes] = ({},), paths: Sequence[str] = ()) -> list[Case]:
    """The inputs of a verification: files, then three distributions; with effort `full` twice each, and another size.

    Each of the `choices` of sizes is used at least once.
    """
    drawn = _drawn(effort, seed)
    rounds = range(max(len(drawn), len(choices)))
    sized = [(drawn[i % len(drawn)], choices[i % len(choices)], i // len(drawn)) for i in rounds]
    own = [Case("file", 0, 1, path=path) for path in paths]
    return own + [replace(case, seed=case.seed + 3 * more, sizes=tuple(sizes.items())) for case, sizes, more in sized]


def _drawn(effort: str, seed: int) -> list[Case]:
    first = [Case("normal", seed, 2), Case("wide", seed, 1), Case("uniform", seed, 2)]
    if effort == "fast":
        return first
    second = [Case("normal", seed + 1, 1), Case("uniform", seed + 1, 1), Case("wide", seed + 1, 2)]
    return [*first, *second, Case("normal", seed + 2, 3, larger=32)]


def revealing(seed: int) -> list[Case]:
    """Inputs that show what most do not: ties, zeros and repeated numbers, whole ones below zero, an odd size."""
    return [Case("halves", seed, 2), Case("halves", seed + 1, 5), Case("normal", seed + 1, 3, larger=1)]


def _normal(random: np.random.Generator, dims: list[int]) -> Array:
    return random.standard_normal(dims)


def _uniform(random: np.random.Generator, dims: list[int]) -> Array:
    return random.random(dims)


def _wide(random: np.random.Generator, dims: list[int]) -> Array:
    """Magnitudes from 1e-3 to 1e3, evenly on a logarithmic scale, of either sign."""
    return np.where(random.random(dims) < 0.5, -1.0, 1.0) * 10.0 ** random.uniform(-3, 3, dims)


def _halves(random: np.random.Generator, dims: list[int]) -> Array:
    """Multiples of a half from -2 to 2."""
    return np.asarray(random.integers(-4, 5, dims) / 2)


DRAWS: dict[str, Callable[[np.random.Generator, list[int]], Array]] = {
    "normal": _normal,
    "uniform": _uniform,
    "wide": _wide,
    "halves": _halves,
}


def feeds(graph: onnx.GraphProto, case: Case, sizes: Sizes) -> dict[str, Array]:
    """A value for every input a caller has to feed; the same case gives the same values."""
    if case.path:
        return read_inputs(graph, case.path)
    random = np.random.default_rng([case.seed, *case.distribution.encode()])
    limits, sizes = _limits(graph), {**sizes, **dict(case.sizes)}
    shapes = shapes_of(graph, sizes, case.batch, case.larger)
    return {
        v.name: np.asarray(_value(v, case, shapes[v.name], limits.get(v.name), random)) for v in caller_inputs(graph)
    }


def shapes(graph: onnx.GraphProto, case: Case, sizes: Sizes) -> dict[str, list[int]]:
    """The shapes that inputs without a fixed shape have in a case."""
    if case.path:
        return {name: list(value.shape) for name, value in read_inputs(graph, case.path).items()}
    sizes = {**sizes, **dict(case.sizes)}
    lengths = shapes_of(graph, sizes, case.batch, case.larger)
    return {v.name: lengths[v.name] for v in caller_inputs(graph) if not _fixed(v)}


def _fixed(value: onnx.ValueInfoProto) -> bool:
    stated = shape(value)
    return stated is not None and all(isinstance(dim, int) for dim in stated)


def _value(
    value: onnx.ValueInfoProto, case: Case, sizes: list[int], limit: int | None, random: np.random.Generator
) -> Array:
    kind, most = value.type.tensor_type.elem_type, current().elements
    if prod(sizes) > most:
        raise CannotFeed(f"input {value.name!r} would have {prod(sizes)} elements; the limit is {most}")
    if kind in FLOATING:
        return DRAWS[case.distribution](random, sizes).astype(helper.tensor_dtype_to_np_dtype(kind))
    if kind == TensorProto.BOOL:
        return random.random(sizes) < 0.5
    dtype = np.dtype(helper.tensor_dtype_to_np_dtype(kind)) if kind in _INTEGERS else None
    if dtype is None:
        raise CannotFeed(f"input {value.name!r} is not a tensor of numbers")
    high = min(limit or (256 if dtype.itemsize == 1 else 8), int(np.iinfo(dtype).max) + 1)
    low = -high if case.distribution == "halves" and limit is None and dtype.kind == "i" else 0
    return random.integers(low, high, sizes).astype(dtype)


def _limits(graph: onnx.GraphProto) -> dict[str, int]:
    """How large an integer input may be: below the size of the table that Gather reads, also through a Cast."""
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
