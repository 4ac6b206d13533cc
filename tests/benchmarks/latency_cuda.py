"""Latency on CUDA of networks as exported and as folded: `python -m tests.benchmarks.latency_cuda OUT.json [NAMES...]`

float32 and float16, batch 1 and 32, and batch 1 inside a CUDA graph, at onnxruntime's default optimization. Sessions of both
models, and a second one of the original as control, live in one process; inputs and outputs stay on the device. Blocks of
runs are interleaved in random order; a ratio is the median over the blocks, its 95 % interval from resampling them.
`--search` is cuDNN's search for an algorithm, the same for all sessions: with EXHAUSTIVE, onnxruntime's default, a session of
mobileone_s0 takes 10 to 15 s until it is ready, with HEURISTIC 1 s. `--ep cpu` tries the script where there is no GPU.
A row is written as soon as it is measured; `--seconds` are the limit after which no new one is begun.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort

from bnfold.bench.environment import environment
from bnfold.bench.nvml import gpus
from tests.benchmarks.on_gpu import halved, pair

SCHEMA = "bnfold.latency_cuda/1"
NAMES = (
    "mobileone_s0",
    "repvgg_a0",
    "fastvit_t8",
    "repvit_m0_9",
    "repghostnet_050",
    "levit_128s",
    "densenet121",
    "resnet18",
)
EPS = {"cuda": "CUDAExecutionProvider", "cpu": "CPUExecutionProvider"}
BLOCKS, WARM, BLOCK_SECONDS, RESAMPLES = 25, 10, 0.02, 500
SETTINGS = [(1, False), (32, False), (1, True)]  # batch, inside a CUDA graph


class Bound:
    """One session with its input and outputs on the device."""

    def __init__(self, path: Path, ep: str, settings: dict[str, str], batch: int) -> None:
        options = ort.SessionOptions()
        options.log_severity_level = 4
        self.session = ort.InferenceSession(str(path), options, providers=[(EPS[ep], settings)])
        self.binding = self.session.io_binding()
        (given,) = self.session.get_inputs()
        data = np.random.default_rng(0).standard_normal(sized(given.shape, batch)).astype(np.float32)
        self.binding.bind_ortvalue_input(given.name, ort.OrtValue.ortvalue_from_numpy(data, ep, 0))
        for made in self.session.get_outputs():
            room = ort.OrtValue.ortvalue_from_shape_and_type(sized(made.shape, batch), np.float32, ep, 0)
            self.binding.bind_ortvalue_output(made.name, room)

    def run(self, times: int) -> float:
        """Seconds of one run, the mean of several."""
        start = time.perf_counter()
        for _ in range(times):
            self.session.run_with_iobinding(self.binding)
        return (time.perf_counter() - start) / times

    def output(self) -> np.ndarray:
        return self.binding.get_outputs()[0].numpy()


def sized(shape: list[int | str], batch: int) -> list[int]:
    return [size if isinstance(size, int) else batch for size in shape]


def blocks(sessions: list[Bound]) -> np.ndarray:
    """Seconds of a run, one row for each block, one column for each session."""
    for session in sessions:
        session.run(WARM)
    times = max(3, int(BLOCK_SECONDS / sessions[0].run(5)))
    rng, measured = np.random.default_rng(), np.empty((BLOCKS, len(sessions)))
    for row in measured:
        for place in rng.permutation(len(sessions)):
            sessions[place].run(2)
            row[place] = sessions[place].run(times)
    return measured


def interval(over: np.ndarray, under: np.ndarray) -> dict[str, float]:
    logs = np.log(over / under)
    resampled = np.median(np.random.default_rng(0).choice(logs, (RESAMPLES, len(logs))), axis=1)
    ends = np.exp([np.median(logs), *np.percentile(resampled, [2.5, 97.5])])
    return dict(zip(("ratio", "low", "high"), (round(float(end), 4) for end in ends), strict=True))


def row(original: Path, folded: Path, ep: str, search: str, batch: int, graph: bool) -> dict[str, Any]:
    """What folding brings at one setting: milliseconds, ratio, control, and how far the outputs are apart."""
    cuda = {"cudnn_conv_algo_search": search, "enable_cuda_graph": str(int(graph))}
    sessions = [Bound(path, ep, cuda if ep == "cuda" else {}, batch) for path in (original, folded, original)]
    first, other, again = blocks(sessions).T
    a, b = (session.output() for session in sessions[:2])
    return {
        "batch": batch,
        "cuda_graph": graph,
        "search": search,
        "ms": [round(float(np.median(column)) * 1e3, 4) for column in (first, other)],
        **interval(first, other),
        "control": interval(first, again),
        "difference": float(f"{np.abs(a - b).max() / (np.abs(a).max() or 1):.2g}"),
    }


def rows(name: str, options: argparse.Namespace) -> Iterator[dict[str, Any]]:
    for precision, convert in (("float32", Path), ("float16", halved)):
        original, folded = map(convert, pair(name, options.cache))
        for batch, graph in SETTINGS:
            yield {
                "name": name,
                "precision": precision,
                **row(original, folded, options.ep, options.search, batch, graph and options.ep == "cuda"),
            }


def main(words: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path, metavar="OUT.json")
    parser.add_argument("names", nargs="*", default=NAMES, metavar="NAME", help=f"default: {' '.join(NAMES)}")
    parser.add_argument("--ep", choices=EPS, default="cuda")
    parser.add_argument("--search", choices=("HEURISTIC", "EXHAUSTIVE", "DEFAULT"), default="HEURISTIC")
    parser.add_argument("--seconds", type=float, default=480.0)
    parser.add_argument(
        "--cache", type=Path, default=Path("/tmp/bnfold-on-gpu"), metavar="FOLDER", help="of the models"
    )
    options = parser.parse_args(words)
    record: dict[str, Any] = {"schema": SCHEMA, "environment": environment() | {"gpus": gpus()}, "rows": []}
    end = time.monotonic() + options.seconds
    for found in (found for name in options.names for found in rows(name, options)):
        record["rows"].append(found)
        options.out.write_text(json.dumps(record, indent=1) + "\n")
        print(
            *(found[key] for key in ("name", "precision", "batch", "cuda_graph", "ms", "ratio", "low", "high")),
            flush=True,
        )
        if time.monotonic() > end:
            return print("time is over")


if __name__ == "__main__":
    main()
