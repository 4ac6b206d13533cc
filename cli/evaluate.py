"""`bnfold evaluate`"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from bnfold.system.limits import limited
from bnfold_cli import console
from bnfold_cli.limit import Limit
from bnfold_cli.picture_options import PictureOptions
from bnfold_cli.places import require_places

if TYPE_CHECKING:
    from bnfold.recalibration.evaluation import Evaluation

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
Ep = Annotated[str, typer.Option(help="Execution provider that runs the models, as it serves: cpu, cuda, tensorrt.")]
DataDir = Annotated[
    Path | None, typer.Option(help="Folder of the data set's files; without it torchvision downloads them.")
]
Json = Annotated[str | None, typer.Option(metavar="PATH|-", help="Write the result as JSON.")]


def evaluate(
    models: Models,
    *,
    data: Data,
    crops: Crops = 1,
    ep: Ep = "cpu",
    data_dir: DataDir = None,
    pictures: PictureOptions,
    limit: Limit = None,
    json: Json = None,
) -> None:
    """Top-1 and top-5 accuracy of ONNX models: each alone, and the mean of their class probabilities.

    Probabilities are averaged over the crops of an image, then over the models (section 4.2.3 of the paper). Pixels are
    normalized as each model's metadata say. --ep cuda measures what is served there, TF32 included; exits 4 if the
    provider cannot run here.
    """
    from bnfold.recalibration.evaluation import evaluate

    require_places({"--json": json}, [*models, data])
    with limited(limit or ()):
        result = evaluate(models, data, crops=crops, data_dir=data_dir, provider=ep, images=pictures.of_functions())
    _print_result(result, json)


def _print_result(result: Evaluation, json: str | None) -> None:
    if json:
        console.write_json(result.to_json(), json)
    if json != "-":
        console.table(f"Accuracy on {result.basis}", result.COLUMNS, result.rows())
    for text in result.notes:
        console.note(text)
