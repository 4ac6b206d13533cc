"""The algebra of any linear piece: the responses of both models to nothing and to unit impulses.

A fold site that is linear is known for all inputs once its response to nothing and to every unit impulse is known. Both
pieces are evaluated in float64, with the numbers they store. Fed an impulse, an output of the folded model is one
stored weight, so that it must be the original's response to the last bit that its type can hold: no further from it
than the unit roundoff.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from math import prod
from typing import Any

import numpy as np
import onnx
from onnx import helper

from ...runtime.protos import called
from ..float64.oracle import Oracle
from ..float64.windows import Array
from .claims import Claim
from .impulses import Impulses, NotDerived, elements, everything, impulses
from .pieces import POINTWISE, SUMS, Piece, of_sizes, other_operand, require_linear, scaled_or_shifted, summing
from .roundoffs import Comparison, roundoffs
from .scale_and_shift import SAME, compressed

FED_AT_ONCE = 1 << 18  # elements of one batch of impulses


class ImpulseComparison:
    """The comparison of the responses of both pieces of a claim, of which `examples` has the shapes and types.

    `kind` is the type in which the folded model's constants were rounded. Of each tensor that enters `most` responses
    are compared at most: of more, a share that is drawn with `seed`. Raises NotDerived where impulses say nothing.
    """

    def __init__(
        self,
        models: Sequence[onnx.ModelProto],
        claim: Claim,
        examples: Mapping[str, Array],
        kind: Any,
        most: int,
        seed: int,
    ) -> None:
        self.pieces, self.site, self.examples = claim.pieces, claim.site, examples
        self.kind, self.most, self.seed = kind, most, seed
        self.entering = sorted({name for each in self.pieces for name in each.entering})
        self._require_impulses()
        self.impulses = [(name, each) for name in self.entering for each in self._impulses(name)]
        kinds = {n: helper.np_dtype_to_tensor_dtype(examples[n].dtype) for n in self.entering}
        made = [piece.model(model, kinds, self.site) for piece, model in zip(self.pieces, models, strict=True)]
        self.oracles, self.of_sizes = [Oracle(model) for model in made], [Oracle(of_sizes(model)) for model in made]
        self.ratio, self.at_rest, self.effect, self.responses = 0.0, 0.0, 0.0, 0
        self.shift: Array | None = None  # the folded model's response to nothing less the original's, if it is constant
        self.alone = len(self.pieces[1].nodes) == 1  # a response is one constant, not a sum or product of several

    def _require_impulses(self) -> None:
        """Raises NotDerived unless the pieces are linear, and impulses can be made for all that enters."""
        for piece in self.pieces:
            require_linear(piece)
        if unknown := [name for name in self.entering if name not in self.examples]:
            raise NotDerived(f"{unknown[0]!r}, which enters it, holds no floating-point numbers")
        if any(self.examples[name].ndim < 2 for name in self.entering):
            raise NotDerived("a tensor of one axis, or none, enters it")
        shapes = [
            *(self.examples[name].shape for name in (*self.entering, self.site)),
            *(tensor.dims for piece in self.pieces for tensor in piece.constants),
        ]
        if any(0 in shape for shape in shapes):
            raise NotDerived("it has to do with a tensor without elements")

    def run(self) -> Comparison:
        """Feed every tensor that enters; the share is that of all impulses that there was time for."""
        shares = [self._feed(name, each) for name, each in self.impulses]
        share, shift = min(shares, default=1.0), self.shift
        relation = None if shift is None else SAME._replace(shift=shift, size=np.abs(shift), ratio=self.ratio)
        return Comparison(self.responses, share, self.ratio, self.at_rest, self.effect, relation)

    def _impulses(self, name: str) -> list[Impulses]:
        """Impulses for each operator of the folded piece that sums what it reads of `name`, element by element."""
        sizes = {t.name: tuple(t.dims) for t in self.pieces[1].constants}
        example, names = self.examples[name].shape, scaled_or_shifted(self.pieces[1], name)
        mixing = summing(self.pieces[1], name)
        read = [(node, next((each for each in node.input if each in names), "")) for node in mixing]
        direct = [(node, each) for node, each in read if each and sizes.get(other_operand(node, each))]
        made = [impulses(n, list(n.input).index(x), sizes[other_operand(n, x)], example) for n, x in direct]
        if len(direct) < len(mixing):
            made.append(elements(example))
        pointwise = all(called(node) in POINTWISE | SUMS - {"Concat"} for node in self.pieces[1].data_nodes())
        return made or [everything(example) if pointwise else elements(example)]

    def _feed(self, name: str, all_impulses: Impulses) -> float:
        """Feed one entering tensor, the others being zero; returns the share of the impulses that were used."""
        shape = all_impulses.shape
        base = self._responses(name, nothing := np.zeros((1, *shape)))
        if not base[0].size:
            raise NotDerived("it makes a tensor without elements of a batch of 1")
        sums, sizes = (self._response(o, p, name, nothing) for o, p in zip(self.of_sizes, self.pieces, strict=True))
        self.at_rest = max(self.at_rest, self._worst(base[0], base[1], sizes, sizes, lambda: sums))
        self.shift = _constant(base[1] - base[0], self.examples[self.site].shape)
        chosen = self._drawn(all_impulses, max(base[0].size, prod(shape)))
        batch = max(1, FED_AT_ONCE // prod(shape))
        for start in range(0, len(chosen), batch):
            fed = all_impulses.batch(chosen[start : start + batch])
            ours, theirs = self._responses(name, fed)
            if ours.shape[1:] != base[0].shape[1:] or base[0].shape[0] not in (1, ours.shape[0]):
                raise NotDerived("its pieces take one size of batch only")
            weights = theirs - base[1]
            summed = np.abs(base[0]) + np.abs(ours)
            own = partial(self._sums, name, fed, sums)
            self.ratio = max(self.ratio, self._worst(ours - base[0], weights, summed, np.abs(weights), own))
        return len(chosen) / all_impulses.count

    def _drawn(self, all_impulses: Impulses, elements: int) -> Array:
        """Which impulses are fed: all, or as many at random as there is work allowed for."""
        most = max(1, self.most // max(1, elements))
        if all_impulses.count <= most:
            return np.arange(all_impulses.count)
        return np.sort(np.random.default_rng(self.seed).choice(all_impulses.count, most, replace=False))

    def _responses(self, name: str, value: Array) -> list[Array]:
        """What both pieces make of `value` for one entering tensor and zeros for the others."""
        pairs = zip(self.oracles, self.pieces, strict=True)
        made = [self._response(oracle, piece, name, value) for oracle, piece in pairs]
        if made[0].shape != made[1].shape or not made[0].size:
            raise NotDerived("its pieces do not take pictures of another size")
        return made

    def _response(self, oracle: Oracle, piece: Piece, name: str, value: Array) -> Array:
        feeds = {n: np.zeros(self._shape_of_zeros(n, name, value.shape)) for n in piece.entering} | {name: value}
        return np.asarray(oracle.evaluate({n: feeds[n] for n in piece.entering})[self.site])

    def _shape_of_zeros(self, name: str, fed: str, shape: tuple[int, ...]) -> tuple[int, ...]:
        """The shape of a tensor that enters next to another one of `shape`: images are all made small alike."""
        usual, other = self.examples[name].shape, self.examples[fed].shape
        same = shape[1:] == other[1:] or len(usual) != len(shape)
        return (shape[0], *usual[1:]) if same else (shape[0], usual[1], *shape[2:])

    def _sums(self, name: str, value: Array, at_rest: Array) -> Array:
        """How large the numbers are that the original's response is the sum of."""
        return self._response(self.of_sizes[0], self.pieces[0], name, np.abs(value)) - at_rest

    def _worst(
        self, expected: Array, got: Array, summed: Array, sizes: Array, in_original: Callable[[], Array]
    ) -> float:
        """The difference in roundoffs of what the folded model's response is made of, float64's own noise taken off.

        A response that is one rounded constant is the right one up to half the distance to its neighbour. Where a bias
        and a mean cancel, what is left is as good as they are. The effect is the same difference in roundoffs of what
        the original's response is the sum of: what a fold that rounds on the way is entitled to.
        """
        self.responses += int(np.count_nonzero(expected))
        worst = roundoffs(expected, got, summed, sizes, self.kind, self.alone)
        if worst > max(1.0, self.effect):
            self.effect = max(
                self.effect, min(worst, roundoffs(expected, got, summed, in_original(), self.kind, False))
            )
        return worst


def _constant(values: Array, shape: tuple[int, ...]) -> Array | None:
    """Numbers as one along axes on which they are the same; None if they fit no tensor of `shape`."""
    values = compressed(values)
    fits = values.ndim == len(shape) and all(n in (1, size) for n, size in zip(values.shape, shape, strict=True))
    return values if fits and values.shape[:1] == (1,) else None
