"""Verdicts on faultless folds, with three seeds: `python -m tests.benchmarks.false_alarms [--json PATH] [NAMES...]`

Every real model that anything folds in, and architectures of the zoo. A FAIL is a false alarm.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections import Counter
from contextlib import suppress
from pathlib import Path
from typing import Any

import bnfold
from bnfold.benchmarking.environment import environment
from bnfold.errors import BnfoldError
from bnfold.folding import driver
from bnfold.folding.result import FoldResult
from tests.data import DATA
from tests.small_nets import NETS
from tests.zoo import CACHE, line
from tests.zoo_models import exported

SEEDS = (0, 1, 2)
TIMM = (
    "resnet18 repvgg_a0 mobileone_s0 repghostnet_050 levit_128s mixnet_s repvit_m0_9 fastvit_t8 swiftformer_xs ghostnet_100 "
    "efficientvit_m0 shvit_s1 starnet_s1 lcnet_050 mobilenetv3_small_100 mobilenetv4_conv_small regnety_002 densenet121"
)


def folded(path: Path) -> FoldResult | None:
    """The fold of a file; None where nothing folds, or the model is refused."""
    with suppress(BnfoldError):
        result = driver.fold(path)
        return result if result.folded else None
    return None


def rows(name: str, path: Path) -> dict[str, Any] | None:
    """The verdict with every seed; None where there is no fold."""
    result = folded(path)
    if result is None:
        return None
    found = [bnfold.verify(path, result.model, seed=seed, untouched=result.sites) for seed in SEEDS]
    worst = max(
        (t.ratio / t.limit for v in found for level in v.levels for t in level.tensors if not t.moved), default=0.0
    )
    reasons = [v.reasons[0] for v in found if not v.passed]
    return {"model": name, "verdicts": [v.verdict for v in found], "worst": worst, "reasons": reasons}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("names", nargs="*")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    paths = {path.stem: path for path in sorted(DATA.glob("onnx/*.onnx"))}
    names = options.names or [*paths, *NETS, *TIMM.split()]
    done = []
    print(line(("model", "verdicts", "worst error, share of its limit")), line(["---"] * 3), sep="\n")
    for name in names:
        row = rows(name, paths[name] if name in paths else exported(name, CACHE))
        if row:
            done.append(row)
            print(
                line([name, ", ".join(row["verdicts"]), f"{row['worst']:.2f} {'; '.join(row['reasons'])}"]), flush=True
            )
    verdicts = Counter(verdict for row in done for verdict in row["verdicts"])
    print(f"\n{len(done)} models, {len(SEEDS)} seeds: {dict(verdicts)}")
    if options.json:
        record = {"schema": "bnfold.false_alarms/1", "environment": environment(), "rows": done}
        options.json.write_text(json.dumps(record, indent=1) + "\n")
    return int("FAIL" in verdicts)


if __name__ == "__main__":
    sys.exit(main())
