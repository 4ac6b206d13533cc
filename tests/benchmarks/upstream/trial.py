"""One case in this process, which may crash: `python -m tests.benchmarks.upstream.trial NAME` prints its result as JSON."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from typing import NamedTuple

import numpy as np
import onnx

from tests.benchmarks.upstream.cases import CASES, Case, Values

SLOW = 3.0  # times what the same computation takes otherwise
RUNS = 10

Run = Callable[[Values], Values]


class Result(NamedTuple):
    """What a runtime does with a case; `version` is of that runtime."""

    version: str
    result: str  # right, wrong, slow, does not load, does not run, crashes, skipped
    words: str = ""


class Skipped(Exception):
    """Why a case cannot run here."""


def tried(case: Case) -> Result:
    """Load, run, compare; where that is right, and there is another way, time both."""
    version, load = RUNTIMES[case.runtime]()
    try:
        run = load(case)
    except Skipped as reason:
        return Result(version, "skipped", str(reason))
    except Exception as problem:  # whatever a runtime raises
        return Result(version, "does not load", first_line(problem))
    values = case.values()
    feeds = {name: value for name, value in values.items() if name not in case.stored}
    try:
        got = run(feeds)
    except Exception as problem:  # whatever a runtime raises
        return Result(version, "does not run", first_line(problem))
    want = case.right({name: value.astype(np.float64) for name, value in values.items()})
    worst = max(error(got[name], value) for name, value in want.items())
    if not worst <= case.tolerance:
        return Result(version, "wrong", f"error {worst:.2g} of the largest value")
    if case.instead:
        return timed(version, run, load(replace(case, name=case.instead)), feeds)
    return Result(version, "right", f"error {worst:.2g} of the largest value")


def timed(version: str, run: Run, other: Run, feeds: Values) -> Result:
    """Slow or right, by the fastest of some runs of each, in turns, after one that makes it warm."""
    taken: dict[Run, list[float]] = {run: [], other: []}
    for _ in range(RUNS + 1):
        for each, times in taken.items():
            begun = time.perf_counter()
            each(feeds)
            times.append(time.perf_counter() - begun)
    own, instead = (min(times[1:]) for times in taken.values())
    words = f"{own * 1e3:.3g} ms, {own / instead:.3g} times what the same takes otherwise"
    return Result(version, "slow" if own > SLOW * instead else "right", words)


def error(got: np.ndarray, want: np.ndarray) -> float:
    """The largest difference over the largest value; infinite where a shape or a number is none."""
    if got.shape != want.shape:
        return float("inf")
    worst = float(np.abs(got.astype(np.float64) - want).max() / np.abs(want).max())
    return worst if np.isfinite(worst) else float("inf")


def first_line(problem: Exception) -> str:
    return f"{type(problem).__name__}: {(str(problem).splitlines() or ['no reason given'])[0]}"[:200]


def onnxruntime() -> tuple[str, Callable[[Case], Run]]:
    import onnxruntime as ort

    def load(case: Case) -> Run:
        if case.provider not in ort.get_available_providers():
            raise Skipped(f"this onnxruntime has no {case.provider}")
        if case.provider == "CUDAExecutionProvider":
            ort.preload_dlls()
        options = ort.SessionOptions()
        options.log_severity_level = 4
        if not case.optimized:
            options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
        # without the fallback, which prints, and tries what has just failed once more
        session = ort.InferenceSession(
            case.model().SerializeToString(), options, providers=[case.provider], enable_fallback=0
        )
        if session.get_providers()[0] != case.provider:
            raise Skipped(f"{case.provider} cannot start here: `bnfold doctor` says why")
        names = [output.name for output in session.get_outputs()]
        return lambda feeds: dict(zip(names, session.run(None, feeds), strict=True))

    return ort.__version__, load


def reference() -> tuple[str, Callable[[Case], Run]]:
    from onnx.reference import ReferenceEvaluator

    def load(case: Case) -> Run:
        evaluator = ReferenceEvaluator(case.model())
        return lambda feeds: dict(zip(evaluator.output_names, evaluator.run(None, feeds), strict=True))

    return onnx.__version__, load


RUNTIMES = {"onnxruntime": onnxruntime, "onnx": reference}


if __name__ == "__main__":
    print(json.dumps(tried(next(case for case in CASES if case.name == sys.argv[1]))))
