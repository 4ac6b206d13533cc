"""`bnfold train`."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import Field, dataclass, fields
from inspect import Parameter, Signature
from pathlib import Path
from shlex import quote
from typing import Annotated, Any, get_type_hints

import typer

from bnfold.errors import EnvironmentProblem
from bnfold.system.progress import report
from bnfold.train import Event, TrainOptions, TrainResult
from bnfold.train.options import CallOptions
from bnfold.train.recipe import Option, Settings, flag, option
from bnfold_cli import console, progress_bar
from bnfold_cli.console import say, speak_as_one, table


@dataclass(frozen=True)
class PictureOptions:
    """The option that only the command line has."""

    plot: bool = option(True, "Leave out the picture of the curves, curves.png in the run.", flag="--no-plot")


OPTIONS = (Settings, CallOptions, PictureOptions)  # their fields are the options of the command
PANELS = {  # of the help, with their options in this order
    "Data": "data data_dir augment shuffle",
    "Network": "arch batch_norm bn_position activation width dropout lrn init_std",
    "Recipe": "steps epochs batch_size optimizer lr momentum weight_decay schedule decay decay_every clip_norm seed",
    "Population statistics": "statistics statistics_batch",
    "Machine": "device amp channels_last sync_bn compile",
    "Run": "out resume evaluate_every plot tensorboard",
}


def train(**stated: Any) -> None:
    """Train a network with BatchNorm; end with population statistics.

    A run is a folder with config.json, metrics.jsonl and checkpoint.pt. With --resume, options that are not given
    are those the run was started with. `torchrun --nproc-per-node 2 -m bnfold_cli train` shares each batch between
    two processes.
    """
    from bnfold.train import train

    speak_as_one()
    plot = stated.pop("plot") is not False
    options = TrainOptions(**{name: value for name, value in stated.items() if value is not None})
    result = train(options, watch)
    if plot:
        _draw(result.run)
    _print_result(result)


def watch(event: Event) -> None:
    """Show the progress: a bar on a terminal; elsewhere, and with --verbose, a line for each evaluation."""
    measured = event.accuracy is not None and event.loss is not None
    scores = f"loss {event.loss:.4f}  accuracy {event.accuracy:.4f}" if measured else ""
    report("train", event.step, event.steps, scores)
    if scores and (console.detailed or not progress_bar.is_wanted()):
        console.say(f"step {event.step}/{event.steps}  {scores}")


def _draw(run: Path) -> None:
    """Draw the curves on rank 0; without matplotlib, a note says why there are none."""
    from bnfold.train.curves import draw_curves

    if os.environ.get("RANK", "0") == "0":
        try:
            console.say(f"wrote {draw_curves(run)}")
        except EnvironmentProblem as problem:
            console.note(f"no curves: {problem} ({problem.hint})")


def _parameters() -> Iterator[Parameter]:
    """The parameters that Typer reads: each is None unless given; the help shows what None stands for."""
    declared = {field.name: field for options in OPTIONS for field in fields(options)}
    kinds = {name: kind for options in OPTIONS for name, kind in get_type_hints(options).items()}
    for panel, names in PANELS.items():
        for name in names.split():
            kind = kinds[name] | None
            annotation = Annotated[kind, _typer_option(declared[name], panel)]  # type: ignore[valid-type]
            yield Parameter(name, Parameter.KEYWORD_ONLY, default=None, annotation=annotation)


def _typer_option(field: Field[Any], panel: str) -> Any:
    described: Option = field.metadata["option"]
    default = "" if field.default is None or isinstance(field.default, bool) else str(field.default)
    spelling = f" /{flag(field)}" if field.default is True else flag(field)
    return typer.Option(
        spelling, help=described.help, show_default=described.shown or default or False, rich_help_panel=panel
    )


_SIGNATURE = Signature([*_parameters()])
train.__signature__ = _SIGNATURE  # type: ignore[attr-defined]
train.__annotations__ = {name: parameter.annotation for name, parameter in _SIGNATURE.parameters.items()}


def _print_result(result: TrainResult) -> None:
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
