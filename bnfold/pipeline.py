"""`bnfold fold` on files: read, fold, verify, and only then write. OUT appears whole and verified, or not at all."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import onnx
from onnx.external_data_helper import uses_external_data

from . import external, onnx_io
from .errors import CheckFailed, Inconclusive, ModelProblem, UsageProblem
from .folding import FoldResult, fold_in_place
from .junit import FAILED, PASSED, Check
from .limits import timed
from .messages import all_tensors
from .native import Failed, guarded
from .promises import Promises

if TYPE_CHECKING:
    from .verification import Verification

EFFORTS = ("fast", "full", "off")
WAYS = ("copy", "keep")
SCHEMA = "bnfold.fold/1"
SECONDS = 600.0  # in which a fold is planned


@dataclass(frozen=True)
class Size:
    """How large a model is."""

    nodes: int
    batch_normalizations: int
    bytes: int


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

    def checks(self, strict: bool = False) -> list[Check]:
        """What a pipeline wants to see, as JUnit has it: the fold, with `strict` what was kept, the verification."""
        kept = "; ".join(f"{k.node or k.output}: {'; '.join(k.reasons)}" for k in self.result.batch_norms_kept)
        counts = (each.batch_normalizations for each in (self.before, self.after))
        found = [Check("fold", PASSED, "BatchNormalization before and after: {}, {}".format(*counts))]
        found += [Check("nothing kept", FAILED if kept else PASSED, kept)] if strict else []
        return found + (self.verification.checks() if self.verification else [])

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
            "folded": [asdict(f) for f in self.result.folded],
            "kept": [asdict(k) for k in self.result.kept],
            "flushed": self.result.flushed,
            "notes": list(self.result.notes),
            "verification": self.verification.to_json() if self.verification else None,
        }


def default_target(source: Path) -> Path:
    """m.onnx -> m.folded.onnx"""
    return source.with_name(f"{source.name.removesuffix('.onnx')}.folded.onnx")


def failed_target(target: Path) -> Path:
    """Where a model that did not pass is kept on request: m.folded.onnx -> m.folded.failed.onnx"""
    return target.with_name(f"{target.name.removesuffix('.onnx')}.failed.onnx")


@dataclass(frozen=True)
class Options:
    """What `fold_file` is asked to do.

    `verify` is fast, full or off. `force` replaces `target`; `dry_run` writes nothing. A model without
    BatchNormalization is an error unless `pass_through`. `keep_failed` writes a model that did not pass to
    NAME.failed.onnx. `external` data are copied (copy), or stay where they are (keep), and the result refers to them.
    Raises UsageProblem for what is none of these.
    """

    verify: str = "fast"
    force: bool = False
    dry_run: bool = False
    freeze_initializers: bool = False
    pass_through: bool = False
    keep_failed: bool = False
    external: str = "copy"

    def __post_init__(self) -> None:
        for name, known in (("verify", EFFORTS), ("external", WAYS)):
            value = getattr(self, name)
            if value not in known:
                raise UsageProblem(f"unknown choice {value!r} for --{name}", f"Choose one of: {', '.join(known)}.")

    @property
    def keeps_external(self) -> bool:
        return self.external == "keep"


DEFAULT = Options()


def fold_file(source: Path, target: Path | None = None, options: Options = DEFAULT) -> FoldReport:
    """Fold the model at `source` into `target` (default: NAME.folded.onnx beside it).

    A model in which nothing can be folded is copied byte for byte. Raises UsageProblem where `target` exists,
    ModelProblem for an unsound model, CheckFailed or Inconclusive where the folded model did not pass: then nothing is
    written.
    """
    started = time.perf_counter()
    target = target or default_target(source)
    failed = failed_target(target) if options.keep_failed else None
    record = onnx_io.load(source, whole=False)
    require_places(source, target, failed, options)
    require_valid(record, source)
    before = size_of(record, source)
    with onnx_io.staged(target, keep=not options.dry_run, beside=options.keeps_external) as draft:
        promises = Promises()
        with timed(f"the fold of {source}", SECONDS):
            result = fold_in_place(record, source.parent, options.freeze_initializers, promises)
        if not result.folded and not before.batch_normalizations and not options.pass_through:
            raise nothing_to_fold(source)
        stage(record if result.folded else None, source, draft, promises, options.keeps_external)
        result = replace(result, flushed=result.flushed + promises.flushed)
        with kept_if_failed(record, source, failed, promises):
            wanted = result.folded and options.verify != "off"
            verification = verified(source, draft, options.verify, result.sites) if wanted else None
        after = size_of(record, draft)
    times = not options.dry_run, not result.folded, time.perf_counter() - started
    return FoldReport(source, target, result, before, after, verification, *times)


def nothing_to_fold(source: Path) -> ModelProblem:
    return ModelProblem(
        f"{source} has no BatchNormalization: there is nothing to fold",
        "Many exporters fold while exporting: see `bnfold export`. --pass-through copies such models unchanged.",
    )


@contextmanager
def kept_if_failed(record: onnx.ModelProto, source: Path, target: Path | None, promises: Promises) -> Iterator[None]:
    """Write a model that did not pass to `target`, if there is one, and say so."""
    try:
        yield
    except (CheckFailed, Inconclusive) as problem:
        if target:
            onnx_io.save(record, target, source.parent, promises)
            problem.hint = f"It is kept as {target}, for inspection only. {problem.hint}"
        raise


def require_places(source: Path, target: Path, failed: Path | None, options: Options) -> None:
    """Raises UsageProblem where something is in the way of what is to be written."""
    for path in filter(None, (target, failed)):
        require_free(source, path, options.force or options.dry_run)
    if options.keeps_external:
        require_beside(source, target)


def require_beside(source: Path, target: Path) -> None:
    """Raises UsageProblem where `target` could not refer to the data files of `source`."""
    if target.parent.resolve() != source.parent.resolve():
        raise UsageProblem(
            f"{target} cannot refer to data files in {source.parent}",
            "References do not leave a folder: write OUT beside IN, or leave out --external keep.",
        )


def require_free(source: Path, target: Path, force: bool) -> None:
    if target.is_dir():
        raise UsageProblem(f"{target} is a directory", "Name the file to write.")
    if target.exists() and target.samefile(source):
        raise UsageProblem(
            f"{target} is the input itself", "Choose another name for the output; inputs are never changed."
        )
    for path in (target, target.parent / onnx_io.data_name(target)):
        if path.exists() and not force:
            raise UsageProblem(f"{path} exists", "--force replaces it.")


def require_valid(record: onnx.ModelProto, path: Path) -> None:
    """Refuse what onnx's checker refuses, in its words; whether the data of large tensors is there we see ourselves."""
    external.require_data(record, path.parent)
    bare = onnx.ModelProto()
    bare.CopyFrom(record)
    for tensor in filter(uses_external_data, all_tensors(bare)):
        tensor.CopyFrom(onnx.TensorProto(name=tensor.name, data_type=tensor.data_type, dims=[0]))
    try:
        guarded("onnx's checker", lambda: onnx.checker.check_model(bare))
    except Failed as why:
        raise ModelProblem(f"{path} is not valid ONNX: {why}", "Repair the model or export it again.") from why


def size_of(record: onnx.ModelProto, path: Path) -> Size:
    kinds = Counter(n.op_type for n in record.graph.node if n.domain in ("", "ai.onnx"))
    data = path.parent / onnx_io.data_name(path)
    length = path.stat().st_size + (data.stat().st_size if data.exists() else 0)
    return Size(len(record.graph.node), kinds["BatchNormalization"], length)


def stage(record: onnx.ModelProto | None, source: Path, draft: Path, promises: Promises, keep_external: bool) -> None:
    """Write the folded record; where nothing was folded, the very bytes of the source."""
    if record is not None:
        onnx_io.write(record, draft, source.parent, promises, keep_external)
    else:
        onnx_io.copy(source, draft, keep_external)


def verified(source: Path, draft: Path, effort: str, sites: tuple[str, ...] | None) -> Verification:
    """The verification of a draft that passed; any other verdict is raised."""
    from .verification import verify

    verification = verify(source, draft, effort=effort, declared=sites)
    if verification.passed:
        return verification
    reason = "; ".join(verification.reasons)
    if verification.verdict == "FAIL":
        raise CheckFailed(
            f"the folded model does not compute what {source} does: {reason}",
            "OUT was not written. This should not happen: please report it with the model.",
        )
    raise Inconclusive(
        f"the folded model could not be verified ({verification.verdict.lower()}): {reason}",
        "OUT was not written. --verify off writes it unverified.",
    )
