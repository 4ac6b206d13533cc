"""Faults planted into faultless folds, and who finds them: `python -m tests.benchmarks.mutations [--json PATH] [NAMES...]`

Every kind of fault at two fold sites of every model: real ones and architectures of the zoo. Next to the tiers of
`bnfold verify` stand the comparisons that onnxsim and onnxslim make: outputs of both models as onnxruntime runs them by
default, uniform inputs in [0, 1), numpy's allclose with rtol 1e-4 and atol 1e-5 (onnxsim.model_checking.compare, here on
five inputs) and with rtol 1e-3 and atol 1e-4 (onnxslim.utils.check_result, on one input as there).
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx

import bnfold
from bnfold.benchmarking.environment import environment
from bnfold.folding import driver
from bnfold.runtime import sessions
from bnfold.runtime.dimensions import candidates
from bnfold.runtime.inputs import Case, feeds
from bnfold.verification.selftest import FoldedNode, by_member, folded_nodes, with_fault
from tests.data import DATA
from tests.zoo import CACHE, line
from tests.zoo_models import exported

REAL = ("ultraface_rfb320", "ppocr_v2_cls", "fsanet_1x1")
ZOO = ("resnet18", "mobilenetv3_small_100", "repvgg_a0")
COLUMNS = ("model", "fold site", "fault", "algebra", "numbers", "onnxsim's tolerance", "onnxslim's tolerance")
Values = np.ndarray[Any, Any]


def one(values: Values, change: Callable[[Values], Values]) -> Values:
    """The channel with the largest values changed."""
    changed = values.copy()
    largest = np.abs(values).reshape(len(values), -1).max(1).argmax()
    changed[largest] = change(values[largest])
    return changed


def weight(change: Callable[[Values], Values]) -> Callable[[FoldedNode], tuple[Values, Values | None]]:
    return lambda site: (change(site.weight).astype(site.weight.dtype), site.bias)


def bias(change: Callable[[Values], Values]) -> Callable[[FoldedNode], tuple[Values, Values | None]]:
    return lambda site: (site.weight, None if site.bias is None else change(site.bias).astype(site.bias.dtype))


KINDS = {
    "epsilon forgotten": weight(lambda w: w * (1 + 5e-6)),
    "another epsilon (1e-3 for 1e-5)": weight(lambda w: w * (1 - 5e-4)),
    "one channel x 1.001": weight(lambda w: one(w, lambda c: c * 1.001)),
    "one channel x 1.0001": weight(lambda w: one(w, lambda c: c * 1.0001)),
    "one channel not scaled": weight(lambda w: one(w, lambda c: c / 1.5)),
    "one scale with the wrong sign": weight(lambda w: one(w, np.negative)),
    "weights rounded to float16": weight(lambda w: w.astype(np.float16)),
    "weights rounded to bfloat16": weight(lambda w: (w.view(np.uint32) & 0xFFFF0000).view(np.float32)),
    "channels of the weight swapped": weight(lambda w: w[[1, 0, *range(2, len(w))]]),
    "layout of the groups": lambda site: (by_member(site.weight, max(2, site.group)), site.bias),
    "one weight zero": weight(lambda w: one(w, lambda c: np.where(np.abs(c) == np.abs(c).max(), 0, c))),
    "bias forgotten": bias(np.zeros_like),
    "one bias x 1.001": bias(lambda b: one(b, lambda c: c * 1.001)),
    "biases swapped": bias(lambda b: b[[1, 0, *range(2, len(b))]]),
    "mean with the wrong sign": bias(np.negative),
    "one bias is NaN": bias(lambda b: one(b, lambda c: np.full_like(c, np.nan))),
}


def source(name: str) -> Path:
    return DATA / "onnx" / f"{name}.onnx" if name in REAL else exported(name, CACHE)


def faults(name: str) -> Iterator[tuple[str, str, onnx.ModelProto, onnx.ModelProto]]:
    """Every fault at the first and at the last fold site of one model: site, kind, the original, the changed fold."""
    path = source(name)
    original, folded = onnx.load(path), driver.fold(path).model
    sites = list(folded_nodes(original, folded))
    for site in dict.fromkeys([sites[0].output, sites[-1].output]):
        at = next(s for s in sites if s.output == site)
        for kind, change in KINDS.items():
            new = change(at)
            if np.array_equal(new[0], at.weight) and (new[1] is None or np.array_equal(new[1], at.bias)):
                continue  # this site cannot have this fault: no bias, one group
            yield site, kind, original, with_fault(folded, at, change)


def planted(name: str) -> Iterator[dict[str, Any]]:
    """What is found of every fault of one model."""
    theirs = None
    for site, kind, original, wrong in faults(name):
        theirs = theirs or Tolerances(original)
        found = bnfold.verify(original, wrong, levels=["off"])
        row = {"model": name, "site": site, "fault": kind, "verdict": found.verdict}
        row["algebra"] = any(not d.ok for d in found.derived)
        row["numbers"] = any(level.bad for level in found.levels)
        yield row | theirs.found(wrong)


class Tolerances:
    """What fixed tolerances say of the outputs of a changed model."""

    def __init__(self, original: onnx.ModelProto) -> None:
        sizes = next(candidates(original.graph))
        self.names = [output.name for output in original.graph.output]
        self.feeds = [feeds(original.graph, Case("uniform", seed, 1), sizes) for seed in range(5)]
        self.expected = self.run(original)

    def run(self, model: onnx.ModelProto) -> list[list[Values]]:
        session = sessions.session(model.SerializeToString(), sessions.options("default", threads=1))
        return [sessions.outputs(session, self.names, feed) for feed in self.feeds]

    def found(self, wrong: onnx.ModelProto) -> dict[str, bool]:
        got = self.run(wrong)

        def differ(which: slice, rtol: float, atol: float) -> bool:
            pairs = [
                (a, b) for x, y in zip(self.expected[which], got[which], strict=True) for a, b in zip(x, y, strict=True)
            ]
            return not all(np.allclose(b, a, rtol=rtol, atol=atol, equal_nan=True) for a, b in pairs)

        return {"onnxsim": differ(slice(5), 1e-4, 1e-5), "onnxslim": differ(slice(1), 1e-3, 1e-4)}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("names", nargs="*", default=[*REAL, *ZOO])
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    started, rows = time.perf_counter(), []
    print(line(COLUMNS), line(["---"] * len(COLUMNS)), sep="\n")
    for name in options.names:
        for row in planted(name):
            rows.append(row)
            hits = ["found" if row[who] else "missed" for who in ("algebra", "numbers", "onnxsim", "onnxslim")]
            print(line([row["model"], row["site"], row["fault"], *hits]), flush=True)
    print(
        f"\n{len(rows)} faults of {len({r['fault'] for r in rows})} kinds, {time.perf_counter() - started:.0f} s; found by:"
    )
    for who in ("algebra", "numbers", "onnxsim", "onnxslim"):
        print(f"- {who}: {sum(row[who] for row in rows)}")
    missed = [row for row in rows if not (row["algebra"] or row["numbers"])]
    if options.json:
        record = {"schema": "bnfold.mutations/1", "environment": environment(), "rows": rows}
        options.json.write_text(json.dumps(record, indent=1) + "\n")
    return int(bool(missed))


if __name__ == "__main__":
    sys.exit(main())
