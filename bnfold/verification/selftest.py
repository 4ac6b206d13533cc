"""The self-test: does verification fail for a faulty fold of this very model? Faults are planted into copies of it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass
from typing import Any, ClassVar

import numpy as np
import onnx
from onnx import numpy_helper

from ..display.display import Shown, Table, counted
from ..errors import ModelProblem
from ..model.models import Model
from ..runtime.loading import load_to_run, require_whole
from ..runtime.protos import Array, attributes, stored
from ..system.progress import each
from .regions import MIXING, changed_constants
from .verifying import locate, verify

SCHEMA = "bnfold.selftest/1"
SMALL_ERRORS = (1e-3, 1e-4, 1e-5, 1e-6, 1e-7)  # relative errors of one channel, tried until no tier detects one


@dataclass(frozen=True)
class Planted:
    """One fault, and which tier detected it: the algebra of the fold sites, or the comparison of numbers."""

    fault: str
    site: str
    size: float | None  # relative error, where the fault has one
    algebra: bool
    numbers: bool

    @property
    def detected(self) -> bool:
        return self.algebra or self.numbers


@dataclass(frozen=True, repr=False)
class SelfTest(Shown):
    """The faults that were planted, and which of them were detected."""

    planted: tuple[Planted, ...]

    COLUMNS: ClassVar = ("fault", "fold site", "found by algebra", "found by numbers")

    @property
    def passed(self) -> bool:
        """Whether every fault was detected; of relative errors only the largest, as others are as small as rounding."""
        return all(one.detected for one in self.planted if one.size is None or one.size >= SMALL_ERRORS[0])

    def smallest(self, tier: str) -> float | None:
        """The smallest relative error of one channel that a tier detected; None if it detected none."""
        sizes = [one.size for one in self.planted if one.size is not None and getattr(one, tier)]
        return min(sizes, default=None)

    def rows(self) -> list[tuple[str, ...]]:
        """One line per fault for a table."""
        return [(p.fault, p.site, *("yes" if hit else "no" for hit in (p.algebra, p.numbers))) for p in self.planted]

    def in_a_line(self) -> str:
        detected = sum(one.detected for one in self.planted)
        return f"{detected} of {counted(len(self.planted), 'planted fault')} found"

    @property
    def tone(self) -> str:
        return "good" if self.passed else "bad"

    def tables(self) -> tuple[Table, ...]:
        return (Table("Planted faults", self.COLUMNS, self.rows()),)

    def to_json(self) -> dict[str, Any]:
        """Plain data, schema `bnfold.selftest/1`."""
        smallest = {tier: self.smallest(tier) for tier in ("algebra", "numbers")}
        return {"schema": SCHEMA, "planted": [asdict(p) for p in self.planted], "smallest_found": smallest}


@dataclass(frozen=True)
class FoldedNode:
    """A folded node: its weight with output channels first, its bias, and their names, axis and groups in the model."""

    output: str
    names: tuple[str, str]
    axis: int
    group: int
    weight: Array
    bias: Array | None


Fault = Callable[[FoldedNode], tuple[Array, Array | None]]  # the weight and bias of a node with that fault


def self_test(original: Model, folded: Model, *, effort: str = "fast", seed: int = 0) -> SelfTest:
    """Plant faults into `folded`, one at a time, and verify each against `original` with graph optimization off.

    Raises ModelProblem where `folded` has no folded Conv, ConvTranspose, Gemm or MatMul to plant them in.
    """
    with locate(original) as first, locate(folded) as second:
        before, after = load_to_run(str(first)), load_to_run(str(second))
        require_whole(after, "a self-test, which plants faults in copies")
        nodes = list(folded_nodes(before, after))
        if not nodes:
            raise ModelProblem(
                "there is nothing to plant a fault in", "B has no operator whose weights A does not have."
            )
        chosen = [nodes[0], nodes[-1]] if len(nodes) > 1 else nodes

        def plant(name: str, node: FoldedNode, fault: Fault, size: float | None = None) -> Planted:
            result = verify(first, with_fault(after, node, fault), effort=effort, seed=seed, levels=["off"])
            by_algebra, by_numbers = any(not site.ok for site in result.derived), any(lv.bad for lv in result.levels)
            return Planted(name, node.output, size, by_algebra, by_numbers)

        kinds = [(name, node, fault) for node in chosen for name, fault in faults(node).items()]
        planted = [plant(*kind) for kind in each(kinds, "self-test", len(kinds))]
        planted += smaller_and_smaller(plant, chosen[0])
    return SelfTest(tuple(planted))


def smaller_and_smaller(plant: Callable[..., Planted], node: FoldedNode) -> Iterator[Planted]:
    """Relative errors of one channel, until one is not detected."""
    for size in SMALL_ERRORS:
        one = plant(f"one channel x (1 + {size:g})", node, one_channel(1 + size), size)
        yield one
        if not one.detected:
            return


def folded_nodes(before: onnx.ModelProto, after: onnx.ModelProto) -> Iterator[FoldedNode]:
    """The nodes of the folded model whose stored weight the original does not have."""
    new, constants = changed_constants(before.graph, after.graph), stored(after.graph)
    for node in after.graph.node:
        if node.op_type in MIXING and node.input[1] in new and node.input[1] in constants:
            yield folded_node(node, constants)


def folded_node(node: onnx.NodeProto, constants: Mapping[str, onnx.TensorProto]) -> FoldedNode:
    """A Conv, ConvTranspose, Gemm or MatMul with the values of its weight and, where it has a stored one, its bias."""
    stated = attributes(node)
    rows_last = node.op_type == "MatMul" or (node.op_type == "Gemm" and not stated.get("transB"))
    axis = -1 if rows_last else 1 if node.op_type == "ConvTranspose" else 0
    name = node.input[2] if len(node.input) > 2 and node.input[2] in constants else ""
    weight = np.moveaxis(numpy_helper.to_array(constants[node.input[1]]), axis, 0)
    bias = numpy_helper.to_array(constants[name]) if name else None
    return FoldedNode(node.output[0], (node.input[1], name), axis, stated.get("group", 1), weight, bias)


def faults(node: FoldedNode) -> dict[str, Fault]:
    """The faults that a fold of this node can have, by name."""
    named: dict[str, Fault] = {
        "epsilon forgotten": lambda n: (n.weight * np.asarray(1 + 5e-6, n.weight.dtype), n.bias),
    }
    if len(node.weight) > 1:
        named["channels of the weight swapped"] = lambda n: (n.weight[[1, 0, *range(2, len(n.weight))]], n.bias)
    if node.bias is not None and node.bias.any():
        named["bias forgotten"] = lambda n: (n.weight, np.zeros_like(n.bias))
    if 1 < node.group < len(node.weight):
        named["layout of the groups"] = lambda n: (by_member(n.weight, n.group), n.bias)
    return named


def one_channel(factor: float) -> Fault:
    """The channel with the largest weights, times a factor."""

    def fault(node: FoldedNode) -> tuple[Array, Array | None]:
        weight = node.weight.copy()
        weight[np.abs(weight).reshape(len(weight), -1).max(1).argmax()] *= np.asarray(factor, weight.dtype)
        return weight, node.bias

    return fault


def by_member(weight: Array, group: int) -> Array:
    """Output channels in the order of their place in the group, instead of group by group."""
    order = np.arange(len(weight)).reshape(group, -1).T.ravel() if len(weight) % group == 0 else slice(None, None, -1)
    return weight[order]


def with_fault(model: onnx.ModelProto, node: FoldedNode, fault: Fault) -> onnx.ModelProto:
    """A copy of the folded model in which one node has a fault."""
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    constants = stored(copy.graph)
    weight, bias = fault(node)
    for name, value in zip(node.names, (np.moveaxis(weight, 0, node.axis), bias), strict=True):
        if name and value is not None:
            constants[name].CopyFrom(numpy_helper.from_array(np.ascontiguousarray(value), constants[name].name))
    return copy
