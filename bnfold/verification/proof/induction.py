"""Which tensors are the same in both models for every input: by induction, in the order of the graph.

A tensor is the same if an untouched node makes it of tensors that are, or if the algebra says so (`algebra.derive`),
which cuts the models at such tensors only: never because values were seen to agree. What no algebra reaches stays open.
It may be assumed, by who measures it otherwise; what follows is then derived under this assumption.
"""

from __future__ import annotations

from collections import ChainMap
from collections.abc import Callable, Collection, Sequence, Set
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import onnx

from ...model.messages import all_nodes, bodies, reads
from ...runtime.inputs import feeds
from ...runtime.protos import called, opsets
from ..level_results import Compared
from ..regions import MIXING, SELECT, edited
from ..results import Derived
from ..unfused import unfused
from .algebra import Pair, derive
from .claims import Cuts
from .examples import examples
from .indexed_model import computation
from .pieces import SIZES
from .scale_and_shift import Relation

if TYPE_CHECKING:
    from ..trial import Trial


@dataclass
class Induction:
    """What is known of a pair of models; after `run`, of all of it."""

    pair: Pair
    edits: set[str]  # tensors of the folded model whose node, or a constant it reads, is not the original's
    is_assumed: Callable[[str], bool]  # of a site that cannot be derived; one that is wrong never counts as the same
    same: dict[str, str] = field(default_factory=dict)  # of the folded model, by their names in the original
    related: dict[str, str] = field(default_factory=dict)  # likewise, of those that are scaled and shifted by constants
    relations: dict[str, Relation] = field(default_factory=dict)  # by which ones
    originals: dict[str, str] = field(default_factory=dict)  # all names of these in the original, with their first ones
    fixed: set[str] = field(default_factory=set)  # tensors that depend on no data and are those of the same name
    derived: list[Derived] = field(default_factory=list)  # what was compared, in the order of the graph
    assumed: list[str] = field(default_factory=list)

    def run(self) -> Induction:
        """Go through the folded model once."""
        first, second = self.pair.indexed
        if not _same_frame(self.pair):
            return self
        for name in first.inputs & second.inputs:
            self._add(name, name)
        self.fixed = {"", *second.stored} - self.pair.changed
        for node in second.nodes:
            if second.names.keys() & node.output and (known := self.same.get(second.name(node.output[0]))):
                self._add(node.output[0], known)
            elif counterpart := self._counterpart(node):
                for name, known in zip(node.output, counterpart.output, strict=False):
                    self._add(name, known)
                if not all(map(self._is_same, self.edits.intersection(node.output))):
                    self._derive(node)  # it has the name of another tensor
            else:
                self._derive(node)
        return self

    def _add(self, name: str, known: str) -> None:
        """A tensor of the folded model is the one that the original calls `known`."""
        if name in self.pair.indexed[1].fixed:
            self.fixed.add(name)
        elif name and known:
            self.same[name] = self._known(known)

    def _known(self, tensor: str) -> str:
        """The first name of a tensor of the original that both models may be cut at from now on."""
        first = self.pair.indexed[0]
        self.originals.update(first.all_names([first.name(tensor)]))
        return first.name(tensor)

    def _is_same(self, name: str) -> bool:
        return name in self.fixed or (name in self.same and self.same[name] == self.pair.indexed[0].name(name))

    def _counterpart(self, node: onnx.NodeProto) -> onnx.NodeProto | None:
        """The node of the original that computes the same of the same tensors, whatever their names are."""
        first, second = self.pair.indexed
        if self.edits.isdisjoint(node.output) and all(map(self._is_same, reads(node))):
            name = next(filter(None, node.output), "")  # a CastLike may be a Cast to another type
            return node if first.makers.get(name) == node else None
        known = ChainMap(self.same, self.related) if called(node) in SIZES else self.same  # what is related is as long
        names = [name if name in self.fixed else known.get(name) for name in node.input]
        if None in names or any(bodies(node)) or not second.fixed.isdisjoint(node.output):
            return None
        namesake = first.makers.get(next(filter(None, node.output), ""))
        if namesake and first.computation(namesake) == computation(node, names):
            return namesake
        return first.computations.get(computation(node, names))

    def _derive(self, node: onnx.NodeProto) -> None:
        """What may be the same though something its node reads is not: what was edited, and what selects a part."""
        first, second = self.pair.indexed
        weighed = any(name in second.fixed and name not in self.fixed for name in node.input)
        reads_other = any(
            name in self.relations or (name in self.same and not self._is_same(name)) for name in node.input
        )
        for name in node.output:
            is_site = name in self.edits or node.op_type in SELECT or weighed
            if not name or name in second.fixed or not (is_site or reads_other):
                continue
            if name in first.makers and name in self.pair.examples:
                self._record(*derive(self.pair, self._cuts(), name), is_site=is_site)
            elif self.is_assumed(name):
                self._assume(name)
            elif name not in first.makers and node.op_type in MIXING:
                self._match(node, name)

    def _match(self, node: onnx.NodeProto, name: str) -> None:
        """A tensor `name` that the original does not call so may be one that it makes by the same linear operator."""
        first = self.pair.indexed[0]
        source = self.same.get(node.input[0], self.related.get(node.input[0], ""))
        for like in first.made_by.get((node.op_type, source), ())[:MOST_MATCHES]:
            if like in self.pair.examples:
                site, relation = derive(self.pair, self._cuts(), name, like)
                if site.covered and site.exact:
                    return self._add(name, like)
                if relation:
                    return self._relate(name, like, relation)
        return None

    def _relate(self, name: str, known: str, relation: Relation) -> None:
        self.related[name], self.relations[name] = self._known(known), relation

    def _cuts(self) -> list[Cuts]:
        first, second = self.pair.indexed
        names = ChainMap(self.same, self.related)
        return [Cuts(first, self.originals), Cuts(second, names, self.relations, self.pair.changed)]

    def _record(self, site: Derived, relation: Relation | None, is_site: bool) -> None:
        right = not site.why and site.ok and site.share == 1
        is_another = site.name in self.same  # that the original calls otherwise: it only has the name of this one
        self.derived += [site] if right or (is_site and not is_another) else []
        if site.why and self.is_assumed(site.name):
            self._assume(site.name)
        elif right:
            self._add(site.name, site.name)
        elif relation is not None and not is_another:
            self._relate(site.name, site.name, relation)

    def _assume(self, name: str) -> None:
        self._add(name, name)
        self.assumed.append(name)

    def open_tensors(self, assumed: Collection[str] = ()) -> set[str]:
        """Tensors that are not known to be the same and reach an output before one that is: the others are undone.

        Those that are only `assumed` to be the same are as good as outputs that are not the same.
        """
        second, still_open = self.pair.indexed[1], set[str]()
        agenda = [*(output.name for output in second.model.graph.output), *assumed]
        while agenda:
            name = agenda.pop()
            if name not in still_open and (name in assumed or not self._is_same(name)):
                still_open.add(name)
                agenda += reads(second.makers[name]) if name in second.makers else ()
        return still_open


def _same_frame(pair: Pair) -> bool:
    """Whether equal nodes mean equal things: the same operators, functions and defaults of inputs."""
    first, second = pair.original, pair.folded
    inputs = {value.name for value in second.graph.input}
    return (
        _same_operators(pair)
        and list(first.functions) == list(second.functions)
        and list(first.graph.sparse_initializer) == list(second.graph.sparse_initializer)
        and (second.ir_version < OVERRIDABLE or pair.changed.isdisjoint(inputs))
    )


def _same_operators(pair: Pair) -> bool:
    """Whether both models import the same operator sets, or some that have the same versions of all that they use."""
    if opsets(pair.original) == opsets(pair.folded):
        return True
    first, second = (each.plain for each in pair.indexed)
    nodes = (node for model in (pair.original, pair.folded) for node in all_nodes(model))
    return all(first.version(node) == second.version(node) for node in nodes)


MOST_MATCHES = 4  # tensors of the original that one of the folded model is compared with
OVERRIDABLE = 4  # the version of the format from which on a caller may feed an input that has a stored value, too


def _is_wrong(known: Induction, site: Derived, left: Set[str]) -> bool:
    """Whether no site that was derived undoes a wrong one: a site that is only assumed undoes nothing."""
    if site.name in known.related:
        return site.name in known.open_tensors(known.assumed)
    undone = (other.inside for other in known.derived if other.ok and not other.why and other.name != site.name)
    return site.name in left or not any(site.name in inside for inside in undone)


def derivations(trial: Trial, tensors: Sequence[Compared]) -> list[Derived]:
    """Every fold site of a trial whose `tensors` were compared, in the order of the graph.

    Assumed is what has the same values in the runs of the trial. The inside of a chain, which holds other values by
    design, is not reported unless no derived site covers it.
    """
    moved = {entry.name for entry in tensors if entry.moved}
    good = {e.name for e in tensors if e.ok and e.clear and not e.moved}
    fed = feeds(trial.original.graph, trial.planned[0], trial.sizes)
    models = unfused(trial.original), unfused(trial.folded)
    made = {name for node in trial.folded.graph.node for name in node.output}
    gone = {name: value for name, value in examples(models[0], fed).items() if name not in made}
    pair = Pair(*models, {**gone, **fed, **trial.seen}, trial.effort, trial.seed)
    edits = trial.edits if models[1] is trial.folded else edited(*models)
    known = Induction(pair, edits, good.__contains__).run()
    left = known.open_tensors()
    exact = all(site.exact for site in known.derived if site.name in known.same)
    trial.proved = exact and not left and not known.assumed
    derived = [site for site in known.derived if site.name not in moved and (site.ok or _is_wrong(known, site, left))]
    makers = pair.indexed[1].makers
    covered = {site.name for site in derived}.union(*(site.inside for site in derived if site.proved))
    covered |= (known.same.keys() | known.related.keys() - left) - set(known.assumed)
    open_ = [name for name in makers if name in edits - pair.indexed[1].fixed - covered]
    return derived + [
        Derived(name, makers[name].op_type, why="what restores its values is not linear") for name in open_
    ]
