"""What becomes of models that no one here wrote: `python -m tests.benchmarks.real_models [--effort fast|full] [NAMES...]`

One row per file of the test data: BatchNormalization before and after, why any is kept, what onnx's checker says of the
result, and the worst error against float64 of the original and of the folded model; or the refusal, in its words.
"""

from __future__ import annotations

import argparse
import tempfile
from collections import Counter
from pathlib import Path

import onnx

from bnfold.errors import BnfoldError
from bnfold.folding.pipeline import FoldReport, Options, fold_file
from tests.data import DATA


def checked(path: Path) -> str:
    try:
        onnx.checker.check_model(str(path))
    except onnx.checker.ValidationError as problem:
        return str(problem).splitlines()[0]
    return "ok"


def kept(report: FoldReport) -> str:
    counts = Counter(f"{k.not_hoisted.code}/{k.not_sunk.code}" for k in report.result.batch_norms_kept)
    return ", ".join(f"{n} {codes}" for codes, n in counts.most_common())


def row(path: Path, folder: Path, effort: str) -> list[str]:
    """The cells of one file."""
    target = folder / path.name
    try:
        report = fold_file(path, target, Options(verify=effort))
    except BnfoldError as problem:
        return [path.stem, "", "", "", "", f"exit {problem.exit_code}: {problem}".replace(str(path.parent), "..")]
    counts = [str(size.batch_normalizations) for size in (report.before, report.after)]
    if report.verification is None:
        same = target.read_bytes() == path.read_bytes()
        return [path.stem, *counts, kept(report), checked(target), "copied byte for byte" if same else "DIFFERS"]
    original, folded = report.verification.errors
    return [path.stem, *counts, kept(report), checked(target), f"PASS, {original:.2g} -> {folded:.2g}"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("names", nargs="*")
    parser.add_argument("--effort", default="fast")
    options = parser.parse_args()
    print("| model | BN before | BN after | kept because | checker | verification, worst error against float64 |")
    print("|---|---|---|---|---|---|")
    with tempfile.TemporaryDirectory() as folder:
        for path in sorted(DATA.glob("onnx/*.onnx")):
            if not options.names or path.stem in options.names:
                print(f"| {' | '.join(row(path, Path(folder), options.effort))} |", flush=True)


if __name__ == "__main__":
    main()
