"""`bnfold fold` on files: read, fold, verify, and only then write. OUT appears whole and verified, or not at all."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import onnx

from ..errors import BnfoldError, CheckFailed, Inconclusive, UsageProblem
from ..model import external, onnx_io
from ..model.datafiles import file_size, require_unchanged, unchanged
from ..model.messages import counts
from ..model.storage import Storage
from ..model.validity import checked_meanwhile
from ..system import staging
from ..system.installed import require_runtime
from ..system.limits import PLANNING, timed
from .verified import prepared_verification, verified

if TYPE_CHECKING:
    from ..display.junit import JUnitCase
    from ..verification import Verification
    from .driver import FoldResult

EFFORTS = ("fast", "full", "off")
GRADES = ("measured", "proved")
SCHEMA = "bnfold.fold/1"


@dataclass(frozen=True)
class Size:
    """How large a model is: nodes, those of them that are BatchNormalization, also in bodies and functions, and bytes.

    `bytes` are those of its file and of the data files that it refers to; `data_bytes` those of the data files alone.
    """

    nodes: int
    batch_normalizations: int
    bytes: int
    data_bytes: int = 0


@dataclass(frozen=True)
class FoldReport:
    """What `fold_file` did. `written` is false after a dry run; `unchanged` means the file was copied byte for byte.

    Large tensors of `result.model` are only in the file that was written.
    """

    source: Path
    target: Path
    result: FoldResult
    before: Size
    after: Size
    verification: Verification | None
    written: bool
    unchanged: bool
    seconds: float

    @property
    def already_folded(self) -> bool:
        """There was nothing to do: the original has no BatchNormalization, and nothing else in it folds."""
        return self.unchanged and not self.before.batch_normalizations

    def checks(self, strict: bool = False) -> list[JUnitCase]:
        """What a pipeline wants to see, as JUnit has it: the fold, with `strict` what was kept, the verification."""
        from ..display.junit import FAILED, PASSED, SKIPPED, JUnitCase

        kept = self.result.batch_norms_kept
        cases = [JUnitCase("fold", PASSED, self.result.counts.words)]
        cases += [JUnitCase(f"kept: {k.node or k.output}", FAILED, "; ".join(k.coded)) for k in kept if strict]
        cases += [JUnitCase("nothing kept", PASSED)] if strict and not kept else []
        unverified = [] if self.unchanged else [JUnitCase("verdict", SKIPPED, "NOT VERIFIED: --verify off")]
        return cases + (self.verification.checks() if self.verification else unverified)

    def to_json(self) -> dict[str, Any]:
        """Plain data, schema `bnfold.fold/1`."""
        return {
            "schema": SCHEMA,
            "source": str(self.source),
            "target": str(self.target),
            "written": self.written,
            "unchanged": self.unchanged,
            "before": asdict(self.before),
            "after": asdict(self.after),
            "other_affine_nodes": dict(zip(("before", "after"), self.result.counts.others, strict=True)),
            "folded": [asdict(f) for f in self.result.folded],
            "kept": [asdict(k) for k in self.result.kept],
            "flushed": self.result.flushed,
            "notes": list(self.result.notes),
            "verification": self.verification.to_json() if self.verification else None,
        }


def default_target(source: Path) -> Path:
    """m.onnx -> m.folded.onnx"""
    return source.parent / f"{source.name.removesuffix('.onnx')}.folded.onnx"


def failed_target(target: Path) -> Path:
    """Where a model that did not pass is kept on request: m.folded.onnx -> m.folded.failed.onnx"""
    return target.parent / f"{target.name.removesuffix('.onnx')}.failed.onnx"


@dataclass(frozen=True)
class Options:
    """What `fold_file` is to do.

    `verify` is fast, full or off. `force` replaces `target`; `dry_run` writes nothing. `keep_failed` writes a model
    that did not pass to NAME.failed.onnx. `require` is the grade that the verification must have: measured, or proved
    (for all inputs). The `external` data of a model with data files go to one next to `target` (single), stay where
    they are (keep), and the result refers to them, or go into `target` (inline). `allow_external_outside` reads them
    also outside the model's folder and through links; nothing is written there. `inputs`, `shapes` and `dims` are what
    `verify` runs models with. Raises UsageProblem for what is none of these.
    """

    verify: str = "fast"
    force: bool = False
    dry_run: bool = False
    freeze_initializers: bool = False
    keep_failed: bool = False
    external: str = onnx_io.SINGLE
    allow_external_outside: bool = False
    require: str = "measured"
    inputs: Sequence[str] = field(default_factory=list)
    shapes: Mapping[str, Sequence[int]] = field(default_factory=dict)
    dims: Mapping[str, Sequence[int]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for name, known in (("verify", EFFORTS), ("external", onnx_io.LAYOUTS), ("require", GRADES)):
            value = getattr(self, name)
            if value not in known:
                raise UsageProblem(f"unknown choice {value!r} for --{name}", f"Choose one of: {', '.join(known)}.")
        if self.verify == "off" and self.require == "proved":
            raise UsageProblem("--verify off and --require proved exclude each other", "Leave out one of them.")
        if self.allow_external_outside and self.keeps_external:
            raise UsageProblem(
                "--external keep and --allow-external-outside exclude each other",
                "Data from outside is copied: what is written refers to nothing outside its folder.",
            )

    def require_means(self) -> None:
        """Raises EnvironmentProblem where the fold is to be verified and no onnxruntime is installed."""
        if self.verify != "off":
            require_runtime("the proof of a fold", "`--verify off` writes it unproved.")

    def of_verify(self, sites: Sequence[str] | None) -> dict[str, Any]:
        """The options of the verification: nothing but the fold `sites` may have changed (None: nodes that differ)."""
        return {
            "effort": self.verify,
            "untouched": True if sites is None else sites,
            "freeze_initializers": self.freeze_initializers,
            "require": self.require,
            "allow_external_outside": self.allow_external_outside,
            **{"inputs": self.inputs, "shapes": self.shapes, "dims": self.dims},
        }

    @property
    def keeps_external(self) -> bool:
        """The result refers to the data files of the source."""
        return self.external == onnx_io.KEEP


DEFAULT_OPTIONS = Options()


def fold_file(source: Path, target: Path | None = None, options: Options = DEFAULT_OPTIONS) -> FoldReport:
    """Fold the model at `source` into `target` (default: NAME.folded.onnx in its folder).

    A model in which nothing can be folded is copied byte for byte. Raises UsageProblem where `target` exists,
    ModelProblem for an unsound model, CheckFailed or Inconclusive where the folded model did not pass: then nothing is
    written, and the `evidence` of the error is the report, whose `written` is false.
    """
    options.require_means()
    target = target or default_target(source)
    return folded_file(source, target, options)


@unchanged()
def folded_file(source: Path, target: Path, options: Options) -> FoldReport:
    """`fold_file` while no file may change."""
    started = time.perf_counter()
    failed = failed_target(target) if options.keep_failed else None
    record, storage = onnx_io.detached(source)
    require_places(record, source, target, failed, options)
    before = size_of(record, source, external.data_files(record, source.parent))
    place = staging.staged(target, keep=not options.dry_run, in_folder=options.keeps_external, replace=options.force)
    with place as draft, prepared_verification(options.verify != "off" and before.batch_normalizations > 0):
        outside = options.allow_external_outside
        with checked_meanwhile(record, source, storage, outside), timed(f"the fold of {source}", PLANNING):
            from .driver import fold_in_place  # which takes a while, too

            result = fold_in_place(record, storage, options.freeze_initializers, defer=True)
        if result.folded:
            flushed = onnx_io.write(record, storage, draft, options.external)
            result = replace(result, flushed=result.flushed + flushed)
        else:
            onnx_io.copy(source, draft, options.external, outside)
        wanted = result.folded and options.verify != "off"
        with kept_if_failed(record, storage, failed):
            verification = verified(source, draft, target, **options.of_verify(result.sites)) if wanted else None
            after = size_of(record, draft, data_of(record, source, draft, options))
            report = FoldReport(source, target, result, before, after, verification, False, not result.folded, 0.0)
            require_passed(report)
    return replace(report, written=not options.dry_run, seconds=time.perf_counter() - started)


def data_of(record: onnx.ModelProto, source: Path, draft: Path, options: Options) -> set[Path]:
    """The data files that what was written refers to."""
    if options.keeps_external:
        return external.data_files(record, source.parent)
    return set(filter(os.path.exists, [draft.parent / staging.data_name(draft)]))


@contextmanager
def kept_if_failed(record: onnx.ModelProto, storage: Storage, target: Path | None) -> Iterator[None]:
    """Write a model that did not pass to `target`, if there is one, and say so."""
    try:
        yield
    except (CheckFailed, Inconclusive) as problem:
        if target:
            onnx_io.save_record(record, storage, target)
            problem.hint = f"It is kept as {target}, for inspection only. {problem.hint}"
        raise


def require_places(record: onnx.ModelProto, source: Path, target: Path, failed: Path | None, options: Options) -> None:
    """Raises UsageProblem where something is in the way of what is to be written."""
    for path in filter(None, (target, failed)):
        onnx_io.require_free(record, source, path, options.force or options.dry_run)
    if options.keeps_external:
        require_same_folder(source, target)


def require_same_folder(source: Path, target: Path) -> None:
    """Raises UsageProblem where `target` could not refer to the data files of `source`."""
    if target.parent.resolve() != source.parent.resolve():
        raise UsageProblem(
            f"{target} cannot refer to data files in {source.parent}",
            "References do not leave a folder: write OUT next to IN, or leave out --external keep.",
        )


def size_of(record: onnx.ModelProto, path: Path, data: set[Path]) -> Size:
    """The size of a model in the file `path`, with its data files."""
    outside = sum(map(file_size, data - {path}))
    return Size(*counts(record), file_size(path) + outside, outside)


def require_passed(report: FoldReport) -> None:
    """Raises CheckFailed or Inconclusive, with the report as evidence, unless the draft passed or was not verified.

    Raises ModelProblem instead where a file of the model changed meanwhile.
    """
    verification = report.verification
    if verification is None or verification.passed:
        return
    require_unchanged()
    reason = "; ".join(verification.reasons)
    if verification.verdict == "FAIL":
        problem: BnfoldError = CheckFailed(
            f"the folded model does not compute what {report.source} does: {reason}",
            "OUT was not written. This should not happen: please report it with the model.",
        )
    else:
        problem = Inconclusive(
            f"the folded model could not be verified ({verification.verdict.lower()}): {reason}",
            "OUT was not written. --verify off writes it unverified.",
        )
    problem.evidence = report
    raise problem
