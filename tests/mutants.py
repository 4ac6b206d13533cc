"""Which changes of the code does no test notice? `python -m tests.mutants [--sample N] [--match REGEX] [FILE...]`

Makes small faults in bnfold/folding/rules/, in affine_nodes.py, branches.py and plan.py of bnfold/folding/, and in
bnfold/model/onnx_io.py, one at a time, and runs the tests that reach the changed lines, the fastest first, until one
fails. Prints each fault that goes unnoticed, then a table: mutants, killed, survived, equivalent and
score = killed / (mutants - equivalent) of each file. Exits with 1 below 90 %.

A fault is another comparison, and for or, another operator of arithmetic, a number plus one, an empty text, a flipped
truth value, a negated condition, a statement or `return` value taken out, break for continue, any for all, max for min,
two arguments swapped, a keyword argument dropped. What only a type checker reads stays as it is. Faults listed in
tests/equivalent_mutants.txt, each with the reason why no test can notice it, are not run.

Everything is imported once. Each fault is planted in a fork of that process: the changed module is executed in the
place of the old one, and whoever imported a name from it gets the new one. A first run, with every module so replaced
by itself, notes which tests fail anyway, how long each takes and which lines it reaches. Tests that reach the lines of
a fault only in another process are not counted on. With `--sample N`, every Nth fault of each file is tried. `--notes
FILE` keeps what the first run notes, so that the next one runs only tests that are new.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import resource
import signal
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import coverage

from tests.delete_guards import ROOT, forked
from tests.faults import Fault, faults, source_of

FILES = [
    *sorted(ROOT.glob("bnfold/folding/rules/*.py")),
    *(ROOT / "bnfold" / "folding" / f"{name}.py" for name in ("affine_nodes", "branches", "plan")),
    ROOT / "bnfold" / "model" / "onnx_io.py",
]
OF_THE_ALGEBRA = "refusals branches traps* laws crossings affine_nodes algebra dtypes scenarios exact plan bodies windows quantized* repeats"
OF_FILES = "onnx_io scopes lossless wire scale untouched"
EQUIVALENT = ROOT / "tests" / "equivalent_mutants.txt"
LEAST = 0.9  # of the faults that are not equivalent
SECONDS, MEMORY = 600, 12 << 30  # of one fork
KILLED, SURVIVED = 1, 0


def files_of_tests(match: str = "") -> list[str]:
    names = [f"test_{name}.py" for name in f"{OF_THE_ALGEBRA} {OF_FILES}".split()] + ["attacks/test_*.py"]
    found = [str(path) for name in names for path in sorted((ROOT / "tests").glob(name))]
    return [path for path in found if re.search(match, path)]


def modules(*packages: str) -> list[Any]:
    return [m for name, m in [*sys.modules.items()] if name.split(".")[0] in packages]


def plant(file: str, source: bytes) -> None:
    """Let everything loaded be as if a file had this source; of a package, its modules are executed again, too."""
    name = file.removesuffix(".py").removesuffix("/__init__").replace("/", ".")
    execute(name, source)
    if file.endswith("/__init__.py"):
        for inner in [n for n in sys.modules if n.startswith(f"{name}.")]:
            execute(inner, Path(sys.modules[inner].__file__ or "").read_bytes())


def execute(name: str, source: bytes) -> None:
    module = sys.modules[name]
    forget_rules(name)
    before = dict(vars(module))
    exec(compile(source, module.__file__ or "", "exec"), vars(module))
    for other in modules("bnfold", "tests"):
        for key, old in before.items():
            if not key.startswith("__") and vars(other).get(key) is old:
                setattr(other, key, vars(module)[key])


def forget_rules(name: str) -> None:
    rules = sys.modules["bnfold.folding.rules"]
    for table in (rules.HOIST, rules.SINK):
        for operator in [o for o, rule in table.items() if rule.__module__ == name]:
            del table[operator]


@dataclass(eq=False)  # pytest takes plugins that have a hash
class Notes:
    """A pytest plugin for the first run: which tests fail, how long each takes, and which lines it reaches."""

    red: list[str] = field(default_factory=list)
    seconds: dict[str, float] = field(default_factory=dict)
    lines: dict[str, list[str]] = field(default_factory=dict)  # "file:line" -> tests

    def pytest_runtest_logreport(self, report: Any) -> None:
        self.seconds[report.nodeid] = self.seconds.get(report.nodeid, 0.0) + report.duration
        self.red += [report.nodeid] if report.failed else []

    def pytest_runtest_setup(self, item: Any) -> None:
        self.tracer.switch_context(item.nodeid)

    def trace(self, job: Callable[[], None]) -> None:
        """Run a job, and note which lines each test reaches in it."""
        self.tracer = coverage.Coverage(data_file=None, config_file=False, include=[str(path) for path in FILES])
        with self.tracer.collect():
            job()
        for path in FILES:
            for line, tests in self.tracer.get_data().contexts_by_lineno(str(path)).items():
                self.lines.setdefault(f"{path.relative_to(ROOT)}:{line}", []).extend(filter(None, tests))

    def write(self, into: Path) -> None:
        into.write_text(json.dumps({"red": self.red, "seconds": self.seconds, "lines": self.lines}))


class Impatient:
    """A pytest plugin that ends the process at the first failure, and a test that takes much longer than it did."""

    def __init__(self, seconds: dict[str, float]) -> None:
        self.seconds = seconds

    def pytest_runtest_setup(self, item: Any) -> None:
        signal.setitimer(signal.ITIMER_VIRTUAL, 10 * self.seconds[item.nodeid] + 10)

    def pytest_runtest_logreport(self, report: Any) -> None:
        if report.failed:
            os._exit(KILLED)


@dataclass(eq=False)
class Hunt:
    """A pytest plugin that tries the faults on the tests that pytest has collected."""

    tried: list[Fault]
    patience: float
    path: Path
    say: Callable[[str], None]
    notes: Notes = field(default_factory=Notes)
    survivors: list[Fault] = field(default_factory=list)

    def pytest_runtestloop(self, session: Any) -> bool:
        began = time.monotonic()
        self.notes = self.noted(session)
        red = {*self.notes.red}
        self.say(
            f"{len(session.items)} tests noted in {time.monotonic() - began:.0f} s; left out, since they fail anyway: {sorted(red)}"
        )
        items = sorted((i for i in session.items if i.nodeid not in red), key=lambda i: self.notes.seconds[i.nodeid])
        for number, fault in enumerate(self.tried, 1):
            if ended(forked(lambda fault=fault: self.attempt(fault, items))) == SURVIVED:  # type: ignore[misc]
                self.survivors.append(fault)
                self.say(f"not noticed ({number} of {len(self.tried)}, {time.monotonic() - began:.0f} s): {fault}")
        return True

    def noted(self, session: Any) -> Notes:
        """Run every test with each module replaced by itself, in a fork, and note what happens; once."""
        known = Notes(**json.loads(self.path.read_text())) if self.path.exists() else Notes()
        new = [item for item in session.items if item.nodeid not in known.seconds]
        assert not new or ended(forked(lambda: noting(known, new, self.path)), 7200) == 0, "the tests do not run"
        return Notes(**json.loads(self.path.read_text()))

    def attempt(self, fault: Fault, items: list[Any]) -> int:
        """Whether a test notices a fault; that it cannot even be planted, any test would."""
        reached = {test for place, tests in self.notes.lines.items() if fault.is_reached(place) for test in tests}
        in_reach = [item for item in items if item.nodeid in reached and fault.function]
        chosen = self.affordable(in_reach or items)  # what runs at import, any test may notice
        resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
        try:
            plant(fault.file, fault.out_of(source_of(ROOT / fault.file)))
        except Exception:
            return KILLED
        if chosen:
            chosen[0].config.pluginmanager.register(Impatient(self.notes.seconds))
            run_all(chosen)
        return SURVIVED

    def affordable(self, items: list[Any]) -> list[Any]:
        """As many tests, the fastest first, as take no longer than the patience."""
        spent, chosen = 0.0, []
        for item in items:
            spent += self.notes.seconds[item.nodeid]
            chosen += [item] if spent <= self.patience else []
        return chosen


def noting(notes: Notes, items: list[Any], into: Path) -> int:
    for path in FILES:
        plant(str(path.relative_to(ROOT)), source_of(path))
    items[0].config.pluginmanager.register(notes)
    notes.trace(lambda: run_all(items))
    notes.write(into)
    return 0


def run_all(items: list[Any]) -> None:
    for item, following in zip(items, [*items[1:], None], strict=True):
        item.config.hook.pytest_runtest_protocol(item=item, nextitem=following)


def ended(child: int, seconds: float = SECONDS) -> int:
    """What a fork exits with; if it ends otherwise, or does not end in time, KILLED."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        done, status = os.waitpid(child, os.WNOHANG)
        if done:
            return os.waitstatus_to_exitcode(status) and KILLED
        time.sleep(0.005)
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    return KILLED


def equivalent() -> dict[str, str]:
    """Why no test can notice a fault, by its name."""
    lines = [line for line in EQUIVALENT.read_text().splitlines() if line and not line.startswith("#")]
    pairs = [line.rpartition(" | ") for line in lines]
    assert all(name and why for name, _, why in pairs), "each line is FAULT | WHY"
    return {name: why for name, _, why in pairs}


def hunt(tests: list[str], tried: list[Fault], patience: float, notes: Path, say: Callable[[str], None]) -> list[Fault]:
    """The faults that go unnoticed by the tests in some files."""
    import pytest
    from hypothesis import Phase, settings

    phases = [Phase.explicit, Phase.generate]
    settings.register_profile("mutants", derandomize=True, database=None, deadline=None, phases=phases)
    settings.load_profile("mutants")
    plugin = Hunt(tried, patience, notes, say)
    pytest.main(["-q", "-p", "no:cacheprovider", "--tb=no", "--assert=plain", *tests], plugins=[plugin])
    assert plugin.notes.seconds, "the tests were not collected"
    return plugin.survivors


def table(tried: list[Fault], survivors: list[Fault], spared: list[Fault]) -> Iterator[str]:
    """One line per file, and the sum."""
    rows = {f.file: f.file for f in [*tried, *spared]}
    yield f"{'file':32} mutants  killed  survived  equivalent   score"
    for file in [*rows, ""]:
        mine, left, same = (Counter(f.file.startswith(file) for f in part)[True] for part in (tried, survivors, spared))
        score = f"{(mine - left) / mine:8.1%}" if mine else "       -"
        yield f"{file or 'all':32} {mine + same:7} {mine - left:7} {left:9} {same:11}{score}"


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("files", nargs="*", metavar="FILE", help="relative to the project; all by default")
    parser.add_argument("--sample", type=int, default=1, metavar="N", help="every Nth fault of each file")
    parser.add_argument("--first", type=int, default=0, metavar="K", help="of them, starting with the Kth")
    parser.add_argument("--match", default="", metavar="REGEX", help="only the faults in whose name it occurs")
    parser.add_argument("--tests", default="", metavar="REGEX", help="only by tests in whose file's name it occurs")
    parser.add_argument("--patience", type=float, default=60, metavar="SECONDS", help="of tests for one fault")
    parser.add_argument("--notes", type=Path, metavar="FILE", help="of the first run; made if it is not there")
    parser.add_argument("--list", action="store_true", help="only list the faults")
    return parser.parse_args()


def main() -> int:
    options = arguments()
    files = options.files or [str(path.relative_to(ROOT)) for path in FILES]
    every = [fault for file in files for fault in faults(ROOT, file)]
    known = equivalent()
    gone = {*known} - {f.name for f in every} if not options.files else set()
    assert not gone, f"{EQUIVALENT.name} lists what does not exist: {sorted(gone)}"
    found = [f for file in files for f in [*(f for f in every if f.file == file)][options.first :: options.sample]]
    found = [f for f in found if re.search(options.match, str(f))]
    if options.list:
        print(*found, sep="\n")
        return 0
    tried, spared = ([f for f in found if (f.name in known) == same] for same in (False, True))
    out = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)  # pytest has nothing to say
    with tempfile.TemporaryDirectory() as folder:
        notes = (options.notes or Path(folder) / "notes.json").resolve()
        tests = files_of_tests(options.tests)
        survivors = hunt(tests, tried, options.patience, notes, lambda words: print(words, file=out))
    print(*table(tried, survivors, spared), sep="\n", file=out)
    return len(tried) - len(survivors) < LEAST * len(tried)


if __name__ == "__main__":
    with suppress(KeyboardInterrupt):
        sys.exit(main())
