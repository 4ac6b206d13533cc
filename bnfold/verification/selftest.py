"""The self-test: would a faulty fold of this very model be found? Faults are planted into it, and looked for."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass
from typing import Any, ClassVar

import numpy as np
import onnx
from onnx import helper, numpy_helper

from ..display.display import Shown, Table, counted
from ..errors import ModelProblem
from ..model.models import Model
from ..runtime.loading import load, require_whole
from ..runtime.protos import Array, stored
from ..system.progress import each
from .regions import MIXING, changed
from .verifying import locate, verify

SCHEMA = "bnfold.selftest/1"
SMALL = (1e-3, 1e-4, 1e-5, 1e-6, 1e-7)  # relative errors of one channel, tried until nothing finds them


@dataclass(frozen=True)
class Planted:
    """One fault, and which tier found it: the algebra of the fold sites, or the comparison of numbers."""

    fault: str
    site: str
    size: float | None  # relative error, where the fault has one
    algebra: bool
    numbers: bool

    @property
    def found(self) -> bool:
        return self.algebra or self.numbers


@dataclass(frozen=True, repr=False)
class SelfTest(Shown):
    """What was planted, and what was found of it."""

    planted: tuple[Planted, ...]

    COLUMNS: ClassVar = ("fault", "fold site", "found by algebra", "found by numbers")

    @property
    def passed(self) -> bool:
        """Every fault was found; relative errors as small as rounding are tried, but need not be."""
        return all(one.found for one in self.planted if one.size is None or one.size >= SMALL[0])

    def smallest(self, tier: str) -> float | None:
        """The smallest relative error of one channel that a tier found; None if it found none of `SMALL`."""
        sizes = [one.size for one in self.planted if one.size is not None and getattr(one, tier)]
        return min(sizes, default=None)

    def rows(self) -> list[tuple[str, ...]]:
        """One line per fault for a table."""
        return [(p.fault, p.site, *("yes" if hit else "no" for hit in (p.algebra, p.numbers))) for p in self.planted]

    def in_a_line(self) -> str:
        found = sum(one.found for one in self.planted)
        return f"{found} of {counted(len(self.planted), 'planted fault')} found"

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
class Site:
    """A folded operator: its weight with output channels first, its bias, and how to put both back."""

    output: str
    names: tuple[str, str]
    axis: int
    group: int
    weight: Array
    bias: Array | None


Change = Callable[[Site], tuple[Array, Array | None]]


def self_test(original: Model, folded: Model, *, effort: str = "fast", seed: int = 0) -> SelfTest:
    """Plant faults into `folded`, one at a time, and verify each against `original` with graph optimization off.

    Raises ModelProblem where `folded` has no folded Conv, ConvTranspose, Gemm or MatMul to plant them in.
    """
    with locate(original) as first, locate(folded) as second:
        before, after = load(str(first)), load(str(second))
        require_whole(after, "a self-test, which plants faults in copies")
        sites = list(folded_sites(before, after))
        if not sites:
            raise ModelProblem(
                "there is nothing to plant a fault in", "B has no operator whose weights A does not have."
            )
        chosen = [sites[0], sites[-1]] if len(sites) > 1 else sites

        def plant(fault: str, site: Site, change: Change, size: float | None = None) -> Planted:
            found = verify(first, with_fault(after, site, change), effort=effort, seed=seed, levels=["off"])
            hits = any(not one.ok for one in found.derived), any(level.bad for level in found.levels)
            return Planted(fault, site.output, size, *hits)

        kinds = [(name, site, change) for site in chosen for name, change in faults(site).items()]
        planted = [plant(*kind) for kind in each(kinds, "self-test", len(kinds))]
        planted += smaller_and_smaller(plant, chosen[0])
    return SelfTest(tuple(planted))


def smaller_and_smaller(plant: Callable[..., Planted], site: Site) -> Iterator[Planted]:
    for size in SMALL:
        one = plant(f"one channel x (1 + {size:g})", site, one_channel(1 + size), size)
        yield one
        if not one.found:
            return


def folded_sites(before: onnx.ModelProto, after: onnx.ModelProto) -> Iterator[Site]:
    """The operators of the folded model whose stored weight the original does not have."""
    new, held = changed(before.graph, after.graph), stored(after.graph)
    for node in after.graph.node:
        if node.op_type in MIXING and node.input[1] in new and node.input[1] in held:
            yield site_of(node, held)


def site_of(node: onnx.NodeProto, held: Mapping[str, onnx.TensorProto]) -> Site:
    given = {a.name: helper.get_attribute_value(a) for a in node.attribute}
    rows_last = node.op_type == "MatMul" or (node.op_type == "Gemm" and not given.get("transB"))
    axis = -1 if rows_last else 1 if node.op_type == "ConvTranspose" else 0
    bias = node.input[2] if len(node.input) > 2 and node.input[2] in held else ""
    weight = np.moveaxis(numpy_helper.to_array(held[node.input[1]]), axis, 0)
    known = numpy_helper.to_array(held[bias]) if bias else None
    return Site(node.output[0], (node.input[1], bias), axis, given.get("group", 1), weight, known)


def faults(site: Site) -> dict[str, Change]:
    """What goes wrong in folds: the faults that this site can have."""
    found: dict[str, Change] = {
        "epsilon forgotten": lambda s: (s.weight * np.asarray(1 + 5e-6, s.weight.dtype), s.bias),
    }
    if len(site.weight) > 1:
        found["channels of the weight swapped"] = lambda s: (s.weight[[1, 0, *range(2, len(s.weight))]], s.bias)
    if site.bias is not None and site.bias.any():
        found["bias forgotten"] = lambda s: (s.weight, np.zeros_like(s.bias))
    if 1 < site.group < len(site.weight):
        found["layout of the groups"] = lambda s: (by_member(s.weight, s.group), s.bias)
    return found


def one_channel(factor: float) -> Change:
    """The channel with the largest weights, times a factor."""

    def change(site: Site) -> tuple[Array, Array | None]:
        weight = site.weight.copy()
        weight[np.abs(weight).reshape(len(weight), -1).max(1).argmax()] *= np.asarray(factor, weight.dtype)
        return weight, site.bias

    return change


def by_member(weight: Array, group: int) -> Array:
    """Output channels in the order of their place in the group, instead of group by group."""
    order = np.arange(len(weight)).reshape(group, -1).T.ravel() if len(weight) % group == 0 else slice(None, None, -1)
    return weight[order]


def with_fault(model: onnx.ModelProto, site: Site, change: Change) -> onnx.ModelProto:
    """A copy of the folded model with one site changed."""
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    held = stored(copy.graph)
    weight, bias = change(site)
    for name, value in zip(site.names, (np.moveaxis(weight, 0, site.axis), bias), strict=True):
        if name and value is not None:
            held[name].CopyFrom(numpy_helper.from_array(np.ascontiguousarray(value), held[name].name))
    return copy
