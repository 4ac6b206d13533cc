"""The algebra of branches that are added up: their kernels, laid over one another, are the kernel of one Conv.

The matrices of several Gemms are one matrix likewise: a kernel of one tap in an image without axes.

A branch is a Conv among affines, or affines alone, which are a kernel of one tap. Tap t of a kernel sees, for the
output at o, the input at stride * o + dilation * t - pad: so each tap of a branch is one of the folded model's kernel,
or there is no such kernel. Outside of an image all see zeros.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np
import onnx

from ...runtime.protos import attributes, called
from ..float64.windows import Array
from ..regions import MIXING
from .around import entering
from .pieces import Piece
from .scale_and_shift import NotOneLayer, ScaleAndShift, along
from .step import Step
from .weights import Layer, layer, steps_of

SIGNS_OF_OPERANDS = {"Add": (1.0, 1.0), "Sub": (1.0, -1.0)}  # of what is added up


class Geometry(NamedTuple):
    """Where a Conv sees its input: for each axis of an image a whole number."""

    kernel: tuple[int, ...]
    strides: tuple[int, ...]
    dilations: tuple[int, ...]
    before: tuple[int, ...]  # pads
    after: tuple[int, ...]

    @classmethod
    def of(cls, node: onnx.NodeProto, piece: Piece) -> Geometry:
        """That of a Conv, or a Gemm. Raises NotOneLayer where its pads depend on the size of the image."""
        if called(node) in ("Gemm", "MatMul"):
            return cls.of_nothing(0)
        if node.input[1] not in piece.stored:
            raise NotOneLayer("its weight is computed")
        kernel = tuple(piece.stored[node.input[1]].dims[2:])
        stated, ones = attributes(node), (1,) * len(kernel)
        if stated.get("auto_pad", b"NOTSET") != b"NOTSET":
            raise NotOneLayer("how it is padded depends on the size of the image")
        strides, dilations = (tuple(stated.get(name) or ones) for name in ("strides", "dilations"))
        pads = tuple(stated.get("pads") or (0,) * 2 * len(kernel))
        return cls(kernel, strides, dilations, pads[: len(kernel)], pads[len(kernel) :])

    @classmethod
    def of_nothing(cls, axes: int) -> Geometry:
        """That of what treats each place of an image alone."""
        return cls((1,) * axes, (1,) * axes, (1,) * axes, (0,) * axes, (0,) * axes)

    @property
    def shrinks(self) -> tuple[int, ...]:
        """How many places fewer an image has after it, with a stride of 1."""
        axes = zip(self.dilations, self.kernel, self.before, self.after, strict=True)
        return tuple(dilation * (taps - 1) - first - last for dilation, taps, first, last in axes)

    def taps_in(self, other: Geometry) -> list[slice]:
        """For each axis the places that its taps have among those of another one.

        Raises NotOneLayer where one has none, or images come out of different sizes.
        """
        if self.strides != other.strides or self.shrinks != other.shrinks:
            raise NotOneLayer("its branches make images of different sizes")
        axes = zip(self.kernel, self.dilations, self.before, other.kernel, other.dilations, other.before, strict=True)
        return [_taps(*axis) for axis in axes]


def _taps(taps: int, dilation: int, pad: int, others: int, others_dilation: int, others_pad: int) -> slice:
    first, step = others_pad - pad, dilation if taps > 1 else others_dilation
    last = first + step * (taps - 1)
    if first % others_dilation or step % others_dilation or not 0 <= first <= last < others * others_dilation:
        raise NotOneLayer("a tap of a branch is none of the folded model's kernel")
    return slice(first // others_dilation, last // others_dilation + 1, step // others_dilation)


def branches_as_one(
    model: onnx.ModelProto,
    piece: Piece,
    site: str,
    examples: Mapping[str, Array],
    folded: tuple[Layer, Piece],
    kind: Any,
) -> Layer:
    """The layer that the branches of a piece of `model` are together, with a kernel of the size of the `folded` one.

    For `examples` and `kind` see `layer`. Raises NotOneLayer where they are none.
    """
    like, other = folded
    conv = next(node for node in other.nodes if called(node) in MIXING)
    is_matrix = called(conv) in ("Gemm", "MatMul") and all(examples[name].ndim == 2 for name in (site, *piece.entering))
    if called(conv) != "Conv" and not is_matrix:
        raise NotOneLayer("the folded model's operator is neither a Conv nor a product of a matrix")
    if len(like.before) != 1 or not all(step.is_elementwise for step in like.tail):
        raise NotOneLayer("the folded model's operator is not among affines")
    branches = MergedBranches(model, piece, site, examples, like, Geometry.of(conv, other), kind)
    branches.add(site, np.ones(like.after.scale.size))
    groups, outputs, inputs, _ = like.weight.shape
    weight = branches.weight.reshape(like.weight.shape)
    around = {key: np.ones(groups * inputs) for key in like.before}
    nothing, after = np.zeros(groups * inputs), ScaleAndShift(np.ones(groups * outputs), *branches.rest)
    form = replace(like, weight=weight, bias=np.zeros(groups * outputs), before=around, shift=nothing, size=nothing)
    return replace(form, after=after, alone=False, for_any_size=branches.for_any_size, tail=())


def is_joint(step: Step) -> bool:
    """Whether a node adds tensors that all depend on data."""
    return step.operator in SIGNS_OF_OPERANDS and len(step.data) == len(step.node.input)


class MergedBranches:
    """The sum of the kernels of branches, and of what they make where all that enters is zero."""

    def __init__(
        self,
        model: onnx.ModelProto,
        piece: Piece,
        site: str,
        examples: Mapping[str, Array],
        like: Layer,
        geometry: Geometry,
        kind: Any,
    ) -> None:
        self.model, self.piece, self.examples, self.like, self.kind = model, piece, examples, like, kind
        self.steps = {step.made: step for step in steps_of(model, piece, site)}
        self.geometry, self.for_any_size = geometry, True
        groups, outputs, inputs, _ = like.weight.shape
        self.weight = np.zeros((groups, outputs, inputs, *geometry.kernel))
        self.rest = np.zeros(groups * outputs), np.zeros(groups * outputs)  # the shift, and its size

    def add(self, name: str, scale: Array) -> None:
        """Add `scale`, one for each channel, times a tensor of the piece."""
        step = self.steps.get(name)
        if step and is_joint(step):
            for each, sign in zip(step.data, SIGNS_OF_OPERANDS[step.operator], strict=True):
                self.add(each, sign * scale)
        elif step and self._is_sum(step):
            own = ScaleAndShift(*(along(1, values) for values in step.affine(self._laid(scale.size))))
            self._add_rest(scale * own.shift, np.abs(scale) * own.size)
            self.add(step.data[0], scale * own.scale)
        else:
            self._add_branch(name, scale)

    def _is_sum(self, step: Step | None) -> bool:
        """Whether a node makes a sum of branches, or scales and shifts one."""
        if step is None or is_joint(step):
            return step is not None
        return step.is_elementwise and len(step.data) == 1 and self._is_sum(self.steps.get(step.data[0]))

    def _laid(self, channels: int) -> tuple[int, ...]:
        return (1, channels, *[1] * len(self.geometry.kernel))

    def _add_rest(self, shift: Array, size: Array) -> None:
        self.rest = self.rest[0] + shift, self.rest[1] + size

    def _add_branch(self, name: str, scale: Array) -> None:
        """Add a Conv among affines, or affines alone."""
        own = self._cut(name)
        convs = [node for node in own.nodes if called(node) in MIXING]
        if not convs:
            return self._add_affines(own, name, scale)
        made = layer(self.model, own, name, self.examples, self.like.made, self.kind)
        if made.operator[:2] != self.like.operator[:2] or not all(step.is_elementwise for step in made.tail):
            raise NotOneLayer("a branch is no Conv of as many groups among affines")
        groups, outputs, inputs, _ = made.weight.shape
        if (groups, outputs, inputs) != self.weight.shape[:3] or made.before.keys() != self.like.before.keys():
            raise NotOneLayer("its branches read different tensors")
        geometry = Geometry.of(convs[0], own)
        ((_, before),) = made.before.items()
        factor = before.reshape(groups, 1, inputs, 1) * (scale * made.after.scale).reshape(groups, outputs, 1, 1)
        self._lay(
            (made.weight.astype(np.float64) * factor).reshape(groups, outputs, inputs, *geometry.kernel), geometry
        )
        self._add_rest(scale * made.rest(), np.abs(scale) * made.sizes())
        self.for_any_size &= made.for_any_size
        return None

    def _add_affines(self, own: Piece, name: str, scale: Array) -> None:
        """Add affines, which are a kernel of one tap for each channel."""
        groups, outputs, inputs = self.weight.shape[:3]
        steps = steps_of(self.model, own, name) if own.nodes else []
        shapes = [self.examples[each].shape for each in own.entering]
        is_same = [(len(shape), shape[1]) for shape in shapes] == [(self.weight.ndim - 1, groups * inputs)]
        if outputs != inputs or not is_same or not all(step.is_elementwise for step in steps):
            raise NotOneLayer("a branch is no affine for each channel")
        made = entering(steps, dict.fromkeys(own.entering, self._laid(groups * inputs)), name)
        if made.terms.keys() != self.like.before.keys():
            raise NotOneLayer("its branches read different tensors")
        ((_, factor),) = made.terms.items()
        diagonal = np.eye(outputs) * (scale * along(1, factor)).reshape(groups, outputs, 1)
        geometry = Geometry.of_nothing(len(self.geometry.kernel))
        self._lay(diagonal.reshape(groups, outputs, inputs, *geometry.kernel), geometry)
        self._add_rest(scale * along(1, made.shift), np.abs(scale) * along(1, made.size))

    def _lay(self, kernel: Array, geometry: Geometry) -> None:
        self.weight[(slice(None), slice(None), slice(None), *geometry.taps_in(self.geometry))] += kernel

    def _cut(self, name: str) -> Piece:
        """What makes one tensor of the piece."""
        wanted, nodes = {name}, list[onnx.NodeProto]()
        for node in reversed(self.piece.nodes):
            if not wanted.isdisjoint(node.output):
                nodes.append(node)
                wanted.update(node.input)
        return replace(self.piece, nodes=nodes[::-1], entering=[n for n in self.piece.entering if n in wanted])
