"""`bnfold fold`"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from shlex import quote
from typing import TYPE_CHECKING

from bnfold.display.display import counted
from bnfold.errors import BnfoldError, UsageProblem
from bnfold.system.limits import limited
from bnfold_cli import console
from bnfold_cli.console import complain, say, table, write_junit
from bnfold_cli.fold_options import SUITE, EngineName, HowToFold, Jobs, Out, OutDir, PassThrough, Paths, Reports
from bnfold_cli.groups import InputOptions
from bnfold_cli.limit import Limit
from bnfold_cli.places import require_places

if TYPE_CHECKING:
    from bnfold.folding.fleet import Outcome
    from bnfold.folding.pipeline import FoldReport, Options
    from bnfold.folding.selection import Selection


def fold(
    paths: Paths,
    out: Out = None,
    out_dir: OutDir = None,
    jobs: Jobs = None,
    engine: EngineName = "local",
    *,
    pass_through: PassThrough = False,
    how: HowToFold,
    data: InputOptions,
    reports: Reports,
    limit: Limit = None,
) -> int:
    """Fold BatchNormalization, and other constant scales and shifts, into the weights next to them.

    The result is verified against a float64 evaluation of the original, then written.

    With --out-dir many models are folded at a time, each in a process of its own. What goes wrong with one does not
    stop the others; the exit code is the worst of all, in this order: 70, 1, 5, 4, 3, 2, 0.
    """
    paths = [*paths, *filter(None, [out])]
    places = {"--junit": reports.junit, "--json": reports.json, "--report": reports.report}
    require_places(places, [*taken(paths, out_dir), *(data.inputs or ())], made=out_dir)
    with failure_noted(reports.junit), limited(limit or ()):
        options = how.options(data)
        if out_dir:
            return fold_many(paths, out_dir, options, reports, jobs, engine)
        return fold_one(*one(paths, jobs, engine), options, reports)


def taken(paths: list[Path], out_dir: Path | None) -> Iterator[Path]:
    """The files and folders of the command, but for its reports."""
    from bnfold.folding.pipeline import default_target, failed_target
    from bnfold.system.staging import data_name

    yield from paths
    if out_dir:
        yield out_dir
    elif len(paths) <= 2:
        out = paths[1] if paths[1:] else default_target(paths[0])
        yield from (out, out.parent / data_name(out), failed_target(out))


def one(paths: list[Path], jobs: int | None, engine: str) -> tuple[Path, Path | None]:
    """IN and OUT. Raises UsageProblem where many models seem to be meant, but no folder is named for them."""
    if len(paths) > 2:
        raise UsageProblem(
            f"{len(paths)} paths are too many for IN and OUT", "--out-dir DIR folds many models into DIR."
        )
    if jobs or engine != "local":
        raise UsageProblem("--jobs and --engine are for many models", "--out-dir DIR folds many models into DIR.")
    return paths[0], paths[1] if paths[1:] else None


def fold_one(model: Path, out: Path | None, options: Options, reports: Reports) -> int:
    """`fold IN [OUT]`"""
    if reports.bench and not reports.report:
        raise UsageProblem("--bench is for the page of --report", "`bnfold bench IN OUT` measures, and says more.")
    from bnfold.folding.pipeline import fold_file

    with reports.shown() as shown:
        report = fold_file(model, out, options)
        shown.append(report)
    if reports.write(report.to_json, lambda: report.checks(reports.strict), report.seconds):
        show(report)
    print_rest(report)
    kept = len(report.result.batch_norms_kept) if reports.strict else 0
    if kept:
        complain(f"{model}: {kept} BatchNormalization kept", f"`bnfold explain {quote(str(model))}` says why.")
    return int(bool(kept))


def fold_many(
    paths: list[Path], out_dir: Path, options: Options, reports: Reports, jobs: int | None, engine: str
) -> int:
    """`fold IN... --out-dir DIR`"""
    from bnfold.folding.fleet import fold_all, tasks
    from bnfold.folding.selection import selected

    if reports.report:
        raise UsageProblem("--report is about one model", "`bnfold report A B` makes the page of any pair.")
    chosen = selected(paths, out_dir)
    planned = tasks(chosen.models, out_dir, options, reports.strict)
    result = fold_all(planned, jobs=jobs, engine=engine, on_outcome=print_outcome)
    if reports.write(lambda: {**result.to_json(), "skipped": chosen.counts()}, result.checks, result.seconds):
        table(f"Folded to {out_dir}", result.COLUMNS, result.rows())
    print_skipped(chosen)
    say(result.summary())
    return result.exit_code


def print_skipped(chosen: Selection) -> None:
    """What lay next to the models, and why it was not folded; in detail one by one."""
    for each in chosen.skipped if console.detailed else ():
        say(f"skipped {each.path}: {each.reason}")
    if chosen.skipped:
        console.note(f"skipped: {chosen.in_a_line()}")


def print_outcome(outcome: Outcome) -> None:
    """A line when a model is done; an error has a hint, as everywhere."""
    if outcome.error:
        complain(outcome.words, outcome.hint)
    else:
        say(outcome.words)


@contextmanager
def failure_noted(junit: str | None) -> Iterator[None]:
    """A fold that ends with an error has a JUnit report, too."""
    try:
        yield
    except BnfoldError as problem:
        if junit:
            from bnfold.display.junit import broken_off

            write_junit(SUITE, [broken_off("fold", problem)], 0.0, junit)
        raise


def show(report: FoldReport) -> None:
    """The table of what went where, and of what stayed, why, and what can be done about it."""
    from bnfold.folding.summary import folded_table, kept_table

    console.table(str(report.source), ("", "before", "after"), [*sizes(report)])
    tables = [folded_table(report.result.folded, detailed=True)] if console.detailed else []
    for one in (*tables, kept_table(report.result.batch_norms_kept, console.detailed)):
        if one.rows:
            console.table(one.title, one.columns, one.rows)


def sizes(report: FoldReport) -> Iterator[tuple[object, ...]]:
    """Rows of counts before the fold and after it."""
    before, after = report.before, report.after
    yield "BatchNormalization", before.batch_normalizations, after.batch_normalizations
    if any(report.result.counts.others):
        yield "other affine nodes", *report.result.counts.others
    yield "nodes", before.nodes, after.nodes
    yield "bytes", before.bytes, after.bytes
    if before.data_bytes or after.data_bytes:
        yield "  in data files", before.data_bytes, after.data_bytes
    if report.verification:
        proof = report.verification
        errors = {"error / size of the outputs": proof.relative_errors}
        errors |= {"largest error": proof.errors} if console.detailed else {}
        for name, both in errors.items():
            yield f"{name}, against {proof.reference}", *(f"{error:.2g}" for error in both)


def print_rest(report: FoldReport) -> None:
    """Notes and reasons that are not in the table."""
    for text in report.result.notes:
        console.note(text)
    if report.result.flushed:
        console.note(f"{counted(report.result.flushed, 'subnormal number')} became zero")
    if report.verification:
        say(f"verified: {report.verification.in_a_line()}")
        for text in (note for note in report.verification.notes if note.startswith("warning: ")):
            console.note(text)
        for reason in report.verification.reasons if console.detailed else ():
            say(f"  {reason}")
    elif not report.unchanged:
        say("NOT VERIFIED (--verify off)")
    if report.unchanged:
        say("already folded: no BatchNormalization" if report.already_folded else "nothing can be folded")
    if report.already_folded:
        console.note("most exporters fold what follows a Conv; torch.onnx.export(..., optimize=False) keeps it")
    if not report.written:
        say(f"dry run: {report.target} was not written")
    else:
        say(f"{'copied unchanged to' if report.unchanged else 'wrote'} {report.target}")
