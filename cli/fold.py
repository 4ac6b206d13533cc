"""`bnfold fold`"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from bnfold.errors import BnfoldError, CheckFailed
from bnfold.junit import FAILED, UNDECIDED, Check
from bnfold_cli.console import say, table, write_json, write_junit

if TYPE_CHECKING:
    from bnfold.pipeline import FoldReport


SUITE = "bnfold fold"
Model = Annotated[Path, typer.Argument(metavar="IN.onnx", help="The model to fold. It is never changed.")]
Out = Annotated[Path | None, typer.Argument(metavar="[OUT.onnx]", help="Default: IN.folded.onnx.")]
Verify = Annotated[str, typer.Option(help="Prove the result before it is written: fast, full or off.")]
Strict = Annotated[bool, typer.Option("--strict", help="Exit 1 if any BatchNormalization is kept.")]
Force = Annotated[bool, typer.Option("--force", help="Replace OUT if it exists.")]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Do everything but write OUT.")]
Freeze = Annotated[
    bool, typer.Option("--freeze-initializers", help="Also fold initializers that callers may override as inputs.")
]
PassThrough = Annotated[
    bool, typer.Option("--pass-through", help="Copy a model without BatchNormalization instead of refusing it.")
]
External = Annotated[
    str, typer.Option(help="External data: copy (to OUT.data), or keep (OUT refers to the data files of IN).")
]
KeepFailed = Annotated[
    bool, typer.Option("--keep-failed", help="Write a model that did not pass to OUT.failed.onnx, for inspection.")
]
Junit = Annotated[str | None, typer.Option(metavar="PATH|-", help="Write the result as JUnit XML.")]
Json = Annotated[str | None, typer.Option(metavar="PATH|-", help="Write the report as JSON.")]


def fold(
    model: Model,
    out: Out = None,
    verify: Verify = "fast",
    strict: Strict = False,
    force: Force = False,
    dry_run: DryRun = False,
    freeze_initializers: Freeze = False,
    pass_through: PassThrough = False,
    external: External = "copy",
    keep_failed: KeepFailed = False,
    junit: Junit = None,
    json: Json = None,
) -> int:
    """Fold BatchNormalization, and other constant scales and shifts, into the weights beside them.

    The result is verified against a float64 evaluation of the original, then written.
    """
    from bnfold.pipeline import Options, fold_file

    options = Options(verify, force, dry_run, freeze_initializers, pass_through, keep_failed, external)
    with failure_noted(junit):
        report = fold_file(model, out, options)
    if junit:
        write_junit(SUITE, report.checks(strict), report.seconds, junit)
    if json:
        write_json(report.to_json(), json)
    if "-" not in (json, junit):
        show(report)
    tell(report)
    return int(strict and bool(report.result.batch_norms_kept))


@contextmanager
def failure_noted(junit: str | None) -> Iterator[None]:
    """A fold that ends with an error has a JUnit report, too."""
    try:
        yield
    except BnfoldError as problem:
        outcome = FAILED if isinstance(problem, CheckFailed) else UNDECIDED
        if junit:
            write_junit(SUITE, [Check("fold", outcome, f"{problem} {problem.hint}")], 0.0, junit)
        raise


def show(report: FoldReport) -> None:
    """The table of what went where, and of what stayed and why."""
    before, after, result = report.before, report.after, report.result
    sizes = [
        ("BatchNormalization", before.batch_normalizations, after.batch_normalizations),
        ("nodes", before.nodes, after.nodes),
        ("bytes", before.bytes, after.bytes),
    ]
    if report.verification:
        original, folded = report.verification.errors
        sizes.append(("worst error against float64", f"{original:.2g}", f"{folded:.2g}"))  # type: ignore[arg-type]
    table(str(report.source), ("", "before", "after"), sizes)
    if result.batch_norms_kept:
        rows = [(k.node or k.output, *k.reasons) for k in result.batch_norms_kept]
        table("kept", ("BatchNormalization", "not into what is before it, because", "nor after it, because"), rows)


def tell(report: FoldReport) -> None:
    """What a person wants to know beside the table."""
    for note in report.result.notes:
        say(f"note: {note}")
    if report.result.flushed:
        say(f"note: {report.result.flushed} subnormal numbers became zero")
    if report.verification:
        say(f"verified: {report.verification.verdict}: {'; '.join(report.verification.reasons)}")
    if not report.written:
        say(f"dry run: {report.target} was not written")
    elif report.unchanged:
        say(f"nothing can be folded: copied unchanged to {report.target}")
    else:
        say(f"wrote {report.target}")
