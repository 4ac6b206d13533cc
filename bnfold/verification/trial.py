"""What a numeric comparison is about: two models, the oracle, sessions of them, and what is known of them so far."""

from __future__ import annotations

import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import onnx

from ..errors import ModelProblem, first_line
from ..model.order import sort_nodes
from ..process.child import stage
from ..runtime import detached, providers, sessions
from ..runtime.copies import frozen, make_dense, override
from ..runtime.detached import Skeleton
from ..runtime.dimensions import Sizes
from ..runtime.distinct_names import NOTE, make_distinct
from ..runtime.host import ENTRIES
from ..runtime.input_options import combinations, input_sets
from ..runtime.inputs import Case, cases
from ..runtime.loading import for_onnxruntime, is_alone, load_to_run, nodes_and_inputs, without_constants
from ..runtime.placement import name_nodes
from ..runtime.providers import Chain, Way
from ..runtime.randomness import numbers_for, without_randomness
from ..runtime.sessions import CannotRun
from ..system.processors import threads
from .float64.oracle import CannotEvaluate, NeedsMemory, Oracle, ReplaceOutputs
from .float64.windows import Array
from .regions import edited, shape_of_graph
from .results import Derived

# Work is bounded by counting elements, not by the clock: the same models get the same verdict on a busy machine.
WORK = {"fast": 40_000_000, "full": 4_000_000_000}  # elements of all inputs together; one input is always run
SMALL_INPUT = 4_000_000  # elements of all tensors for one input, up to which sites are run alone with every input
LARGE_INPUT = 16_000_000  # the same, from which a model counts as large
EXACT_INTEGERS = {"session.x64quantprecision": "1"}  # kernels that do not saturate, for models as they are written
JITTERS = 4, 2  # jittered copies, and of a large model; a channel of few elements needs many
MORE_JITTERS = 24  # copies where an error is close to its limit: few estimate badly what moves in one direction
Pairs = dict[str, list[tuple[Any, Any]]]  # of a tensor: its value in the original and in each jittered copy


@dataclass
class Trial:
    """Two models, what is to be compared in them, and what is known of them so far."""

    original: onnx.ModelProto
    folded: onnx.ModelProto
    effort: str
    seed: int
    folder: str
    way: Way = Way()
    policy: str = "compute"  # of placement
    oracle: Oracle | None = None
    planned: list[Case] = field(default_factory=list)  # the inputs; of a large model not all of them
    deadline: float = math.inf  # of time.time(): when to begin nothing more
    sizes: Sizes = field(default_factory=dict)
    names: list[str] = field(default_factory=list)
    elements: int = 0  # of all shared tensors, for one input
    notes: list[str] = field(default_factory=list)
    blocked: list[str] = field(default_factory=list)  # why something could not be compared
    edits: set[str] = field(default_factory=set)
    derived: list[Derived] = field(default_factory=list)
    files: dict[int, str] = field(default_factory=dict)  # where a model lies as it is, by its id
    proved: bool = False  # that all outputs are the same for all inputs: by the algebra
    seen: dict[str, Array] = field(default_factory=dict)  # one value of each tensor, as onnxruntime computed it
    on_cpu: bool = False  # the CPU runs the original, graph optimization off: its conditioning is measured there
    moved: dict[Case, Pairs] = field(default_factory=dict)  # what was measured of the outputs: it holds at every level
    truths: dict[Case, dict[str, Any]] = field(default_factory=dict)  # results of the oracle that may be used again
    keeps: bool = False  # another arithmetic will use the same results of the oracle
    same_graph: list[bool] = field(default_factory=list)  # one entry once it is known, shared by all arithmetics
    steps: list[str] = field(default_factory=list)  # tensors that the folded model gets from the original's run
    copies: int = 0  # jittered ones; 0: as many as the size of the model allows
    entries: Mapping[str, str] = field(default_factory=dict)  # settings of sessions, in addition to the usual ones

    @property
    def late(self) -> bool:
        """Whether the time allowed is over; `notes` must say what is skipped."""
        return time.time() > self.deadline

    @property
    def outputs(self) -> list[str]:
        return [output.name for output in self.original.graph.output]


def read_models(request: Mapping[str, Any], whole: bool = False) -> list[onnx.ModelProto]:
    """The original and the folded model, at the paths of a request: without large constants, or `whole`.

    Raises ModelProblem where one is not readable, or the numbers of a constant do not fit its shape.
    """
    stage("reading the models")
    read = load_to_run if whole else without_constants
    models = [read(request[name], request.get("outside", False)) for name in ("original", "folded")]
    for tensor in (tensor for model in models for tensor in detached.constants(model)):
        try:
            detached.values(tensor)
        except (ValueError, TypeError) as why:
            words = f"the values of '{tensor.name}' cannot be read: {first_line(why)}"
            raise ModelProblem(words, "The file is damaged.") from why
    return models


def prepare(request: Mapping[str, Any], models: Sequence[onnx.ModelProto], folder: str) -> Trial:
    """A trial of two models, which are changed: they are read anew for anything else."""
    as_read = [*map(nodes_and_inputs, models)]
    numbers = numbers_for(models)
    (original, notes), (folded, _) = (without_randomness(model, numbers) for model in models)
    if request.get("frozen"):
        original, folded = frozen(original), frozen(folded)
    if names := override(original, folded):
        notes.append(f"initializers that callers may override had other values than their defaults: {', '.join(names)}")
    files = {}
    for model in (original, folded):
        make_dense(model)
        sort_nodes(model)
    notes += [NOTE] if make_distinct((original, folded)) else []
    for model, nodes, name in zip((original, folded), as_read, ("original", "folded"), strict=True):
        name_nodes(model)
        if not names and nodes == nodes_and_inputs(model) and is_alone(request[name]):
            files[id(model)] = request[name]
    trial = Trial(original, folded, request["effort"], request["seed"], folder, notes=notes, files=files)
    trial.way, trial.policy = Way(request["provider"], request["maths"][0]), request["placement"]
    trial.edits, trial.deadline = edited(original, folded), request.get("deadline") or math.inf
    sizes = combinations(original.graph, request.get("dims", {}), request.get("shapes", {}))
    trial.planned = cases(trial.effort, trial.seed, sizes, input_sets(request.get("inputs", ())))
    return trial


def make_oracle(trial: Trial) -> None:
    """Set the float64 evaluation of the original, or why there is none."""
    stage("the float64 evaluation of the original")
    try:
        trial.oracle = Oracle(trial.original)
        trial.oracle.rounds = len(trial.planned)
    except CannotEvaluate as why:
        trial.blocked.append(f"the float64 oracle cannot evaluate {why}")


def trial_session(
    trial: Trial, model: onnx.ModelProto | str | bytes | Skeleton, level: str, chain: Chain, profile: str = ""
) -> Any:
    """A session on the providers of `chain`, which with `profile` writes where each node runs. Raises CannotRun."""
    options = sessions.options(
        level,
        deterministic=trial.way.careful,
        threads=threads(),
        entries={**ENTRIES, **(EXACT_INTEGERS if level == "off" else {}), **trial.entries},
        profile=profile,
    )
    loadable = trial.files.get(id(model), model)
    if isinstance(loadable, onnx.ModelProto):
        loadable = for_onnxruntime(loadable, trial.folder)
    return sessions.session(loadable, options, chain)


def truth(
    trial: Trial,
    case: Case,
    values: Mapping[str, Array],
    names: Sequence[str],
    replace_outputs: ReplaceOutputs | None = None,
) -> dict[str, Any]:
    """The float64 values of `names`, kept where they may be used again; {} without an oracle, or once it has failed."""
    if trial.oracle is None:
        return {}
    if replace_outputs is None and case in trial.truths and all(name in trial.truths[case] for name in names):
        answer = trial.truths[case]
    else:
        stage("the float64 evaluation of the original")
        try:
            answer = trial.oracle.evaluate(values, {*names, *trial.outputs}, replace_outputs)
        except CannotEvaluate as why:
            words = trial.notes if isinstance(why, NeedsMemory) else trial.blocked
            words.append(f"the float64 oracle cannot evaluate {why}")
            trial.oracle = None
            return {}
    if replace_outputs is not None:
        return answer
    kept = {*trial.outputs, *(trial.names if trial.keeps else ())} if trial.names else answer
    trial.truths[case] = {name: answer[name] for name in kept if name in answer}
    return answer


def is_same_graph(trial: Trial) -> bool:
    """Whether onnxruntime makes the same graph of both models at its default level, where comparing shows nothing then.

    False for large models: the optimized graph would have to be written to a file to be read.
    """
    if detached.length(trial.original):
        return False
    if not trial.same_graph:
        stage("onnxruntime, optimizing the models with graph optimization default")
        trial.same_graph.append(_made_the_same(trial))
    return trial.same_graph[0]


def _made_the_same(trial: Trial) -> bool:
    """On the CPU, where that runs the original: which folds onnxruntime makes by itself depends on no provider."""
    target = str(Path(trial.folder, "optimized.onnx"))
    chain = providers.chain(Way()) if trial.on_cpu else providers.without_tensorrt(trial.way)
    try:
        original, folded = (
            sessions.optimized(for_onnxruntime(model, trial.folder), "default", target, chain)
            for model in (trial.original, trial.folded)
        )
    except CannotRun:
        return False
    return shape_of_graph(original) == shape_of_graph(folded)
