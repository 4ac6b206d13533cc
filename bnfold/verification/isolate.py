"""Fold sites cut out of their network, so that each can be fed numbers of its own.

Fed through the network, a site may come after channels that a Relu sets to zero for every input that was tried: a
fault there stays hidden. Cut out, the tensors that enter a site become inputs, and all their channels are alive.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import replace

import onnx
from onnx import helper

from ..model.messages import bodies
from ..runtime.copies import without_data
from ..runtime.protos import FLOATING, called, produced
from .float64.oracle import Oracle
from .regions import MOVES, reached, shared
from .trial import SMALL, Trial

BOUNDS = frozenset(
    ["Relu", "Clip", "Sigmoid", "HardSigmoid", "HardSwish", "Softmax", "Tanh", "Softplus", "Softsign", "Abs", "Exp"]
    + ["Sqrt", "Elu", "Selu", "Celu", "Gelu", "Mish", "ThresholdedRelu", "Erf", "Sin", "Cos"]
)
HANDS_ON = MOVES | {"MaxPool", "AveragePool", "GlobalMaxPool", "GlobalAveragePool", "Concat", "Dropout", "LeakyRelu"}


def isolate_sites(trial: Trial, good: Collection[str]) -> Trial | None:
    """A trial of the fold sites among `good` alone, or None if there is nothing to cut.

    `good` are the tensors that were found to hold the same values in both models: sites are judged, and the tensors
    that enter them are cut, only among these; with effort `fast` only sites that the algebra has not proved. Raises
    CannotEvaluate where the oracle cannot take the pieces.
    """
    proved = {site.name for site in trial.derived if site.proved} if trial.effort == "fast" else set()
    judged = trial.edits.intersection(good) - without_data(trial.folded.graph) - proved
    sites = [name for name in shared(trial.original.graph, trial.folded.graph) if name in judged]
    cuts = _even(trial, sites, _cuts(trial, good))
    if not sites or not cuts:
        return None
    original, folded = (cut(model, cuts, sites) for model in (trial.original, trial.folded))
    oracle = Oracle(original) if trial.oracle else None
    drawn = [case for case in trial.planned if not case.path][: None if trial.elements <= SMALL else 1]
    apart = replace(trial, original=original, folded=folded, oracle=oracle, planned=drawn, names=sites, keeps=False)
    return replace(apart, truths={}, seen={}, moved={})


def _cuts(trial: Trial, good: Collection[str]) -> dict[str, onnx.ValueInfoProto]:
    """What enters a site: a tensor no edit touched, holding the same floating-point values in both models."""
    makers, fixed = produced(trial.folded.graph), without_data(trial.folded.graph)
    entering = {name for site in trial.edits if site in makers for name in makers[site].input}
    allowed = set(good) - trial.edits - fixed
    found = {}
    free = {name: _free(makers, name) & allowed for name in entering & allowed}
    for name in sorted(set().union(*(before or {name} for name, before in free.items()))):
        example = trial.seen.get(name)
        if example is not None and example.size and helper.np_dtype_to_tensor_dtype(example.dtype) in FLOATING:
            kind = helper.np_dtype_to_tensor_dtype(example.dtype)
            found[name] = helper.make_tensor_value_info(name, kind, example.shape)
    return found


def _free(makers: Mapping[str, onnx.NodeProto], name: str) -> set[str]:
    """What is before the operators that keep a tensor in bounds: fed any numbers, that reaches what it can be alone.

    Empty where nothing keeps it in bounds.
    """
    node = makers.get(name)
    if node is None or called(node) not in BOUNDS | HANDS_ON or not node.input:
        return set()
    data = node.input if called(node) == "Concat" else node.input[:1]
    before = [_free(makers, each) for each in data]
    if called(node) not in BOUNDS and not any(before):
        return set()
    return set().union(*(some or [each] for some, each in zip(before, data, strict=True)))


def _even(trial: Trial, sites: Collection[str], cuts: dict[str, onnx.ValueInfoProto]) -> dict[str, onnx.ValueInfoProto]:
    """The cuts by which both models reach a site: two that are of each other would be fed numbers that do not fit."""
    makers = [produced(model.graph) for model in (trial.original, trial.folded)]
    while True:
        entering = [[reached(each, [site], cuts.keys())[1] for each in makers] for site in sites]
        uneven = {name for ours, theirs in entering for name in ours ^ theirs} & cuts.keys()
        if not uneven:
            return cuts
        cuts = {name: value for name, value in cuts.items() if name not in uneven}


def uncut(name: str) -> str:
    """What a tensor is called as its node makes it, where it is cut: those that read it read an input of that name."""
    return f"{name}/uncut"


def cut(model: onnx.ModelProto, cuts: Mapping[str, onnx.ValueInfoProto], outputs: Collection[str]) -> onnx.ModelProto:
    """A copy in which the tensors `cuts` are inputs and `outputs` are returned, without the nodes this leaves idle."""
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    graph = copy.graph
    for node in graph.node:
        for i, name in enumerate(node.output):
            if name in cuts:
                node.output[i] = uncut(name)
    kept = _needed(graph, outputs)
    nodes = [node for node in graph.node if not kept.isdisjoint(node.output)]
    del graph.node[:], graph.output[:]
    graph.node.extend(nodes)
    graph.input.extend(cuts.values())
    graph.output.extend(onnx.ValueInfoProto(name=name) for name in outputs)
    return copy


def _needed(graph: onnx.GraphProto, outputs: Collection[str]) -> set[str]:
    """Names that `outputs` are computed from."""
    needed = set(outputs)
    for node in reversed(graph.node):
        if not needed.isdisjoint(node.output):
            needed.update(node.input)
            needed.update(name for inner in bodies(node) for name in _mentioned(inner))
    return needed


def _mentioned(graph: onnx.GraphProto) -> set[str]:
    """Every name a graph reads, its own and those of the graphs around it."""
    names = {output.name for output in graph.output}
    for node in graph.node:
        names.update(node.input)
        names.update(name for inner in bodies(node) for name in _mentioned(inner))
    return names
