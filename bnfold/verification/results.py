"""The result of a verification: frozen dataclasses, ready to print or to write as JSON."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields
from itertools import chain
from typing import Any, ClassVar

from ..display.display import Shown, Table, counted
from ..display.junit import FAILED, PASSED, UNDECIDED, JUnitCase
from .level_results import FLOAT64, Level, largest_error, worst_of

PASS, FAIL, VACUOUS, INCONCLUSIVE = "PASS", "FAIL", "VACUOUS", "INCONCLUSIVE"
GRADES = PROVED, MEASURED = "proved", "measured"  # for all inputs; on those that were tried
SITE_LIMIT = 8.0  # clean folds were measured at 2.1 or less, planted faults at 42 or more
SCHEMA = "bnfold.verify/1"


@dataclass(frozen=True)
class Derived:
    """One fold site, its weights derived once more from the original in float64.

    `responses` numbers of the folded model were compared with the original's, a `share` of all there are; the worst is
    `ratio` unit roundoffs off. A correctly rounded weight is off by 1 at most, `roundings` weights in a row by as many;
    a fold in less careful arithmetic passes with up to eight times that.
    """

    name: str
    operator: str
    responses: int = 0
    share: float = 0.0
    ratio: float = 0.0
    roundings: float = 1.0
    inside: tuple[str, ...] = ()  # tensors that were derived along with it
    why: str = ""  # why it could not be derived
    effect: float = 0.0  # as `ratio`, in roundoffs of what the original's weights are the sums of; 0 where that is 1

    @property
    def ok(self) -> bool:
        """Whether no weight is further off than a fold makes it that computes in the type of the model."""
        return min(self.ratio, self.effect) <= SITE_LIMIT * self.roundings

    @property
    def covered(self) -> bool:
        """Whether all of its weights were compared, and none is further off than rounding explains."""
        return self.ok and not self.why and self.share == 1 and self.responses > 0

    @property
    def proved(self) -> bool:
        """Whether all of its weights are the correctly rounded ones: right for any input."""
        return self.exact and self.share == 1 and self.responses > 0

    @property
    def exact(self) -> bool:
        """Whether every weight that was compared is the correctly rounded one, up to float64's own rounding."""
        return not self.why and self.ratio <= self.roundings * (1 + 2.0**-10)


@dataclass(frozen=True)
class Influence:
    """What is known of the nodes that only one of the models has."""

    proved: bool = False  # the structure and the algebra of the fold sites show all outputs equal, for all inputs
    changed: int = 0  # nodes of either model that no fold site covers
    unseen: tuple[str, ...] = ()  # a sentence for each of them of which no input showed what it does

    @property
    def explained(self) -> bool:
        """No node that changed is left: each difference between the models is known to be none."""
        return self.proved or not (self.changed or self.unseen)

    @classmethod
    def of(cls, plain: dict[str, Any]) -> Influence:
        """From JSON, which knows no tuples."""
        return cls(**{**plain, "unseen": tuple(plain["unseen"])})


@dataclass(frozen=True)
class Numbers:
    """The result of the numeric tier for one provider and arithmetic, or for all."""

    levels: tuple[Level, ...] = ()
    blocked: tuple[str, ...] = ()  # why something could not be compared
    notes: tuple[str, ...] = ()
    derived: tuple[Derived, ...] = ()
    influence: tuple[Influence, ...] = ()

    @classmethod
    def of(cls, plain: dict[str, Any]) -> Numbers:
        """From JSON, which knows no tuples."""
        derived = tuple(Derived(**{**each, "inside": tuple(each["inside"])}) for each in plain["derived"])
        influence, levels = tuple(map(Influence.of, plain["influence"])), tuple(map(Level.of, plain["levels"]))
        return cls(levels, tuple(plain["blocked"]), tuple(plain["notes"]), derived, influence)

    @classmethod
    def joined(cls, several: Sequence[Numbers]) -> Numbers:
        """One after the other."""
        return cls(*(tuple(chain.from_iterable(getattr(each, f.name) for each in several)) for f in fields(cls)))


@dataclass(frozen=True)
class Change:
    """The changes of one kind in the file that change nothing in what the model computes: how many, the first as
    sentences."""

    kind: str
    count: int
    words: tuple[str, ...]

    MOST: ClassVar = 4  # sentences

    @classmethod
    def of(cls, kind: str, words: Sequence[str]) -> Change:
        """From a sentence for each change."""
        return cls(kind, len(words), tuple(words[: cls.MOST]))

    def in_a_line(self) -> str:
        """The first sentence, and how many more there are."""
        return self.words[0] + (f" ({self.count - 1} more)" if self.count > 1 else "")


@dataclass(frozen=True)
class Structure:
    """Everything about the models that can be compared without running them."""

    problems: tuple[str, ...]  # why it fails: first what makes the model invalid, then its interface
    notes: tuple[str, ...]
    changes: tuple[Change, ...]  # in the file, not in what it computes; problems as well where it is to be untouched
    identical: bool  # the same model to the last byte, external data included
    untouched: int  # messages of the folded model (nodes, constants, shapes) that are the original's to the last byte
    edited: int  # and those that are not
    original: dict[str, int]
    folded: dict[str, int]

    @classmethod
    def of(cls, plain: dict[str, Any]) -> Structure:
        """From JSON, which knows no tuples."""
        changes = tuple(Change(**{**each, "words": tuple(each["words"])}) for each in plain["changes"])
        sentences = {part: tuple(plain[part]) for part in ("problems", "notes")}
        return cls(**{**plain, **sentences, "changes": changes})


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
    influence: tuple[Influence, ...] = ()  # one for each provider, in strict math

    ERRORS: ClassVar = ("error A / size", "error B / size", "largest error A", "largest error B")
    WORST: ClassVar = ("level", "tensor", "channel", "ratio", "limit", *ERRORS)
    COLUMNS: ClassVar = ("level", "inputs", "tensors", "live", "ratio", "worst at", *ERRORS)
    DISTANCES: ClassVar = ("level", "inputs", "outputs", "distance / size", "furthest", "largest difference")

    def rows(self) -> list[tuple[str, ...]]:
        """One line per level for a table: the errors of the folded model against float64, and those of the original."""
        measured = [level.row() for level in self.levels if not level.confirms]
        algebra = [("algebra", *counts, "", ratio, name, *[""] * 4) for *counts, ratio, name in self._algebra()]
        return measured + algebra if measured or not self.levels else []

    def distances(self) -> list[tuple[str, ...]]:
        """For a table with `DISTANCES`, where a proof is confirmed: how far the outputs of the models are apart."""
        apart = [level.distance() for level in self.levels if level.confirms]
        algebra = [("algebra", *counts, f"{ratio} roundoffs", name, "") for *counts, ratio, name in self._algebra()]
        return apart + algebra if apart and len(apart) == len(self.levels) else apart

    def worst(self, most: int = 20) -> list[tuple[str, ...]]:
        """For a table with `WORST`: the outputs and fold sites with the largest ratios, of all levels."""
        measured = [level for level in self.levels if not level.confirms]
        entries = [(t.ratio, level, t) for level in measured for t in level.tensors if t.output or t.site]
        entries.sort(key=lambda entry: -entry[0])
        return [(level.title, *t.row()) for _, level, t in entries[:most]]

    def _algebra(self) -> list[tuple[str, ...]]:
        """A line about the fold sites that were derived: weights, sites, the worst in unit roundoffs, and its name."""
        known = [site for site in self.derived if site.responses]
        if not known:
            return []
        worst = max(known, key=lambda site: site.ratio / site.roundings)
        share = "all" if all(site.share == 1 for site in known) else "a share"
        return [(share, f"{len(known)}/{len(self.derived)}", f"{worst.ratio:.2g}", worst.name)]

    def in_a_line(self) -> str:
        """The verdict, and what it rests on: the largest error and what was proved, or the first reason."""
        error = largest_error(self.levels)
        if not self.passed or not error:
            return f"{self.said}: {self.reasons[0]}" if self.reasons else self.said
        proved = sum(site.proved for site in self.derived)
        proof = f"; {proved} of {len(self.derived)} fold sites proved" if self.derived else ""
        return f"{self.said}: {error}{proof}"

    @property
    def tone(self) -> str:
        return {PASS: "good", FAIL: "bad"}.get(self.verdict, "open")

    def tables(self) -> tuple[Table, ...]:
        rest = Table("Reasons and notes", ("",), [(words,) for words in (*self.reasons, *self.notes)])
        return *self.errors_tables(), self.changes_table(), rest

    def errors_tables(self, detailed: bool = False) -> tuple[Table, ...]:
        """The errors of both models, one line per level; in a table of their own the levels that confirm a proof.

        They are root mean squares by that of the tensor; if `detailed`, the largest absolute ones are there, too.
        """
        tables = (
            ("Error against float64 (A: original, B: folded)", self.COLUMNS, self.rows(), 2),
            ("Outputs of B against those of A, which confirms the proof", self.DISTANCES, self.distances(), 1),
        )
        shown = [(t, c, rows, None if detailed else -last) for t, c, rows, last in tables]
        return tuple(Table(t, c[:end], [row[:end] for row in rows]) for t, c, rows, end in shown)

    def changes_table(self) -> Table:
        """What changed in the file apart from what the model computes, the worst first."""
        changes = self.structure.changes if self.structure else ()
        rows = [(each.kind, str(each.count), "; ".join(each.words)) for each in changes]
        return Table("What else changed in the file", ("what", "changes", "the first of them"), rows)

    @property
    def passed(self) -> bool:
        return self.verdict == PASS

    @property
    def grade(self) -> str:
        """Of a PASS: `proved` by structure and algebra, for all inputs, or `measured`; "" of other verdicts."""
        whole = (self.structure and self.structure.identical) or any(each.proved for each in self.influence)
        return "" if not self.passed else PROVED if whole else MEASURED

    @property
    def said_grade(self) -> str:
        """The grade in words: `proved for all inputs`, `measured on 3 inputs`."""
        inputs = {case for level in self.levels if level.ran for case in level.cases}
        return "proved for all inputs" if self.grade == PROVED else f"measured on {counted(len(inputs), 'input')}"

    @property
    def said(self) -> str:
        """The verdict; a PASS with its grade."""
        return f"{self.verdict}, {self.said_grade}" if self.passed else self.verdict

    @property
    def _off(self) -> list[Level]:
        return [level for level in self.levels if level.level == "off"][:1]

    @property
    def reference(self) -> str:
        """What errors are measured against: `float64`, or `the original` where that only confirms a proof."""
        return "the original" if any(level.confirms for level in self._off) else FLOAT64

    @property
    def errors(self) -> tuple[float, float]:
        """The largest absolute error of the outputs against `reference`, optimization off, on the first provider."""
        return self._of_outputs("max_abs")

    @property
    def relative_errors(self) -> tuple[float, float]:
        """The same as a share: root mean square of the error by that of the output, the largest of the outputs."""
        return self._of_outputs("rms")

    def _of_outputs(self, kind: str) -> tuple[float, float]:
        outputs = [t for level in self._off for t in level.tensors if t.output]
        return worst_of(outputs, f"{kind}_original"), worst_of(outputs, f"{kind}_folded")

    def checks(self) -> list[JUnitCase]:
        """Test cases of a JUnit report: one for each tier, and one for the verdict."""
        problems = self.structure.problems if self.structure else ()
        off = [site for site in self.derived if not site.ok]
        cases = [JUnitCase("structure", FAILED if problems else PASSED, "; ".join(problems))]
        cases += [level.check() for level in self.levels]
        if self.derived:
            cases.append(JUnitCase("algebra", FAILED if off else PASSED, ", ".join(site.name for site in off)))
        outcome = {PASS: PASSED, FAIL: FAILED}.get(self.verdict, UNDECIDED)
        return [*cases, JUnitCase("verdict", outcome, f"{self.verdict}: {'; '.join(self.reasons)}")]

    def to_json(self) -> dict[str, Any]:
        """Plain data: outputs, fold sites, and whatever else is over its limit; other tensors as a count."""
        levels = []
        for level in self.levels:
            kept = [asdict(t) for t in level.tensors if t.output or t.site or not t.ok]
            levels.append({**asdict(level), "tensors": kept, "tensors_compared": len(level.tensors)})
        return {
            "schema": SCHEMA,
            "verdict": self.verdict,
            "grade": self.grade,
            "reasons": list(self.reasons),
            "notes": list(self.notes),
            "models": self.models,
            "structure": asdict(self.structure) if self.structure else None,
            "worst_error": dict(zip(("against", "original", "folded"), (self.reference, *self.errors), strict=True)),
            "levels": levels,
            "algebra": [asdict(site) for site in self.derived],
            "influence": [asdict(each) for each in self.influence],
            "seconds": round(self.seconds, 3),
        }
