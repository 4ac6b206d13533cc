"""From measurements to a verdict and its reasons. No PASS rests on a comparison that could not have failed."""

from __future__ import annotations

from collections.abc import Sequence

from ..display.display import counted
from .level_results import Compared, Level, largest_error
from .results import FAIL, INCONCLUSIVE, PASS, SITE_LIMIT, VACUOUS, Derived, Influence, Numbers, Structure

NAMED_NODES = 4  # that reasons name
_SAME_GRAPH = "onnxruntime made both models the same graph: they were not compared as they are written"


def judge(structure: Structure | None, numbers: Numbers) -> tuple[str, tuple[str, ...]]:
    """The verdict and its reasons. What is proved wrong fails, whatever else could not be decided."""
    levels, derived, influence = numbers.levels, numbers.derived, numbers.influence
    wrong = (*_wrong(structure, levels), *_wrong_weights(derived))
    if wrong:
        return FAIL, wrong
    if numbers.blocked:
        return (VACUOUS if _only_same(levels) else INCONCLUSIVE), tuple(dict.fromkeys(numbers.blocked))
    explained = any(each.explained for each in influence)
    unsure = (*_unsure(levels, explained), *_unjudged(levels, derived), *_unseen(influence))
    if _only_same(levels):
        return VACUOUS, (_SAME_GRAPH, *unsure)
    if unsure:
        return INCONCLUSIVE, unsure
    return PASS, (
        *_same_bytes(structure),
        *_evidence(levels),
        *_proved(derived, any(each.proved for each in influence)),
    )


def _wrong(structure: Structure | None, levels: Sequence[Level]) -> tuple[str, ...]:
    reasons = list(structure.problems) if structure else []
    reasons += [f"{level.where}: {level.why}" for level in levels if level.broken]
    reasons += _misplaced(levels)
    for level in levels:
        if level.bad:
            more = f" ({len(level.bad) - 1} more after it)" if len(level.bad) > 1 else ""
            reasons.append(f"{level.where}: {level.bad[0].place()}: {level.bad[0].why}{more}")
    return tuple(reasons)


def _same_bytes(structure: Structure | None) -> list[str]:
    """What the structure tier adds to a PASS."""
    if not structure:
        return []
    same, all_of_them = structure.untouched, structure.untouched + structure.edited
    count = f"structure: {same} of {all_of_them} nodes, tensors and shapes are the original's, byte for byte"
    return [count if structure.changes else f"{count}; the others belong to fold sites"]


def _wrong_weights(derived: Sequence[Derived]) -> list[str]:
    """One sentence about the fold sites whose weights are not what follows from the original's."""
    bad = [site for site in derived if not site.ok]
    more = f" ({len(bad) - 1} more sites)" if len(bad) > 1 else ""
    return [
        f"algebra: fold site {site.name!r} ({site.operator}): a weight is {site.effect:.3g} unit roundoffs off what "
        f"the original's make (limit {SITE_LIMIT * site.roundings:g}){more}"
        for site in bad[:1]
    ]


def _proved(derived: Sequence[Derived], of_outputs: bool) -> tuple[str, ...]:
    """What the algebra of the fold sites adds to a PASS."""
    whole = [site for site in derived if site.responses and site.share == 1]
    if not whole:
        return ()
    exact = all(site.exact for site in whole)
    how = "the correctly rounded one" if exact else _rounded(whole)
    proof = ": with the structure unchanged, a proof for all inputs" if of_outputs else ""
    sites = f"{len(whole)} of {len(derived)} fold sites"
    return (f"algebra: every weight of {sites}, derived from the original, is {how}{proof}",)


def _unseen(influence: Sequence[Influence]) -> list[str]:
    """Sentences about the first nodes that changed and of which no input showed what they do."""
    sentences = [words for each in influence for words in each.unseen]
    more = len(sentences) - NAMED_NODES
    return sentences[:NAMED_NODES] + [f"so of {more} more"] * (more > 0)


def _rounded(sites: Sequence[Derived]) -> str:
    """How far weights are off that are rounded more than once, or not correctly."""
    off, effect = (max(getattr(site, which) for site in sites) for which in ("ratio", "effect"))
    of_sums = f", {effect:.2g} of what they are the sums of: rounded on the way" if effect < off else ""
    return f"{off:.2g} unit roundoffs off at most{of_sums}"


def _misplaced(levels: Sequence[Level]) -> list[str]:
    """One sentence per model and level that did not run where it should."""
    reasons = []
    for level in levels:
        for placement in level.placements:
            more = f" ({len(placement.broken) - 1} more)" if len(placement.broken) > 1 else ""
            reasons += [f"{level.where}: {sentence}{more}" for sentence in placement.broken[:1]]
    return reasons


def _only_same(levels: Sequence[Level]) -> bool:
    ran = [level for level in levels if level.ran]
    return bool(ran) and all(level.same_graph for level in ran)


def _unsure(levels: Sequence[Level], explained: bool) -> tuple[str, ...]:
    """Reasons not to believe a comparison in which nothing was wrong.

    Where every difference between the models is `explained`, outputs that never change are no such reason.
    """
    ran = [level for level in levels if level.ran]
    reasons = [f"{level.where}: {level.why}" for level in levels if not level.ran and level.why]
    if not ran:
        return tuple(reasons) or ("nothing could be compared",)
    firsts = {level.way: level for level in reversed(ran)}
    for way in dict.fromkeys(level.way for level in ran):
        reasons += [": ".join(filter(None, [way.words, reason])) for reason in _doubts(firsts[way], explained)]
    return tuple(reasons)


def _doubts(level: Level, explained: bool) -> list[str]:
    """Reasons why the outputs of a level can show no difference, and why the original itself is in doubt."""
    outputs = [t for t in level.tensors if t.output]
    return _uninformative(outputs, explained) + [_dispute(level.tensors, t) for t in outputs if t.disputed][:1]


def _uninformative(outputs: Sequence[Compared], explained: bool) -> list[str]:
    """Why the outputs of a level can show no difference."""
    if not outputs:
        return ["no output is a tensor of numbers"]
    if not any(t.elements for t in outputs):
        return ["no output has elements: there is nothing to compare"]
    if explained:
        return []
    if not any(t.usable for t in outputs):
        return ["every output is NaN or Inf throughout, in the original as well"]
    if all(t.constant for t in outputs if t.ratio >= 0 and t.usable):
        return ["every output is one constant, whatever the input: it cannot show a difference"]
    return []


def _unjudged(levels: Sequence[Level], derived: Sequence[Derived]) -> list[str]:
    """A sentence about the first fold site of which nothing is known: rounding blurs it, or the original is in doubt.

    A site whose weights were derived is known. Where a provider runs in strict math, only those runs count: TF32 may
    blur a site, and hides what an original does wrong.
    """
    known, strict = {site.name for site in derived if site.responses}, {lv.provider for lv in levels if lv.way.careful}
    sites = [(lv, t) for lv in levels for t in lv.tensors if t.site and (lv.way.careful or lv.provider not in strict)]
    seen = {(level.provider, t.name) for level, t in sites if (t.clear and not t.disputed) or t.moved}
    return [
        f"{level.where}: {_dispute(level.tensors, t)}"
        if t.disputed
        else f"rounding alone blurs {t.place()} too far to judge{'' if level.provider in strict else _IN_STRICT_MATH}"
        for level, t in sites
        if t.name not in known and (level.provider, t.name) not in seen
    ][:1]


_IN_STRICT_MATH = "; strict math may show more: --math strict,default"


def _dispute(tensors: Sequence[Compared], output: Compared) -> str:
    first = next((t for t in tensors if t.disputed), output)
    if first.miscomputed:
        return f"both models run wrong from {first.place(channel=False)} on: {_CONFIRMED}"
    return f"the float64 oracle and onnxruntime disagree about the original from {first.place()} on"


_CONFIRMED = "the original on the CPU, graph optimization off, agrees with the float64 evaluation"


def run_wrong(levels: Sequence[Level]) -> tuple[str, ...]:
    """For each way and level the first tensor that runs wrong, in the original alone or in both models."""
    wrong = ((level, next((t for t in level.tensors if t.miscomputed), None)) for level in levels)
    return tuple(f"{level.where}: {_wrong_from(t)}; {_CONFIRMED}" for level, t in wrong if t)


def _wrong_from(t: Compared) -> str:
    who, errors = "the original runs", f": its error is {t.rms_original:.2g} of the values, the folded model's "
    if t.miscomputed == "both":
        who, errors = "both models run", f": their errors are {t.rms_original:.2g} of the values and "
    known = f"{errors}{t.rms_folded:.2g}" if t.rms_original else ""  # of integers it is not
    return f"{who} wrong from {t.place(channel=False)} on{known}"


def _evidence(levels: Sequence[Level]) -> tuple[str, ...]:
    """What a PASS rests on: one sentence for each level that ran."""
    return tuple(
        f"{level.where}: {counted(len(level.tensors), 'tensor')} on {counted(len(level.cases), 'input')}, "
        f"{_largest(level)}{'; onnxruntime makes both the same graph' if level.same_graph else ''}{_proof(level)}"
        for level in levels
        if level.ran
    )


def _largest(level: Level) -> str:
    """The largest error of a level, in words."""
    return largest_error([level]) or "compared with the original alone, which is not what float64 makes of it"


def _proof(level: Level) -> str:
    """Where the folded model ran, on a provider other than the CPU."""
    return f"; {level.placements[-1].words()}" if level.way.gpu and level.placements else ""
