"""The algebra tier: the weights at a fold site, derived once more from the original, without random inputs.

A fold site that is linear is known for all inputs once its response to nothing and to every unit impulse is known. Both
models are asked for these responses, in float64, with the numbers they store. Fed an impulse, an output of the folded
model is one stored weight, so that it must be the original's response to the last bit that its type can hold: no
further from it than the unit roundoff. Neither fold nor onnxruntime takes part.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from math import prod
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx
from onnx import helper

from ..runtime.copies import without_data
from ..runtime.inputs import feeds
from ..runtime.protos import FLOATS, produced
from ..system import progress
from .impulses import Impulses, NotDerived, elements, everything, impulses
from .measure import quantum, roundoff
from .oracle import CannotEvaluate, Oracle
from .pieces import Piece, of_sizes, other_operand, piece, require_linear, summing
from .regions import changed
from .results import Derived
from .tensor_records import finite
from .windows import Array

if TYPE_CHECKING:
    from .trial import Trial

NOISE = 2.0**-46  # of float64, in the sums that a response is the difference of
BLOCK = 1 << 21  # elements of one batch of impulses
RESPONSES = {"fast": 1 << 22, "full": 1 << 40}  # of one site, for one input; of more, a share is drawn


@dataclass(frozen=True)
class Pair:
    """Two models, the tensors that hold the same values in both, and an example of each (for its shape and type)."""

    original: onnx.ModelProto
    folded: onnx.ModelProto
    cuts: frozenset[str]
    examples: Mapping[str, Array]
    effort: str = "fast"
    seed: int = 0

    @cached_property
    def changed(self) -> set[str]:
        """Constants that only the folded model has."""
        return changed(self.original.graph, self.folded.graph)


def derivations(trial: Trial, tensors: Sequence[Mapping[str, Any]]) -> list[Derived]:
    """Every fold site of a trial whose `tensors` were compared, in the order of the graph.

    Cut is at tensors that were found to hold the same values in both models; a site that was found wrong is derived,
    too. The inside of a chain, which holds other values by design, is not derived unless a derived site covers it.
    """
    fixed = without_data(trial.folded.graph)
    moved = {entry["name"] for entry in tensors if entry["moved"]}
    fine = (entry for entry in tensors if entry["ok"] and entry["clear"] and not entry["moved"])
    good = frozenset(entry["name"] for entry in fine) - fixed
    fed = feeds(trial.original.graph, trial.planned[0], trial.sizes)
    examples = {name: value for name, value in {**fed, **trial.seen}.items() if is_floating(value)}
    pair = Pair(trial.original, trial.folded, good & examples.keys(), examples, trial.effort, trial.seed)
    sites = (trial.edits & examples.keys()) - moved - fixed
    makers = produced(trial.folded.graph)
    known = [name for name in makers if name in sites]
    found = [derive(pair, name) for name in progress.each(known, "verify: algebra of the fold sites", len(known))]
    covered = sites.union(*(site.inside for site in found if site.proved))
    left = [name for name in makers if name in trial.edits - fixed - covered]
    return found + [Derived(name, makers[name].op_type, why="what restores its values is not linear") for name in left]


def is_floating(value: Array) -> bool:
    return helper.np_dtype_to_tensor_dtype(value.dtype) in (*FLOATS, onnx.TensorProto.DOUBLE)


def derive(pair: Pair, site: str) -> Derived:
    """Compare the responses of one site, or say why that cannot be done."""
    operator = produced(pair.folded.graph)[site].op_type
    try:
        trial = _Trial(pair, site, pieces(pair, site))
        share = trial.run()
    except (NotDerived, CannotEvaluate) as why:
        return Derived(site, operator, why=str(why))
    inside = tuple(name for node in trial.pieces[1].nodes for name in node.output)
    limit = roundings(pair, trial.pieces[1], site)
    ratios = finite(trial.ratio), limit, inside
    return Derived(site, operator, trial.responses, share, *ratios, effect=finite(trial.effect))


def pieces(pair: Pair, site: str) -> list[Piece]:
    """Both pieces of a site, cut at the same tensors: one that only one of the models uses on the way is no cut."""
    cuts = pair.cuts
    while True:
        found = [piece(model.graph, cuts, site) for model in (pair.original, pair.folded)]
        uneven = cuts & ({*found[0].entering} ^ {*found[1].entering})
        if not uneven:
            return found
        cuts -= uneven


def power_below(values: Array) -> Array:
    """The power of two at or below each magnitude: times the unit roundoff, half the distance to the next number."""
    return np.asarray(np.ldexp(1.0, np.frexp(values)[1] - 1))


def roundings(pair: Pair, folded: Piece, site: str) -> float:
    """The most changed constants that one value passes on its way to the site."""
    depth: dict[str, int] = {}
    for node in folded.nodes:
        own = int(not pair.changed.isdisjoint(node.input))
        depth.update(dict.fromkeys(node.output, own + max((depth.get(n, 0) for n in node.input), default=0)))
    return max(1.0, float(depth[site]))


class _Trial:
    """Both pieces of one site, ready to be fed."""

    def __init__(self, pair: Pair, site: str, pieces: list[Piece]) -> None:
        self.pair, self.site, self.pieces = pair, site, pieces
        for each in pieces:
            require_linear(each)
        self.entering = sorted({name for each in pieces for name in each.entering})
        if unknown := [name for name in self.entering if name not in pair.examples]:
            raise NotDerived(f"{unknown[0]!r}, which enters it, holds no floating-point numbers")
        if any(pair.examples[name].ndim < 2 for name in self.entering):
            raise NotDerived("it reads a tensor that has no axis beside that of the batch")
        shapes = [
            *(pair.examples[n].shape for n in self.entering),
            *(t.dims for each in pieces for t in each.constants),
        ]
        if any(0 in shape for shape in shapes):
            raise NotDerived("it reads a tensor without elements")
        kinds = {n: helper.np_dtype_to_tensor_dtype(pair.examples[n].dtype) for n in self.entering}
        models = (pair.original, pair.folded)
        made = [p.model(m, kinds, site) for p, m in zip(pieces, models, strict=True)]
        self.oracles, self.sizes = [Oracle(model) for model in made], [Oracle(of_sizes(model)) for model in made]
        self.dtype = pair.examples[site].dtype
        self.ratio, self.effect, self.responses = 0.0, 0.0, 0
        self.single = len(pieces[1].nodes) == 1  # a response is one constant, not a sum or product of several

    def run(self) -> float:
        """Feed every tensor that enters; returns the share of all impulses that there was time for."""
        return min((self.feed(name, probe) for name in self.entering for probe in self.probes(name)), default=1.0)

    def probes(self, name: str) -> list[Impulses]:
        """Impulses for each operator of the folded piece that sums what it reads from `name`."""
        sizes = {t.name: tuple(t.dims) for t in self.pieces[1].constants}
        example = self.pair.examples[name].shape
        mixing = summing(self.pieces[1], name)
        direct = [node for node in mixing if name in node.input and sizes.get(other_operand(node, name))]
        found = [impulses(n, list(n.input).index(name), sizes[other_operand(n, name)], example) for n in direct]
        if len(direct) < len(mixing):
            found.append(elements(example))
        return found or [everything(example)]

    def feed(self, name: str, probe: Impulses) -> float:
        """Feed one entering tensor, the others being zero; returns the share of the impulses that were used."""
        base = self.responses_to(name, nothing := np.zeros((1, *probe.shape)))
        sums, sizes = (self.answer(o, p, name, nothing) for o, p in zip(self.sizes, self.pieces, strict=True))
        self.judge(base[0], base[1], sizes, sizes, lambda: sums)
        chosen = self.drawn(probe, max(base[0].size, prod(probe.shape)))
        batch = max(1, BLOCK // prod(probe.shape))
        for start in range(0, len(chosen), batch):
            fed = probe.batch(chosen[start : start + batch])
            answers = self.responses_to(name, fed)
            if answers[0].shape[1:] != base[0].shape[1:]:
                raise NotDerived("its pieces take one size of batch only")
            found = answers[1] - base[1]
            summed = np.abs(base[0]) + np.abs(answers[0])
            self.judge(answers[0] - base[0], found, summed, np.abs(found), partial(self.sums, name, fed, sums))
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
        if found[0].shape != found[1].shape:
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

    def judge(self, expected: Array, got: Array, summed: Array, sizes: Array, in_original: Callable[[], Array]) -> None:
        """The difference in roundoffs of what the folded model's response is made of, float64's own noise taken off.

        A response that is one rounded constant is the right one up to half the distance to its neighbour. Where a bias
        and a mean cancel, what is left is as good as they are. The effect is the same difference in roundoffs of what
        the original's response is the sum of: what a fold that rounds on the way is entitled to.
        """
        with np.errstate(all="ignore"):
            off = np.abs(got - expected) - NOISE * (summed + np.abs(expected)) - quantum(self.dtype)
            ratio = np.where(
                off > 0, off / (roundoff(self.dtype) * (power_below(sizes) if self.single else sizes)), 0.0
            )
        worst = float(np.nan_to_num(ratio, nan=np.inf).max(initial=0.0))
        worst = worst if np.isfinite(got).all() else np.inf
        if worst > max(1.0, self.effect):
            with np.errstate(all="ignore"):
                units = np.where(off > 0, off / (roundoff(self.dtype) * in_original()), 0.0)
            effect = float(np.nan_to_num(units, nan=np.inf).max(initial=0.0))
            self.effect = max(self.effect, min(worst, effect) if np.isfinite(got).all() else np.inf)
        self.ratio = max(self.ratio, worst)
        self.responses += int(np.count_nonzero(expected))
