"""`bnfold recalibrate`"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from bnfold.display.display import counted
from bnfold.errors import UsageProblem
from bnfold.system.limits import limited
from bnfold.system.progress import report
from bnfold_cli import console
from bnfold_cli.limit import Limit
from bnfold_cli.picture_options import PictureOptions
from bnfold_cli.places import require_places

if TYPE_CHECKING:
    from bnfold.recalibration import Check, Drift
    from bnfold.recalibration.pipeline import Written

EXIT = {"PASS": 0, "FAIL": 1, "INCONCLUSIVE": 5}

Source = Annotated[Path, typer.Argument(metavar="IN.onnx", help="The model, which is never changed.")]
Target = Annotated[
    Path | None,
    typer.Argument(metavar="OUT.onnx", help="Where to.", show_default="IN.recalibrated.onnx"),
]
Out = Annotated[Path | None, typer.Option("--out", "-o", metavar="OUT.onnx", help="Where to, as the second argument.")]
Data = Annotated[
    Path,
    typer.Option(metavar="FILE.npz|FOLDER", help="Arrays by the names of the inputs, or a folder of images."),
]
Method = Annotated[
    Literal["sequential", "alg2", "pooled"], typer.Option(help="sequential is exact, alg2 Algorithm 2 to the letter.")
]
BatchSize = Annotated[
    int | None,
    typer.Option(
        min=1,
        help="Mini-batch of alg2 and pooled; samples that run at a time in sequential, which gives the same for any.",
        show_default="60; sequential: 64",
    ),
]
OnlyCheck = Annotated[
    bool, typer.Option("--check", help="Write nothing; exit 1 if the stored statistics do not fit the data.")
]
Threshold = Annotated[
    float, typer.Option(help="Drift, in standard deviations, from which --check says that a channel does not fit.")
]
Memory = Annotated[
    str,
    typer.Option(
        metavar="SIZE",
        help="What may lie in memory between two layers, as 4GB (10^9) or 4GiB (2^30 bytes); else on disk.",
    ),
]
AnyRange = Annotated[
    bool, typer.Option("--any-range", help="Take values that no pixel has by the metadata's normalization.")
]
Ep = Annotated[
    Literal["cpu", "cuda"], typer.Option(help="Execution provider that runs the model, in strict float32 (TF32 off).")
]
Force = Annotated[bool, typer.Option("--force", "-f", help="Replace OUT if it exists.")]
Plot = Annotated[
    Path | None, typer.Option(metavar="PATH", help="Draw the drift of each layer (png, svg or pdf; extra: plot).")
]
Json = Annotated[str | None, typer.Option(metavar="PATH|-", help="Write the report as JSON.")]


def recalibrate(
    source: Source,
    target: Target = None,
    out: Out = None,
    *,
    data: Data,
    method: Method = "sequential",
    batch_size: BatchSize = None,
    check: OnlyCheck = False,
    threshold: Threshold = 0.5,
    memory_limit: Memory = "1GiB",
    any_range: AnyRange = False,
    pictures: PictureOptions,
    ep: Ep = "cpu",
    force: Force = False,
    limit: Limit = None,
    json: Json = None,
    plot: Plot = None,
) -> int:
    """Give a model the population statistics of your data (Algorithm 2 of the paper), on the ONNX file alone.

    Calibration data should carry the augmentation that the model was trained with. The report says of each
    BatchNormalization how far the mean moved, how the variance changed, and which channels are dead. --check runs the
    model as it is: exit code 1 if its statistics do not fit the data, 5 if the samples are too few to decide. Whatever
    runs the model, the statistics are added up in float64; exit code 4 if the provider of --ep cannot run here.
    """
    from bnfold.recalibration.options import Options, parse_memory
    from bnfold.recalibration.pipeline import check_file, default_target, recalibrate_file

    target = one_target(target, out, check)
    options = Options(method, batch_size, parse_memory(memory_limit), threshold, any_range, ep, pictures.of_functions())
    out = None if check else target or default_target(source)
    require_places({"--json": json, "--plot": plot}, [source, data, out])
    with limited(limit or ()):
        if check:
            return _print_check(check_file(source, data, options, _watch), json, plot)
        return _print_result(recalibrate_file(source, target, data, options, force, _watch), json, plot)


def one_target(target: Path | None, out: Path | None, check: bool) -> Path | None:
    """OUT as an argument or as an option. Raises UsageProblem for both, and where there is none to write."""
    if check and (target or out):
        raise UsageProblem("--check writes nothing, and OUT was given", "Leave out one of them.")
    if target and out:
        raise UsageProblem("two names for OUT", "Leave out one of them.")
    return target or out


def _watch(level: int, levels: int, done: int) -> None:
    """A level is one or more BatchNormalization that can be measured in the same run."""
    report("recalibrate", level, levels, f"run {done}")


def _print_result(written: Written, json: str | None, plot: Path | None) -> int:
    result = written.result
    if json:
        console.write_json(written.to_json(), json)
    batch = f", mini-batches of {result.batch_size}" if result.batch_size else ""
    title = f"Statistics of {counted(result.samples, 'sample')} ({result.method}{batch}), against those stored"
    if json != "-":
        _table(title, result.drifts)
    _notes(result.notes)
    if plot:
        _draw(plot, result.drifts, title)
    console.say(f"wrote {written.target}")
    return 0


def _print_check(result: Check, json: str | None, plot: Path | None) -> int:
    if json:
        console.write_json(result.to_json(), json)
    title = f"{counted(result.samples, 'sample')}, against the statistics stored"
    drifts = [fit.drift for fit in result.fits]
    if json != "-":
        _table(title, drifts, [fit.off for fit in result.fits])
    _notes(result.notes)
    if plot:
        _draw(plot, drifts, f"{result.verdict}: {title}", result.threshold)
    (console.say if result.verdict == "PASS" else console.fail)(result.reason)
    if result.verdict == "FAIL":
        console.say("next: without --check, `bnfold recalibrate` writes a model with the statistics of the data")
    if json != "-":
        console.verdict(result.verdict)
    return EXIT[result.verdict]


def _table(title: str, drifts: Sequence[Drift], off: Sequence[int] = ()) -> None:
    """A row for each BatchNormalization; in detail also its constant channels, and how many values were seen."""
    from bnfold.recalibration.drift import COLUMNS

    rows: list[tuple[object, ...]] = [drift.row() for drift in drifts]
    if console.detailed:
        rows = [(*row, drift.constant, drift.values) for row, drift in zip(rows, drifts, strict=True)]
    if off:
        rows = [(*row, number) for row, number in zip(rows, off, strict=True)]
    columns = (*COLUMNS, *["constant", "values"] * console.detailed, *["off"] * bool(off))
    console.table(title, columns, rows)


def _draw(path: Path, drifts: Sequence[Drift], title: str, threshold: float | None = None) -> None:
    from bnfold.recalibration.picture import draw_drifts

    draw_drifts(drifts, title, path, threshold)
    console.say(f"wrote {path}")


def _notes(notes: tuple[str, ...]) -> None:
    for text in notes:
        console.note(text)
