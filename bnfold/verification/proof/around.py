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
from math import prod
from typing import Any, NamedTuple

import numpy as np

from ..float64.windows import Array
from .scale_and_shift import NotOneLayer, ScaleAndShift
from .step import HOMOGENEOUS, MAXIMA, NO_PLACE, Step, appended_rearrangement, require_constant

FOLLOWED_ELEMENTS = 1 << 22  # elements of a tensor that an affine is laid out over


class Around(NamedTuple):
    """An affine next to a linear operator, and what it was moved past.

    The shift of `stays` comes after a homogeneous operator, past which only a scale moves. `read` is 1 for elements of
    what the linear operator makes that are read, else 0.
    """

    affine: ScaleAndShift
    passed: tuple[Any, ...]
    read: Array
    stays: ScaleAndShift | None = None


class Entering(NamedTuple):
    """What reaches a linear operator: a sum of tensors that other operators made, each with a scale, and a shift.

    `terms` are the scales, float64 of the operand's shape, by the name of what enters and the operators it has passed.
    `size` is how large the numbers are that the shift is the sum of.
    """

    terms: dict[tuple[Any, ...], Array]
    shift: Array
    size: Array

    def after(self, step: Step) -> Entering:
        """What a node makes of it."""
        if step.is_elementwise:
            own = step.affine(self.shift.shape)
            terms = {key: own.scale * scale for key, scale in self.terms.items()}
            return Entering(terms, own.scale * self.shift + own.shift, np.abs(own.scale) * self.size + own.size)
        for scale in self.terms.values():
            step.require_passed(scale, self.shift)
            require_constant([scale, self.shift], step.mixed(scale.ndim))
        if len(self.terms) > 1 and step.operator in HOMOGENEOUS | MAXIMA:
            raise NotOneLayer(f"{step.operator} makes no sum of what it makes of a sum")
        terms = {step.passes(key, scale.shape): step(scale) for key, scale in self.terms.items()}
        return Entering(terms, step(self.shift), step(self.size))

    def plus(self, other: Entering) -> Entering:
        if self.shift.shape != other.shift.shape or not self.terms.keys().isdisjoint(other.terms):
            raise NotOneLayer("it adds tensors that are not apart")
        return Entering({**self.terms, **other.terms}, self.shift + other.shift, self.size + other.size)


def entering(steps: Sequence[Step], shapes: Mapping[str, tuple[int, ...]], last: str) -> Entering:
    """What `steps` make of the tensors that enter, of these shapes, into the one called `last`."""
    nothing = {name: np.zeros(shape) for name, shape in shapes.items()}
    known = {name: Entering({(name,): zeros + 1}, zeros, zeros) for name, zeros in nothing.items()}
    for step in steps:
        if len(step.data) == 1:
            made = known[step.data[0]].after(step)
        elif step.operator == "Add" and len({*step.data}) == 2:
            made = known[step.data[0]].plus(known[step.data[1]])
        elif step.joined_axis is not None:
            made = concatenated([known[name] for name in step.data], step.joined_axis)
        else:
            raise NotOneLayer("it has branches")
        known[step.made] = made
    return known[last]


def concatenated(parts: Sequence[Entering], axis: int) -> Entering:
    """What a Concat makes: each part stands for itself, with zeros where the others are."""
    shift, size = (np.concatenate(values, axis) for values in zip(*((p.shift, p.size) for p in parts), strict=True))
    terms = dict[tuple[Any, ...], Array]()
    for place, part in enumerate(parts):
        around = [np.full(other.shift.shape, NO_PLACE) for other in parts]
        for key, scale in part.terms.items():
            around[place] = np.arange(scale.size).reshape(scale.shape)
            places = np.concatenate(around, axis)
            laid = np.append(scale.ravel(), 0.0)[places]
            terms[appended_rearrangement(key, scale.shape, places)] = laid
    if len(terms) < sum(len(part.terms) for part in parts):
        raise NotOneLayer("it joins tensors that are not apart")
    return Entering(terms, shift, size)


def leaving(steps: Sequence[Step], shape: tuple[int, ...]) -> Around:
    """What `steps` make of a tensor of `shape`: an affine first, then other operators."""
    shapes = [shape]
    for step in steps:
        shapes.append(shapes[-1] if step.keeps_places else step(np.zeros(shapes[-1])).shape)
    affine, passed, read, stays = ScaleAndShift.identity(shapes[-1]), tuple[Any, ...](), np.ones(shapes[-1]), None
    for step, entered in zip(steps, shapes, strict=False):
        passed = passed if step.is_elementwise else step.passes(passed, entered)
    for step, entered in zip(reversed(steps), shapes[-2::-1], strict=True):
        if step.is_elementwise:
            own = step.affine(entered)
            shift, size = affine.scale * own.shift + affine.shift, np.abs(affine.scale) * own.size + affine.size
            affine = ScaleAndShift(affine.scale * own.scale, shift, size)
        else:
            if step.operator in HOMOGENEOUS and stays is None:
                stays, affine = affine, ScaleAndShift.identity(shapes[-1])._replace(scale=affine.scale)
            stays = ScaleAndShift.identity(shapes[-1]) if stays is None else stays
            step.require_passed(affine.scale, affine.shift)
            affine = ScaleAndShift(*(step.before(entered, values) for values in affine))
            read = step.before(entered, read)
    return Around(affine, passed, read, stays)


def require_followable(shape: Sequence[int]) -> tuple[int, ...]:
    """A shape that numbers may be laid out over. Raises NotOneLayer for too large a one."""
    if prod(shape) > FOLLOWED_ELEMENTS:
        raise NotOneLayer("it makes a tensor too large to follow numbers through")
    return tuple(shape)
