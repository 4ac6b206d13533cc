"""What a verification found, as values: frozen, and ready to print or to write as JSON."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any, ClassVar

from ..display.display import Shown, Table
from ..display.junit import FAILED, PASSED, SKIPPED, UNDECIDED, JUnitCase
from ..runtime.placement import Placement
from ..runtime.providers import Way

PASS, FAIL, VACUOUS, INCONCLUSIVE = "PASS", "FAIL", "VACUOUS", "INCONCLUSIVE"
SITE_LIMIT = 8.0  # clean folds were measured at 2.1 or less, planted faults at 42 or more
SCHEMA = "bnfold.verify/1"


@dataclass(frozen=True)
class ChannelErrors:
    """Root mean square errors of the channels of a fold site against float64, over that of its tensor's true values.

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

    `ratio` is the folded model's error over the error a faultless fold is entitled to, the worst of the tensor and, at
    a fold site, of its channels; `rms_*` are errors against float64 relative to the root mean square of the truth.
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
    moved: bool
    channels: int = 0  # of a fold site
    live: int = 0  # channels whose true values are not all the same, whatever the input
    rms_noise: float = 0.0  # how far sessions of the original differ among themselves, likewise
    by_channel: ChannelErrors | None = None
    miscomputed: str = ""  # `original` or `both`: what runs wrong here, where the CPU confirms the float64 evaluation

    def place(self, *, channel: bool = True) -> str:
        """Where it is, for a sentence; without the `channel` of the largest error if that tells nothing."""
        kind = "output" if self.output else "fold site" if self.site else "tensor"
        at = f" channel {self.channel}" if channel and self.axis is not None and self.channel is not None else ""
        return f"{kind} {self.name!r} ({self.operator}){at}"

    def row(self) -> tuple[str, ...]:
        """For a table: name, channel, ratio and its limit, largest errors."""
        channel = str(self.channel) if self.axis is not None and self.channel is not None else ""
        errors = (f"{error:.2e}" for error in (self.max_abs_original, self.max_abs_folded))
        return (self.name, channel, f"{self.ratio:.2g}", f"{self.limit:g}", *errors)


@dataclass(frozen=True)
class Level:
    """One way of running both models on onnxruntime.

    `off`: as written, graph optimization off; `isolated`: likewise, but each fold site cut out and fed numbers of its
    own; `default`: as they are served, with onnxruntime's own graph optimization. `provider` and `math` say on what
    and with which arithmetic; the CPU has only one.
    """

    level: str
    ran: bool
    why: str  # why it did not run
    broken: bool  # it is the folded model alone that does not run
    same_graph: bool  # onnxruntime made both models the same graph: comparing them here shows nothing
    cases: tuple[str, ...]
    tensors: tuple[Compared, ...]
    provider: str = "cpu"
    math: str = "default"
    placements: tuple[Placement, ...] = ()

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
        """As JUnit wants it."""
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
        found = [t for t in self.tensors if t.output is output and not t.moved]
        return max(found, key=lambda t: t.ratio, default=None)

    @property
    def coverage(self) -> str:
        """How many of the channels of all fold sites held more than one value: a fault in another may not show."""
        channels = sum(tensor.channels for tensor in self.tensors)
        return f"{sum(tensor.live for tensor in self.tensors)}/{channels}" if channels else ""

    def row(self) -> tuple[str, ...]:
        """For a table: inputs, tensors, live channels of fold sites, the worst ratio and its place, largest errors."""
        if not self.ran:
            return (self.title, "0", "0", "", "not run", "", "", "")
        worst = max((t for t in self.tensors if not t.moved), key=lambda t: t.ratio, default=None)
        outputs = [t for t in self.tensors if t.output] or self.tensors
        errors = [
            max((getattr(t, f"max_abs_{which}") for t in outputs), default=0.0) for which in ("original", "folded")
        ]
        where = (f"{worst.ratio:.2g}", worst.name) if worst else ("", "")
        counts = (str(len(self.cases)), str(len(self.tensors)), self.coverage)
        return (self.title, *counts, *where, *(f"{e:.2e}" for e in errors))


@dataclass(frozen=True)
class Derived:
    """One fold site, its weights derived once more from the original in float64.

    `responses` numbers of the folded model were held against the original's, a `share` of all there are; the worst is
    `ratio` unit roundoffs off. A weight that is the correctly rounded one is off by 1 at most, `roundings` weights in a
    row by as many; up to eight times that a fold in less careful arithmetic is let pass.
    """

    name: str
    operator: str
    responses: int = 0
    share: float = 0.0
    ratio: float = 0.0
    roundings: float = 1.0
    inside: tuple[str, ...] = ()  # tensors that were derived along with it
    why: str = ""  # it could not be derived

    @property
    def ok(self) -> bool:
        return self.ratio <= SITE_LIMIT * self.roundings

    @property
    def proved(self) -> bool:
        """All of its weights are the correctly rounded ones: right for any input."""
        return self.exact and self.share == 1 and self.responses > 0

    @property
    def exact(self) -> bool:
        """Every weight that was looked at is the correctly rounded one, as far as float64 can tell."""
        return not self.why and self.ratio <= self.roundings * (1 + 2.0**-10)


@dataclass(frozen=True)
class Structure:
    """Everything about the models that can be compared without running them."""

    problems: tuple[str, ...]
    notes: tuple[str, ...]
    identical: bool  # the same model to the last byte, external data included
    untouched: int  # messages of the folded model (nodes, constants, shapes) that are the original's to the last byte
    edited: int  # and those that are not
    original: dict[str, int]
    folded: dict[str, int]


@dataclass(frozen=True, repr=False)
class Verification(Shown):
    """The verdict on a folded model: PASS, FAIL, VACUOUS (the comparison could not have failed) or INCONCLUSIVE."""

    verdict: str
    reasons: tuple[str, ...]
    notes: tuple[str, ...]
    structure: Structure | None
    levels: tuple[Level, ...]
    derived: tuple[Derived, ...]
    models: dict[str, dict[str, Any]]
    seconds: float

    WORST: ClassVar = ("level", "tensor", "channel", "ratio", "limit", "error A", "error B")
    COLUMNS: ClassVar = ("level", "inputs", "tensors", "live", "ratio", "worst at", "error A", "error B")

    def rows(self) -> list[tuple[str, ...]]:
        """One line per level for a table: how far the folded model is from float64, and how far the original is."""
        return [level.row() for level in self.levels] + self._algebra()

    def worst(self, most: int = 20) -> list[tuple[str, ...]]:
        """For a table with `WORST`: the outputs and fold sites with the largest ratios, of all levels."""
        found = [(t.ratio, level, t) for level in self.levels for t in level.tensors if t.output or t.site]
        found.sort(key=lambda entry: -entry[0])
        return [(level.title, *t.row()) for _, level, t in found[:most]]

    def _algebra(self) -> list[tuple[str, ...]]:
        known = [site for site in self.derived if site.responses]
        if not known:
            return []
        worst = max(known, key=lambda site: site.ratio / site.roundings)
        share = "all" if all(site.share == 1 for site in known) else "a share"
        sites = f"{len(known)}/{len(self.derived)}"
        return [("algebra", share, sites, "", f"{worst.ratio:.2g}", worst.name, "", "")]

    def in_a_line(self) -> str:
        """The verdict, and what it rests on: the largest error and what was proved, or the first reason."""
        ran = [t.ratio for level in self.levels for t in level.tensors if not (t.moved or t.disputed)]
        if not self.passed or not ran:
            return f"{self.verdict}: {self.reasons[0]}" if self.reasons else self.verdict
        proved = sum(site.proved for site in self.derived)
        proof = f"; {proved} of {len(self.derived)} fold sites proved for all inputs" if self.derived else ""
        return f"{self.verdict}: largest error {max(ran):.2g} times what rounding explains{proof}"

    @property
    def tone(self) -> str:
        return {PASS: "good", FAIL: "bad"}.get(self.verdict, "open")

    def tables(self) -> tuple[Table, ...]:
        rest = Table("Reasons and notes", ("",), [(words,) for words in (*self.reasons, *self.notes)])
        return Table("Error against float64 (A: original, B: folded)", self.COLUMNS, self.rows()), rest

    @property
    def passed(self) -> bool:
        return self.verdict == PASS

    @property
    def errors(self) -> tuple[float, float]:
        """The largest absolute error of the outputs against float64, optimization off, on the first provider."""
        off = [level for level in self.levels if level.level == "off"][:1]
        outputs = [t for level in off for t in level.tensors if t.output]
        return max((t.max_abs_original for t in outputs), default=0.0), max(
            (t.max_abs_folded for t in outputs), default=0.0
        )

    def checks(self) -> list[JUnitCase]:
        """One for every tier, and one for the verdict, as JUnit wants it."""
        problems = self.structure.problems if self.structure else ()
        off = [site for site in self.derived if not site.ok]
        found = [JUnitCase("structure", FAILED if problems else PASSED, "; ".join(problems))]
        found += [level.check() for level in self.levels]
        if self.derived:
            found.append(JUnitCase("algebra", FAILED if off else PASSED, ", ".join(site.name for site in off)))
        outcome = {PASS: PASSED, FAIL: FAILED}.get(self.verdict, UNDECIDED)
        return [*found, JUnitCase("verdict", outcome, f"{self.verdict}: {'; '.join(self.reasons)}")]

    def to_json(self) -> dict[str, Any]:
        """Plain data: outputs, fold sites, and whatever else is over its limit; other tensors as a count."""
        levels = []
        for level in self.levels:
            kept = [asdict(t) for t in level.tensors if t.output or t.site or not t.ok]
            levels.append({**asdict(level), "tensors": kept, "tensors_compared": len(level.tensors)})
        return {
            "schema": SCHEMA,
            "verdict": self.verdict,
            "reasons": list(self.reasons),
            "notes": list(self.notes),
            "models": self.models,
            "structure": asdict(self.structure) if self.structure else None,
            "worst_error": dict(zip(("original", "folded"), self.errors, strict=True)),
            "levels": levels,
            "algebra": [asdict(site) for site in self.derived],
            "seconds": round(self.seconds, 3),
        }
