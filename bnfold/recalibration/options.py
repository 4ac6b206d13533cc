"""Options of a recalibration."""

from __future__ import annotations

from dataclasses import dataclass

from ..errors import UsageProblem, require_within
from ..runtime.providers import STRICT, Way, ways
from ..system import sizes
from .feeds.image_options import BY_THE_MODEL, ImageOptions

METHODS = ("sequential", "alg2", "pooled")
SUPPORTED_PROVIDERS = ("cpu", "cuda")  # TensorRT would compile an engine for the part before every normalization
GIB = 1 << 30
SMALLEST_THRESHOLD = 1e-9  # standard deviations
BATCH = {"sequential": 64, "alg2": 60, "pooled": 60}


@dataclass(frozen=True)
class Options:
    """`batch_size` is the mini-batch of alg2 and pooled; sequential gives the same for any, and runs so many at a time.

    What lies between two layers is kept in memory up to `memory_limit` bytes, then in a temporary file. `threshold` is
    the drift, in standard deviations, from which statistics do not fit. The model runs on `provider`, always in strict
    float32 (no TF32) and with deterministic kernels. `images` says how images are
    brought to it. Raises UsageProblem for what makes no sense.
    """

    method: str = "sequential"
    batch_size: int | None = None
    memory_limit: int = GIB
    threshold: float = 0.5
    any_range: bool = False
    provider: str = "cpu"
    images: ImageOptions = BY_THE_MODEL

    def __post_init__(self) -> None:
        for name, value, choice in (("--method", self.method, METHODS), ("--ep", self.provider, SUPPORTED_PROVIDERS)):
            if value not in choice:
                raise UsageProblem(f"unknown choice {value!r} for {name}", f"Choose one of: {', '.join(choice)}.")
        require_within("--batch-size", self.size, 1, 1 << 31)
        require_within("--threshold", self.threshold, SMALLEST_THRESHOLD, 1 / SMALLEST_THRESHOLD)
        require_within("--memory-limit", self.memory_limit, 0, 1 << 62)

    @property
    def is_sequential(self) -> bool:
        return self.method == "sequential"

    @property
    def way(self) -> Way:
        """How onnxruntime is to run the model."""
        return ways([self.provider], [STRICT])[0]

    @property
    def size(self) -> int:
        return BATCH[self.method] if self.batch_size is None else self.batch_size


def parse_memory(text: str) -> int:
    """`512MB`, `1.5GiB` or a number of bytes. Raises UsageProblem."""
    size = sizes.parse(text)
    if size is None:
        raise UsageProblem(f"--memory-limit {text!r} is not a size", f"Give one such as 512MB or 4GiB. {sizes.UNITS}")
    return int(size)
