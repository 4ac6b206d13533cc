"""The settings under which two models are compared, each of which gives one cell of the answer. Nothing runs here."""

from __future__ import annotations

import itertools
from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

from ..errors import UsageProblem
from ..runtime.input_options import require_dims
from ..runtime.providers import PROVIDERS, Chain, Way, chain
from ..runtime.sessions import CUDA, PROVIDER_OPTIONS

LEVELS = ("off", "default")
MODES = {
    "e2e": "numpy arrays in and out",
    "device": "inputs and outputs stay on the device (I/O binding)",
    "enqueue": "submission alone; the device is waited for at the end of a block only",
}
GRAPHS = {"off": (False,), "on": (True,), "both": (False, True)}
SEARCHES = {  # of cuDNN, with what a session of a network pays on an H200, again for every change of sizes
    "exhaustive": "tries all algorithms for every convolution, 10 s and more; onnxruntime's own default",
    "heuristic": "takes what cuDNN expects to be fastest, up to 8 s",
    "default": "takes one without a search, half a second; it may be a slower one",
}
PRECISIONS = FLOAT32, FLOAT16 = "float32", "float16"
Dims = Mapping[str, int | Sequence[int]]


@dataclass(frozen=True)
class Setting:
    """Level of onnxruntime's graph optimization, execution provider, what is timed, sizes of dynamic dimensions."""

    level: str
    provider: str = "cpu"
    mode: str = "e2e"
    dims: tuple[tuple[str, int], ...] = ()
    cuda_graph: bool = False
    cudnn_search: str = ""  # one of SEARCHES where CUDA takes part
    precision: str = ""  # one of PRECISIONS; as the models are where nothing was said

    @classmethod
    def of(cls, plain: Mapping[str, Any]) -> Setting:
        """The setting that `to_json` gave; JSON has no tuples."""
        return cls(**{**plain, "dims": tuple((name, size) for name, size in plain["dims"])})

    @property
    def way(self) -> Way:
        return Way(self.provider)

    def chain(self, engine: Mapping[str, str] | None = None) -> Chain:
        """Providers with options, as they serve; `engine` goes to TensorRT."""
        (first, options), *rest = chain(self.way, engine)
        graph = {"enable_cuda_graph": "1"} if self.cuda_graph else {}
        search = {"cudnn_conv_algo_search": self.cudnn_search.upper()} if self.cudnn_search else {}
        every = [(first, {**options, **graph}), *rest]
        return [(name, {**options, **(search if name == CUDA else {})}) for name, options in every]

    @property
    def session(self) -> Setting:
        """The same for settings that one session serves: other sizes, unless they are built into it."""
        return self if self.cuda_graph or self.provider not in ("cpu", "cuda") else replace(self, dims=())

    def words(self, parts: Collection[str] | None = None) -> str:
        """`default, cuda, device, N=8, CUDA graph`, or only the `parts` of it that are named."""
        named = self.parts().items()
        return ", ".join(words for name, words in named if words and (parts is None or name in parts))

    def parts(self) -> dict[str, str]:
        """Its parts in words, each by its name; empty where there is nothing to say."""
        sizes = ", ".join(f"{name}={size}" for name, size in self.dims)
        graph = "CUDA graph" if self.cuda_graph else ""
        return {
            "level": self.level,
            "provider": self.provider,
            "precision": self.precision,
            "mode": self.mode,
            "dims": sizes,
            "cuda_graph": graph,
            "cudnn_search": f"{self.cudnn_search} cuDNN search" if self.cudnn_search else "",
        }

    def to_json(self) -> dict[str, Any]:
        """Plain data."""
        return asdict(self)


def settings(
    levels: Sequence[str],
    providers: Sequence[str],
    mode: str | None,
    dims: Dims,
    cuda_graph: str = "off",
    cudnn_search: str | None = None,
    precisions: Sequence[str] = ("",),
) -> list[Setting]:
    """Every combination; without a `mode` a GPU is timed as device, the CPU as e2e. Raises UsageProblem."""
    _known("optimization level", levels, LEVELS)
    _known("execution provider", providers, tuple(PROVIDERS))
    _known("mode", [mode] if mode else ["e2e"], tuple(MODES))
    _known("choice of CUDA graph", [cuda_graph], tuple(GRAPHS))
    _known("search of cuDNN", [cudnn_search] if cudnn_search else ["default"], tuple(SEARCHES))
    _known("precision", [FLOAT32] if list(precisions) == [""] else precisions, PRECISIONS)
    _possible(providers, mode, cuda_graph, cudnn_search)
    several = require_dims({name: _several(size) for name, size in dims.items()})
    sizes = [[(name, size) for size in each] for name, each in several.items()]
    combinations = itertools.product(
        dict.fromkeys(providers), dict.fromkeys(precisions), itertools.product(*sizes), GRAPHS[cuda_graph], levels
    )
    search = cudnn_search or "exhaustive"
    return [
        Setting(level, provider, mode or _usual(provider), each, graph, search if _on_cuda(provider) else "", precision)
        for provider, precision, each, graph, level in combinations
    ]


def _usual(provider: str) -> str:
    return "e2e" if provider == "cpu" else "device"


def _several(sizes: int | Sequence[int]) -> Sequence[int]:
    return tuple(dict.fromkeys(sizes)) if isinstance(sizes, Sequence) else (sizes,)


def _known(what: str, names: Sequence[str], choice: Sequence[str]) -> None:
    for name in names or [""]:
        if name not in choice:
            raise UsageProblem(f"unknown {what} {name!r}", f"Choose from: {', '.join(choice)}.")


def _on_cuda(provider: str) -> bool:
    """Does CUDA take part, be it for what TensorRT leaves?"""
    return CUDA in dict(chain(Way(provider)))


def _possible(providers: Sequence[str], mode: str | None, cuda_graph: str, cudnn_search: str | None) -> None:
    if cudnn_search and not any(map(_on_cuda, providers)):
        raise UsageProblem("a search of cuDNN needs --ep cuda", "Leave --cudnn-search out.")
    if mode == "enqueue" and "cpu" in providers:
        raise UsageProblem("mode enqueue needs a GPU: a CPU run is over when it returns", "Use --mode e2e or device.")
    able = {each for each in PROVIDERS if "enable_cuda_graph" in PROVIDER_OPTIONS[PROVIDERS[each]]}
    if cuda_graph != "off" and (not able.issuperset(providers) or mode not in (None, "device")):
        names = " or ".join(each for each in PROVIDERS if each in able)
        raise UsageProblem(f"a CUDA graph needs --ep {names} and --mode device", "Leave --cuda-graph out, or off.")
