"""The algebra of one layer: the weights of both models compared directly, where one linear operator makes a fold site.

Around a Conv, ConvTranspose, Gemm or MatMul stand operators that work element by element. What they make of constants 0
and 1 is their shift, and with it their scale, for each channel, so that a model computes

    y = scale_out * (W * (scale_in * x + shift_in) + b) + shift_out

and is known, for every input of every size, by scale_out * W * scale_in and by what is left where x is zero. Both are
compared in float64, element by element. What has another form raises NotOneLayer: it is fed impulses.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from math import prod
from typing import Any

import numpy as np
import onnx

from ...runtime import detached
from ...runtime.protos import attributes, called
from ..float64.floating import roundoff
from ..float64.oracle import Oracle
from ..float64.windows import Array
from ..regions import MIXING
from ..results import SITE_LIMIT
from .around import entering, leaving, require_followable
from .impulses import NotDerived
from .pieces import Piece
from .roundoffs import COMPARED_AT_ONCE, Comparison, roundoffs
from .scale_and_shift import NotOneLayer, Relation, ScaleAndShift, about_one, along, related
from .step import HOMOGENEOUS, Step

PRODUCT = ("product",)


@dataclass(frozen=True)
class Layer:
    """What one model computes at a site.

    `weight` is a view of shape (groups, outputs, inputs, taps), `bias` and `after` are of (outputs of all groups,),
    `before` and `shift` of (inputs of all groups,).
    """

    operator: tuple[Any, ...]  # the operator and the attributes that say where taps lie
    padded: bool
    weight: Array
    bias: Array
    before: dict[tuple[Any, ...], Array]  # the scale of each tensor that enters, by its name and what it has passed
    shift: Array  # of their sum
    size: Array  # how large the numbers are that this is the sum of
    after: ScaleAndShift
    passed: tuple[Any, ...]  # operators after it that no affine is
    stays: ScaleAndShift  # a shift after these, of the tensor of the site
    made: tuple[int, ...]  # the shape of what the linear operator makes
    alone: bool  # it is one node: a response is one stored constant, not a sum or product of several
    kinds: tuple[Any, Any]  # types in which the weight, and the rest, were rounded
    for_any_size: bool  # what stands around the linear operator treats all places of an image alike
    tail: Sequence[Step]  # the operators after it
    laid: tuple[int, ...]  # the shape of what it makes, with one element for each channel where that shows all

    @property
    def axis(self) -> int:
        """Of the channels of what it makes."""
        return -1 if self.operator == PRODUCT else 1

    def blocks(self, parts: Sequence[tuple[slice, Any]]) -> Iterator[tuple[slice, Array]]:
        """Parts of scale_out * W * scale_in in float64, with their outputs, for one tensor after the other."""
        groups, outputs, inputs, _ = shape = self.weight.shape
        after = np.broadcast_to(self.after.scale.reshape(groups, outputs, 1, 1), shape)
        for _, scale in sorted(self.before.items(), key=lambda term: repr(term[0])):
            before = np.broadcast_to(scale.reshape(groups, 1, inputs, 1), shape)
            for rows, part in parts:
                yield rows, self.weight[part].astype(np.float64) * before[part] * after[part]

    def parts(self) -> list[tuple[slice, Any]]:
        """Parts of the weight that a processor's cache holds, as it lies in memory, each with its outputs."""
        groups, outputs, inputs, _ = self.weight.shape
        axis = 0 if groups > 1 else 1 if self.weight.strides[1] >= self.weight.strides[2] else 2
        length = self.weight.shape[axis]
        count = max(1, COMPARED_AT_ONCE * length // max(1, self.weight.size))
        slices = [slice(start, start + count) for start in range(0, length, count)]
        each = (outputs, 1, 0)[axis]
        rows = [slice(some.start * each, some.stop * each) if each else slice(None) for some in slices]
        return [(own, (slice(None),) * axis + (some,)) for own, some in zip(rows, slices, strict=True)]

    def carried(self, channels: Array) -> Array:
        """One number for each output of the linear operator, laid out over the tensor of the site."""
        shape = [channels.size if axis == self.axis % len(self.laid) else 1 for axis in range(len(self.laid))]
        values = np.broadcast_to(channels.reshape(shape), self.laid)
        for step in self.tail:
            values = step.carried(values)
        return values

    def shifted(self, rest: Array) -> ScaleAndShift:
        """The site's tensor where all that enters is zero, of what is left of each output there."""
        shift, size = self.carried(rest) + self.stays.shift, self.carried(self.sizes()) + self.stays.size
        return ScaleAndShift(self.stays.scale, shift, size)

    def rest(self) -> Array:
        """What is left where all that enters is zero, of shape (outputs of all groups,).

        Raises NotOneLayer where padding, which is zero after a shift, would make it differ from place to place.
        """
        if self.shift.any() and self.padded:
            raise NotOneLayer("a shift enters a padded operator")
        return np.asarray(self.after.scale * self._summed(self.shift, self.bias) + self.after.shift)

    def sizes(self) -> Array:
        """How large the numbers are that `rest` is the sum of, cancelled or not."""
        summed = self._summed(self.size, np.abs(self.bias), of=np.abs)
        return np.asarray(np.abs(self.after.scale) * summed + self.after.size)

    def _summed(self, shift: Array, bias: Array, of: Callable[[Array], Array] = np.asarray) -> Array:
        """What the operator makes of a shift of each input, with what is made `of` its weights."""
        if not shift.any():
            return bias
        groups, _, inputs, _ = self.weight.shape
        entered = np.broadcast_to(shift.reshape(groups, 1, inputs, 1), self.weight.shape)
        made = bias.astype(np.float64)
        for rows, part in self.parts():
            made[rows] += (of(self.weight[part]) * entered[part]).sum(axis=(2, 3)).ravel()
        return made


def layer(
    model: onnx.ModelProto, piece: Piece, site: str, examples: Mapping[str, Array], made: Sequence[int], kind: Any
) -> Layer:
    """The layer of a piece of `model` that makes the tensor `site`.

    `examples` are of tensors, for their shapes; `made` is that of what the linear operator makes, if it is known.
    `kind` is the type in which constants were rounded that are computed, not stored.
    """
    require_shapes(piece.entering, examples)
    steps = steps_of(model, piece, site)
    places = [i for i, step in enumerate(steps) if step.operator in MIXING]
    if len(places) != 1:
        raise NotOneLayer("it has more than one linear operator")
    step, head, tail = steps[places[0]], steps[: places[0]], steps[places[0] + 1 :]
    if [step.node.input[0]] != step.data:
        raise NotOneLayer("data is not its first input alone")
    axis, rank = -1 if step.operator in ("Gemm", "MatMul") else 1, examples[piece.entering[0]].ndim
    values = _values(model, piece, [name for name in step.node.input[1:] if name])
    operator, padded, weight = _laid(step.node, values[step.node.input[1]], rank)
    groups, outputs, inputs, _ = weight.shape
    fed = {name: _shape(head, examples[name].shape, axis) for name in piece.entering}
    before = entering(head, fed, step.data[0])
    made = tuple(made or np.shape(examples.get(step.node.output[0], 0)))
    laid = _shape(tail, made, axis)
    after = leaving(_in_a_row(step, tail), laid)
    terms = {key: along(axis, scale) for key, scale in before.terms.items()}
    sums, sizes = along(axis, before.shift), along(axis, before.size)
    affine = ScaleAndShift(*(along(axis, values, after.read) for values in after.affine))
    if (sums.size, affine.scale.size) != (groups * inputs, groups * outputs):
        raise NotOneLayer("its weight is for another number of channels")
    bias, alone = _bias(step.node, values, groups * outputs), len(piece.nodes) == 1
    kinds = [piece.rounded([name]) or kind for name in (*step.node.input[1:3], "")[:2]]
    around = terms, sums, sizes, affine, after.passed, after.stays or ScaleAndShift.identity(())
    form = alone, (kinds[0], kinds[1]), all(each.keeps_places for each in (*head, *tail))
    return Layer(operator, padded, weight, bias, *around, made, *form, tail, laid)


def require_shapes(names: Iterable[str], examples: Mapping[str, Array]) -> None:
    """Raises NotOneLayer for a tensor of which there is no example."""
    if unknown := [name for name in names if name not in examples]:
        raise NotOneLayer(f"the shape of {unknown[:1]} is not known")


def _shape(steps: Sequence[Step], shape: Sequence[int], axis: int) -> tuple[int, ...]:
    """Of a tensor on which an affine is followed: where no element changes places, one element for each channel."""
    if not shape:
        raise NotOneLayer("the shape of what it makes is not known")
    axis %= len(shape)
    if not all(step.keeps_places and step.joined_axis in (None, axis) for step in steps):
        return require_followable(shape)
    return tuple(size if i == axis else 1 for i, size in enumerate(shape))


def steps_of(model: onnx.ModelProto, piece: Piece, site: str) -> list[Step]:
    """The nodes that data passes on its way to the tensor of the site, with those of their outputs that are read."""
    data = piece.data()
    read = {name for node in piece.nodes for name in node.input}
    nodes = [(node, name) for node in piece.nodes for name in node.output if name in data]
    return [
        Step(piece, model, node, [each for each in node.input if each in data], name)
        for node, name in nodes
        if len(node.output) == 1 or name in read or name == site
    ]


def _in_a_row(step: Step, tail: Sequence[Step]) -> Sequence[Step]:
    """The steps after one, each of which reads what the one before it makes. Raises NotOneLayer where ways part."""
    for before, after in zip([step, *tail], tail, strict=False):
        if after.data != [before.made]:
            raise NotOneLayer("it has branches")
    return tail


def _values(model: onnx.ModelProto, piece: Piece, names: list[str]) -> dict[str, Array]:
    """Constants as they are stored; those that nodes of the piece compute, in float64."""
    known = piece.stored
    try:
        values = {name: np.asarray(detached.values(known[name])) for name in names if name in known}
    except ValueError as why:
        raise NotDerived(f"a constant does not have as many bytes as its shape says: {why}") from why
    if computed := [name for name in names if name not in values]:
        fixed = Piece([n for n in piece.nodes if piece.data().keys().isdisjoint(n.output)], [], piece.constants)
        values.update(Oracle(fixed.model(model, {}, computed[0])).evaluate({}, computed))
    return values


def _laid(node: onnx.NodeProto, weight: Array, rank: int) -> tuple[tuple[Any, ...], bool, Array]:
    """What the operator is, whether it pads, and its weight as (groups, outputs, inputs, taps)."""
    stated = attributes(node)
    if called(node) in ("Gemm", "MatMul"):
        if weight.ndim != 2 or stated.get("transA") or rank < 2:
            raise NotOneLayer("it is no product with one matrix")
        weight = weight * stated["alpha"] if stated.get("alpha", 1.0) != 1.0 else weight
        matrix = weight if stated.get("transB") else weight.T
        return PRODUCT, False, matrix[None, :, :, None]
    if weight.ndim < 3:
        raise NotOneLayer("its weight is no kernel")
    if weight.shape[0] % stated.get("group", 1):
        raise NotOneLayer("its weight is for another number of groups")
    groups, geometry = int(stated.pop("group", 1)), {**stated, "kernel_shape": list(weight.shape[2:])}
    operator = (called(node), groups, tuple(sorted((name, str(value)) for name, value in geometry.items())))
    padded = called(node) != "Conv" or any(stated.get("pads", ())) or stated.get("auto_pad", b"NOTSET") != b"NOTSET"
    kernels = weight.reshape(groups, weight.shape[0] // groups, weight.shape[1], prod(weight.shape[2:]))
    return operator, padded, kernels if called(node) == "Conv" else kernels.swapaxes(1, 2)


def _bias(node: onnx.NodeProto, values: Mapping[str, Array], outputs: int) -> Array:
    if len(node.input) < 3 or not node.input[2]:
        return np.zeros(outputs)
    bias = values[node.input[2]].astype(np.float64)
    if bias.size not in (1, outputs) or bias.ndim > 1 + (bias.shape[:1] == (1,)):
        raise NotOneLayer("its bias varies along other axes")
    stated = attributes(node)
    return np.broadcast_to(bias.ravel() * stated.get("beta", 1.0), outputs)


def compare_layers(original: Layer, folded: Layer) -> Comparison:
    """Both layers of a site. Raises NotOneLayer if they are of different form."""
    alike = original.operator == folded.operator and original.passed == folded.passed
    if not alike or original.weight.shape != folded.weight.shape:
        raise NotOneLayer("the two models have different operators")
    if original.before.keys() != folded.before.keys():
        raise NotOneLayer("other tensors enter the two models")
    rests, sizes = (original.rest(), folded.rest()), folded.sizes()
    rest = roundoffs(*rests, sizes, sizes, folded.kinds[1], folded.alone)
    effect = min(rest, roundoffs(*rests, sizes, original.sizes(), folded.kinds[1], False))
    stays, size = (original.stays.shift, folded.stays.shift), folded.stays.size
    off = roundoffs(*stays, size, size, folded.kinds[1], False)
    worst = _worst(original, folded, np.ones(folded.after.scale.size), folded.alone)
    relation = _relation(original, folded, rests) if max(worst, rest, off) > SITE_LIMIT else None
    count = original.weight.size * len(original.before) + rests[0].size
    alike = original.for_any_size and folded.for_any_size
    return Comparison(count, 1.0, worst, max(rest, off), max(worst, effect, off), relation, alike)


def _worst(original: Layer, folded: Layer, scale: Array, alone: bool = False) -> float:
    """The largest difference, in unit roundoffs, of the folded model's weights from `scale` times the original's."""
    worst = 0.0
    for rows, ours, theirs in _pairs(original, folded):
        sizes, expected = np.abs(theirs), scale[rows].reshape(*ours.shape[:2], 1, 1) * ours
        worst = max(worst, roundoffs(expected, theirs, sizes, sizes, folded.kinds[0], alone))
    return worst


def _pairs(original: Layer, folded: Layer) -> Iterator[tuple[slice, Array, Array]]:
    """Parts of both weights, with the outputs that they are of."""
    parts = folded.parts()
    for (rows, ours), (_, theirs) in zip(original.blocks(parts), folded.blocks(parts), strict=True):
        yield rows, ours, theirs


def _relation(original: Layer, folded: Layer, rests: tuple[Array, Array]) -> Relation | None:
    """By which scale and shift, for each output, the folded model's tensor is made of the original's, if it is."""
    scale = _scale(original, folded)
    expected, worst, unit = scale * rests[0], _worst(original, folded, scale), roundoff(folded.kinds[1])
    if any(step.operator in HOMOGENEOUS for step in folded.tail):  # past which no shift moves
        sizes = folded.sizes()
        if (scale <= 0).any() or roundoffs(expected, rests[1], sizes, sizes, folded.kinds[1], False) > SITE_LIMIT:
            return None
        return related(original.carried(scale), original.stays, folded.stays, unit, worst)
    ours, theirs = original.shifted(rests[0]), folded.shifted(rests[1])
    return related(original.carried(scale), ours, theirs, unit, worst)


def _scale(original: Layer, folded: Layer) -> Array:
    """The scale of each output, by least squares over its weights."""
    products, squares = np.zeros(folded.after.scale.size), np.zeros(folded.after.scale.size)
    for rows, ours, theirs in _pairs(original, folded):
        products[rows] += (ours * theirs).sum(axis=(2, 3)).ravel()
        squares[rows] += (ours * ours).sum(axis=(2, 3)).ravel()
    scale = np.divide(products, squares, out=np.ones_like(products), where=squares > 0)
    return about_one(scale)
