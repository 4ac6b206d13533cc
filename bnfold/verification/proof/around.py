"""What stands around a linear operator, made one affine next to it.

What operators that work element by element make of zeros and ones is their shift and, with it, their scale. This affine
is then moved past the others, towards the linear operator, where operator and affine may change places:

    rearrangement   any affine, rearranged along (Reshape, Transpose, ...)
    mean            an affine that is the same all over what is averaged
    maximum         likewise, with a positive scale
    homogeneous     a positive scale, no shift (Relu, LeakyRelu)

They are evaluated, in float64, to see where the numbers of an affine go. Which ones were passed, in which order, is
kept: both models must have the same.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cached_property
from math import prod
from typing import Any, NamedTuple

import numpy as np
import onnx

from ...runtime import detached
from ...runtime.protos import called
from ..float64.oracle import Oracle
from ..float64.windows import Array
from ..regions import REARRANGES
from .indexed_model import attributes, computation
from .pieces import POINTWISE, Piece, is_cast_to_float, of_sizes

HOMOGENEOUS = frozenset(["Relu", "LeakyRelu"])
MAXIMA = frozenset(["MaxPool", "GlobalMaxPool"])
MEANS = frozenset(["ReduceMean", "GlobalAveragePool", "AveragePool"])
MAY_BE_PASSED = HOMOGENEOUS | MAXIMA | MEANS | REARRANGES
MOST_FOLLOWED = 1 << 22  # elements of a tensor that an affine is laid out over


class NotOneLayer(Exception):
    """The piece is not one linear operator among others that an affine can be moved past; the text says why."""


class ScaleAndShift(NamedTuple):
    """x -> scale * x + shift, float64, each of the shape of the tensor that they act on.

    `size` is how large the numbers are that the shift is the sum of, cancelled or not.
    """

    scale: Array
    shift: Array
    size: Array

    @classmethod
    def scaling(cls, scale: Array) -> ScaleAndShift:
        return cls(scale, np.zeros_like(scale), np.zeros_like(scale))

    def after(self, first: ScaleAndShift) -> ScaleAndShift:
        """What both make, the `first` one first."""
        size = np.abs(self.scale) * first.size + self.size
        return ScaleAndShift(self.scale * first.scale, self.scale * first.shift + self.shift, size)


def along(axis: int, values: Array) -> Array:
    """One number for each place on an axis. Raises NotOneLayer if numbers vary along another."""
    moved = np.moveaxis(values, axis, 0)
    rows = moved.reshape(len(moved), prod(moved.shape[1:]))
    if not rows.shape[1]:
        raise NotOneLayer("a tensor without elements shows no channel")
    if (rows != rows[:, :1]).any():
        raise NotOneLayer("an operator around it treats more than channels apart")
    return np.ascontiguousarray(rows[:, 0])


class Rearranged(NamedTuple):
    """Elements in another order: for each place of what is made the place that it has in what entered."""

    entered: tuple[int, ...]
    made: tuple[int, ...]
    places: bytes  # int64

    @property
    def is_identity(self) -> bool:
        return self.entered == self.made and self.places == np.arange(prod(self.made), dtype=np.int64).tobytes()


class Step:
    """One node of the way that data takes through a piece."""

    def __init__(self, piece: Piece, like: onnx.ModelProto, node: onnx.NodeProto, data: Sequence[str]) -> None:
        self.piece, self.like, self.node, self.data, self.operator = piece, like, node, data, called(node)

    @cached_property
    def model(self) -> onnx.ModelProto:
        own = self.piece.needed([self.node])
        read = {name for node in own for name in node.input}
        alone = Piece(own, [*self.data], [tensor for tensor in self.piece.constants if tensor.name in read])
        return alone.model(self.like, dict.fromkeys(self.data, onnx.TensorProto.FLOAT), self.node.output[0])

    @cached_property
    def oracle(self) -> Oracle:
        return Oracle(self.model)

    def __call__(self, value: Array, oracle: Oracle | None = None) -> Array:
        if not self.is_elementwise and self.operator not in MAY_BE_PASSED:
            raise NotOneLayer(f"an affine does not change places with {self.operator}")
        made = np.asarray((oracle or self.oracle).evaluate({self.data[0]: value})[self.node.output[0]])
        if not made.size:
            raise NotOneLayer("it makes a tensor without elements")
        return made

    @property
    def is_elementwise(self) -> bool:
        """Whether each element of the result depends, affinely, on one element of the data alone."""
        if not is_cast_to_float(self.node):
            return False
        return self.operator in POINTWISE and not (self.operator == "Dropout" and any(self.node.input[2:]))

    @property
    def keeps_places(self) -> bool:
        """Whether a tensor of one element for each channel shows all that it does."""
        return self.is_elementwise or self.operator in HOMOGENEOUS

    def affine(self, shape: tuple[int, ...]) -> ScaleAndShift:
        """Of an elementwise node."""
        zero, one = self(np.zeros(shape)), self(np.ones(shape))
        if zero.shape != shape or one.shape != shape:
            raise NotOneLayer("an operator around it treats more than channels apart")
        cancels = self.operator == "BatchNormalization"  # its mean and its shift may
        return ScaleAndShift(
            one - zero, zero, self(np.zeros(shape), Oracle(of_sizes(self.model))) if cancels else np.abs(zero)
        )

    def mark(self) -> tuple[Any, ...]:
        """What it does, to be found in both models. Raises NotOneLayer where that depends on more than constants."""
        stored = {tensor.name: tensor for tensor in self.piece.constants}
        others = [stored.get(name) for name in self.node.input[1:] if name]
        if None in others or [self.node.input[0]] != self.data:
            raise NotOneLayer(f"what {self.operator} does depends on more than stored constants")
        values = (detached.values(tensor).tolist() for tensor in others if tensor is not None)
        return (*computation(self.node, [""]), *map(str, values))

    def passes(self, before: tuple[Any, ...], shape: tuple[int, ...]) -> tuple[Any, ...]:
        """What an affine has passed, with this node, which a tensor of `shape` enters; rearrangements are made one."""
        if self.operator not in REARRANGES:
            return (*before, self.mark())
        places = self(np.arange(prod(shape), dtype=np.float64).reshape(shape)).astype(np.int64)
        own = Rearranged(shape, places.shape, places.tobytes())
        if before and isinstance(before[-1], Rearranged):
            first = np.frombuffer(before[-1].places, np.int64)[places.ravel()]
            before, own = before[:-1], Rearranged(before[-1].entered, places.shape, first.tobytes())
        return before if own.is_identity else (*before, own)

    def require_passed(self, affine: ScaleAndShift) -> None:
        """Raises NotOneLayer unless an affine on what enters may as well stand after it, and the other way round."""
        if self.operator in REARRANGES:
            return
        positive, still = bool((affine.scale > 0).all()), not affine.shift.any()
        if not (
            (self.operator in HOMOGENEOUS and positive and still)
            or (self.operator in MAXIMA and positive and len(self.node.output) == 1)
            or (self.operator in MEANS and (still or not self.counts_padding))
        ):
            raise NotOneLayer(f"an affine does not change places with {self.operator}")

    @property
    def counts_padding(self) -> bool:
        """Whether it may average zeros that stand around an image, at some sizes of it."""
        stated = attributes(self.node)
        padded = any(stated.get("pads", ())) or stated.get("auto_pad", b"NOTSET") not in (b"NOTSET", b"VALID")
        counted = self.operator == "AveragePool" and stated.get("count_include_pad")
        return bool(counted and (padded or stated.get("ceil_mode")))

    def mixed(self, rank: int) -> tuple[int, ...]:
        """The axes that it averages over or takes maxima along."""
        if self.operator not in MAXIMA | MEANS:
            return ()
        if self.operator != "ReduceMean":
            return tuple(range(2, rank))
        stated = attributes(self.node)
        stored = {tensor.name: tensor for tensor in self.piece.constants}
        axes = stated.get("axes", [])
        if len(self.node.input) > 1 and self.node.input[1] in stored:
            axes = detached.values(stored[self.node.input[1]]).tolist()
        return tuple(axis % rank for axis in axes) or tuple(range(rank))


class Around(NamedTuple):
    """An affine next to a linear operator, and what it was moved past."""

    affine: ScaleAndShift
    passed: tuple[Any, ...]
    stays: Array | None = None  # a shift after a homogeneous operator that comes last: only a scale moves past it


class Entering(NamedTuple):
    """What reaches a linear operator: a sum of tensors that other operators made, each with a scale, and a shift.

    `terms` are the scales, float64 of the operand's shape, by the name of what enters and the operators it has passed.
    """

    terms: dict[tuple[Any, ...], Array]
    shift: Array

    def after(self, step: Step) -> Entering:
        """What a node makes of it."""
        if step.is_elementwise:
            own = step.affine(self.shift.shape)
            terms = {key: own.scale * scale for key, scale in self.terms.items()}
            return Entering(terms, own.scale * self.shift + own.shift)
        for scale in self.terms.values():
            affine = ScaleAndShift(scale, self.shift, np.abs(self.shift))
            step.require_passed(affine)
            _require_constant(affine, step.mixed(scale.ndim))
        if len(self.terms) > 1 and step.operator in HOMOGENEOUS | MAXIMA:
            raise NotOneLayer(f"{step.operator} makes no sum of what it makes of a sum")
        terms = {step.passes(key, scale.shape): step(scale) for key, scale in self.terms.items()}
        return Entering(terms, step(self.shift))

    def plus(self, other: Entering) -> Entering:
        if self.shift.shape != other.shift.shape or not self.terms.keys().isdisjoint(other.terms):
            raise NotOneLayer("it adds tensors that are not apart")
        return Entering({**self.terms, **other.terms}, self.shift + other.shift)


def entering(steps: Sequence[Step], shapes: Mapping[str, tuple[int, ...]], last: str) -> Entering:
    """What `steps` make of the tensors that enter, of these shapes, into the one called `last`."""
    known = {name: Entering({(name,): np.ones(shape)}, np.zeros(shape)) for name, shape in shapes.items()}
    for step in steps:
        if len(step.data) == 1:
            made = known[step.data[0]].after(step)
        elif step.operator == "Add" and len({*step.data}) == 2:
            made = known[step.data[0]].plus(known[step.data[1]])
        else:
            raise NotOneLayer("it has branches")
        known[step.node.output[0]] = made
    return known[last]


def leaving(steps: Sequence[Step], shape: tuple[int, ...]) -> Around:
    """What `steps` make of a tensor of `shape`: an affine first, then other operators."""
    shapes = [shape]
    for step in steps:
        shapes.append(shapes[-1] if step.keeps_places else step(np.zeros(shapes[-1])).shape)
    affine, passed, stays = ScaleAndShift.scaling(np.ones(shapes[-1])), tuple[Any, ...](), None
    for step, entered in zip(steps, shapes, strict=False):
        passed = passed if step.is_elementwise else step.passes(passed, entered)
    for step, entered in zip(reversed(steps), shapes[-2::-1], strict=True):
        if step.is_elementwise:
            affine = affine.after(step.affine(entered))
        else:
            if step.operator in HOMOGENEOUS and stays is None:
                stays, affine = affine.shift, ScaleAndShift.scaling(affine.scale)
            stays = np.zeros(shapes[-1]) if stays is None else stays
            step.require_passed(affine)
            affine = ScaleAndShift(*(_before(step, entered, values) for values in affine))
    return Around(affine, passed, stays)


def _before(step: Step, entered: tuple[int, ...], values: Array) -> Array:
    """Numbers that belong to what a step makes, laid out over what enters it."""
    axes = step.mixed(len(entered))
    if step.operator in HOMOGENEOUS:
        return values
    if not axes:
        places = step(np.arange(prod(entered), dtype=np.float64).reshape(entered)).astype(np.int64)
        laid = np.empty(prod(entered))
        laid[places.ravel()] = values.ravel()
        return laid.reshape(entered)
    if values.ndim != len(entered):
        raise NotOneLayer(f"{step.operator} drops axes")
    kept = tuple(slice(0, 1) if axis in axes else slice(None) for axis in range(values.ndim))
    _require_constant([values], axes)
    return np.broadcast_to(values[kept], entered)


def _require_constant(affine: Sequence[Array], axes: tuple[int, ...]) -> None:
    for values in affine:
        if axes and np.ptp(values, axis=axes).any():
            raise NotOneLayer("an affine is not the same all over what is averaged")


def require_followable(shape: Sequence[int]) -> tuple[int, ...]:
    """A shape that numbers may be laid out over. Raises NotOneLayer for too large a one."""
    if prod(shape) > MOST_FOLLOWED:
        raise NotOneLayer("it makes a tensor too large to follow numbers through")
    return tuple(shape)
