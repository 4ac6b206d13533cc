"""The algebra tier: the weights at a fold site, derived once more from the original, without random inputs.

A fold site is cut out of both models. Where each piece is one linear operator among affines, the weights of both are
compared (`weights`); where one has another form, the responses of both to unit impulses (`responses`). Neither fold nor
onnxruntime takes part.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import cached_property, partial
from typing import Any

import numpy as np
import onnx
from onnx import helper

from ...runtime.protos import called, overridable
from ..float64.floating import roundoff
from ..float64.oracle import CannotEvaluate, Oracle
from ..float64.windows import Array
from ..regions import MIXING, changed_constants
from ..results import SITE_LIMIT, Derived
from ..tensor_records import finite
from .any_size import is_for_any_size, require_same_cuts, require_same_places
from .claims import RENAMED, Argument, Claim, Cuts, whole
from .conditions import require_same_arithmetic
from .examples import of_other_sizes
from .impulses import NotDerived
from .indexed_model import IndexedModel
from .known_sizes import with_known_sizes
from .merged import branches_as_one
from .operands import by_operands, of_other_name
from .pieces import Piece
from .responses import ImpulseComparison
from .roundoffs import Comparison
from .scale_and_shift import SAME, NotOneLayer, Relation
from .sums import compare_sums, sums_at
from .weights import compare_layers, layer

RESPONSES = {"fast": 1 << 22, "full": 1 << 40}  # to impulses, of one site and one input; of more, a share is drawn
LOST = "what it adds is lost in rounding, of the values that were seen"
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


def derive(pair: Pair, cuts: Sequence[Cuts], site: str, like: str = "") -> tuple[Derived, Relation | None]:
    """Compare one site, or say why that cannot be done; `cuts` are tensors that are known to be the same, or related.

    Where the folded model's tensor is the original's, scaled and shifted by constants, this relation as well. How large
    numbers were that cancel is not known of what entered by a relation: then cuts are only what is the same.
    `like` is the name of the original's tensor, if it is another.
    """
    derived, relation = _derived_at(pair, cuts, site, like)
    is_far = relation and derived.ratio > ON_THE_WAY
    if is_far or derived.exact or not cuts[1].relations:
        return derived, relation
    again, other = _derived_at(pair, (cuts[0], cuts[1].exact), site, like)
    is_closer = not again.why and (bool(derived.why) or (-again.share, again.ratio) < (-derived.share, derived.ratio))
    return (again, other) if other or is_closer else (derived, relation)


def _derived_at(pair: Pair, cuts: Sequence[Cuts], site: str, like: str) -> tuple[Derived, Relation | None]:
    """One site, derived from the tensors at which both models are cut, in the first way to argue that answers."""
    ways = [partial(by_operands, site=site, sizes=lambda: (pair.examples, pair.elsewhere)), partial(whole, site=site)]
    ways = [partial(of_other_name, names=(like, site))] if like else ways
    result = Derived(site, pair.indexed[1].makers[site].op_type, why="it was not compared")
    for argue in ways:
        try:
            argument = argue(cuts)
            parts = [_judged(pair, claim, replace(result, why="")) for claim in argument.claims]
        except (NotDerived, CannotEvaluate) as why:
            result = replace(result, why=str(why)) if result.why else result
        else:
            derived, relation = _joined(parts, argument)
            if derived.ok or relation:
                return derived, relation.of(pair.examples[like or site].shape) if relation else None
            both = zip(argument.claims, parts, strict=True)
            is_lost = all(part.ok or _is_lost(pair, claim, shifted) for claim, (part, shifted) in both)
            result = Derived(site, result.operator, why=LOST) if is_lost else derived
    return result, None


def _is_lost(pair: Pair, claim: Claim, relation: Relation | None) -> bool:
    """Whether the folded model's tensor is the original's but for a shift that rounding hides in the values at hand.

    Of each channel for itself.
    """
    folded, examples = claim.pieces[1], pair.examples
    if relation is None or (relation.scale != 1).any() or not any(np.any(examples[n]) for n in folded.entering):
        return False
    kinds = {name: helper.np_dtype_to_tensor_dtype(examples[name].dtype) for name in folded.entering}
    oracle = Oracle(folded.model(pair.folded, kinds, claim.site))
    values = oracle.evaluate({name: examples[name] for name in folded.entering})[claim.site]
    shift = relation.of(values.shape).shift
    if any(n not in (1, size) for n, size in zip(shift.shape, values.shape, strict=True)):
        return False
    alike = tuple(axis for axis, n in enumerate(shift.shape) if n == 1)
    size = np.sqrt(np.mean(np.square(values), axis=alike, keepdims=True))
    return bool((np.abs(shift) <= roundoff(examples[claim.like].dtype) * size).all())


def _judged(pair: Pair, claim: Claim, site: Derived) -> tuple[Derived, Relation | None]:
    """Compare the pieces of one claim. Raises NotDerived where that says nothing of other sizes."""
    require_same_arithmetic(claim, pair.examples)
    comparison = _compared(pair, claim)
    derived, relation = _derived(pair, claim, comparison, site)
    if not comparison.for_any_size and (derived.ok or relation):
        _require_same_elsewhere(pair, claim, comparison, relation)
    return derived, relation


def _joined(parts: Sequence[tuple[Derived, Relation | None]], argument: Argument) -> tuple[Derived, Relation | None]:
    """What all claims say of a site together; relations may undo one another."""
    sites = [derived for derived, _ in parts]
    worst = max(sites, key=lambda each: (not each.ok, each.ratio / each.roundings))
    responses, share = sum(each.responses for each in sites), min(each.share for each in sites)
    inside = tuple({name: 0 for each in sites for name in each.inside})
    joined = replace(worst, responses=responses, share=share, inside=inside)
    if joined.ok or not all(relation or (derived.ok and derived.share == 1) for derived, relation in parts):
        return joined, None
    known = [relation or SAME._replace(ratio=each.ratio, roundings=each.roundings) for each, relation in parts]
    relation = argument.relation(known)
    if relation and relation.is_identity:
        ratio, limit = relation.ratio, max(1.0, relation.roundings)
        return replace(joined, ratio=ratio, effect=ratio, roundings=limit), None
    return joined, relation


def _require_same_elsewhere(pair: Pair, claim: Claim, usual: Comparison, relation: Relation | None) -> None:
    """Raises NotDerived unless a comparison for other sizes, if there are any, has the same result as the `usual` one.

    `relation` is that of the folded model's tensor to the original's, if they are not the same.
    """
    names = {claim.like, *(name for piece in claim.pieces for name in piece.entering)}
    other = {name: pair.elsewhere[name] for name in names if name in pair.elsewhere}
    if len(other) == len(names) and all(other[name].shape == pair.examples[name].shape for name in names):
        return
    if len(other) < len(names):
        raise NotDerived("the sizes of tensors are not known beforehand")
    require_same_cuts(claim, pair.examples, pair.elsewhere)
    require_same_places(claim.pieces)
    again = _compared(replace(pair, examples=pair.elsewhere), claim)
    before, now = (_worst_of(each, relation) for each in (usual, again))
    moved = relation is not None and not relation.agrees(again.relation)
    if now > max(1.0, before) * SITE_LIMIT or again.share < usual.share or moved:
        raise NotDerived("the two models make the same of tensors of some sizes only")


def _worst_of(comparison: Comparison, relation: Relation | None) -> float:
    """The largest difference from the original, or from what is related to it."""
    if relation is None:
        return max(comparison.ratio, comparison.at_rest)
    return comparison.relation.ratio if comparison.relation else comparison.ratio


def _derived(pair: Pair, claim: Claim, comparison: Comparison, site: Derived) -> tuple[Derived, Relation | None]:
    """The site with what a comparison showed of it, and the relation of its tensor to the original's, if there is one.

    It is no closer to the original than what enters, and has been rounded as often as this before.
    """
    folded, relation = claim.pieces[1], comparison.relation
    limit = roundings(pair, folded, claim.site) + folded.roundings
    ratio = max(comparison.ratio, comparison.at_rest, folded.ratio)
    site = replace(site, responses=comparison.responses, share=comparison.share, ratio=finite(ratio))
    site = replace(site, roundings=max(1.0, limit))
    inside = tuple(name.removesuffix(RENAMED) for node in folded.nodes for name in node.output)
    site = replace(site, inside=inside, effect=finite(comparison.effect))
    if site.ok or relation is None or comparison.share < 1:
        return site, None
    off = max(relation.ratio, folded.ratio)
    is_related = replace(site, ratio=off, effect=off).ok
    is_estimated = (relation.scale != 1).any() and any(called(node) in MIXING for node in folded.nodes)
    return site, relation._replace(ratio=off, roundings=limit + float(is_estimated)) if is_related else None


def _compared(pair: Pair, claim: Claim) -> Comparison:
    """Of one layer the weights themselves, of a sum its terms; what has another form is fed impulses.

    So is what a fold has rounded on the way: of impulses it is known how large the numbers are that were rounded.
    """
    pieces, site, like = claim.pieces, claim.site, claim.like
    if like not in pair.examples:
        raise NotDerived("the shape of what it makes is not known")
    pair = replace(pair, examples={**pair.examples, site: pair.examples[like]}) if site != like else pair
    kind = pieces[1].rounded() or pair.examples[site].dtype
    comparison = _by_form(pair, claim, kind)
    if comparison and not _may_cancel(comparison, pieces):
        return comparison
    try:
        responses = _responses_compared(pair, claim, kind)
    except (NotDerived, CannotEvaluate):
        if comparison:
            return comparison
        raise
    if comparison is None:
        return responses
    is_closer = responses.share == 1 and min(responses.ratio, responses.effect) <= SITE_LIMIT
    relation = comparison.relation or responses.relation  # impulses do not show how large numbers were that cancel
    return responses._replace(relation=relation) if is_closer else comparison


def _may_cancel(comparison: Comparison, pieces: Sequence[Piece]) -> bool:
    """Whether a difference may be one of numbers that cancel; of a sum all is seen with one input."""
    is_sum = not any(called(node) in MIXING for piece in pieces for node in piece.nodes)
    is_shifted = comparison.ratio <= SITE_LIMIT < comparison.at_rest and comparison.for_any_size
    return SITE_LIMIT < comparison.effect < ON_THE_WAY or (is_sum and is_shifted)


def _by_form(pair: Pair, claim: Claim, kind: Any) -> Comparison | None:
    """The comparison of two layers, or of two sums, with the sizes of data at hand; None where they are neither."""
    models = (pair.original, pair.folded)
    pieces = [with_known_sizes(*each, pair.examples) for each in zip(models, claim.pieces, strict=True)]
    comparison = _of_layers_or_sums(pair, claim._replace(pieces=pieces), kind)
    looks_at_sizes = any(own is not piece for own, piece in zip(pieces, claim.pieces, strict=True))
    return comparison._replace(for_any_size=False) if comparison and looks_at_sizes else comparison


def _of_layers_or_sums(pair: Pair, claim: Claim, kind: Any) -> Comparison | None:
    (first, second), site, examples = claim.pieces, claim.site, pair.examples
    with suppress(NotOneLayer):
        original = layer(pair.original, first, site, examples, (), kind)
        return compare_layers(original, layer(pair.folded, second, site, examples, original.made, kind))
    with suppress(NotOneLayer):
        folded = layer(pair.folded, second, site, examples, examples[site].shape, kind)
        return compare_layers(branches_as_one(pair.original, first, site, examples, (folded, second), kind), folded)
    with suppress(NotOneLayer):
        return compare_sums(sums_at((pair.original, pair.folded), claim, examples), kind)
    return None


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
    return float(depth[site])
