"""`bnfold train`."""

from __future__ import annotations

import os
from collections.abc import Iterator
from inspect import Parameter, Signature
from pathlib import Path
from shlex import quote
from typing import Annotated, Any, NamedTuple

import typer

from bnfold.errors import EnvironmentProblem
from bnfold.system.progress import tell
from bnfold.train import Event, TrainOptions, TrainResult
from bnfold.train.options import EPOCHS, METHODS, Settings
from bnfold_cli import bars, console
from bnfold_cli.console import say, speak_as_one, table


class Row(NamedTuple):
    """An option: the type of its value, what the help says, what it is if it is not given, and its flag."""

    kind: type
    help: str
    default: object = None
    flag: str | None = None


PANELS = {
    "Data": {
        "data": Row(str, "digits, mnist, fashion-mnist, cifar10 or folder:PATH.", Settings.data),
        "data_dir": Row(str, "Folder of the data set's files; without it they are downloaded."),
        "augment": Row(str, "none, crop-flip, or distort (that, and colours).", Settings.augment),
        "shuffle": Row(str, "images, or batches, which keep their images.", Settings.shuffle),
    },
    "Network": {
        "arch": Row(
            str,
            "mlp, convnet, bn-inception, inception, resnet-N (N = 6n + 2), timm:NAME, torchvision:NAME, or "
            "FILE.py:FACTORY, which runs that file; FACTORY(in_shape, classes) gives the network.",
            Settings.arch,
        ),
        "batch_norm": Row(bool, "Leave BatchNorm out.", flag=" /--no-bn"),
        "bn_position": Row(str, "BatchNorm before or after the nonlinearity.", "before"),
        "activation": Row(str, "sigmoid or relu.", "the architecture's"),
        "width": Row(float, "Factor on the channels.", 1),
        "dropout": Row(float, "Share dropped before the classifier.", 0),
        "lrn": Row(bool, "Local response normalization, as in GoogLeNet.", flag="--lrn"),
        "init_std": Row(float, "Draw weights from a Gaussian of this standard deviation.", "the architecture's way"),
    },
    "Recipe": {
        "steps": Row(int, "Mini-batches to train on, instead of epochs."),
        "epochs": Row(int, "Passes over the training images.", EPOCHS),
        "batch_size": Row(int, "Images of a mini-batch.", Settings.batch_size),
        "optimizer": Row(str, "sgd or adamw.", Settings.optimizer),
        "lr": Row(float, "Learning rate.", Settings.lr),
        "momentum": Row(float, "Momentum of SGD.", Settings.momentum),
        "weight_decay": Row(float, "L2 weight regularization.", Settings.weight_decay),
        "schedule": Row(str, "constant, exponential, step or cosine.", Settings.schedule),
        "decay": Row(float, "exponential, step: factor on the learning rate ...", Settings.decay),
        "decay_every": Row(int, "... in this many steps."),
        "clip_norm": Row(float, "Clip gradients to this norm.", "off"),
        "seed": Row(int, "Decides weights, order of images and augmentation.", Settings.seed),
    },
    "Population statistics": {
        "statistics": Row(str, f"{', '.join(METHODS)}.", Settings.statistics),
        "statistics_batch": Row(int, "Mini-batches of alg2 and pooled.", "that of training"),
    },
    "Machine": {
        "device": Row(str, "auto, cpu or cuda.", TrainOptions.device),
        "amp": Row(str, "Mixed precision: float16 (CUDA only) or bfloat16.", "off"),
        "channels_last": Row(bool, "Lay out images channels last: faster convolutions.", flag="--channels-last"),
        "sync_bn": Row(bool, "Normalize by the batch of all processes (torchrun).", flag="--sync-bn"),
        "compile": Row(bool, "Train through torch.compile.", flag="--compile"),
    },
    "Run": {
        "out": Row(Path, "Folder of the run.", "runs/DATA-ARCH"),
        "resume": Row(bool, "Go on, exactly where it stopped, with the run --out or the newest one.", flag="--resume"),
        "evaluate_every": Row(int, "Steps between evaluations.", "an epoch, or a 20th of the run"),
        "plot": Row(bool, "Leave out the picture of the curves, curves.png in the run.", flag=" /--no-plot"),
        "tensorboard": Row(bool, "Also write scalars for TensorBoard, in the run.", flag="--tensorboard"),
    },
}


def train(**asked: Any) -> None:
    """Train a network with BatchNorm; end with population statistics.

    A run is a folder with config.json, metrics.jsonl and checkpoint.pt. With --resume, options that are not given
    are those the run was started with. `torchrun --nproc-per-node 2 -m bnfold_cli train` shares each batch between
    two processes.
    """
    from bnfold.train import train

    speak_as_one()
    draws = asked.pop("plot") is not False
    options = TrainOptions(**{name: value for name, value in asked.items() if value is not None})
    result = train(options, watch)
    if draws:
        _draw(result.run)
    _tell(result)


def watch(event: Event) -> None:
    """A bar on a terminal; elsewhere, and in detail, a line for each evaluation."""
    measured = event.accuracy is not None and event.loss is not None
    told = f"loss {event.loss:.4f}  accuracy {event.accuracy:.4f}" if measured else ""
    tell("train", event.step, event.steps, told)
    if told and (console.detailed or not bars.wanted()):
        console.say(f"step {event.step}/{event.steps}  {told}")


def _draw(run: Path) -> None:
    """The curves, if they can be drawn: a run is not worth less without them."""
    from bnfold.train.curves import draw

    if os.environ.get("RANK", "0") == "0":
        try:
            console.say(f"wrote {draw(run)}")
        except EnvironmentProblem as problem:
            console.note(f"no curves: {problem} ({problem.hint})")


def _parameters() -> Iterator[Parameter]:
    """What Typer reads options from: each is None unless given; the help shows what None stands for."""
    for panel, rows in PANELS.items():
        for name, row in rows.items():
            flags = [row.flag] if row.flag else []
            shown = False if row.default is None else str(row.default)
            option = typer.Option(*flags, help=row.help, show_default=shown, rich_help_panel=panel)
            annotation = Annotated[row.kind | None, option]  # type: ignore[name-defined]
            yield Parameter(name, Parameter.KEYWORD_ONLY, default=None, annotation=annotation)


_SIGNATURE = Signature([*_parameters()])
train.__signature__ = _SIGNATURE  # type: ignore[attr-defined]
train.__annotations__ = {name: parameter.annotation for name, parameter in _SIGNATURE.parameters.items()}


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
    say(f"next: bnfold export model.onnx --checkpoint {quote(str(result.run))}")
