"""Which guards does no test miss? `python -m tests.delete_guards [--jobs 2] [FILE...]`

Deletes the guards of bnfold/folding/rules/ and bnfold/folding/branches.py one at a time, on a copy of the project, and runs the tests of
the algebra on each copy until one fails. Prints every guard whose deletion goes unnoticed; exits with 1 if there is one.

A guard is a statement that computes nothing for what follows: a call whose value nobody takes, a raise, an `if` that
only leaves. Of `require(a and b)` each part is a guard of its own. A first run on the untouched copy notes which tests
fail anyway, and which call the function of each guard: no other could miss it.
"""

from __future__ import annotations

import argparse
import ast
import json
import os
import re
import shutil
import signal
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from types import CodeType, FrameType
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
TESTS = [
    f"test_{name}.py"
    for name in (
        "refusals",
        "branches",
        "traps*",
        "laws",
        "crossings",
        "plan",
        "bodies",
        "windows",
        "quantized*",
        "repeats",
    )
]
SECONDS = 600
NOTICED, UNNOTICED, NOTHING_TO_RUN = (1, 2, 124), 0, 5  # exit codes of pytest, and of a run out of time


@dataclass(frozen=True)
class Guard:
    """A piece of source that can be taken out, and what stands in its place then."""

    file: str
    function: str
    line: int
    start: int
    end: int
    instead: str
    words: str

    def __str__(self) -> str:
        return f"{self.file}:{self.line} {self.function}: {self.words}"

    def out_of(self, source: bytes) -> bytes:
        return source[: self.start] + self.instead.encode() + source[self.end :]


def guards(project: Path, file: str) -> Iterator[Guard]:
    """Every guard in the functions of a file."""
    source = (project / file).read_bytes()
    functions = [n for n in ast.walk(ast.parse(source)) if isinstance(n, ast.FunctionDef)]
    found = {(start, end): (f, instead, node) for f in functions for start, end, instead, node in removable(f)}
    for (start, end), (function, instead, node) in found.items():  # of nested functions, the inner one
        words = re.sub(r"\s+", " ", ast.unparse(node))
        at, to = offset(source, *start), offset(source, *end)
        yield Guard(file, function.name, node.lineno, at, to, instead, words)


Piece = tuple[tuple[int, int], tuple[int, int], str, ast.AST]


def removable(function: ast.FunctionDef) -> Iterator[Piece]:
    """(start, end, replacement, node) of each guard of a function and of each part of its conditions."""
    for statement in ast.walk(function):
        if is_guard(statement):
            yield *extent(statement), "pass", statement
            yield from parts(statement)


def extent(node: Any) -> tuple[tuple[int, int], tuple[int, int]]:
    return (node.lineno, node.col_offset), (node.end_lineno, node.end_col_offset)


def is_guard(statement: ast.AST) -> bool:
    if isinstance(statement, ast.Expr):
        return isinstance(statement.value, ast.Call) and isinstance(statement.value.func, ast.Name)
    if isinstance(statement, ast.If):
        return not statement.orelse and len(statement.body) == 1 and is_way_out(statement.body[0])
    return isinstance(statement, ast.Raise)


def is_way_out(statement: ast.stmt) -> bool:
    """A statement that leaves with nothing: raise, continue, `return`, `return None`."""
    if isinstance(statement, ast.Return):
        return statement.value is None or isinstance(statement.value, ast.Constant)
    return isinstance(statement, ast.Raise | ast.Continue)


def parts(statement: ast.AST) -> Iterator[Piece]:
    """What is joined by `and` in a requirement, or by `or` in an `if`."""
    test = statement.test if isinstance(statement, ast.If) else None
    if isinstance(statement, ast.Expr) and getattr(statement.value, "args", None):
        test = statement.value.args[0]
    joint, neutral = (ast.Or, "False") if isinstance(statement, ast.If) else (ast.And, "True")
    if isinstance(test, ast.BoolOp) and isinstance(test.op, joint):
        yield from ((*extent(part), neutral, part) for part in test.values)


def offset(source: bytes, line: int, column: int) -> int:
    """Where a position of the syntax tree, which counts bytes, lies in the source."""
    return sum(len(text) for text in source.splitlines(keepends=True)[: line - 1]) + column


def copied(project: Path, folder: Path) -> Path:
    """A copy of what the tests need."""
    for part in ("bnfold", "tests"):
        shutil.copytree(project / part, folder / part, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(project / "pyproject.toml", folder)
    return folder


@dataclass
class Baseline:
    """A pytest plugin for the untouched copy: what fails, how long each test takes and which functions it calls."""

    red: list[str] = field(default_factory=list)
    seconds: dict[str, float] = field(default_factory=dict)
    calls: dict[str, list[str]] = field(default_factory=dict)

    def pytest_runtest_logreport(self, report: Any) -> None:
        self.seconds[report.nodeid] = self.seconds.get(report.nodeid, 0.0) + report.duration
        self.red += [report.nodeid] if report.failed else []

    def pytest_collectreport(self, report: Any) -> None:
        self.red += [report.nodeid] if report.failed else []

    def pytest_runtest_setup(self, item: Any) -> None:
        seen: set[CodeType] = set()
        called = self.calls.setdefault(item.nodeid, [])

        def note(frame: FrameType, event: str, arg: object) -> None:
            code = frame.f_code
            if code not in seen:
                seen.add(code)
                called.append(f"{os.path.basename(code.co_filename)} {code.co_name}")

        sys.settrace(note)

    def pytest_sessionfinish(self) -> None:
        sys.settrace(None)
        Path("baseline.json").write_text(json.dumps(vars(self)))


@dataclass
class Chosen:
    """A pytest plugin: of the tests that pass otherwise, those that call a function, the fastest first."""

    baseline: Baseline
    guard: Guard

    def pytest_collection_modifyitems(self, items: list[Any]) -> None:
        key = f"{Path(self.guard.file).name} {self.guard.function}"
        wanted = {name for name, called in self.baseline.calls.items() if key in called} - {*self.baseline.red}
        items[:] = sorted((i for i in items if i.nodeid in wanted), key=lambda i: self.baseline.seconds[i.nodeid])


def run(folder: Path, plugin: object) -> int:
    """pytest's exit code on a copy, or 124 after SECONDS; in a fork of this process."""
    child = forked(lambda: tested(folder, plugin))
    deadline = time.monotonic() + SECONDS
    while time.monotonic() < deadline:
        done, status = os.waitpid(child, os.WNOHANG)
        if done:
            return os.waitstatus_to_exitcode(status)
        time.sleep(0.02)
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    return 124


def forked(job: Callable[[], int]) -> int:
    """Run a job in a fork, which exits with what it returns; the id of that process."""
    child = os.fork()
    if child:
        return child
    code = 70
    try:
        code = job()
    except Exception:
        traceback.print_exc()
    os._exit(code)


def tested(folder: Path, plugin: object) -> int:
    """Run pytest with the same drawn values every time; a failing example is not shrunk."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
    os.chdir(folder)
    sys.path[:] = [str(folder), *(p for p in sys.path if Path(p or ".").resolve() != ROOT)]
    sys.dont_write_bytecode = True
    for name in [n for n in sys.modules if n.split(".")[0] in ("bnfold", "tests")]:
        del sys.modules[name]
    import pytest
    from hypothesis import Phase, settings

    phases = [Phase.explicit, Phase.generate]
    settings.register_profile("guards", derandomize=True, database=None, deadline=None, phases=phases)
    settings.load_profile("guards")
    options = ["-q", "-p", "no:cacheprovider", "--tb=no", "--assert=plain", *(["-x"] if type(plugin) is Chosen else [])]
    paths = [str(path) for pattern in TESTS for path in sorted(Path("tests").glob(pattern))]
    code = int(pytest.main([*options, *paths], plugins=[plugin]))
    assert Path(sys.modules["bnfold"].__file__ or "").is_relative_to(folder)
    return code


def is_noticed(folder: Path, baseline: Baseline, guard: Guard) -> bool:
    """Whether a test fails, or runs out of time, without the guard."""
    path = folder / guard.file
    whole = path.read_bytes()
    path.write_bytes(guard.out_of(whole))
    code = run(folder, Chosen(baseline, guard))
    path.write_bytes(whole)
    assert code in (*NOTICED, UNNOTICED, NOTHING_TO_RUN), f"pytest exits with {code} without {guard}"
    return code in NOTICED


def worker(project: Path, baseline: Baseline, share: list[Guard], pipe: int) -> int:
    """Report one line for each guard: whether its deletion is noticed."""
    with tempfile.TemporaryDirectory() as folder, os.fdopen(pipe, "w") as out:
        copy = copied(project, Path(folder).resolve())
        for guard in share:
            print("+" if is_noticed(copy, baseline, guard) else "-", guard, file=out, flush=True)
    return 0


def report(project: Path, found: list[Guard], jobs: int) -> int:
    """Try every guard and print what no test misses, as it is found; 1 if there is any."""
    began = time.monotonic()
    assert run(project, Baseline()) in (0, 1), "the tests do not run on the untouched copy"
    baseline = Baseline(**json.loads((project / "baseline.json").read_text()))
    for name in baseline.red:
        print(f"left out, since it fails anyway: {name}", flush=True)
    tried, missed = 0, 0
    for mark, words in outcomes(project, baseline, found, jobs):
        tried += 1
        missed += mark == "-"
        if mark == "-":
            print(f"not missed: {words}", flush=True)
    assert tried == len(found), f"a worker stopped early: {tried} of {len(found)} guards were tried"
    print(f"{len(found)} guards, {missed} can be deleted unnoticed ({time.monotonic() - began:.0f} s)")
    return missed > 0


def outcomes(project: Path, baseline: Baseline, found: list[Guard], jobs: int) -> Iterator[tuple[str, str]]:
    """What the workers report, each on its share of the guards."""
    source, sink = os.pipe()
    for i in range(jobs):
        forked(lambda i=i: worker(project, baseline, found[i::jobs], sink))  # type: ignore[misc]
    os.close(sink)
    with os.fdopen(source) as lines:
        for line in lines:
            mark, _, words = line.rstrip("\n").partition(" ")
            yield mark, words


def default_files() -> list[str]:
    found = [*sorted((ROOT / "bnfold" / "folding" / "rules").glob("*.py")), ROOT / "bnfold" / "folding" / "branches.py"]
    return [str(p.relative_to(ROOT)) for p in found]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("files", nargs="*", metavar="FILE", help="relative to the project; all by default")
    parser.add_argument("--jobs", type=int, default=1)
    parser.add_argument(
        "--match", default="", metavar="REGEX", help="only the guards in whose line of the list it occurs"
    )
    parser.add_argument("--list", action="store_true", help="only list the guards")
    options = parser.parse_args()
    import onnx.reference  # noqa: F401  imported once here, and in every fork of this process
    import onnx_graphsurgeon  # noqa: F401

    with tempfile.TemporaryDirectory() as folder:  # the project as it is now, whoever edits it meanwhile
        project = copied(ROOT, Path(folder).resolve())
        found = [g for file in options.files or default_files() for g in guards(project, file)]
        found = [g for g in found if re.search(options.match, str(g))]
        if options.list:
            print(*found, sep="\n")
            return 0
        return report(project, found, options.jobs)


if __name__ == "__main__":
    with suppress(KeyboardInterrupt):
        sys.exit(main())
