"""Fold sites cut out of their network, so that each can be fed random numbers of its own.

In the network, a site may come after channels that a Relu sets to zero for every input that was tried: a fault there
stays hidden. Cut out, the tensors that enter a site become inputs, and all their channels vary.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import replace

import onnx
from onnx import helper

from ..model.messages import reads
from ..runtime.copies import without_data
from ..runtime.protos import FLOATING, called, produced
from .float64.oracle import Oracle
from .regions import MOVES, reached, shared
from .trial import SMALL_INPUT, Trial

BOUNDS = frozenset(
    ["Relu", "Clip", "Sigmoid", "HardSigmoid", "HardSwish", "Softmax", "Tanh", "Softplus", "Softsign", "Abs", "Exp"]
    + ["Sqrt", "Elu", "Selu", "Celu", "Gelu", "Mish", "ThresholdedRelu", "Erf", "Sin", "Cos"]
)
KEEPS_BOUNDS = MOVES | {
    "MaxPool",
    "AveragePool",
    "GlobalMaxPool",
    "GlobalAveragePool",
    "Concat",
    "Dropout",
    "LeakyRelu",
}


def isolate_sites(trial: Trial, good: Collection[str]) -> Trial | None:
    """A trial of the fold sites among `good` alone, or None if there is nothing to cut.

    `good` are the tensors that have the same values in both models, as a comparison showed: only these are sites, or
    are cut where they enter one. With effort `fast`, sites that the algebra has proved are left out. Raises
    CannotEvaluate where the oracle cannot evaluate the pieces.
    """
    proved = {site.name for site in trial.derived if site.proved} if trial.effort == "fast" else set()
    judged = trial.edits.intersection(good) - without_data(trial.folded.graph) - proved
    sites = [name for name in shared(trial.original.graph, trial.folded.graph) if name in judged]
    cuts = _even(trial, sites, _cuts(trial, good))
    if not sites or not cuts:
        return None
    original, folded = (cut_at(model, cuts, sites) for model in (trial.original, trial.folded))
    oracle = Oracle(original) if trial.oracle else None
    drawn = [case for case in trial.planned if not case.path][: None if trial.elements <= SMALL_INPUT else 1]
    apart = replace(trial, original=original, folded=folded, oracle=oracle, planned=drawn, names=sites, keeps=False)
    return replace(apart, truths={}, seen={}, moved={})


def _cuts(trial: Trial, good: Collection[str]) -> dict[str, onnx.ValueInfoProto]:
    """The tensors to cut at, as inputs: floating-point ones among `good` that enter a site and are none themselves."""
    makers, fixed = produced(trial.folded.graph), without_data(trial.folded.graph)
    entering = {name for site in trial.edits if site in makers for name in makers[site].input}
    allowed = set(good) - trial.edits - fixed
    cuts = {}
    free = {name: _unbounded(makers, name) & allowed for name in entering & allowed}
    for name in sorted(set().union(*(before or {name} for name, before in free.items()))):
        example = trial.seen.get(name)
        if example is not None and example.size and helper.np_dtype_to_tensor_dtype(example.dtype) in FLOATING:
            kind = helper.np_dtype_to_tensor_dtype(example.dtype)
            cuts[name] = helper.make_tensor_value_info(name, kind, example.shape)
    return cuts


def _unbounded(makers: Mapping[str, onnx.NodeProto], name: str) -> set[str]:
    """The tensors before the operators that bound `name`: fed any numbers, `name` still has only values that it can.

    Empty where nothing bounds it.
    """
    node = makers.get(name)
    if node is None or called(node) not in BOUNDS | KEEPS_BOUNDS or not node.input:
        return set()
    data = node.input if called(node) == "Concat" else node.input[:1]
    before = [_unbounded(makers, each) for each in data]
    if called(node) not in BOUNDS and not any(before):
        return set()
    return set().union(*(some or [each] for some, each in zip(before, data, strict=True)))


def _even(trial: Trial, sites: Collection[str], cuts: dict[str, onnx.ValueInfoProto]) -> dict[str, onnx.ValueInfoProto]:
    """The cuts that enter each site in both models: where only one reads a tensor, numbers drawn for it do not fit."""
    makers = [produced(model.graph) for model in (trial.original, trial.folded)]
    while True:
        entering = [[reached(each, [site], cuts.keys())[1] for each in makers] for site in sites]
        uneven = {name for ours, theirs in entering for name in ours ^ theirs} & cuts.keys()
        if not uneven:
            return cuts
        cuts = {name: value for name, value in cuts.items() if name not in uneven}


def uncut(name: str) -> str:
    """The name of the output of a node where its tensor is cut: the readers read an input that has the name itself."""
    return f"{name}/uncut"


def cut_at(
    model: onnx.ModelProto, cuts: Mapping[str, onnx.ValueInfoProto], outputs: Collection[str]
) -> onnx.ModelProto:
    """A copy in which the tensors `cuts` are inputs and `outputs` are returned, without nodes that then are unused."""
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
            needed.update(reads(node))
    return needed
