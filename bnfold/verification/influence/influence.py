"""Which changed nodes no proof covers, and whether what they do showed on any input.

A comparison of outputs says nothing of a branch that never ran, nor of a node that did nothing to the inputs tried. So
each changed node that the algebra of the fold sites leaves open, in either model, is done without: where one of its
inputs in its place, or other values, leave every output as it was on all inputs, nothing is known of that node.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import onnx
from onnx.inliner import inline_local_functions

from ...model.messages import every_node, inner_graphs
from ...process.child import stage
from ...runtime import providers, sessions
from ...runtime.copies import without_data
from ...runtime.inputs import CannotFeed, Case, feeds
from ...runtime.protos import Array, produced
from ...runtime.providers import Way
from ...runtime.sessions import CannotRun
from ..float64.constant_parts import evaluate_constants
from ..level_results import Compared
from ..regions import reached
from ..results import Influence
from ..trial import Trial, trial_session
from ..unfused import unfused
from .by_sizes import bent_by_sizes, run_first, values_of_sizes
from .bypass import CHANGEABLE, SWITCH, Bypass, bypasses_of, switchable
from .changed_nodes import ChangedModel, alive_names, changed_models
from .counterparts import BypassesAt, Counterparts
from .differences import beyond_rounding, unlike
from .meaning import Meanings, NodeMeaning
from .other_numbers import other_numbers
from .probes import Probed, probe_regions
from .thresholds import moved_thresholds, node_in_words


def influence(trial: Trial, tensors: Sequence[Compared]) -> Influence:
    """What is proved of the outputs, and of which changed nodes nothing showed; `tensors` were compared as written."""
    if trial.proved:
        return Influence(proved=True)
    stage("which nodes changed")
    pair = [_plain(model) for model in (trial.original, trial.folded)]
    meanings = Meanings(pair[0])
    agreeing = {entry.name for entry in tensors if entry.ok and not entry.moved}
    if Meanings(pair[1], meanings, _proved(trial, pair, agreeing)).outputs() == meanings.outputs():
        return Influence(proved=True)
    covered = {site.name for site in trial.derived if site.covered}
    bent = [bent_by_sizes(trial, model) for model in pair]
    models = changed_models(pair, ({}, {}), bent, agreeing, covered)
    probed = Probed((set(), set()), {}, {})
    if any(model.changed for model in models):
        values = [values_of_sizes(trial, *each) for each in zip(pair, bent, strict=True)]
        models = changed_models(pair, values, bent, agreeing, covered)
        probed = probe_regions(trial, models, agreeing)
        models = [model.without(names) for model, names in zip(models, probed.equal, strict=True)]
    unseen = [*moved_thresholds(models[0].meanings, models[1].meanings, agreeing - probed.equal[1])]
    unseen += [*_apart(models, probed), *_bounded(models)]
    unseen += [words for model in models if model.changed for words in _unseen(trial, model, probed.words)]
    unseen = unseen or [*_alike(trial, models, agreeing, probed.words)] or [*other_numbers(models, agreeing)]
    return Influence(False, sum(len(model.changed) + model.moved for model in models), tuple(unseen))


def _proved(trial: Trial, models: Sequence[onnx.ModelProto], agreeing: Collection[str]) -> dict[str, set[str]]:
    """The fold sites that are proved, each if what enters it is the same in both models."""
    makers = [produced(model.graph) for model in models]
    cuts = {*agreeing, *(value.name for value in models[0].graph.input)}
    proved = (site.name for site in trial.derived if site.proved)
    return {name: set().union(*(reached(each, [name], cuts)[1] for each in makers)) for name in proved}


def _plain(model: onnx.ModelProto) -> onnx.ModelProto:
    return evaluate_constants(unfused(inline_local_functions(model) if model.functions else model))


def _apart(models: Sequence[ChangedModel], probed: Probed) -> list[str]:
    """A sentence for each region that makes something else of numbers that no input made; it names one node."""
    sentences: dict[str, str] = {}
    for model in models:
        for place in (place for i in model.changed if not (place := model.places[i]).where):
            for name in probed.apart.keys() & {*place.node.output}:
                words = probed.apart[name]
                sentences[words] = (
                    f"no input shows how A and B differ at {node_in_words(place)} of {model.name}: {words}"
                )
    return [*sentences.values()]


def _bounded(models: Sequence[ChangedModel]) -> Iterator[str]:
    """A sentence for each changed node that reads sizes which are kept in bounds: no input has all sizes."""
    for model in models:
        for place in (place for i in model.changed if not (place := model.places[i]).where):
            if not model.bent.isdisjoint(place.node.input):
                yield f"no input shows how A and B differ at {node_in_words(place)} of {model.name}{_BY_SIZES}"


_BY_SIZES = ": it goes by sizes that are kept in bounds, or divided"


def _unseen(trial: Trial, model: ChangedModel, words: Mapping[str, str]) -> Iterator[str]:
    """A sentence for each changed node that was done without, and no output changed on any input.

    `words` are of tensors, and say for which number A and B differ.
    """
    stage(f"onnxruntime, running {model.name} without nodes that changed")
    try:
        types = _types(trial, model)
        at = {i: _place(model, types, i) for i in model.changed}
        bypasses = _bypasses(model, types, at.values())
        running = trial_session(trial, switchable(model.proto, bypasses, types), "off", providers.chain(Way()))
    except CannotRun as why:
        yield f"what the nodes that changed in {model.name} do could not be shown: {why}"
        return
    results = _Outputs(trial, running)
    for i in model.changed:
        place = model.places[i]
        if not bypasses[at[i]] or trial.late:
            late = ": the time allowed is over" if bypasses[at[i]] else ""
            yield f"what {node_in_words(place)} of {model.name} does was not tried{late}"
        elif missed := results.missed(bypasses[at[i]]):
            how = _without(missed) + _at(place, words)
            yield f"no input shows what {node_in_words(place)} of {model.name} does: {how}"


def _alike(
    trial: Trial, models: Sequence[ChangedModel], agreeing: Collection[str], words: Mapping[str, str]
) -> Iterator[str]:
    """A sentence for each changed node of B that no output distinguishes from what A has there, on any input."""
    a, b = models
    if not b.changed:
        return
    stage("onnxruntime, running B with nodes of A")
    types = [_types(trial, model) for model in models]
    known = Counterparts(a, b, types, agreeing).bypasses()
    for some in _running(trial, b, known, types[1]):
        for i, results in some:
            if not trial.late and results.alike([bypass for bypasses in known[i].values() for bypass in bypasses]):
                place = b.places[i]
                yield f"no input shows what A and B do differently at {node_in_words(place)} of B{_at(place, words)}"


def _at(place: NodeMeaning, words: Mapping[str, str]) -> str:
    return next((f"; {words[name]}" for name in place.node.output if name in words and not place.where), "")


def _running(
    trial: Trial, model: ChangedModel, known: Mapping[int, BypassesAt], types: Mapping[str, int]
) -> Iterator[list[tuple[int, _Outputs]]]:
    """Outputs of a session for all nodes that are to be replaced; or of one for each, where that cannot be made."""
    together: BypassesAt = {}
    for bypasses in known.values():
        for at, some in bypasses.items():
            together.setdefault(at, []).extend(some)
    try:
        results = _Outputs(
            trial, trial_session(trial, switchable(model.proto, together, types), "off", providers.chain(Way()))
        )
    except CannotRun:
        if len(known) > 1:
            for i, bypasses in known.items():
                yield from _running(trial, model, {i: bypasses}, types)
        return
    yield [(i, results) for i in known]


def _without(bypass: Bypass) -> str:
    instead = f"{bypass.instead!r} in its place" if bypass.instead else "other values in its place"
    return f"with {instead} every output stays the same"


def _place(model: ChangedModel, types: Mapping[str, int], i: int) -> int:
    """Where a changed node is switched off: one that makes 4-bit or float8 codes at the only node that reads them."""
    codes = model.places[i].node.output[0]
    if types.get(codes) in CHANGEABLE:
        return i
    readers = [j for j, place in enumerate(model.places) if codes in place.node.input]
    return readers[0] if len(readers) == 1 else i


def _bypasses(model: ChangedModel, types: Mapping[str, int], places: Iterable[int]) -> dict[int, list[Bypass]]:
    """The bypasses of the nodes at some places."""
    fixed = without_data(model.proto.graph) | _constants(model.proto)
    read = alive_names(model.proto.graph)
    bypasses: dict[int, list[Bypass]] = {}
    for i in sorted({*places}):
        first = 1 + sum(map(len, bypasses.values()))
        bypasses[i] = bypasses_of(model.places[i].node, types, fixed, first, read)
    return bypasses


def _constants(model: onnx.ModelProto) -> set[str]:
    """Those of bodies as well."""
    stored = {tensor.name for body in inner_graphs(model.graph.node) for tensor in body.initializer}
    return stored.union(*(node.output for node in every_node(model.graph.node) if node.op_type == "Constant"))


def _types(trial: Trial, model: ChangedModel) -> dict[str, int]:
    """The element types that onnx infers, and those of the tensors that it cannot, as they are when the model runs."""
    inferred = onnx.shape_inference.infer_shapes(model.proto)
    graphs = (inferred.graph, *inner_graphs(inferred.graph.node))
    values = (value for graph in graphs for value in (*graph.input, *graph.output, *graph.value_info))
    types = {v.name: v.type.tensor_type.elem_type for v in values if v.type.tensor_type.elem_type}
    places = (model.places[i] for i in model.changed)
    names = {name for place in places if not place.where for name in (*place.node.input, *place.node.output) if name}
    names |= {o for n in model.proto.graph.node if not names.isdisjoint(n.input) for o in n.output if o}
    missing = sorted(names & produced(model.proto.graph).keys() - types.keys())
    if missing:
        for name, value in zip(missing, run_first(trial, model.proto, missing), strict=True):
            if isinstance(value, np.ndarray):
                types[name] = onnx.helper.np_dtype_to_tensor_dtype(value.dtype)
    return types


class _Outputs:
    """What a session gives, input by input, with and without nodes."""

    def __init__(self, trial: Trial, running: Any) -> None:
        self.running, self.names = running, trial.outputs
        self.inputs: list[tuple[dict[str, Array], list[Any]]] = []
        for case in trial.planned:
            self._add(trial, case)
        if not self.inputs:
            raise CannotRun("no input runs")

    def _add(self, trial: Trial, case: Case) -> None:
        try:
            values = feeds(trial.original.graph, case, trial.sizes)
            self.inputs.append((values, self.run(values, 0)))
        except (CannotRun, CannotFeed):
            return

    def run(self, values: Mapping[str, Array], switch: int) -> list[Any]:
        return list(sessions.outputs(self.running, self.names, {**values, SWITCH: np.array(switch)}))

    def missed(self, bypasses: Sequence[Bypass]) -> Bypass | None:
        """The bypass that no output shows; other values are tried where no input can stand in for the node."""
        tried = [self._shows(bypass) for bypass in bypasses if bypass.instead]
        if False in tried:
            return [bypass for bypass in bypasses if bypass.instead][tried.index(False)]
        if True in tried:
            return None
        return next((bypass for bypass in bypasses if not bypass.instead and self._shows(bypass) is False), None)

    def alike(self, bypasses: Sequence[Bypass]) -> bool:
        """Whether all that were tried leave every output as it was to the last bit, on all inputs."""
        tried = [self._shows(bypass, unlike) for bypass in bypasses]
        return False in tried and True not in tried

    def _shows(self, bypass: Bypass, differ: Callable[[Any, Any], bool] | None = None) -> bool | None:
        """Whether an output changes on some input; None where no input shows it and the bypass stops the model on one,
        as an input of another shape does: inputs that leave out the node's branch are no evidence then.

        Where other values make the model stop, they count.
        """
        stops = False
        for values, usual in self.inputs:
            try:
                changed = self.run(values, bypass.number)
            except CannotRun:
                if not (bypass.instead or bypass.nodes):
                    return True
                stops = True
                continue
            if any(map(differ or beyond_rounding, usual, changed)):
                return True
        return None if stops else False
