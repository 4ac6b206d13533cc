"""What each piece of the fold costs that is there to save time only: the fold without it, next to the fold with it.

python -m tests.benchmarks.removals [MODELS...] [--rounds 25] [--pieces PIECE...] [--cache DIR] [--json PATH]

Every run is a whole fresh process of `bnfold fold --verify off`. In each round the fold as it is and the fold without a
piece run one right after the other, in random order; what the one before left in memory to be written is flushed before
the clock starts. A piece stays in the code if a fold without it takes more than 3 % longer, or more memory, on one of
the models. `nothing` is the fold as it is once more: what remains of noise.
"""

from __future__ import annotations

import argparse
import gc
import json
import os
import random
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from statistics import median
from types import SimpleNamespace
from typing import Any

from tests.benchmarks import children
from tests.benchmarks.children import Run, as_installed, fold, python

MODELS = ["resnet18", "inception_v4", "vgg11_bn", "nasnetalarge"]
MODULE = "tests.benchmarks.removals"


def no_fork() -> None:
    from bnfold.model import deferred

    deferred.MUCH = sys.maxsize


def no_room() -> None:
    from bnfold.system.staging import Sink

    Sink.reserve = lambda self, length: None  # type: ignore[method-assign]


def no_writeback() -> None:
    from bnfold.system.staging import Sink

    Sink.start_writeback = lambda self: None  # type: ignore[method-assign]


def usual_collections() -> None:
    import bnfold_cli  # noqa: F401 - whose threshold comes first

    gc.set_threshold(700, 10, 10)


def usual_end() -> None:
    """End as Python does, with its objects destroyed one by one."""
    children.os = SimpleNamespace(_exit=sys.exit)  # type: ignore[assignment]


SINGLE: dict[str, Callable[[], None]] = {
    "nothing": lambda: None,
    "the fork that writes half of the constants": no_fork,
    "room on the disk taken at once (fallocate)": no_room,
    "writing back meanwhile (posix_fadvise)": no_writeback,
    "fewer collections of garbage": usual_collections,
    "the end at once (os._exit)": usual_end,
}


def all_of_them() -> None:
    for remove in SINGLE.values():
        remove()


PIECES = {**SINGLE, "all of them": all_of_them}


def compared(source: Path, piece: str, rounds: int, folder: Path) -> dict[str, Any]:
    """The ratios of the folds without a piece to those with it, pair by pair."""
    runs: dict[str, list[Run]] = {piece: [], "": []}
    source.read_bytes()  # into the page cache
    for _ in range(rounds):
        for without in random.sample([piece, ""], 2):
            runs[without].append(ran(source, folder / "out.onnx", without))
    pairs = list(zip(runs[piece], runs[""], strict=True))
    return {
        "model": source.stem,
        "without": piece,
        "ratios": [run.seconds / usual.seconds for run, usual in pairs],
        "peaks": [run.peak_mb / usual.peak_mb for run, usual in pairs if run.peak_mb and usual.peak_mb],
    }


def ran(source: Path, target: Path, without: str) -> Run:
    target.unlink(missing_ok=True)
    os.sync()
    run = python("-m", MODULE, "--without", without or "nothing", source, target)
    if run.code:
        raise RuntimeError(f"the fold of {source.name} ended with {run.code}: {run.words}")
    return run


def line(row: dict[str, Any]) -> str:
    ratios = sorted(row["ratios"])
    span = f"{ratios[len(ratios) // 4]:.3f} to {ratios[-1 - len(ratios) // 4]:.3f}"
    return f"| {row['model']} | {row['without']} | {median(ratios):.3f} | {span} | {median(row['peaks']):.3f} |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("models", nargs="*", default=MODELS)
    parser.add_argument("--rounds", type=int, default=25)
    parser.add_argument("--pieces", nargs="+", default=[*PIECES], choices=PIECES, metavar="PIECE")
    parser.add_argument("--cache", type=Path, default=Path("/tmp/zoo2"), help="where exports are kept")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    as_installed()
    from bnfold.benchmarking.environment import environment
    from tests.benchmarks.latency import source

    print("| model | without | time, of the fold as it is | half of the pairs | memory |\n|---|---|---|---|---|")
    rows = []
    for name in options.models:
        for piece in options.pieces:
            with tempfile.TemporaryDirectory() as folder:
                rows.append(compared(source(name, options.cache), piece, options.rounds, Path(folder)))
            print(line(rows[-1]), flush=True)
            if options.json:
                record = {"schema": "bnfold.removals/1", "rounds": options.rounds, "environment": environment()}
                options.json.write_text(json.dumps({**record, "rows": rows}, indent=1) + "\n")


if __name__ == "__main__":
    if sys.argv[1:2] == ["--without"]:
        PIECES[sys.argv[2]]()
        fold([*sys.argv[3:], "--verify", "off"])
    else:
        main()
