"""Sites that both models make by one and the same last operator: the claim is that its operand is the same.

That holds for any operator, as Gelu, all other inputs of which are the same. A MatMul of two tensors that depend on
data, as in attention, is linear in each: there the operands may differ by the number that either model multiplies the
product by, so these numbers are moved to the operand.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any, NamedTuple

import onnx
from onnx import helper

from ...model.messages import bodies
from ...runtime.protos import called
from ..regions import REARRANGES
from .impulses import NotDerived
from .indexed_model import IndexedModel, computation
from .pieces import LINEAR_IN_DATA, Claim, Cuts, Piece, cut_evenly, piece

OPERAND = "the operand of the last operator"  # no tensor of a model is called so


class Last(NamedTuple):
    """The last operator of a site, and the nodes that multiply what it makes by one number, in their order."""

    node: onnx.NodeProto
    after: list[onnx.NodeProto]


def operand(cuts: Sequence[Cuts], site: str) -> Claim:
    """The claim that the one operand is the same that differs. Raises NotDerived for another kind of site."""
    ours, theirs = (_last(each.model, site) for each in cuts)
    if computation(ours.node, []) != computation(theirs.node, []) or len(ours.node.input) != len(theirs.node.input):
        raise NotDerived("the last operators are others")
    ports = [i for i in range(len(ours.node.input)) if not _is_same(cuts, ours.node.input[i], theirs.node.input[i])]
    if len(ports) != 1 or any(
        each.node.input[ports[0]] in known.model.fixed for each, known in zip((ours, theirs), cuts, strict=True)
    ):
        raise NotDerived("more than one operand of the last operator differs")
    names = _unmoved(cuts, [each.node.input[ports[0]] for each in (ours, theirs)])

    def cut_out(cuts: Sequence[Cuts]) -> list[Piece]:
        return [_operand(*each) for each in zip(cuts, (ours, theirs), names, strict=True)]

    return Claim(cut_evenly(cuts, cut_out), OPERAND, names[0])


def _is_same(cuts: Sequence[Cuts], ours: str, theirs: str) -> bool:
    if not ours or not theirs:
        return ours == theirs
    stored = [known.model.stored.get(name) for known, name in zip(cuts, (ours, theirs), strict=True)]
    known = [known.names.get(name) for known, name in zip(cuts, (ours, theirs), strict=True)]
    return (stored[0] is not None and stored[0] == stored[1]) or (
        known[0] is not None and known[0] == known[1] and theirs not in cuts[1].shifts
    )


def _last(model: IndexedModel, site: str) -> Last:
    node, after = model.makers[site], list[onnx.NodeProto]()
    while called(node) in ("Mul", "Div"):
        data = [i for i, name in enumerate(node.input) if name not in model.fixed]
        if len(data) != 1 or (called(node) == "Div" and data != [0]) or not _is_number(model, node.input[1 - data[0]]):
            break
        after.insert(0, node)
        if node.input[data[0]] not in model.makers:
            break
        node = model.makers[node.input[data[0]]]
    if called(node) == "MatMul" and model.fixed.isdisjoint(node.input):
        return Last(node, after)
    node = model.makers[site]
    if called(node) in LINEAR_IN_DATA or [*node.output] != [site]:
        raise NotDerived("its last operator is linear")
    if any(bodies(node)):
        raise NotDerived("its last operator has a body, which may read more than operands")
    return Last(node, [])


def _is_number(model: IndexedModel, name: str) -> bool:
    return name in model.stored and set(model.stored[name].dims) <= {1}


def _unmoved(cuts: Sequence[Cuts], names: list[str]) -> list[str]:
    """What both models rearrange into the tensors `names` alike: it may as well be multiplied by a number before."""
    while not any(name in known.names for name, known in zip(names, cuts, strict=True)):
        nodes = [known.model.makers[name] for name, known in zip(names, cuts, strict=True)]
        ours, theirs = (_rearranges(known.model, node) for node, known in zip(nodes, cuts, strict=True))
        if ours is None or ours != theirs:
            break
        names = [str(node.input[0]) for node in nodes]
    return names


def _rearranges(model: IndexedModel, node: onnx.NodeProto) -> tuple[Any, ...] | None:
    """What a node does to the order of elements, all of which it hands on; None if it does something else."""
    sizes = [model.stored.get(name) for name in node.input[1:]]
    if called(node) not in REARRANGES or None in sizes or node.input[0] in model.fixed:
        return None
    return (*computation(node, [""]), *(tensor.SerializeToString() for tensor in sizes if tensor))


def _operand(cuts: Cuts, last: Last, name: str) -> Piece:
    """What makes the operand `name`, times the numbers that the last operator's result is multiplied by."""
    known = name in cuts.names and name not in cuts.shifts
    own = Piece([], [cuts.names[name]], [], cuts.changed) if known else piece(cuts, name)
    nodes, constants, made = [*own.nodes], [*own.constants], last.node.output[0]
    name = cuts.names[name] if known else name
    for number, node in enumerate(last.after):
        nodes.append(copy := onnx.NodeProto())
        copy.CopyFrom(node)
        copy.input[:] = [name if each == made else each for each in node.input]
        made, name = node.output[0], f"{OPERAND}, times {number + 1} numbers"
        copy.output[:] = [name]
        constants += [cuts.model.initializers[each] for each in node.input if each in cuts.model.initializers]
    nodes.append(helper.make_node("Identity", [name], [OPERAND]))
    return replace(own, nodes=nodes, constants=list({tensor.name: tensor for tensor in constants}.values()))
