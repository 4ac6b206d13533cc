"""Everything that needs a GPU, in minutes: `python -m tests.benchmarks.on_gpu FOLDER [NAMES...] [--seconds 480]`

For each architecture `bnfold verify` and, for those of `TIMED`, `bnfold bench` (float32 and float16, batch 1 and 32), as a user
runs them, one after another, each in a process of its own with its own time limit. Each writes its JSON into FOLDER as soon as
it is done, and what FOLDER holds is not done again: a run that was cut off goes on where it stopped, and nothing new begins
after `--seconds`. Verified are the models of the zoo at its size of pictures; timed the same networks at `SIDE` pixels a side.
cuDNN searches for kernels by its heuristics: `--cudnn-search default` is there at once, but its kernels are slow.

`--prepare` only makes the models, in `--jobs` processes: that needs torch and timm, but no GPU. `--record` puts what FOLDER
holds into the records in tests/benchmarks/results, where models that FOLDER does not hold stay: so an hour's work is done in
several leases of minutes, with `--only` and NAMES. `--stand-in` lets the CPU play the GPU, to try the script.
Exits 0 if every model passed, 1 if not, 4 if the provider does not run here.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import onnx

import bnfold
from bnfold.benchmarking.environment import environment
from bnfold.benchmarking.settings import SEARCHES
from bnfold.errors import EnvironmentProblem
from bnfold.runtime.dimensions import dynamic
from bnfold.runtime.doctor import Health, examine
from bnfold.runtime.providers import PROVIDERS
from tests.benchmarks import leases

TIMED = (
    "mobileone_s0",
    "repvgg_a0",
    "fastvit_t8",
    "repvit_m0_9",
    "repghostnet_050",
    "levit_128s",
    "resnet18",
    "densenet121",
    "hgnetv2_b0",
    "inception_next_tiny",
    "starnet_s1",
    "efficientnet_b0",
)
NAMES = (*TIMED, "mixnet_s", "mobilenetv3_small_100", "ghostnet_100")
KINDS = ("verify", "bench")
SIDE = 224
BATCHES = "1,32"
RESULTS = Path(__file__).parent / "results"
RATIO = {"ratio": "estimate", "low": "low", "high": "high"}  # in a record, and as bench has it
SETTING = ("name", "side", "precision", "batch", "cuda_graph", "cudnn_search")  # of a latency: measured again, replaced


def pair(name: str, models: Path, side: int | None = None) -> tuple[Path, Path]:
    """The files of a model and of its fold, made below `models` unless they are there."""
    folder = models / str(side or "zoo")
    original, folded = folder / f"{name}.onnx", folder / f"{name}.folded.onnx"
    if not original.exists():
        from tests.zoo_models import exported

        exported(name, folder, side)
    if not folded.exists():
        draft = folded.with_suffix(".part")
        bnfold.save(bnfold.fold(original).model, draft)
        draft.replace(folded)
    return original, folded


def sides(kind: str) -> int | None:
    """The size of pictures for a kind of job; None is the zoo's."""
    return SIDE if kind == "bench" else None


def kinds(name: str) -> tuple[str, ...]:
    return KINDS if name in TIMED else KINDS[:1]


def prepare(names: list[str], models: Path, jobs: int) -> None:
    """Make all model files, several at a time."""
    wanted = [(name, models, sides(kind)) for kind in KINDS for name in names if kind in kinds(name)]
    with ProcessPoolExecutor(jobs) as pool:
        for one in [pool.submit(pair, *each) for each in wanted]:
            print(one.result()[1], flush=True)


def command(kind: str, name: str, options: argparse.Namespace) -> list[str]:
    """What a user would type."""
    original, folded = pair(name, options.models, sides(kind))
    words = [sys.executable, "-m", "bnfold", kind, str(original), str(folded), "--ep", options.ep]
    if kind == "verify":
        return words
    (batch, *_) = dynamic(onnx.load(original, load_external_data=False).graph)
    words += ["--opt", "default", "--precision", "float32,float16", "--dim", f"{batch}={BATCHES}", "--no-cold"]
    words += ["--cudnn-search", options.cudnn_search] if options.ep == "cuda" else ["--mode", "device"]
    return [*words, "--launches", "3", "--budget", str(options.budget)]


def job(kind: str, name: str, options: argparse.Namespace) -> dict[str, Any]:
    """Run one command; its JSON is in FOLDER afterwards, whole or not at all."""
    target = options.folder / f"{kind}-{name}.json"
    draft = target.with_suffix(".part")
    words = [*command(kind, name, options), "--json", str(draft)]
    started, limit = time.monotonic(), getattr(options, f"limit_{kind}")
    try:
        done = subprocess.run(words, capture_output=True, text=True, timeout=limit)
        code, said = done.returncode, (done.stderr.strip().splitlines() or [""])[0]
    except subprocess.TimeoutExpired:
        code, said = None, f"stopped after {limit:.0f} s"
    seconds = round(time.monotonic() - started, 2)
    if draft.exists():
        draft.replace(target)
        said = json.loads(target.read_text(encoding="utf-8"))["verdict"]
    return {"kind": kind, "name": name, "exit": code, "seconds": seconds, "said": said}


def left(options: argparse.Namespace) -> Iterator[tuple[str, str]]:
    """The jobs whose answer FOLDER does not hold yet."""
    for name in options.names:
        for kind in kinds(name):
            if options.only in (None, kind) and not (options.folder / f"{kind}-{name}.json").exists():
                yield kind, name


def run(options: argparse.Namespace, where: dict[str, Any]) -> int:
    """One job after another until the time is over; a log of them is kept next to their answers."""
    end = time.monotonic() + options.seconds
    options.folder.mkdir(parents=True, exist_ok=True)
    for kind, name in list(left(options)):
        if time.monotonic() > end:
            print("the time is over: run the same command again to go on")
            break
        row = job(kind, name, options)
        with (options.folder / "log.jsonl").open("a", encoding="utf-8") as log:
            log.write(json.dumps({**row, "lease": where}) + "\n")
        print(f"{kind:6} {name:24} exit {row['exit']} {row['seconds']:6.1f} s  {row['said']}", flush=True)
    passed = [answer["verdict"] == "PASS" for answer in answers(options.folder, "verify").values()]
    return int(not passed or not all(passed))


def lease(health: Health) -> dict[str, Any]:
    """Where this runs: what an entry of a record needs to be believed, and no path or serial number of the machine."""
    here = environment()
    gpus = [gpu["name"] for gpu in health.driver.get("gpus", ())]
    facts = {"gpu": ", ".join(gpus), "driver": health.driver.get("version", ""), **health.versions}
    facts |= {key: here[key] for key in ("onnxruntime", "onnx", "python", "processor", "processors_usable", "system")}
    date = datetime.now(UTC).date().isoformat()
    return {"date": date, "bnfold": bnfold.__version__, "environment": facts}


def record(folder: Path, provider: str, results: Path) -> None:
    """Merge what FOLDER holds into the records that README.md is made from."""
    said = {(row["kind"], row["name"]): row for row in logged(folder)}
    timed = [
        {**row(name, cell), "lease": said["bench", name]["lease"]}
        for name, answer in answers(folder, "bench").items()
        for cell in answer["cells"]
    ]
    verified = [verdict(answer, said["verify", name]) for name, answer in answers(folder, "verify").items()]
    of = provider.replace("-", "_")
    for kind, entries, key in (("latency", timed, SETTING), ("verify", verified, ("name",))):
        if entries:
            leases.merge(results / f"{kind}_{of}.json", entries, key)
            print(results / f"{kind}_{of}.json")


def verdict(answer: dict[str, Any], said: dict[str, Any]) -> dict[str, Any]:
    """What one verification found, and the models it was about, without their paths."""
    found = {key: answer[key] for key in ("verdict", "reasons", "notes")}
    models = {which: {key: of[key] for key in ("bytes", "sha256")} for which, of in answer["models"].items()}
    return {"name": said["name"], **found, "models": models, "seconds": said["seconds"], "lease": said["lease"]}


def row(name: str, cell: dict[str, Any]) -> dict[str, Any]:
    """One setting of one model."""
    batch = next((size for _, size in cell["dims"]), 1)
    keys = ("precision", "cuda_graph", "cudnn_search", "verdict", "difference")
    ratio, control = ({k: round(cell[of][end], 4) for k, end in RATIO.items()} for of in ("speedup", "control"))
    ms = [round(each, 4) for each in cell["ms"]]
    setting = {"name": name, "side": SIDE, "batch": batch, **{key: cell[key] for key in keys}}
    return {**setting, "ms": ms, **ratio, "control": control}


def logged(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "log.jsonl").read_text(encoding="utf-8").splitlines()]


def answers(folder: Path, kind: str) -> dict[str, Any]:
    """What the jobs of a kind answered, by model."""
    files = sorted(folder.glob(f"{kind}-*.json"))
    return {path.stem.partition("-")[2]: json.loads(path.read_text(encoding="utf-8")) for path in files}


def arguments(words: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, metavar="FOLDER", help="of the answers")
    parser.add_argument("names", nargs="*", metavar="NAME", default=NAMES, help=f"default: {' '.join(NAMES)}")
    parser.add_argument("--ep", choices=PROVIDERS, default="cuda")
    parser.add_argument("--models", type=Path, default=Path("/tmp/bnfold-on-gpu"), metavar="FOLDER")
    parser.add_argument("--seconds", type=float, default=480.0, help="after which nothing new begins")
    parser.add_argument("--only", choices=KINDS, help="the other kind of job not at all")
    parser.add_argument("--limit-verify", type=float, default=90.0, metavar="SECONDS", help="of one verification")
    parser.add_argument("--limit-bench", type=float, default=240.0, metavar="SECONDS", help="of one bench")
    parser.add_argument("--cudnn-search", choices=SEARCHES, default="heuristic", help="of bench on cuda")
    parser.add_argument("--results", type=Path, default=RESULTS, metavar="FOLDER", help="where --record finds records")
    parser.add_argument("--budget", type=float, default=10.0, metavar="SECONDS", help="of each bench")
    parser.add_argument("--jobs", type=int, default=4, help="processes of --prepare")
    parser.add_argument("--prepare", action="store_true", help="only make the model files")
    parser.add_argument("--record", action="store_true", help="only write the records")
    parser.add_argument("--stand-in", action="store_true", help="try the script on the CPU")
    return parser.parse_args(words)


def main(words: list[str] | None = None) -> int:
    options = arguments(words)
    if options.prepare:
        prepare(list(options.names), options.models, options.jobs)
        return 0
    if options.record:
        record(options.folder, options.ep, options.results)
        return 0
    options.ep = "cpu" if options.stand_in else options.ep
    try:
        health = examine(options.ep)
        health.require()
    except EnvironmentProblem as problem:
        print(f"error: {problem}\nhint: {problem.hint}", file=sys.stderr)
        return problem.exit_code
    return run(options, lease(health))


if __name__ == "__main__":
    sys.exit(main())
