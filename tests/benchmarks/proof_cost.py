"""What the proof of a fold costs: `bnfold fold` with verification and without, and what onnxruntime alone takes.

python -m tests.benchmarks.proof_cost [MODELS...] [--rounds 5] [--cache DIR] [--also TOOL=PYTHON ...] [--json PATH]

MODELS are files, or architectures of the zoo (tests/zoo.py). In each round every command runs once, as a fresh process,
in random order. The baseline is a process that imports onnxruntime, makes sessions of the original and of the folded
model and runs each once: what any check that runs both has to take. The cost is the time of the verified fold less that
of the unverified one, over the baseline. The peak is that of the largest process of the verified fold. Next to them stand
onnxsim, with its own check (three inputs) and without, and onnxslim, with `--also onnxsim=OTHER/bin/python` and the like
from another environment.
"""

from __future__ import annotations

import argparse
import json
import random
import sys
import tempfile
from pathlib import Path
from statistics import median
from typing import Any

from tests.benchmarks.children import Run, as_installed, command
from tests.benchmarks.tools import peak_kb

MODULE = "tests.benchmarks.proof_cost"
MODELS = ["resnet18", "repvgg_a0", "levit_128s", "mobileone_s0", "efficientnet_b0", "mobilenetv3_small_100"]
SIZES = (64, 224, 32, 320, 16, 8, 1)  # of dynamic dimensions other than the first, in the order in which they are tried
OTHERS = {
    "onnxsim": (
        "import onnx, sys; from onnxsim import simplify; onnx.save(simplify(onnx.load(sys.argv[1]))[0], sys.argv[2])"
    ),
    "onnxsim with its check": (
        "import onnx, sys; from onnxsim import simplify; "
        "onnx.save(simplify(onnx.load(sys.argv[1]), check_n=3)[0], sys.argv[2])"
    ),
    "onnxslim": "import onnx, sys; import onnxslim; onnx.save(onnxslim.slim(onnx.load(sys.argv[1])), sys.argv[2])",
}  # fmt: skip


def fold(source: str, target: str, verify: str) -> None:
    """`bnfold fold` as the command does it; the last lines are its report, and the peak of its largest process."""
    import resource

    from bnfold_cli.main import run

    with tempfile.TemporaryDirectory() as folder:
        report = Path(folder, "report.json")
        code = run(["fold", source, target, "--force", "--verify", verify, "--json", str(report)])
        found = json.loads(report.read_text()) if report.exists() else {}
    verification = found.get("verification") or {}
    sites = verification.get("algebra", [])
    proved = sum(site["responses"] > 0 and site["share"] == 1 and not site["why"] for site in sites)
    peak = max(peak_kb(), resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss)
    words = {"verdict": verification.get("verdict", ""), "grade": verification.get("grade", "")}
    print(json.dumps({**words, "sites": len(sites), "proved": proved, "peak_mb": peak / 1000}))
    sys.exit(code)


def baseline(*paths: str) -> None:
    """Sessions of models, and one run of each."""
    import numpy as np
    import onnxruntime as ort

    kinds = {"tensor(float)": np.float32, "tensor(int64)": np.int64, "tensor(double)": np.float64, "tensor(bool)": bool}
    options = ort.SessionOptions()
    options.log_severity_level = 4
    for path in paths:
        running = ort.InferenceSession(path, options, providers=["CPUExecutionProvider"])
        for size in SIZES:
            shapes = {
                i.name: [n if isinstance(n, int) else size if axis else 2 for axis, n in enumerate(i.shape)]
                for i in running.get_inputs()
            }
            values = {i.name: np.ones(shapes[i.name], kinds.get(i.type, np.float32)) for i in running.get_inputs()}
            try:
                running.run(None, values)
            except Exception:  # a size that the model does not take
                continue
            break


def measured(source: Path, rounds: int, others: dict[str, str]) -> dict[str, Any]:
    """One row."""
    with tempfile.TemporaryDirectory() as folder:
        target, spare = Path(folder, "folded.onnx"), Path(folder, "other.onnx")
        commands: dict[str, list[str | Path]] = {
            "unverified": [sys.executable, "-m", MODULE, "--fold", "off", source, target],
            "verified": [sys.executable, "-m", MODULE, "--fold", "fast", source, target],
            "baseline": [sys.executable, "-m", MODULE, "--baseline", source, target],
            **{name: [who, "-c", OTHERS[name], source, spare] for name, who in others.items()},
        }
        command(commands["unverified"])  # the folded model, and files into the page cache
        runs: dict[str, list[Run]] = {name: [] for name in commands}
        for _ in range(rounds):
            for name in random.sample([*commands], len(commands)):
                runs[name].append(command(commands[name]))
    return row(source, runs)


def row(source: Path, runs: dict[str, list[Run]]) -> dict[str, Any]:
    failed = {name: run.words for name, each in runs.items() for run in each if run.code}
    seconds = {name: [run.seconds for run in each] for name, each in runs.items()}
    last = json.loads(runs["verified"][-1].words) if "verified" not in failed else {}
    pairs = zip(*(seconds[name] for name in ("verified", "unverified", "baseline")), strict=True)
    ratios = [(verified - unverified) / base for verified, unverified, base in pairs]
    found = {"model": source.stem, "megabytes": source.stat().st_size / 1e6, "seconds": seconds, "failed": failed}
    return {**found, "cost": median(ratios), "costs": ratios, **last}


def line(found: dict[str, Any]) -> str:
    times = {name: f"{median(each):.2f}" for name, each in found["seconds"].items()}
    more = {name: "failed" for name in found["failed"]}
    shown = {**times, **more}
    sites = f"{found.get('proved', '')} of {found.get('sites', '')}"
    verdict = f"{found.get('verdict', '')} {found.get('grade', '')}".strip()
    columns = [found["model"], f"{found['megabytes']:.1f}", *shown.values(), f"{found['cost']:.2f}"]
    return f"| {' | '.join([*columns, str(round(found.get('peak_mb', 0))), sites, verdict])} |"


def main() -> None:
    if sys.argv[1:2] == ["--fold"]:
        fold(sys.argv[3], sys.argv[4], sys.argv[2])
    if sys.argv[1:2] == ["--baseline"]:
        baseline(*sys.argv[2:])
        return
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("models", nargs="*", default=MODELS)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--cache", type=Path, default=Path("/tmp/zoo2"), help="where exports are kept")
    parser.add_argument("--also", action="append", default=[], metavar="TOOL=PYTHON", help="onnxsim, onnxslim")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    others = {
        name: who
        for each in options.also
        for tool, who in [each.split("=", 1)]
        for name in OTHERS
        if name.startswith(tool)
    }
    as_installed()
    from bnfold.benchmarking.environment import environment
    from tests.benchmarks.latency import source

    print(
        f"| model | MB | unverified s | verified s | baseline s |{''.join(f' {name} s |' for name in others)} cost | peak MB | sites proved | verdict |"
    )
    print("|" + "---|" * (9 + len(others)))
    rows = []
    for name in options.models:
        path = Path(name) if name.endswith(".onnx") else source(name, options.cache)
        rows.append(measured(path, options.rounds, others))
        print(line(rows[-1]), flush=True)
        if options.json:
            payload = {
                "schema": "bnfold.proof_cost/1",
                "rounds": options.rounds,
                "environment": environment(),
                "rows": rows,
            }
            options.json.write_text(json.dumps(payload, indent=1) + "\n")


if __name__ == "__main__":
    main()
