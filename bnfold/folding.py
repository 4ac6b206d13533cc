"""Find every affine node, give each a home among the constants, and say why when there is none."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from os import PathLike
from pathlib import Path

import onnx
import onnx_graphsurgeon as gs

from . import onnx_io
from .affine import Affine, Refused
from .affine_nodes import affine_of
from .graph import label, operator
from .plan import Direction, Plan, make_plan
from .workbench import Workbench

Model = onnx.ModelProto | str | PathLike[str]


@dataclass(frozen=True)
class Reason:
    """Why an affine could not move one way: `words` finish "kept because ...", `code` is stable for machines."""

    code: str
    words: str


@dataclass(frozen=True)
class Folded:
    """An affine node that is gone: which way it went, past which nodes, and into whose constants."""

    node: str
    operator: str
    output: str
    direction: Direction
    through: tuple[str, ...]
    into: tuple[str, ...]


@dataclass(frozen=True)
class Kept:
    """An affine node that is still there, and why neither direction was open."""

    node: str
    operator: str
    output: str
    not_hoisted: Reason
    not_sunk: Reason


@dataclass(frozen=True)
class FoldResult:
    """What `fold` returns.

    `model` is the folded model; `folded` and `kept` list every affine node of the original in the order of its graph;
    `flushed` counts the numbers too small for their type, which became zero; `notes` say what else a careful reader
    wants to know.
    """

    model: onnx.ModelProto = field(repr=False)
    folded: tuple[Folded, ...]
    kept: tuple[Kept, ...]
    notes: tuple[str, ...]
    flushed: int

    @property
    def batch_norms_kept(self) -> tuple[Kept, ...]:
        return tuple(k for k in self.kept if k.operator == "BatchNormalization")

    @property
    def batch_norms_folded(self) -> tuple[Folded, ...]:
        return tuple(f for f in self.folded if f.operator == "BatchNormalization")


def fold(model: Model, *, freeze_initializers: bool = False) -> FoldResult:
    """Fold every affine node of a model that has a home among its constants.

    `model` is a path or a ModelProto, which is left as it was. Initializers that are also graph inputs may be
    overridden by the caller and are not touched, unless `freeze_initializers`. All arithmetic is float64, rounded once
    to the stored type. Raises ModelProblem for a model that cannot be read, is in training mode, or has statistics
    that are not numbers.
    """
    if isinstance(model, onnx.ModelProto):
        record, folder = onnx.ModelProto(), None
        record.CopyFrom(model)
    else:
        record, folder = onnx_io.load(model), Path(model).parent
    return fold_in_place(record, folder, freeze_initializers)


def explain(model: Model, *, freeze_initializers: bool = False) -> tuple[Folded | Kept, ...]:
    """What `fold` would do with each affine node: its new home, or both reasons for keeping it."""
    result = fold(model, freeze_initializers=freeze_initializers)
    return (*result.folded, *result.kept)


def fold_in_place(record: onnx.ModelProto, folder: Path | None, freeze_initializers: bool = False) -> FoldResult:
    """`fold` on a record that may be consumed; external data is read from `folder`."""
    bench = Workbench(record, folder, freeze_initializers)
    place = {id(n): i for i, n in enumerate(bench.nodes)}
    folded: dict[int, Folded] = {}
    while True:  # until a whole round folds nothing: each fold removes a node, and may clear the way for another
        fates = [*attempts(bench, "hoist"), *attempts(bench, "sink")]
        done = {place[id(node)]: fate for node, fate in fates if isinstance(fate, Folded)}
        folded |= done
        if not done:
            break
    model = bench.close()
    return FoldResult(
        model=model,
        folded=tuple(folded[i] for i in sorted(folded)),
        kept=tuple(kept_after(fates)),
        notes=tuple(bench.notes),
        flushed=bench.flushed,
    )


Fate = tuple[gs.Node, Folded | Reason]


def attempts(bench: Workbench, direction: Direction) -> Iterator[Fate]:
    """Try to move every affine node one way: to the inputs in topological order, to the outputs in reverse order."""
    nodes = bench.alive()
    for node in nodes if direction == "hoist" else reversed(nodes):
        try:
            read = affine_of(node)
            if read is not None:
                yield node, carry_out(bench, direction, node, *read)
        except Refused as refused:
            yield node, Reason(refused.code, str(refused))


def carry_out(bench: Workbench, direction: Direction, node: gs.Node, source: gs.Tensor, affine: Affine) -> Folded:
    """Fold one affine node one way; raises Refused, with nothing changed, if any part of it finds no home."""
    tensor = source if direction == "hoist" else node.outputs[0]
    plan = make_plan(bench.visible, direction, tensor, affine)
    told = Folded(node.name, operator(node), node.outputs[0].name, direction, *told_of(plan))
    for edit in plan.edits:
        bench.apply(edit)
    bench.bypass(node, source, keep_name=direction == "hoist")
    return told


def told_of(plan: Plan) -> tuple[tuple[str, ...], tuple[str, ...]]:
    return tuple(label(n) for n in plan.through), tuple(label(n) for n in plan.targets)


def kept_after(fates: list[Fate]) -> Iterator[Kept]:
    """Pair the two refusals of each node in a round that folded nothing."""
    reasons: dict[int, list[Reason]] = {}
    for node, fate in fates:
        assert isinstance(fate, Reason)
        reasons.setdefault(id(node), []).append(fate)
    for node, _ in fates[: len(reasons)]:
        not_hoisted, not_sunk = reasons[id(node)]
        yield Kept(node.name, operator(node), node.outputs[0].name, not_hoisted, not_sunk)
