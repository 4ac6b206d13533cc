"""Every case with the onnxruntime and the onnx of this environment: right, wrong, does not load, does not run, or crashes.

python -m tests.benchmarks.upstream [NAMES...] [--json PATH] [--rows]

An environment needs onnxruntime, onnx and numpy. The exit code is 1 where a version does not do what it is known to do.
"""

from __future__ import annotations

import argparse
import json
import signal
import sys
from importlib import import_module
from pathlib import Path

from tests.benchmarks.children import python
from tests.benchmarks.upstream.cases import CASES, Case
from tests.benchmarks.upstream.trial import Result


def result(case: Case) -> Result:
    """Of a process of its own, which may crash."""
    done = python("-m", "tests.benchmarks.upstream.trial", case.name, timeout=300)
    if done.code == 0:
        return Result(*json.loads(done.answer.splitlines()[-1]))
    words = signal.Signals(-done.code).name if done.code < 0 else done.words
    return Result(import_module(case.runtime).__version__, "crashes" if done.code < 0 else "does not run", words)


def judged(case: Case, found: Result) -> str:
    """Whether it is what this version is known to do."""
    expected = case.expected(found.version)
    if found.result == "skipped":
        return "skipped"
    if expected is None:
        return f"this version is new here: enter it in cases.py ({found.result})"
    return "as known" if found.result == expected else f"NOT AS KNOWN: {expected}"


def line(case: Case, found: Result, verdict: str) -> str:
    return f"| {case.name} | {case.runtime} {found.version} | {found.result} | {verdict} | {found.words} |"


def described(case: Case) -> str:
    """The row of README.md."""
    versions = f"{case.runtime} {' to '.join(dict.fromkeys(case.seen))}"
    where = "" if case.provider == "CPUExecutionProvider" else f", {case.provider}"
    level = "" if case.optimized else ", optimization off"
    model = f"[{case.name}](models/{case.name}.onnxtxt)"
    return f"| {model} | {case.symptom} | {versions}{where}{level} | {case.fixed or ''} | {case.why} |"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    names = [case.name for case in CASES]
    parser.add_argument("names", nargs="*", default=names, metavar="NAME", help="of cases; without any: all")
    parser.add_argument("--json", type=Path)
    parser.add_argument("--rows", action="store_true", help="print the rows of README.md, and run nothing")
    options = parser.parse_args()
    if unknown := {*options.names} - {*names}:
        parser.error(f"there is no case {sorted(unknown)[0]}: {', '.join(names)}")
    chosen = [case for case in CASES if case.name in options.names]
    if options.rows:
        print("\n".join(map(described, chosen)))
        return 0
    found = []
    print("| case | version | result | | in words |\n|---|---|---|---|---|")
    for case in chosen:
        answer = result(case)
        found.append({"case": case.name, "runtime": case.runtime, **answer._asdict(), "verdict": judged(case, answer)})
        print(line(case, answer, found[-1]["verdict"]), flush=True)
    if options.json:
        options.json.write_text(json.dumps({"schema": "bnfold.upstream/1", "rows": found}, indent=1) + "\n")
    return int(any(row["verdict"].startswith("NOT") for row in found))


if __name__ == "__main__":
    sys.exit(main())
