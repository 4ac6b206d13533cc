"""Ways to serve a model: execution providers, their arithmetic, what onnxruntime is asked for. Nothing runs here."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from ..errors import UsageProblem
from .dimensions import Shapes
from .plugins import PLUGINS
from .sessions import CPU, CUDA, TENSORRT

PROVIDERS = {"cpu": CPU, "cuda": CUDA, "tensorrt": TENSORRT, **{key: each.name for key, each in PLUGINS.items()}}
LEAVES_TO = {"tensorrt": "cuda", **dict.fromkeys(PLUGINS, "cpu")}  # who runs what one that compiles graphs leaves
PROFILES = {"tensorrt": "trt_profile_{}_shapes", **{key: each.profile for key, each in PLUGINS.items()}}
MATHS = STRICT, DEFAULT = "strict", "default"
TF32_BITS = 13  # of float32's 23 that TF32 drops
QUICK = "DEFAULT"  # cuDNN's search that is over at once: 0.5 s where HEURISTIC takes 8 s (repghostnet_050, H200)
Chain = list[tuple[str, dict[str, str]]]


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
        plugin = PLUGINS.get(self.provider)
        strict = {"NVIDIA_TF32_OVERRIDE": "0"} if self.provider == "tensorrt" else plugin.strict if plugin else {}
        return dict(strict) if self.math == STRICT else {}

    @property
    def plain(self) -> str:
        """The provider, named as users do, that runs what this one leaves: itself, unless it compiles graphs."""
        return LEAVES_TO.get(self.provider, self.provider)


def ways(providers: Sequence[str], maths: Sequence[str] = MATHS) -> list[Way]:
    """Every way to be compared: each of `providers`, the GPU's with each of `maths`. Raises UsageProblem if none is."""
    known = (("execution provider", providers, (*PROVIDERS,)), ("arithmetic", maths, MATHS))
    for what, names, choice in known:
        if not names or not set(names) <= {*choice}:
            unknown = next((f"unknown {what} {name!r}" for name in names if name not in choice), f"no {what}")
            raise UsageProblem(unknown, f"Choose from: {', '.join(choice)}.")
    served = [[Way(name, math) for math in MATHS if math in maths] if name != "cpu" else [Way()] for name in providers]
    return list(dict.fromkeys(way for each in served for way in each))


def chain(way: Way, engine: Mapping[str, str] | None = None, search: str = "") -> Chain:
    """Providers in order of preference, with options. `engine` goes to the first if it compiles graphs.

    `search` is how cuDNN looks for a convolution's kernel; with none, as onnxruntime serves: it tries all of them out.
    """
    precision, search = ({"use_tf32": "0"}, search or QUICK) if way.math == STRICT else ({}, search)
    cuda = (CUDA, {**precision, **({"cudnn_conv_algo_search": search} if search else {})})
    last = cuda if way.plain == "cuda" else (CPU, {})
    return [last] if way.plain == way.provider else [(way.name, dict(engine or {})), last]


def without_tensorrt(way: Way) -> Chain:
    """The same way without TensorRT: to find sizes that run, and to see the nodes before TensorRT replaces them by an
    engine."""
    return chain(way, search=QUICK)[-1:]


def cached(way: Way, folder: str, prefix: str) -> dict[str, str]:
    """Options to keep what a provider compiles, each model's under its own prefix; none where it has no such options.

    Of TensorRT also timings, which all models share: both choose among kernels by the same figures.
    """
    if plugin := PLUGINS.get(way.provider):
        return {plugin.cache: f"{folder}/{prefix}"} if plugin.cache else {}
    if way.provider != "tensorrt":
        return {}
    return {
        "trt_engine_cache_enable": "True",
        "trt_engine_cache_path": folder,
        "trt_engine_cache_prefix": prefix,
        "trt_timing_cache_enable": "True",
        "trt_timing_cache_path": folder,
    }


def profile(way: Way, runs: Sequence[Shapes]) -> dict[str, str]:
    """Options for one engine that takes every run's input shapes; the first run's are the ones tuned for.

    No options where the provider has none, or where the notation has no room for a name (`:` and `,` separate):
    TensorRT then adapts as it goes.
    """
    names, option = list(runs[0]) if runs else [], PROFILES.get(way.provider, "")
    if not names or not option or any(mark in name for name in names for mark in ":,"):
        return {}
    kinds = {
        "min": {name: [min(axis) for axis in zip(*(run[name] for run in runs), strict=True)] for name in names},
        "opt": runs[0],
        "max": {name: [max(axis) for axis in zip(*(run[name] for run in runs), strict=True)] for name in names},
    }
    return {option.format(kind): _written(shapes) for kind, shapes in kinds.items()}


def _written(shapes: Shapes) -> str:
    return ",".join(f"{name}:{'x'.join(map(str, dims))}" for name, dims in shapes.items())
