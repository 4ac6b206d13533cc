"""The options of `bnfold fold`: where to, how each model is folded, and which reports are wanted."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from bnfold.errors import BnfoldError
from bnfold_cli.console import write_json, write_junit
from bnfold_cli.groups import InputOptions

if TYPE_CHECKING:
    from bnfold.display.junit import JUnitCase
    from bnfold.folding.pipeline import FoldReport, Options

SUITE = "bnfold fold"
Paths = Annotated[
    list[Path],
    typer.Argument(
        metavar="IN.onnx [OUT.onnx]",
        help="The model to fold, which is never changed, and where to (default: IN.folded.onnx). With --out-dir all "
        "are models to fold: files, folders (every .onnx file below them but *.folded.onnx), quoted patterns.",
    ),
]
Out = Annotated[Path | None, typer.Option("--out", "-o", metavar="OUT.onnx", help="Where to, as the second argument.")]
OutDir = Annotated[
    Path | None,
    typer.Option(
        metavar="DIR",
        help="Fold many models, each to NAME.folded.onnx in this folder, in subfolders as theirs.",
    ),
]
Jobs = Annotated[
    int | None,
    typer.Option(min=1, metavar="N", help="Models at a time, with --out-dir.", show_default="half of the processors"),
]
EngineName = Annotated[
    Literal["local", "ray"],
    typer.Option("--engine", help="What folds many models: processes of this machine, or a cluster."),
]
Verify = Annotated[Literal["fast", "full", "off"], typer.Option(help="How to prove the result before it is written.")]
Require = Annotated[
    Literal["measured", "proved"],
    typer.Option(metavar="measured|proved", help="The grade the proof must have; proved is for all inputs."),
]
Strict = Annotated[bool, typer.Option("--strict", help="Exit 1 if any BatchNormalization is kept.")]
PassThrough = Annotated[bool, typer.Option("--pass-through", hidden=True, help="Has no effect any more.")]
Force = Annotated[bool, typer.Option("--force", "-f", help="Replace OUT if it exists.")]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Do everything but write OUT.")]
Freeze = Annotated[
    bool, typer.Option("--freeze-initializers", help="Also fold initializers that callers may override as inputs.")
]
External = Annotated[
    Literal["single", "keep", "inline"],
    typer.Option(
        metavar="LAYOUT",
        help="Data of a model with data files: single (all into OUT.data), keep (they stay where they are, and what "
        "changed goes into OUT) or inline (all into OUT).",
    ),
]
Outside = Annotated[
    bool,
    typer.Option("--allow-external-outside", help="Read external data also outside IN's folder, and through links."),
]
KeepFailed = Annotated[
    bool, typer.Option("--keep-failed", help="Write a model that did not pass to OUT.failed.onnx, for inspection.")
]
Junit = Annotated[str | None, typer.Option(metavar="PATH|-", help="Write the result as JUnit XML.")]
Json = Annotated[str | None, typer.Option(metavar="PATH|-", help="Write the report as JSON.")]
Page = Annotated[
    str | None,
    typer.Option("--report", metavar="PATH|-", help="Write a page of HTML, also of a fold that did not pass."),
]
Bench = Annotated[bool, typer.Option("--bench", help="Also measure latency, for the page of --report (a minute).")]


@dataclass(frozen=True)
class HowToFold:
    """How each model is folded, verified and written."""

    verify: Verify = "fast"
    require: Require = "measured"
    force: Force = False
    dry_run: DryRun = False
    freeze_initializers: Freeze = False
    external: External = "single"
    allow_external_outside: Outside = False
    keep_failed: KeepFailed = False

    def options(self, data: InputOptions) -> Options:
        """The same, and what models are run with, as `fold_file` takes it. Raises UsageProblem."""
        from bnfold.folding.pipeline import Options

        return Options(**asdict(self), **data.of_functions())


@dataclass(frozen=True)
class Reports:
    """Which reports are wanted, and where."""

    strict: Strict = False
    junit: Junit = None
    json: Json = None
    report: Page = None
    bench: Bench = False

    def write(
        self, payload: Callable[[], dict[str, Any]], checks: Callable[[], list[JUnitCase]], seconds: float
    ) -> bool:
        """Write them; returns whether stdout is free for tables."""
        if self.junit:
            write_junit(SUITE, checks(), seconds, self.junit)
        if self.json:
            write_json(payload(), self.json)
        return "-" not in (self.json, self.junit, self.report)

    @contextmanager
    def shown(self) -> Iterator[list[FoldReport]]:
        """The page of the fold that the block puts into the list, or of one that did not pass."""
        reports: list[Any] = []
        try:
            yield reports
        except BnfoldError as problem:
            reports = [problem.evidence] if problem.evidence else []
            raise
        finally:
            if self.report and reports:
                from bnfold.reporting import of_fold
                from bnfold_cli.report import write

                write(of_fold(reports[0], self.bench), self.report)
