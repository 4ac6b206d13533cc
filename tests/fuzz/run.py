"""The long run: `python -m tests.fuzz.run --seconds 1200 --engine atheris` (or `hypothesis`).

Prints what was run and how it ended, and the lines of bnfold that were reached. What is found goes to --found, one file
for each kind of finding, the smallest that was seen; then the exit status is 1. `--engine replay` runs a corpus again.
"""

from __future__ import annotations

import argparse
import io
import logging
import os
import subprocess
import sys
import time
import traceback
import warnings
from collections import Counter
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
ROOMS = ["algebra/affine.py", "folding/affine_nodes.py", "folding/branches.py", "folding/cleanup.py", "folding/driver.py", "folding/pipeline.py",
    "folding/plan.py", "folding/rules/*.py", "graph/constants.py", "graph/editor.py", "graph/links.py", "graph/queries.py", "graph/scopes.py",
    "graph/view.py", "model/external.py", "model/inlining.py", "model/messages.py", "model/onnx_io.py", "model/deferred.py", "model/storage.py",
    "model/tensors.py", "model/validity.py", "model/wire.py", "process/native.py"]  # fmt: skip
GRACE = 120  # seconds that a fuzzer may take longer than asked before libFuzzer stops it


class Tally:
    """What was run, how it ended, and the smallest input of each kind of finding."""

    def __init__(self, found: Path, seconds: float = float("inf")) -> None:
        self.found, self.started, self.seconds = found, time.monotonic(), seconds
        self.inputs = 0
        self.ended: Counter[str] = Counter()
        self.findings: dict[str, bytes] = {}

    @property
    def is_over(self) -> bool:
        return time.monotonic() - self.started > self.seconds

    def all_of(self, data: bytes) -> None:
        """All that is required of one input; what takes long now and then."""
        self.inputs += 1
        self.one("wire_format", data)
        self.one("folding", data)
        if self.inputs % 8 == 0:
            self.one("meaning", data)
        if self.inputs % 997 == 0:
            self.one("verification", data)
        if self.inputs % 1000 == 0:
            print(self, flush=True)

    def one(self, name: str, data: bytes) -> None:
        from tests.fuzz.targets import TARGETS, Finding, run

        try:
            self.ended[f"{name}: {run(TARGETS[name], data)}"] += 1
        except Finding as finding:
            self.ended[f"{name}: FOUND"] += 1
            self._keep(f"{name}: {kind_of(finding)}", data)

    def _keep(self, kind: str, data: bytes) -> None:
        if kind in self.findings and len(self.findings[kind]) <= len(data):
            return
        if kind not in self.findings:
            print(f"found after {self.inputs} inputs: {kind}", flush=True)
        self.findings[kind] = data
        self.found.mkdir(parents=True, exist_ok=True)
        (self.found / f"{list(self.findings).index(kind):03}.onnx").write_bytes(data)

    def __str__(self) -> str:
        lines = [f"{count:8}  {name}" for name, count in sorted(self.ended.items())]
        seconds, executions = time.monotonic() - self.started, self.ended.total()
        total = (
            f"{self.inputs} inputs, {executions} executions in {seconds:.0f} s; {len(self.findings)} kinds of findings"
        )
        return "\n".join([*lines, total])


def kind_of(finding: AssertionError) -> str:
    """The place in bnfold where an exception came from; what is wrong, where it was none."""
    cause = finding.__cause__
    if cause is None or hasattr(cause, "hint"):
        return str(finding)[:60]
    frames = traceback.extract_tb(cause.__traceback__)
    own = [f for f in frames if f.filename.startswith(str(ROOT / "bnfold"))] or frames
    return f"{type(cause).__name__} at {Path(own[-1].filename).name}:{own[-1].lineno}"


def quiet() -> None:
    """onnx and onnx-graphsurgeon have much to say about such models."""
    from onnx_graphsurgeon.logger import G_LOGGER

    warnings.simplefilter("ignore")
    logging.disable()
    G_LOGGER.severity = 2 * G_LOGGER.CRITICAL


def with_hypothesis(tally: Tally, seed: int) -> None:
    """Random networks and the corpus, changed as hypothesis draws it, until the time is up."""
    from tests.fuzz.drawn import exhaust

    def go(data: bytes) -> bool:
        tally.all_of(data)
        return not tally.is_over

    quiet()
    exhaust(go, seed)


def with_atheris(tally: Tally, seed: int, corpus: Path) -> None:
    """libFuzzer, led by the branches of bnfold that an input takes; changes of ours among its own. Ends the process."""
    import atheris

    with atheris.instrument_imports(include=["bnfold"]):
        import bnfold.folding.pipeline
        import bnfold.folding.rules  # noqa: F401
        from tests.fuzz import targets  # noqa: F401
    from tests.fuzz.drawn import changed

    def one(data: bytes) -> None:
        tally.all_of(data)
        if tally.is_over:
            print(tally, flush=True)
            os._exit(bool(tally.findings))

    def mutator(data: bytes, most: int, seed: int) -> bytes:
        return changed(data, seed, atheris.Mutate, most)[:most]

    quiet()
    sown(corpus)
    limits = [f"-max_total_time={int(tally.seconds) + GRACE}", "-max_len=60000", "-timeout=60", "-rss_limit_mb=4096"]
    signals = [f"-handle_{name}=0" for name in ("segv", "bus", "abrt", "ill", "fpe")]  # forks may die
    atheris.Setup([sys.argv[0], *limits, *signals, f"-seed={seed}", str(corpus)], one, custom_mutator=mutator)
    atheris.Fuzz()


def sown(corpus: Path) -> None:
    from tests.fuzz.seeds import corpus as seeds

    corpus.mkdir(parents=True, exist_ok=True)
    for number, data in enumerate(seeds()):
        (corpus / f"seed{number:04}").write_bytes(data)


def replay(tally: Tally, corpus: Path) -> None:
    quiet()
    for path in sorted(corpus.iterdir()):
        for name in ("wire_format", "folding"):
            tally.one(name, path.read_bytes())


def apart(seconds: float, asked: argparse.Namespace) -> int:
    """Atheris in a process of its own, which it does not return from; its exit status."""
    options = ["--seconds", seconds, "--seed", asked.seed, "--found", asked.found, "--corpus", asked.corpus]
    command = [sys.executable, "-W", "ignore", "-m", "tests.fuzz.run", "--engine", "atheris", "--here", *options]
    return subprocess.run(list(map(str, command)), cwd=ROOT, stderr=subprocess.DEVNULL).returncode


def lines_of(measured: Any) -> str:
    told = io.StringIO()
    measured.report(file=told, include=[str(ROOT / "bnfold" / room) for room in ROOMS], show_missing=True)
    return told.getvalue()


def options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seconds", type=float, default=1200)
    parser.add_argument("--engine", choices=("atheris", "hypothesis", "replay"), default="hypothesis")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--found", type=Path, default=Path("fuzz-found"), help="where findings are kept")
    parser.add_argument("--corpus", type=Path, default=Path("fuzz-corpus"), help="where atheris keeps what is new")
    parser.add_argument("--here", action="store_true", help=argparse.SUPPRESS)
    return parser.parse_args()


def main() -> int:
    import coverage

    asked = options()
    tally = Tally(asked.found, asked.seconds)
    if asked.here:
        with_atheris(tally, asked.seed, asked.corpus)
    failed = asked.engine == "atheris" and apart(asked.seconds, asked)
    measured = coverage.Coverage(source=["bnfold"], data_file=None)
    with measured.collect():
        if asked.engine == "hypothesis":
            with_hypothesis(tally, asked.seed)
        else:
            replay(tally, asked.corpus)
    print(tally, lines_of(measured), sep="\n")
    return int(bool(failed or tally.findings))


if __name__ == "__main__":
    sys.exit(main())
