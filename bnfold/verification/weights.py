"""The algebra of one layer: the weights of both models compared directly, where one linear operator makes a fold site.

Around a Conv, ConvTranspose, Gemm or MatMul stand operators that work element by element. Fed constants 0 and 1 these
tell their scale and shift for each channel, so that a model computes

    y = scale_out * (W * (scale_in * x + shift_in) + b) + shift_out

and is known, for every input of every size, by scale_out * W * scale_in and by what is left where x is zero. Both are
compared in float64, element by element. What has another form raises NotOneLayer: it is fed impulses.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from math import prod
from typing import Any, NamedTuple

import numpy as np
import onnx
from onnx import helper, numpy_helper

from ..runtime.protos import FLOATS, called, stored
from .measure import quantum, roundoff
from .oracle import Oracle
from .pieces import Piece
from .regions import MIXING
from .windows import Array

ELEMENTWISE = frozenset(["BatchNormalization", "Mul", "Add", "Sub", "Div", "Neg", "Identity", "Dropout", "Cast"])
NOISE = 2.0**-46  # of float64, in what both models are evaluated to
PRODUCT = ("product",)
BLOCK = 1 << 20  # elements of a weight that are compared at once


class NotOneLayer(Exception):
    """The piece is not one linear operator among elementwise ones."""


class Affine(NamedTuple):
    """Scale and shift of each channel of a tensor, float64, of shape (channels,)."""

    scale: Array
    shift: Array


@dataclass(frozen=True)
class Layer:
    """What one model computes at a site.

    `weight` is a view of shape (groups, outputs, inputs, taps), `bias` has the shape (outputs of all groups,).
    """

    operator: tuple[Any, ...]  # the operator and the attributes that say where taps lie
    padded: bool
    weight: Array
    bias: Array
    before: Affine
    after: Affine
    alone: bool  # it is one node: a response is one stored constant, not a sum or product of several

    def blocks(self) -> Iterator[Array]:
        """scale_out * W * scale_in in float64, a part of the groups, or of the outputs of the only group, at a time."""
        groups, outputs, inputs, taps = self.weight.shape
        before = self.before.scale.reshape(groups, 1, inputs, 1)
        after = self.after.scale.reshape(groups, outputs, 1, 1)
        count = max(1, BLOCK // max(1, inputs * taps * (outputs if groups > 1 else 1)))
        for start in range(0, groups if groups > 1 else outputs, count):
            part = np.s_[start : start + count] if groups > 1 else np.s_[:, start : start + count]
            yield self.weight[part].astype(np.float64) * (before[part] if groups > 1 else before) * after[part]

    def shift(self) -> Array:
        """What is left where x is zero, of shape (outputs of all groups,).

        Raises NotOneLayer where padding, which is zero after `before`, would make it differ from place to place.
        """
        left = self.bias
        if self.before.shift.any():
            if self.padded:
                raise NotOneLayer("a shift enters a padded operator")
            groups, _, inputs, _ = self.weight.shape
            entering = self.before.shift.reshape(groups, 1, inputs, 1)
            left = left + (self.weight * entering).sum(axis=(2, 3)).ravel()
        return self.after.scale * left + self.after.shift


def layer(model: onnx.ModelProto, piece: Piece, ranks: Mapping[str, int], site: str) -> Layer:
    """The layer of a piece, whose `model` is its own; `ranks` are those of the tensor that enters and of the site."""
    path = _path(piece)
    places = [i for i, node in enumerate(path) if called(node) in MIXING]
    if len(places) != 1 or len(piece.entering) != 1:
        raise NotOneLayer("it has more than one linear operator, or input")
    node, entering = path[places[0]], piece.entering[0]
    head, tail = path[: places[0]], path[places[0] + 1 :]
    if not all(map(_is_elementwise, (*head, *tail))):
        raise NotOneLayer("an operator around it is not elementwise")
    source = head[-1].output[0] if head else entering
    if node.input[0] != source:
        raise NotOneLayer("data is not its first input")
    values = _values(model, piece, [name for name in node.input[1:] if name])
    operator, padded, weight = _laid(node, values[node.input[1]], ranks[entering])
    groups, outputs, inputs, _ = weight.shape
    before = _affine(model, piece, head, (entering, source), _channels(operator, ranks[entering], groups * inputs))
    after = _affine(model, piece, tail, (node.output[0], site), _channels(operator, ranks[site], groups * outputs))
    bias = _bias(node, values, groups * outputs)
    return Layer(operator, padded, weight, bias, before, after, len(piece.nodes) == 1)


def _channels(operator: tuple[Any, ...], rank: int, count: int) -> list[int]:
    """A shape of ones but for the channels: the last axis of a matrix product, the second of a convolution."""
    axis = rank - 1 if operator == PRODUCT else 1
    return [count if i == axis else 1 for i in range(rank)]


def _is_elementwise(node: onnx.NodeProto) -> bool:
    """Whether each element of the result depends, affinely, on one element of the data alone."""
    given = {a.name: helper.get_attribute_value(a) for a in node.attribute}
    if called(node) == "Cast":
        return given["to"] in (*FLOATS, onnx.TensorProto.DOUBLE)
    return called(node) in ELEMENTWISE and not (called(node) == "Dropout" and len(node.input) > 2)


def _path(piece: Piece) -> list[onnx.NodeProto]:
    """The nodes that data passes, one after the other. Raises NotOneLayer where ways part."""
    data = piece.data()
    path = [node for node in piece.nodes if not data.keys().isdisjoint(node.input)]
    for node, following in zip(path, path[1:], strict=False):
        if [name for name in following.input if name in data] != [node.output[0]]:
            raise NotOneLayer("it has branches")
    if not path or sum(name in data for name in path[0].input) != 1:
        raise NotOneLayer("it has branches")
    return path


def _values(model: onnx.ModelProto, piece: Piece, names: list[str]) -> dict[str, Array]:
    """Constants as they are stored; those that nodes of the piece compute, in float64."""
    known = stored(model.graph)
    found = {name: np.asarray(numpy_helper.to_array(known[name])) for name in names if name in known}
    if left := [name for name in names if name not in found]:
        fixed = Piece([n for n in piece.nodes if piece.data().keys().isdisjoint(n.output)], [], piece.constants)
        found.update(Oracle(fixed.model(model, {}, left[0])).evaluate({}, left))
    return found


def _laid(node: onnx.NodeProto, weight: Array, rank: int) -> tuple[tuple[Any, ...], bool, Array]:
    """What the operator is, whether it pads, and its weight as (groups, outputs, inputs, taps)."""
    given = {a.name: helper.get_attribute_value(a) for a in node.attribute}
    if called(node) in ("Gemm", "MatMul"):
        if weight.ndim != 2 or given.get("transA") or rank < 2:
            raise NotOneLayer("it is no product with one matrix")
        weight = weight * given["alpha"] if given.get("alpha", 1.0) != 1.0 else weight
        matrix = weight if given.get("transB") else weight.T
        return PRODUCT, False, matrix[None, :, :, None]
    if weight.ndim < 3:
        raise NotOneLayer("its weight is no kernel")
    groups, geometry = int(given.pop("group", 1)), {**given, "kernel_shape": list(weight.shape[2:])}
    operator = (called(node), groups, tuple(sorted((name, str(value)) for name, value in geometry.items())))
    padded = called(node) != "Conv" or any(given.get("pads", ())) or given.get("auto_pad", b"NOTSET") != b"NOTSET"
    kernels = weight.reshape(groups, weight.shape[0] // groups, weight.shape[1], -1)
    return operator, padded, kernels if called(node) == "Conv" else kernels.swapaxes(1, 2)


def _bias(node: onnx.NodeProto, values: Mapping[str, Array], outputs: int) -> Array:
    if len(node.input) < 3 or not node.input[2]:
        return np.zeros(outputs)
    bias = values[node.input[2]].astype(np.float64)
    if bias.size not in (1, outputs) or bias.ndim > 1 + (bias.shape[:1] == (1,)):
        raise NotOneLayer("its bias varies along other axes")
    given = {a.name: helper.get_attribute_value(a) for a in node.attribute}
    return np.broadcast_to(bias.ravel() * given.get("beta", 1.0), outputs)


def _affine(
    model: onnx.ModelProto, piece: Piece, nodes: list[onnx.NodeProto], ends: tuple[str, str], shape: list[int]
) -> Affine:
    """Scale and shift of each channel that elementwise `nodes` make of a tensor, from their answers to zeros and ones.

    `ends` are the names of what enters and leaves them, `shape` is fed: one everywhere but for the channels. Raises
    NotOneLayer where the answer has another shape: then constants vary along other axes.
    """
    if not nodes:
        return Affine(np.ones(prod(shape)), np.zeros(prod(shape)))
    own = _needed(piece, nodes)
    read = {name for node in own for name in node.input}
    chain = Piece(own, [ends[0]], [tensor for tensor in piece.constants if tensor.name in read])
    oracle = Oracle(chain.model(model, {ends[0]: onnx.TensorProto.FLOAT}, ends[1]))
    zero, one = (np.asarray(oracle.evaluate({ends[0]: np.full(shape, value)})[ends[1]]) for value in (0.0, 1.0))
    if list(zero.shape) != shape or list(one.shape) != shape:
        raise NotOneLayer("an operator around it treats more than channels apart")
    return Affine((one - zero).ravel(), zero.ravel())


def _needed(piece: Piece, nodes: list[onnx.NodeProto]) -> list[onnx.NodeProto]:
    """`nodes` with those that make the constants they read."""
    data, wanted = piece.data(), {name for node in nodes for name in node.input}
    kept = []
    for node in reversed(piece.nodes):
        if node in nodes or (not wanted.isdisjoint(node.output) and data.keys().isdisjoint(node.output)):
            kept.append(node)
            wanted.update(node.input)
    return kept[::-1]


def compare(original: Layer, folded: Layer, kind: Any) -> tuple[float, int]:
    """How far the folded model's layer is from the original's, in unit roundoffs, and how many numbers were compared.

    `kind` is the type in which the folded weight is stored. Raises NotOneLayer if the two are of different form.
    """
    if original.operator != folded.operator or original.weight.shape != folded.weight.shape:
        raise NotOneLayer("the two models have different operators")
    shifts = original.shift(), folded.shift()
    pairs = zip(original.blocks(), folded.blocks(), strict=True)
    parts = itertools.chain([shifts], pairs)
    worst = max(_off(expected, got, kind, folded.alone) for expected, got in parts)
    return worst, original.weight.size + shifts[0].size


def _off(expected: Array, got: Array, kind: Any, alone: bool) -> float:
    size = np.abs(got)
    return roundoffs(expected, got, size, size, kind, alone)


def roundoffs(expected: Array, got: Array, summed: Array, sizes: Array, kind: Any, alone: bool) -> float:
    """The largest difference, in unit roundoffs of `kind`, of numbers that are made of others as large as `sizes`.

    Float64's own noise in `summed` is taken off. With `alone`, `sizes` are stored numbers: the right one is no further
    than half the distance to its neighbour. Infinite if something is not finite.
    """
    with np.errstate(all="ignore"):
        off = np.abs(got - expected) - NOISE * (summed + np.abs(expected)) - quantum(kind)
        if not np.isfinite(got).all():
            return np.inf
        if not (off > 0).any():
            return 0.0
        ratio = np.where(off > 0, off / (roundoff(kind) * (power_below(sizes) if alone else sizes)), 0.0)
    return float(np.nan_to_num(ratio, nan=np.inf).max(initial=0.0))


def power_below(values: Array) -> Array:
    """The power of two at or below each magnitude: times the unit roundoff, half the distance to the next number."""
    return np.asarray(np.ldexp(1.0, np.frexp(values)[1] - 1))
