"""The algebra of pieces without a linear operator: sums of tensors that are scaled, shifted and rearranged.

What such a piece makes is known, for every input, by the scale of each element of the tensors that enter, by where
these elements go, and by a shift.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import Any, NamedTuple

import numpy as np
import onnx

from ..float64.floating import roundoff
from ..float64.windows import Array
from ..regions import MIXING
from ..results import SITE_LIMIT
from .around import Entering, entering, require_followable
from .claims import Claim
from .roundoffs import Comparison, roundoffs
from .scale_and_shift import NotOneLayer, Relation, about_one, related, spread
from .weights import require_shapes, steps_of


class Sums(NamedTuple):
    """What both models compute at a site; for images of any size, if operators treat all places of them alike."""

    original: Entering
    folded: Entering
    for_any_size: bool


def sums_at(models: Sequence[onnx.ModelProto], claim: Claim, examples: Mapping[str, Array]) -> Sums:
    """The sums that the pieces of a claim are; `examples` are of tensors, for their shapes.

    Raises NotOneLayer where they are none.
    """
    pieces, site = claim.pieces, claim.site
    names = {name for piece in pieces for name in piece.entering}
    require_shapes(names, examples)
    first, second = (steps_of(model, piece, site) for model, piece in zip(models, pieces, strict=True))
    if any(step.operator in MIXING for step in (*first, *second)):
        raise NotOneLayer("it has a linear operator")
    if all(step.keeps_places for step in (*first, *second)):
        shapes = {name: tuple(n if i == 1 else 1 for i, n in enumerate(examples[name].shape)) for name in names}
        with suppress(NotOneLayer):  # where it treats more than channels apart
            return Sums(entering(first, shapes, site), entering(second, shapes, site), True)
    shapes = {name: require_followable(examples[name].shape) for name in names}
    return Sums(entering(first, shapes, site), entering(second, shapes, site), False)


def compare_sums(sums: Sums, kind: Any) -> Comparison:
    """Both sums of a site; `kind` is the type in which constants were rounded.

    Raises NotOneLayer where they are not of the same tensors, in the same places.
    """
    ours, theirs = sums.original, sums.folded
    if ours.shift.shape != theirs.shift.shape or ours.terms.keys() != theirs.terms.keys():
        raise NotOneLayer("the two models add other tensors")
    pairs = [(scale, theirs.terms[key]) for key, scale in ours.terms.items()]
    worst = _worst(pairs, kind)
    rest, by_ours = (roundoffs(ours.shift, theirs.shift, n, n, kind, False) for n in (theirs.size, ours.size))
    relation = _relation(pairs, ours, theirs, kind) if max(worst, rest) > SITE_LIMIT else None
    count = ours.shift.size + sum(scale.size for scale, _ in pairs)
    return Comparison(count, 1.0, worst, rest, max(worst, min(rest, by_ours)), relation, sums.for_any_size)


def _worst(pairs: Sequence[tuple[Array, Array]], kind: Any) -> float:
    return max((roundoffs(a, b, np.abs(b), np.abs(b), kind, False) for a, b in pairs), default=0.0)


def _relation(pairs: Sequence[tuple[Array, Array]], ours: Entering, theirs: Entering, kind: Any) -> Relation | None:
    """By which scale and shift the folded model's tensor is made of the original's."""
    scale = np.ones(ours.shift.shape)
    for first, second in pairs[:1]:
        scale = about_one(np.divide(second, first, out=scale, where=first != 0))
        scale = spread(scale, first != 0)
    worst = _worst([(scale * first, second) for first, second in pairs], kind)
    return related(scale, ours, theirs, roundoff(kind), worst)
