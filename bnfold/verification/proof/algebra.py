"""The algebra tier: the weights at a fold site, derived once more from the original, without random inputs.

A fold site is cut out of both models. Where each piece is one linear operator among affines, the weights of both are
compared (`weights`); where one has another form, the responses of both to unit impulses (`responses`). Neither fold nor
onnxruntime takes part.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
import onnx

from ...runtime.protos import overridable
from ..float64.oracle import CannotEvaluate
from ..float64.windows import Array
from ..regions import changed_constants
from ..results import SITE_LIMIT, Derived
from ..tensor_records import finite
from .around import NotOneLayer
from .conditions import is_for_any_size, require_same_arithmetic, require_same_cuts, require_same_places
from .examples import of_other_sizes
from .impulses import NotDerived
from .indexed_model import IndexedModel
from .operands import operand
from .pieces import Claim, Cuts, Piece, whole
from .responses import ImpulseComparison
from .weights import Comparison, compare_layers, layer

RESPONSES = {"fast": 1 << 22, "full": 1 << 40}  # to impulses, of one site and one input; of more, a share is drawn
ON_THE_WAY = 1 << 16  # unit roundoffs that a fold in float32 may be off: sums of many numbers, large means


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
    def indexed(self) -> tuple[IndexedModel, IndexedModel]:
        free = {*overridable(self.original)}
        return IndexedModel(self.original, free), IndexedModel(self.folded, free)


def derive(pair: Pair, cuts: Sequence[Cuts], site: str) -> tuple[Derived, Array | None]:
    """Compare one site, or say why that cannot be done; `cuts` are tensors that are known to be the same.

    Where the folded model's tensor is the original's less a constant, this constant as well, of the tensor's rank.
    """
    operator = pair.indexed[1].makers[site].op_type
    for cut_out in (operand, whole):
        try:
            claim = cut_out(cuts, site)
            require_same_arithmetic(claim, pair.examples)
            comparison = _compared(pair, claim)
            derived, shift = _derived(pair, claim, comparison, Derived(site, operator))
            if not comparison.for_any_size and (derived.ok or shift is not None):
                _require_same_elsewhere(pair, claim, comparison, shift)
        except (NotDerived, CannotEvaluate) as why:
            reason = str(why)
        else:
            return derived, shift
    return Derived(site, operator, why=reason), None


def _require_same_elsewhere(pair: Pair, claim: Claim, usual: Comparison, shift: Array | None) -> None:
    """Raises NotDerived unless a comparison for other sizes, if there are any, has the same result as the `usual` one.

    `shift` is the constant by which the folded model's tensor is smaller, if it is.
    """
    names = {claim.like, *(name for piece in claim.pieces for name in piece.entering)}
    other = {name: pair.elsewhere[name] for name in names if name in pair.elsewhere}
    if len(other) == len(names) and all(other[name].shape == pair.examples[name].shape for name in names):
        return
    require_same_cuts(claim)
    require_same_places(claim.pieces)
    if len(other) < len(names):
        raise NotDerived("the sizes of tensors are not known beforehand")
    again = _compared(replace(pair, examples=pair.elsewhere), claim)
    before, now = (max(each.ratio, each.at_rest if shift is None else 0.0) for each in (usual, again))
    moved = shift is not None and not _is_same_shift(shift, again.shift)
    if now > max(1.0, before) * SITE_LIMIT or again.share < usual.share or moved:
        raise NotDerived("the two models make the same of tensors of some sizes only")


def _is_same_shift(shift: Array, other: Array | None) -> bool:
    return other is not None and other.shape == shift.shape and np.allclose(other, shift)


def _derived(pair: Pair, claim: Claim, comparison: Comparison, site: Derived) -> tuple[Derived, Array | None]:
    """The site with what a comparison showed of it, and the constant by which its tensor is smaller, if it is."""
    folded = claim.pieces[1]
    limit, ratio = roundings(pair, folded, claim.site), max(comparison.ratio, comparison.at_rest)
    site = replace(site, responses=comparison.responses, share=comparison.share, ratio=finite(ratio), roundings=limit)
    inside = tuple(name for node in folded.nodes for name in node.output)
    site = replace(site, inside=inside, effect=finite(comparison.effect))
    is_shifted = comparison.share == 1 and not site.ok and replace(site, ratio=comparison.ratio).ok
    return site, comparison.shift if is_shifted and claim.site == claim.like else None


def _compared(pair: Pair, claim: Claim) -> Comparison:
    """Of one layer the weights themselves; what has another form, or rounded on the way, is fed impulses."""
    pieces, site, like = claim
    if like not in pair.examples:
        raise NotDerived("the shape of what it makes is not known")
    pair = replace(pair, examples={**pair.examples, site: pair.examples[like]}) if site != like else pair
    kind = pieces[1].rounded() or pair.examples[site].dtype
    try:
        first = layer(pair.original, pieces[0], pair.examples, (), kind)
        second = layer(pair.folded, pieces[1], pair.examples, first.made, kind)
        comparison = compare_layers(first, second, pair.examples[site])
    except NotOneLayer:
        return _responses_compared(pair, claim, kind)
    if SITE_LIMIT < comparison.effect < ON_THE_WAY:
        with suppress(NotDerived, CannotEvaluate):
            return _responses_compared(pair, claim, kind)
    return comparison


def _responses_compared(pair: Pair, claim: Claim, kind: Any) -> Comparison:
    models, most = (pair.original, pair.folded), RESPONSES[pair.effort]
    comparison = ImpulseComparison(models, claim, pair.examples, kind, most, pair.seed).run()
    return comparison._replace(for_any_size=is_for_any_size(claim))


def roundings(pair: Pair, folded: Piece, site: str) -> float:
    """The most changed constants that one value passes on its way to the site."""
    depth: dict[str, int] = {}
    for node in folded.nodes:
        own = int(not pair.changed.isdisjoint(node.input))
        depth.update(dict.fromkeys(node.output, own + max((depth.get(n, 0) for n in node.input), default=0)))
    return max(1.0, float(depth[site]))
