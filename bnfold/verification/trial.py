"""What a numeric comparison is about: two models, the oracle, sizes that work, the tensors to look at."""

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
from ..runtime.loading import for_onnxruntime, lies_at, load, nodes_and_inputs, without_constants
from ..runtime.placement import named
from ..runtime.protos import produced
from ..runtime.providers import Chain, Way
from ..runtime.sessions import CannotRun
from ..system.processors import threads
from .float64.oracle import CannotEvaluate, NeedsMemory, Oracle, Steer
from .float64.windows import Array
from .quantized.steps import is_narrow, steps
from .regions import MOVES, edited, shared
from .results import Derived

# Work is bounded by counting elements, not by the clock: the same models get the same verdict on a busy machine.
WORK = {"fast": 40_000_000, "full": 4_000_000_000}  # elements of all inputs together; one input is always run
ELEMENTS = {"fast": 12_000_000, "full": 200_000_000}  # of tensors between the sites that are compared, per input
ALONE = 4_000  # elements that take as long to compare as it takes to begin with a tensor
SMALL = 4_000_000  # elements of one input: below, the sites are run on their own with every input
LARGE = 16_000_000  # elements of one input
EXACT = {"session.x64quantprecision": "1"}  # integer kernels that do not saturate, for models as they are written
JITTERS = 4, 2  # jittered copies, and of a large model; a channel of few elements needs many
MANY = 24  # copies where an error is close to its limit: what moves in one direction is hard to tell from few
Pairs = dict[str, list[tuple[Any, Any]]]  # of a tensor: its value in the original and in each jittered copy


@dataclass
class Trial:
    """Two models, what is to be compared in them, and what was found out on the way."""

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
    truths: dict[Case, dict[str, Any]] = field(
        default_factory=dict
    )  # what the oracle said, while it may be asked again
    keeps: bool = False  # another arithmetic will ask the oracle for the same
    same_graph: list[bool] = field(default_factory=list)  # what is known of it, for every arithmetic
    steps: list[str] = field(default_factory=list)  # tensors after which both models are fed what the original makes
    copies: int = 0  # jittered ones, where it is not for the size of the model to say
    entries: Mapping[str, str] = field(default_factory=dict)  # of sessions, beyond the usual ones

    @property
    def late(self) -> bool:
        """The time that was allowed is over; `notes` must say what is skipped."""
        return time.time() > self.deadline

    @property
    def outputs(self) -> list[str]:
        return [output.name for output in self.original.graph.output]


def read_models(request: Mapping[str, Any], whole: bool = False) -> list[onnx.ModelProto]:
    """The original and the folded model, at the paths of a request: without large constants, or `whole`."""
    stage("reading the models")
    read = load if whole else without_constants
    return [read(request[name], request.get("outside", False)) for name in ("original", "folded")]


def prepare(request: Mapping[str, Any], models: Sequence[onnx.ModelProto], folder: str) -> Trial:
    """A trial of two models, which are changed: they are read anew for anything else."""
    as_read = [*map(nodes_and_inputs, models)]
    (original, notes), (folded, _) = map(without_randomness, models)
    if request.get("frozen"):
        original, folded = frozen(original), frozen(folded)
    names = override(original, folded)
    if names:
        notes.append(f"initializers that callers may override had other values than their defaults: {', '.join(names)}")
    for model in (original, folded):
        sort_nodes(model)
        named(model)
    trial = Trial(original, folded, request["effort"], request["seed"], folder, notes=notes)
    trial.way, trial.policy = Way(request["provider"], request["maths"][0]), request["placement"]
    trial.edits = edited(original.graph, folded.graph)
    trial.deadline = request.get("deadline") or math.inf
    if not names:
        read = zip((original, folded), as_read, (request["original"], request["folded"]), strict=True)
        same = ((model, path) for model, nodes, path in read if nodes == nodes_and_inputs(model))
        trial.files = {id(model): path for model, path in same if lies_at(model, path)}
    asked = combinations(original.graph, request.get("dims", {}), request.get("shapes", {}))
    trial.planned = cases(trial.effort, trial.seed, asked, input_sets(request.get("inputs", ())))
    return trial


def make_oracle(trial: Trial) -> None:
    """The float64 evaluation of the original, or why there is none."""
    stage("the float64 evaluation of the original")
    try:
        trial.oracle = Oracle(trial.original)
        trial.oracle.rounds = len(trial.planned)
    except CannotEvaluate as why:
        trial.blocked.append(f"the float64 oracle cannot evaluate {why}")


def find_sizes(trial: Trial) -> bool:
    """Find sizes for the dynamic dimensions with which the original runs, and choose the tensors to compare.

    On the CPU, whose sessions are soon made; else on the provider.
    """
    stage("onnxruntime, running the original")
    own = providers.without_tensorrt(trial.way)
    tries = [("off", providers.chain(Way())), *[("off", own)] * trial.way.gpu, ("default", own)]
    reasons: list[Exception] = []
    for level, chain in tries:
        found = _sized_on(trial, level, chain)
        if not isinstance(found, Exception):
            trial.on_cpu = not reasons
            _choose(trial, *found)
            return True
        reasons.append(found)
    why = reasons[trial.way.gpu]  # of the provider itself
    trial.blocked.append(f"onnxruntime cannot run the original: {why}{folded_alone(trial)}")
    return False


def _sized_on(trial: Trial, level: str, chain: Chain) -> tuple[Case, dict[str, Array]] | Exception:
    """The first input that the original runs on, its sizes in `trial.sizes`; or why it runs on none."""
    try:
        running = session(trial, trial.original, level, chain)
    except CannotRun as why:
        return why
    reason: Exception | None = None
    for case, sizes in attempts(trial):
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
    """One more input where sizes may vary, if the original takes it: cuts and padding that even sizes never reach."""
    if "*" not in trial.sizes or any(case.path or case.sizes for case in trial.planned):
        return []
    case = Case("normal", trial.seed + 1, 1, larger=1)
    try:
        sessions.outputs(running, trial.outputs, feeds(trial.original.graph, case, trial.sizes))
    except (CannotRun, CannotFeed):
        return []
    return [case]


def folded_alone(trial: Trial) -> str:
    """Whether the folded model runs where the original does not, as with BatchNormalization over 65536 rows on CUDA."""
    case, sizes = next(attempts(trial))
    try:
        running = session(trial, trial.folded, "off", providers.without_tensorrt(trial.way))
        sessions.outputs(running, trial.outputs, feeds(trial.original.graph, case, trial.sizes or sizes))
    except (CannotRun, CannotFeed):
        return ""
    return "; it runs the folded model"


def require_drawn(case: Case, why: Exception) -> None:
    """Raise ModelProblem if the model does not run on a person's own data; random inputs may be replaced by others."""
    if case.path:
        raise ModelProblem(f"the original does not run on {case}: {why}", "Is it data for this model?") from why


def attempts(trial: Trial) -> Iterator[tuple[Case, Sizes]]:
    """The first planned case with one set of sizes after another; then the same with a batch of 1."""
    first = trial.planned[0]
    if first.path:
        yield first, sizes_of(trial.original.graph, first.path)
    else:
        for case in dict.fromkeys((first, replace(first, batch=1))):
            yield from ((case, sizes) for sizes in candidates(trial.original.graph))


def _choose(trial: Trial, case: Case, values: Mapping[str, Array]) -> None:
    """Outputs and fold sites always; other shared tensors, evenly spread, until there are too many elements."""
    names = shared(trial.original.graph, trial.folded.graph)
    true = truth(trial, case, values, names)
    narrow = {name for name, value in true.items() if is_narrow(value)}
    names = [name for name in names if name not in narrow]
    counts = {name: np.size(value) for name, value in true.items()}
    trial.steps = steps(trial.original.graph, trial.folded.graph, narrow) if true else []
    needed = {*trial.edits, *trial.outputs, *_behind_outputs(trial), *_entering(trial), *_moved_on(trial)}
    needed |= {*trial.steps, *_entering_steps(trial)}
    others = [n for n in names if n not in needed]
    every = max(1, -(-sum(ALONE + counts.get(n, 0) for n in others) // ELEMENTS[trial.effort]))
    chosen = needed | set(others[::every])
    trial.names = [n for n in names if n in chosen]
    trial.elements = sum(counts.values())
    if every > 1:
        trial.notes.append(f"of {len(others)} tensors between the sites one in {every} was compared, to save time")


def _entering(trial: Trial) -> set[str]:
    """What the edited nodes read: where a fold site can be cut out of its network."""
    nodes = produced(trial.folded.graph)
    return {name for site in trial.edits if site in nodes for name in nodes[site].input}


def _entering_steps(trial: Trial) -> set[str]:
    """What steps read: a step that the fold left alone is compared by it."""
    nodes = produced(trial.folded.graph)
    return {name for step in trial.steps for name in nodes[step].input}


def _moved_on(trial: Trial) -> set[str]:
    """What operators that compute nothing make of edited tensors: which part of them is right shows only there."""
    found = set(trial.edits)
    for node in trial.folded.graph.node:
        if node.op_type in MOVES and not found.isdisjoint(node.input):
            found.update(node.output)
    return found


def _behind_outputs(trial: Trial) -> set[str]:
    """What the makers of the outputs read: it stands for outputs that are not tensors, the dictionaries of ZipMap."""
    nodes = produced(trial.original.graph)
    return {name for output in trial.outputs if output in nodes for name in nodes[output].input}


def session(
    trial: Trial, model: onnx.ModelProto | str | bytes | Skeleton, level: str, chain: Chain, profile: str = ""
) -> Any:
    """A session on `chain`, to be asked where it placed the nodes and, with `profile`, where they ran."""
    options = sessions.options(
        level,
        deterministic=trial.way.careful,
        threads=threads(),
        entries={**ENTRIES, **(EXACT if level == "off" else {}), **trial.entries},
        profile=profile,
    )
    held = trial.files.get(id(model), model)
    held = for_onnxruntime(held, trial.folder) if isinstance(held, onnx.ModelProto) else held
    return sessions.session(held, options, chain)


def truth(
    trial: Trial, case: Case, values: Mapping[str, Array], names: Sequence[str], steer: Steer | None = None
) -> dict[str, Any]:
    """What the oracle says. An oracle that fails is given up, in words; what may be asked again is remembered."""
    if trial.oracle is None:
        return {}
    if steer is None and case in trial.truths and all(name in trial.truths[case] for name in names):
        answer = trial.truths[case]
    else:
        stage("the float64 evaluation of the original")
        try:
            answer = trial.oracle.evaluate(values, {*names, *trial.outputs}, steer)
        except CannotEvaluate as why:
            where = trial.notes if isinstance(why, NeedsMemory) else trial.blocked
            where.append(f"the float64 oracle cannot evaluate {why}")
            trial.oracle = None
            return {}
    if steer is not None:
        return answer
    kept = {*trial.outputs, *(trial.names if trial.keeps else ())} if trial.names else answer
    trial.truths[case] = {name: answer[name] for name in kept if name in answer}
    return answer
