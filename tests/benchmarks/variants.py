"""One process of `tests.benchmarks.instead`: make the files of a model, compile one network, or time every variant.

python -m tests.benchmarks.variants REQUEST      JSON in, the answer as JSON in the last line of stdout
"""

from __future__ import annotations

import json
import math
import sys
import time
import traceback
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import onnx
import torch
from torch import Tensor, nn

import bnfold
from bnfold.folding import driver
from bnfold.runtime import libraries, sessions
from bnfold.runtime.nvml import states
from bnfold.runtime.providers import PROVIDERS
from bnfold.system.installed import runtime
from bnfold.train.to_onnx import converted
from tests.small_nets import NETS
from tests.zoo_models import OPSET, batch_norms, built, data, populated

KINDS = ("original", "folded", "timm")
NETWORKS = ("timm", "original")
BASE, AGAIN = "onnx original", "onnx original again"
BATCHES = (1, 32)
BLOCKS, WARM, BLOCK_SECONDS, RESAMPLES = 20, 10, 0.02, 500
STAND_IN = "aot_eager"  # a backend of torch.compile that needs no compiler and no GPU
Request = Mapping[str, Any]


class Variant(Protocol):
    """What is timed: each run begins with the input on the device and ends when the device is done."""

    def run(self, times: int) -> float:
        """Seconds of one run, the mean of several."""

    def output(self) -> np.ndarray:
        """Of the last run."""


class Onnx:
    """A file in onnxruntime at its default optimization, input and outputs at fixed places on the device."""

    def __init__(self, path: Path, x: np.ndarray, request: Request, graph: bool) -> None:
        ort, ep = runtime(), request["ep"]
        cuda = {"cudnn_conv_algo_search": request["search"], "use_tf32": "1", "enable_cuda_graph": str(int(graph))}
        chain = [(PROVIDERS[ep], cuda if ep == "cuda" else {})]
        self.session = sessions.session(str(path), sessions.options("default", threads=int(ep == "cpu")), chain)
        self.binding = self.session.io_binding()
        (given,), (made,) = self.session.get_inputs(), self.session.get_outputs()
        self.binding.bind_ortvalue_input(given.name, ort.OrtValue.ortvalue_from_numpy(x, ep, 0))
        shape = [size if isinstance(size, int) else len(x) for size in made.shape]
        self.binding.bind_ortvalue_output(
            made.name, ort.OrtValue.ortvalue_from_shape_and_type(shape, x.dtype.type, ep, 0)
        )

    def run(self, times: int) -> float:
        start = time.perf_counter()
        for _ in range(times):
            self.session.run_with_iobinding(self.binding)
        return (time.perf_counter() - start) / times

    def output(self) -> np.ndarray:
        return np.asarray(self.binding.get_outputs()[0].numpy())


class Torch:
    """A network of PyTorch, called as it is or compiled for this one shape."""

    def __init__(self, model: nn.Module, x: np.ndarray, request: Request, compiled: bool) -> None:
        self.x = torch.from_numpy(x).to(request["ep"])
        self.wait = torch.cuda.synchronize if request["ep"] == "cuda" else (lambda: None)
        model = model.to(self.x.dtype).to(request["ep"])
        how = {"backend" if request["mode"] == STAND_IN else "mode": request["mode"]}
        self.call: Callable[[Tensor], Tensor] = torch.compile(model, dynamic=False, **how) if compiled else model

    def run(self, times: int) -> float:
        start = time.perf_counter()
        with torch.inference_mode():
            for _ in range(times):
                self.result = self.call(self.x)
                self.wait()
        return (time.perf_counter() - start) / times

    def output(self) -> np.ndarray:
        return self.result.cpu().numpy()


def prepare(request: Request) -> dict[str, Any]:
    """Files of one network: weights, ONNX of each kind in both precisions, inputs with their true outputs (float64).

    The inputs are float16 numbers, so that both precisions are given the same.
    """
    model, shape = populated(request["name"], side(request["name"], request["size"]))
    stem = Path(request["stem"])
    torch.save(model.state_dict(), f"{stem}.pt")
    save(model, shape, stem)
    inputs = data(max(BATCHES), shape, torch.Generator().manual_seed(2)).half().double()
    with torch.inference_mode():
        truth = model.double()(inputs)
    draft = stem.with_name(f"{stem.name}.part.npz")
    np.savez(draft, inputs=inputs.numpy(), truth=truth.numpy())
    draft.replace(f"{stem}.npz")  # the last file: with it a network is prepared
    return {"name": request["name"], "shape": shape}


def side(name: str, size: int | None) -> int | None:
    """Of the pictures: the one asked for, unless the network takes one size only."""
    from timm.models import get_pretrained_cfg

    config = None if name in NETS else get_pretrained_cfg(name, allow_unregistered=False)
    return None if config and config.fixed_input_size else size


def save(model: nn.Module, shape: tuple[int, ...], stem: Path) -> None:
    """As exported, as folded by bnfold, and as exported after timm's re-parameterization; each in float16, too."""
    from onnxruntime.transformers.float16 import convert_float_to_float16

    onnx.save(converted(model, shape, OPSET, {}), f"{stem}.original.onnx")
    bnfold.save(driver.fold(f"{stem}.original.onnx").model, f"{stem}.folded.onnx")
    onnx.save(converted(reparameterized(model), shape, OPSET, {}), f"{stem}.timm.onnx")
    for kind in KINDS:
        half = convert_float_to_float16(onnx.load(f"{stem}.{kind}.onnx"), keep_io_types=False)
        onnx.save(half, f"{stem}.{kind}.float16.onnx")


def reparameterized(model: nn.Module) -> nn.Module:
    from timm.utils.model import reparameterize_model

    return reparameterize_model(model).eval()


def network(request: Request, kind: str) -> nn.Module:
    """The network with the weights that its ONNX files have."""
    model, _ = built(request["name"])
    model.load_state_dict(torch.load(f"{request['stem']}.pt", weights_only=True))
    model.eval()
    return reparameterized(model) if kind == "timm" else model


def picture(request: Request) -> tuple[np.ndarray, np.ndarray]:
    """Input in the precision asked for, and the true output."""
    with np.load(f"{request['stem']}.npz") as file:
        return file["inputs"][: request["batch"]].astype(request["precision"]), file["truth"][: request["batch"]]


def compile_one(request: Request) -> dict[str, Any]:
    """Compile one network for one shape into inductor's cache; says how long that took."""
    x, truth = picture(request)
    variant, seconds = ready(partial(Torch, network(request, request["kind"]), x, request, True))
    return {"seconds": seconds, "cache": caches(), "error": distance(variant.output(), truth)}


def ready(make: Callable[[], Variant]) -> tuple[Variant, float]:
    """A variant after its first run, and the seconds until then."""
    start = time.perf_counter()
    variant = make()
    variant.run(1)
    return variant, round(time.perf_counter() - start, 2)


def caches() -> dict[str, int]:
    """How often PyTorch found in its caches what it wanted compiled, and whether it left CUDA graphs out."""
    from torch._dynamo.utils import counters

    every = {**counters["inductor"], **counters["aot_autograd"]}
    return {name: count for name, count in sorted(every.items()) if "cache_" in name or "cudagraph" in name}


def distance(ours: np.ndarray, theirs: np.ndarray) -> float | None:
    """Largest difference relative to the largest number; None where one is not finite."""
    apart = float(np.abs(ours.astype(np.float64) - theirs).max() / (np.abs(theirs.astype(np.float64)).max() or 1))
    return float(f"{apart:.3g}") if math.isfinite(apart) else None


def variants(request: Request, x: np.ndarray) -> Iterator[tuple[str, Callable[[], Variant]]]:
    """Every variant by its name, the base first: how to make it."""
    ending = ".float16.onnx" if request["precision"] == "float16" else ".onnx"
    paths = {kind: Path(f"{request['stem']}.{kind}{ending}") for kind in KINDS}
    for name, kind in [*((f"onnx {kind}", kind) for kind in KINDS), (AGAIN, "original")]:
        yield name, partial(Onnx, paths[kind], x, request, False)
    for kind in KINDS if request["ep"] == "cuda" else ():
        yield f"onnx {kind}, CUDA graph", partial(Onnx, paths[kind], x, request, True)
    for kind in NETWORKS:
        yield f"torch {kind}", partial(Torch, network(request, kind), x, request, False)
    for kind in request["compiled"]:
        yield f"torch {kind}, {request['mode']}", partial(Torch, network(request, kind), x, request, True)


def measure(request: Request) -> dict[str, Any]:
    """All variants that run here, side by side; the words of those that do not."""
    x, truth = picture(request)
    made: dict[str, tuple[Variant, float]] = {}
    failed: dict[str, str] = {}
    for name, make in variants(request, x):
        try:
            made[name] = ready(make)
        except Exception as why:  # whatever PyTorch, Triton or onnxruntime raise
            if name == BASE:
                raise
            failed[name] = words(why)
    seconds = blocks([variant for variant, _ in made.values()])
    first, base = made[BASE][0].output(), seconds[:, 0]
    results = {
        name: {
            "ms": round(float(np.median(column)) * 1e3, 4),
            **interval(base, column),
            "error": distance(variant.output(), truth),
            "difference": distance(variant.output(), first),
            "ready_s": wait,
        }
        for (name, (variant, wait)), column in zip(made.items(), seconds.T, strict=True)
    }
    rest = {"failed": failed, "cache": caches(), "gpus": states(), "files": nodes(request["stem"])}
    return {"shape": list(x.shape), "variants": results, **rest}


def blocks(every: list[Variant]) -> np.ndarray:
    """Seconds of a run, one row for each block, one column for each variant: in random order, each row another."""
    for variant in every:
        variant.run(WARM)
    counts = [max(3, math.ceil(BLOCK_SECONDS / variant.run(5))) for variant in every]
    rng, measured = np.random.default_rng(), np.empty((BLOCKS, len(every)))
    for row in measured:
        for place in rng.permutation(len(every)):
            every[place].run(2)
            row[place] = every[place].run(counts[place])
    return measured


def interval(over: np.ndarray, under: np.ndarray) -> dict[str, float]:
    """How many times as long: the median over the blocks, and the 95 % interval from resampling them."""
    logs = np.log(over / under)
    resampled = np.median(np.random.default_rng(0).choice(logs, (RESAMPLES, len(logs))), axis=1)
    ends = np.exp([np.median(logs), *np.percentile(resampled, [2.5, 97.5])])
    return dict(zip(("ratio", "low", "high"), (round(float(end), 4) for end in ends), strict=True))


def nodes(stem: str) -> dict[str, dict[str, int]]:
    """Of each file: its nodes, and how many of them normalize."""
    models = {kind: onnx.load(f"{stem}.{kind}.onnx") for kind in KINDS}
    return {
        kind: {"nodes": len(m.graph.node), "batch_normalizations": len([*batch_norms(m)])} for kind, m in models.items()
    }


def words(why: Exception) -> str:
    return f"{type(why).__name__}: {why}".strip()[:500]


def main(request: Request) -> dict[str, Any]:
    """The answer, or `{"failed": why}` with all that PyTorch says on stderr."""
    torch.set_float32_matmul_precision("high")  # TF32, as onnxruntime's default
    torch.backends.cudnn.allow_tf32 = True
    libraries.preload(request["ep"])
    if request["ep"] == "cpu":
        torch.set_num_threads(1)  # its threads and onnxruntime's would wait for each other
    try:
        return {"prepare": prepare, "compile": compile_one, "measure": measure}[request["what"]](request)
    except Exception as why:
        traceback.print_exc()
        return {"failed": words(why)}


if __name__ == "__main__":
    print(json.dumps(main(json.loads(sys.argv[1])), allow_nan=False))
