"""Find every affine node, give each a home among the constants, and say why when there is none."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from itertools import chain
from typing import Any

import numpy as np
import onnx
import onnx_graphsurgeon as gs

from ..algebra.affine import Refused, require
from ..algebra.rounding import holds
from ..errors import BnfoldError
from ..graph.editor import Editor
from ..graph.foreign import keeps_type
from ..graph.queries import dtype, is_floating, label, operator
from ..graph.scopes import Visible
from ..model import external, onnx_io
from ..model.inlining import holders, inlined
from ..model.models import Model
from ..model.storage import Storage
from ..model.validity import consistent, require_acyclic, require_known, require_valid
from ..system.limits import PLANNING, timed
from .affine_nodes import affine_of, batch_normalization, is_batch_normalization
from .branches import make_merge, may_merge
from .cleanup import cancel
from .plan import Direction, Law, Plan, make_plan, make_split
from .reasons import Folded as Folded
from .reasons import Kept as Kept
from .reasons import Reason as Reason
from .result import Explanation as Explanation
from .result import FoldResult as FoldResult

CASTS = ("Cast", "CastLike")
COMMUTING = ("Flatten", "Identity", "MaxPool", "Relu", "Reshape", "Squeeze", "Transpose", "Unsqueeze")  # with rounding


def fold(model: Model, *, freeze_initializers: bool = False) -> FoldResult:
    """Fold every affine node of a model that has a home among its constants.

    `model` is a path, bytes, a ModelProto, an onnx_ir.Model or a torch.onnx.ONNXProgram, and is left as it was; what
    is returned holds a ModelProto. Initializers that are also graph inputs may be overridden by the caller and are not
    touched, unless `freeze_initializers`. All arithmetic is float64, rounded once to the stored type.

    Raises ModelProblem for a model that cannot be read, is in training mode, or has statistics that are not numbers;
    and for one that is not valid ONNX, where that prevents the fold; TypeError for what is no model.
    """
    with open_model(model) as (record, storage):
        return fold_in_place(record, storage, freeze_initializers)


def explain(model: Model, *, freeze_initializers: bool = False) -> Explanation:
    """What `fold` would do with each affine node: its new home, or both reasons for keeping it.

    Takes and raises what `fold` does; EnvironmentProblem where that takes longer than the limit of seconds.
    """
    with open_model(model, detach=True) as (record, storage), timed("the plan of the fold", PLANNING):
        result = fold_in_place(record, storage, freeze_initializers, defer=True)
    return Explanation(result.folded, result.kept)


@contextmanager
def open_model(model: Model, detach: bool = False) -> Iterator[tuple[onnx.ModelProto, Storage]]:
    """A record of the model that may be consumed, and where its data lies.

    Whether it is valid ONNX is checked only where the block fails: then that is the reason. Raises ModelProblem.
    """
    record, storage = onnx_io.consumable(model, detach=detach)
    external.require_data(record, storage)
    require_acyclic(record)
    try:
        yield record, storage
    except (BnfoldError, Refused):
        raise
    except Exception:
        record, storage = onnx_io.consumable(model)
        require_known(record, "the model")
        require_valid(record, "the model", storage)
        raise


def fold_in_place(
    record: onnx.ModelProto, storage: Storage, freeze_initializers: bool = False, defer: bool = False
) -> FoldResult:
    """`fold` on a record that may be consumed, whose data lies where `storage` says.

    With `defer` large new constants are computed only when the model is written; `flushed` does not count them.
    Functions are folded inside their bodies; those that still hold a BatchNormalization are inlined if that helps.
    """
    defer = defer and not holders(record)  # what may be folded twice is computed at once
    result = fold_as_it_stands(record, storage, freeze_initializers, defer)
    names = [f"{domain}::{name}" for domain, name in holders(record)]
    if not names:
        return result
    again = fold_as_it_stands(inlined(record), storage, freeze_initializers)
    if len(again.batch_norms_kept) >= len(result.batch_norms_kept):
        return result
    record.CopyFrom(again.model)
    notes = *result.notes, f"inlined, because their callers hold their constants: {', '.join(names)}"
    folded, flushed = (*result.folded, *again.folded), result.flushed + again.flushed
    return FoldResult(record, folded, again.kept, notes, flushed)


def fold_as_it_stands(
    record: onnx.ModelProto, storage: Storage, freeze_initializers: bool, defer: bool = False
) -> FoldResult:
    """`fold_in_place`, every graph and function for itself."""
    editor = Editor(record, storage, freeze_initializers, defer)
    with consistent(editor.bare):
        return carried_out(editor)


def carried_out(editor: Editor) -> FoldResult:
    """Fold what can be folded, until nothing is left that can be."""
    norms = {id(n): unread(n) for n in editor.nodes() if is_batch_normalization(n)}
    folded: dict[int, Folded] = {}
    while True:  # until a whole round folds nothing: each fold removes a node, and may clear the way for another
        hoisted, merged = [*moves(editor, "hoist")], [*merges(editor)]
        sunk = [*moves(editor, "sink")]
        done = by_node(hoisted, merged, sunk) or by_node(splits(editor))
        folded |= done
        if not done:
            break
    kept = tuple(kept_after(hoisted, merged, sunk))
    folded |= {key: norms[key] for key in norms.keys() - folded.keys() - set(map(id, editor.alive()))}
    order = [folded[id(n)] for n in editor.nodes() if id(n) in folded]
    editor.notes += foreign_quantizers(editor.alive())
    model = editor.close()
    return FoldResult(model, tuple(order), kept, tuple(editor.notes), editor.flushed, editor.touched())


def foreign_quantizers(nodes: Iterable[gs.Node]) -> list[str]:
    """A note that says which quantizers of other tools are in the graph: nothing moves through them."""
    kinds = Counter(f"{node.op} of {node.domain}" for node in nodes if keeps_type(node))
    named = ", ".join(f"{kind} ({count})" for kind, count in kinds.items())
    return [f"quantizers of other tools stay as they are: {named}"] if named else []


def unread(node: gs.Node) -> Folded:
    """A BatchNormalization whose last reader went: what read it (its shape, say) became a stored constant."""
    return Folded(node.name, operator(node), node.outputs[0].name, "sink", (), ())


def by_node(*outcomes: Iterable[NodeOutcome]) -> dict[int, Folded]:
    return {id(node): outcome for node, outcome in chain(*outcomes) if isinstance(outcome, Folded)}


def splits(editor: Editor) -> Iterator[NodeOutcome]:
    """The last resort for a BatchNormalization: its scale moves on; of its shift an Add stays."""
    for node in filter(is_batch_normalization, editor.alive()):
        with suppress(Refused):
            yield node, split_off_shift(editor, node)


def split_off_shift(editor: Editor, node: gs.Node) -> Folded:
    """Fold a BatchNormalization except for an Add, as near to the inputs as its shift can go without repeating."""
    source, affine = node.inputs[0], batch_normalization(node)
    try:
        plan = make_plan(editor.visible, "hoist", source, affine, 1)
    except Refused as refused:
        if refused.code != "REPEATS":
            raise
        plan = make_split(editor.visible, source, affine)
    return carry_out(editor, "hoist", node, source, plan)


NodeOutcome = tuple[gs.Node, Folded | Reason]


def moves(editor: Editor, direction: Direction) -> Iterator[NodeOutcome]:
    """Try to move every affine node one way: to the inputs in topological order, to the outputs in reverse order."""
    nodes = editor.alive()
    for node in filter(editor.is_alive, nodes if direction == "hoist" else reversed(nodes)):
        try:
            read = affine_of(node)
            if read is not None:
                source, affine = read
                tensor = source if direction == "hoist" else node.outputs[0]
                plan = make_plan(editor.visible, direction, tensor, affine)
                yield node, carry_out(editor, direction, node, source, plan)
        except Refused as refused:
            yield node, Reason(refused.code, str(refused))


def merges(editor: Editor) -> Iterator[NodeOutcome]:
    """Try to make one convolution of every sum of parallel branches."""
    for node in filter(may_merge, filter(editor.is_alive, editor.alive())):
        try:
            yield from carry_out_merge(editor, node, *make_merge(editor.visible, node))
        except Refused as refused:
            yield node, Reason(refused.code, str(refused))


def carry_out_merge(
    editor: Editor, node: gs.Node, plan: Plan, keeper: gs.Node, others: list[gs.Node]
) -> list[NodeOutcome]:
    """Let one convolution take over a sum, and say so of each node that goes."""
    outcomes: list[NodeOutcome] = [(n, described(n, "merge", plan)) for n in (node, *others)]
    for edit in plan.edits:
        editor.apply(edit)
    editor.notes += [note for note in plan.notes if note not in editor.notes]
    editor.bypass(node, keeper.outputs[0], keep_name=True)
    return outcomes


def carry_out(editor: Editor, direction: Direction, node: gs.Node, source: gs.Tensor, plan: Plan) -> Folded:
    """Fold one affine node one way. Raises Refused, with nothing changed, where that adds a rounding to fewer bits."""
    if direction == "hoist":
        require_rounded_again(editor.visible, plan, node.outputs[0])
    outcome = described(node, direction, plan)
    for edit in plan.edits:
        editor.apply(edit)
    editor.notes += [note for note in dict.fromkeys(plan.notes) if note not in editor.notes]
    cancel(editor, editor.bypass(node, source, keep_name=direction == "hoist"))
    return outcome


def require_rounded_again(visible: Visible, plan: Plan, result: gs.Tensor) -> None:
    """Refuse a hoist past a Cast to more bits, unless its `result` goes back to as few: it would be rounded to them."""
    for node in plan.through:
        if operator(node) in CASTS:
            few, many = dtype(node.inputs[0]), dtype(node.outputs[0])
            again = holds(few, many) or goes_back(visible, result, few)
            require(again, "DTYPE", f"{label(node)} comes from {few}, to which '{result.name}' would be rounded")


def goes_back(visible: Visible, tensor: gs.Tensor, kind: np.dtype[Any]) -> bool:
    """Whether all that reads a tensor casts it to a type whose numbers `kind` holds; rounding may come before that."""
    agenda = [tensor]
    while agenda:
        at = agenda.pop()
        if at in visible or not at.outputs:
            return False
        for node in at.outputs:
            made = node.outputs[0]
            if operator(node) in COMMUTING:
                agenda.append(made)
            elif operator(node) not in CASTS or not (is_floating(made) and holds(kind, dtype(made))):
                return False
    return True


def described(node: gs.Node, law: Law, plan: Plan) -> Folded:
    through, into = (tuple(label(n) for n in nodes) for nodes in (plan.through, plan.targets))
    return Folded(node.name, operator(node), node.outputs[0].name, law, through, into)


def why_not_merged(sums: Mapping[int, Reason]) -> Callable[[gs.Node], Reason | None]:
    """Of a node that makes a branch why its sum did not merge; `sums` are the reasons of nodes, by their id().

    A sum that has no reason of its own has that of a node that makes another branch of it.
    """
    known: dict[int, Reason | None] = {}

    def of_sum(node: gs.Node) -> Reason | None:
        if id(node) not in known:
            makers = (maker for x in node.inputs for maker in x.inputs)
            reasons = (sums.get(id(each)) for each in chain([node], makers))
            known[id(node)] = next((r for r in reasons if r and r.code != "NO_BRANCHES"), None)
        return known[id(node)]

    return lambda node: next(filter(None, map(of_sum, node.outputs[0].outputs)), None)


def kept_after(hoisted: list[NodeOutcome], merged: list[NodeOutcome], sunk: list[NodeOutcome]) -> Iterator[Kept]:
    """The reasons for each affine node, after a round that folded nothing."""
    back, aside, on = ({id(n): r for n, r in outcomes if isinstance(r, Reason)} for outcomes in (hoisted, merged, sunk))
    not_merged = why_not_merged(aside)
    for node, _ in hoisted:
        reasons = (back[id(node)], on[id(node)], not_merged(node))
        yield Kept(node.name, operator(node), node.outputs[0].name, *reasons)
