"""Sites behind a product of two tensors that both depend on data, as in attention: q and k, or weights and v.

A MatMul is linear in each operand. Where one of them is the same in both models, the products are the same if the other
operands are, each times the number that its model multiplies the product by. So these numbers are moved to the operand
that differs, and the site in question is that operand.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import onnx
from onnx import helper

from ..runtime.protos import called
from .impulses import NotDerived
from .pieces import Piece, Question, piece
from .regions import MOVES, SELECT
from .sides import Side, computation


class Product(NamedTuple):
    """A MatMul, and the nodes that multiply what it makes by one number, in their order."""

    node: onnx.NodeProto
    after: list[onnx.NodeProto]


def operands(sides: Sequence[Side], cuts: Sequence[Mapping[str, str]], site: str) -> Question:
    """The question whether the operands are the same that differ in a product.

    Raises NotDerived where the site is no such product.
    """
    ours, theirs = (_product(side, site) for side in sides)
    if ours.node.op_type != theirs.node.op_type or ours.node.domain != theirs.node.domain:
        raise NotDerived("the models multiply by different operators")
    for port in (0, 1):
        known = cuts[1].get(theirs.node.input[port])
        if known and known == cuts[0].get(ours.node.input[port]):
            names = _unmoved(sides, cuts, [each.node.input[1 - port] for each in (ours, theirs)])
            found = zip(sides, cuts, (ours, theirs), names, strict=True)
            return Question([_operand(*each) for each in found], OPERAND, names[0])
    raise NotDerived("both operands of a product differ")


OPERAND = "the operand of a product"  # no tensor of a model is called so


def _product(side: Side, site: str) -> Product:
    node, after = side.makers[site], list[onnx.NodeProto]()
    while called(node) in ("Mul", "Div"):
        data = [i for i, name in enumerate(node.input) if name not in side.fixed]
        if len(data) != 1 or (called(node) == "Div" and data != [0]) or not _is_number(side, node.input[1 - data[0]]):
            break
        after.insert(0, node)
        if node.input[data[0]] not in side.makers:
            break
        node = side.makers[node.input[data[0]]]
    if called(node) != "MatMul" or not side.fixed.isdisjoint(node.input):
        raise NotDerived("it is not a product of two tensors")
    return Product(node, after)


def _is_number(side: Side, name: str) -> bool:
    return name in side.stored and set(side.stored[name].dims) <= {1}


def _unmoved(sides: Sequence[Side], cuts: Sequence[Mapping[str, str]], names: list[str]) -> list[str]:
    """What both models rearrange into the tensors `names` alike: it may as well be multiplied by a number before."""
    while not any(name in known for name, known in zip(names, cuts, strict=True)):
        nodes = [side.makers[name] for side, name in zip(sides, names, strict=True)]
        ours, theirs = (_rearranges(side, node) for side, node in zip(sides, nodes, strict=True))
        if ours is None or ours != theirs:
            break
        names = [str(node.input[0]) for node in nodes]
    return names


def _rearranges(side: Side, node: onnx.NodeProto) -> tuple[Any, ...] | None:
    """What a node does to the order of elements, all of which it hands on; None if it does something else."""
    sizes = [side.stored.get(name) for name in node.input[1:]]
    if called(node) not in MOVES - SELECT or None in sizes or node.input[0] in side.fixed:
        return None
    return (*computation(node, [""]), *(tensor.SerializeToString() for tensor in sizes if tensor))


def _operand(side: Side, cuts: Mapping[str, str], product: Product, last: str) -> Piece:
    """What makes the operand `last`, times the numbers that the product is multiplied by."""
    own = Piece([], [cuts[last]], []) if last in cuts else piece(side, cuts, last)
    nodes, constants, made, last = [*own.nodes], [*own.constants], product.node.output[0], cuts.get(last, last)
    for number, node in enumerate(product.after):
        nodes.append(copy := onnx.NodeProto())
        copy.CopyFrom(node)
        copy.input[:] = [last if name == made else name for name in node.input]
        made, last = node.output[0], f"{OPERAND}, times {number + 1} numbers"
        copy.output[:] = [last]
        constants += [side.initializers[name] for name in node.input if name in side.initializers]
    nodes.append(helper.make_node("Identity", [last], [OPERAND]))
    return Piece(nodes, own.entering, list({tensor.name: tensor for tensor in constants}.values()))
