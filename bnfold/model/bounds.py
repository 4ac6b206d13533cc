"""Bounds that no honest model exceeds: others are refused before time or memory is spent on them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import onnx
from onnx import AttributeProto, NodeProto

from ..errors import ModelProblem
from ..system.limits import current
from .messages import all_nodes, all_tensors, every_node

RANK = 64  # axes of an array in NumPy
DEEPEST_CALL = 100  # functions that call functions, as onnx's checker has it
WIDEST_AXIS = 1 << 31  # elements of an axis that a window is laid over
POSITIVE = ("strides", "dilations", "kernel_shape", "group", "blocksize")
WINDOWS = frozenset(
    ["Conv", "ConvTranspose", "ConvInteger", "QLinearConv", "DeformConv", "MaxPool", "AveragePool", "LpPool"]
    + ["MaxUnpool", "DepthToSpace", "SpaceToDepth"]
)
Key = tuple[str, str, str]  # domain, name, overload of a function


def require_bounded(model: onnx.ModelProto, name: object) -> None:
    """Raises ModelProblem where a model, which is called `name`, exceeds a limit or has windows of no size."""
    require_ranks(model, name)
    require_few(model, name)
    for node in all_nodes(model):
        if node.op_type in WINDOWS and node.domain in ("", "ai.onnx"):
            require_window(node, name)


def require_ranks(model: onnx.ModelProto, name: object) -> None:
    """Raises ModelProblem for a tensor of more axes than NumPy knows."""
    for tensor in all_tensors(model):
        if len(tensor.dims) > RANK:
            raise ModelProblem(
                f"'{tensor.name}' in {name} has {len(tensor.dims)} axes; NumPy knows up to {RANK}",
                "Is the file damaged? Export the model again.",
            )


def require_window(node: NodeProto, name: object) -> None:
    """Raises ModelProblem for strides of 0 and the like: no runtime can run them."""
    for attribute in node.attribute:
        if attribute.name in POSITIVE:
            stated = [attribute.i] if attribute.type == AttributeProto.INT else list(attribute.ints)
            if any(not 0 < value < WIDEST_AXIS for value in stated):
                what = f"{attribute.name} of {node.op_type} '{node.name}' in {name}"
                raise ModelProblem(
                    f"{what} is {stated}, not from 1 to {WIDEST_AXIS - 1}",
                    "No runtime can run it: export the model again.",
                )


def require_few(model: onnx.ModelProto, name: object) -> None:
    """Raises ModelProblem for a model of too many nodes, or of functions that call each other too deep or in a circle.

    Every function counts once for each of its calls, as where it is called its nodes are run, and may be inlined.
    """
    sizes = expanded_sizes(model.functions, name)
    nodes = sum(sizes.get(call, (1, 0))[0] for call in _calls(model.graph.node))
    depth = max((depth for _, depth in sizes.values()), default=0)
    if depth > DEEPEST_CALL:
        raise ModelProblem(
            f"{name} has functions in functions, {depth} deep; the limit is {DEEPEST_CALL}",
            "onnx's checker has the same limit: let the exporter inline some of them.",
        )
    if nodes > current().nodes:
        raise ModelProblem(
            f"{name} has {nodes} nodes, functions expanded; the limit is {current().nodes}",
            f"If the file is to be trusted: --limit nodes={nodes}.",
        )


def _calls(nodes: Iterable[NodeProto]) -> list[Key]:
    return [(node.domain, node.op_type, node.overload) for node in every_node(nodes)]


def expanded_sizes(functions: Iterable[onnx.FunctionProto], name: object = "the model") -> dict[Key, tuple[int, int]]:
    """How many nodes each function has (at least 1), and how deep it is, its calls expanded; each after those it calls.

    Raises ModelProblem for functions that call each other in a circle.
    """
    bodies = {(f.domain, f.name, f.overload): _calls(f.node) for f in functions}
    sizes: dict[Key, tuple[int, int]] = {}
    for first in bodies:
        open_: dict[Key, Iterator[Key]] = {first: iter(bodies[first])} if first not in sizes else {}
        while open_:
            key, calls = next(reversed(open_.items()))
            called = next((call for call in calls if call in bodies and call not in sizes), None)
            if called in open_:
                raise ModelProblem(
                    f"{name} has a function that calls itself (Cycle detected): {called[0]}::{called[1]}",
                    "ONNX functions cannot be recursive: export the model again.",
                )
            if called:
                open_[called] = iter(bodies[called])
                continue
            parts = [sizes.get(call, (1, 0)) for call in bodies[key]]
            sizes[key] = max(1, sum(nodes for nodes, _ in parts)), 1 + max((depth for _, depth in parts), default=0)
            del open_[key]
    return sizes
