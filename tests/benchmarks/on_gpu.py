"""Everything that needs a GPU, in one go: `python -m tests.benchmarks.on_gpu --out RESULT.json [--ep cuda|tensorrt|cpu] [NAMES...]`

doctor, then `bnfold verify` of the demo's model and of eight architectures on the provider, with strict and with
default math: verdicts, where every node ran, the size of the errors (TF32's too) and how far sessions of one model
differ. With `--bench SECONDS` the latency of each, too: batch 1 and 32, float32 and float16, I/O binding, on CUDA with and
without a CUDA graph. `--prepare` only makes the model files in `--cache`: with these carried along, the GPU machine needs no torch.
Exits 0 if everything passed, 1 if not, 4 if the provider does not run here.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import onnx

import bnfold
from bnfold.bench import benchmark
from bnfold.bench.environment import environment
from bnfold.errors import EnvironmentProblem
from bnfold.runtime.doctor import Diagnosis, doctor
from bnfold.runtime.providers import PROVIDERS
from bnfold.verification import Verification, verify
from bnfold.verification.dimensions import dynamic
from bnfold.verification.results import Level

SCHEMA = "bnfold.on_gpu/1"
DEMO = "demo"
NAMES = (
    DEMO,
    "resnet18",
    "mobilenetv3_small_100",
    "efficientnet_b0",
    "repvgg_a0",
    "densenet121",
    "levit_128s",
    "ghostnet_100",
    "hgnetv2_b0",
)
BATCHES = (1, 32)
COLUMNS = ("model", "level", "verdict", "ratio", "error A", "error B", "noise", "where B ran")


def pair(name: str, cache: Path) -> tuple[Path, Path]:
    """The files of a model and of its fold, made in `cache` unless they are there."""
    original, folded = cache / f"{name}.onnx", cache / f"{name}.folded.onnx"
    if not original.exists():
        make(name, cache)
    if not folded.exists():
        draft = folded.with_suffix(".part")
        bnfold.save(bnfold.fold(original).model, draft)
        draft.replace(folded)
    return original, folded


def make(name: str, cache: Path) -> None:
    """Export a model of the zoo, or train the demo's small network on handwritten digits."""
    cache.mkdir(parents=True, exist_ok=True)
    if name == DEMO:
        from bnfold.train import TrainOptions, train
        from bnfold.train.export import export

        trained = train(TrainOptions(data="digits", out=cache / "demo-run"))
        export(trained.run, cache / f"{DEMO}.onnx")
    else:
        from tests.zoo_models import exported

        exported(name, cache)


def summary(level: Level) -> dict[str, Any]:
    """One level in few numbers: errors and noise of the outputs, relative to their size, and where both models ran.

    Where the fold sites are on their own there are no outputs: theirs, then.
    """
    outputs = [tensor for tensor in level.tensors if tensor.output] or level.tensors
    kinds = ("rms_original", "rms_folded", "rms_noise", "max_abs_original", "max_abs_folded")
    worst = max((tensor.ratio for tensor in level.tensors if not tensor.moved), default=0.0)
    return {
        "provider": level.provider,
        "optimization": level.level,
        "math": level.math,
        "ran": level.ran,
        "same_graph": level.same_graph,
        "tensors": len(level.tensors),
        "inputs": len(level.cases),
        "largest_ratio": worst,
        **{kind: max((getattr(tensor, kind) for tensor in outputs), default=0.0) for kind in kinds},
        "placement": {placed.model: {"assigned": placed.assigned, "ran": placed.ran} for placed in level.placements},
    }


def row(name: str, found: Verification, level: Level) -> str:
    facts = summary(level)
    figures = [f"{facts[kind]:.2g}" for kind in ("largest_ratio", "rms_original", "rms_folded", "rms_noise")]
    where = level.placements[-1].words() if level.placements else "not run"
    return f"| {' | '.join([name, level.title, found.verdict, *figures, where])} |"


def rows(names: list[str], cache: Path, provider: str, effort: str, bench: float) -> Iterator[dict[str, Any]]:
    """Verify one model after another, and time it for `bench` seconds, printing as it goes."""
    print(f"| {' | '.join(COLUMNS)} |\n|{'---|' * len(COLUMNS)}")
    for name in names:
        found = verify(*pair(name, cache), providers=[provider], effort=effort)
        for level in found.levels:
            print(row(name, found, level), flush=True)
        if not found.passed:
            print(f"{name}: {found.verdict}: {'; '.join(found.reasons)}", flush=True)
        levels = [summary(level) for level in found.levels]
        kept = {"verdict": found.verdict, "reasons": found.reasons, "notes": found.notes, "models": found.models}
        timed = list(latencies(name, cache, provider, bench)) if bench else []
        yield {"name": name, **kept, "levels": levels, "seconds": round(found.seconds, 3), "latency": timed}


def halved(path: Path) -> Path:
    """The model in float16, its interface in float32, by onnxruntime's converter."""
    from onnxruntime.transformers.float16 import convert_float_to_float16

    target = path.with_suffix(".fp16.onnx")
    if not target.exists():
        onnx.save(convert_float_to_float16(onnx.load(path), keep_io_types=True), target)
    return target


def latencies(name: str, cache: Path, provider: str, seconds: float) -> Iterator[dict[str, Any]]:
    """Both precisions; the folded model is converted after it was folded, as one would deploy it."""
    graph = "both" if provider == "cuda" else "off"
    for precision, convert in (("float32", Path), ("float16", halved)):
        original, folded = map(convert, pair(name, cache))
        batch = dynamic(onnx.load(original, load_external_data=False).graph)[:1]
        how: dict[str, Any] = {"dims": dict.fromkeys(batch, BATCHES), "cuda_graph": graph, "mode": "device"}
        found = benchmark(original, folded, providers=[provider], levels=["default"], budget_s=seconds, **how)
        for line in found.rows():
            print(f"| {name} | {precision} | {' | '.join(line)} |", flush=True)
        yield {"precision": precision, **found.to_json()}


def record(diagnosis: Diagnosis, options: argparse.Namespace, models: list[dict[str, Any]]) -> dict[str, Any]:
    asked = {"provider": options.ep, "effort": options.effort}
    return {"schema": SCHEMA, **asked, "environment": environment(), "doctor": diagnosis.to_json(), "models": models}


def arguments(words: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"default: {' '.join(NAMES)}")
    parser.add_argument("--out", type=Path, metavar="PATH", help="where the JSON goes")
    parser.add_argument("--ep", choices=PROVIDERS, default="cuda")
    parser.add_argument("--effort", choices=("fast", "full"), default="fast")
    parser.add_argument("--cache", type=Path, default=Path("/tmp/bnfold-on-gpu"), metavar="FOLDER")
    parser.add_argument("--bench", type=float, default=0.0, metavar="SECONDS", help="time each precision so long, too")
    parser.add_argument("--prepare", action="store_true", help="only make the model files")
    options = parser.parse_args(words)
    if not options.prepare and not options.out:
        parser.error("--out PATH is needed")
    return options


def main(words: list[str] | None = None) -> int:
    options = arguments(words)
    names = options.names or list(NAMES)
    if options.prepare:
        print(*(path for name in names for path in pair(name, options.cache)), sep="\n")
        return 0
    diagnosis = doctor()
    try:
        diagnosis.require([options.ep])
    except EnvironmentProblem as problem:
        print(f"error: {problem}\nhint: {problem.hint}", file=sys.stderr)
        return problem.exit_code
    result = record(diagnosis, options, list(rows(names, options.cache, options.ep, options.effort, options.bench)))
    draft = options.out.with_name(f".{options.out.name}.{os.getpid()}")
    draft.write_text(json.dumps(result, indent=1, allow_nan=False) + "\n", encoding="utf-8")
    draft.replace(options.out)
    return int(any(model["verdict"] != "PASS" for model in result["models"]))


if __name__ == "__main__":
    sys.exit(main())
