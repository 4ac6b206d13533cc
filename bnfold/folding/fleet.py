"""Many models at once: which files, where each goes, and what came of all of them together."""

from __future__ import annotations

import os
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, replace
from itertools import count
from pathlib import Path
from typing import Any

from ..display.junit import JUnitCase
from ..errors import EnvironmentProblem, UsageProblem
from ..system.limits import current
from ..system.processors import threads
from ..system.progress import report
from . import engines
from .pipeline import DEFAULT_OPTIONS, Options, default_target, require_same_folder

SCHEMA = "bnfold.fleet/1"
WORST = (70, 1, 5, 4, 3, 2, 0)  # exit codes of models, the worst first


@dataclass(frozen=True)
class Task:
    """One model of a fleet: what `fold_file` needs to know."""

    source: Path
    target: Path
    options: Options = DEFAULT_OPTIONS
    strict: bool = False
    threads: int = 1

    def request(self) -> dict[str, Any]:
        """Plain data for `worker.fold_apart`, wherever that runs."""
        paths = {"folder": os.getcwd(), "source": str(self.source), "target": str(self.target)}
        return {**paths, "options": asdict(self.options), "strict": self.strict, "threads": self.threads} | {
            "limits": asdict(current())
        }


@dataclass(frozen=True)
class Outcome:
    """What came of one model; the fields after `target` are the answer of `worker.fold_apart`."""

    source: Path
    target: Path
    exit_code: int
    error: str
    hint: str
    report: dict[str, Any] | None
    checks: list[dict[str, str]]
    seconds: float

    @property
    def verdict(self) -> str:
        """The error, or the verdict of the verification, or why there is none."""
        if self.error or not self.report:
            return self.error
        verification, counted = self.report["verification"], self.report["before"]["batch_normalizations"]
        copied = ("unchanged" if counted else "already folded") if self.report["unchanged"] else "NOT VERIFIED"
        graded = [verification["verdict"], verification["grade"]] if verification else [copied]
        verdict = ", ".join(filter(None, graded))
        return verdict if self.report["written"] else f"{verdict}, not written"

    @property
    def words(self) -> str:
        """The verdict, with the name of the model if that is not in it."""
        return self.verdict if str(self.source) in self.verdict else f"{self.source}: {self.verdict}"

    def row(self) -> tuple[object, ...]:
        """Model, BatchNormalization before and after, nodes before and after, verdict or error."""
        sizes = [self.report[when] for when in ("before", "after")] if self.report else []
        counts = [size[kind] for kind in ("batch_normalizations", "nodes") for size in sizes] or [""] * 4
        return (self.source, *counts, self.verdict.removeprefix(f"{self.source} "))

    def to_json(self) -> dict[str, Any]:
        """Plain data."""
        names = ("exit_code", "error", "hint", "seconds", "report")
        return {"source": str(self.source), "target": str(self.target)} | {name: getattr(self, name) for name in names}


@dataclass(frozen=True)
class Fleet:
    """What came of all models, in the order in which they were given."""

    outcomes: tuple[Outcome, ...]
    engine: str
    jobs: int
    seconds: float

    COLUMNS = ("model", "BN before", "BN after", "nodes before", "nodes after", "verdict")

    @property
    def exit_code(self) -> int:
        """The worst of all models, by `WORST`."""
        return min((each.exit_code for each in self.outcomes), key=WORST.index)

    def rows(self) -> list[tuple[object, ...]]:
        """One row for each model."""
        return [each.row() for each in self.outcomes]

    def checks(self) -> list[JUnitCase]:
        """What a pipeline wants to see of every model, with its name."""
        checks = [(each.source, JUnitCase(**check)) for each in self.outcomes for check in each.checks]
        return [replace(check, name=f"{source}: {check.name}") for source, check in checks]

    def summary(self) -> str:
        """How many models came to what, in one line."""
        done = sum(each.exit_code == 0 for each in self.outcomes)
        return f"{done} of {len(self.outcomes)} models without an error, {self.seconds:.1f} s"

    def to_json(self) -> dict[str, Any]:
        """Plain data, schema `bnfold.fleet/1`; the reports in it are of schema `bnfold.fold/1`."""
        how = {"schema": SCHEMA, "engine": self.engine, "jobs": self.jobs, "seconds": self.seconds}
        return {**how, "exit_code": self.exit_code, "models": [each.to_json() for each in self.outcomes]}


def tasks(
    models: Mapping[Path, Path], out_dir: Path, options: Options = DEFAULT_OPTIONS, strict: bool = False
) -> list[Task]:
    """What becomes of models, each with its place below `out_dir`: NAME.folded.onnx of every NAME.onnx.

    Raises UsageProblem where two models would have one place, or one the place of another.
    """
    places = distinct_places({source: default_target(place) for source, place in models.items()})
    tasks = [Task(source, out_dir / place, options, strict) for source, place in places.items()]
    for target, number in Counter(task.target for task in tasks).items():
        if number > 1:
            both = " and ".join(str(task.source) for task in tasks if task.target == target)
            raise UsageProblem(f"{both} would both become {target}", "Rename one of them, or fold them apart.")
    sources = set(map(os.path.abspath, models))
    for task in tasks:
        if os.path.abspath(task.target) in sources:
            raise UsageProblem(
                f"{task.target} is an input itself", "Inputs are never changed: choose another --out-dir."
            )
        if options.keeps_external:
            require_same_folder(task.source, task.target)
    return tasks


def distinct_places(places: Mapping[Path, Path]) -> dict[Path, Path]:
    """The places of models; where several have the same, each keeps its folders below the one that they share."""
    crowds: dict[Path, list[str]] = {}
    for source, place in places.items():
        crowds.setdefault(place, []).append(os.path.abspath(source))
    shared = {
        place: os.path.commonpath(map(os.path.dirname, crowd)) for place, crowd in crowds.items() if len(crowd) > 1
    }

    def placed(source: Path, place: Path) -> Path:
        return Path(os.path.relpath(source.parent, shared[place]), place.name) if place in shared else place

    return {source: placed(source, place) for source, place in places.items()}


def fold_all(
    planned: Sequence[Task],
    *,
    jobs: int | None = None,
    engine: str = "local",
    on_outcome: Callable[[Outcome], None] = lambda outcome: None,
) -> Fleet:
    """Fold every model in a process of its own, `jobs` at a time; `on_outcome` is called with each as it ends.

    By default a model has two processors: `jobs` is half of those that this process may use, or on a cluster as many
    as there is room for. What goes wrong with one model is its own outcome. KeyboardInterrupt, also raised for
    SIGTERM, leaves the models that were done, and nothing else.
    """
    if engine == "local":
        for task in planned:
            task.options.require_means()
    started = time.perf_counter()
    most = jobs or (len(planned) if engine == "ray" else max(1, threads() // 2))
    most = min(most, len(planned))
    requests = [replace(task, threads=max(1, threads() // most)).request() for task in planned]

    def outcome(number: int, answer: dict[str, Any]) -> Outcome:
        return Outcome(planned[number].source, planned[number].target, **answer)

    done = count(1)

    def ended(number: int, answer: dict[str, Any]) -> None:
        on_outcome(outcome(number, answer))
        report("fold", next(done), len(planned))

    with engines.open_engine(engine) as running, making_folders({task.target.parent for task in planned}):
        answers = engines.run_requests(running, requests, most, ended)
    outcomes = tuple(outcome(number, answer) for number, answer in enumerate(answers))
    return Fleet(outcomes, engine, most, time.perf_counter() - started)


@contextmanager
def making_folders(folders: set[Path]) -> Iterator[None]:
    """Make folders that are not there; after the block those that are empty are removed again."""
    ours = {each for folder in folders for each in (folder, *folder.parents) if not os.path.exists(each)}
    try:
        for folder in sorted(ours | folders):
            try:
                folder.mkdir(exist_ok=True)
            except OSError as problem:
                said = f"{folder} cannot be made: {problem.strerror}"
                raise EnvironmentProblem(said, "Choose another --out-dir.") from problem
        yield
    finally:
        for folder in sorted(ours, reverse=True):
            with suppress(OSError):  # something is in it
                folder.rmdir()
