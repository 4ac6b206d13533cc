"""The algebra of one layer: the weights of both models compared directly, where one linear operator makes a fold site.

Around a Conv, ConvTranspose, Gemm or MatMul stand operators that work element by element. What they make of constants 0
and 1 is their shift, and with it their scale, for each channel, so that a model computes

    y = scale_out * (W * (scale_in * x + shift_in) + b) + shift_out

and is known, for every input of every size, by scale_out * W * scale_in and by what is left where x is zero. Both are
compared in float64, element by element. What has another form raises NotOneLayer: it is fed impulses.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from math import prod
from typing import Any, NamedTuple

import numpy as np
import onnx

from ...runtime import detached
from ...runtime.protos import called, stored
from ..float64.floating import quantum, roundoff
from ..float64.oracle import Oracle
from ..float64.windows import Array
from ..regions import MIXING
from .around import NotOneLayer, ScaleAndShift, Step, along, entering, leaving, require_followable
from .impulses import NotDerived
from .indexed_model import attributes
from .pieces import Piece

EXPONENT = np.uint64(0x7FF << 52)  # its bits in float64
FLOAT64_NOISE = 2.0**-46  # of float64, in what both models are evaluated to
PRODUCT = ("product",)
COMPARED_AT_ONCE = 1 << 16  # elements of a weight: as float64 they stay in the cache of a processor


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
    after: ScaleAndShift
    passed: tuple[Any, ...]  # operators after it that no affine is
    stays: Array  # a shift after these, of (outputs of all groups,)
    made: tuple[int, ...]  # the shape of what the linear operator makes
    alone: bool  # it is one node: a response is one stored constant, not a sum or product of several
    kinds: tuple[Any, Any]  # types in which the weight, and the rest, were rounded
    for_any_size: bool  # what stands around the linear operator treats all places of an image alike

    @property
    def axis(self) -> int:
        """Of the channels of what it makes."""
        return -1 if self.operator == PRODUCT else 1

    def blocks(self) -> Iterator[Array]:
        """scale_out * W * scale_in in float64, a part of the groups, or of the outputs of the only group, at a time.

        For one tensor that enters after the other.
        """
        groups, outputs, inputs, taps = self.weight.shape
        after = self.after.scale.reshape(groups, outputs, 1, 1)
        count = max(1, COMPARED_AT_ONCE // max(1, inputs * taps * (outputs if groups > 1 else 1)))
        for _, scale in sorted(self.before.items(), key=lambda term: repr(term[0])):
            before = scale.reshape(groups, 1, inputs, 1)
            for start in range(0, groups if groups > 1 else outputs, count):
                part = np.s_[start : start + count] if groups > 1 else np.s_[:, start : start + count]
                yield self.weight[part].astype(np.float64) * (before[part] if groups > 1 else before) * after[part]

    def rest(self) -> Array:
        """What is left where all that enters is zero, of shape (outputs of all groups,).

        Raises NotOneLayer where padding, which is zero after a shift, would make it differ from place to place.
        """
        if self.shift.any() and self.padded:
            raise NotOneLayer("a shift enters a padded operator")
        return np.asarray(self.after.scale * self._summed(self.weight, self.shift, self.bias) + self.after.shift)

    def sizes(self) -> Array:
        """How large the numbers are that `rest` is the sum of, cancelled or not."""
        summed = self._summed(np.abs(self.weight), np.abs(self.shift), np.abs(self.bias))
        return np.asarray(np.abs(self.after.scale) * summed + np.abs(self.after.shift))

    def _summed(self, weight: Array, shift: Array, bias: Array) -> Array:
        if not shift.any():
            return bias
        groups, _, inputs, _ = weight.shape
        return np.asarray(bias + (weight * shift.reshape(groups, 1, inputs, 1)).sum(axis=(2, 3)).ravel())


def layer(model: onnx.ModelProto, piece: Piece, examples: Mapping[str, Array], made: Sequence[int], kind: Any) -> Layer:
    """The layer of a piece of `model`.

    `examples` are of tensors, for their shapes; `made` is that of what the linear operator makes, if it is known.
    `kind` is the type in which constants were rounded that are computed, not stored.
    """
    if unknown := [name for name in piece.entering if name not in examples]:
        raise NotOneLayer(f"the shape of {unknown[:1]} is not known")
    steps = _steps(model, piece)
    places = [i for i, step in enumerate(steps) if step.operator in MIXING]
    if len(places) != 1:
        raise NotOneLayer("it has more than one linear operator")
    step, head, tail = steps[places[0]], steps[: places[0]], steps[places[0] + 1 :]
    if [step.node.input[0]] != step.data:
        raise NotOneLayer("data is not its first input alone")
    is_product, rank = step.operator in ("Gemm", "MatMul"), examples[piece.entering[0]].ndim
    values = _values(model, piece, [name for name in step.node.input[1:] if name])
    operator, padded, weight = _laid(step.node, values[step.node.input[1]], rank)
    groups, outputs, inputs, _ = weight.shape
    fed = {name: _shape(head, examples[name].shape, groups * inputs, is_product) for name in piece.entering}
    before, axis = entering(head, fed, step.data[0]), -1 if is_product else 1
    made = tuple(made or np.shape(examples.get(step.node.output[0], 0)))
    after = leaving(_in_a_row(step, tail), _shape(tail, made, groups * outputs, is_product))
    terms = {key: along(axis, scale) for key, scale in before.terms.items()}
    sums, affine = along(axis, before.shift), ScaleAndShift(*(along(axis, values) for values in after.affine))
    if (sums.size, affine.scale.size) != (groups * inputs, groups * outputs):
        raise NotOneLayer("its weight is for another number of channels")
    bias, alone = _bias(step.node, values, groups * outputs), len(piece.nodes) == 1
    kinds = [piece.rounded([name]) or kind for name in (*step.node.input[1:3], "")[:2]]
    stays = np.zeros(groups * outputs) if after.stays is None else along(axis, after.stays)
    around = terms, sums, affine, after.passed, stays
    alike = all(each.keeps_places for each in (*head, *tail))
    return Layer(operator, padded, weight, bias, *around, made, alone, (kinds[0], kinds[1]), alike)


def _shape(steps: Sequence[Step], shape: Sequence[int], channels: int, is_product: bool) -> tuple[int, ...]:
    """Of a tensor on which an affine is followed: where no element changes places, one element for each channel."""
    if not shape:
        raise NotOneLayer("the shape of what it makes is not known")
    if not all(step.keeps_places for step in steps):
        return require_followable(shape)
    axis = len(shape) - 1 if is_product else 1
    return tuple(channels if i == axis else 1 for i in range(len(shape)))


def _steps(model: onnx.ModelProto, piece: Piece) -> list[Step]:
    """The nodes that data passes."""
    data = piece.data()
    nodes = [node for node in piece.nodes if not data.keys().isdisjoint(node.output)]
    return [Step(piece, model, node, [name for name in node.input if name in data]) for node in nodes]


def _in_a_row(step: Step, tail: Sequence[Step]) -> Sequence[Step]:
    """The steps after one, each of which reads what the one before it makes. Raises NotOneLayer where ways part."""
    for before, after in zip([step, *tail], tail, strict=False):
        if after.data != [before.node.output[0]]:
            raise NotOneLayer("it has branches")
    return tail


def _values(model: onnx.ModelProto, piece: Piece, names: list[str]) -> dict[str, Array]:
    """Constants as they are stored; those that nodes of the piece compute, in float64."""
    known = {tensor.name: tensor for tensor in piece.constants} | stored(onnx.GraphProto(node=piece.nodes))
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


class Comparison(NamedTuple):
    """How far a site of the folded model is from the original's."""

    responses: int  # numbers that were compared
    share: float  # of all there are
    ratio: float  # the largest difference of what data is multiplied by, in unit roundoffs
    at_rest: float  # likewise, of what is left where all that enters is zero
    shift: Array | None  # the latter in the original less that in the folded model; None where data may change it
    effect: float  # the largest difference in unit roundoffs of what the original's numbers are the sum of
    for_any_size: bool = False  # it says the same for tensors of other sizes


def compare_layers(original: Layer, folded: Layer, like: Array) -> Comparison:
    """Both layers of a site; `like` is an example of its tensor. Raises NotOneLayer if they are of different form."""
    alike = original.operator == folded.operator and original.passed == folded.passed
    if not alike or original.weight.shape != folded.weight.shape:
        raise NotOneLayer("the two models have different operators")
    if original.before.keys() != folded.before.keys():
        raise NotOneLayer("other tensors enter the two models")
    rests, sizes = (original.rest(), folded.rest()), folded.sizes()
    rest = roundoffs(*rests, sizes, sizes, folded.kinds[1], folded.alone)
    stays = original.stays, folded.stays
    rest = max(rest, roundoffs(*stays, np.abs(stays[1]), np.abs(stays[1]), folded.kinds[1], False))
    pairs = zip(original.blocks(), folded.blocks(), strict=True)
    worst = max((roundoffs(a, b, np.abs(b), np.abs(b), folded.kinds[0], folded.alone) for a, b in pairs), default=0.0)
    channels = [-1 if axis == original.axis % like.ndim else 1 for axis in range(like.ndim)]
    shift = None if folded.passed else (rests[0] - rests[1]).reshape(channels)
    count = original.weight.size * len(original.before) + rests[0].size
    alike = original.for_any_size and folded.for_any_size
    return Comparison(count, 1.0, worst, rest, shift, max(worst, rest), alike)


def roundoffs(expected: Array, got: Array, summed: Array, sizes: Array, kind: Any, alone: bool) -> float:
    """The largest difference, in unit roundoffs of `kind`, of numbers that are made of others as large as `sizes`.

    Float64's own noise in `summed` is taken off. With `alone`, `sizes` are stored numbers: the right one is no further
    than half the distance to its neighbour. Infinite if something is not finite; raises NotDerived if that is so in the
    original.
    """
    with np.errstate(all="ignore"):
        off = np.abs(got - expected) - FLOAT64_NOISE * (summed + np.abs(expected)) - quantum(kind)
        if not np.isfinite(expected).all():
            raise NotDerived("a number of the original is not finite")
        if not np.isfinite(got).all():
            return np.inf
        off, units = np.maximum(off, 0.0), roundoff(kind) * (power_below(sizes) if alone else sizes)
        if np.isfinite(worst := (off / units).max(initial=0.0)):
            return float(worst)
        ratio = np.where(off > 0, off / units, 0.0)  # where nothing is off, of nothing either
    return float(np.nan_to_num(ratio, nan=np.inf).max(initial=0.0))


def power_below(values: Array) -> Array:
    """The power of two at or below each magnitude, 0 for 0: times the unit roundoff, half the distance to the next
    number."""
    return (np.asarray(values, np.float64).view(np.uint64) & EXPONENT).view(np.float64)
