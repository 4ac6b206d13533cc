"""Regions that A and B compute in other ways, cut out of both and fed numbers that their networks may never make.

A region is all that makes one tensor, which both models have, of others that both have. Where it does the same in both
models for all numbers, its nodes are no change: elementwise functions of one tensor are compared on numbers of every
kind (see `elementwise`), what is read out of tables at every index, what only moves elements at several sizes (see
`moves`), smooth functions on random numbers of both signs. The verdict stays a measured one.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from functools import cached_property
from math import prod
from typing import Any, NamedTuple

import numpy as np
import onnx
from onnx import helper, shape_inference

from ...process.child import stage
from ...runtime import detached, providers, sessions
from ...runtime.copies import jittered
from ...runtime.inputs import feeds
from ...runtime.protos import FLOATING, Array, called, shape
from ...runtime.providers import Way
from ...runtime.sessions import CannotRun
from ..float64.constant_parts import FREE_INITIALIZERS
from ..float64.floating import is_floating
from ..trial import Trial, trial_session
from .at_random import are_smooth, compare_overflow, compare_smooth, may_overflow
from .changed_nodes import ChangedModel
from .cutter import Cutter, Region, alone
from .differences import beyond_rounding
from .elementwise import Difference, first_difference, is_elementwise, may_stop
from .meaning import of_tensor
from .moves import computed_of, is_moving, shapes_to_try

INDICES_AT_ONCE = 1 << 12  # indices
LARGEST_TABLE = 1 << 26  # elements of a table


class Probed(NamedTuple):
    """What is known of regions that changed."""

    equal: tuple[set[str], set[str]]  # tensors of A, and of B, of regions that do the same in both models
    words: dict[str, str]  # of others of either, of which number A and B make something else
    apart: dict[str, str]  # likewise, where data may be such a number


def probe_regions(trial: Trial, models: Sequence[ChangedModel], agreeing: Collection[str]) -> Probed:
    """Compare the regions of two models that have changed nodes."""
    stage("what nodes that changed do to numbers of every kind")
    cutter, known, inferred = Cutter(models, agreeing), Probed((set(), set()), {}, {}), Inferred(trial, models[0].proto)
    for name in cutter.names:
        apart: dict[str, str] = {}
        for regions in cutter.regions(name):
            pair = _Pair(inferred, models, regions)
            if not trial.late and pair.is_equal():
                for names, region, readers in zip(known.equal, regions, cutter.readers, strict=True):
                    names |= alone(region, readers)
                apart.clear()
                break
            made = dict.fromkeys((output for node in pair.nodes for output in node.output), pair.difference.words)
            known.words.update(made if pair.difference.words else {})
            apart.update(made if pair.difference.within_reach else {})
        known.apart.update(apart)
    for i, model in enumerate(models):
        for regions in cutter.put_in(i):
            if not trial.late and _Pair(inferred, [model, model], regions).is_equal():
                known.equal[i].update(alone(regions[1], cutter.readers[i]))
    return known


class Inferred:
    """What is known of the tensors of A: an example of each, and which axes have one size only."""

    def __init__(self, trial: Trial, model: onnx.ModelProto) -> None:
        self.trial, self.model = trial, model
        self.examples = {**feeds(trial.original.graph, trial.planned[0], trial.sizes), **trial.seen}

    @cached_property
    def dims(self) -> dict[str, list[int | str | None] | None]:
        try:
            graph = shape_inference.infer_shapes(self.model).graph
        except (shape_inference.InferenceError, ValueError):  # an operator that it does not know, more than 2 GiB
            return {}
        return {value.name: shape(value) for value in (*graph.input, *graph.value_info)}

    def fixed_axes(self, name: str) -> list[bool]:
        rank, dims = self.examples[name].ndim, self.dims.get(name)
        return [isinstance(dim, int) for dim in dims] if dims and len(dims) == rank else [False] * rank


class _Pair:
    """A region as both models have it, to be run on its own."""

    def __init__(self, known: Inferred, models: Sequence[ChangedModel], pair: Sequence[Region]) -> None:
        self.known, self.trial, self.models, self.pair = known, known.trial, models, pair
        self.entering, self.output = pair[0].entering, pair[0].output
        self.nodes = [node for region in pair for node in region.nodes]
        self.examples = [known.examples[name] for name in self.entering if name in known.examples]
        self.difference = Difference()

    def is_equal(self) -> bool:
        """Whether both models are known to make the same of whatever enters."""
        if not self.entering or len(self.examples) < len(self.entering):
            return False
        is_one, are_floating = len(self.examples) == 1, all(map(is_floating, self.examples))
        try:
            if is_one and self._can_be_any_number():
                return self._is_equal_elementwise()
            if is_one and self.examples[0].dtype.kind == "i" and (rows := self._rows()):
                return self._is_equal_at_each_index(rows)
            if is_one and are_floating and self._only_moves():
                return self._is_equal_at_all_sizes()
            return are_floating and self._is_equal_at_random()
        except CannotRun:
            return False

    def _can_be_any_number(self) -> bool:
        """Whether what enters is a number that regions can be fed any of, each by itself."""
        constants = {t.name: detached.values(t) for region in self.pair for t in region.constants}
        is_integer = self.examples[0].dtype.kind in "iu"
        known = is_integer and not any(may_stop(node, constants) for node in self.nodes)
        return (known or is_floating(self.examples[0])) and all(map(is_elementwise, self.nodes))

    def _is_equal_elementwise(self) -> bool:
        constants = [detached.values(tensor) for region in self.pair for tensor in region.constants]
        names = [[name for node in region.nodes for name in node.output if name] for region in self.pair]
        running = self._sessions(names)

        def run(numbers: Array) -> list[dict[str, Array]]:
            fed = {self.entering[0]: numbers}
            made = (sessions.outputs(*each, fed) for each in zip(running, names, strict=True))
            return [dict(zip(each, values, strict=True)) for each, values in zip(names, made, strict=True)]

        self.difference = first_difference(run, constants, self.output, self.examples[0].dtype)
        return not self.difference.words

    def _rows(self) -> int:
        """How many indices there are where what enters only chooses rows of tables, all of as many; else none."""
        sizes = []
        for region in self.pair:
            tables = {tensor.name: tensor.dims for tensor in region.constants}
            for node in region.nodes:
                if called(node) == "Gather" and node.input[0] in tables and node.input[1] not in tables:
                    axis = next((a.i for a in node.attribute if a.name == "axis"), 0)
                    sizes.append(tables[node.input[0]][axis])
                    if prod(tables[node.input[0]]) > LARGEST_TABLE:
                        return 0
                elif not is_elementwise(node):
                    return 0
        return sizes[0] if len({*sizes}) == 1 else 0

    def _is_equal_at_each_index(self, rows: int) -> bool:
        rank, kind = max(1, self.examples[0].ndim), self.examples[0].dtype
        indices = np.arange(-rows, rows, dtype=kind).reshape(*(1 for _ in range(rank - 1)), -1)  # or from the end
        blocks = np.split(indices, range(INDICES_AT_ONCE, 2 * rows, INDICES_AT_ONCE), axis=-1)
        return self._makes_the_same({self.entering[0]: block} for block in blocks)

    def _only_moves(self) -> bool:
        """Whether all else that is done to elements is the same in both models, in the same order."""
        kinds = [
            (computed_of(region.nodes, region.entering, model.acts)[self.output], _scales(region))
            for model, region in zip(self.models, self.pair, strict=True)
        ]
        return kinds[0] == kinds[1]

    def _is_equal_at_all_sizes(self) -> bool:
        """At all that both models take; each takes those that the other one does."""
        example, constants = self.examples[0], [t for region in self.pair for t in region.constants]
        fixed = self.known.fixed_axes(self.entering[0])
        tried = shapes_to_try(example.shape, fixed, [detached.values(tensor) for tensor in constants])
        random, running = np.random.default_rng(self.trial.seed), self._sessions([[self.output], [self.output]])
        for each in tried or ():
            fed = {self.entering[0]: random.standard_normal(each).astype(example.dtype)}
            made = [self._made(session, fed) for session in running]
            missing = [each is None for each in made]
            if missing == [True, True] and each != example.shape:
                continue
            if any(missing) or beyond_rounding(*made):
                return False
        return bool(tried)

    def _made(self, session: Any, fed: Mapping[str, Array]) -> Any:
        """What a region makes; None of a size that it does not take."""
        try:
            return sessions.outputs(session, [self.output], fed)[0]
        except CannotRun:
            return None

    def _is_equal_at_random(self) -> bool:
        constants = {tensor.name for region in self.pair for tensor in region.constants}
        is_smooth = are_smooth(self.nodes, constants)
        if not is_smooth and not may_overflow(self.pair[1].nodes):
            return False
        running = self._sessions([[self.output], [self.output]])
        running.append(self._session(self.models[0], self.pair[0], [self.output], is_moved=True))

        def run(fed: Mapping[str, Array]) -> list[Array]:
            return [sessions.outputs(each, [self.output], fed)[0] for each in running]

        examples = dict(zip(self.entering, self.examples, strict=True))
        compare = compare_smooth if is_smooth else compare_overflow
        known = compare(run, examples, self.trial.seed)
        self.difference = known or Difference()
        return known is not None and not known.words

    def _makes_the_same(self, inputs: Iterable[Mapping[str, Array]]) -> bool:
        """Whether both regions make finite numbers, the same up to rounding, of all inputs."""
        running = self._sessions([[self.output], [self.output]])
        for fed in inputs:
            made = [sessions.outputs(each, [self.output], fed)[0] for each in running]
            if beyond_rounding(*made) or not np.isfinite(made[0]).all():
                return False
        return True

    def _sessions(self, names: Sequence[Sequence[str]]) -> list[Any]:
        """A session of each region; its outputs are some tensors of it."""
        return [self._session(*each) for each in zip(self.models, self.pair, names, strict=True)]

    def _session(self, like: ChangedModel, region: Region, names: Sequence[str], is_moved: bool = False) -> Any:
        """Of a region of a model; with `is_moved` its constants are moved by one unit of their last place."""
        graph = onnx.GraphProto(name="region", node=region.nodes, initializer=region.constants)
        for name, each in zip(region.entering, self.examples, strict=True):
            graph.input.append(helper.make_tensor_value_info(name, helper.np_dtype_to_tensor_dtype(each.dtype), None))
        graph.output.extend(onnx.ValueInfoProto(name=name) for name in names)
        version = max(like.proto.ir_version, FREE_INITIALIZERS)
        model = onnx.ModelProto(ir_version=version, graph=graph, opset_import=like.proto.opset_import)
        model = jittered(model, self.trial.seed) if is_moved else model
        return trial_session(self.trial, model, "off", providers.chain(Way()))


def _scales(region: Region) -> list[bytes]:
    """The floating-point numbers by which operators that move elements do so, as Resize does."""
    read = {name for node in region.nodes if is_moving(node) for name in node.input}
    return sorted(of_tensor(t) for t in region.constants if t.name in read and t.data_type in FLOATING)
