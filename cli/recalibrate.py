"""`bnfold recalibrate`"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from bnfold.errors import UsageProblem
from bnfold_cli import console

if TYPE_CHECKING:
    from bnfold.recalibration import Check, Drift
    from bnfold.recalibration.files import Written

EXIT = {"PASS": 0, "FAIL": 1, "INCONCLUSIVE": 5}
COLUMNS = ("BatchNormalization", "level", "channels", "values", "shift / sd", "variance ratio", "dead", "constant")

Source = Annotated[Path, typer.Argument(metavar="IN.onnx", help="The model, which is never changed.")]
Target = Annotated[
    Path | None,
    typer.Argument(metavar="OUT.onnx", help="Where to.", show_default="IN.recalibrated.onnx"),
]
Data = Annotated[
    Path,
    typer.Option(
        metavar="FILE.npz|FOLDER", help="Arrays by the names of the inputs, or a folder of images (see the metadata)."
    ),
]
Method = Annotated[str, typer.Option(help="sequential (exact), alg2 (Algorithm 2 to the letter) or pooled.")]
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
Memory = Annotated[str, typer.Option(metavar="SIZE", help="What may lie in memory between two layers; else on disk.")]
AnyRange = Annotated[
    bool, typer.Option("--any-range", help="Take values that no pixel has by the metadata's normalization.")
]
Force = Annotated[bool, typer.Option("--force", help="Replace OUT if it exists.")]
Json = Annotated[str | None, typer.Option(metavar="PATH|-", help="Write the report as JSON.")]


def recalibrate(
    source: Source,
    target: Target = None,
    *,
    data: Data,
    method: Method = "sequential",
    batch_size: BatchSize = None,
    check: OnlyCheck = False,
    threshold: Threshold = 0.5,
    memory_limit: Memory = "1G",
    any_range: AnyRange = False,
    force: Force = False,
    json: Json = None,
) -> int:
    """Give a model the population statistics of your data (Algorithm 2 of the paper), on the ONNX file alone.

    Calibration data should carry the augmentation that the model was trained with. The report says of each
    BatchNormalization how far the mean moved, how the variance changed, and which channels are dead. --check runs the
    model as it is: exit code 1 if its statistics do not fit the data, 5 if so few samples cannot tell.
    """
    from bnfold.recalibration.asked import Options, bytes_asked
    from bnfold.recalibration.files import check_file, recalibrate_file

    options = Options(method, batch_size, bytes_asked(memory_limit), threshold, any_range)
    if check and target:
        raise UsageProblem("--check writes nothing, and OUT was given", "Leave out one of them.")
    with console.counted("recalibrating") as watch:
        if check:
            found = check_file(source, data, options, watch)
        else:
            written = recalibrate_file(source, target, data, options, force, watch)
    return _tell_check(found, json) if check else _tell(written, json)


def _tell(written: Written, json: str | None) -> int:
    result = written.result
    if json:
        console.write_json(written.to_json(), json)
    if json != "-":
        batch = f", mini-batches of {result.batch_size}" if result.batch_size else ""
        title = f"Statistics of {result.samples} samples ({result.method}{batch})"
        console.table(title, COLUMNS, [_row(drift) for drift in result.drifts])
        console.data.line(f"written: {written.target}")
    _notes(result.notes)
    return 0


def _tell_check(found: Check, json: str | None) -> int:
    if json:
        console.write_json(found.to_json(), json)
    if json != "-":
        rows = [(*_row(fit.drift), fit.off) for fit in found.fits]
        console.table(f"Statistics as stored, against {found.samples} samples", (*COLUMNS, "off"), rows)
        console.data.line(found.verdict)
    _notes(found.notes)
    off, number = sum(fit.off for fit in found.fits), sum(fit.drift.channels for fit in found.fits)
    if off:
        console.say(f"{off} of {number} channels are off by more than {found.threshold:g} standard deviations")
    elif found.verdict == "INCONCLUSIVE":
        console.say(f"so few samples cannot tell a drift below {found.resolution:.2g} standard deviations from chance")
    return EXIT[found.verdict]


def _row(drift: Drift) -> tuple[object, ...]:
    ratio = f"{drift.ratio_low:.3g} to {drift.ratio_high:.3g}"
    counts = (drift.level, drift.channels, drift.values, f"{drift.shift:.3g}", ratio, drift.dead, drift.constant)
    return drift.node, *counts


def _notes(notes: tuple[str, ...]) -> None:
    for note in notes:
        console.say(f"note: {note}")
