"""What is to be proved of a site, cut out of both models where they make the same, or related, tensors."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence, Set
from dataclasses import dataclass, field, replace
from typing import NamedTuple

import numpy as np
import onnx
from onnx import helper, numpy_helper

from ...model.messages import bodies
from ..float64.windows import Array
from .impulses import NotDerived
from .indexed_model import IndexedModel
from .pieces import OF_RELATION, Piece
from .scale_and_shift import Relation

RENAMED = ", of the folded model"  # ends the name of a tensor that the original calls another one
PIECE_NODES = 64  # nodes of a piece


class Claim(NamedTuple):
    """What is to be proved: that a tensor `site` is the same in a piece of the original and one of the folded model.

    It has the shape and type of the original's tensor `like`.
    """

    pieces: Sequence[Piece]
    site: str
    like: str


class Argument(NamedTuple):
    """Claims from which it follows that a site is the same.

    Where the tensors that they are about are related to the original's, `relation` is that of the site, or None.
    """

    claims: Sequence[Claim]
    relation: Callable[[Sequence[Relation]], Relation | None]


@dataclass(frozen=True)
class Cuts:
    """Where both models may be cut: tensors of one of them, with the first names that these have in the original.

    Those of the folded model may be scaled and shifted by constants: by which is in `relations`.
    """

    model: IndexedModel
    names: Mapping[str, str]
    relations: Mapping[str, Relation] = field(default_factory=dict)
    changed: Set[str] = frozenset()

    @property
    def exact(self) -> Cuts:
        """Those alone that are the same in both models."""
        return replace(self, names={name: first for name, first in self.names.items() if name not in self.relations})

    def without(self, tensor: str) -> Cuts:
        return replace(self, names={name: first for name, first in self.names.items() if first != tensor})


def whole(cuts: Sequence[Cuts], site: str) -> Argument:
    """The one claim that a site is the same, cut out of both models where the same tensors enter."""
    others = [each.without(site) for each in cuts]
    claim = Claim(aligned(others, lambda each: piece(each, site)), site, site)
    return Argument([claim], lambda relations: relations[0])


def aligned(cuts: Sequence[Cuts], cut_out: Callable[[Cuts], Piece]) -> list[Piece]:
    """Pieces of both models, cut where the same tensors enter."""
    while True:
        pieces = [cut_out(each) for each in cuts]
        if not (apart := {*pieces[0].entering} ^ {*pieces[1].entering}):
            return pieces
        last = max(apart, key=lambda name: cuts[0].model.places.get(name, -1))
        cuts = [each.without(last) for each in cuts]


def piece(cuts: Cuts, site: str) -> Piece:
    """Cut out what computes `site`."""
    if site not in cuts.model.makers:
        raise NotDerived(f"{site!r} is an input of one of the models only")
    model, needed, entering, agenda = cuts.model, {site}, dict[str, str](), [*cuts.model.makers[site].input]
    while agenda:
        name = agenda.pop()
        if name in cuts.names:
            entering[name] = cuts.names[name]
        elif name in model.inputs:
            raise NotDerived(f"{name!r} is an input of one of the models only")
        elif name in model.makers and name not in needed:
            needed.add(name)
            agenda += model.makers[name].input
        if len(needed) > PIECE_NODES:
            raise NotDerived(TOO_FAR)
    nodes = [model.nodes[place] for place in sorted({model.places[name] for name in needed})]
    if any(any(bodies(node)) for node in nodes):
        raise NotDerived(TOO_FAR)
    read = dict.fromkeys(name for node in nodes for name in node.input)
    constants = [model.initializers[name] for name in read if name in model.initializers]
    own = Piece(nodes, sorted({*entering.values()}), constants, cuts.changed)
    return entered(own, site, entering, cuts.relations)


def entered(own: Piece, site: str, entering: Mapping[str, str], relations: Mapping[str, Relation]) -> Piece:
    """A piece that reads what enters by its name in the original; what is only related to that, scaled and shifted."""
    if all(name == first and name not in relations for name, first in entering.items()):
        return own
    other = {*entering.values()} - entering.keys()  # tensors of the original, whose names others may have here
    inner = {name: name + RENAMED for node in own.nodes for name in node.output if name in other}
    if site in inner or not other.isdisjoint(tensor.name for tensor in own.constants):
        raise NotDerived("the two models call different tensors alike")
    related = {name: relations[name] for name in entering if name in relations}
    nodes, constants = list[onnx.NodeProto](), [*own.constants]
    names = dict(entering)
    for name, relation in related.items():
        size = np.maximum(relation.size, np.abs(relation.shift))
        for operator, values in (("Mul", relation.scale), ("Add", size + relation.shift), ("Sub", size)):
            if (values != (operator == "Mul")).any():
                own_nodes, own_constants = _by_constant(operator, names[name], name, values, relation.inner)
                nodes, constants = [*nodes, *own_nodes], [*constants, *own_constants]
                names[name] = own_nodes[-1].output[0]
    for node in own.nodes:
        nodes.append(copy := onnx.NodeProto())
        copy.CopyFrom(node)
        copy.input[:] = [names.get(name, inner.get(name, name)) for name in node.input]
        copy.output[:] = [inner.get(name, name) for name in node.output]
    ratio = max((relation.ratio for relation in related.values()), default=0.0)
    roundings = max((relation.roundings for relation in related.values()), default=0.0)
    return replace(own, nodes=nodes, constants=constants, ratio=ratio, roundings=roundings)


def _by_constant(
    operator: str, source: str, name: str, values: Array, inner: Sequence[int]
) -> tuple[list[onnx.NodeProto], list[onnx.TensorProto]]:
    """Nodes that combine a tensor with numbers, which are repeated along its first axis, and their constants."""
    constant, made = f"{name}, {operator} by", f"{name}, {operator}"
    if values.shape[:1] <= (1,):
        node = helper.make_node(operator, [source, constant], [made], OF_RELATION.get(operator))
        return [node], [numpy_helper.from_array(values, constant)]
    shapes = [-1, len(values), *inner], [-1, *inner]
    names = [f"{constant}, rows", f"{constant}, shape"]
    nodes = [
        helper.make_node("Reshape", [source, names[0]], [f"{made}, rows"]),
        helper.make_node(operator, [f"{made}, rows", constant], [f"{made}, each"], OF_RELATION.get(operator)),
        helper.make_node("Reshape", [f"{made}, each", names[1]], [made]),
    ]
    numbers = [np.array(shape, np.int64) for shape in shapes]
    arrays = zip([*numbers, values[None]], [*names, constant], strict=True)
    return nodes, [numpy_helper.from_array(array, each) for array, each in arrays]


TOO_FAR = "it is too far from tensors that both models share"
