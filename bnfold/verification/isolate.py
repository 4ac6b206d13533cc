"""Fold sites cut out of their network, so that each can be fed random numbers of its own.

In the network, a site may come after channels that a Relu sets to zero for every input that was tried: a fault there
stays hidden. Cut out, the tensors that enter a site become inputs, and all their channels vary.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import replace

import onnx
from onnx import helper

from ..model.messages import bodies, reads
from ..runtime.copies import without_data
from ..runtime.protos import FLOATING, called, produced
from .float64.oracle import Oracle
from .regions import MIXING, MOVES, reached, shared
from .trial import SMALL_INPUT, Trial

ANY_NUMBER = MIXING | {"BatchNormalization", "Einsum"}  # whatever bounds what they read
ADDS = frozenset(["Add", "Mean", "Sub", "Sum"])  # which have bounds where all that they add up has
KEEPS_BOUNDS = MOVES | {"AveragePool", "Cast", "Concat", "Dropout", "GlobalAveragePool", "GlobalMaxPool", "LeakyRelu"}
KEEPS_BOUNDS |= {"LpPool", "MaxPool", "Pad", "Resize", "Upsample"}


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
    """The tensors to cut at, as inputs: floating-point ones among `good` that enter a site.

    Where operators bound what enters, the cut is before them; it may then be the output of another site.
    """
    graph = trial.folded.graph
    makers, fixed = produced(graph), without_data(graph)
    entering = {name for site in trial.edits if site in makers for name in makers[site].input}.intersection(good)
    free = {name: names for name, names in _unbounded(makers, fixed).items() if name in entering}
    captured = {name for node in graph.node if any(bodies(node)) for name in reads(node)}
    before = set().union(*free.values()) - trial.edits.intersection(captured)
    direct = entering - trial.edits - free.keys()
    cuts = {}
    for name in sorted((before | direct).intersection(good) - fixed):
        example = trial.seen.get(name)
        if example is not None and example.size and helper.np_dtype_to_tensor_dtype(example.dtype) in FLOATING:
            kind = helper.np_dtype_to_tensor_dtype(example.dtype)
            cuts[name] = helper.make_tensor_value_info(name, kind, example.shape)
    return cuts


def _unbounded(makers: Mapping[str, onnx.NodeProto], fixed: Collection[str]) -> dict[str, set[str]]:
    """For each tensor that has bounds, those before the operators that bound it: fed any numbers, it still has only
    values that it can. Every operator bounds its output (a square is not negative) but those known not to.
    """
    free: dict[str, set[str]] = {}
    for name, node in makers.items():
        data = [each for each in dict.fromkeys(node.input) if each not in fixed]
        before = [free.get(each, set()) for each in data]
        keeps = all(before) if called(node) in ADDS else any(before) or not _keeps_bounds(node, fixed)
        if keeps and called(node) not in ANY_NUMBER and not any(bodies(node)):
            free[name] = set().union(*(some or {each} for some, each in zip(before, data, strict=True)))
    return free


def _keeps_bounds(node: onnx.NodeProto, fixed: Collection[str]) -> bool:
    """Whether a node's output has bounds only where its input has."""
    scales = {"Mul": [*node.input], "Div": [*node.input[1:]]}.get(called(node), [])
    return called(node) in KEEPS_BOUNDS or not {*scales}.isdisjoint(fixed)


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
    """A copy in which the tensors `cuts` are inputs and `outputs` are returned, without nodes that then are unused.

    An output that is cut as well is returned as its node computes it, unless `uncut` names it; no body may read it.
    """
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    graph = copy.graph
    inputs = {name: f"{name}/input" if name in outputs else name for name in cuts}
    for node in graph.node:
        node.input[:] = [inputs.get(name, name) for name in node.input]
        node.output[:] = [uncut(name) if inputs.get(name) == name else name for name in node.output]
    kept = _needed(graph, outputs)
    nodes = [node for node in graph.node if not kept.isdisjoint(node.output)]
    del graph.node[:], graph.output[:]
    graph.node.extend(nodes)
    for name, value in cuts.items():
        graph.input.add().CopyFrom(value)
        graph.input[-1].name = inputs[name]
    graph.output.extend(onnx.ValueInfoProto(name=name) for name in outputs)
    return copy


def _needed(graph: onnx.GraphProto, outputs: Collection[str]) -> set[str]:
    """Names that `outputs` are computed from."""
    needed = set(outputs)
    for node in reversed(graph.node):
        if not needed.isdisjoint(node.output):
            needed.update(reads(node))
    return needed
