"""Ways to serve a model: execution providers, their arithmetic, what onnxruntime is asked for. Nothing runs here."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from ..errors import UsageProblem
from .sessions import CPU, CUDA, TENSORRT

PROVIDERS = {"cpu": CPU, "cuda": CUDA, "tensorrt": TENSORRT}
MATHS = STRICT, DEFAULT = "strict", "default"
TF32_BITS = 13  # of float32's 23 that TF32 drops
QUICK = (
    "DEFAULT"  # cuDNN's search for kernels that is over at once: 0.5 s where HEURISTIC takes 8 s (repghostnet, H200)
)
Chain = list[tuple[str, dict[str, str]]]
Shapes = Mapping[str, Sequence[int]]  # of the inputs of one run


@dataclass(frozen=True)
class Way:
    """A provider and its arithmetic: `default`, as it serves (TF32, fastest algorithms), or `strict` float32.

    The CPU has only one arithmetic.
    """

    provider: str = "cpu"
    math: str = DEFAULT

    @property
    def name(self) -> str:
        """What onnxruntime calls the provider."""
        return PROVIDERS[self.provider]

    @property
    def words(self) -> str:
        """For the start of a sentence; the CPU goes without saying."""
        return f"{self.provider}, {self.math} math" if self.gpu else ""

    @property
    def gpu(self) -> bool:
        return self.provider != "cpu"

    @property
    def careful(self) -> bool:
        """Deterministic kernels, and fold sites also on their own: wherever float32 is meant to be float32."""
        return not self.gpu or self.math == STRICT

    @property
    def dropped_bits(self) -> int:
        """Low bits of a float32 number that the arithmetic may leave out."""
        return 0 if self.careful else TF32_BITS

    @property
    def environment(self) -> dict[str, str]:
        """What must be set before CUDA starts: TensorRT knows no option against TF32."""
        return {"NVIDIA_TF32_OVERRIDE": "0"} if self == Way("tensorrt", STRICT) else {}


def ways(providers: Sequence[str], maths: Sequence[str] = MATHS) -> list[Way]:
    """Every way to be compared: each of `providers`, the GPU's with each of `maths`. Raises UsageProblem if none is."""
    known = (("execution provider", providers, (*PROVIDERS,)), ("arithmetic", maths, MATHS))
    for what, names, choice in known:
        if not names or not set(names) <= {*choice}:
            unknown = next((f"unknown {what} {name!r}" for name in names if name not in choice), f"no {what}")
            raise UsageProblem(unknown, f"Choose from: {', '.join(choice)}.")
    found = [[Way(name, math) for math in MATHS if math in maths] if name != "cpu" else [Way()] for name in providers]
    return list(dict.fromkeys(way for each in found for way in each))


def chain(way: Way, engine: Mapping[str, str] | None = None, search: str = "") -> Chain:
    """Providers in order of preference, with options. `engine` goes to TensorRT, which leaves the rest to CUDA.

    `search` is how cuDNN looks for a convolution's kernel; with none, as onnxruntime serves: it tries all of them out.
    """
    if way.provider == "cpu":
        return [(CPU, {})]
    precision, search = ({"use_tf32": "0"}, search or QUICK) if way.math == STRICT else ({}, search)
    cuda = (CUDA, {**precision, **({"cudnn_conv_algo_search": search} if search else {})})
    return [cuda] if way.provider == "cuda" else [(TENSORRT, dict(engine or {})), cuda]


def without_tensorrt(way: Way) -> Chain:
    """The same way without TensorRT: to find sizes that run, and to see the graph before TensorRT swallows it."""
    return chain(way, search=QUICK)[-1:]


def cached(folder: str, prefix: str) -> dict[str, str]:
    """TensorRT options to keep engines, each model's under its own prefix, and timings, which all models share.

    Shared timings let both models choose among kernels by the same figures.
    """
    return {
        "trt_engine_cache_enable": "True",
        "trt_engine_cache_path": folder,
        "trt_engine_cache_prefix": prefix,
        "trt_timing_cache_enable": "True",
        "trt_timing_cache_path": folder,
    }


def profile(runs: Sequence[Shapes]) -> dict[str, str]:
    """TensorRT options for one engine that takes every run's input shapes; the first run's are the ones tuned for.

    No options where the notation has no room for a name (`:` and `,` separate): TensorRT then adapts as it goes.
    """
    names = list(runs[0]) if runs else []
    if not names or any(mark in name for name in names for mark in ":,"):
        return {}
    kinds = {
        "min": {name: [min(axis) for axis in zip(*(run[name] for run in runs), strict=True)] for name in names},
        "opt": runs[0],
        "max": {name: [max(axis) for axis in zip(*(run[name] for run in runs), strict=True)] for name in names},
    }
    return {f"trt_profile_{kind}_shapes": _written(shapes) for kind, shapes in kinds.items()}


def _written(shapes: Shapes) -> str:
    return ",".join(f"{name}:{'x'.join(map(str, dims))}" for name, dims in shapes.items())
