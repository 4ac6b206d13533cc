"""A numeric comparison: two models, the oracle, sizes with which the original runs, and the tensors to compare."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import onnx

from ..errors import ModelProblem
from ..model.order import sort_nodes
from ..process.child import stage
from ..runtime import providers, sessions
from ..runtime.copies import frozen, override, without_randomness
from ..runtime.detached import Skeleton
from ..runtime.dimensions import Sizes, candidates
from ..runtime.host import ENTRIES
from ..runtime.input_files import sizes_of
from ..runtime.input_options import combinations, input_sets
from ..runtime.inputs import CannotFeed, Case, cases, feeds
from ..runtime.loading import for_onnxruntime, lies_at, load_to_run, nodes_and_inputs, without_constants
from ..runtime.placement import name_nodes
from ..runtime.protos import produced
from ..runtime.providers import Chain, Way
from ..runtime.sessions import CannotRun
from ..system.processors import threads
from .float64.oracle import CannotEvaluate, NeedsMemory, Oracle, ReplaceOutputs
from .float64.windows import Array
from .quantized.steps import is_narrow, steps
from .regions import MOVES, edited, shared
from .results import Derived

# Work is bounded by counting elements, not by the clock: the same models get the same verdict on a busy machine.
WORK = {"fast": 40_000_000, "full": 4_000_000_000}  # elements of all inputs together; one input is always run
ELEMENTS = {"fast": 12_000_000, "full": 200_000_000}  # of tensors between the sites that are compared, per input
ALONE = 4_000  # elements that take as long to compare as it takes to begin with a tensor
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
    """The original and the folded model, at the paths of a request: without large constants, or `whole`."""
    stage("reading the models")
    read = load_to_run if whole else without_constants
    return [read(request[name], request.get("outside", False)) for name in ("original", "folded")]


def prepare(request: Mapping[str, Any], models: Sequence[onnx.ModelProto], folder: str) -> Trial:
    """A trial of two models, which are changed: they are read anew for anything else."""
    as_read = [*map(nodes_and_inputs, models)]
    (original, notes), (folded, _) = map(without_randomness, models)
    if request.get("frozen"):
        original, folded = frozen(original), frozen(folded)
    if names := override(original, folded):
        notes.append(f"initializers that callers may override had other values than their defaults: {', '.join(names)}")
    files = {}
    for model, nodes, name in zip((original, folded), as_read, ("original", "folded"), strict=True):
        sort_nodes(model)
        name_nodes(model)
        if not names and nodes == nodes_and_inputs(model) and lies_at(model, request[name]):
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


def find_sizes(trial: Trial) -> bool:
    """Find sizes for the dynamic dimensions with which the original runs, and choose the tensors to compare.

    On the CPU, whose sessions load fast, or else on the provider. False where it runs on neither.
    """
    stage("onnxruntime, running the original")
    own = providers.without_tensorrt(trial.way)
    tries = [("off", providers.chain(Way())), *[("off", own)] * trial.way.gpu, ("default", own)]
    reasons: list[Exception] = []
    for level, chain in tries:
        ran = _sized_on(trial, level, chain)
        if not isinstance(ran, Exception):
            trial.on_cpu = not reasons
            _choose(trial, *ran)
            return True
        reasons.append(ran)
    why = reasons[trial.way.gpu]  # of the provider itself
    trial.blocked.append(f"onnxruntime cannot run the original: {why}{folded_alone(trial)}")
    return False


def _sized_on(trial: Trial, level: str, chain: Chain) -> tuple[Case, dict[str, Array]] | Exception:
    """The first input that the original runs on, and its values; sets `trial.sizes`. Or why it runs on none."""
    try:
        running = trial_session(trial, trial.original, level, chain)
    except CannotRun as why:
        return why
    reason: Exception | None = None
    for case, sizes in cases_to_try(trial):
        try:
            values = feeds(trial.original.graph, case, sizes)
            sessions.outputs(running, trial.outputs, values)
        except (CannotRun, CannotFeed) as why:
            require_drawn(case, why)
            reason = reason or why
            continue
        trial.sizes = sizes
        trial.planned += _of_odd_sizes(trial, running)
        return case, values
    return reason or CannotRun("there is no size to try")


def _of_odd_sizes(trial: Trial, running: Any) -> list[Case]:
    """One more input where sizes may vary, if the original runs on it: odd sizes show padding that even ones do not."""
    if "*" not in trial.sizes or any(case.path or case.sizes for case in trial.planned):
        return []
    case = Case("normal", trial.seed + 1, 1, larger=1)
    try:
        sessions.outputs(running, trial.outputs, feeds(trial.original.graph, case, trial.sizes))
    except (CannotRun, CannotFeed):
        return []
    return [case]


def folded_alone(trial: Trial) -> str:
    """Words where only the folded model runs, as with BatchNormalization over 65536 rows on CUDA; "" otherwise."""
    case, sizes = next(cases_to_try(trial))
    try:
        running = trial_session(trial, trial.folded, "off", providers.without_tensorrt(trial.way))
        sessions.outputs(running, trial.outputs, feeds(trial.original.graph, case, trial.sizes or sizes))
    except (CannotRun, CannotFeed):
        return ""
    return "; it runs the folded model"


def require_drawn(case: Case, why: Exception) -> None:
    """Raise ModelProblem if the model does not run on data from a file; random inputs may be replaced by others."""
    if case.path:
        raise ModelProblem(f"the original does not run on {case}: {why}", "Is it data for this model?") from why


def cases_to_try(trial: Trial) -> Iterator[tuple[Case, Sizes]]:
    """The first planned case with one set of sizes after another; then the same with a batch of 1."""
    first = trial.planned[0]
    if first.path:
        yield first, sizes_of(trial.original.graph, first.path)
    else:
        for case in dict.fromkeys((first, replace(first, batch=1))):
            yield from ((case, sizes) for sizes in candidates(trial.original.graph))


def _choose(trial: Trial, case: Case, values: Mapping[str, Array]) -> None:
    """Choose the tensors to compare: outputs and fold sites always, of the other shared ones as many as time allows."""
    names = shared(trial.original.graph, trial.folded.graph)
    true = truth(trial, case, values, names)
    narrow = {name for name, value in true.items() if is_narrow(value)}
    names = [name for name in names if name not in narrow]
    counts = {name: np.size(value) for name, value in true.items()}
    trial.steps = steps(trial.original.graph, trial.folded.graph, narrow) if true else []
    needed = {*trial.edits, *trial.outputs, *_before_outputs(trial), *_entering(trial), *_rearranged(trial)}
    needed |= {*trial.steps, *_entering_steps(trial)}
    others = [n for n in names if n not in needed]
    every = max(1, -(-sum(ALONE + counts.get(n, 0) for n in others) // ELEMENTS[trial.effort]))
    chosen = needed | set(others[::every])
    trial.names = [n for n in names if n in chosen]
    trial.elements = sum(counts.values())
    if every > 1:
        trial.notes.append(f"of {len(others)} tensors between the sites one in {every} was compared, to save time")


def _entering(trial: Trial) -> set[str]:
    """The tensors that edited nodes read: there a fold site can be cut out of its network."""
    nodes = produced(trial.folded.graph)
    return {name for site in trial.edits if site in nodes for name in nodes[site].input}


def _entering_steps(trial: Trial) -> set[str]:
    """The tensors that steps read: by these a step that the fold did not change is compared."""
    nodes = produced(trial.folded.graph)
    return {name for step in trial.steps for name in nodes[step].input}


def _rearranged(trial: Trial) -> set[str]:
    """Edited tensors, and those that only have elements of them: of some edited ones, not all elements are right."""
    names = set(trial.edits)
    for node in trial.folded.graph.node:
        if node.op_type in MOVES and not names.isdisjoint(node.input):
            names.update(node.output)
    return names


def _before_outputs(trial: Trial) -> set[str]:
    """The tensors that nodes read whose outputs the model returns: some of these are no tensors, as ZipMap's are."""
    nodes = produced(trial.original.graph)
    return {name for output in trial.outputs if output in nodes for name in nodes[output].input}


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
