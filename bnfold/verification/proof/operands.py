"""Sites that both models make by one and the same last operator: the claims are about its operands.

For any operator, as Gelu, the operand that differs has to be the same, for it is not known what becomes of a relation.
A sum or a product of tensors that depend on data, as in attention, may have operands that are scaled and shifted: then
it is scaled and shifted itself, as `_of_sum` and `_of_product` say. What either model multiplies a product by is moved
to its operand.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial, reduce
from typing import Any, NamedTuple

import numpy as np
import onnx
from onnx import helper, numpy_helper

from ...model.messages import bodies
from ...runtime import detached
from ...runtime.protos import called
from ..float64.oracle import Oracle
from ..float64.windows import Array
from ..regions import REARRANGES
from .any_size import fits_into
from .claims import Argument, Claim, Cuts, aligned, entered, piece
from .conditions import UNUSUAL_HALF
from .impulses import NotDerived
from .indexed_model import IndexedModel, computation
from .pieces import LINEAR_IN_DATA, Piece
from .scale_and_shift import SAME, Relation

ADDITIONS = frozenset(["Add", "Sub"])
PRODUCTS = frozenset(["MatMul", "Mul", "Div"])
ExamplesOfSizes = Callable[[], Sequence[Mapping[str, Array]]]
OPERAND = "the operand of the last operator"  # no tensor of a model is called so


class Last(NamedTuple):
    """The last operator of a site, and the nodes that multiply what it makes by one number, in their order."""

    node: onnx.NodeProto
    after: list[onnx.NodeProto]


def by_operands(cuts: Sequence[Cuts], site: str, sizes: ExamplesOfSizes) -> Argument:
    """The claims about the operands that differ; `sizes` makes examples of tensors for some sizes, and for others.

    Raises NotDerived for another kind of site.
    """
    lasts = [_last(each, site, sizes) for each in cuts]
    ours, theirs = (last.node for last in lasts)
    operator, is_scaled = called(ours), any(last.after for last in lasts)
    if computation(ours, []) != computation(theirs, []) or len(ours.input) != len(theirs.input):
        raise NotDerived("the last operators are others")
    ports = [i for i in range(len(ours.input)) if not _is_same(cuts, ours.input[i], theirs.input[i])]
    ports = ports or [0] * is_scaled
    if not ports or (len(ports) > 1 and operator not in ADDITIONS | PRODUCTS):
        raise NotDerived("more than one operand of the last operator differs")
    if any(last.node.input[port] in each.model.fixed for port in ports for last, each in zip(lasts, cuts, strict=True)):
        raise NotDerived("an operand of the last operator is another constant")
    if operator == "Div" and ports[0] == 1 and is_scaled:
        raise NotDerived("numbers after a division by data do not move to what it divides by")
    claims = {port: _claim(cuts, lasts, port, port == ports[0]) for port in ports}
    moved = {port for port, claim in claims.items() if claim.like != ours.input[port]}
    return Argument([*claims.values()], partial(_through, ours, ports, moved))


def of_other_name(cuts: Sequence[Cuts], names: Sequence[str]) -> Argument:
    """The one claim that the original's tensor `names[0]` is the folded model's `names[1]`."""
    known = {id(each.model): name for each, name in zip(cuts, names, strict=True)}
    pieces = aligned(cuts, lambda each: _operand(each, [], "", known[id(each.model)]))
    return Argument([Claim(pieces, OPERAND, names[0])], lambda relations: relations[0])


def _claim(cuts: Sequence[Cuts], lasts: Sequence[Last], port: int, is_scaled: bool) -> Claim:
    """That one operand is the same; `is_scaled` with the numbers that the result is multiplied by."""
    names = [last.node.input[port] for last in lasts]
    names = names if called(lasts[0].node) in ADDITIONS else _unmoved(cuts, names)
    known = {id(each.model): (last, name) for each, last, name in zip(cuts, lasts, names, strict=True)}

    def cut_out(each: Cuts) -> Piece:
        last, name = known[id(each.model)]
        return _operand(each, last.after if is_scaled else [], last.node.output[0], name)

    return Claim(aligned(cuts, cut_out), OPERAND, names[0])


def _through(
    node: onnx.NodeProto, ports: Sequence[int], moved: set[int], operands: Sequence[Relation]
) -> Relation | None:
    """The relation of what an operator makes, of those of the operands at `ports`; None if it is not known.

    At the ports `moved`, operands are rearrangements of what the relation is of.
    """
    known = dict(zip(ports, operands, strict=True))
    if any(relation.scale.size > 1 or relation.shift.size > 1 for port, relation in known.items() if port in moved):
        return None
    relations = [known.get(port, SAME) for port in range(len(node.input))]
    made = _of_sum(node, relations) if called(node) in ADDITIONS else _of_product(node, relations)
    if made is None:
        return None
    ratio, roundings = (max(r.ratio for r in relations), max(r.roundings for r in relations))
    return made._replace(ratio=ratio, roundings=roundings)


def _of_sum(node: onnx.NodeProto, operands: Sequence[Relation]) -> Relation | None:
    """(s x + t) + (s y + u) == s (x + y) + (t + u)"""
    first, second = operands
    try:
        if (first.scale != second.scale).any():
            return None
    except ValueError:  # of shapes that do not fit
        return None
    if first.inner and second.inner and first.inner != second.inner:
        return None
    shift = first.shift - second.shift if called(node) == "Sub" else first.shift + second.shift
    return Relation(np.asarray(first.scale * np.ones_like(second.scale)), np.asarray(shift), first.size + second.size)


def _of_product(node: onnx.NodeProto, operands: Sequence[Relation]) -> Relation | None:
    """(s x) (r y) == (s r) (x y), where a product of matrices sums over no different scales; (s x) / y == s (x / y)"""
    operator = called(node)
    if operator not in PRODUCTS or any(relation.shift.any() for relation in operands):
        return None
    if operator == "Div" and (operands[1].scale != 1).any():
        return None
    for port, relation in enumerate(operands if operator == "MatMul" else ()):
        summed = relation.scale.ndim - 1 - port  # the axis of the operand that is summed over
        if relation.scale.size > 1 and (relation.scale.ndim < 2 or relation.scale.shape[summed] > 1):
            return None
    try:
        scale = reduce(np.multiply, (relation.scale for relation in operands))
    except ValueError:  # of shapes that do not fit
        return None
    if any(_is_undone(relation.scale, scale) for relation in operands):
        return None
    return Relation(np.asarray(scale), np.zeros((1,) * scale.ndim), np.zeros((1,) * scale.ndim))


def _is_undone(scale: Array, of_product: Array) -> bool:
    """Whether an operand has a scale that its type may not reach, and the product has not: what is lost stays so."""
    usual = [(np.abs(each) > 1 / UNUSUAL_HALF) & (np.abs(each) < UNUSUAL_HALF) for each in (scale, of_product)]
    return bool((~usual[0] & usual[1]).any())


def _is_same(cuts: Sequence[Cuts], ours: str, theirs: str) -> bool:
    if not ours or not theirs:
        return ours == theirs
    stored = [known.model.stored.get(name) for known, name in zip(cuts, (ours, theirs), strict=True)]
    known = [known.names.get(name) for known, name in zip(cuts, (ours, theirs), strict=True)]
    return (stored[0] is not None and stored[0] == stored[1]) or (
        known[0] is not None and known[0] == known[1] and theirs not in cuts[1].relations
    )


def _last(cuts: Cuts, site: str, sizes: ExamplesOfSizes) -> Last:
    model = cuts.model
    if product := _product(cuts, site, sizes):
        return product
    node = model.makers[site]
    if called(node) in ADDITIONS and model.fixed.isdisjoint(node.input):
        return Last(node, [])
    if called(node) in LINEAR_IN_DATA or [*node.output] != [site]:
        raise NotDerived("its last operator is linear")
    if any(bodies(node)):
        raise NotDerived("its last operator has a body, which may read more than operands")
    return Last(node, [])


def _product(cuts: Cuts, site: str, sizes: ExamplesOfSizes) -> Last | None:
    """A product of data before nodes that multiply it by numbers, or add nothing to it; None if it is another site."""
    model, name, after = cuts.model, site, list[onnx.NodeProto]()
    while node := model.makers.get(name):
        if called(node) in PRODUCTS and model.fixed.isdisjoint(node.input):
            return Last(node, after)
        data = [i for i, each in enumerate(node.input) if each not in model.fixed]
        if len(data) != 1 or len(node.input) != 2 or (called(node) in ("Div", "Sub") and data != [0]):
            return None
        name, constant = node.input[data[0]], node.input[1 - data[0]]
        if called(node) in ("Mul", "Div") and _is_number(model, constant):
            after.insert(0, node)
        elif called(node) not in ADDITIONS or not _is_nothing(cuts, constant, name, sizes):
            return None
    return None


def _is_nothing(cuts: Cuts, constant: str, data: str, sizes: ExamplesOfSizes) -> bool:
    """Whether a constant is all zeros, and no more of them than `data` has elements, whatever the sizes."""
    own = piece(cuts, constant) if constant in cuts.model.makers else Piece([], [], [])
    if own.entering:
        return False
    known = own.nodes and Oracle(own.model(cuts.model.model, {}, constant)).evaluate({}, [constant])
    zeros = known[constant] if known else detached.values(cuts.model.stored[constant])
    return not zeros.any() and all(data in each and fits_into(each[data].shape, zeros.shape) for each in sizes())


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


def _operand(cuts: Cuts, numbers: Sequence[onnx.NodeProto], made: str, name: str) -> Piece:
    """What makes the operand `name`, times the numbers that the last operator's result `made` is multiplied by."""
    if name in cuts.names:
        first, same = cuts.names[name], f"{OPERAND}, which enters"
        own = Piece([helper.make_node("Identity", [name], [same])], [first], [], cuts.changed)
        own, name = entered(own, same, {name: first}, cuts.relations), same
    else:
        own = piece(cuts, name)
    nodes, constants = [*own.nodes], [*own.constants]
    for number, node in enumerate(numbers):
        nodes.append(copy := onnx.NodeProto())
        copy.CopyFrom(node)
        copy.input[:] = [name if each == made else each for each in node.input]
        made, name = node.output[0], f"{OPERAND}, times {number + 1} numbers"
        copy.output[:] = [name]
        numbers_read = (each for each in node.input if each in cuts.model.stored)
        constants += [numpy_helper.from_array(detached.values(cuts.model.stored[n]), n) for n in numbers_read]
    nodes.append(helper.make_node("Identity", [name], [OPERAND]))
    return replace(own, nodes=nodes, constants=list({tensor.name: tensor for tensor in constants}.values()))
