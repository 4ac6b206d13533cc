"""Sites behind a product of two tensors that both depend on data, as in attention: q and k, or weights and v.

A MatMul is linear in each operand. Where one of them is the same in both models, the products are the same if the other
operands are, each times the number that its model multiplies the product by. So these numbers are moved to the operand
that differs, and the site in question is that operand.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import onnx
from onnx import helper

from ..runtime.protos import called
from .impulses import NotDerived
from .pieces import Piece, Question, piece
from .sides import Side


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
            found = zip(sides, cuts, (ours, theirs), strict=True)
            return Question([_operand(*each, 1 - port) for each in found], OPERAND, ours.node.input[1 - port])
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


def _operand(side: Side, cuts: Mapping[str, str], product: Product, port: int) -> Piece:
    """What makes an operand, times the numbers that the product is multiplied by."""
    last = product.node.input[port]
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
