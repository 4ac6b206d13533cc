"""The algebra tier: the weights at a fold site, derived once more from the original, without random inputs.

A fold site that is linear is known for all inputs once its response to nothing and to every unit impulse is known. Both
models are asked for these responses, in float64, with the numbers they store. Fed an impulse, an output of the folded
model is one stored weight, so that it must be the original's response to the last bit that its type can hold: no
further from it than the unit roundoff. Neither fold nor onnxruntime takes part.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import cached_property, partial
from math import prod
from typing import Any

import numpy as np
import onnx
from onnx import helper

from ...runtime.protos import called, overridable
from ..float64.oracle import CannotEvaluate, Oracle
from ..float64.windows import Array
from ..regions import changed_constants
from ..results import SITE_LIMIT, Derived
from ..tensor_records import finite
from .around import NotOneLayer
from .conditions import is_for_any_size, require_alike, require_same_cuts, require_same_places
from .examples import of_other_sizes
from .impulses import Impulses, NotDerived, elements, everything, impulses
from .operands import operand
from .pieces import (
    POINTWISE,
    SUMS,
    Cuts,
    Piece,
    Question,
    elementwise,
    of_sizes,
    other_operand,
    require_linear,
    summing,
    whole,
)
from .sides import Side
from .weights import Comparison, compare, layer, roundoffs

ON_THE_WAY = 1 << 16  # unit roundoffs that a fold in float32 may be off: sums of many numbers, large means
BLOCK = 1 << 21  # elements of one batch of impulses
RESPONSES = {"fast": 1 << 22, "full": 1 << 40}  # of one site, for one input; of more, a share is drawn


@dataclass(frozen=True)
class Pair:
    """Two models and an example of each tensor that both have, for its shape and type."""

    original: onnx.ModelProto
    folded: onnx.ModelProto
    examples: Mapping[str, Array]
    effort: str = "fast"
    seed: int = 0

    @cached_property
    def changed(self) -> set[str]:
        """Constants that only the folded model has."""
        return changed_constants(self.original.graph, self.folded.graph)

    @cached_property
    def elsewhere(self) -> dict[str, Array]:
        """Examples of other sizes, as far as the graph allows any."""
        names = [value.name for value in self.original.graph.input]
        return of_other_sizes(self.original, {name: self.examples[name] for name in names if name in self.examples})

    @cached_property
    def sides(self) -> tuple[Side, Side]:
        free = {*overridable(self.original)}
        return Side(self.original, free), Side(self.folded, free)


def derive(pair: Pair, cuts: Sequence[Cuts], site: str) -> tuple[Derived, Array | None]:
    """Compare one site, or say why that cannot be done; `cuts` are tensors that are known to be the same.

    Where the folded model's tensor is smaller by a constant, and otherwise the same, this constant as well.
    """
    operator = pair.sides[1].makers[site].op_type
    for cut_out in (operand, whole):
        try:
            question = cut_out(cuts, site)
            require_alike(question, pair.examples)
            found = _compared(pair, question)
            derived, less = _derived(pair, question, found, Derived(site, operator))
            if not found.for_any_size and (derived.ok or less is not None):
                _require_same_elsewhere(pair, question, found, less)
        except (NotDerived, CannotEvaluate) as why:
            reason = str(why)
        else:
            return derived, less
    return Derived(site, operator, why=reason), None


def _require_same_elsewhere(pair: Pair, question: Question, found: Comparison, less: Array | None) -> None:
    """Raises NotDerived unless a comparison says the same for tensors of other sizes, if there are any.

    `less` is the constant by which the folded model's tensor is smaller, if it is.
    """
    names = {question.like, *(name for piece in question.pieces for name in piece.entering)}
    other = {name: pair.elsewhere[name] for name in names if name in pair.elsewhere}
    if len(other) == len(names) and all(other[name].shape == pair.examples[name].shape for name in names):
        return
    require_same_cuts(question)
    require_same_places(question.pieces)
    if len(other) < len(names):
        raise NotDerived("the sizes of tensors are not known beforehand")
    again = _compared(replace(pair, examples=pair.elsewhere), question)
    usual, now = (max(each.ratio, each.at_rest if less is None else 0.0) for each in (found, again))
    moved = less is not None and (again.by is None or again.by.shape != less.shape or not np.allclose(again.by, less))
    if now > max(1.0, usual) * SITE_LIMIT or again.share < found.share or moved:
        raise NotDerived("the two models make the same of tensors of some sizes only")


def _derived(pair: Pair, question: Question, found: Comparison, site: Derived) -> tuple[Derived, Array | None]:
    folded = question.pieces[1]
    limit, ratio = roundings(pair, folded, question.site), max(found.ratio, found.at_rest)
    site = replace(site, responses=found.responses, share=found.share, ratio=finite(ratio), roundings=limit)
    inside = tuple(name for node in folded.nodes for name in node.output)
    site = replace(site, inside=inside, effect=finite(found.effect))
    by_constant = found.share == 1 and not site.ok and replace(site, ratio=found.ratio).ok
    return site, found.by if by_constant and question.site == question.like else None


def _compared(pair: Pair, question: Question) -> Comparison:
    """Of one layer the weights themselves; what has another form, or rounded on the way, is fed impulses."""
    pieces, site, like = question
    if like not in pair.examples:
        raise NotDerived("the shape of what it makes is not known")
    pair = replace(pair, examples={**pair.examples, site: pair.examples[like]}) if site != like else pair
    kind = pieces[1].rounded() or pair.examples[site].dtype
    try:
        first = layer(pair.original, pieces[0], pair.examples, (), kind)
        found = compare(first, layer(pair.folded, pieces[1], pair.examples, first.made, kind), pair.examples[site])
    except NotOneLayer:
        return _Trial(pair, site, pieces, kind).run()._replace(for_any_size=is_for_any_size(question))
    if SITE_LIMIT < found.effect < ON_THE_WAY:
        with suppress(NotDerived, CannotEvaluate):
            return _Trial(pair, site, pieces, kind).run()._replace(for_any_size=is_for_any_size(question))
    return found


def roundings(pair: Pair, folded: Piece, site: str) -> float:
    """The most changed constants that one value passes on its way to the site."""
    depth: dict[str, int] = {}
    for node in folded.nodes:
        own = int(not pair.changed.isdisjoint(node.input))
        depth.update(dict.fromkeys(node.output, own + max((depth.get(n, 0) for n in node.input), default=0)))
    return max(1.0, float(depth[site]))


class _Trial:
    """Both pieces of one site, ready to be fed."""

    def __init__(self, pair: Pair, site: str, pieces: Sequence[Piece], kind: Any) -> None:
        self.pair, self.site, self.pieces, self.kind = pair, site, pieces, kind
        for each in pieces:
            require_linear(each)
        self.entering = sorted({name for each in pieces for name in each.entering})
        if unknown := [name for name in self.entering if name not in pair.examples]:
            raise NotDerived(f"{unknown[0]!r}, which enters it, holds no floating-point numbers")
        if any(pair.examples[name].ndim < 2 for name in self.entering):
            raise NotDerived("a tensor of one axis, or none, enters it")
        shapes = [
            *(pair.examples[n].shape for n in (*self.entering, site)),
            *(t.dims for each in pieces for t in each.constants),
        ]
        if any(0 in shape for shape in shapes):
            raise NotDerived("it has to do with a tensor without elements")
        kinds = {n: helper.np_dtype_to_tensor_dtype(pair.examples[n].dtype) for n in self.entering}
        models = (pair.original, pair.folded)
        made = [p.model(m, kinds, site) for p, m in zip(pieces, models, strict=True)]
        self.oracles, self.sizes = [Oracle(model) for model in made], [Oracle(of_sizes(model)) for model in made]
        self.ratio, self.at_rest, self.effect, self.responses = 0.0, 0.0, 0.0, 0
        self.by: Array | None = None
        self.single = len(pieces[1].nodes) == 1  # a response is one constant, not a sum or product of several

    def run(self) -> Comparison:
        """Feed every tensor that enters; the share is that of all impulses that there was time for."""
        shares = [self.feed(name, probe) for name in self.entering for probe in self.probes(name)]
        return Comparison(self.responses, min(shares, default=1.0), self.ratio, self.at_rest, self.by, self.effect)

    def probes(self, name: str) -> list[Impulses]:
        """Impulses for each operator of the folded piece that sums what it reads of `name`, element by element."""
        sizes = {t.name: tuple(t.dims) for t in self.pieces[1].constants}
        example, names = self.pair.examples[name].shape, elementwise(self.pieces[1], name)
        mixing = summing(self.pieces[1], name)
        read = [(node, next((each for each in node.input if each in names), "")) for node in mixing]
        direct = [(node, each) for node, each in read if each and sizes.get(other_operand(node, each))]
        found = [impulses(n, list(n.input).index(x), sizes[other_operand(n, x)], example) for n, x in direct]
        if len(direct) < len(mixing):
            found.append(elements(example))
        pointwise = all(called(node) in POINTWISE | SUMS - {"Concat"} for node in self.pieces[1].data_nodes())
        return found or [everything(example) if pointwise else elements(example)]

    def feed(self, name: str, probe: Impulses) -> float:
        """Feed one entering tensor, the others being zero; returns the share of the impulses that were used."""
        base = self.responses_to(name, nothing := np.zeros((1, *probe.shape)))
        if not base[0].size:
            raise NotDerived("it makes a tensor without elements of a batch of 1")
        sums, sizes = (self.answer(o, p, name, nothing) for o, p in zip(self.sizes, self.pieces, strict=True))
        self.at_rest = max(self.at_rest, self.judge(base[0], base[1], sizes, sizes, lambda: sums))
        self.by = _constant(base[0] - base[1], self.pair.examples[self.site].shape)
        chosen = self.drawn(probe, max(base[0].size, prod(probe.shape)))
        batch = max(1, BLOCK // prod(probe.shape))
        for start in range(0, len(chosen), batch):
            fed = probe.batch(chosen[start : start + batch])
            answers = self.responses_to(name, fed)
            if answers[0].shape[1:] != base[0].shape[1:]:
                raise NotDerived("its pieces take one size of batch only")
            found = answers[1] - base[1]
            summed = np.abs(base[0]) + np.abs(answers[0])
            own = partial(self.sums, name, fed, sums)
            self.ratio = max(self.ratio, self.judge(answers[0] - base[0], found, summed, np.abs(found), own))
        return len(chosen) / probe.count

    def drawn(self, probe: Impulses, elements: int) -> Array:
        """All impulses, or as many at random as there is work allowed for."""
        most = max(1, RESPONSES[self.pair.effort] // max(1, elements))
        if probe.count <= most:
            return np.arange(probe.count)
        return np.sort(np.random.default_rng(self.pair.seed).choice(probe.count, most, replace=False))

    def responses_to(self, name: str, value: Array) -> list[Array]:
        """What both pieces make of `value` for one entering tensor and zeros for the others."""
        pairs = zip(self.oracles, self.pieces, strict=True)
        found = [self.answer(oracle, piece, name, value) for oracle, piece in pairs]
        if found[0].shape != found[1].shape or not found[0].size:
            raise NotDerived("its pieces do not take pictures of another size")
        return found

    def answer(self, oracle: Oracle, piece: Piece, name: str, value: Array) -> Array:
        feeds = {n: np.zeros(self.silent(n, name, value.shape)) for n in piece.entering} | {name: value}
        return np.asarray(oracle.evaluate({n: feeds[n] for n in piece.entering})[self.site])

    def silent(self, name: str, fed: str, shape: tuple[int, ...]) -> tuple[int, ...]:
        """The shape of a tensor that enters next to another one of `shape`: images are all made small alike."""
        usual, other = self.pair.examples[name].shape, self.pair.examples[fed].shape
        same = shape[1:] == other[1:] or len(usual) != len(shape)
        return (shape[0], *usual[1:]) if same else (shape[0], usual[1], *shape[2:])

    def sums(self, name: str, value: Array, silent: Array) -> Array:
        """How large the numbers are that the original's response is the sum of."""
        return self.answer(self.sizes[0], self.pieces[0], name, np.abs(value)) - silent

    def judge(
        self, expected: Array, got: Array, summed: Array, sizes: Array, in_original: Callable[[], Array]
    ) -> float:
        """The difference in roundoffs of what the folded model's response is made of, float64's own noise taken off.

        A response that is one rounded constant is the right one up to half the distance to its neighbour. Where a bias
        and a mean cancel, what is left is as good as they are. The effect is the same difference in roundoffs of what
        the original's response is the sum of: what a fold that rounds on the way is entitled to.
        """
        self.responses += int(np.count_nonzero(expected))
        worst = roundoffs(expected, got, summed, sizes, self.kind, self.single)
        if worst > max(1.0, self.effect):
            self.effect = max(
                self.effect, min(worst, roundoffs(expected, got, summed, in_original(), self.kind, False))
            )
        return worst


def _constant(values: Array, shape: tuple[int, ...]) -> Array | None:
    """Numbers as one along axes on which they are the same; None if they fit no tensor of `shape`."""
    for axis in range(values.ndim):
        first = values.take([0], axis)
        if np.allclose(values, first, rtol=2.0**-40, atol=0):
            values = first
    fits = values.ndim == len(shape) and all(n in (1, size) for n, size in zip(values.shape, shape, strict=True))
    return values if fits and values.shape[:1] == (1,) else None
