"""The curves of a run: as a picture next to its log, and as scalars for TensorBoard."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from ..display import plots
from ..system.installed import need
from . import runs
from .options import Event, Watch

PICTURE = "curves.png"


def draw_curves(run: Path, path: Path | None = None) -> Path:
    """Loss, accuracy and learning rate over the steps of `run`, from its metrics.jsonl; returns where the picture is.

    It goes to `path`, usually curves.png in the folder of the run. Raises EnvironmentProblem where matplotlib is
    missing.
    """
    rows = runs.metrics(run)
    logged, last = [row for row in rows if "loss" in row], next((row for row in rows if "accuracy" in row), None)
    figure = plots.figure(8, 6)
    loss, accuracy, rate = figure.subplots(3, 1, sharex=True, height_ratios=(3, 3, 1))
    _line(loss, logged, "loss", "training loss")
    _line(accuracy, logged, "accuracy_moving_average", "held-out accuracy")
    _line(rate, logged, "lr", "learning rate")
    if last is not None:
        words = f"with population statistics: {last['accuracy']:.4f}"
        accuracy.plot(last["step"], last["accuracy"], "D", color=plots.ORANGE, label=words, clip_on=False)
        accuracy.legend(loc="lower right", frameon=False)
    rate.set_xlabel("steps (mini-batches)")
    figure.suptitle(str(run).replace("$", r"\$"), x=0.01, ha="left", fontsize=11)
    target = path or run / PICTURE
    plots.write_figure(figure, target)
    return target


def _line(axes: Any, rows: Sequence[dict[str, float]], name: str, label: str) -> None:
    known = [row for row in rows if name in row]
    steps, values = [row["step"] for row in known], [row[name] for row in known]
    axes.plot(steps, values, ".-", color=plots.BLUE, markersize=4, label="with moving averages")
    axes.set_ylabel(label, fontsize=9)
    plots.bare(axes, "both")


TENSORBOARD = "tensorboard"


def require_tensorboard() -> None:
    """EnvironmentProblem unless TensorBoard is installed."""
    need("tensorboard", what="--tensorboard", extra="tensorboard")


@contextmanager
def tensorboard(run: Path, step: int, watch: Watch) -> Iterator[Watch]:
    """A Watch that calls `watch`, and writes loss, accuracy and learning rate of every evaluation after `step`."""
    from torch.utils.tensorboard import SummaryWriter

    with SummaryWriter(run / TENSORBOARD, purge_step=step + 1) as writer:

        def write(event: Event) -> None:
            for name in ("loss", "accuracy", "lr"):
                if (value := getattr(event, name)) is not None:
                    writer.add_scalar(name, value, event.step)
            watch(event)

        yield write
