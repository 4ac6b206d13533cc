"""`bnfold evaluate`"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from bnfold_cli import console

if TYPE_CHECKING:
    from bnfold.evaluation import Evaluation

Models = Annotated[list[Path], typer.Argument(metavar="MODEL.onnx...", help="Classifiers, folded or not.")]
Data = Annotated[
    str,
    typer.Option(
        metavar="NAME|FILE.npz|FOLDER",
        help="digits, mnist, fashion-mnist or cifar10 (the test part); arrays by input name, and labels; "
        "FOLDER/CLASS/image.png.",
    ),
]
Crops = Annotated[int, typer.Option(help="Crops of each image: 1, 5, 10 or 144.")]
DataDir = Annotated[Path | None, typer.Option(help="Folder of the data set's files; without it they are downloaded.")]
Json = Annotated[str | None, typer.Option(metavar="PATH|-", help="Write the result as JSON.")]


def evaluate(models: Models, *, data: Data, crops: Crops = 1, data_dir: DataDir = None, json: Json = None) -> None:
    """Top-1 and top-5 accuracy of ONNX models: each alone, and the mean of their class probabilities.

    Probabilities are averaged over the crops of an image, then over the models (section 4.2.3 of the paper). Pixels are
    normalized as each model's metadata say.
    """
    from bnfold.evaluation import evaluate

    with console.counted("evaluating") as watch:
        found = evaluate(models, data, crops=crops, data_dir=data_dir, watch=lambda done, of: watch(done, of, done))
    _tell(found, json)


def _tell(found: Evaluation, json: str | None) -> None:
    if json:
        console.write_json(found.to_json(), json)
    if json != "-":
        scores = [*found.models, *([found.ensemble] if found.ensemble else [])]
        rows = [(score.model, f"{score.top1:.4f}", f"{score.top5:.4f}") for score in scores]
        console.table("Evaluated", ("model", "top-1", "top-5"), rows)
        console.data.line(f"{found.samples} samples of {found.data}, {found.crops} crop(s) of each")
    for note in found.notes:
        console.say(f"note: {note}")
