"""What was measured of a tensor, and of a level: one way of running both models."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from ..display.junit import FAILED, PASSED, SKIPPED, JUnitCase
from ..runtime.placement import Placement
from ..runtime.providers import Way

FLOAT64, ORIGINAL = "float64", "original"


@dataclass(frozen=True)
class ChannelErrors:
    """Root mean square errors against float64 of each channel of a fold site, relative to the tensor's true values.

    One for each channel along `axis`, in order; where a model has very many of them, not `every` one but quantiles,
    evenly spaced from the smallest error to the largest, those of the original and of the folded model apart.
    """

    axis: int
    channels: int
    every: bool
    original: tuple[float, ...]
    folded: tuple[float, ...]

    @classmethod
    def of(cls, plain: dict[str, Any]) -> ChannelErrors:
        """From JSON, which knows no tuples."""
        return cls(**{**plain, "original": tuple(plain["original"]), "folded": tuple(plain["folded"])})


@dataclass(frozen=True)
class Compared:
    """One tensor under one level of onnxruntime's optimization.

    `ratio` is the folded model's error over the error that a faultless fold may have, the worst of the tensor and, at
    a fold site, of its channels; `rms_*` are errors against float64, relative to the root mean square of the float64
    values. Where the reference of the level is the original, `rms_folded` is the distance to the original, relative to
    the root mean square of its values, and `ratio` and `limit` are that distance and its limit in unit roundoffs.
    """

    name: str
    operator: str
    output: bool
    site: bool
    ok: bool
    why: str
    ratio: float
    tensor_ratio: float
    limit: float
    axis: int | None
    channel: int | None
    max_abs_original: float
    max_abs_folded: float
    rms_original: float
    rms_folded: float
    disputed: bool
    usable: bool
    clear: bool  # rounding alone does not blur it so far that other values would pass
    constant: bool
    excluded: int
    elements: int
    moved: bool = False  # it has other values by design, inside a chain that an affine was moved along
    channels: int = 0  # of a fold site
    live: int = 0  # channels whose true values are not all the same, whatever the input
    rms_noise: float = 0.0  # as `rms_original`: how far sessions of the original differ from each other
    by_channel: ChannelErrors | None = None
    miscomputed: str = ""  # `original` or `both`: what runs wrong here, where the CPU confirms the float64 evaluation

    @classmethod
    def of(cls, plain: dict[str, Any]) -> Compared:
        """From JSON, which knows no tuples."""
        errors = plain["by_channel"]
        return cls(**{**plain, "by_channel": ChannelErrors.of(errors) if errors else None})

    def place(self, *, channel: bool = True) -> str:
        """`fold site 'y' (Conv) channel 3`, for a sentence: that of the largest error, unless `channel` is False."""
        kind = "output" if self.output else "fold site" if self.site else "tensor"
        at = f" channel {self.channel}" if channel and self.axis is not None and self.channel is not None else ""
        return f"{kind} {self.name!r} ({self.operator}){at}"

    def row(self) -> tuple[str, ...]:
        """For a table: name, channel, ratio and its limit, errors of both by the size of the tensor, largest ones."""
        channel = str(self.channel) if self.axis is not None and self.channel is not None else ""
        errors = (self.rms_original, self.rms_folded, self.max_abs_original, self.max_abs_folded)
        return (self.name, channel, f"{self.ratio:.2g}", f"{self.limit:g}", *(f"{error:.2g}" for error in errors))

    def distance(self) -> tuple[str, ...]:
        """For a table, where the reference is the original: relative distance, name, largest absolute difference."""
        return (f"{self.rms_folded:.2g}", self.name, f"{self.max_abs_folded:.2g}")


@dataclass(frozen=True)
class Level:
    """One way of running both models on onnxruntime.

    `off`: as written, graph optimization off; `isolated`: likewise, but each fold site cut out and fed random numbers;
    `default`: as they are served, with onnxruntime's own graph optimization. `provider` is the execution provider,
    `math` its arithmetic, of which the CPU has only one.
    """

    level: str
    ran: bool = False
    why: str = ""  # why it did not run
    broken: bool = False  # only the folded model does not run
    same_graph: bool = False  # onnxruntime made both models the same graph: comparing them here shows nothing
    cases: tuple[str, ...] = ()
    tensors: tuple[Compared, ...] = ()
    provider: str = "cpu"
    math: str = "default"
    reference: str = FLOAT64  # what errors are measured against: float64, or the original itself, as it is written
    placements: tuple[Placement, ...] = ()

    @classmethod
    def of(cls, plain: dict[str, Any]) -> Level:
        """From JSON, which knows no tuples."""
        placements = tuple(Placement(**{**each, "broken": tuple(each["broken"])}) for each in plain["placements"])
        tensors = tuple(map(Compared.of, plain["tensors"]))
        return cls(**{**plain, "cases": tuple(plain["cases"]), "tensors": tensors, "placements": placements})

    @property
    def confirms(self) -> bool:
        """Whether it only confirms a proof: its errors are the distances between the outputs of the two models."""
        return self.reference == ORIGINAL

    @property
    def title(self) -> str:
        """For a table: `off`, or `cuda off, strict math`."""
        return f"{self.provider} {self.level}, {self.math} math" if self.way.gpu else self.level

    @property
    def where(self) -> str:
        """For a sentence."""
        return ", ".join(filter(None, [self.way.words, f"optimization {self.level}"]))

    @property
    def way(self) -> Way:
        return Way(self.provider, self.math)

    def check(self) -> JUnitCase:
        """The test case of a JUnit report."""
        if not self.ran:
            return JUnitCase(self.title, FAILED if self.broken else SKIPPED, self.why)
        broken = [sentence for each in self.placements for sentence in each.broken]
        wrong = [f"{tensor.place()}: {tensor.why}" for tensor in self.bad] + broken
        return JUnitCase(self.title, FAILED if wrong else PASSED, "; ".join(wrong[:4]))

    @property
    def bad(self) -> tuple[Compared, ...]:
        """Tensors over their limit, in the order of the graph."""
        return tuple(tensor for tensor in self.tensors if not tensor.ok)

    def worst(self, *, output: bool) -> Compared | None:
        """The tensor with the largest ratio among the outputs, or among all others that count."""
        tensors = [t for t in self.tensors if t.output is output and not t.moved]
        return max(tensors, key=lambda t: t.ratio, default=None)

    @property
    def coverage(self) -> str:
        """`live/all` channels of all fold sites; one that always has one value may hide a fault."""
        channels = sum(tensor.channels for tensor in self.tensors)
        return f"{sum(tensor.live for tensor in self.tensors)}/{channels}" if channels else ""

    def row(self) -> tuple[str, ...]:
        """For a table: inputs, tensors, live channels of fold sites, the worst ratio and its place, and of the outputs
        the errors of both models by their size, and the largest ones."""
        if not self.ran:
            return (self.title, "0", "0", "", "not run", *[""] * 5)
        worst = max((t for t in self.tensors if not t.moved), key=lambda t: t.ratio, default=None)
        outputs = [t for t in self.tensors if t.output] or self.tensors
        errors = (
            worst_of(outputs, f"{kind}_{which}") for kind in ("rms", "max_abs") for which in ("original", "folded")
        )
        where = (f"{worst.ratio:.2g}", worst.name) if worst else ("", "")
        counts = (str(len(self.cases)), str(len(self.tensors)), self.coverage)
        return (self.title, *counts, *where, *(f"{e:.2g}" for e in errors))

    def distance(self) -> tuple[str, ...]:
        """For a table, where it only confirms: inputs, outputs, and of the one that is furthest apart how far."""
        furthest = max(self.tensors, key=lambda t: t.rms_folded)
        return (self.title, str(len(self.cases)), str(len(self.tensors)), *furthest.distance())


def worst_of(tensors: Iterable[Compared], error: str) -> float:
    """The largest of some errors; 0 where there are none."""
    return max((getattr(tensor, error) for tensor in tensors), default=0.0)


def largest_error(levels: Iterable[Level]) -> str:
    """The largest error of some levels, in words, by what they are measured against; "" where there is none."""
    known = [(level, t) for level in levels for t in level.tensors if not (t.moved or t.disputed)]
    ratios = [t.ratio for level, t in known if not level.confirms]
    distances = [t.rms_folded for level, t in known if level.confirms]
    words = [f"largest error {max(ratios):.2g} times what rounding explains"] if ratios else []
    if distances:
        furthest = max(distances)
        apart = f"differ from the original's by {furthest:.2g} of their size" if furthest else "are the original's"
        words.append(f"outputs {apart}")
    return ", ".join(words)
