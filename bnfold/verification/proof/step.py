"""One operator next to a linear one: what it makes of an affine that stands before it or after it."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import cached_property, lru_cache
from math import prod
from typing import Any, NamedTuple

import numpy as np
import onnx

from ...runtime import detached
from ...runtime.protos import attributes, called
from ..float64.oracle import CannotEvaluate, Oracle
from ..float64.windows import Array
from ..regions import REARRANGES
from .indexed_model import computation
from .pieces import OF_RELATION, POINTWISE, Piece, is_cast_to_float
from .scale_and_shift import NotOneLayer, ScaleAndShift

HOMOGENEOUS = frozenset(["Relu", "LeakyRelu"])
MAXIMA = frozenset(["MaxPool", "GlobalMaxPool", "ReduceMax"])
MEANS = frozenset(["ReduceMean", "GlobalAveragePool", "AveragePool"])
PLACED = REARRANGES | {"Split", "Slice", "Gather", "Pad", "Expand", "Tile"}  # make elements of what enters, or zeros
MAY_BE_PASSED = HOMOGENEOUS | MAXIMA | MEANS | PLACED
NO_PLACE = -1  # the place of an element that is zero


class Rearranged(NamedTuple):
    """Elements in another order: for each place of what is made the place that it has in what entered."""

    entered: tuple[int, ...]
    made: tuple[int, ...]
    places: bytes  # int64

    @property
    def is_identity(self) -> bool:
        return self.entered == self.made and self.places == np.arange(prod(self.made), dtype=np.int64).tobytes()


def appended_rearrangement(before: tuple[Any, ...], shape: tuple[int, ...], places: Array) -> tuple[Any, ...]:
    """What an affine has passed, with elements of a tensor of `shape` put in other places."""
    own = Rearranged(shape, places.shape, places.tobytes())
    if before and isinstance(before[-1], Rearranged):
        earlier = np.append(np.frombuffer(before[-1].places, np.int64), NO_PLACE)
        first = earlier[places.ravel()]
        before, own = before[:-1], Rearranged(before[-1].entered, places.shape, first.tobytes())
    return before if own.is_identity else (*before, own)


@lru_cache(1 << 10)
def _oracle(model: bytes) -> Oracle:
    """Of one operator: many pieces of a network have it in common."""
    return Oracle(onnx.ModelProto.FromString(model))


class Step:
    """One node of the way that data takes through a piece, and the output that is meant."""

    def __init__(
        self, piece: Piece, like: onnx.ModelProto, node: onnx.NodeProto, data: Sequence[str], made: str = ""
    ) -> None:
        self.piece, self.like, self.node, self.data, self.operator = piece, like, node, data, called(node)
        self.made = made or node.output[0]

    @cached_property
    def oracle(self) -> Oracle:
        own = self.piece.needed([self.node])
        read = {name for node in own for name in node.input}
        alone = Piece(own, [*self.data], [tensor for tensor in self.piece.constants if tensor.name in read])
        model = alone.model(self.like, dict.fromkeys(self.data, onnx.TensorProto.FLOAT), self.made)
        return _oracle(model.SerializeToString(deterministic=True))

    def __call__(self, value: Array) -> Array:
        if not self.is_elementwise and (self.operator not in MAY_BE_PASSED or [self.node.input[0]] != self.data):
            raise NotOneLayer(f"an affine does not change places with {self.operator}")
        made = np.asarray(self.oracle.evaluate({self.data[0]: value})[self.made])
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
        return self.is_elementwise or self.operator in HOMOGENEOUS or self.joined_axis == 1

    @property
    def joined_axis(self) -> int | None:
        """The axis along which it joins tensors that all depend on data; None if it is no such Concat."""
        is_joint = self.operator == "Concat" and [*self.node.input] == [*self.data]
        return int(attributes(self.node)["axis"]) if is_joint else None

    def affine(self, shape: tuple[int, ...]) -> ScaleAndShift:
        """Of an elementwise node."""
        zero, one = self(np.zeros(shape)), self(np.ones(shape))
        if zero.shape != shape or one.shape != shape:
            raise NotOneLayer("an operator around it treats more than channels apart")
        return ScaleAndShift(one - zero, zero, self._size(zero, one - zero))

    def _size(self, shift: Array, scale: Array) -> Array:
        """How large the numbers are that the shift is the sum of.

        A BatchNormalization takes something off its bias; of a relation the size is added, and taken off again.
        """
        if self.node.name in OF_RELATION.values():
            return np.abs(shift) * (self.operator == "Sub")
        return np.asarray(np.abs(shift) + self._cancelled(scale))

    def _cancelled(self, scale: Array) -> Array:
        """What a BatchNormalization with this scale takes off its bias, twice."""
        stored = self.piece.by_name
        if self.operator != "BatchNormalization" or self.node.input[3] not in stored:
            return np.zeros_like(scale)
        mean = detached.values(stored[self.node.input[3]]).astype(np.float64)
        return np.asarray(2 * np.abs(scale * mean.reshape(-1, *[1] * (scale.ndim - 2))))

    def mark(self) -> tuple[Any, ...]:
        """What it does, to be found in both models. Raises NotOneLayer where that depends on more than constants."""
        if [self.node.input[0]] != self.data:
            raise NotOneLayer(f"what {self.operator} does depends on more than constants")
        values = (self._constant(name).tolist() for name in self.node.input[1:] if name)
        return (*computation(self.node, [""]), *map(str, values))

    def passes(self, before: tuple[Any, ...], shape: tuple[int, ...]) -> tuple[Any, ...]:
        """What an affine has passed, with this node, which a tensor of `shape` enters; rearrangements are made one."""
        if self.operator not in PLACED:
            return (*before, self.mark())
        return appended_rearrangement(before, shape, self.places(shape))

    def places(self, shape: tuple[int, ...]) -> Array:
        """For each place of what it makes the place that its element has in what enters; NO_PLACE for a zero."""
        if self(np.zeros(shape)).any():
            raise NotOneLayer(f"{self.operator} makes elements that are not of its input")
        return self(np.arange(prod(shape), dtype=np.float64).reshape(shape) + 1).astype(np.int64) - 1

    def require_passed(self, scale: Array, shift: Array) -> None:
        """Raises NotOneLayer unless an affine on what enters may as well stand after it, and the other way round."""
        if self.operator in PLACED:
            return
        positive, still = bool((scale > 0).all()), not shift.any()
        if not (
            (self.operator in HOMOGENEOUS and positive and still)
            or (self.operator in MAXIMA and positive and len(self.node.output) == 1)
            or (self.operator in MEANS and (still or not self.counts_padding))
        ):
            raise NotOneLayer(f"an affine does not change places with {self.operator}")

    def carried(self, values: Array) -> Array:
        """Numbers that belong to what enters, laid out over what it makes: it neither scales nor shifts them."""
        axes = self.mixed(values.ndim)
        if self.operator in PLACED:
            return self(values)
        if not axes:
            return values
        kept = tuple(slice(0, 1) if axis in axes else slice(None) for axis in range(values.ndim))
        shape = self(values).shape
        first = values[kept] if len(shape) == values.ndim else values[kept].squeeze(axes)
        return np.broadcast_to(first, shape)

    def before(self, entered: tuple[int, ...], values: Array) -> Array:
        """Numbers that belong to what it makes, laid out over what enters it; 0 where that is not read.

        Raises NotOneLayer where elements that are read several times belong to different numbers.
        """
        axes = self.mixed(len(entered))
        if self.operator in HOMOGENEOUS:
            return values
        if not axes:
            places = self.places(entered).ravel()
            if (places == NO_PLACE).any():
                raise NotOneLayer("an affine after padding is not one before it")
            laid = np.zeros(prod(entered))
            laid[places] = values.ravel()
            if not np.array_equal(laid[places], values.ravel(), equal_nan=True):
                raise NotOneLayer("an affine after it is not the same for all copies of an element")
            return laid.reshape(entered)
        if values.ndim != len(entered):
            raise NotOneLayer(f"{self.operator} drops axes")
        kept = tuple(slice(0, 1) if axis in axes else slice(None) for axis in range(values.ndim))
        require_constant([values], axes)
        return np.broadcast_to(values[kept], entered)

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
        if self.operator not in ("ReduceMean", "ReduceMax"):
            return tuple(range(2, rank))
        axes = attributes(self.node).get("axes", [])
        if any(self.node.input[1:]):
            axes = self._constant(self.node.input[1]).astype(int).tolist()
        return tuple(axis % rank for axis in axes) or tuple(range(rank))

    def _constant(self, name: str) -> Array:
        """What the node reads as `name`, stored or made of what is. Raises NotOneLayer for anything else."""
        if name in self.piece.stored:
            return np.asarray(detached.values(self.piece.stored[name]))
        own = [node for node in self.piece.needed([self.node]) if node is not self.node]
        try:
            made = Oracle(Piece(own, [], self.piece.constants).model(self.like, {}, name)).evaluate({}, [name])
        except CannotEvaluate as why:
            raise NotOneLayer(f"what {self.operator} does depends on more than constants") from why
        return np.asarray(made[name])


def require_constant(numbers: Iterable[Array], axes: tuple[int, ...]) -> None:
    """Raises NotOneLayer unless numbers are the same all along some axes."""
    for values in numbers:
        if axes and np.ptp(values, axis=axes).any():
            raise NotOneLayer("an affine is not the same all over what is averaged")
