"""What one would pick instead of folding, on the same card in the same run: `python -m tests.benchmarks.instead OUT.json [NAMES...]`

Of each network, with the very same weights: the ONNX file as exported, as folded, and as exported after timm's
re-parameterization, each in onnxruntime as it serves and inside a CUDA graph; the network in PyTorch and timm's
re-parameterized one, called as they are and under torch.compile(mode="max-autotune", dynamic=False), which uses CUDA
graphs where it can. float32 (TF32 allowed on both sides) and float16, batch 1 and 32. All variants of one setting live
in one process; inputs and outputs stay on the device, and a run ends when the device is done. Blocks of at least 20 ms
are interleaved in random order; a ratio is the median over the blocks, its 95 % interval from resampling them.
`error` is the distance of the output to PyTorch's in float64 on the CPU, `difference` that to the original file's.

In phases, each resumable: `--prepare` makes the files, `--compile-only` fills inductor's cache with `--jobs` processes
(minutes for each network; what is compiled before is timed), and without either all is timed, a row written as soon as
it is there. `--ep cpu` tries the script where there is no GPU, with PyTorch's "aot_eager" in place of inductor.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor, as_completed
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from bnfold.benchmarking.environment import environment
from bnfold.runtime.nvml import states
from tests.benchmarks.children import ROOT

SCHEMA = "bnfold.instead/1"
NAMES = ("mobileone_s0", "repvgg_a0", "fastvit_t8", "levit_128s")
NETWORKS = ("timm", "original")  # that torch.compile is given, in this order
COLUMNS = {  # of the table: a variant, and what it is called there; {} is the mode of torch.compile
    "onnx folded": "folded",
    "onnx timm": "timm's, as ONNX",
    "onnx original, CUDA graph": "original, CUDA graph",
    "onnx folded, CUDA graph": "folded, CUDA graph",
    "onnx timm, CUDA graph": "timm's, as ONNX, CUDA graph",
    "torch timm": "timm's, in PyTorch",
    "torch timm, {}": "timm's, {}",
    "torch original, {}": "original, {}",
}
Request = dict[str, Any]


def answer(request: Request) -> dict[str, Any]:
    """What a process of its own says to a request, or `{"failed": why}`; its errors go to a log next to the files."""
    log = Path(request["cache"], f"{title(request).replace(' ', '-')}.log")
    command = [sys.executable, "-m", "tests.benchmarks.variants", json.dumps(request)]
    caches = {"TORCHINDUCTOR_CACHE_DIR": f"{request['cache']}/inductor", "TORCHINDUCTOR_COMPILE_THREADS": "4"}
    with log.open("w") as errors:
        text, code = run(command, request["limit"], os.environ | caches, errors)
    if code:
        last = (log.read_text(errors="replace").strip().splitlines() or ["no words"])[-1]
        return {"failed": f"stopped after {request['limit']:g} s" if code == -signal.SIGKILL else last[:500]}
    return dict(json.loads(text.strip().splitlines()[-1]))


RUNNING: set[int] = set()  # processes that were started, each the leader of those it starts


def end_together() -> None:
    """A signal that ends this process ends those it started."""

    def end(number: int, frame: object) -> None:
        for leader in [*RUNNING]:
            os.killpg(leader, signal.SIGKILL)
        os._exit(128 + number)

    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, end)


def run(command: list[str], limit: float, env: dict[str, str], errors: Any) -> tuple[str, int]:
    """Output and exit status; at the limit the process ends with the compilers it started."""
    child = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=errors, text=True, cwd=ROOT, env=env, start_new_session=True
    )
    RUNNING.add(child.pid)
    try:
        text, _ = child.communicate(timeout=limit)
    except subprocess.TimeoutExpired:
        os.killpg(child.pid, signal.SIGKILL)
        text, _ = child.communicate()
    finally:
        RUNNING.discard(child.pid)
    return text, child.returncode


def title(request: Request) -> str:
    words = (request.get(name) for name in ("what", "name", "precision", "batch", "kind"))
    return " ".join(str(word) for word in words if word)


def preparations(options: argparse.Namespace) -> list[Request]:
    """Of the networks whose files are not there."""
    every = (common(name, options) | {"what": "prepare"} for name in options.names)
    return [request for request in every if not Path(f"{request['stem']}.npz").exists()]


def common(name: str, options: argparse.Namespace) -> Request:
    stem = options.cache / f"{name}.{options.size or 'own'}"
    plain = {"name": name, "stem": str(stem), "cache": str(options.cache)}
    return plain | {key: getattr(options, key) for key in ("size", "ep", "search", "mode", "limit")}


def cells(options: argparse.Namespace) -> Iterator[Request]:
    """Every network at one setting before the next setting: whatever time is left, all have something."""
    for precision, batch, name in itertools.product(options.precision, options.batch, options.names):
        yield common(name, options) | {"precision": precision, "batch": batch}


def compilations(options: argparse.Namespace) -> list[Request]:
    """Of what is not in inductor's cache yet."""
    there = compiled(options.cache)
    every = [cell | {"what": "compile", "kind": kind} for cell in cells(options) for kind in NETWORKS]
    return [request for request in every if key(request) not in there]


def compiled(cache: Path) -> dict[str, dict[str, Any]]:
    """What `--compile-only` has done, by its key."""
    path = cache / "compiled.jsonl"
    lines = path.read_text().splitlines() if path.exists() else []
    return {each["key"]: each for each in map(json.loads, lines)}


def key(request: Request) -> str:
    return " ".join(str(request[name]) for name in ("stem", "ep", "mode", "precision", "batch", "kind"))


def together(requests: list[Request], options: argparse.Namespace) -> Iterator[tuple[Request, dict[str, Any]]]:
    """Answers as they come, of `--jobs` processes at a time; none is begun after `--seconds`."""

    def one(request: Request) -> dict[str, Any]:
        return answer(request) if time.monotonic() < options.end else {"failed": "time was over"}

    with ThreadPoolExecutor(options.jobs) as pool:
        futures = {pool.submit(one, request): request for request in requests}
        for future in as_completed(futures):
            print(title(futures[future]), json.dumps(future.result()), flush=True)
            yield futures[future], future.result()


def compile_all(options: argparse.Namespace) -> int:
    failures = 0
    for request, found in together(compilations(options), options):
        failures += "failed" in found
        if "failed" not in found:
            with (options.cache / "compiled.jsonl").open("a") as file:
                file.write(json.dumps({"key": key(request), "jobs": options.jobs, **found}) + "\n")
    return int(failures > 0)


def measure_all(options: argparse.Namespace) -> int:
    """Time what the record has not, or has without what was compiled since. Failures stay out and are tried again."""
    record, there = begun(options.out), compiled(options.cache)
    failures = 0
    for cell in cells(options):
        cold = {kind: there[at] for kind in NETWORKS if (at := key(cell | {"kind": kind})) in there}
        facts = {name: cell[name] for name in ("name", "size", "ep", "precision", "batch", "search", "mode")}
        if any(row.items() >= facts.items() and row["compiled"].keys() >= cold.keys() for row in record["rows"]):
            continue
        if time.monotonic() > options.end:
            print("time is over")
            return 1
        found = answer(cell | {"what": "measure", "compiled": list(cold)})
        print(*lines(cell, found), sep="\n", flush=True)
        failures += "failed" in found and "variants" not in found
        if "variants" in found:
            rest = [row for row in record["rows"] if not row.items() >= facts.items()]
            record["rows"] = [*rest, {**facts, "compiled": cold, **found}]
            write(record, options.out)
    return int(failures > 0)


def lines(cell: Request, found: dict[str, Any]) -> Iterator[str]:
    yield f"{title(cell)} {found['failed'] or ''}"
    for name, row in found.get("variants", {}).items():
        yield f"  {name:32} {row['ms']:9.4f} ms  x{ratio(row)}  error {row['error']}  ready in {row['ready_s']} s"


def table(record: dict[str, Any], mode: str) -> list[str]:
    """In Markdown: milliseconds of the original file, and how many times as fast each other variant is, with its interval."""
    heads = ["model", "precision", "batch", "original", *(words.format(mode) for words in COLUMNS.values())]
    rows = [
        [row["name"], row["precision"], str(row["batch"]), f"{row['variants']['onnx original']['ms']:.3g} ms"]
        + [ratio(row["variants"].get(name.format(mode))) for name in COLUMNS]
        for row in record["rows"]
        if row["mode"] == mode
    ]
    return [f"| {' | '.join(cells)} |" for cells in (heads, ["---"] * len(heads), *rows)]


def ratio(found: dict[str, Any] | None) -> str:
    """Empty for a variant that was not timed."""
    return f"{found['ratio']:.2f} [{found['low']:.2f}, {found['high']:.2f}]" if found else ""


def begun(out: Path) -> dict[str, Any]:
    """The record so far; a new one says what it depends on."""
    if out.exists():
        return dict(json.loads(out.read_text()))
    packages = {name: installed(name) for name in ("torch", "triton", "timm", "onnxscript")}
    tf32 = {"onnxruntime use_tf32": "1", "torch float32_matmul_precision": "high", "torch cudnn.allow_tf32": True}
    surroundings = environment() | packages | {"gpus": states(), "tf32": tf32}
    return {"schema": SCHEMA, "environment": surroundings, "rows": []}


def installed(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None


def write(record: dict[str, Any], out: Path) -> None:
    draft = out.with_name(f".{out.name}.{os.getpid()}")
    draft.write_text(json.dumps(record, indent=1, allow_nan=False) + "\n", encoding="utf-8")
    draft.replace(out)


def arguments(words: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path, metavar="OUT.json")
    parser.add_argument("names", nargs="*", default=NAMES, metavar="NAME", help=f"default: {' '.join(NAMES)}")
    parser.add_argument("--prepare", action="store_true", help="only make the files")
    parser.add_argument("--compile-only", action="store_true", help="only compile what is not in the cache")
    parser.add_argument("--table", action="store_true", help="only show what OUT.json holds, in Markdown")
    parser.add_argument("--ep", choices=("cuda", "cpu"), default="cuda")
    parser.add_argument("--size", type=int, help="side of the pictures, where the network takes several (default: 64)")
    parser.add_argument("--precision", nargs="+", choices=("float32", "float16"), default=["float32", "float16"])
    parser.add_argument("--batch", nargs="+", type=int, choices=(1, 32), default=[1, 32])
    parser.add_argument("--search", choices=("DEFAULT", "HEURISTIC", "EXHAUSTIVE"), default="DEFAULT")
    parser.add_argument("--mode", help="of torch.compile (default: max-autotune on cuda, aot_eager on cpu)")
    parser.add_argument("--jobs", type=int, default=4, help="processes that prepare or compile at a time")
    parser.add_argument("--limit", type=float, default=300.0, help="seconds of one process")
    parser.add_argument("--seconds", type=float, default=480.0, help="no process is begun after these")
    parser.add_argument("--cache", type=Path, default=Path("/tmp/bnfold-instead"), metavar="FOLDER")
    options = parser.parse_args(words)
    options.mode = options.mode or ("max-autotune" if options.ep == "cuda" else "aot_eager")
    options.cache, options.end = options.cache.resolve(), time.monotonic() + options.seconds
    return options


def main(words: list[str] | None = None) -> int:
    options = arguments(words)
    if options.table:
        print(*table(begun(options.out), options.mode), sep="\n")
        return 0
    options.cache.mkdir(parents=True, exist_ok=True)
    if any("failed" in found for _, found in together(preparations(options), options)):
        return 1
    if options.prepare:
        return 0
    return compile_all(options) if options.compile_only else measure_all(options)


if __name__ == "__main__":
    end_together()
    sys.exit(main())
