"""What runs in child processes: a tool on one graph after the other, or the judge of what the tools wrote.

`python -m tests.differential.work WHAT FOLDER SEED GRAPHS`: an index per line of stdin, an answer (JSON) per line of stdout.
WHAT is `judge`, or a tool with or without its version. A tool's child needs no package but the tool.
A child may crash or hang; `teams.Child` starts the next one where this one stopped.
"""

from __future__ import annotations

import json
import os
import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

Answer = dict[str, Any]


def source(folder: Path, index: int) -> Path:
    return folder / f"{index}.onnx"


def target(folder: Path, index: int, tool: str) -> Path:
    return folder / f"{index}.{tool.replace(' ', '-')}.onnx"


def bnfold(read: str, write: str) -> None:
    """Without verification: it is the fold alone that is compared."""
    from bnfold.folding.pipeline import Options, fold_file

    fold_file(Path(read), Path(write), Options(verify="off"))


def transform(tool: str, folder: Path) -> Callable[[str], Answer]:
    """Run a tool; what it raises is an answer."""
    from tests.benchmarks.tools import TOOLS

    call = {**TOOLS, "bnfold": bnfold}[tool.partition(" ")[0]]

    def answer(line: str) -> Answer:
        index = int(line)
        try:
            call(str(source(folder, index)), str(target(folder, index, tool)))
        except Exception as problem:  # whatever a tool raises
            return {"raised": words(problem)}
        return {}

    return answer


def words(problem: BaseException) -> str:
    lines = [line.strip() for line in str(problem).splitlines() if line.strip()]
    said = re.sub(r"/\S*/", "", " ".join(lines))  # whole paths are of this machine
    return f"{type(problem).__name__}: {said}"[:200]


def judge(folder: Path, seed: int, graphs: str) -> Callable[[str], Answer]:
    from .judging import Judge

    court = Judge(folder, seed, graphs)
    return lambda line: court.answer(*line.split(maxsplit=1))


def serve(answer: Callable[[str], Answer]) -> None:
    """Answer line by line; what the tools print goes nowhere."""
    told = os.fdopen(os.dup(1), "w")
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 1)
    os.dup2(nowhere, 2)
    for line in sys.stdin:
        told.write(json.dumps(answer(line.strip())) + "\n")
        told.flush()


if __name__ == "__main__":
    import warnings

    warnings.simplefilter("ignore")  # of the tools
    what, place, number, graphs = sys.argv[1], Path(sys.argv[2]), int(sys.argv[3]), sys.argv[4]
    serve(judge(place, number, graphs) if what == "judge" else transform(what, place))
