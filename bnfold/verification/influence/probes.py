"""Regions that A and B compute in other ways, cut out of both and fed numbers that their networks may never make.

A region is all that makes one tensor, which both models have, of others that both have. Where it does the same in both
models for all numbers, its nodes are no change: elementwise functions of one tensor are compared on numbers of every
kind (see `elementwise`), smooth ones on random numbers of both signs. The verdict stays a measured one.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import onnx
from onnx import numpy_helper

from ...model.messages import reads
from ...process.child import stage
from ...runtime import providers, sessions
from ...runtime.copies import without_data
from ...runtime.inputs import feeds
from ...runtime.protos import Array, called, is_constant_node, overridable, produced, stored
from ...runtime.providers import Way
from ...runtime.sessions import CannotRun
from ..float64.floating import is_floating
from ..regions import MIXING, reached, shared
from ..trial import Trial, trial_session
from .changed_nodes import ChangedModel
from .differences import beyond_rounding
from .elementwise import are_equal, is_elementwise

REGION_NODES = 32  # of a region in one of the models
WIDER = 4  # times that a region is made larger
SMOOTH = MIXING | frozenset(  # operators without a threshold: random numbers show all that they do
    ["BatchNormalization", "InstanceNormalization", "LayerNormalization", "GroupNormalization", "Softmax", "LogSoftmax"]
    + ["AveragePool", "GlobalAveragePool", "ReduceMean", "ReduceSum", "ReduceSumSquare", "Pad", "Add", "Sub", "Mul"]
    + ["Div", "Neg", "Sum", "Mean", "Identity", "GRU", "LSTM", "RNN", "Transpose", "Reshape", "Flatten", "Squeeze"]
    + ["Unsqueeze", "DepthToSpace", "SpaceToDepth"]
)
TRIED_SIZES = (1.0, -1.0, 1e3, -1e3)  # of the same random numbers: each channel is above zero for one of two signs
LAST_IR = 4  # the first version of the format in which initializers need not be inputs as well


class Region(NamedTuple):
    """What makes the tensor `output` of those that enter, in one of the models."""

    nodes: list[onnx.NodeProto]
    entering: list[str]
    output: str
    constants: list[onnx.TensorProto]


def equal_regions(trial: Trial, models: Sequence[ChangedModel], agreeing: Collection[str]) -> list[set[str]]:
    """Tensors of A, and of B, whose nodes belong to regions that do the same in both models."""
    stage("what nodes that changed do to numbers of every kind")
    cutter, known = _Cutter(models, agreeing), [set[str](), set[str]()]
    for name in cutter.names:
        for pair in cutter.regions(name):
            if not trial.late and _Pair(trial, models, pair).is_equal():
                for names, region, readers in zip(known, pair, cutter.readers, strict=True):
                    names |= _alone(region, readers)
                break
    return known


def _alone(region: Region, readers: Mapping[str, list[onnx.NodeProto]]) -> set[str]:
    """The tensors of a region that matter for its output alone."""
    known = {region.output}
    for node in reversed(region.nodes):
        after = (each for name in node.output for each in readers.get(name, ()))
        if all(not known.isdisjoint(each.output) for each in after):
            known.update(node.output)
    return known


class _Cutter:
    """Cuts regions out of both models, at tensors of one name that agree on all inputs."""

    def __init__(self, models: Sequence[ChangedModel], agreeing: Collection[str]) -> None:
        self.graphs = [model.proto.graph for model in models]
        self.makers = [produced(graph) for graph in self.graphs]
        self.readers = [_readers(graph) for graph in self.graphs]
        self.order = {name: i for i, name in enumerate(self.makers[0])}
        free = overridable(models[0].proto)
        self.stored = [{n: t for n, t in stored(graph).items() if n not in free} for graph in self.graphs]
        self.changed = [
            {name for i in model.changed if not model.places[i].where for name in model.places[i].node.output}
            for model in models
        ]
        fixed = set.union(*(without_data(graph, free) for graph in self.graphs))
        inputs = set.intersection(*({value.name for value in graph.input} for graph in self.graphs))
        self.names = [name for name in shared(*self.graphs) if name in agreeing and name not in fixed]
        self.cuts = (inputs - fixed) | {*self.names}

    def regions(self, name: str) -> Iterator[list[Region]]:
        """Pairs of regions that make a tensor of the same ones, and have changed nodes; the smallest first."""
        cuts = self.cuts - {name}
        for _ in range(WIDER):
            pair = [self._region(i, name, cuts) for i in range(2)]
            made = [{output for node in region.nodes for output in node.output} for region in pair]
            if not any(names & changed for names, changed in zip(made, self.changed, strict=True)):
                return
            if max(len(region.nodes) for region in pair) > REGION_NODES:
                return
            if pair[0].entering == pair[1].entering:
                yield pair
            apart = {*pair[0].entering} ^ {*pair[1].entering}
            wider = [cut for cut in apart or pair[0].entering if cut in self.order]
            if not wider:
                return
            cuts = cuts - {max(wider, key=self.order.__getitem__)}

    def _region(self, i: int, output: str, cuts: Collection[str]) -> Region:
        names, entering = reached(self.makers[i], [output], cuts)
        nodes = [node for node in self.graphs[i].node if not names.isdisjoint(node.output)]
        read = dict.fromkeys(name for node in nodes for name in node.input)
        constants = [self.stored[i][name] for name in read if name in self.stored[i]]
        return Region([node for node in nodes if not is_constant_node(node)], sorted(entering), output, constants)


def _readers(graph: onnx.GraphProto) -> dict[str, list[onnx.NodeProto]]:
    """The nodes that read each tensor, in bodies too; what the graph hands out has a reader that nothing leads to."""
    readers: dict[str, list[onnx.NodeProto]] = {}
    for node in (*graph.node, onnx.NodeProto(input=[output.name for output in graph.output])):
        for name in reads(node):
            readers.setdefault(name, []).append(node)
    return readers


class _Pair:
    """A region as both models have it, to be run on its own."""

    def __init__(self, trial: Trial, models: Sequence[ChangedModel], pair: Sequence[Region]) -> None:
        self.trial, self.models, self.pair = trial, models, pair
        self.entering, self.output = pair[0].entering, pair[0].output
        self.nodes = [node for region in pair for node in region.nodes]

    def is_equal(self) -> bool:
        """Whether both models are known to make the same of whatever enters."""
        known = [self._example(name) for name in self.entering]
        examples = [each for each in known if each is not None and is_floating(each)]
        if not known or len(examples) < len(known):
            return False
        try:
            if len(examples) == 1 and all(map(is_elementwise, self.nodes)):
                return self._is_equal_elementwise(examples[0])
            return all(called(node) in SMOOTH for node in self.nodes) and self._is_equal_at_random(examples)
        except CannotRun:
            return False

    def _example(self, name: str) -> Array | None:
        """A value of a tensor that enters, for its shape and type."""
        if name not in self.trial.seen:
            self.trial.seen.update(feeds(self.trial.original.graph, self.trial.planned[0], self.trial.sizes))
        return self.trial.seen.get(name)

    def _is_equal_elementwise(self, example: Array) -> bool:
        constants = [numpy_helper.to_array(tensor) for region in self.pair for tensor in region.constants]
        floating = [each for each in constants if is_floating(each)]
        names = [[name for node in region.nodes for name in node.output if name] for region in self.pair]
        running = [self._session(i, names[i], [example]) for i in range(2)]

        def run(numbers: Array) -> list[dict[str, Array]]:
            fed = {self.entering[0]: numbers}
            made = (sessions.outputs(*each, fed) for each in zip(running, names, strict=True))
            return [dict(zip(each, values, strict=True)) for each, values in zip(names, made, strict=True)]

        return are_equal(run, floating, self.output, example.dtype)

    def _is_equal_at_random(self, examples: Sequence[Array]) -> bool:
        running = [self._session(i, [self.output], examples) for i in range(2)]
        random = np.random.default_rng(self.trial.seed)
        normal = [random.standard_normal(each.shape) for each in examples]
        for size in TRIED_SIZES:
            drawn = [(size * each).astype(example.dtype) for each, example in zip(normal, examples, strict=True)]
            fed = dict(zip(self.entering, drawn, strict=True))
            made = [sessions.outputs(each, [self.output], fed)[0] for each in running]
            if beyond_rounding(*made) or not np.isfinite(made[0]).all():
                return False
        return True

    def _session(self, i: int, names: Sequence[str], examples: Sequence[Array]) -> Any:
        like, region = self.models[i].proto, self.pair[i]
        graph = onnx.GraphProto(name="region", node=region.nodes, initializer=region.constants)
        for name, each in zip(region.entering, examples, strict=True):
            kind = onnx.helper.np_dtype_to_tensor_dtype(each.dtype)
            graph.input.append(onnx.helper.make_tensor_value_info(name, kind, None))
        graph.output.extend(onnx.ValueInfoProto(name=name) for name in names)
        model = onnx.ModelProto(ir_version=max(like.ir_version, LAST_IR), graph=graph, opset_import=like.opset_import)
        return trial_session(self.trial, model, "off", providers.chain(Way()))
