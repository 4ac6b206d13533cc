"""`bnfold train`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from bnfold.train import TrainOptions, TrainResult
from bnfold.train.options import EPOCHS, METHODS, Settings
from bnfold_cli.console import speak_as_one, table, words


def _option(words: str, default: object = None) -> typer.models.OptionInfo:
    """An option that is None unless given; the help shows what None stands for."""
    shown = False if default is None else str(default)
    return typer.Option(help=words, show_default=shown)  # type: ignore[no-any-return]


Data = Annotated[str | None, _option("digits, mnist, fashion-mnist, cifar10 or folder:PATH.", Settings.data)]
DataDir = Annotated[str | None, _option("Folder of the data set's files; without it they are downloaded.")]
Arch = Annotated[str | None, _option("mlp or convnet.", Settings.arch)]
NoBn = Annotated[bool, typer.Option("--no-bn", help="Leave BatchNorm out.")]
Steps = Annotated[int | None, _option("Mini-batches to train on, instead of epochs.")]
Epochs = Annotated[int | None, _option("Passes over the training images.", EPOCHS)]
BatchSize = Annotated[int | None, _option("Images of a mini-batch.", Settings.batch_size)]
Lr = Annotated[float | None, _option("Learning rate of plain SGD.", Settings.lr)]
Seed = Annotated[int | None, _option("Decides weights and order of images.", Settings.seed)]
Statistics = Annotated[str | None, _option(f"Population statistics: {', '.join(METHODS)}.", Settings.statistics)]
StatisticsBatch = Annotated[int | None, _option("Mini-batches of alg2 and pooled.", "that of training")]
SyncBn = Annotated[bool, typer.Option("--sync-bn", help="Normalize by the batch of all processes (torchrun).")]
Device = Annotated[str, typer.Option(help="auto, cpu or cuda.")]
Out = Annotated[Path | None, _option("Folder of the run.", "runs/DATA-ARCH")]
Resume = Annotated[
    bool, typer.Option("--resume", help="Go on, exactly where it stopped, with the run --out or the newest one.")
]


def train(
    data: Data = None,
    data_dir: DataDir = None,
    arch: Arch = None,
    no_bn: NoBn = False,
    steps: Steps = None,
    epochs: Epochs = None,
    batch_size: BatchSize = None,
    lr: Lr = None,
    seed: Seed = None,
    device: Device = "auto",
    out: Out = None,
    resume: Resume = False,
    statistics: Statistics = None,
    statistics_batch: StatisticsBatch = None,
    sync_bn: SyncBn = False,
) -> None:
    """Train a network with BatchNorm; end with population statistics.

    A run is a folder with config.json, metrics.jsonl and checkpoint.pt. With --resume, options that are not given
    are those the run was started with. `torchrun --nproc-per-node 2 -m bnfold_cli train` shares each batch between
    two processes.
    """
    from bnfold.train import train
    from bnfold.train.progress import shown

    speak_as_one()
    options = TrainOptions(
        data,
        data_dir,
        arch,
        False if no_bn else None,
        steps,
        epochs,
        batch_size,
        lr,
        seed,
        device,
        out,
        resume,
        statistics,
        statistics_batch,
        True if sync_bn else None,
    )
    with shown(words) as watch:
        result = train(options, watch)
    _tell(result)


def _tell(result: TrainResult) -> None:
    rows = [
        ("run", result.run),
        ("steps", result.steps),
        ("BatchNorm layers", result.batch_norms),
        ("held-out images", result.test_images),
        ("accuracy, moving averages", f"{result.accuracy_moving_average:.4f}"),
        ("population statistics", result.statistics),
        ("accuracy, population statistics", f"{result.accuracy:.4f}"),
        ("seconds", f"{result.seconds:.1f}"),
    ]
    table("Trained", ("quantity", "value"), rows)
